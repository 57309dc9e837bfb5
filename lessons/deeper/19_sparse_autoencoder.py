# %% [markdown]
"""Does it hold? Feature cards under five controls, a second training, and a transcoder against a matrix

What you will learn: to match controls in how often they fire, to ask whether two trainings find the same features, and
to hold a transcoder against the best linear map. It trains five dictionaries, which takes most of the time.

Needs: sparse autoencoder

Time: 15 minutes to read, 90 seconds to run

Paper: Paulo and Belrose 2025, Sparse Autoencoders Trained on the Same Data Learn Different Features,
https://arxiv.org/abs/2501.16615; Paulo et al. 2025, Transcoders Beat Sparse Autoencoders for Interpretability,
https://arxiv.org/abs/2501.18823
"""

# %% Set-up
import sys

from tinymi import Dictionary, loss_recovered
from tinymi.arrays import Array, Tokens
from tinymi.ops import softmax
from tinymi.teaching import Lesson, prompts, stats

import numpy as np

sys.path.append(f"{sys.path[0]}/..")  # the folder of features.py
from features import Settings, adam, components, dictionary, streams, windows

lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
settings = Settings().fit(model)
n, k, layer = settings.features, settings.active, settings.layer
after = min(layer + 1, model.config.n_layers - 1)  # the layer whose MLP the transcoder replaces
stream, neurons = f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.mlp.hook_post"
mlp_in, mlp_out, resid_mid = (f"blocks.{after}.{x}" for x in ("ln2.hook_normalized", "hook_mlp_out", "hook_resid_mid"))
rng = np.random.default_rng(0)
text = windows(model)  # to train on, to make cards from, to test with: each [window, pos]
sae = dictionary(model, settings)  # as lesson 19 trained it
rows, x_mlp, y_mlp = streams(model, text[0], (stream, mlp_in, mlp_out), lesson.progress)
made, made_neurons = streams(model, text[1], (stream, neurons), lesson.progress)
new, new_neurons, x_new, y_new = streams(model, text[2], (stream, neurons, mlp_in, mlp_out), lesson.progress)
mean = made.mean(axis=0)


def left_over(error: Array, y: Array) -> float:  # of the variance
    return float(np.square(error).sum() / np.square(y - y.mean(axis=0)).sum())


# %% [markdown]
# ## 1. Cards, and five controls
#
# A card is the ten strongest places of a unit in one text; another text tests it. Each unit of a control fires as often
# as the feature that it is paired with. The question: of two places, one where the unit fires and one where it does
# not, which is which? Luck is right in half of the cases. Three rules answer by the card: is the token on it, is the
# token before on it, how similar are the embeddings of the token and of the four before to those on the card? They are
# asked about the ten strongest places of the new text, and about all where the unit fires. The last question is whether
# a strongest place fits this card better than that of another unit.
#
# The controls: random directions; random directions of the whitened stream, in which all components are equally large;
# the SAE before its training; neurons of the layer; both sides of the largest principal components.


# %%
def surroundings(tokens: Tokens) -> Array:
    """What the third rule sees of each place: the token's embedding, and the mean of the four before. [row, 2 * d]"""
    E = model.weights.W_E[tokens]  # [window, pos, d_model]
    E = E / np.linalg.norm(E, axis=-1, keepdims=True)
    before = np.stack([E[:, max(0, pos - 4) : pos].mean(axis=1) for pos in range(1, E.shape[1])], axis=1)
    return np.asarray(np.concatenate([E[:, 1:], before], axis=-1).reshape(-1, 2 * E.shape[-1]))


here, there = surroundings(text[1]), surroundings(text[2])
here, there = here - here.mean(axis=0), there - here.mean(axis=0)
seen, asked = ((part[:, 1:].ravel(), part[:, :-1].ravel()) for part in text[1:])  # each token, and the one before it


