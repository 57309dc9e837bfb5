# %% [markdown]
"""Does it hold? One direction among all relabellings of its own recipe

What you will learn: to choose a layer on some prompts and measure on others, to hold a direction against every way of
dealing out its labels, to weigh an effect by its side effects, and to ask if the model uses the direction by itself.

Needs: steering

Time: 10 minutes to read, 20 seconds to run

Paper: Rimsky et al. 2023, Steering Llama 2 via Contrastive Activation Addition, https://arxiv.org/abs/2312.06681;
Arditi et al. 2024, Refusal in Language Models Is Mediated by a Single Direction, https://arxiv.org/abs/2406.11717; Wu
et al. 2025, AxBench, https://arxiv.org/abs/2501.17148
"""

# %% Set-up
from itertools import combinations

from tinymi.arrays import Array
from tinymi.ops import softmax
from tinymi.teaching import Lesson, prompts, stats

import numpy as np

DOSE = 0.4
lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
n_layers = model.config.n_layers
pre = [f"blocks.{layer}.hook_resid_pre" for layer in range(n_layers)]
praise, blame = (
    [model.to_single_token(f" {word}") for word in column] for column in zip(*prompts("sentiment_words"), strict=True)
)

# %% [markdown]
# ## 1. Choose a layer on some prompts, measure on the others
#
# The layer of the short lesson was given. Here the swing of the odds, from dose -0.4 to 0.4, is measured in every third
# layer on half of the neutral prompts. The layer with the largest swing is then measured on the other half. The last
# third of the layers is left out: there a vector acts almost directly on the logits of the words that are counted.


# %%
def streams_of(prompt: str) -> Array:
    """What enters each layer: [n_layers, pos, d_model]."""
    _, cache = model.run_with_cache(model.to_tokens(prompt), pre, positions=-1)
    return np.stack([cache["resid_pre", layer][0] for layer in range(n_layers)])


pairs = [(streams_of(good), streams_of(bad)) for good, bad in lesson.progress(prompts("sentiment_pairs"), "pairs")]
differences = np.array([good[:, -1] - bad[:, -1] for good, bad in pairs])  # [pair, n_layers, d_model]
size = np.linalg.norm([good[:, -1] for good, _ in pairs], axis=-1).mean(axis=0)  # [n_layers]
neutral = [streams_of(prompt) for (prompt,) in prompts("sentiment_neutral")]
select, test = neutral[::2], neutral[1::2]


def unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def predict(streams: list[Array], layer: int, vectors: Array) -> Array:
    """Probabilities with each vector [n, d_model] added at the layer, all as one batch: [n, prompt, d_vocab]."""
    rows = [model(stream[layer] + vectors[:, None], start_at_layer=layer, positions=-1)[:, 0] for stream in streams]
    return np.asarray(softmax(np.stack(rows, axis=1)))


def odds(probs: Array) -> Array:
    """Praise over blame in bits: [..., d_vocab] -> [...]"""
    return np.asarray(np.log2(probs[..., praise].sum(axis=-1) / probs[..., blame].sum(axis=-1)))


def swings(streams: list[Array], layer: int, directions: Array) -> Array:
    """From dose -DOSE to DOSE: [direction, prompt]."""
    vectors = DOSE * size[layer] * directions
    low, high = np.split(odds(predict(streams, layer, np.concatenate([-vectors, vectors]))), 2)
    return np.asarray(high - low)


