# %% [markdown]
"""Which features does a layer hold, and what does a card about one tell you?

What you will learn: to train a sparse autoencoder (SAE) with gradients written by hand, to hold it against principal
components, and to test feature cards against those of neurons and of random directions. The first run trains, for a
minute or two; then the SAE is kept in tinymi's cache folder.

Needs: neuron activations, superposition

Time: 15 minutes to read, 9 seconds to run

Paper: Gao et al. 2024, Scaling and Evaluating Sparse Autoencoders, https://arxiv.org/abs/2406.04093
"""

# %% Set-up
from tinymi import Dictionary, loss_recovered
from tinymi.arrays import Array
from tinymi.teaching import Lesson

import numpy as np
from features import Settings, components, contexts, kept, promotes, settings_options, streams, windows

lesson = Lesson(__doc__)
settings_options(lesson)
options = lesson.start()
model = lesson.load_model()
settings = Settings.read(options, model)
layer, n, k = settings.layer, settings.features, settings.active
points = (f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.mlp.hook_post")  # the stream, and the neurons
text = windows(model)  # to train on, to make cards from, to test with: each [window, pos]

# %% [markdown]
# ## 1. Many directions, few at a time
#
# A layer can hold more features than dimensions, as long as few are present at once (lesson 17). A sparse autoencoder
# goes the other way: given streams, find directions such that each stream is the mean plus a sum of few of them.
#
#     f = topk((x - mean) @ W_enc + b_enc)    only the k largest stay
#     y = f @ W_dec + mean                    each feature adds its row
#
# The loss is the squared error. Its gradient passes through the active features, and through nothing else.


# %%
def topk(pre: Array) -> Array:
    smallest = np.partition(pre, -k, axis=1)[:, -k, None]  # [row, 1]
    return np.asarray(np.maximum(pre, 0) * (pre >= smallest))


def gradients(x: Array, W_enc: Array, b_enc: Array, W_dec: Array) -> tuple[Array, Array, list[Array]]:
    """For x [row, d], less the mean: features, error, and the derivatives of the mean loss of a row."""
    f = topk(x @ W_enc + b_enc)  # [row, feature]
    error = f @ W_dec - x  # [row, d]
    d_y = 2 * error / len(x)
    d_pre = (d_y @ W_dec.T) * (f > 0)  # [row, feature]
    return f, error, [x.T @ d_pre, d_pre.sum(axis=0), f.T @ d_y]


rng = np.random.default_rng(0)
x, W_enc, b_enc, W_dec = (rng.normal(size=size) for size in ((20, 5), (5, 80), 80, (80, 5)))
f, _, slopes = gradients(x, W_enc, b_enc, W_dec)
nudge = 1e-6 * (np.arange(80) == f.sum(axis=0).argmax())
up, down = ((gradients(x, W_enc, b_enc + d, W_dec)[1] ** 2).sum() / len(x) for d in (nudge, -nudge))
lesson.equal("nudge a number of b_enc: its derivative is the slope", slopes[1] @ nudge, (up - down) / 2, 1e-4)

# %% [markdown]
# ## 2. Train it
#
# The text is Python's documentation and library, in windows whose first position is left out (lesson 9). Adam is that
# of lesson 17. Rows of W_dec keep length 1, else features would shrink and rows grow. A feature that has not fired for
# 25 steps is dead, for no gradient reaches it: it starts again where a row lacks something.


# %%
def train() -> tuple[Dictionary, list[float]]:
    rng = np.random.default_rng(0)
    (rows,) = streams(model, text[0], points[:1], lesson.progress)
    mean = rows.mean(axis=0)
    scale = (rows - mean).std()
    W_dec = rng.standard_normal((n, rows.shape[1]), dtype=rows.dtype)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    weights = W_enc, b_enc, W_dec = W_dec.T.copy(), np.zeros(n, rows.dtype), W_dec
    averages, squares = ([np.zeros_like(w) for w in weights] for _ in range(2))
    fired, curve = np.zeros(n), []  # fired: the last step at which each feature did
    for step in lesson.progress(range(1, options.steps + 1), "training"):
        x = (rows[rng.choice(len(rows), 1024)] - mean) / scale
        f, error, slopes = gradients(x, *weights)
        curve.append(float((error**2).sum() / (x**2).sum()))
        for w, slope, average, square in zip(weights, slopes, averages, squares):
            average += 0.1 * (slope - average)
            square += 0.001 * (slope**2 - square)
            w -= 0.004 * average / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        fired[f.any(axis=0)] = step
        dead = fired < step - 25
        W_dec[dead] = -error[rng.choice(len(x), dead.sum())]
        W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
        W_enc[:, dead], b_enc[dead], fired[dead] = W_dec[dead].T, 0, step
    return Dictionary(points[0], points[:1], W_enc.T, b_enc * scale, W_dec, mean, b_in=mean, k=k), curve


sae, curve, seconds, now = kept(model, settings, train, gradients, topk)
lesson.lines(range(0, len(curve), 20), curve[::20], "the share of the variance left over", "step", "left", ".2f")
lesson.say(f"Trained {'now' if now else 'by an earlier run'}, in {seconds:.0f} seconds.")

# %% [markdown]
# ## 3. What is lost?
#
# Documents that it was not trained on. How much of the variance is left over? And when the model runs on with the
# rebuilt stream, how much of the loss is recovered, between zero in its place (0) and the stream itself (1)? The rival
# needs no training: the mean plus as many principal components.

# %%
(made, made_neurons), (new, new_neurons) = (streams(model, part, points, lesson.progress) for part in text[1:])
mean, pca = made.mean(axis=0), components(points[0], made, k)
left = [(d.error(new) ** 2).sum() / ((new - new.mean(axis=0)) ** 2).sum() for d in (sae, pca)]
losses = [loss_recovered(d, model, text[2][::15]) for d in (sae, pca)]
columns = {"": (f"{k} of {n:,} features", f"{k} principal components"), "variance left over": left}
columns |= {"loss": [loss.reconstructed for loss in losses], "recovered": [loss.share for loss in losses]}
caption = f"the loss is {losses[0].clean:.2f} with the stream itself, {losses[0].zero:.2f} with zero"
lesson.table(columns, caption=caption, format=".2f")

# %% [markdown]
# ## 4. Feature cards, and whether they tell when a feature fires
#
# A card shows where a feature is strongest and what its row promotes, often debris: at this layer it is written for
# later layers, not for the unembedding (lesson 4). Four contexts easily seem to have a meaning. So hold a card against
# documents that it was not made from, by the plainest rule: it fires at the tokens of its ten strongest places. How
# often is that so at its ten strongest places there, and wherever it fires? Three of 200 cards are drawn by lot.

# %%
f, new_f = sae.encode(made), sae.encode(new)  # [row, feature]
firings = (f > 0).sum(axis=0)
drawn = rng.permutation(np.flatnonzero(firings >= 10))[:200]
seen, asked = text[1][:, 1:].ravel(), text[2][:, 1:].ravel()  # the token of each row


def test_cards(a: Array, b: Array) -> Array:
    """How often a token is on the card, [unit, 2], for units on the text of the cards and on new text, [row, unit]."""
    shares = []
    for i, count in enumerate(firings[drawn]):
        order = np.argsort(-a[:, i])
        on_card = np.isin(asked, seen[order[:10]])
        fires = b[:, i] >= a[order[count - 1], i]
        shares.append((on_card[np.argsort(-b[:, i])[:10]].mean(), (on_card & fires).sum() / max(1, fires.sum())))
    return np.array(shares)


shares = test_cards(f[:, drawn], new_f[:, drawn])
for feature, (top, every) in zip(drawn[:3], shares):
    about = f"on new text {top:.0%} and {every:.0%}"
    caption = f"feature {feature}, {about}; it promotes {promotes(model, sae.W_dec[feature])}"
    lesson.highlight(contexts(model, text[1], f[:, feature]), caption=caption, format=".0f")

# %% [markdown]
# ## 5. Is that much?
#
# The controls are neurons of the layer and random directions. Each is paired with a feature, and counts as firing where
# it is so strong that it fires as often.

# %%
some, directions = rng.choice(model.config.d_mlp, len(drawn)), rng.standard_normal((new.shape[1], len(drawn)))
side = np.where(made_neurons.max(axis=0) > -made_neurons.min(axis=0), 1, -1)[some]  # that of the longer tail
tests = {"feature": shares, "neuron": test_cards(made_neurons[:, some] * side, new_neurons[:, some] * side)}
tests["random direction"] = test_cards((made - mean) @ directions, (new - mean) @ directions)
top, every = np.mean(list(tests.values()), axis=1).T  # [kind] each
columns = {f"{len(drawn)} cards each": list(tests), "at the ten strongest places": top, "wherever it fires": every}
picture = lesson.table(columns, caption="how often the token is on the card, in new text", format=".2f")
lesson.headline(
    f"{k} features rebuild {1 - left[0]:.0%} of a stream's variance, {k} principal components {1 - left[1]:.0%}. In "
    f"new text, a card has the token at {top[0]:.0%} of a feature's strongest places (a random direction's: "
    f"{top[2]:.0%}), and at {every[0]:.0%} of all where it fires ({every[2]:.0%}).",
    picture,
)
lesson.keep(curve=curve, unexplained=left, losses=losses, top=top, every=every)

# %% [markdown]
# A card is about the top of a feature: of the many places where it is weak it says little, and less than that of a
# random direction. Whether the model computes with these directions is not shown here. In the deeper file: intervals,
# more controls, and whether a second training finds the same features.

# %% [markdown]
# Exercise (easy, 5 minutes): How many features fire nowhere in the text of the cards?
#
# Hint: `firings`

# %%
lesson.answer(int((firings == 0).sum()))
lesson.finish()
