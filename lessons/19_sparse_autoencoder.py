# %% [markdown]
"""Which features does a layer hold, and what does a card about one tell you?

What you will learn: to train a sparse autoencoder (SAE) with gradients written by hand, and to test feature cards
against those of random directions. The first run trains for a minute or two, and later ones load what it trained.

Needs: neuron activations, superposition

Time: 15 minutes to read, 9 seconds to run

Paper: Gao et al. 2024, Scaling and Evaluating Sparse Autoencoders, https://arxiv.org/abs/2406.04093
"""

# %% Set-up
from tinymi import Dictionary
from tinymi.arrays import Array
from tinymi.teaching import Lesson

import numpy as np
from features import Settings, adam, components, contexts, kept, promotes, settings_options, streams, windows

lesson = Lesson(__doc__)
settings_options(lesson)
options = lesson.start()
model = lesson.load_model()
settings = Settings.read(options, model)
n, k, point = settings.features, settings.active, f"blocks.{settings.layer}.hook_resid_post"
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


# %% [markdown]
# ## 2. Train it
#
# The text is Python's documentation and library, in windows whose first position is left out (lesson 9). Adam is that
# of lesson 17. Rows of W_dec keep length 1, else features would shrink and rows grow. A feature that has not fired for
# 25 steps is dead, for no gradient reaches it: it starts again from what a stream still lacks. How much of the variance
# is left over in new text? The rival needs no training: the mean plus as many principal components.


# %%
def train() -> Dictionary:
    rng = np.random.default_rng(0)
    (rows,) = streams(model, text[0], [point], lesson.progress)
    mean = rows.mean(axis=0)
    scale = (rows - mean).std()
    W_dec = rng.standard_normal((n, rows.shape[1]), dtype=rows.dtype)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    weights = W_enc, b_enc, W_dec = W_dec.T.copy(), np.zeros(n, rows.dtype), W_dec
    move, fired = adam(weights), np.zeros(n)  # fired: the last step at which each feature did
    for step in lesson.progress(range(1, options.steps + 1), "training"):
        x = (rows[rng.choice(len(rows), 1024)] - mean) / scale
        f, error, slopes = gradients(x, *weights)
        move(slopes)
        fired[f.any(axis=0)] = step
        dead = fired < step - 25
        W_dec[dead] = -error[rng.choice(len(x), dead.sum())]
        W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
        W_enc[:, dead], b_enc[dead], fired[dead] = W_dec[dead].T, 0, step
    return Dictionary(point, (point,), W_enc.T, b_enc * scale, W_dec, mean, b_in=mean, k=k)


sae = kept(model, settings, train, gradients, topk, adam)
(made,), (new,) = (streams(model, part, [point], lesson.progress) for part in text[1:])
rivals = {f"{k} of {n:,} features": sae, f"{k} principal components": components(point, made, k)}
left = [(d.error(new) ** 2).sum() / ((new - new.mean(axis=0)) ** 2).sum() for d in rivals.values()]
lesson.bars(list(rivals), left, "the share of the variance left over in new text", ".2f")
by_hand = topk((new[:99] - sae.b_dec) @ sae.W_enc + sae.b_enc)
lesson.equal("the library finds the features of the formula", by_hand, sae.encode(new[:99]))

# %% [markdown]
# ## 3. Does a card tell when its feature fires?
#
# A card shows where a feature is strongest and what its row promotes, often debris: at this layer it is written for
# later layers, not for the unembedding (lesson 4). Four contexts easily seem to have a meaning. So test 200 cards on
# new text by the plainest rule: a feature fires at the tokens of its ten strongest places. How often is that so at its
# ten strongest places there, and wherever it fires? The control: random directions. Each counts as firing as often as
# the feature that it is paired with. Three cards are drawn by lot, and each names its two shares.

# %%
rng = np.random.default_rng(0)
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
    caption = f"feature {feature}, right at {top:.0%} and {every:.0%}; promotes {promotes(model, sae.W_dec[feature])}"
    lesson.highlight(contexts(model, text[1], f[:, feature]), caption=caption, format=".0f")

# %%
D = rng.standard_normal((new.shape[1], len(drawn)))  # [d_model, direction]
control = test_cards((made - made.mean(axis=0)) @ D, (new - made.mean(axis=0)) @ D)
top, every = np.mean([shares, control], axis=1).T  # of features, and of random directions
columns = {"cards of": ["features", "random directions"], "at the ten strongest": top, "wherever it fires": every}
picture = lesson.table(columns, caption="how often the token is on the card, in new text", format=".2f")
rebuilt = f"{k} features rebuild {1 - left[0]:.0%} of a stream's variance, {k} principal components {1 - left[1]:.0%}"
on = f"In new text a feature's card has the token at {top[0]:.0%} of its strongest places and {every[0]:.0%} of all."
lesson.headline(f"{rebuilt}. {on} A random direction's has it at {top[1]:.0%} and {every[1]:.0%}.", picture)

# %% [markdown]
# Does the model compute with these directions? That is not shown here. The deeper file adds the model's loss, neurons,
# intervals, and a second training.

# %% [markdown]
# Exercise (easy, 5 minutes): How many features fire nowhere in the text of the cards?
#
# Hint: `firings`

# %%
lesson.answer(int((firings == 0).sum()))
lesson.finish()