direction = unit(differences.mean(axis=0))  # [n_layers, d_model]
lowest = min(2, n_layers - 1)
layers = list(range(lowest, max(2 * n_layers // 3, lowest + 1), 3))
by_layer = [float(swings(select, layer, direction[[layer]]).mean()) for layer in lesson.progress(layers, "layers")]
layer = layers[int(np.argmax(by_layer))]
lesson.bars([f"layer {i}" for i in layers], by_layer, "swing in bits, on the prompts that choose", "+.1f")
swing = swings(test, layer, direction[[layer]])[0]  # [prompt]
nothing = np.zeros_like(direction[:1])
from_tokens = odds(softmax(model(model.to_tokens(prompts("sentiment_neutral")[1][0]), positions=-1)[0, 0]))
lesson.equal(
    "steering with nothing gives the run from the tokens", odds(predict(test, layer, nothing))[0, 0], from_tokens
)
lesson.finding(
    f"At layer {layer} the direction swings the odds, on prompts that did not choose the layer.",
    stats.mean(swing),
    control=f"on the prompts that chose it {max(by_layer):.2f} bits",
)

# %% [markdown]
# ## 2. All ways to deal out the labels
#
# Call praise blame in four of the eight pairs, and sentiment cancels while all else stays. There are 35 ways to do so,
# up to the sign. If the direction is about sentiment, its swing should stand out among theirs.

# %%
n_pairs = len(differences)
swapped = list(combinations(range(1, n_pairs), n_pairs // 2))  # pair 0 keeps its labels: that settles the sign
signs = np.ones((len(swapped), n_pairs), np.float32)
for row, swap in zip(signs, swapped):
    row[list(swap)] = -1
relabelled = unit(signs @ differences[:, layer])  # [35, d_model]
controls = np.concatenate([swings(test, layer, part) for part in np.array_split(relabelled, 5)])  # [35, prompt]
sizes = np.sort(abs(controls.mean(axis=1)))[::-1]  # the sign of a relabelling means nothing
wider = int((sizes >= abs(swing.mean())).sum())
places = [0, len(sizes) // 8, len(sizes) // 4, len(sizes) // 2, len(sizes) - 1]
lesson.bars(
    ["the direction", *(f"relabelling {place + 1}" for place in places)],
    [abs(swing.mean()), *sizes[places]],
    f"size of the swing in bits; of {len(sizes)} relabellings, the widest first",
    ".1f",
)
lesson.finding(
    "The direction swings the odds further than the same recipe with its labels dealt out otherwise.",
    established=(1 + wider) / (1 + len(sizes)) < 0.05,
    evidence=f"{abs(swing.mean()):.1f} bits; of {len(sizes)} relabellings {wider} swing as far or further (the bar: p, "
    f"which counts the direction as one of them, below 0.05; it is {(1 + wider) / (1 + len(sizes)):.2f})",
    control=f"the widest swings by {sizes[0]:.1f} bits, the median one by {np.median(sizes):.1f}",
)

# %% [markdown]
# ## 3. Swing for what it costs
#
# A vector can swing the odds of a few words by shaking the whole prediction. KL says how far the prediction moves, and
# not whither. So compare the swing for each bit of KL.

# %%
unsteered = softmax(np.stack([model(stream[layer][None], start_at_layer=layer, positions=-1)[0, 0] for stream in test]))


def bits_moved(directions: Array) -> Array:
    """KL from the unsteered prediction, mean of both doses: [direction]."""
    vectors = DOSE * size[layer] * directions
    steered = predict(test, layer, np.concatenate([-vectors, vectors]))
    kl = (unsteered * np.log2(unsteered / np.maximum(steered, 1e-30))).sum(axis=-1).mean(axis=1)
    return np.asarray(kl.reshape(2, -1).mean(axis=0))


kl = float(bits_moved(direction[[layer]])[0])
kl_controls = np.concatenate([bits_moved(part) for part in np.array_split(relabelled, 5)])
per_bit = abs(swing.mean()) / kl
per_bit_controls = abs(controls.mean(axis=1)) / kl_controls
better = int((per_bit_controls >= per_bit).sum())
share = unsteered[:, praise + blame].sum(axis=1)
lesson.finding(
    "For each bit by which it moves the prediction, the direction swings the odds further than the relabelled ones.",
    established=(1 + better) / (1 + len(sizes)) < 0.05,
    evidence=f"{per_bit:.2f} bits per bit of KL ({kl:.1f} bits); {better} of {len(sizes)} relabellings reach that",
    control=f"relabelled {np.median(per_bit_controls):.2f} in the median, {per_bit_controls.max():.2f} at most; "
    f"unsteered, the counted words hold {share.mean():.1%} of the prediction",
)

# %% [markdown]
# ## 4. Does the model use it when nobody steers?
#
# Take the direction out of a run: at every position but the first, set the stream's part along it to what it is on
# neutral prompts. Do prompts that praise and prompts that blame then still differ? The direction is made from half of
# the pairs, and the other half is asked; then the halves change places. The control takes out relabelled directions.

# %%
asked = [stream[layer] for pair in pairs for stream in pair]  # praise, blame, praise, blame, ...; each [pos, d_model]


def gaps(stream_of_pairs: list[Array]) -> Array:
    """How much further ahead praise is after the praising prompt than after the blaming one, in bits: [pair]."""
    rows = [model(stream[None], start_at_layer=layer, positions=-1)[0, 0] for stream in stream_of_pairs]
    after = odds(softmax(np.stack(rows)))
    return np.asarray(after[::2] - after[1::2])


def take_out(vector: Array, stream: Array) -> Array:
    usual = np.mean([(s[layer][1:] @ vector).mean() for s in neutral])
    stream = stream.copy()
    stream[1:] += (usual - stream[1:] @ vector)[:, None] * vector
    return stream


def gaps_without(labels: Array) -> Array:
    """[pair]; labels: 1 or -1 for the n_pairs / 2 pairs that make the direction of the other half."""
    after = np.empty(n_pairs)
    for made, asks in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        vector = unit(labels @ differences[made, layer])
        streams = [take_out(vector, stream) for pair in pairs[asks] for stream in (pair[0][layer], pair[1][layer])]
        after[asks] = gaps(streams)
    return after


even = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], np.float32)
before, without, *others = gaps(asked), *(gaps_without(labels) for labels in even)
lesson.table(
    {
        "": ["as it is", "without the direction", "without a relabelled one (mean of 3)"],
        "praise over blame, bits": [f"{stats.mean(g):+.2f}" for g in (before, without, np.mean(others, axis=0))],
    },
    caption="how much further ahead praise is after praising prompts than after blaming ones",
)
lesson.finding(
    f"The model uses the direction of layer {layer} when nobody steers: without it, praise and blame differ less.",
    stats.paired_difference(np.mean(others, axis=0), without),
    control=f"the estimate is against relabelled ones; the direction takes {1 - without.mean() / before.mean():.0%} "
    f"of the gap of {before.mean():.2f} bits, a relabelled one {1 - np.mean(others) / before.mean():.0%}",
)
lesson.keep(layer=layer, by_layer=by_layer, swing=swing, controls=controls, per_bit=per_bit, gaps=[before, without])
lesson.keep(direction=direction[layer], size=size[layer])
lesson.finish()
