# %% [markdown]
"""Does it hold? Hypotheses about neurons, on text that did not make them

What you will learn: to test a guess about a neuron on held-out text, to build a null that keeps the runs of a text, and
to ask whether a neuron says more than any direction of the stream.

Needs: neuron activations

Time: 12 minutes to read, 15 seconds to run

Paper: Bolukbasi et al. 2021, An Interpretability Illusion for BERT, https://arxiv.org/abs/2104.07143; Elhage et al.
2022, Toy Models of Superposition, https://arxiv.org/abs/2209.10652; Sun et al. 2024, Massive Activations in Large
Language Models, https://arxiv.org/abs/2402.17762
"""

# %% Set-up
import re

from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.ops import silu
from tinymi.teaching import Lesson, prompts, show_token, stats

import numpy as np

N = 5  # units of each kind in each layer
lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
if model.weights.blocks[0].b_gate is not None:
    raise InputError("--model: its MLP adds biases, which this lesson's formula leaves out; take a model without them")
n_layers, d_mlp, d_model = model.config.n_layers, model.config.d_mlp, model.config.d_model
rng = np.random.default_rng(0)

# %% [markdown]
# ## 1. Two halves of the texts, and position 0
#
# Sixty texts: every second one, those of the short lesson, makes the hypotheses, and the others test them. First comes
# the largest activation of any neuron at position 0, text by text, in the layer where it stands out most.

# %%
texts = [(kind, text.encode().decode("unicode_escape")) for kind, text in prompts("five_kinds")]
points = [f"blocks.{layer}.{what}" for layer in range(n_layers) for what in ("mlp.hook_post", "ln2.hook_normalized")]
directions = rng.standard_normal((n_layers, d_model, N), dtype=np.float32)
pieces: list[list[str]] = []  # of each text
neuron_rows: list[Array] = []  # of each text, [n_layers, pos, d_mlp]
direction_rows: list[Array] = []  # of each text, [n_layers, pos, N]
for text in lesson.progress([text for _, text in texts], "texts"):
    tokens = model.to_tokens(text)
    _, cache = model.run_with_cache(tokens, points, positions=-1)
    pieces.append(model.to_str_tokens(tokens[0]))
    neuron_rows.append(np.stack([cache["post", layer][0] for layer in range(n_layers)]))
    x = np.stack([cache["ln2.normalized", layer][0] * model.weights.blocks[layer].ln2 for layer in range(n_layers)])
    direction_rows.append(x @ directions)
w, layer = model.weights.blocks[0], 0
lesson.equal(
    "silu(x @ W_gate) * (x @ W_in) is what was kept", silu(x[0] @ w.W_gate) * (x[0] @ w.W_in), neuron_rows[-1][0]
)

# %%
peaks = [abs(rows).max(axis=-1) for rows in neuron_rows]  # of each text, [n_layers, pos]
others = np.median(np.concatenate([peak[:, 1:] for peak in peaks], axis=1), axis=1)  # [n_layers]
at_start = np.stack([peak[:, 0] for peak in peaks], axis=1)  # [n_layers, text]
sink = int((np.median(at_start, axis=1) / others).argmax())
lesson.finding(
    f"In layer {sink} the largest activation at position 0 is ten times the usual one and more.",
    stats.mean_by_group(at_start[sink] / others[sink], [kind for kind, _ in texts]),
    above=10,
    format=".0f",
    control=f"it is {at_start[sink].min():.0f} to {at_start[sink].max():.0f} for {len({p[0] for p in pieces})} "
    f"different first tokens, at later positions {others[sink]:.1f} (median)",
)

# %% [markdown]
# Such massive activations (Sun et al. 2024) would lead every ranking, whatever the text is about. That they mark the
# start is a hypothesis, which this file does not test. Position 0 is left out, and so are later tokens that reach
# halfway to it, by ratio.
#
# ## 2. Hypotheses by rule
#
# A unit fires where it is at least as strong as at its strongest 2.5 % of the tokens. A category of tokens is its
# hypothesis when it holds at least half of them, and twice its share of the text. The categories: word lists in
# `prompts/token_categories.txt`, shapes such as digits, the same for the token before, and the kind of text. The most
# telling one is taken. It survives when, on the other half, the unit fires five times and both bars hold again.

# %%
SHAPES = {
    "punctuation": r"[^\w\s]+",
    "digit": r"\d+",
    "white space": r"",
    "capitalised": r"[A-Z].*",
    "bracket": r"[()\[\]{}].*",
}
SHAPES |= {"end of a sentence": r"[.!?].*", "arithmetic": r"[-+*/=^<>%]+", "comma": r".*,"}
lists = {name: set(words) for name, *words in prompts("token_categories")}
kinds = sorted({kind for kind, _ in texts})


