# %% [markdown]
"""Does it hold? Other capitals, the real model, what a graph is silent about, and features in the place of neurons

What you will learn: to hold an attribution graph against exchanges in the real model: its shares, its edges, and what
its nodes keep of the answer alone. Where the held parts are the answer. And how features of a dictionary become nodes.

Needs: attribution graph, IOI circuit

Time: 15 minutes to read, 25 seconds to run

Paper: Marks et al. 2024, Sparse Feature Circuits, https://arxiv.org/abs/2403.19647; Dunefsky et al. 2024, Transcoders
Find Interpretable LLM Feature Circuits, https://arxiv.org/abs/2406.11944; Ameisen et al. 2025, Circuit Tracing,
https://transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

# %% Set-up
import sys
from collections.abc import Mapping
from typing import NamedTuple

from tinymi import ActivationCache, Dictionary, load_dictionary
from tinymi.arrays import Array, Tokens
from tinymi.backward import FREEZABLE
from tinymi.errors import InputError
from tinymi.hooks import HookPoint
from tinymi.ops import silu
from tinymi.teaching import Lesson, prompts, stats

import numpy as np
import numpy.typing as npt

sys.path.append(f"{sys.path[0]}/..")  # the folder of ioi.py
from ioi import TEMPLATES, make_task

lesson = Lesson(__doc__)
lesson.option("--dictionary", help="a folder or hub id with features of an MLP: nodes in section 6")
lesson.option("--layer", type=int, minimum=0, help="the layer of --dictionary, where it has several")
options = lesson.start()
model = lesson.load_model()
blocks, config, layers = model.weights.blocks, model.config, range(model.config.n_layers)
rng = np.random.default_rng(0)
Place = tuple[str, int]  # "z", "post" or "features", and the layer
Parts = Mapping[Place, Array]  # [pair, pos, part]: a number for each head, neuron or feature
Masks = Mapping[Place, npt.NDArray[np.bool_]]  # [pair, pos, part]: whether it is meant

# %% [markdown]
# ## 1. Many pairs at once
#
# The pass of the short lesson, for capitals that had no part in it, two by two. A place is all heads, all neurons or
# all features of a layer; the functions below say what each of them writes and reads.


# %%
class Features(NamedTuple):
    """What a dictionary makes of an MLP: the features that differ between the two runs, and its error."""

    dictionary: Dictionary
    layer: int
    numbers: Tokens  # [feature]
    change: Array  # [pair, pos, feature]
    slope: Array  # [pair, pos, feature]: the change of a feature over that of what it reads
    error: Array  # [pair, pos, d_model]


class Pairs(NamedTuple):
    """Clean prompts and corrupted ones: their runs, and those of the corrupted prompts frozen as in the clean runs."""

    tokens: Tokens  # [pair, pos]
    answers: Tokens  # [pair, 2]: right, wrong
    clean: ActivationCache
    corrupted: ActivationCache
    frozen: ActivationCache
    high: Array  # [pair]: the logit difference in the clean run
    whole: Array  # [pair]: how far it falls in the corrupted run
    gap: Array  # [pair]: how far in the frozen one
    features: Features | None = None

    def change(self, point: str, i: int) -> Array:
        """Clean minus frozen, all heads side by side: [pair, pos, width]."""
        if self.features and point == "features":
            return self.features.change
        return np.asarray(self.clean[point, i] - self.frozen[point, i], dtype=float).reshape(*self.tokens.shape, -1)


def is_held(name: str) -> bool:
    return name.endswith(("hook_pattern", "hook_scale"))


def difference(logits: Array, answers: Tokens) -> Array:
    return np.asarray(np.take_along_axis(logits[:, -1], answers, axis=1) @ [1, -1])  # [pair]


def make_pairs(tokens: Tokens, corrupted_tokens: Tokens, answers: Tokens) -> Pairs:
    logits, clean = model.run_with_cache(tokens, positions=-1)
    low, corrupted = model.run_with_cache(corrupted_tokens, positions=-1)
    hold = [(is_held, lambda value, hook: clean[hook.name])]
    frozen_low, frozen = model.run_with_cache(corrupted_tokens, fwd_hooks=hold, positions=-1)
    high, *lows = (difference(x, answers) for x in (logits, low, frozen_low))
    return Pairs(tokens, answers, clean, corrupted, frozen, high, high - lows[0], high - lows[1])


def slopes(a: Array, b: Array, x: Array) -> Array:
    """How far a value changes for each unit of x's change."""
    return np.divide(a - b, x, out=np.zeros_like(x), where=x != 0)


