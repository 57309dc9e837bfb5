# %% [markdown]
"""Write a transformer yourself, in ten steps, and look into it in three more

Each step is a function of a few lines. Its docstring has the axes of what comes in and of what is asked for. Where a
step builds on earlier ones, call your own. `check` compares a function with the reference on a small made-up model and
on the default model, and says what is wrong. `hint("workshop.1")` gives one hint at a time, and the solution last.

After step 10 your transformer speaks:

    model = tinymi.load()
    tokens = model.to_tokens("The capital of France is")
    logits = forward(tokens, model.weights, model.config.rms_eps, model.config.rope_base)
    print(model.to_string([logits[0, -1].argmax()]))
"""

# %% Set-up
from collections.abc import Callable

from tinymi.arrays import Array, Tokens
from tinymi.weights import BlockWeights, Weights

import numpy as np

# %% [markdown]
# Exercise (easy, 5 minutes): Write `embed`: token ids become vectors. (Compared with `hook_embed`.)
#
# Hint: W_E has a row for each token


# %%
def embed(tokens: Tokens, W_E: Array) -> Array:
    """[batch, pos] -> [batch, pos, d_model]"""
    return W_E[tokens]


# %% Mistakes
MISTAKES = [("W_E[tokens]", "W_E[tokens[0]]", "You have lost the batch axis: tokens are [batch, pos].")]

# %% [markdown]
# Exercise (easy, 10 minutes): Write `rms_norm`: divide each vector by its root mean square, times a learned weight.
#
# Hint: the mean goes over the last axis; `keepdims=True` keeps it for the division
#
# Hint: eps is added to the mean square, under the root


# %%
def rms_norm(resid_pre: Array, ln1: Array, eps: float) -> Array:
    """[batch, pos, d_model] -> the same shape. ln1 [d_model] is the weight; eps keeps you from dividing by 0."""
    size = np.sqrt((resid_pre**2).mean(axis=-1, keepdims=True) + eps)
    normed: Array = resid_pre / size * ln1
    return normed


# %% Mistakes
MISTAKES = [
    (" * ln1", "", "You forgot the learned weight: multiply by `ln1`."),
    ("axis=-1", "axis=1", "You took the mean over the positions: each position has a size of its own."),
    (
        "axis=-1, keepdims=True",
        "keepdims=True",
        "You took one size for all positions: the mean goes over the last axis.",
    ),
    (".mean(", ".sum(", "You divided by the length: the mean of the squares is asked for, not their sum."),
    (
        "np.sqrt((resid_pre**2).mean(axis=-1, keepdims=True) + eps)",
        "((resid_pre**2).mean(axis=-1, keepdims=True) + eps)",
        "You forgot the root.",
    ),
    (
        "resid_pre / size",
        "(resid_pre - resid_pre.mean(axis=-1, keepdims=True)) / size",
        "RMSNorm takes no mean off; LayerNorm does.",
    ),
]

# %% [markdown]
# Exercise (easy, 10 minutes): Write `project`: x times a matrix, cut into heads. (Compared with `hook_q`.)
#
# Hint: `x @ W_Q` has the heads side by side: the first d_head numbers are head 0's


# %%
def project(x: Array, W_Q: Array, d_head: int) -> Array:
    """[batch, pos, d_model] -> [batch, pos, heads, d_head]. W_Q is [d_model, heads * d_head]."""
    side_by_side: Array = x @ W_Q
    return side_by_side.reshape(*x.shape[:2], -1, d_head)


# %% Mistakes
MISTAKES = [
    (
        "side_by_side.reshape(*x.shape[:2], -1, d_head)",
        "side_by_side.reshape(*x.shape[:2], d_head, -1).swapaxes(2, 3)",
        "The numbers are right, but cut in the wrong order: head 0 has the first d_head of them, not every n-th.",
    ),
    ("side_by_side.reshape(*x.shape[:2], -1, d_head)", "side_by_side", "These are the heads side by side: cut them."),
]

# %% [markdown]
# Exercise (hard, 20 minutes): Write `rotate`, RoPE: position p turns pair i by p / rope_base ** (2 i / d_head).
# (Compared with `hook_rot_q`.)
#
# Hint: pair i is the numbers i and i + d_head / 2: not neighbours
#
# Hint: (a, b) becomes (a cos - b sin, b cos + a sin)