def categories(text: list[str], kind: str) -> Array:
    """[pos, category]: whether each token is of each category."""
    own = np.array(
        [
            [re.fullmatch(shape, piece.strip()) is not None for shape in SHAPES.values()]
            + [piece.strip().lower() in words for words in lists.values()]
            + [piece[:1].isalpha(), "\n" in piece]
            for piece in text
        ]
    )
    before = np.vstack([np.zeros_like(own[:1]), own[:-1]])
    return np.hstack([own, before, np.tile([kind == name for name in kinds], (len(text), 1))]).astype(np.float32)


own_names = [*SHAPES, *lists, "no space before", "line break"]
names = own_names + [f"after {name}" for name in own_names] + [f"in {kind}" for kind in kinds]
middle = np.sqrt(np.median(at_start[sink]) * others[sink])
counts = [(np.arange(len(p)) > 0) & (peak[sink] < max(middle, 3 * others[sink])) for p, peak in zip(pieces, peaks)]
half_of = [sum(kind == other for other, _ in texts[:i]) % 2 for i, (kind, _) in enumerate(texts)]


def half(rows: list[Array], number: int) -> Array:
    """Rows [..., pos, unit] of the texts of a half, one after the other; without the starts."""
    return np.concatenate([r[..., c, :] for r, c, h in zip(rows, counts, half_of) if h == number], axis=-2)


label_rows = [categories(text, kind) for text, (kind, _) in zip(pieces, texts)]
labels = [half(label_rows, number) for number in (0, 1)]  # each [token, category]
activations = [half(neuron_rows, number) for number in (0, 1)]  # each [n_layers, token, d_mlp]
first = abs(activations[0])
chosen = np.argsort(-first.max(axis=1) / first.mean(axis=1), axis=1)[:, :N]  # [n_layers, N], as in the short lesson
drawn = np.array([rng.choice(np.setdiff1d(np.arange(d_mlp), top), N, replace=False) for top in chosen])


def of_units(rows: Array, units: Tokens) -> Array:
    """[n_layers, token, width] -> [unit, token]"""
    return np.concatenate([layer[:, unit].T for layer, unit in zip(rows, units)])


KINDS = ("most active neurons", "random neurons", "random directions")
all_drawn = np.tile(np.arange(N), (n_layers, 1))
random_rows = [half(direction_rows, number) for number in (0, 1)]  # each [n_layers, token, N]
units = [
    [of_units(rows, chosen), of_units(rows, drawn), of_units(random_rows[number], all_drawn)]
    for number, rows in enumerate(activations)
]  # [half][kind of unit]: [unit, token]


def fires(kind: int) -> tuple[Array, Array]:
    """Where the units of a kind fire in each half: each [unit, token]. The side of the largest activation counts."""
    made, tested = units[0][kind], units[1][kind]
    sign = np.where(made.max(axis=1) >= -made.min(axis=1), 1, -1)[:, None]
    bar = np.quantile(sign * made, 0.975, axis=1)[:, None]
    return (sign * made >= bar).astype(np.float32), (sign * tested >= bar).astype(np.float32)


def test(fired: tuple[Array, Array], made: Array, tested: Array) -> tuple[Array, Array]:
    """The category of each unit, by the labels `made`, and whether it survives on the labels `tested`: each [unit]."""
    shares, base = fired[0] @ made / np.maximum(fired[0].sum(axis=1), 1)[:, None], made.mean(axis=0)
    p, q = np.clip(shares, 1e-6, 1 - 1e-6), np.clip(base, 1e-6, 1 - 1e-6)
    surprise = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))  # nats per firing
    guess = np.where((shares >= 0.5) & (shares >= 2 * base), surprise, -1).argmax(axis=1)
    rows, n = np.arange(len(guess)), fired[1].sum(axis=1)
    again = (fired[1] @ tested / np.maximum(n, 1)[:, None])[rows, guess]
    passed = (shares[rows, guess] >= 0.5) & (shares[rows, guess] >= 2 * base[guess])
    return guess, passed & (n >= 5) & (again >= 0.5) & (again >= 2 * tested.mean(axis=0)[guess])


fired = [fires(kind) for kind in range(3)]
results = [test(fired[kind], *labels) for kind in range(3)]
per_layer = [survives.reshape(n_layers, N).sum(axis=1) for _, survives in results]