def attention_back(pairs: Pairs, i: int, d_z: Array) -> Array:
    """From what the heads' numbers are worth to what the stream is, by way of them: [pair, pos, d_model]."""
    d_z = np.moveaxis(d_z.reshape(*d_z.shape[:2], config.n_heads, -1), 2, 1)  # [pair, n_heads, pos, d_head]
    d_v = pairs.clean["pattern", i].mT @ d_z
    d_v = d_v.reshape(len(d_v), config.n_kv_heads, -1, *d_v.shape[2:]).sum(axis=2)  # heads that share values
    d_x = np.moveaxis(d_v, 1, 2).reshape(*pairs.tokens.shape, -1) @ blocks[i].W_V.T
    return np.asarray(d_x * blocks[i].ln1 / pairs.clean["scale", i, "ln1"])


def mlp_back(pairs: Pairs, i: int, d_post: Array) -> Array:
    w, (a, b) = blocks[i], (run["pre", i].astype(float) for run in (pairs.clean, pairs.frozen))
    d_gate = d_post * slopes(silu(a), silu(b), a - b) * (pairs.clean["pre_linear", i] + pairs.frozen["pre_linear", i])
    d_x = (d_gate @ w.W_gate.T + d_post * (silu(a) + silu(b)) @ w.W_in.T) / 2
    return np.asarray(d_x * w.ln2 / pairs.clean["scale", i, "ln2"])


def features_back(pairs: Pairs, i: int, d_features: Array, d: Array | None = None) -> Array:
    """The same for features. d: what the stream above is worth, for W_skip. Nothing passes through the error."""
    assert pairs.features is not None
    own = pairs.features.dictionary
    d_x = (d_features * pairs.features.slope) @ own.encoder[pairs.features.numbers]
    d_x = d_x if own.W_skip is None or d is None else d_x + d @ own.W_skip.T
    if own.reads == own.writes[0]:  # an SAE of what the MLP writes: the neurons come before it
        return mlp_back(pairs, i, d_x @ blocks[i].W_out.T)
    d_x = d_x if own.norm_weight is None else d_x * own.norm_weight
    return np.asarray(d_x / pairs.clean["scale", i, "ln2"] if own.reads.endswith("normalized") else d_x)


def go_back(pairs: Pairs) -> tuple[dict[Place, Array], Array, Array]:
    """What each number of a place is worth for the gap, [pair, pos, width]; the words and the features' error are."""
    worth: dict[Place, Array] = {}
    d, error = np.zeros((2, *pairs.tokens.shape, config.d_model))
    unembed = model.weights.W_U.T[pairs.answers]  # [pair, 2, d_model]
    d[:, -1] = model.weights.ln_final * (unembed[:, 0] - unembed[:, 1]) / pairs.clean["ln_final.hook_scale"][:, -1]
    for i in reversed(layers):
        if pairs.features and i == pairs.features.layer:
            decoder = pairs.features.dictionary.decoder[pairs.features.numbers]  # [feature, d_model]
            error, worth["features", i] = d, d @ decoder.T
            d = d + features_back(pairs, i, worth["features", i], d)
        else:
            worth["post", i] = d @ blocks[i].W_out.T
            d = d + mlp_back(pairs, i, worth["post", i])
        worth["z", i] = d @ blocks[i].W_O.T
        d = d + attention_back(pairs, i, worth["z", i])
    return worth, d, error


def gates_held(pairs: Pairs) -> dict[Place, Array]:
    """The same with gates as constants, too: the engine's frozen gradient in the clean runs."""
    d_logits = np.zeros((len(pairs.tokens), 1, config.d_vocab))
    np.put_along_axis(d_logits[:, 0], pairs.answers, np.array([[1, -1]]), axis=1)
    *_, grads = model.run_with_gradients(pairs.tokens, d_logits, positions=-1, freeze=FREEZABLE)
    return {(x, i): grads[x, i].reshape(*pairs.tokens.shape, -1) for i in layers for x in ("z", "post")}


def shares_of(pairs: Pairs, worth: Parts) -> dict[Place, Array]:
    """The share of each part: [pair, pos, part]."""
    shares, heads = {}, (*pairs.tokens.shape, config.n_heads, config.d_head)
    for place, d in worth.items():
        share = d * pairs.change(*place)
        shares[place] = share.reshape(heads).sum(axis=-1) if place[0] == "z" else share
    return shares


