# %% [markdown]
"""Does it hold? One head carries the answer

What you will learn: to test what a patch has shown: held-out pairs; the fast way, checked against the plain one; what a
patch brings in and what it only takes out; whether the head is needed; questions of other forms.

Needs: activation patching

Time: 15 minutes to read, 15 seconds to run

Paper: Zhang and Nanda 2023, Towards Best Practices of Activation Patching, https://arxiv.org/abs/2309.16042; Meng et
al. 2022, Locating and Editing Factual Associations in GPT, https://arxiv.org/abs/2202.05262
"""

# %% Set-up
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import mode
from typing import Any

from tinymi import ActivationCache, KeyValueCache, Model
from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint
from tinymi.sweep import cached, digest
from tinymi.teaching import Lesson, prompts, stats

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompts", type=int, default=24, metavar="N", help="prompts, in pairs: a multiple of 2")
lesson.sweep_options()
options = lesson.start()
if options.prompts < 2 or options.prompts % 2:
    raise InputError(f"--prompts: {options.prompts}, but prompts come in pairs; give an even number, 2 or more")
model = lesson.load_model()
n_layers, n_heads = model.config.n_layers, model.config.n_heads

# %% [markdown]
# ## 1. Pairs of capitals
#
# Each prompt asks for a capital, and two of them make a pair, clean and corrupted. The layer and the head are chosen on
# the first third of the pairs. What is claimed of them is tested on the others.


# %%
def one_token(text: str) -> int | None:
    """The token that a text is, or None if it is several."""
    try:
        return model.to_single_token(text)
    except InputError:
        return None


def ask(lines: Sequence[Sequence[str]]) -> tuple[Tokens, Tokens]:
    """The prompts [question, pos] of the commonest length, and their answers [question], where these are one token."""
    asked = [(model.to_tokens(f"The capital of {subject} is")[0], one_token(answer)) for subject, answer in lines]
    length = mode(len(row) for row, _ in asked)
    usable = [(row, answer) for row, answer in asked if len(row) == length and answer is not None]
    return np.array([row for row, _ in usable]), np.array([answer for _, answer in usable])


