# %% [markdown]
"""How do you fit twenty features into five dimensions?

What you will learn: superposition in the smallest model that has it, trained before your eyes with gradients written
by hand. As features become rare, the model stops giving each its own dimension, and packs more of them in at an angle.

Needs: neuron activations

Time: 10 minutes to read, 3 seconds to run

Paper: Elhage et al. 2022, Toy Models of Superposition, https://arxiv.org/abs/2209.10652
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.teaching import Lesson

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--features", type=int, default=20, minimum=2, maximum=60, help="how many features there are")
lesson.option("--dimensions", type=int, default=5, minimum=1, maximum=30, help="how many dimensions they share")
options = lesson.start()
lesson.load_model()  # not used: this lesson trains models of its own
n, d = options.features, options.dimensions

# %% [markdown]
# ## 1. The model
#
# A *feature* is a number between 0 and 1 that is mostly 0: each is present with a small probability. The model must
# send all of them, x, through few dimensions, h, and get them back, y. Each feature i has a direction, the row W[i]:
#
#     h = x @ W
#     y = relu(h @ W.T + b)
#
# The loss is the squared error, and the features are not equally important: each counts 0.9 times the one before.

# %%
importance = 0.9 ** np.arange(n)


def sample(rng: np.random.Generator, rows: int, presence: float) -> Array:
    """Features [row, n]: each present with this probability, and then somewhere between 0 and 1."""
    return rng.random((rows, n)) * (rng.random((rows, n)) < presence)


def loss_and_gradients(x: Array, W: Array, b: Array) -> tuple[float, Array, Array]:
    """The mean loss of a row, and its derivatives with respect to W [n, d] and b [n]."""
    h = x @ W  # [row, d]
    pre = h @ W.T + b  # [row, n]
    error = np.maximum(pre, 0) - x
    loss = float((importance * error**2).sum() / len(x))
    d_pre = 2 * importance * error * (pre > 0) / len(x)  # [row, n]: where relu is shut, nothing passes
    d_W = d_pre.T @ h + x.T @ (d_pre @ W)  # W is used twice: on the way out, and on the way in
    return loss, d_W, d_pre.sum(axis=0)


# %% [markdown]
# One check before training: nudge one number of W, and compare the change of the loss with the derivative.

# %%
rng = np.random.default_rng(0)
W, b, x = rng.normal(size=(n, d)) * 0.3, rng.normal(size=n) * 0.1, sample(rng, 64, 0.5)
nudge = np.zeros_like(W)
nudge[1, 0] = 1e-5
slope = (loss_and_gradients(x, W + nudge, b)[0] - loss_and_gradients(x, W - nudge, b)[0]) / 2e-5
lesson.equal("the derivative is the slope", loss_and_gradients(x, W, b)[1][1, 0], slope, 1e-4)

# %% [markdown]
# ## 2. Train it seven times
#
# Gradient descent with Adam: keep a running mean of each gradient and of its square, and step by their ratio. The only
# difference between the seven: how often a feature is present.


# %%
def train(presence: float, steps: int = 2500, rate: float = 0.01) -> tuple[Array, Array, float]:
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(n, d)) * 0.3, np.zeros(n)]
    means, squares = ([np.zeros_like(w) for w in weights] for _ in range(2))
    for step in range(1, steps + 1):
        loss, *gradients = loss_and_gradients(sample(rng, 256, presence), *weights)
        for w, gradient, mean, square in zip(weights, gradients, means, squares):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            w -= rate * mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return weights[0], weights[1], loss


presences = [1.0, 0.5, 0.3, 0.1, 0.05, 0.02, 0.01]
trained = [train(presence) for presence in lesson.progress(presences, "models")]
lengths = np.array([np.linalg.norm(W, axis=1) for W, _, _ in trained])  # [model, n]
stored = (lengths > 0.5).sum(axis=1)
often = [f"present {presence:.0%}" for presence in presences]
picture = lesson.bars(often, stored, "features with a direction", ".0f")
lesson.say(f"There are {n} features and {d} dimensions. A direction counts when it is longer than 0.5.")

# %% [markdown]
# ## 3. What it looks like
#
# W @ W.T has the square of each direction's length on its diagonal, and beside it how far two directions overlap. Look
# at two of the seven: the first has only ones and zeros, a dimension for each of the features that count most. In the
# other nearly every feature has a direction, and each overlaps with some.

# %%
rare = trained[-2][0]
shown = min(n, 8)
for directions, presence in ((trained[0][0], presences[0]), (rare, presences[-2])):
    overlaps = (directions @ directions.T)[:shown, :shown]
    caption = f"W @ W.T, the first {shown} features, each present {presence:.0%} of the time"
    lesson.heatmap(overlaps, caption=caption, row_axis="feature", column_axis="feature", format=".1f")

# %% [markdown]
# Why only then? An overlap costs when both features are present: at 2 % that is one time in 2,500. The rest is small
# noise, which a negative bias with relu removes. With features that are always there, every overlap costs always.
#
# ## 4. What follows for a neuron
#
# Read the same thing from the other side. Take one of the dimensions: how many features move it by more than 0.3? This
# is a neuron that answers to several unrelated things (lesson 9).

# %%
answers_to = np.array([(abs(W) > 0.3).sum(axis=0).mean() for W, _, _ in trained])
lesson.bars(often, answers_to, "features that move one dimension, on average", ".1f")
lesson.headline(
    f"By packing them in at an angle, once they are rare: of {n} features {stored[0]} have a direction when all are "
    f"always present, and {stored.max()} when they are rare, in {d} dimensions.",
    picture,
)

# %% [markdown]
# How much do relu and the bias do? Give each model one feature at a time, and sum what comes back where nothing was.
# The control has directions of the same lengths, but random ones.

# %%
one, rng = np.eye(n), np.random.default_rng(2)  # each row is one feature


def noise(W: Array, b: Array) -> tuple[float, float]:
    """What comes back in the wrong places, per feature: from the whole model, and without relu and b."""
    beside = 1 - one
    return float((np.maximum(W @ W.T + b, 0) * beside).sum() / n), float((abs(W @ W.T) * beside).sum() / n)


other = rng.normal(size=(n, d))
other *= np.linalg.norm(rare, axis=1, keepdims=True) / np.linalg.norm(other, axis=1, keepdims=True)
rows = [noise(rare, trained[-2][1]), noise(other, trained[-2][1])]
columns = {"present 2% of the time": ["trained directions", "random directions"], "noise": [row[0] for row in rows]}
lesson.table(columns | {"without relu and b": [row[1] for row in rows]}, format=".2f")

# %% [markdown]
# So a layer may hold more features than it has neurons. Then no single neuron is a feature, and reading them one by one
# (lesson 9) mixes several. Whether a language model does this is not shown here: this toy has nothing but features, and
# nothing in it prefers its axes, while a real neuron has a nonlinearity of its own.

# %%
lesson.keep(lengths=lengths, stored=stored, W=rare, b=trained[-2][1], answers_to=answers_to)

# %% [markdown]
# Exercise (easy, 5 minutes): Where all features are always there, how long is the longest direction beyond the first d?
#
# Hint: `lengths[0, d:]`

# %%
lesson.answer(float(lengths[0, d:].max(initial=0.0)), tolerance=0.1)
lesson.finish()
