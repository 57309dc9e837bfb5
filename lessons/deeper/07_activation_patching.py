# %% [markdown]
"""Does it hold? One head carries the answer

What you will learn: to test what a patch has shown: held-out pairs; the fast way, checked against the plain one; what a
patch brings in and what it only takes out; whether the head is needed; questions of other forms.

Needs: activation patching

Time: 15 minutes to read, 20 seconds to run

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
from tinymi.teaching.words import one_token

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
def ask(form: str, lines: Sequence[Sequence[str]]) -> tuple[Tokens, Tokens]:
    """The prompts [question, pos] of the commonest length, and their answers [question], where these are one token."""
    asked = [(model.to_tokens(form.format(subject))[0], one_token(answer, model)) for subject, answer in lines]
    length = mode(len(row) for row, _ in asked)
    usable = [(row, answer) for row, answer in asked if len(row) == length and answer is not None]
    return np.array([row for row, _ in usable]), np.array([answer for _, answer in usable])


tokens, answers = ask("The capital of {} is", prompts("capitals"))
if len(tokens) < 6:  # a tokenizer without these words: letters show the method
    tokens, answers = ask("The capital of {} is", [(letter, letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
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
# and position there is one batch that starts there: a row for the stream that enters, and at the last position one for
# each head's output. We keep the logits of all capitals.


# %%
def run(model: Model, tokens: Any) -> tuple[ActivationCache, list[KeyValueCache]]:
    """The values of a run, and for each position the keys and values before it."""
    ids = np.array(tokens)  # [pair, pos]
    pasts = [KeyValueCache(len(ids), ids.shape[1], model.config, model.weights.dtype)]
    for pos in range(ids.shape[1] - 1):
        pasts.append(pasts[-1].repeat(1))
        model(ids[:, [pos]], stop_at_layer=model.config.n_layers, past_kv_cache=pasts[-1])
    return model.run_with_cache(ids, lambda name: name.endswith(("hook_resid_pre", "hook_z")))[1], pasts


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


def run_rows(model: Model, stream: Array, layer: int, past: KeyValueCache, hooks: Sequence[Any]) -> Array:
    """From a layer and the end of past on, a run of each pair for each hook: last streams [row, pair, d_model]."""
    rows, end = np.repeat(stream, len(hooks), axis=0), model.config.n_layers
    past = past.repeat(len(hooks))
    out = model.run_with_hooks(rows, hooks, start_at_layer=layer, stop_at_layer=end, past_kv_cache=past)
    return out[:, -1].reshape(len(stream), len(hooks), -1).transpose(1, 0, 2)


def patch(model: Model, task: Mapping[str, Any]) -> Any:
    """All patches of one layer, for some pairs: the answers' logits [patch, pair, answer]."""
    layer, parts = task["layer"], []
    base, pasts = cached(digest([task["model"], task["base"]]), lambda: run(model, task["base"]))
    source, _ = cached(digest([task["model"], task["source"]]), lambda: run(model, task["source"]))
    for pos in range(task["begin"], len(pasts)):
        hooks = [(f"blocks.{layer}.hook_resid_pre", put(source["resid_pre", layer][:, pos], 0))]
        if pos == len(pasts) - 1:
            z = source["z", layer][:, pos].swapaxes(0, 1)  # [head, pair, d_head]
            hooks += [(f"blocks.{layer}.attn.hook_z", put(z[h], 1 + h, 0, h)) for h in range(len(z))]
        parts.append(run_rows(model, base["resid_pre", layer][:, pos:], layer, pasts[pos], hooks))
    return unembed(model, np.concatenate(parts), task["answers"]).tolist()


def task(layer: int, source: Any, rows: slice) -> dict[str, Any]:
    about = {"model": sweeper.source, "layer": layer, "begin": begin, "answers": answers.tolist()}
    return about | {"base": tokens[corrupted[rows]].tolist(), "source": tokens[source[rows]].tolist()}


sweeper = lesson.sweep(model, [model.to_string(tokens[i]) for pair in pairs for i in pair])
groups = [slice(i, i + 6) for i in range(0, len(pairs), 6)]
results = sweeper.run(patch, [task(layer, clean, rows) for rows in groups for layer in range(n_layers)], "patching")
sweeper.close()
by_group = [results[i : i + n_layers] for i in range(0, len(results), n_layers)]
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


shares = moved(logits)  # [n_layers, patch, pair]
stream, heads = shares[:, :-n_heads], shares[:, -n_heads:]  # [n_layers, pos, pair], [n_layers, head, pair]
caption = f"how far a patch of the stream that enters a layer moves the answer, mean of {len(pairs)} pairs"
lesson.heatmap(stream[:, [0, -1]].mean(axis=-1), None, ["country", "end"], caption, "layer", format=".2f")