# %%
lines = [line for line in prompts("capitals") if line[0] not in ("France", "Italy", "Spain")][:16]
questions = model.to_tokens([f"The capital of {country} is" for country, _ in lines])
ids = np.array([model.to_single_token(capital) for _, capital in lines])
pairs = make_pairs(questions[::2], questions[1::2], ids.reshape(-1, 2))
worth, d_words, _ = go_back(pairs)
words = (d_words * pairs.change("resid_pre", 0)).sum(axis=(1, 2))
lesson.equal("all of it comes from the words that differ", words, pairs.gap)
shares, short = shares_of(pairs, worth), shares_of(pairs, gates_held(pairs))

# %% [markdown]
# ## 2. Shares
#
# For each pair put heads and neurons, at each position, in the order of their shares. Exchange the first twelve one by
# one in the real clean run, and for each another one of its layer, kind and position.


# %%
def ranked(scores: Parts, first: int, last: int) -> Masks:
    """The parts of each pair from place `first` to before `last` in the order of size, as masks."""
    flat = np.concatenate([abs(x).reshape(len(x), -1) for x in scores.values()], axis=1)
    mask = np.zeros(flat.shape, bool)
    np.put_along_axis(mask, np.argsort(-flat, axis=1, kind="stable")[:, first:last], True, axis=1)
    ends = np.cumsum([x[0].size for x in scores.values()])[:-1]
    return {place: part.reshape(x.shape) for (place, x), part in zip(scores.items(), np.split(mask, ends, axis=1))}


def others(masks: Masks, named: Masks) -> Masks:
    """As many other parts of the same layers, kinds and positions, drawn at random, as far as there are any."""
    drawn = {}
    for place, mask in masks.items():
        order = np.argsort(rng.random(mask.shape) + named[place], axis=-1)  # those that are named come last
        drawn[place] = (np.argsort(order, axis=-1) < mask.sum(axis=-1, keepdims=True)) & ~named[place]
    return drawn


def exchanged(masks: Masks, *, only: bool = False) -> Array:
    """How far the difference falls with the corrupted run's values at these parts; or, with `only`, all but there."""

    def mix(value: Array, hook: HookPoint) -> Array:
        mask = masks[hook.point.short, hook.layer or 0] != only
        return np.where(mask[..., None] if value.ndim == 4 else mask, pairs.corrupted[hook.name], value)

    names = [name for name in pairs.clean if name.endswith(("hook_z", "hook_post"))]
    logits = model.run_with_hooks(pairs.tokens, [(names, mix)], positions=-1)
    return np.asarray(pairs.high - difference(logits, pairs.answers))


def total(scores: Parts, masks: Masks) -> Array:
    return np.asarray(sum((scores[place] * mask).sum(axis=(1, 2)) for place, mask in masks.items()))  # [pair]


# %%
named, ranks = ranked(shares, 0, 12), [ranked(shares, k, k + 1) for k in range(12)]
real = np.array([exchanged(masks) for masks in lesson.progress(ranks, "parts")])  # [rank, pair]
chance = np.array([exchanged(others(masks, named)) for masks in lesson.progress(ranks, "other parts")])
miss, miss_short = (abs([total(scores, masks) for masks in ranks] - real) for scores in (shares, short))
columns = {"exchanged": abs(real), "another": abs(chance), "missed": miss, "missed, gates held": miss_short}
caption = f"sizes in logits, mean of {len(pairs.gap)} pairs, of {pairs.whole.mean():.1f}"
means = {name: values.mean(axis=1) for name, values in columns.items()}
lesson.table({"place": range(1, 13)} | means, caption=caption, format=".2f")
lesson.finding(
    "The largest share is missed by less than it is with gates held.",
    stats.paired_difference(miss_short[0], miss[0]),
    control=f"true of the largest only: the next eleven, chosen by their shares, are missed by {miss[1:].mean():.2f}, "
    f"and with gates held by {miss_short[1:].mean():.2f}",
)
lesson.finding(
    "The parts at places 2 to 12 move the difference more than others of their layers do.",
    stats.paired_difference(abs(real[1:]).mean(axis=0), abs(chance[1:]).mean(axis=0)),
    control=f"{abs(real[1:]).mean():.2f} against {abs(chance[1:]).mean():.2f}",
)

# %% [markdown]
# ## 3. Do the nodes carry the answer alone?
#
# Keep the parts with the largest shares, and exchange all others. What is left of the difference? For comparison: parts
# chosen with gates held; those that write most differently, whatever it is worth; and the largest together with others
# of the same layers.


# %%
def written(point: str, i: int) -> Array:
    """How much each part writes differently."""
    if point == "post":
        return np.asarray(abs(pairs.change(point, i)) * np.linalg.norm(blocks[i].W_out, axis=1))
    by_head = pairs.change(point, i).reshape(*pairs.tokens.shape, config.n_heads, 1, config.d_head)
    return np.asarray(np.linalg.norm((by_head @ blocks[i].heads.W_O)[..., 0, :], axis=-1))


