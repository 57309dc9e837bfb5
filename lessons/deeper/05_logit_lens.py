# %% [markdown]
"""Does it hold? What translators add to a constant and to the token, on text they have not seen

What you will learn: to choose a penalty without looking at the test, to take the strongest constant and not a weak one
as the control, to draw paragraphs, and to see debris for what it is.

Needs: logit lens

Time: 10 minutes to read, 20 seconds to run

Paper: Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens,
https://arxiv.org/abs/2303.08112 (trained by gradient descent on the KL divergence; here ridge regression)
"""

# %% Set-up
from collections.abc import Sequence

from tinymi.arrays import Array
from tinymi.ops import rms
from tinymi.teaching import Lesson, Token, prompts, stats

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
n_layers, ln_final, W_U = model.config.n_layers, model.weights.ln_final, model.weights.W_U
points = ["hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(n_layers))]
labels = ["embed", *range(n_layers)]
rows = np.unique(np.linspace(0, n_layers, 11).astype(int))  # 0 is the embedding, the last one the last layer
rng = np.random.default_rng(0)


def paragraphs(name: str) -> list[str]:
    return [line[0].replace(r"\n", "\n") for line in prompts(name)]


def gather(texts: Sequence[str], every: int = 1) -> tuple[Array, Integers]:
    """Normed streams of all positions but the first: [row, token, d_model]; and the paragraph of each token."""
    parts = []
    for text in lesson.progress(texts, "text"):
        _, cache = model.run_with_cache(model.to_tokens(text), [points[row] for row in rows], stop_at_layer=n_layers)
        resid = np.stack([cache[points[row]][0, 1::every] for row in rows])
        parts.append(resid / rms(resid, model.config.rms_eps))
    return np.concatenate(parts, axis=1), np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])


def read(x: Array) -> Array:
    """Log probabilities, [..., d_model] -> [..., d_vocab]."""
    logits: Array = (x * ln_final) @ W_U
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def bits(log_p: Array, log_q: Array) -> Array:
    """KL divergence of each row in bits: how far the reading q is from the prediction p."""
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=-1) / np.log(2))


# %% [markdown]
# ## 1. Choose the penalty
#
# A translator has as many numbers as `d_model` squared, and a few hundred tokens cannot fix them. The penalty pulls the
# matrix towards zero, and so the translation towards the constant. It is chosen on the last quarter of the training
# paragraphs: what share of the last layer's variance is left unexplained?

# %%
train, owner = gather(paragraphs("lens_train"))
test, test_owner = gather(paragraphs("lens_test"), every=4)


def ridge(x: Array, y: Array, penalty: float) -> tuple[Array, Array, Array]:
    """The matrix [d_model, d_model] and the two means of the ridge regression of y on x, both [token, d_model]."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    X, Y = (x - mean_x).astype(np.float64), (y - mean_y).astype(np.float64)
    A = np.linalg.solve(X.T @ X + penalty * len(X) * np.eye(X.shape[1]), X.T @ Y)
    return A.astype(np.float32), mean_x, mean_y


def translate(x: Array, translator: tuple[Array, Array, Array]) -> Array:
    A, mean_x, mean_y = translator
    return np.asarray(mean_y + (x - mean_x) @ A)


def left_over(row: int) -> list[float]:
    """The share of variance left unexplained on the last quarter by translators fitted on the rest, by penalty."""
    fit = owner < 0.75 * len(np.unique(owner))
    x, y = train[row, ~fit], train[-1, ~fit]
    fitted = [ridge(train[row, fit], train[-1, fit], penalty) for penalty in PENALTIES]
    return [float(np.square(y - translate(x, t)).sum() / np.square(y - t[2]).sum()) for t in fitted]


unexplained = np.mean([left_over(len(rows) * quarter // 4) for quarter in (1, 2, 3)], axis=0)
penalty = PENALTIES[int(np.argmin(unexplained))]
lesson.table({"penalty per token": PENALTIES, "unexplained": unexplained}, caption=f"chosen: {penalty:g}", format=".2f")
translators = [ridge(train[row], train[-1], penalty) for row in lesson.progress(range(len(rows)), "translators")]

# %% [markdown]
# ## 2. Raw, constant, translated
#
# The strongest constant is the mean of the model's own predictions, and not the lens of the mean stream: no reading
# that says the same for every token is closer on average. A raw lens that is worse than that does not show ignorance.
# It shows that we read in the wrong language. What is better on the training text only was learnt by heart.

# %%
some = np.arange(0, train.shape[1], 8)  # of the training text
predictions = read(train[-1, some])
constant = np.log(np.exp(predictions).mean(axis=0))
final = read(test[-1])
of_constant = bits(final, constant)
by_heart = [float(bits(predictions, read(translate(x[some], t))).mean()) for x, t in zip(train, translators)]


def judge(x: Array) -> tuple[Array, Array]:
    """Of a reading of the held-out text: bits from the prediction, and whether its likeliest token is the model's."""
    reading = read(x)
    return bits(final, reading), reading.argmax(axis=-1) == final.argmax(axis=-1)