def test_cards(a: Array, b: Array) -> Array:
    """[unit, question]: how often right, of units [row, unit] on both texts."""
    similar = there @ here[np.argsort(-a, axis=0)[:10]].mean(axis=0).T  # [row, unit]: each new place to each card
    results = []
    for unit, count in enumerate(firings[drawn[: a.shape[1]]]):
        order, strongest, answers = np.argsort(-a[:, unit]), np.argsort(-b[:, unit])[:10], []
        ranks = np.argsort(np.argsort(similar[:, unit]))
        for fires in (np.isin(np.arange(len(b)), strongest), b[:, unit] >= max(a[order[count - 1], unit], 1e-6)):
            m, rest = max(1, fires.sum()), max(1, (~fires).sum())
            for of_card, of_place in zip(seen, asked):
                on_card = np.isin(of_place, of_card[order[:10]])
                answers.append(((on_card & fires).sum() / m + (~on_card & ~fires).sum() / rest) / 2)
            answers.append((ranks[fires].sum() - m * (m - 1) / 2) / (m * rest) if fires.any() else 0.5)
        others = rng.permutation(np.delete(np.arange(a.shape[1]), unit))[:20]
        results.append([*answers, (similar[strongest][:, [unit]] > similar[strongest][:, others]).mean()])
    return np.array(results)


f, new_f = sae.encode(made), sae.encode(new)
firings = (f > 0).sum(axis=0)
drawn = rng.permutation(np.flatnonzero(firings >= 10))[:600]
random = rng.standard_normal((made.shape[1], n), dtype=mean.dtype)
raw = Dictionary(stream, (stream,), random.T, np.zeros(n, mean.dtype), random.T, mean, b_in=mean, k=k)
live = np.flatnonzero((raw.encode(made) > 0).sum(axis=0) >= 10)[: len(drawn)]
some = rng.choice(model.config.d_mlp, len(drawn))
side = np.where(made_neurons.max(axis=0) > -made_neurons.min(axis=0), 1, -1)[some]  # that of the longer tail
values, V = np.linalg.eigh((made - mean).T @ (made - mean))  # [component], the smallest first; [d, component]
directions = {"random direction": random[:, : len(drawn)], "component": np.hstack([V[:, -k:], -V[:, -k:]])}
directions["whitened"] = V / np.sqrt(np.maximum(values, 1e-3 * values.mean())) @ random[:, : len(drawn)]
tests = {name: test_cards((made - mean) @ D, (new - mean) @ D) for name, D in directions.items()}
tests["neuron"] = test_cards(made_neurons[:, some] * side, new_neurons[:, some] * side)
tests["untrained feature"] = test_cards(raw.encode(made)[:, live], raw.encode(new)[:, live])
tests["feature"] = test_cards(f[:, drawn], new_f[:, drawn])
QUESTIONS = [f"{rule}, {at}" for at in ("strongest", "all") for rule in ("token", "token before", "similar")]
QUESTIONS.append("which card")
right = {kind: results.mean(axis=0) for kind, results in reversed(tests.items())}
caption = f"how often right; {len(drawn)} units of each kind, {2 * k} sides of components"
picture = lesson.table({"rule": QUESTIONS} | right, caption=caption, format=".2f")


def better(a: str, b: str, question: str) -> stats.Estimate:
    """By how much cards of kind a answer better than those of kind b."""
    i = QUESTIONS.index(question)
    return stats.mean_difference(tests[a][:, i], tests[b][:, i])


for kind in ("neuron", "untrained feature", "random direction"):
    lesson.finding(
        f"At their strongest places, cards of features are right more often than those of {kind}s.",
        better("feature", kind, "similar, strongest"),
        control=f"by the token alone {better('feature', kind, 'token, strongest'):.2f}",
    )
lesson.finding(
    "At all places where they fire, cards of random directions are right more often than those of features.",
    better("random direction", "feature", "similar, all"),
    control=f"by the token alone {better('random direction', 'feature', 'token, all'):.2f}; a whitened direction's "
    f"{better('whitened', 'feature', 'similar, all'):.2f}",
)

# %% [markdown]
# So a random direction is no empty control: it is mostly made of the largest components, which are simple things and
# the easiest of all to describe. With equally large components nothing is left of its lead. The intervals draw units;
# the two texts are the same for all.
#
# ## 2. The loss, and other text
#
# When the model runs on with the rebuilt stream, how much of the loss is recovered, between zero in its place (0) and
# the stream itself (1)? Then text of other kinds: that of lesson 9.


# %%
def losses(entering: Array, start: int) -> Array:
    """Of each window, when the model runs on from streams [window, pos, d_model] that enter a layer."""
    parts = []
    for part, ids in zip(np.array_split(entering, 8), np.array_split(chosen, 8)):
        p = softmax(model(part, start_at_layer=start)[:, 1:-1])  # [window, pos, d_vocab]
        parts.append(-np.log(np.take_along_axis(p, ids[:, 2:, None], axis=-1) + 1e-30).mean(axis=(1, 2)))
    return np.concatenate(parts)


