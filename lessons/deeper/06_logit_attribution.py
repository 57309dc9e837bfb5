# %% [markdown]
"""Does it hold? What a share says, and what it does not

What you will learn: to hold shares against other prompts, against prompts where nobody asks, and against what a removal
does; to split a removal's effect into the share, the later layers and the final norm.

Needs: logit attribution

Time: 15 minutes to read, 20 seconds to run

Paper: McGrath et al. 2023, The Hydra Effect, https://arxiv.org/abs/2307.15771; Rushing and Nanda 2024, Explorations of
Self-Repair in Language Models, https://arxiv.org/abs/2402.15390
"""

# %% Set-up
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from tinymi import KeyValueCache
from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint
from tinymi.teaching import Lesson, prompts, stats
from tinymi.teaching.words import one_token

import numpy as np

lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
weights, n_layers, n_heads = model.weights, model.config.n_layers, model.config.n_heads
POINTS = ["hook_embed", *(f"blocks.{layer}.hook_{part}_out" for layer in range(n_layers) for part in ("attn", "mlp"))]
NAMES = ["embed", *(f"{layer}.{part}" for layer in range(n_layers) for part in ("attn", "mlp"))]

# %% [markdown]
# ## 1. More prompts
#
# Facts of ten forms that the model answers rightly; the wrong answer is that of the next question of the form. Phrases
# that go on by themselves. And prompts that ask for nothing, read along the directions of the facts.


# %%
class Run(NamedTuple):
    """One prompt, taken apart at its last position."""

    kind: str  # the form of a fact, or the phrase
    answers: list[str]  # answer and wrong answer
    tokens: Tokens  # [1, pos]
    direction: Array  # [d_model]: what a vector is worth for the logit difference, with this run's final scale
    scale: float
    difference: float
    parts: Array  # [component, d_model]
    shares: Array  # [component]
    heads: Array  # [n_layers, n_heads, d_model]: what each head wrote
    streams: Array  # [n_layers, d_model]: what enters each layer


def take_apart(kind: str, prompt: str, answer: int, wrong: int) -> Run:
    tokens, points = model.to_tokens(prompt), ("embed", "_out", "final.hook_scale", "resid_pre", "hook_z")
    logits, cache = model.run_with_cache(tokens, lambda name: name.endswith(points), positions=-1)
    scale = float(cache["ln_final.hook_scale"][0, -1, 0])
    direction = weights.ln_final * (weights.W_U[:, answer] - weights.W_U[:, wrong]) / scale
    parts = np.array([cache[point][0, -1] for point in POINTS])
    streams = np.array([cache["resid_pre", layer][0, -1] for layer in range(n_layers)])
    z = [cache["z", layer][0, -1, :, None] for layer in range(n_layers)]  # each [n_heads, 1, d_head]
    heads = np.array([(z[i] @ block.heads.W_O)[:, 0] for i, block in enumerate(weights.blocks)])
    difference = float(logits[0, 0, answer] - logits[0, 0, wrong])
    answers = model.to_str_tokens([answer, wrong])
    return Run(kind, answers, tokens, direction, scale, difference, parts, parts @ direction, heads, streams)


def answered(form: str) -> Iterator[tuple[str, int]]:
    """Questions of a form that the model answers rightly, with the answers, one run each."""
    for subject, text in [(subject, text) for other, subject, text in prompts("facts_by_template") if other == form]:
        prompt, answer = form.format(subject), one_token(text, model)
        if answer is not None and model(model.to_tokens(prompt), positions=-1)[0, 0].argmax() == answer:
            yield prompt, answer


def facts_of(form: str, most: int = 3) -> list[Run]:
    """The first facts of a form, each against the answer to the next one."""
    pairs = pairwise(answered(form))  # no run after the last one that is needed
    facts = ((prompt, answer, wrong) for (prompt, answer), (_, wrong) in pairs if answer != wrong)
    return [take_apart(form, *fact) for fact in islice(facts, most)]


forms = list(dict.fromkeys(form for form, *_ in prompts("facts_by_template")))
facts = [run for form in lesson.progress(forms, "facts") for run in facts_of(form)]
if not facts:
    raise InputError("facts: the model answers none of them with one token; take a model that was trained on English")
phrases = [take_apart(text, text, *map(model.to_single_token, words)) for text, *words in prompts("phrases")]
asking_nothing = ("She drank a glass of", "He closed the door and", "The dog ran across the")
nothing = [take_apart("nothing", text, 0, 1) for text in asking_nothing]