def alone(masks: Masks) -> Array:
    return np.asarray(1 - exchanged(masks, only=True) / pairs.whole)


# %%
counts = (10, 100, 1000, 10000)
by = {"shares": shares, "gates held": short, "amount written": {place: written(*place) for place in worth}}
kept = {name: np.array([alone(ranked(scores, 0, n)) for n in counts]) for name, scores in by.items()}  # [count, pair]
drawn = [others(masks, masks) for masks in (ranked(shares, 0, n) for n in counts)]
kept["others"] = np.array([alone({place: x | ranks[0][place] for place, x in masks.items()}) for masks in drawn])
n_parts = sum(int((x[0] != 0).sum()) for x in shares.values())
means = {name: values.mean(axis=1) for name, values in kept.items()}
caption = f"what parts keep of the difference alone; {n_parts:,} of a pair have a share"
picture = lesson.lines(np.log10(counts).tolist(), means, caption, "log10 of parts", "kept", ".2f")
lesson.finding(
    f"{counts[2]:,} parts keep more than a quarter of the difference alone.",
    stats.mean(kept["shares"][2]),
    0.25,
    control=f"by gates held {means['gates held'][2]:.2f}, by amount written {means['amount written'][2]:.2f}, others "
    f"{means['others'][2]:.2f}; but the first {counts[0]} keep {means['shares'][0]:.3f}",
)

# %% [markdown]
# ## 4. Edges
#
# All edges from the head with the largest share to the neurons above it. Take what the head wrote differently out of
# the stream that one MLP reads, and out of nothing else, and run this MLP on it, with its own norm and gates.


# %%
def felt_by_graph(i: int, x: Array) -> Array:
    """What a change x [pair, 1, d_model] of the last stream does to each neuron, by the slopes: [pair, d_mlp]."""
    w, (a, b) = blocks[i], (run["pre", i][:, -1].astype(float) for run in (pairs.clean, pairs.frozen))
    x = (x * w.ln2 / pairs.clean["scale", i, "ln2"][:, -1:])[:, 0]
    by_gate = x @ w.W_gate * slopes(silu(a), silu(b), a - b)
    linear = (pairs.clean["pre_linear", i] + pairs.frozen["pre_linear", i])[:, -1]
    return np.asarray((by_gate * linear + x @ w.W_in * (silu(a) + silu(b))) / 2)


def felt(i: int, x: Array) -> Array:
    """The same in the real model: the clean run's neurons, minus those without x."""

    def without(stream: Array, hook: HookPoint) -> Array:
        return np.concatenate([stream[:, :-1], stream[:, -1:] - x], axis=1)

    point, hooks = f"blocks.{i}.mlp.hook_post", [(f"blocks.{i}.hook_resid_mid", without)]
    start = pairs.clean["resid_pre", i]
    _, cache = model.run_with_cache(start, point, fwd_hooks=hooks, start_at_layer=i, stop_at_layer=i + 1)
    return (pairs.clean[point] - cache[point])[:, -1]


# %%
by_head = np.array([shares["z", i][:, -1].mean(axis=0) for i in layers])  # [layer, head]
layer, head = divmod(int(abs(by_head).argmax()), config.n_heads)
writes = [
    (pairs.clean["z", layer] - run["z", layer])[:, -1:, head] @ blocks[layer].heads.W_O[head]
    for run in (pairs.frozen, pairs.corrupted)
]  # [pair, 1, d_model]: what it writes differently at the end
edges = np.zeros((2, len(pairs.gap), len(layers[layer:]), config.d_mlp))  # by the graph, in the real model
for i in layers[layer:]:
    changes = felt_by_graph(i, writes[0]), felt(i, writes[1])  # [pair, d_mlp] each
    edges[:, :, i - layer] = [change * worth["post", i][:, -1] for change in changes]
by_pair = edges.reshape(2, len(pairs.gap), -1).swapaxes(0, 1)
dealt = [abs(np.corrcoef(x, rng.permutation(y))[0, 1]) for x, y in by_pair for _ in range(20)]
lesson.finding(
    f"An edge from head {layer}.{head} says what the real neuron does without it (their correlation is above 0.7).",
    stats.mean([float(np.corrcoef(*both)[0, 1]) for both in by_pair]),
    0.7,
    control=f"{by_pair[0, 0].size:,} edges; dealt out at random, 95 % stay below {np.percentile(dealt, 95):.2f}; "
    f"by rank {np.mean([stats.rank_correlation(*both) for both in by_pair]):.2f}",
)

