# %% [markdown]
"""Does it hold? Other capitals, the real model, what a graph is silent about, and features

What you will learn: to hold an attribution graph against exchanges in the real model: its shares, its edges, and what
its nodes keep of the answer alone. Where held parts are the answer. And what share features of a dictionary have.

Needs: attribution graph, IOI circuit

Time: 12 minutes to read, 20 seconds to run

Paper: Marks et al. 2024, Sparse Feature Circuits, https://arxiv.org/abs/2403.19647; Dunefsky et al. 2024, Transcoders
Find Interpretable LLM Feature Circuits, https://arxiv.org/abs/2406.11944; Ameisen et al. 2025, Circuit Tracing,
https://transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

# %% Set-up
import sys
from collections.abc import Mapping

from tinymi import Dictionary, load_dictionary
from tinymi.arrays import Array, Tokens
from tinymi.backward import FREEZABLE
from tinymi.errors import InputError
from tinymi.hooks import HookPoint
from tinymi.ops import silu
from tinymi.teaching import Lesson, prompts, stats

import numpy as np

sys.path.append(f"{sys.path[0]}/..")  # the folder of attribution.py and ioi.py
from attribution import Masks, Pairs, Place, attention_back, exchanged, make_pairs
from ioi import TEMPLATES, make_task

lesson = Lesson(__doc__)
lesson.option("--dictionary", help="a folder or hub id with features of an MLP: their shares, in section 6")
lesson.option("--layer", type=int, minimum=0, help="the layer of --dictionary, where it has several")
options = lesson.start()
model = lesson.load_model()
blocks, config, layers = model.weights.blocks, model.config, range(model.config.n_layers)
rng = np.random.default_rng(0)
Parts = Mapping[Place, Array]  # [pair, pos, part]: a number for each head or neuron

# %% [markdown]
# ## 1. Many pairs at once
#
# The pass of the short lesson, for capitals that had no part in it, two by two: each array has an axis more.


# %%
def neuron_slopes(pairs: Pairs, i: int) -> tuple[Array, Array]:
    """How far each neuron changes for each unit of its gate, and of its input: [pair, pos, d_mlp]."""
    a, b = (run["pre", i].astype(float) for run in (pairs.clean, pairs.frozen))
    slope = np.divide(silu(a) - silu(b), a - b, out=np.zeros_like(a), where=a != b)
    by_gate = slope * (pairs.clean["pre_linear", i] + pairs.frozen["pre_linear", i]) / 2
    return by_gate, (silu(a) + silu(b)) / 2


def mlp_back(pairs: Pairs, i: int, d_post: Array) -> Array:
    w, (by_gate, by_input) = blocks[i], neuron_slopes(pairs, i)
    d_x = (d_post * by_gate) @ w.W_gate.T + (d_post * by_input) @ w.W_in.T
    return np.asarray(d_x * w.ln2 / pairs.clean["scale", i, "ln2"])


def go_back(pairs: Pairs) -> tuple[dict[Place, Array], dict[int, Array]]:
    """What each number of a place is worth for the gap, and the stream behind each layer (-1: the words)."""
    worth: dict[Place, Array] = {}
    d = np.zeros((*pairs.tokens.shape, config.d_model))
    unembed = model.weights.W_U.T[pairs.answers]  # [pair, 2, d_model]
    d[:, -1] = model.weights.ln_final * (unembed[:, 0] - unembed[:, 1]) / pairs.clean["ln_final.hook_scale"][:, -1]
    streams = {layers[-1]: d}
    for i in reversed(layers):
        worth["post", i] = d @ blocks[i].W_out.T
        d = d + mlp_back(pairs, i, worth["post", i])
        worth["z", i] = d @ blocks[i].W_O.T
        streams[i - 1] = d = d + attention_back(pairs, i, worth["z", i])
    return worth, streams


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
pairs = make_pairs(model, questions[::2], questions[1::2], ids.reshape(-1, 2))
worth, streams = go_back(pairs)
words = (streams[-1] * pairs.change("resid_pre", 0)).sum(axis=(1, 2))
lesson.equal("all of it comes from the words that differ", words, pairs.gap)
shares, short = shares_of(pairs, worth), shares_of(pairs, gates_held(pairs))

# %% [markdown]
# ## 2. Shares
#
# For each pair put heads and neurons, at each position, in the order of their shares. Exchange the first twelve one by
# one in the real clean run, and for each another one of its layer, kind and position. The rival: gates held, too.


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


def total(scores: Parts, masks: Masks) -> Array:
    return np.asarray(sum((scores[place] * mask).sum(axis=(1, 2)) for place, mask in masks.items()))  # [pair]


# %%
named, ranks = ranked(shares, 0, 12), [ranked(shares, k, k + 1) for k in range(12)]
real = np.array([exchanged(pairs, masks) for masks in lesson.progress(ranks, "parts")])  # [rank, pair]
chance = np.array([exchanged(pairs, others(masks, named)) for masks in lesson.progress(ranks, "other parts")])
miss, miss_short = (abs([total(scores, masks) for masks in ranks] - real) for scores in (shares, short))
lesson.finding(
    "The largest share misses its exchange by less than it does with gates held.",
    stats.paired_difference(miss_short[0], miss[0]),
    control=f"logits; true of the largest only: the next eleven, chosen by their shares, miss by {miss[1:].mean():.2f} "
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
# Keep the parts with the largest shares, and exchange all others. What is left of the difference? The controls: parts
# chosen with gates held; and the largest together with others of the same layers.


# %%
def alone(masks: Masks) -> Array:
    return np.asarray(1 - exchanged(pairs, masks, only=True) / pairs.whole)


# %%
counts = (10, 100, 1000, 10000)
by = {"shares": shares, "gates held": short}
kept = {name: np.array([alone(ranked(scores, 0, n)) for n in counts]) for name, scores in by.items()}  # [count, pair]
drawn = [others(masks, masks) for masks in (ranked(shares, 0, n) for n in counts)]
kept["others"] = np.array([alone({place: x | ranks[0][place] for place, x in masks.items()}) for masks in drawn])
n_parts = sum(int((x[0] != 0).sum()) for x in shares.values())
means = {name: values.mean(axis=1) for name, values in kept.items()}
caption = f"what parts keep of the difference alone; {n_parts:,} parts of a pair have a share"
picture = lesson.lines(np.log10(counts).tolist(), means, caption, "log10 of parts", "kept", ".2f")
lesson.finding(
    f"{counts[2]:,} parts keep more than a quarter of the difference alone.",
    stats.mean(kept["shares"][2]),
    0.25,
    control=f"by gates held {means['gates held'][2]:.2f}, others {means['others'][2]:.2f}; but the first "
    f"{counts[0]} keep {means['shares'][0]:.3f}",
)

# %% [markdown]
# ## 4. Edges
#
# All edges from the head with the largest share to the neurons above it. Take what the head wrote differently out of
# the stream that one MLP reads, and out of nothing else, and run this MLP on it, with its own norm and gates.


# %%
def felt_by_graph(i: int, x: Array) -> Array:
    """What a change x [pair, 1, d_model] of the last stream does to each neuron, by the slopes: [pair, d_mlp]."""
    w, (by_gate, by_input) = blocks[i], (slope[:, -1] for slope in neuron_slopes(pairs, i))
    x = (x * w.ln2 / pairs.clean["scale", i, "ln2"][:, -1:])[:, 0]
    return np.asarray(x @ w.W_gate * by_gate + x @ w.W_in * by_input)


def felt(i: int, x: Array) -> Array:
    """The same in the real model: the clean run's neurons, minus those without x."""

    def without(stream: Array, hook: HookPoint) -> Array:
        return np.concatenate([stream[:, :-1], stream[:, -1:] - x], axis=1)

    point, hooks = f"blocks.{i}.mlp.hook_post", [(f"blocks.{i}.hook_resid_mid", without)]
    start = pairs.clean["resid_pre", i]
    _, cache = model.run_with_cache(start, point, fwd_hooks=hooks, start_at_layer=i, stop_at_layer=i + 1)
    return np.asarray(pairs.clean[point] - cache[point])[:, -1]


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
    gifts = make_pairs(model, task.tokens, swapped, np.stack([task.io_id, task.s_id], axis=1))
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
# A neuron may do several things (lesson 17). `--dictionary FOLDER` splits an MLP's share among features: of a
# transcoder, or of an SAE of what the MLP writes. W_skip is a way past them. What they do not rebuild is an error.