def put(into: Array, values: Array) -> Array:  # values [row, d_model], at all positions but the first
    return np.concatenate([into[:, :1], values.reshape(into[:, 1:].shape)], axis=1)


chosen = text[2][::3]
_, cache = model.run_with_cache(chosen, [stream, mlp_in, mlp_out, resid_mid], stop_at_layer=after + 1)
x, pca = cache[stream][:, 1:].reshape(-1, len(mean)), components(stream, made, k)
in_place = {"itself": x, "SAE": sae.reconstruct(x), "components": pca.reconstruct(x), "zero": 0 * x}
loss = {name: losses(put(cache[stream], values), layer + 1) for name, values in in_place.items()}
by_library = loss_recovered(sae, model, chosen[:1]).reconstructed
lesson.equal("the loss of one window, by hand and by the library", loss["SAE"][0], by_library)
means = np.array([values.mean() for values in loss.values()])
columns = {"the stream": list(loss), "loss": means, "recovered": (means[-1] - means) / (means[-1] - means[0])}
lesson.table(columns, caption=f"{len(chosen)} windows", format=".3f")
lesson.finding(
    f"The loss with {k} features is lower than with {k} principal components, by a nat and more.",
    stats.paired_difference(loss["components"], loss["SAE"]),
    1.0,
    control=f"with the stream itself, lower by another {stats.paired_difference(loss['SAE'], loss['itself']):.2f}",
)
kinds: dict[str, list[Array]] = {"as in training": [new]}
for kind, line in prompts("five_kinds"):
    ids = model.to_tokens(line.encode().decode("unicode_escape"))
    kinds.setdefault(kind, []).append(model(ids, stop_at_layer=layer + 1)[0, 1:])
texts = {kind: np.concatenate(parts) for kind, parts in kinds.items()}
columns = {name: [left_over(d.error(x), x) for x in texts.values()] for name, d in (("SAE", sae), ("PCA", pca))}
lesson.table({"text": list(texts)} | columns, caption="variance left over", format=".2f")

# %% [markdown]
# ## 3. A second training
#
# The same text, steps and size; another seed. For each feature: the largest cosine of its row of W_dec with a row of
# the second dictionary, and the largest correlation with a feature there, over the places of a text. The controls: rows
# whose principal components have signs by lot, and activations of another place.


# %%
def topk(pre: Array, k: int) -> Array:
    return np.asarray(np.maximum(pre, 0) * (pre >= np.partition(pre, -k, axis=1)[:, -k, None]))


def train(x: Array, y: Array, n: int, k: int = k, seed: int = 0) -> tuple[Array, Array, Array]:
    """As in the lesson, for y from x, both less their means, with no revival: W_enc, b_enc and W_dec."""
    rng = np.random.default_rng(seed)
    scale_x, scale_y = x.std(), y.std()
    W_dec = rng.standard_normal((n, y.shape[1]), dtype=x.dtype)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    weights = W_enc, b_enc, W_dec = W_dec.T.copy(), np.zeros(n, x.dtype), W_dec
    move = adam(weights)
    for _ in lesson.progress(range(settings.steps), f"{n} features, {k} active"):
        batch = rng.choice(len(x), 1024)
        f = topk(x[batch] / scale_x @ W_enc + b_enc, k)
        d_y = 2 * (f @ W_dec - y[batch] / scale_y) / len(batch)
        d_pre = (d_y @ W_dec.T) * (f > 0)
        move((x[batch].T / scale_x @ d_pre, d_pre.sum(axis=0), f.T @ d_y))
        W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    return W_enc, b_enc * scale_x, W_dec * (scale_y / scale_x)


def as_sae(n: int, k: int, seed: int = 0) -> Dictionary:
    center = rows.mean(axis=0)
    x = rows - center
    W_enc, b_enc, W_dec = train(x, x, n, k, seed)
    return Dictionary(stream, (stream,), W_enc.T, b_enc, W_dec, center, b_in=center, k=k)