# %% [markdown]
# ## 5. Where the graph is silent
#
# "When Mary and John went to the store, John gave a drink to" asks for Mary; in the corrupted prompt, Mary gave it.
# Lesson 10 found heads there that tell others where to look. But patterns are held. How large is the error?

# %%
errors: list[float] = []
for template in lesson.progress(TEMPLATES, "templates"):
    task = make_task(model, template)
    swapped = task.tokens.copy()
    swapped[np.arange(len(swapped)), task.positions["S2"]] = task.io_id
    gifts = make_pairs(task.tokens, swapped, np.stack([task.io_id, task.s_id], axis=1))
    errors.append(float(abs(1 - gifts.gap / gifts.whole).mean()))
lesson.finding(
    "In who gave to whom the error is more than a quarter of the difference: the graph is silent about it.",
    stats.mean(errors),
    0.25,
    control=f"in the capitals its size is {abs(1 - pairs.gap / pairs.whole).mean():.2f} of the difference",
)

# %% [markdown]
# ## 6. Features
#
# A neuron may do several things (lesson 17). With `--dictionary FOLDER` the features of one MLP are nodes in the place
# of its neurons: those of a transcoder, or of an SAE of what the MLP writes. What they do not rebuild is an error, of
# which nobody knows where it comes from. So the graph has one more start.


# %%
def with_features(pairs: Pairs, dictionary: Dictionary) -> Pairs:
    i = int(dictionary.writes[0].split(".")[1])
    known = [f"blocks.{i}.{name}" for name in ("hook_resid_mid", "ln2.hook_normalized", "hook_mlp_out")]
    if dictionary.writes != (known[-1],) or dictionary.reads not in known:
        points = ", ".join(dictionary.writes)
        raise InputError(
            f"--dictionary: it reads {dictionary.reads} and writes {points}; give one that rebuilds an MLP"
        )
    clean, frozen = (dictionary.input(run) for run in (pairs.clean, pairs.frozen))
    a, b = (dictionary.encode(x).astype(float) for x in (clean, frozen))
    numbers, x = np.flatnonzero((a != b).any(axis=(0, 1))), clean.astype(float) - frozen
    a, b = a[..., numbers], b[..., numbers]
    rebuilt = (a - b) @ dictionary.decoder[numbers] + (0 if dictionary.W_skip is None else x @ dictionary.W_skip)
    slope = slopes(a, b, x @ dictionary.encoder[numbers].T)
    return pairs._replace(features=Features(dictionary, i, numbers, a - b, slope, pairs.change("mlp_out", i) - rebuilt))


# %%
if options.dictionary:
    pairs = with_features(pairs, load_dictionary(options.dictionary, model, layer=options.layer))
    assert pairs.features is not None
    worth, d_words, d_error = go_back(pairs)
    words = (d_words * pairs.change("resid_pre", 0)).sum(axis=(1, 2))
    error = (d_error * pairs.features.error).sum(axis=(1, 2))
    lesson.equal("words and error sum to the gap", words + error, pairs.gap, 1e-4)
    i = pairs.features.layer
    share = shares_of(pairs, worth)["features", i]  # [pair, pos, feature]
    at = np.argsort(-abs(share[0]), axis=None)[:5]  # of the first pair
    columns = {"feature": pairs.features.numbers[at % share.shape[2]], "position": at // share.shape[2]}
    caption = f"{lines[0][0]} against {lines[1][0]}: {words[0]:.2f} from the words, {error[0]:.2f} from the error"
    lesson.table(columns | {"share": share[0].flat[at]}, caption=caption, format="+.2f")
    lesson.keep(features=pairs.features.numbers, feature_shares=share, feature_error=error)

# %% [markdown]
# What is not established: that a neuron is the right node, since so many are needed; what the parts mean; that a pair's
# graph holds for another pair, as the neurons differ; and anything about questions of another form.

# %%
text = f"For {len(pairs.gap)} pairs of capitals the largest share, {abs(real[0]).mean():.1f} logits, is missed by"
text += f" {miss[0].mean():.1f}. But {counts[2]:,} parts alone keep only {means['shares'][2]:.0%} of the answer"
lesson.headline(f"{text}; and who gave to whom is {np.mean(errors):.0%} error.", picture)
lesson.keep(gap=pairs.gap, whole=pairs.whole, real=real, chance=chance, miss=miss, miss_short=miss_short, kept=kept)
lesson.keep(by_pair=[both[:, ::97] for both in by_pair], head=[layer, head], errors=errors, lines=lines)
lesson.finish()
