# %% [markdown]
"""What is a language model made of, and can you read it without running it?

What you will learn: the matrices of a transformer, what each is for and how large it is; to read two of them like a
dictionary: which words the embedding holds to be alike, and what an attention head makes of a word.

Needs: quick start, tour

Time: 10 minutes to read, 5 seconds to run

Paper: Elhage et al. 2021, A Mathematical Framework, https://transformer-circuits.pub/2021/framework/index.html
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.ops import rms_norm, silu
from tinymi.teaching import Lesson, Token, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default=" king Paris France seven green father", help="each token of this text is looked up")
options = lesson.start()
model = lesson.load_model()
weights, blocks, config = model.weights, model.weights.blocks, model.config

# %% [markdown]
# ## 1. The parts
#
# A model is a pile of matrices. First comes the embedding W_E with a row for each token, last the unembedding W_U with
# a column for each token. Between them, each layer has the same seven.

# %%
purpose = {
    "W_Q": "attention, queries: what a token looks for",
    "W_K": "attention, keys: what a token is found by",
    "W_V": "attention, values: what a token hands over",
    "W_O": "attention: writes what the heads fetched",
    "W_gate": "MLP: how far each neuron opens",
    "W_in": "MLP: what each neuron lets through",
    "W_out": "MLP: what each neuron writes",
}
columns = {"matrix": list(purpose), "shape": [str(getattr(blocks[0], name).shape) for name in purpose]}
columns |= {"what it is for": list(purpose.values())}
lesson.table(columns, caption=f"one of {len(blocks)} layers; before them W_E, {config.d_vocab} x {config.d_model}")

# %% [markdown]
# ## 2. Which words are alike?
#
# Two tokens are alike if the cosine of their rows of W_E is near 1. One matmul compares your words with all tokens.

# %%
words = model.to_tokens(options.prompt, add_special_tokens=False)[0]  # [word]
pieces = [Token(piece) for piece in model.to_str_tokens(words)]
row_norms = np.linalg.norm(weights.W_E, axis=1, keepdims=True)  # [d_vocab, 1]
cosine = weights.W_E[words] @ weights.W_E.T / (row_norms[words] * row_norms.T)  # [word, d_vocab]


def top(scores: Array) -> str:
    """The six tokens with the highest scores [d_vocab]."""
    return " ".join(map(show_token, model.to_str_tokens(np.argsort(-scores)[:6])))


embedding = {"mean": weights.W_E.mean(dtype=float), "standard deviation": weights.W_E.std(dtype=float)}
embedding |= {"norm": np.sqrt((row_norms**2).sum(dtype=float)), "norm of a row": row_norms.mean()}
about = "W_E: " + ", ".join(f"{name} {value:.4g}" for name, value in embedding.items())
lesson.table({"word": pieces, "most alike, itself first": [top(row) for row in cosine]}, caption=about)

# %% [markdown]
# ## 3. What does a head make of a word?
#
# A head that looks at a token takes its vector through W_V and W_O, two fixed matrices: the head's *OV circuit*. The
# result goes to the residual stream, and W_U says which tokens it promotes. So we can ask every head what it would make
# of a word, without any text. (It gets the word as the first MLP hands it on.)

# %%
x = rms_norm(weights.W_E[words], blocks[0].ln2, config.rms_eps)  # [word, d_model]
vectors = weights.W_E[words] + silu(x @ blocks[0].W_gate) * (x @ blocks[0].W_in) @ blocks[0].W_out
writes = []  # of head 0.0, 0.1, ..., 1.0, ...
for block in blocks:
    x = rms_norm(vectors, block.ln1, config.rms_eps)
    for head in range(config.n_heads):
        shared = head // (config.n_heads // config.n_kv_heads)  # several heads share one W_V
        writes.append(x @ block.heads.W_V[shared] @ block.heads.W_O[head])  # [word, d_model]

# %% [markdown]
# Which head promotes the word itself most? Its score: the word's logit, in standard deviations above the mean of all
# tokens. The control: the best score of as many random vectors. We choose the head for the word, so the word on its
# list proves nothing. What of the others? (You have met 23.4 in the quick start.)

# %%
noise = np.random.default_rng(0).normal(size=(len(writes), config.d_model))
rows = []
for i, word in enumerate(words):
    vectors_written = np.array([write[i] for write in writes] + list(noise), dtype=np.float32)
    logits = vectors_written * weights.ln_final @ weights.W_U  # [heads and as many random vectors, d_vocab]
    scores = (logits[:, word] - logits.mean(axis=1)) / logits.std(axis=1)
    best = int(scores[: len(writes)].argmax())
    name = "{}.{}".format(*divmod(best, config.n_heads))
    rows.append((name, scores[best], scores[len(writes) :].max(), top(logits[best])))
heads, scores, chance, promoted = zip(*rows)
circuits = {"word": pieces, "head": heads, "promotes": promoted, "score": scores, "control": chance}
picture = lesson.table(circuits, format=".1f")
i = int(np.argmax(scores))
lesson.headline(f"Give head {heads[i]} the word {show_token(pieces[i])}, and it writes {promoted[i]}.", picture)

# %% [markdown]
# ## 4. Are later layers larger?
#
# The size of a matrix is its Frobenius norm, the root of the sum of its squared entries. Does W_K shrink with depth?

# %%
norms = np.array([[np.linalg.norm(getattr(block, name)) for name in purpose] for block in blocks])
shown, about = range(0, len(blocks), 2), "norm / column mean, every second layer"
lesson.heatmap((norms / norms.mean(axis=0))[shown], shown, list(purpose), about, "layer", center=1, format=".2f")

# %% [markdown]
# Now the control. All of these but W_O and W_out read through a norm, which multiplies each input by a learned number.
# That number may as well stand in the matrix. Put it there, and measure again.

# %%
folded = norms.copy()
for layer, block in enumerate(blocks):
    folded[layer, :3] = [np.linalg.norm(block.ln1[:, None] * W) for W in (block.W_Q, block.W_K, block.W_V)]
    folded[layer, 4:6] = [np.linalg.norm(block.ln2[:, None] * W) for W in (block.W_gate, block.W_in)]
third = max(len(blocks) // 3, 1)
growth = {"alone": norms[-third:].mean(axis=0) / norms[:third].mean(axis=0)}
growth["with the norm's weight"] = folded[-third:].mean(axis=0) / folded[:third].mean(axis=0)
lesson.table({"matrix": list(purpose)} | growth, caption="last third of the layers / first third", format=".2f")
lesson.equal("same keys, folded or not", vectors * block.ln1 @ block.W_K, vectors @ (block.ln1[:, None] * block.W_K))
lesson.keep(n_layers=len(blocks), frobenius=dict(zip(purpose, norms.T)), embedding=embedding)

# %% [markdown]
# Exercise (easy, 3 minutes): What is the cosine of your first and last word?
#
# Hint: `cosine` has a row for each word, and a column for each token

# %%
lesson.answer(cosine[0, words[-1]])

# %% [markdown]
# Exercise (medium, 10 minutes): A squared norm is the sum of the squared singular values. Which share of it do the
# largest 8 hold, in the first W_K of layer 0? And in a random matrix of this shape?
#
# Hint: np.linalg.svd(blocks[0].heads.W_K[0], compute_uv=False)

# %%
singular = np.linalg.svd(blocks[0].heads.W_K[0], compute_uv=False)
lesson.answer((singular[:8] ** 2).sum() / (singular**2).sum())
lesson.finish()
