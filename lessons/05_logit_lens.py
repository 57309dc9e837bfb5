# %% [markdown]
"""Do early layers know nothing, or do we read them wrongly?

What you will learn: to read every layer and position, to recognise debris, and to build a translator in one matmul.

Needs: token prediction sweep

Time: 12 minutes to read, 8 seconds to run

Paper: Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens,
https://arxiv.org/abs/2303.08112
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.teaching import Lesson, Token, prompts, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The capital of France is", help="the prompt to read")
options = lesson.start()
model = lesson.load_model()
n_layers, ln_final, W_U = model.config.n_layers, model.weights.ln_final, model.weights.W_U
points = ["hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(n_layers))]
labels = ["embed", *range(n_layers)]

# %% [markdown]
# ## 1. Every layer, every position
#
# The logit lens of lesson 04, now at all positions of one prompt. A cell shows the token that would come next if the
# model ended there, its colour how probable it would be. The last row is what the model says.


# %%
def streams_of(text: str) -> Array:
    _, cache = model.run_with_cache(model.to_tokens(text), points, stop_at_layer=n_layers)
    resid = np.stack([cache[point][0] for point in points])  # [1 + n_layers, pos, d_model]
    return np.asarray(resid / np.sqrt((resid * resid).mean(axis=-1, keepdims=True) + model.config.rms_eps))  # normed


def read(x: Array) -> Array:
    logits = (x * ln_final) @ W_U
    logits = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))  # log probabilities


streams = streams_of(options.prompt)
log_p = read(streams[:, -8:])  # of the last eight positions
first = log_p.argmax(axis=-1)  # [1 + n_layers, pos]
says = [[Token(piece) for piece in model.to_str_tokens(row)] for row in first]
pieces = [Token(piece) for piece in model.to_str_tokens(options.prompt)[-8:]]
about = "what each layer would say after each token"
p_first = np.exp(log_p.max(axis=-1))
lesson.heatmap(p_first, labels, pieces, about, "layer", center=None, texts=says, color="probability")

# %% [markdown]
# What are readouts such as `<filename>`? Debris. A score is a dot product, so a token with a long column in `W_U` wins
# where a stream points at no token in particular. Of the tokens in the grid, these have the longest columns.

# %%
length = np.linalg.norm(W_U, axis=0)  # [d_vocab]
longest = np.unique(first)[np.argsort(-length[np.unique(first)])][:3]
table = {"token": [Token(piece) for piece in model.to_str_tokens(longest)], "length": length[longest]}
table |= {"longer columns": [int((length > length[token]).sum()) for token in longest]}
caption = f"half of all {len(length):,} columns are shorter than {np.median(length):.2f}"
lesson.table(table, caption=caption, format=".2f")

# %% [markdown]
# ## 2. Another language: an example
#
# The lens assumes that every layer speaks the language of the last one. Does it have to? At each layer, the streams of
# some ordinary text have a mean: what this layer always says. Take it off, and add the mean of the last layer instead.
# This shift is a constant that knows nothing of your prompt. Does it help?

# %%
rows = np.unique(np.linspace(0, n_layers, 6).astype(int))  # 0 is the embedding, the last one the last layer
text = [line[0].replace(r"\n", "\n") for line in prompts("lens_train")[::2]]
train = np.concatenate([streams_of(paragraph)[rows, 1:] for paragraph in lesson.progress(text, "text")], axis=1)
mean = train.mean(axis=1)  # [row, d_model]
x = streams[rows, -1]  # the last position of the prompt
shifted = x - mean + mean[-1]
answer = int(log_p[-1, -1].argmax())  # what the model says in the end
raw_rank, shifted_rank = [1 + (read(y) > read(y)[:, [answer]]).sum(axis=-1) for y in (x, shifted)]
followed = show_token(model.to_str_tokens([answer])[0])
lesson.say(f"After layer {labels[rows[-2]]} {followed} has rank {raw_rank[-2]:,}, with the shift {shifted_rank[-2]:,}.")

# %% [markdown]
# ## 3. A translator in one matmul
#
# A matrix can turn a language as well. So give each layer a matrix `A` that makes of its stream what the last layer
# will make of it, as far as a linear map can: ridge regression. The penalty keeps it from learning text by heart.

# %%
penalty = 0.1 * train.shape[1] * np.eye(model.config.d_model, dtype=train.dtype)
A = []
for row in range(len(rows)):
    X, Y = train[row] - mean[row], train[-1] - mean[-1]  # [token, d_model]
    A.append(np.linalg.solve(X.T @ X + penalty, X.T @ Y))  # [d_model, d_model]
lesson.equal("the matrix solves its equations", (X.T @ X + penalty) @ A[-1], X.T @ Y, 1e-3)
translated = read(np.stack([mean[-1] + (x[row] - mean[row]) @ A[row] for row in range(len(rows))]))
table = {"layer": [labels[row] for row in rows], "raw lens": raw_rank, "shifted": shifted_rank}
table |= {"translated": 1 + (translated > translated[:, [answer]]).sum(axis=-1)}
best = [" ".join(map(show_token, model.to_str_tokens(np.argsort(-scores)[:4]))) for scores in translated]
lesson.table(table | {"the translated lens says": best}, caption=f"the rank of {followed} at the last position")

# %% [markdown]
# ## 4. Is it true of text that the translators have not seen?
#
# How far is a reading from what the model will say, in bits (the KL divergence)? Two controls: the mean of all
# predictions knows nothing, and the translated embedding knows one token and no layer.

# %%
text = [line[0].replace(r"\n", "\n") for line in prompts("lens_test")]
held_out = np.concatenate([streams_of(paragraph)[rows, 1::8] for paragraph in text], axis=1)  # [row, token, d_model]
final = read(held_out[-1])


def bits(log_q: Array) -> float:
    return max(float((np.exp(final) * (final - log_q)).sum(axis=-1).mean() / np.log(2)), 0.0)  # rounding apart


average = np.exp(read(train[-1][::4])).mean(axis=0)  # of the predictions: [d_vocab]
raw = [bits(read(x)) for x in held_out[1:]]  # from the first row after the embedding
shift = [bits(read(x)) for x in (held_out - mean[:, None] + mean[-1])[1:]]
tuned = [bits(read(mean[-1] + (x - mean[row]) @ A[row])) for row, x in enumerate(held_out)]
curves = {"raw lens": raw, "shifted": shift, "translated": tuned[1:]}
controls = f"average prediction {bits(np.log(average)):.1f}, translated embedding {tuned[0]:.1f}"
picture = lesson.lines(list(rows[1:] - 1), curves, f"bits from the prediction; {controls}", "layer", "bits", ".1f")
far, near = raw[len(rows) // 2 - 1], tuned[len(rows) // 2]
bits_off = f"Half way up, the raw lens is {far:.1f} bits from what the model will say, and a translator {near:.1f}."
lesson.headline(f"{bits_off} Knowing the last token alone, and no layer, gives {tuned[0]:.1f}.", picture)

# %% [markdown]
# Exercise (easy, 5 minutes): Which token does the average prediction favour?
#
# Hint: `average` has a probability for each token

# %%
lesson.answer(show_token(model.to_str_tokens([int(average.argmax())])[0]))

# %% [markdown]
# Exercise (medium, 5 minutes): How far is the translator of the last layer from the prediction, in bits? Why not 0?
#
# Hint: `tuned` has a number for each layer; for the question why, see what is fitted in section 3

# %%
lesson.answer(tuned[-1])
lesson.finish()