# %% [markdown]
# ## 3. What would chance give?
#
# Labels dealt out token by token are a null that cannot fail: they have no runs, and text has. So shift all labels
# along the text, by as many tokens for every unit, and repeat the whole test. The second control is another kind of
# unit. A neuron has directions of its own; does a random direction of the stream that the MLP reads do as well?

# %%
shifts = rng.integers(20, min(len(part) for part in labels) - 20, 12)
shifted = [
    [int(test(f, *(np.roll(part, shift, axis=0) for part in labels))[1].sum()) for shift in shifts] for f in fired
]
columns = {"units": KINDS, "of": [n_layers * N] * 3, "hypotheses that survive": [int(n.sum()) for n in per_layer]}
lesson.table(
    columns | {"labels shifted, mean": [float(np.mean(n)) for n in shifted], "most": [max(n) for n in shifted]},
    format=".1f",
)
guess, survives = results[0]
found, times = np.unique(guess[survives], return_counts=True)
order = np.argsort(-times)[:10]
lesson.bars(
    [names[found[i]] for i in order], times[order], "hypotheses about the most active neurons that survive", ".0f"
)
lesson.say(
    f"{survives.sum()} of {n_layers * N} hypotheses about the most active neurons survive. Shifted labels give "
    f"{np.mean(shifted[0]):.0f}, random directions {per_layer[2].sum()}: that is the number to beat."
)
lesson.finding(
    "The most active neurons answer to categories more often than random directions do.",
    stats.paired_difference(per_layer[0], per_layer[2]),
    control=f"per layer, of {N}: {per_layer[0].mean():.2f} and {per_layer[2].mean():.2f}",
)
lesson.finding(
    "A random neuron is easier to describe than a random direction.",
    stats.paired_difference(per_layer[1], per_layer[2]),
    control=f"per layer, of {N}: {per_layer[1].mean():.2f} and {per_layer[2].mean():.2f}",
)

# %% [markdown]
# A description that survives is not yet a unit of the model. If a direction drawn at random passes the same test as
# often as a neuron drawn at random, the test says something about the stream, which holds many features in
# superposition, and little about neurons. That is the interpretability illusion of Bolukbasi et al. (2021).
#
# ## 4. The hypotheses of the short lesson
#
# There a neuron was about the kind of text of its five strongest places. On the other half: how many of its five
# strongest places are of that kind?

# %%
kind_labels = [part[:, -len(kinds) :] for part in labels]


def five(kind: int, shift: int = 0) -> Array:
    """[unit]: the share of the five strongest places of the second half that have the kind of those of the first."""
    tops = [np.argsort(-abs(units[number][kind]), axis=1)[:, :5] for number in (0, 1)]
    made, tested = (np.roll(part, shift, axis=0)[top].mean(axis=1) for part, top in zip(kind_labels, tops))
    return np.asarray(tested[np.arange(len(made)), made.argmax(axis=1)])


by_shift = [five(0, shift).mean() for shift in shifts]
controls = [max(by_shift), five(1).mean(), five(2).mean()]
lesson.finding(
    "The kind of text of a neuron's five strongest places tells the kind of the next five.",
    stats.mean_by_group(five(0), np.repeat(np.arange(n_layers), N)),
    above=max(controls),
    control=f"labels shifted {np.mean(by_shift):.2f}, {max(by_shift):.2f} at most; random neurons {controls[1]:.2f}, "
    f"random directions {controls[2]:.2f}; the bar is the largest of these",
)

# %% [markdown]
# ## 5. A check, and one neuron

# %%
unit = int(np.flatnonzero(survives)[0]) if survives.any() else 0
by_hand = sum(float(labels[1][i, guess[unit]]) for i in np.flatnonzero(fired[0][1][unit]))
lesson.equal("the hits of one unit, counted one by one", by_hand, fired[0][1][unit] @ labels[1][:, guess[unit]])
tested_words = [piece for p, c, h in zip(pieces, counts, half_of) if h for piece, keep in zip(p, c) if keep]
hits = " ".join(show_token(tested_words[i]) for i in np.argsort(-abs(units[1][0][unit]))[:6])
lesson.say(f"Neuron {unit // N}.{chosen.ravel()[unit]}, hypothesis {names[guess[unit]]!r}; on the other half: {hits}")
lesson.keep(
    chosen=chosen, survivors=[int(n.sum()) for n in per_layer], shifted=shifted, sink=sink, at_start=at_start[sink]
)
lesson.finish()