def plain(name: str, pos: int, *head: int) -> float:
    """One patch of the last pair, in one run from the tokens on, as the lesson does it."""
    where: Any = (slice(None), pos, *head)
    source = model.run_with_cache(tokens[clean[-1:]], name)[1][name][where]
    after = model.run_with_hooks(tokens[corrupted[-1:]], [(name, put(source, 0, pos, *head))])[0, -1, answers]
    return float(moved(np.tile(after, (len(pairs), 1)))[-1])


batched, middle = [stream[n_layers // 2, 0, -1], heads[-1, 1, -1]], f"blocks.{n_layers // 2}.hook_resid_pre"
one_by_one = [plain(middle, begin), plain(f"blocks.{n_layers - 1}.attn.hook_z", -1, 1)]
lesson.equal("the fast way equals plain runs, one for each patch", batched, one_by_one, 1e-3)

# %% [markdown]
# ## 3. The same layer and the same head on held-out pairs?

# %%
steps = np.diff(np.append(stream[:, -1], np.ones((1, len(pairs))), axis=0), axis=0)  # [n_layers, pair]
jump = int(steps[:, look].mean(axis=-1).argmax())
top = [divmod(int(i), n_heads) for i in np.argsort(-heads[..., look].mean(axis=-1), axis=None)[:5]]
layer, head = top[0]
name = f"{layer}.{head}"
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
# A difference of two logits moves as well when the wrong answer only goes out: half-way, when neither is left. A third
# country's run tells the two apart, as it takes the wrong answer out and brings another one in. So read each answer
# against the capitals that nobody asked for, too.

# %%
rows = {"nothing patched, the clean run": unpatched[clean]}
for source, numbers in {"clean": clean, "third country": np.roll(clean, 1)}.items():
    rows[f"head {name}, {source}"] = np.array(patch(model, task(layer, numbers, slice(None))))[head - n_heads]
columns = {"patch, from": list(rows)} | {what: [gain(x, what)[test].mean() for x in rows.values()] for what in READ}
lesson.table(columns, caption="what a patch adds to three readings of the logits, held-out pairs", format="+.2f")
whole, brought, third = (gain(x, "answer - others")[test] for x in rows.values())
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
base, pasts = run(model, tokens[clean[test]])
average, _ = run(model, tokens[np.append(clean[look], corrupted[look])])
own = one[clean[test]] - (1 - one[clean[test]]) / (len(answers) - 1)  # [question, answer]: its lead over all others


def lost(layer: int, instead: Array) -> Array:
    """What is lost of the answer's lead with each head's output replaced, by instead[head]: [head, question]."""
    point, n = f"blocks.{layer}.attn.hook_z", len(own)
    hooks = [(point, put(np.tile(z, (n, 1)), head, 0, head)) for head, z in enumerate(instead)]
    last = run_rows(model, base["resid_pre", layer][:, -1:], layer, pasts[-1], hooks)
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
    tokens, ids = ask(form, [(subject, answer) for other, subject, answer in questions if other == form])
    stream, point = f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.attn.hook_z"
    logits, cache = model.run_with_cache(tokens, [stream, point], positions=-1)
    known, results = logits[:, 0].argmax(axis=-1) == ids, []
    z, ids, runs = cache[point][known, -1, head], ids[known], [logits[known, 0]]
    if not len(z):
        return []
    for instead in (np.roll(z, -1, axis=0), np.tile(z.mean(axis=0), (len(z), 1))):  # [question, d_head] each
        hooks = [(point, put(instead, 0, -1, head))]
        runs.append(model.run_with_hooks(cache[stream][known], hooks, start_at_layer=layer, positions=-1)[:, 0])
    for i, answer in enumerate(ids):
        j = (i + 1) % len(ids)
        if ids[j] != answer:
            before, patched, ablated = (run[i, ids] for run in runs)  # [answer]
            start, end, now = (x[j] - x[i] for x in (before, runs[0][j, ids], patched))
            full, left = (x[i] - x[ids != answer].mean() for x in (before, ablated))
            results.append(((now - start) / (end - start), 1 - left / full))
    return results


questions = [line for line in prompts("facts_by_template") if one_token(line[2], model) is not None]
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
lesson.keep(pairs=[[model.to_string(tokens[i]) for i in pair] for pair in pairs], moved=stream, heads=heads)
lesson.keep(answers=[model.to_str_tokens(answers[list(pair)]) for pair in pairs], capitals=model.to_str_tokens(answers))
lesson.keep(needed=needed, forms=forms)
lesson.finish()