tokens, answers = ask(prompts("capitals"))
if len(tokens) < 6:  # a tokenizer without these words: letters show the method
    tokens, answers = ask([(letter, letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
begin = int((tokens != tokens[0]).any(axis=0).argmax())  # before it all prompts are the same
missed = model(tokens, positions=-1)[:, 0].argmax(axis=-1) != answers
order = [int(i) for i in np.argsort(missed, kind="stable")]  # what the model answers comes first
disjoint = list(zip(order[::2], order[1::2]))
pairs = [*disjoint, *(pair for pair in combinations(order, 2) if pair not in disjoint)][: options.prompts // 2]
if len(pairs) < options.prompts // 2:
    raise InputError(f"--prompts: {options.prompts}, but {len(order)} capitals make {2 * len(pairs)}; give fewer")
clean, corrupted = np.array(pairs).T  # numbers of questions, [pair] each
look, test = slice(0, max(len(pairs) // 3, 1)), slice(len(pairs) // 3, len(pairs))

# %% [markdown]
# ## 2. The fast way
#
# A patch in a layer leaves the layers below alone, and a patch at a position the positions before it. So for each layer
# and position there is one batch that starts there: a row for the stream that enters, one for what attention writes,
# one for what the MLP writes, and at the last position one for each head's output. We keep the logits of all capitals.

# %%
SITES = ("resid_pre", "attn_out", "mlp_out")


def run(model: Model, tokens: Any) -> ActivationCache:
    points = tuple(f"hook_{name}" for name in (*SITES, "z"))
    return model.run_with_cache(np.array(tokens), lambda name: name.endswith(points), positions=-1)[1]


def unembed(model: Model, stream: Array, answers: Any) -> Array:
    """The answers' logits, from last streams [..., d_model]: [..., answer]."""
    scale = np.sqrt(np.mean(stream**2, axis=-1, keepdims=True) + model.config.rms_eps)
    return np.asarray((stream / scale * model.weights.ln_final) @ model.weights.W_U[:, answers])


def put(source: Array, row: int, pos: int = 0, *head: int) -> Callback:
    """Row `row` of each pair gets `source` [pair, ...] at one position of those that run (there: in one head)."""
    where: tuple[Any, ...] = (slice(None), row, pos, *head)

    def callback(value: Array, hook: HookPoint) -> Array:
        edited = value.reshape(len(source), -1, *value.shape[1:]).copy()  # [pair, row, pos, ...]
        edited[where] = source
        return edited.reshape(value.shape)

    return callback


def run_rows(model: Model, stream: Array, layer: int, pos: int, hooks: Sequence[tuple[str, Callback]]) -> Array:
    """A run of each pair for each hook, from `layer` and `pos` on: the last streams [row, pair, d_model]."""
    span = {"start_at_layer": layer, "stop_at_layer": model.config.n_layers}
    past = KeyValueCache(len(stream), stream.shape[1], model.config, stream.dtype)
    if pos > 0:
        model(stream[:, :pos], **span, past_kv_cache=past)
    rows = np.repeat(stream[:, pos:], len(hooks), axis=0)
    out = model.run_with_hooks(rows, hooks, **span, past_kv_cache=past.repeat(len(hooks)))
    return out[:, -1].reshape(len(stream), len(hooks), -1).transpose(1, 0, 2)


def patch(model: Model, task: Mapping[str, Any]) -> Any:
    """All patches of one layer, for some pairs: the answers' logits [patch, pair, answer]."""
    layer, n_heads = task["layer"], model.config.n_heads
    base = cached(digest([task["model"], task["base"]]), lambda: run(model, task["base"]))
    source = cached(digest([task["model"], task["source"]]), lambda: run(model, task["source"]))
    stream, parts = base["resid_pre", layer], []  # [pair, pos, d_model]
    for pos in range(task["begin"], stream.shape[1]):
        hooks = [(f"blocks.{layer}.hook_{site}", put(source[site, layer][:, pos], i)) for i, site in enumerate(SITES)]
        if pos == stream.shape[1] - 1:
            z = source["z", layer][:, pos]  # [pair, n_heads, d_head]
            hooks += [(f"blocks.{layer}.attn.hook_z", put(z[:, h], len(SITES) + h, 0, h)) for h in range(n_heads)]
        parts.append(run_rows(model, stream, layer, pos, hooks))
    return unembed(model, np.concatenate(parts), task["answers"]).tolist()


def task(layer: int, source: Any, rows: slice) -> dict[str, Any]:
    about = {"model": sweeper.source, "layer": layer, "begin": begin, "answers": answers.tolist()}
    return about | {"base": tokens[corrupted[rows]].tolist(), "source": tokens[source[rows]].tolist()}


sweeper = lesson.sweep(model, [model.to_string(tokens[i]) for pair in pairs for i in pair])
groups = [slice(i, i + 6) for i in range(0, len(pairs), 6)]
results = sweeper.run(patch, [task(layer, clean, rows) for rows in groups for layer in range(n_layers)], "patching")
sweeper.close()
by_group = [np.array(results[i * n_layers : (i + 1) * n_layers]) for i in range(len(groups))]
logits = np.concatenate(by_group, axis=2)  # [n_layers, patch, pair, answer]
unpatched = unembed(model, model(tokens, stop_at_layer=n_layers)[:, -1], answers)  # [question, answer]
one = np.eye(len(answers))
right, wrong = one[clean], one[corrupted]  # [pair, answer]
others = (1 - right - wrong) / (len(answers) - 2)  # the mean of those that neither prompt asks for
READ = {"answer - wrong": right - wrong, "answer - others": right - others, "wrong - others": wrong - others}


def gain(logits: Array, what: str = "answer - wrong") -> Array:
    """How far a reading of logits [..., pair, answer] is above that of the corrupted run: [..., pair]."""
    return np.asarray(((logits - unpatched[corrupted]) * READ[what]).sum(axis=-1))


def moved(logits: Array) -> Array:
    """How far the difference has gone from the corrupted run (0) to the clean run (1)."""
    return gain(logits) / gain(unpatched[clean])


shares, n_heads_from = moved(logits), logits.shape[1] - n_heads  # [n_layers, patch, pair]
sites = {site: shares[:, i : n_heads_from : len(SITES)] for i, site in enumerate(SITES)}  # [n_layers, pos, pair]
heads = shares[:, n_heads_from:]  # [n_layers, head, pair]
grid = np.concatenate([values[:, [0, -1]] for values in sites.values()], axis=1).mean(axis=-1)
labels = [f"{site}{where}" for site in ("stream", "attn", "MLP") for where in ("", " end")]
caption = f"how far each patch moves the answer: at the country and at the end, mean of {len(pairs)} pairs"
lesson.heatmap(grid, None, labels, caption, "layer", format=".2f")


def plain(name: str, pos: int, *head: int) -> float:
    """One patch of the last pair, in one run from the tokens on, as the lesson does it."""
    where: Any = (slice(None), pos, *head)
    source = model.run_with_cache(tokens[clean[-1:]], name)[1][name][where]
    after = model.run_with_hooks(tokens[corrupted[-1:]], [(name, put(source, 0, pos, *head))])[0, -1, answers]
    return float(moved(np.tile(after, (len(pairs), 1)))[-1])


middle, end = n_layers // 2, n_layers - 1
one_by_one = [plain("blocks.0.hook_mlp_out", begin), plain(f"blocks.{middle}.hook_resid_pre", begin)]
one_by_one += [plain(f"blocks.{middle}.hook_attn_out", -1), plain(f"blocks.{end}.attn.hook_z", -1, 1)]
batched = [sites["mlp_out"][0, 0, -1], sites["resid_pre"][middle, 0, -1]]
batched += [sites["attn_out"][middle, -1, -1], heads[end, 1, -1]]
lesson.equal("the fast way equals plain runs, one for each patch", batched, one_by_one, 1e-3)

# %% [markdown]
# ## 3. The same layer and the same head on held-out pairs?

# %%
stream = sites["resid_pre"]  # [n_layers, pos, pair]
steps = np.diff(np.append(stream[:, -1], np.ones((1, len(pairs))), axis=0), axis=0)  # [n_layers, pair]
jump = int(steps[:, look].mean(axis=-1).argmax())
by_size = np.argsort(-heads[..., look].mean(axis=-1), axis=None)
layer, head = divmod(int(by_size[0]), n_heads)
name = f"{layer}.{head}"
top = [divmod(int(i), n_heads) for i in by_size[:5]]
columns = {f"head, of {n_layers * n_heads}": [f"{a}.{b}" for a, b in top]}
for title, part in (("first third", look), ("held out", test)):
    columns[title] = [heads[place][part].mean() for place in top]
picture = lesson.table(columns, caption="the five heads that move the answer furthest, means", format=".2f")
rest, before = np.delete(steps[:, test].mean(axis=-1), jump).max(), stream[: jump + 1, 0, test].mean(axis=-1).min()
control = f"any other layer: {rest:.2f} at most; up to there, the country's stream brings {before:.2f} or more"
text = f"The answer is at the country, and comes to the last position in layer {jump}."
lesson.finding(text, stats.mean(steps[jump, test]), 0.5, control=control)
n_sharing = n_heads // model.config.n_kv_heads  # heads that share keys and values
group = [*range(head // n_sharing * n_sharing, (head // n_sharing + 1) * n_sharing)]
shared = ", ".join(f"{x:.2f}" for x in heads[layer, group][:, test].mean(axis=-1))
rest = np.delete(heads[..., test].mean(axis=-1), layer * n_heads + head).max()
control = f"any other head: {rest:.2f} at most; heads {group} of the layer share keys and values: {shared}"
text = f"One head brings it: the output of {name} alone moves more than half of the way."
lesson.finding(text, stats.mean(heads[layer, head, test]), 0.5, control=control)

# %% [markdown]
# ## 4. Does the answer come in?
#
# A difference of two logits moves as well when the wrong answer only goes out. A third country's run tells the two
# apart: it takes the wrong answer out and brings another one in. So read each answer against the capitals that nobody
# asked for, too. Half-way is where a difference of two logits stands when neither is left: a property of the measure.

# %%
rows = {"nothing patched, the clean run": unpatched[clean]}
for source, numbers in {"clean": clean, "third country": np.roll(clean, 1)}.items():
    for text, at, number in (("the country's stream", n_layers // 3, 0), (f"head {name}", layer, n_heads_from + head)):
        rows[f"{text}, {source}"] = np.array(patch(model, task(at, numbers, slice(None))))[number]
columns = {"patch, from": list(rows)} | {what: [gain(x, what)[test].mean() for x in rows.values()] for what in READ}
lesson.table(columns, caption="what a patch adds to three readings of the logits, held-out pairs", format="+.2f")
whole, brought, third = (gain(x, "answer - others")[test] for x in list(rows.values())[::2])
control = f"a third country's output takes the wrong one out, too: {columns['wrong - others'][-1]:+.2f}"
text = f"The answer comes in: {name} brings more than half of what there is to bring, beyond a third country's output."
lesson.finding(text, stats.paired_difference(brought / whole.mean(), third / whole.mean()), 0.5, control=control)

# %% [markdown]
# ## 5. Is the head needed?
#
# Both prompts of a pair ask for a capital, so patching the corrupted run into the clean one would be the same
# experiment once more. Need is another question: in the clean run, replace the head's output by its mean over other
# countries. That takes out what it says of this country, and nothing else.

# %%
base, average = run(model, tokens[clean[test]]), run(model, tokens[np.append(clean[look], corrupted[look])])
own = one[clean[test]] - (1 - one[clean[test]]) / (len(answers) - 1)  # [question, answer]: its lead over all others


def lost(layer: int, instead: Array) -> Array:
    """What is lost of the answer's lead with each head's output replaced, by instead[head]: [head, question]."""
    sources = np.tile(instead[:, None], (1, len(own), 1))  # [head, question, d_head]
    hooks = [(f"blocks.{layer}.attn.hook_z", put(source, head, 0, head)) for head, source in enumerate(sources)]
    last = run_rows(model, base["resid_pre", layer], layer, tokens.shape[1] - 1, hooks)
    before, after = ((x * own).sum(axis=-1) for x in (unpatched[clean[test]], unembed(model, last, answers)))
    return np.asarray((before - after) / before.mean())


needed = np.stack([lost(i, average["z", i][:, -1].mean(axis=0)) for i in lesson.progress(range(n_layers), "need")])
top = [divmod(int(i), n_heads) for i in np.argsort(-abs(needed.mean(axis=-1)), axis=None)[:5]]
columns = {"head": [f"{a}.{b}" for a, b in top], "lost": [needed[at].mean() for at in top]}
lesson.table(columns, caption="what is lost of the answer's lead over the other capitals, held out", format=".2f")
other = float(np.delete(needed.mean(axis=-1), layer * n_heads + head).max())
control = f"the other head that is needed most: {other:.2f}"
text = f"{name} is needed: without what it says of the country, more of the lead is lost than without any other head."
lesson.finding(text, stats.mean(needed[layer, head]), other, control=control)

# %% [markdown]
# ## 6. Questions of other forms
#
# Other sentences about capitals, languages, and where a building is: none had a part in finding the head. The same two
# tests, on what the model answers rightly: patch the head's output from the next question of the form, and replace it
# by its mean over the form.


# %%
def both_tests(form: str) -> list[tuple[float, float]]:
    """For each question of this form: how far the patch moves the answer, how much of its lead is lost."""
    point = f"blocks.{layer}.attn.hook_z"
    known, results = [], []  # known: answer, last logits, the stream that enters the layer, the head's output
    for subject, text in [(subject, text) for other, subject, text in questions if other == form]:
        tokens, points = model.to_tokens(form.format(subject)), [f"blocks.{layer}.hook_resid_pre", point]
        logits, cache = model.run_with_cache(tokens, points, positions=-1)
        if logits[0, 0].argmax() == one_token(text):
            known.append((logits[0, 0].argmax(), logits[0, 0], cache["resid_pre", layer], cache[point][:, -1, head]))
    ids = np.array([answer for answer, *_ in known])
    for i, (answer, before, stream, _) in enumerate(known):
        j = (i + 1) % len(known)
        average = np.mean([z for *_, z in known], axis=0)
        hooks = [(point, put(known[j][-1], 0, 0, head)), (point, put(average, 1, 0, head))]
        patched, ablated = unembed(model, run_rows(model, stream, layer, stream.shape[1] - 1, hooks)[:, 0], ids)
        if ids[j] != answer:
            start, end, now = (x[j] - x[i] for x in (before[ids], known[j][1][ids], patched))
            full, left = (x[i] - x[ids != answer].mean() for x in (before[ids], ablated))
            results.append(((now - start) / (end - start), 1 - left / full))
    return results


questions = prompts("facts_by_template")
forms = {form: both_tests(form) for form in dict.fromkeys(form for form, *_ in questions)}
forms = {form: results for form, results in forms.items() if results}
if forms:
    means = np.array([np.mean(results, axis=0) for results in forms.values()])  # [form, 2]
    shown = {"form": forms, "questions": map(len, forms.values()), "moves": means[:, 0], "lost": means[:, 1]}
    lesson.table(shown, caption=f"head {name} in questions of other forms, means", format=".2f")
    names, moves, losses = zip(*[(form, *result) for form, results in forms.items() for result in results])
    control = "in the form where it does least: {:.2f} and {:.2f}".format(*means.min(axis=0))
    text = f"In other forms, too, {name} alone moves more than half of the way."
    lesson.finding(text, stats.mean_by_group(moves, names), 0.5, control=control)
    text = f"There, too, more than half of the answer's lead is lost without {name}."
    lesson.finding(text, stats.mean_by_group(losses, names), 0.5, control=control)

# %%
enough, need = heads[layer, head, test].mean(), needed[layer, head].mean()
text = f"On held-out pairs, head {name} alone brings {enough:.0%} of the answer, and {need:.0%} is lost without it."
lesson.headline(text, picture)
lesson.keep(pairs=[[model.to_string(tokens[i]) for i in pair] for pair in pairs], first_patched=begin, forms=forms)
lesson.keep(answers=[model.to_str_tokens(answers[list(pair)]) for pair in pairs], capitals=model.to_str_tokens(answers))
lesson.keep(moved=sites, heads=heads, needed=needed)
lesson.finish()