# %%
def feature_shares(pairs: Pairs, own: Dictionary, i: int, d: Array) -> tuple[Tokens, Array, Array]:
    """Features that differ, [feature]; their shares, [pair, pos, feature]; those of W_skip and the error, [2, pair]."""
    known = [f"blocks.{i}.{name}" for name in ("hook_resid_mid", "ln2.hook_normalized", "hook_mlp_out")]
    if own.writes != (known[-1],) or own.reads not in known:
        points = f"it reads {own.reads} and writes {', '.join(own.writes)}"
        raise InputError(f"--dictionary: {points}; give one that rebuilds an MLP")
    clean, frozen = (own.input(run).astype(float) for run in (pairs.clean, pairs.frozen))
    change = own.encode(clean).astype(float) - own.encode(frozen)
    numbers = np.flatnonzero(change.any(axis=(0, 1)))
    skip = 0 if own.W_skip is None else (clean - frozen) @ own.W_skip
    error = pairs.change("mlp_out", i) - change[..., numbers] @ own.decoder[numbers] - skip
    past = [(d * written).sum(axis=(1, 2)) for written in (skip, error)]
    return numbers, change[..., numbers] * (d @ own.decoder[numbers].T), np.array(past)


# %%
if options.dictionary:
    dictionary = load_dictionary(options.dictionary, model, layer=options.layer)
    i = int(dictionary.writes[0].split(".")[1])
    numbers, share, past = feature_shares(pairs, dictionary, i, streams[i])
    by_neurons = shares["post", i].sum(axis=(1, 2))
    lesson.equal(
        "features, W_skip and error make the MLP's share", share.sum(axis=(1, 2)) + past.sum(axis=0), by_neurons
    )
    at = np.argsort(-abs(share[0]), axis=None)[:5]  # of the first pair
    columns = {"feature": numbers[at % share.shape[2]], "position": at // share.shape[2], "share": share[0].flat[at]}
    caption = f"{lines[0][0]} against {lines[1][0]}: {past[0, 0]:.2f} by W_skip, an error of {past[1, 0]:.2f}"
    lesson.table(columns, caption=caption, format="+.2f")
    lesson.keep(features=numbers, feature_shares=share, past=past)

# %% [markdown]
# What is not established: that a neuron is the right node, since so many are needed; what the parts mean; that a pair's
# graph holds for another pair, as the neurons differ; and anything about questions of another form.

# %%
text = f"In {len(pairs.gap)} pairs of capitals the largest share is missed by {miss[0].mean():.1f} of"
text += f" {abs(real[0]).mean():.1f} logits. But {counts[2]:,} parts alone keep only {means['shares'][2]:.0%}"
lesson.headline(f"{text} of the answer. And of who gave to whom {np.mean(errors):.0%} is error.", picture)
lesson.keep(gap=pairs.gap, whole=pairs.whole, real=real, chance=chance, miss=miss, miss_short=miss_short, kept=kept)
lesson.keep(by_pair=[both[:, ::97] for both in by_pair], head=[layer, head], errors=errors, lines=lines)
lesson.finish()