def late(shares: Array) -> float:
    """How much of the shares, without their signs, the last third of the layers holds."""
    return float(abs(shares[1 + 2 * (n_layers - n_layers // 3) :]).sum() / abs(shares).sum())


def for_80_percent(shares: Array) -> int:
    """How few components make up 80 % of the shares, without their signs."""
    sizes = np.sort(abs(shares))[::-1]
    return 1 + int(np.searchsorted(sizes.cumsum(), 0.8 * sizes.sum()))


kinds = {"facts": [run.shares for run in facts], "phrases": [run.shares for run in phrases]}
kinds["nobody asks"] = [run.parts @ (fact.direction * fact.scale / run.scale) for run in nothing for fact in facts]
lates = {kind: [late(shares) for shares in runs] for kind, runs in kinds.items()}
columns = {"prompts": kinds, "number": map(len, kinds.values()), "written late": map(np.mean, lates.values())}
columns |= {"for 80 %": [np.mean([for_80_percent(shares) for shares in runs]) for runs in kinds.values()]}
lesson.table(
    columns, caption=f"how late the shares are written, and by how few of {len(POINTS)} components", format=".2f"
)
total = [run.shares.sum() for run in (*facts, *phrases)]
lesson.equal("the shares sum to the logit difference", total, [run.difference for run in (*facts, *phrases)])
heads = np.array([run.heads @ run.direction for run in facts])  # [fact, n_layers, n_heads]
lesson.equal("the heads' shares sum to their layers'", heads.sum(axis=2), [run.shares[1::2] for run in facts])
running = [np.cumsum(run.shares)[:-1:2] for run in facts]
at_end = [run.streams @ run.direction for run in facts]
lesson.equal("the running total is the stream, read along the direction", running, at_end)
grouped = [run.kind for run in facts]
text = "The last third of the layers writes more than half of all shares."
control = (
    f"phrases {np.mean(lates['phrases']):.0%}, where nobody asks {np.mean(lates['nobody asks']):.0%}: late writing is"
)
control += " a habit of the model, not of facts"
lesson.finding(text, stats.mean_by_group(lates["facts"], grouped), 0.5, control=control, format=".0%")

# %% [markdown]
# ## 2. Does the head write facts?
#
# The head is chosen on the first half of the forms, and tested on the others: its share of the logit difference.

# %%
size = np.mean([run.difference for run in facts])
seen = np.array([forms.index(form) < len(forms) // 2 for form in grouped])
layer, head = divmod(int(heads[seen].mean(axis=0).argmax()), n_heads)
name, fresh = f"{layer}.{head}", np.flatnonzero(~seen)
unasked = [run.heads @ (fact.direction * fact.scale / run.scale) for run in nothing for fact in facts]
best = np.argsort(-heads[fresh].mean(axis=0), axis=None)[:5]
columns = {"head": [f"{i // n_heads}.{i % n_heads}" for i in best]}
for title, values in {"facts of new forms": heads[fresh], "nobody asks": np.array(unasked)}.items():
    columns[title] = values.mean(axis=0).ravel()[best] / size
columns["phrases"] = np.mean([run.heads @ run.direction / run.difference for run in phrases], axis=0).ravel()[best]
picture = lesson.table(columns, caption="part of the logit difference that a head writes, means", format=".2f")
control = f"the same directions where nobody asks: {np.mean([x[layer, head] for x in unasked]) / size:.2f}"
text = f"Head {name} writes part of a fact's logit difference, in forms that had no part in choosing it, too."
estimate = stats.mean_by_group(heads[fresh, layer, head] / size, [grouped[i] for i in fresh])
lesson.finding(text, estimate, 0.0, control=control)

# %% [markdown]
# ## 3. Who is needed?
#
# Replace what a component writes at the last position, by zero or by its average over all prompts here, and let the
# layers above run again. The fall of the logit difference is three things, which add up: the share itself (beyond the
# replacement's); what later layers now write differently; and the final norm, which divides by another size.


# %%
def put(value: Array, row: int, n_rows: int) -> Callback:
    def callback(stream: Array, hook: HookPoint) -> Array:
        edited = stream.copy()  # [run * row, 1, d_model]
        edited[row::n_rows, -1] = value
        return edited

    return callback


def last_streams(runs: Sequence[Run], instead: Array) -> Array:
    """The last streams of runs of one length, each component's write replaced by its row of instead, of each kind.

    instead: [kind, component, d_model]; returns [run, component, kind, d_model]. Only the last position changes, so all
    before it runs once.
    """
    tokens, parts = np.concatenate([run.tokens for run in runs]), []
    past = KeyValueCache(len(runs), tokens.shape[1], model.config, weights.dtype)
    model(tokens[:, :-1], stop_at_layer=n_layers, past_kv_cache=past)
    for layer in range(n_layers):
        points = {i: POINTS[i] for i in (1 + 2 * layer, 2 + 2 * layer)}
        if layer == 0:
            points = {0: "blocks.0.hook_resid_pre"} | points  # the embedding
        rows = [(point, vector) for i, point in points.items() for vector in instead[:, i]]
        hooks = [(point, put(vector, row, len(rows))) for row, (point, vector) in enumerate(rows)]
        last, pasts = np.repeat([run.streams[[layer]] for run in runs], len(rows), axis=0), past.repeat(len(rows))
        out = model.run_with_hooks(last, hooks, start_at_layer=layer, stop_at_layer=n_layers, past_kv_cache=pasts)
        parts.append(out.reshape(len(runs), len(points), len(instead), -1))
    return np.concatenate(parts, axis=1)


def split(run: Run, final: Array, instead: Array) -> Array:
    """What replacing each component does, by the last streams: [share, later layers, norm; component, kind]."""
    rescaled = run.scale / np.sqrt(np.mean(final**2, axis=-1) + model.config.rms_eps)
    share, read = run.shares[:, None] - (instead @ run.direction).T, final @ run.direction
    return np.array([share, run.difference - read - share, read - read * rescaled])


def effects(instead: Array) -> Array:
    """[kind; share, later layers, norm; fact, component]"""
    results: dict[int, Array] = {}
    for length in lesson.progress({run.tokens.size for run in facts}, "removals"):
        alike = [i for i, run in enumerate(facts) if run.tokens.size == length]
        finals = last_streams([facts[i] for i in alike], instead)
        results |= {i: split(facts[i], final, instead) for i, final in zip(alike, finals)}
    return np.stack([results[i] for i in range(len(facts))], axis=1).transpose(3, 0, 1, 2)


average = np.mean([run.parts for run in (*facts, *phrases)], axis=0)  # [component, d_model]
zeroed, averaged = effects(np.array([0 * average, average]))
shown = max(range(len(facts)), key=lambda i: model.to_string(facts[i].tokens[0]) == "The Eiffel Tower is in")
by_share, by_need = np.argsort(-abs(facts[shown].shares))[:8], np.argsort(-abs(averaged.sum(axis=0)[shown]))[:4]
columns = {"component": NAMES} | dict(zip(("share", "later layers", "norm"), zeroed[:, shown]))
columns |= {"total": zeroed.sum(axis=0)[shown], "total (average)": averaged.sum(axis=0)[shown]}
caption = f"{model.to_string(facts[shown].tokens[0])!r}: the eight largest shares, and the four that are needed most"
lesson.table(columns, dict.fromkeys([*by_share, *by_need]), caption, "+.2f")


def plainly(run: Run, component: int) -> float:
    """The total effect of zero in place of one component, in one run from the tokens on."""
    logits = model.run_with_hooks(
        run.tokens, [(POINTS[component], lambda value, hook: erased(value))], stop_at_layer=n_layers
    )
    final = logits[0, -1]
    return float(run.difference - final @ run.direction * run.scale / np.sqrt(np.mean(final**2) + model.config.rms_eps))


def erased(value: Array) -> Array:
    edited = value.copy()
    edited[:, -1] = 0
    return edited


chosen = [0, 1, 2, len(POINTS) - 1]
one_by_one = [plainly(facts[-1], component) for component in chosen]
lesson.equal("the fast way equals plain runs", zeroed.sum(axis=0)[-1, chosen], one_by_one, 1e-4)

# %% [markdown]
# Do large shares tell who is needed? Take the ten components with the largest shares of each fact. And small ones? Take
# the first third of the layers. (Zero there is nothing that the later layers ever saw: the average is the fairer test.)

# %%
ten = [np.argsort(-abs(averaged[0, i]))[:10] for i in range(len(facts))]
share, need = averaged[0], averaged.sum(axis=0)  # [fact, component] each
agreement = [np.corrcoef(share[i, top], need[i, top])[0, 1] for i, top in enumerate(ten)]
all_ranks = [stats.rank_correlation(abs(a), abs(b)) for a, b in zip(share, need)]
half = np.mean([(abs(need[i, top]) < abs(share[i, top]) / 2).mean() for i, top in enumerate(ten)])
control = (
    f"all {len(POINTS)} components, by rank: {np.mean(all_ranks):.2f}; of the ten, {half:.0%} cause less than half of"
)
control += " what they wrote"
text = "Among the ten largest shares, share and need mostly agree (their correlation is above a half)."
lesson.finding(text, stats.mean_by_group(agreement, grouped), 0.5, control=control)

early = slice(0, 1 + 2 * (n_layers // 3))
written, cost = abs(share[:, early]).sum(axis=1), abs(need[:, early]).sum(axis=1)
by_zero = abs(zeroed.sum(axis=0)[:, early]).sum(axis=1).mean()
control = (
    f"what they write: {written.mean():.2f}; what they cost: {cost.mean():.2f}, with zero in their place {by_zero:.2f}"
)
text = "A small share does not mean that nobody needs it: removing early components costs more than they write."
lesson.finding(text, stats.mean_by_group(cost - written, grouped), 0.0, control=control)

gaps = [[abs(averaged[part, i, top]).sum() for part in (1, 2)] for i, top in enumerate(ten)]
norm = stats.mean_by_group([norm / (later + norm) for later, norm in gaps], grouped)
lesson.say(f"Of what lies between the ten largest shares and their effects, the final norm makes up {norm:.0%}.")

# %%
lesson.headline(
    f"A large share mostly means that a component is needed (correlation {np.mean(agreement):.2f}).", picture
)
lesson.keep(
    facts=[model.to_string(run.tokens[0]) for run in facts], answers=[run.answers for run in facts], forms=grouped
)
lesson.keep(differences=[run.difference for run in facts], shares=[run.shares for run in facts], heads=heads)
lesson.keep(zeroed=zeroed.sum(axis=0), averaged=need, agreement=agreement)
lesson.finish()