# %%
def rotate(q: Array, rope_base: float) -> Array:
    """[batch, pos, heads, d_head] -> the same shape"""
    n_pos, half = q.shape[1], q.shape[-1] // 2
    turn = rope_base ** (-np.arange(half) / half)  # of each pair, for one position
    angle = np.arange(n_pos)[:, None, None] * turn  # [pos, 1, d_head / 2]
    a, b = q[..., :half], q[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


# %% Mistakes
MISTAKES = [
    (
        "a, b = q[..., :half], q[..., half:]\n    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), "
        "b * np.cos(angle) + a * np.sin(angle)], axis=-1)",
        "a, b = q[..., ::2], q[..., 1::2]\n    return np.stack([a * np.cos(angle) - b * np.sin(angle), "
        "b * np.cos(angle) + a * np.sin(angle)], axis=-1).reshape(q.shape)",
        "Your q has the right numbers before RoPE; look at the pairs: i goes with i + d_head / 2, not with i + 1.",
    ),
    ("half)  # of", "q.shape[-1])  # of", "Your angles shrink half as fast as they should: pair i has 2 i / d_head."),
    ("np.arange(n_pos)[", "np.arange(1, n_pos + 1)[", "One position off: the first position is 0, and does not turn."),
    ("angle = np", "angle = -np", "You turned the other way: (a cos - b sin, b cos + a sin)."),
    ("-np.arange(half)", "np.arange(half)", "Your later pairs turn faster: they turn slower."),
]

# %% [markdown]
# Exercise (medium, 15 minutes): Write `look`: the scores of each query with each key, scaled, and causal. (Compared
# with `hook_attn_scores`.)
#
# Hint: there are fewer key heads than query heads: repeat each key head for its group of neighbours
#
# Hint: q . k / sqrt(d_head); where the key comes after the query, minus infinity


# %%
def look(rot_q: Array, rot_k: Array) -> Array:
    """[batch, pos, n_heads, d_head] and [batch, pos, n_kv_heads, d_head] -> [batch, n_heads, query_pos, key_pos]"""
    k = rot_k.repeat(rot_q.shape[2] // rot_k.shape[2], axis=2)
    scores = rot_q.swapaxes(1, 2) @ k.transpose(0, 2, 3, 1) / np.sqrt(rot_q.shape[-1])
    n_pos = rot_q.shape[1]
    future = np.arange(n_pos) > np.arange(n_pos)[:, None]
    return np.where(future, -np.inf, scores)


# %% Mistakes
MISTAKES = [
    (
        "np.where(future, -np.inf, scores)",
        "scores",
        "You let queries look into the future: put -inf where key > query.",
    ),
    (" > np", " < np", "You have hidden the past: the future is where the key's position is above the query's."),
    (" > np", " >= np", "You have hidden each position from itself: it may look there."),
    (" / np.sqrt(rot_q.shape[-1])", "", "You forgot to divide by sqrt(d_head)."),
    ("np.sqrt(rot_q.shape[-1])", "rot_q.shape[-1]", "You divided by d_head: divide by its root."),
    (
        "rot_k.repeat(rot_q.shape[2] // rot_k.shape[2], axis=2)",
        "np.tile(rot_k, (1, 1, rot_q.shape[2] // rot_k.shape[2], 1))",
        "Neighbouring heads share a key head: repeat (0, 0, 1, 1), do not tile (0, 1, 0, 1).",
    ),
]

# %% [markdown]
# Exercise (easy, 10 minutes): Write `softmax`: scores become weights that sum to 1. (Compared with `hook_pattern`.)
#
# Hint: exp, divided by the sum over the keys; take the largest off first, so that nothing overflows


# %%
def softmax(attn_scores: Array) -> Array:
    """The same shape; each row sums to 1."""
    e = np.exp(attn_scores - attn_scores.max(axis=-1, keepdims=True))
    weights: Array = e / e.sum(axis=-1, keepdims=True)
    return weights


# %% Mistakes
MISTAKES = [
    ("e.sum(axis=-1", "e.sum(axis=-2", "Your columns sum to 1: each *query* splits its attention among the keys."),
    ("e / e.sum(axis=-1, keepdims=True)", "e", "You have not divided by the sum."),
]

# %% [markdown]
# Exercise (medium, 10 minutes): Write `gather`: each head's weighted mean of the values. (Compared with `hook_z`.)
#
# Hint: `pattern @ v` with the heads in front: [batch, n_heads, key_pos, d_head]


# %%
def gather(pattern: Array, v: Array) -> Array:
    """[batch, n_heads, query_pos, key_pos] and [batch, pos, n_kv_heads, d_head] -> [batch, pos, n_heads, d_head]"""
    v = v.repeat(pattern.shape[1] // v.shape[2], axis=2).swapaxes(1, 2)
    z: Array = pattern @ v
    return z.swapaxes(1, 2)


# %% Mistakes
MISTAKES = [
    ("pattern @ v", "pattern.swapaxes(2, 3) @ v", "You summed over the queries: each query sums over its keys."),
    (
        "v.repeat(pattern.shape[1] // v.shape[2], axis=2)",
        "np.tile(v, (1, 1, pattern.shape[1] // v.shape[2], 1))",
        "Neighbouring heads share a value head: repeat (0, 0, 1, 1), do not tile (0, 1, 0, 1).",
    ),
]

# %% [markdown]
# Exercise (medium, 15 minutes): Write `attention` out of your functions. (Compared with `hook_attn_out`.)
#
# Hint: queries and keys are rotated, values are not
#
# Hint: lay the heads of z side by side again, then `@ w.W_O`


# %%
def attention(x: Array, w: BlockWeights, rope_base: float) -> Array:
    """[batch, pos, d_model] -> the same shape. x is the normed stream; w has W_Q, W_K, W_V, W_O and d_head."""
    q = rotate(project(x, w.W_Q, w.d_head), rope_base)
    k = rotate(project(x, w.W_K, w.d_head), rope_base)
    v = project(x, w.W_V, w.d_head)
    z = gather(softmax(look(q, k)), v)
    out: Array = z.reshape(*x.shape[:2], -1) @ w.W_O
    return out


# %% Mistakes
MISTAKES = [
    (
        "v = project(x, w.W_V, w.d_head)",
        "v = rotate(project(x, w.W_V, w.d_head), rope_base)",
        "You rotated the values: only queries and keys know their place.",
    ),
    (
        "k = rotate(project(x, w.W_K, w.d_head), rope_base)",
        "k = project(x, w.W_K, w.d_head)",
        "You forgot RoPE on keys.",
    ),
    (
        "q = rotate(project(x, w.W_Q, w.d_head), rope_base)",
        "q = project(x, w.W_Q, w.d_head)",
        "You forgot RoPE on queries.",
    ),
    (
        "z.reshape(",
        "z.swapaxes(1, 2).reshape(",
        "z has its heads side by side already, [batch, pos, n_heads, d_head]: reshape it, and swap nothing.",
    ),
]

# %% [markdown]
# Exercise (easy, 10 minutes): Write `mlp`: the gate silu(x @ W_gate) lets a part of x @ W_in through, and W_out writes
# it. (Compared with `hook_mlp_out`.)
#
# Hint: (silu(x @ W_gate) * (x @ W_in)) @ W_out
#
# Hint: silu(x) = x / (1 + exp(-x))


# %%
def mlp(x_mlp: Array, w: BlockWeights) -> Array:
    """[batch, pos, d_model] -> the same shape. x_mlp is the normed stream; w has W_gate, W_in and W_out."""
    gate = x_mlp @ w.W_gate
    out: Array = (gate / (1 + np.exp(-gate)) * (x_mlp @ w.W_in)) @ w.W_out
    return out


# %% Mistakes
MISTAKES = [
    ("gate / (1 + np.exp(-gate))", "gate", "You forgot silu on the gate."),
    ("gate / (1 + np.exp(-gate))", "1 / (1 + np.exp(-gate))", "This is the sigmoid: silu is x times it."),
    ("gate / (1 + np.exp(-gate))", "np.maximum(gate, 0)", "This is relu: silu is x / (1 + exp(-x))."),
    (" * (x_mlp @ w.W_in)", "", "You forgot what the gate lets through: times x @ W_in."),
    ("x_mlp @ w.W_gate", "x_mlp @ w.W_in", "Both factors read W_in: the gate reads W_gate."),
]

# %% [markdown]
# Exercise (medium, 20 minutes): Write `forward`: embed, all blocks, the final norm, the unembedding. It is a language
# model. (Compared with the logits.)
#
# Hint: in each block attention and MLP read the normed stream, and add to the stream itself
#
# Hint: the MLP reads the stream after attention has added to it


# %%
def forward(tokens: Tokens, weights: Weights, eps: float, rope_base: float) -> Array:
    """[batch, pos] -> [batch, pos, d_vocab]. weights has W_E, blocks, ln_final, W_U; a block has ln1 and ln2."""
    resid = embed(tokens, weights.W_E)
    for w in weights.blocks:
        resid = resid + attention(rms_norm(resid, w.ln1, eps), w, rope_base)
        resid = resid + mlp(rms_norm(resid, w.ln2, eps), w)
    logits: Array = rms_norm(resid, weights.ln_final, eps) @ weights.W_U
    return logits


# %% Mistakes
MISTAKES = [
    ("resid = resid + attention(", "resid = attention(", "Attention *adds* to the stream: nothing is overwritten."),
    ("resid = resid + mlp(", "resid = mlp(", "The MLP *adds* to the stream: nothing is overwritten."),
    ("rms_norm(resid, weights.ln_final, eps)", "resid", "You forgot the final norm."),
    ("rms_norm(resid, w.ln1, eps)", "resid", "Attention reads the normed stream."),
    ("rms_norm(resid, w.ln2, eps)", "resid", "The MLP reads the normed stream."),
    ("w.ln2", "w.ln1", "The MLP's norm has weights of its own: ln2."),
    (
        "rope_base)\n        resid = resid + mlp(",
        "rope_base) + mlp(",
        "The MLP reads the stream after attention has added to it: take one step after the other.",
    ),
]

# %% [markdown]
# Exercise (medium, 15 minutes): Write `patterns`: all attention patterns of a run.
#
# Hint: the loop of `forward`; keep softmax(look(q, k)) of each block on the way


# %%
def patterns(tokens: Tokens, weights: Weights, eps: float, rope_base: float) -> Array:
    """[1, pos] -> [n_layers, n_heads, query_pos, key_pos]"""
    resid = embed(tokens, weights.W_E)
    kept = []
    for w in weights.blocks:
        x = rms_norm(resid, w.ln1, eps)
        q, k = (rotate(project(x, W, w.d_head), rope_base) for W in (w.W_Q, w.W_K))
        kept.append(softmax(look(q, k))[0])
        resid = resid + attention(x, w, rope_base)
        resid = resid + mlp(rms_norm(resid, w.ln2, eps), w)
    return np.stack(kept)


# %% Mistakes
MISTAKES = [("kept.append(softmax(look(q, k))[0])", "kept.append(look(q, k)[0])", "These are scores: softmax them.")]

# %% [markdown]
# Exercise (easy, 10 minutes): Write `streams`, a cache: the stream that enters each block, and the one that leaves the
# last.
#
# Hint: append to a list before each block, and once more at the end


# %%
def streams(tokens: Tokens, weights: Weights, eps: float, rope_base: float) -> Array:
    """[1, pos] -> [1 + n_layers, pos, d_model]"""
    kept = [embed(tokens, weights.W_E)[0]]
    for w in weights.blocks:
        mid = kept[-1][None] + attention(rms_norm(kept[-1][None], w.ln1, eps), w, rope_base)
        kept.append((mid + mlp(rms_norm(mid, w.ln2, eps), w))[0])
    return np.stack(kept)


# %% Mistakes
MISTAKES = [
    ("np.stack(kept)", "np.stack(kept[1:])", "The first stream is missing: the embedding enters block 0."),
    ("np.stack(kept)", "np.stack(kept[:-1])", "The last stream is missing: the one that leaves the last block."),
]

# %% [markdown]
# Exercise (medium, 15 minutes): Write `edited`, a hook: the logits of a run in which `edit` changes the stream that
# enters one layer.
#
# Hint: call `edit(resid)` in the loop where the layer's number is right, before the block reads it


# %%
def edited(
    tokens: Tokens, weights: Weights, eps: float, rope_base: float, layer: int, edit: Callable[[Array], Array]
) -> Array:
    """[1, pos] -> [1, pos, d_vocab]"""
    resid = embed(tokens, weights.W_E)
    for i, w in enumerate(weights.blocks):
        resid = edit(resid) if i == layer else resid
        resid = resid + attention(rms_norm(resid, w.ln1, eps), w, rope_base)
        resid = resid + mlp(rms_norm(resid, w.ln2, eps), w)
    logits: Array = rms_norm(resid, weights.ln_final, eps) @ weights.W_U
    return logits


# %% Mistakes
MISTAKES = [
    ("edit(resid) if i == layer", "resid if i == layer", "Nothing is edited."),
    ("i == layer", "i == layer - 1", "One layer off: you edited what enters the layer before."),
    ("edit(resid) if i == layer else resid", "edit(resid)", "You edited at every layer."),
    (
        "        resid = edit(resid) if i == layer else resid\n"
        "        resid = resid + attention(rms_norm(resid, w.ln1, eps), w, rope_base)\n"
        "        resid = resid + mlp(rms_norm(resid, w.ln2, eps), w)\n",
        "        resid = resid + attention(rms_norm(resid, w.ln1, eps), w, rope_base)\n"
        "        resid = resid + mlp(rms_norm(resid, w.ln2, eps), w)\n"
        "        resid = edit(resid) if i == layer else resid\n",
        "You edited what leaves the layer: edit what enters it.",
    ),
]