second = as_sae(n, k, seed=1)
own_f, other_f = ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6) / np.sqrt(len(x)) for x in (f, second.encode(made)))
flipped = (second.W_dec @ V * rng.choice([-1.0, 1.0], second.W_dec.shape)) @ V.T
matches = {"cosine": sae.W_dec @ second.W_dec.T, "signs by lot": sae.W_dec @ flipped.T}
matches |= {"correlation": own_f.T @ other_f, "another place": own_f.T @ np.roll(other_f, 200, axis=0)}
best = {name: table.max(axis=1) for name, table in matches.items()}
bars = (0.5, 0.7, 0.9)
found = {name: [(values > bar).mean() for bar in bars] for name, values in best.items()}
lesson.table({"above": bars} | found, caption="share of the features with such a partner in the second", format=".2f")
lesson.finding(
    "At least half of the features come back in a second training, with a cosine above 0.7.",
    stats.mean(best["cosine"] > 0.7),
    0.5,
    control=f"signs by lot: {found['signs by lot'][1]:.2f}",
)

# %% [markdown]
# ## 4. How many features, and how many at once?

# %%
sizes = {(n, k): sae} | {(width, active): as_sae(width, active) for width, active in ((n // 4, k), (n // 4, k // 4))}
columns = {"features": [width for width, _ in sizes], "active": [active for _, active in sizes]}
columns |= {"variance left over": [left_over(d.error(new), new) for d in sizes.values()]}
columns |= {"never fire": [int((d.encode(new) == 0).all(axis=0).sum()) for d in sizes.values()]}
lesson.table(columns, caption="in new text", format=".2f")

# %% [markdown]
# ## 5. A transcoder, and a matrix
#
# A transcoder predicts by features what an MLP writes from what it reads; here it is the MLP of the next layer. Put
# each stand-in in the MLP's place. How much of the MLP's effect on the loss comes back, between its mean and itself?
# The control has no features at all: the best linear map. A skip transcoder has both: features for what the map leaves.
# A figure that the map alone comes near says little about features.

# %%
x_mlp, x_new, x = (values * model.weights.blocks[after].ln2 for values in (x_mlp, x_new, cache[mlp_in][:, 1:]))
mean_x, mean_y = x_mlp.mean(axis=0), y_mlp.mean(axis=0)
X, Y = x_mlp - mean_x, y_mlp - mean_y
A = np.linalg.solve(X.T @ X + 1e-3 * len(X) * X.var() * np.eye(len(mean_x), dtype=X.dtype), X.T @ Y)  # ridge regression
only, skip = train(X, Y, n // 2), train(X, Y - X @ A, n // 2)


def predictions(x: Array) -> dict[str, Array]:
    """What each stand-in writes, from what the MLP reads: [row, d_model] each."""
    x = x - mean_x
    by_features = [topk(x @ W_enc + b_enc, k) @ W_dec for W_enc, b_enc, W_dec in (only, skip)]
    parts = {"its mean": 0 * x, "linear map": x @ A, "transcoder": by_features[0], "skip": x @ A + by_features[1]}
    return {name: mean_y + part for name, part in parts.items()}


before, whole = cache[resid_mid][:, 1:].reshape(-1, len(mean)), cache[resid_mid] + cache[mlp_out]
own, stand_ins = losses(whole, after + 1), predictions(x.reshape(before.shape))
loss |= {name: losses(put(whole, before + written), after + 1) for name, written in stand_ins.items()}
columns = {"in its place": list(stand_ins)}
columns |= {"variance left over": [left_over(y_new - y, y_new) for y in predictions(x_new).values()]}
worth = (loss["its mean"] - own).mean()
columns |= {"recovered": [1 - (loss[name] - own).mean() / worth for name in stand_ins]}
lesson.table(columns, caption=f"MLP {after}: its mean costs {worth:.2f} nats", format=".2f")
lesson.finding(
    "The model loses less with features beside the linear map than with the map alone.",
    stats.paired_difference(loss["linear map"], loss["skip"]),
    control=f"nats; with features alone, more: {stats.paired_difference(loss['transcoder'], loss['linear map']):.3f}",
    format=".3f",
)

feature, other, again = right["feature"], right["random direction"], found["cosine"][1]
lesson.headline(
    f"Of two places, a card tells a feature's strongest in {feature[2]:.0%} of the cases (a random direction's: "
    f"{other[2]:.0%}), any where it fires in {feature[5]:.0%} ({other[5]:.0%}). A second training finds {again:.0%} of "
    "the features again.",
    picture,
)
lesson.keep(right=right, found=found, loss=loss)
lesson.finish()
