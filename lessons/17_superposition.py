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
# send all of them through few dimensions and get them back. Each feature i has a direction, the row W[i]:
#
#     h = x @ W                      few numbers
#     y = relu(h @ W.T + b)          the features again
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


# %%
rng = np.random.default_rng(0)
W, b, x = rng.normal(size=(n, d)) * 0.3, rng.normal(size=n) * 0.1, sample(rng, 64, 0.5)
nudge = np.zeros_like(W)  # of one number of W: the loss must change as the derivative says
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
names = [f"present {p:.0%}" for p in presences]
picture = lesson.bars(names, stored, "features with a direction longer than 0.5", ".0f")

# %% [markdown]
# ## 3. What it looks like
#
# W @ W.T has the square of each direction's length on its diagonal, and beside it how far two directions overlap. Look
# at a model with rare features. (In the first of the seven, a few features have a dimension each: exercise 1.)

# %%
rare, bias, _ = trained[-2]
overlaps = (rare @ rare.T)[:8, :8]
caption = f"W @ W.T, the first {len(overlaps)} features, each present {presences[-2]:.0%} of the time"
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
lesson.bars(names, answers_to, "features that move one dimension, on average", ".1f")
lesson.headline(
    f"By packing them in at an angle, once they are rare: of {n} features {stored[0]} have a direction when all are "
    f"always present, and {stored.max()} when they are rare, in {d} dimensions.",
    picture,
)

# %% [markdown]
# How much do relu and the bias do? Give the model with rare features one of them at a time, and sum what comes back
# where nothing was. The control has directions of the same lengths, but random ones.

# %%
beside = 1 - np.eye(n)  # all places but the right one
other = np.random.default_rng(2).normal(size=(n, d))
other *= np.linalg.norm(rare, axis=1, keepdims=True) / np.linalg.norm(other, axis=1, keepdims=True)
noise = [(np.maximum(W @ W.T + bias, 0) * beside).sum() / n for W in (rare, other)]
bare = [(abs(W @ W.T) * beside).sum() / n for W in (rare, other)]
columns = {"directions": ["trained", "random"], "noise for each feature": noise, "without relu and b": bare}
lesson.table(columns, format=".2f")
lesson.keep(lengths=lengths, stored=stored, W=rare, b=bias, answers_to=answers_to)

# %% [markdown]
# So a layer may hold more features than it has neurons. Then no single neuron is a feature, and reading them one by one
# (lesson 9) mixes several. That a language model does so is not shown here: this toy has nothing but features, and
# nothing in it prefers its axes, while a real neuron has a nonlinearity of its own.

# %% [markdown]
# Exercise (easy, 5 minutes): Where all features are always there, how long is the longest direction beyond the first d?
#
# Hint: `lengths[0, d:]`

# %%
lesson.answer(float(lengths[0, d:].max(initial=0.0)), tolerance=0.1)
lesson.finish()