raw, raw_agrees = map(np.array, zip(*map(judge, test)))  # [row, token] each
tuned, agrees = map(np.array, zip(*(judge(translate(x, t)) for x, t in zip(test, translators))))
lesson.table(
    {
        "layer": [labels[row] for row in rows],
        "raw": raw.mean(axis=1),
        "translated": tuned.mean(axis=1),
        "translated, training text": by_heart,
        "raw agrees": [f"{row.mean():.0%}" for row in raw_agrees],
        "translated agrees": [f"{row.mean():.0%}" for row in agrees],
    },
    caption=f"bits from the prediction on {test.shape[1]} held-out tokens ({train.shape[1]:,} to learn from), and how "
    f"often the likeliest token is the model's. The constant is {of_constant.mean():.2f} bits away, the lens of the "
    f"mean stream {bits(final, read(translators[0][2])).mean():.2f}",
    format=".2f",
)

# %% [markdown]
# What do the layers of the first half know? Each finding has its own control: the constant, the translated embedding
# (one token, and no layer at work), the training text. All intervals draw whole paragraphs.

# %%
early = [number for number, row in enumerate(rows) if 0 < row <= max(n_layers // 2, 1)]
early_raw, early_tuned = raw[early].mean(axis=0), tuned[early].mean(axis=0)  # [token]
lesson.finding(
    "The raw lens is worse than a constant in the first half of the layers: it reads them wrongly.",
    stats.mean_by_group(early_raw - of_constant, test_owner),
    control=f"raw {early_raw.mean():.2f} bits, constant {of_constant.mean():.2f}",
)
lesson.finding(
    "Translators know more of these layers than any constant could.",
    stats.mean_by_group(of_constant - early_tuned, test_owner),
    above=0.25,
    control=f"translated {early_tuned.mean():.2f} bits; {np.mean([by_heart[i] for i in early]):.2f} on the training "
    "text, and the difference was learnt by heart",
)
lesson.finding(
    "These layers know more than the token alone.",
    stats.mean_by_group(tuned[0] - early_tuned, test_owner),
    above=0.25,
    control=f"the translated embedding, which knows the token and no layer, is {tuned[0].mean():.2f} bits away",
)
excess = early_tuned.mean() - np.mean([by_heart[i] for i in early])
lesson.finding(
    "The translators gain more on text they have not seen than they have learnt by heart.",
    stats.mean_by_group(of_constant - early_tuned - excess, test_owner),
    control=f"over-fitting is {excess:+.2f} bits, the gain over the constant {(of_constant - early_tuned).mean():+.2f}",
)

# %% [markdown]
# A translator is fitted to say what the model will say. That a linear map finds it in a layer does not mean that the
# model has it ready there, or uses it.
#
# ## 3. Debris
#
# The raw lens says `<filename>` or similar where a stream points at no token in particular. If that is because long
# columns of `W_U` win there, random vectors must give the longest columns more often than a column's share, and the
# last layer's streams must not. The long columns: the longest of each thousand. The embeddings of random tokens, most
# of them rare, are shown beside them.

# %%
length = np.linalg.norm(W_U, axis=0)
is_long = length >= np.sort(length)[-max(len(length) // 1000, 1)]
vocabulary = rng.choice(len(length), min(400, len(length)), replace=False)
held = {
    "embeddings of random tokens": read(model.weights.W_E[vocabulary] / rms(model.weights.W_E[vocabulary], 0)),
    "random vectors": read(rng.standard_normal((400, model.config.d_model), dtype=np.float32)),
    "the last layer, held-out text": final,
}
long_first = {name: is_long[log_p.argmax(axis=-1)].astype(float) for name, log_p in held.items()}
longest = np.argsort(-length)[:8]
lesson.table(
    {"read": list(held), "a long column comes first": [f"{x.mean():.1%}" for x in long_first.values()]},
    caption=f"{is_long.sum()} long columns of {len(length):,}",
)
pieces = [Token(piece) for piece in model.to_str_tokens(longest)]
lesson.table({"the longest columns": pieces, "length": length[longest]}, format=".2f")
lesson.finding(
    "Where a stream points at no token in particular, the longest columns of the unembedding come first.",
    stats.mean(long_first["random vectors"]),
    above=0.01,
    control=f"{is_long.mean():.1%} of all columns are long; in the last layer they come first for "
    f"{long_first['the last layer, held-out text'].mean():.1%} of the tokens",
    format=".1%",
)

# %% [markdown]
# ## 4. Checks

# %%
middle = len(rows) // 2
A, mean_x, mean_y = translators[middle]
X, Y = (train[middle] - mean_x).astype(np.float64), (train[-1] - mean_y).astype(np.float64)
root = np.sqrt(penalty * len(X)) * np.eye(X.shape[1])  # one more row for each number: least squares with a penalty
fitted = np.linalg.lstsq(np.vstack([X, root]), np.vstack([Y, np.zeros_like(root)]))[0]
lesson.equal("ridge regression is least squares with a row for each penalty", A, fitted, 1e-3)
nothing = translate(test[0], ridge(train[0], train[-1], 1e9))
lesson.equal("with an infinite penalty a translator says the mean", nothing, np.tile(mean_y, (len(nothing), 1)), 1e-3)
lesson.check("KL is never negative (bits)", max(0.0, -float(min(raw.min(), tuned.min()))), 1e-4)
lesson.keep(
    penalty=penalty, rows=rows, raw=raw.mean(axis=1), tuned=tuned.mean(axis=1), constant=float(of_constant.mean()),
    token=float(tuned[0].mean()), by_heart=by_heart,
)  # fmt: skip
lesson.finish()
