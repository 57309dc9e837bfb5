# %% [markdown]
"""What is a language model made of, and do its later layers have larger weights?

What you will learn: the matrices of a transformer, their shapes, what each is for, and how to ask a question of
depth so that chance cannot answer it.

Hook points used: none; this lesson reads the weights, not a run

Needs: lesson 0

Time: 10 minutes to read, 5 seconds to run

Paper: Touvron et al. 2023, LLaMA (the block's layout); Spearman 1904 (rank correlation)
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.lesson import Lesson
from tinymi.weights import BlockWeights

import numpy as np
import numpy.typing as npt

MATRICES = ("W_Q", "W_K", "W_V", "W_O", "W_gate", "W_in", "W_out")

lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
config, weights = model.config, model.weights

# %% 1. The whole model in a few numbers
lesson.section("1. The whole model in a few numbers")
lesson.say("Every number below follows from the shapes of the matrices. Look at where most parameters are.")


def block_size(block: BlockWeights) -> dict[str, int]:
    """Parameters of one block: each matrix, and everything small (norm weights, biases) together."""
    sizes = {name: int(getattr(block, name).size) for name in MATRICES}
    small = (block.ln1, block.ln2, block.b_Q, block.b_K, block.b_V, block.q_norm, block.k_norm)
    return sizes | {"norms and biases": sum(int(part.size) for part in small if part is not None)}


embedding_size = int(weights.W_E.size)
unembedding_size = 0 if config.tied_embeddings else int(weights.W_U.size)
blocks_size = sum(sum(block_size(block).values()) for block in weights.blocks)
n_parameters = embedding_size + unembedding_size + blocks_size + int(weights.ln_final.size)
lesson.table(
    ["what", "name", "number"],
    [
        ["layers", "n_layers", config.n_layers],
        ["hidden size, the width of the residual stream", "d_model", config.d_model],
        ["heads that ask (queries)", "n_heads", config.n_heads],
        ["heads that are asked (keys and values)", "n_kv_heads", config.n_kv_heads],
        ["width of a head", "d_head", config.d_head],
        ["neurons per layer", "d_mlp", config.d_mlp],
        ["vocabulary", "d_vocab", config.d_vocab],
        ["positions that it was made for", "n_ctx", config.n_ctx],
        ["parameters", "", n_parameters],
        ["of these in the embedding", "W_E", embedding_size],
        ["of these in the unembedding (0 when it is the embedding's transpose)", "W_U", unembedding_size],
        ["of these in the blocks", "", blocks_size],
    ],
    formats={"number": ","},
)

# %% 2. One block, matrix by matrix
lesson.section("2. One block, matrix by matrix")
lesson.say(
    "All blocks have the same seven matrices. Shapes are as stored in the checkpoint, [out, in]; tinymi shows them "
    "transposed, so that a formula reads `x @ W`. Look at how few parameters attention has beside the MLP."
)
purposes = {
    "W_Q": "makes each head's queries: what a position looks for",
    "W_K": "makes the keys: what a position offers to be found by",
    "W_V": "makes the values: what a position hands over when it is found",
    "W_O": "writes what the heads gathered back to the residual stream",
    "W_gate": "decides how far each neuron opens",
    "W_in": "gives what each neuron lets through (up_proj)",
    "W_out": "is what each neuron writes to the residual stream (down_proj)",
}
sizes = block_size(weights.blocks[0])
share = {name: size / sum(sizes.values()) for name, size in sizes.items()}
lesson.table(
    ["matrix", "stored shape", "share of block", "what it is for"],
    [
        [name, " x ".join(map(str, getattr(weights.blocks[0], name).T.shape)), share[name], purposes[name]]
        for name in MATRICES
    ],
    formats={"share of block": ".1%"},
)

# %% 3. How large are they?
lesson.section("3. How large are they?")
lesson.say(
    "The Frobenius norm is the root of the sum of all squared entries. A larger matrix has a larger norm even if "
    "its entries are no larger, so compare down a column (one matrix through depth), not across a row."
)


def frobenius(W: Array) -> float:
    """sqrt(sum(W ** 2)): one dot product per row of the file, and their sum in float64."""
    return float(np.sqrt(sum(float(np.dot(row, row)) for row in W.T)))


norms = np.array([[frobenius(getattr(block, name)) for name in MATRICES] for block in weights.blocks])
lesson.table(
    ["layer", *MATRICES], [[layer, *row] for layer, row in enumerate(norms.tolist())],
    caption="Frobenius norm of each matrix", formats=dict.fromkeys(MATRICES, ".1f"),
)  # fmt: skip
lesson.json["layers"] = [
    {
        "layer": layer,
        **{
            name: {"shape": list(getattr(block, name).T.shape), "frobenius": float(norms[layer, column])}
            for column, name in enumerate(MATRICES)
        },
    }
    for layer, block in enumerate(weights.blocks)
]
for column, name in enumerate(MATRICES):
    lesson.bars(
        [f"layer {layer}" for layer in range(config.n_layers)],
        norms[:, column].tolist(),
        caption=f"{name}: Frobenius norm by layer",
        format=".1f",
    )

# %% 4. The embedding
lesson.section("4. The embedding")
lesson.say("One row per token. The entries' mean, their standard deviation, and the norm of a row.")
row_norms = np.sqrt(np.einsum("td,td->t", weights.W_E, weights.W_E, dtype=np.float64))
mean = float(weights.W_E.mean(dtype=np.float64))
std = float(np.sqrt((row_norms**2).sum() / weights.W_E.size - mean**2))
lesson.json["embedding"] = {
    "mean": mean,
    "std": std,
    "norm": float(np.sqrt((row_norms**2).sum())),
    "tied": config.tied_embeddings,
    "row_norm_mean": float(row_norms.mean()),
    "row_norm_std": float(row_norms.std()),
}
lesson.table(
    ["what", "value"],
    [
        ["mean of all entries", mean],
        ["standard deviation of all entries", std],
        ["Frobenius norm", lesson.json["embedding"]["norm"]],
        ["norm of a token's row, mean over the vocabulary", float(row_norms.mean())],
        ["norm of a token's row, standard deviation", float(row_norms.std())],
        ["unembedding is the embedding's transpose (tied)", "yes" if config.tied_embeddings else "no"],
    ],
    formats={"value": ".5f"},
)

# %% 5. Do later layers have larger norms?
lesson.section("5. Do later layers have larger norms?")
lesson.say(
    "Spearman's rank correlation with depth is +1 when every layer is larger than the one before, -1 when every one "
    "is smaller. How large can it get by chance? We shuffle the layers 10,000 times and count how often a shuffled "
    "order correlates as strongly: that is p. Seven questions are asked at once, so the bar for each is p < 0.05 / 7. "
    "The columns `as used` ask the same of the matrix as the block uses it: the weight of the RMSNorm before W_Q, W_K, "
    "W_V, W_gate and W_in scales their inputs and belongs to them. Look for matrices whose answer it changes. One "
    "caution: neighbouring layers resemble each other, which shuffled ones do not, so p is on the bold side; the ratio "
    "of the last third to the first says whether a trend is also large."
)
Ranks = npt.NDArray[np.float64]


def ranks(values: Ranks) -> Ranks:
    """0 for the smallest; equal values share their mean rank."""
    below = (values[:, None] > values).sum(axis=1)
    equal = (values[:, None] == values).sum(axis=1)
    return np.asarray(below + (equal - 1) / 2)


def correlation(a: Ranks, b: Ranks) -> Ranks:
    """Pearson's correlation over the last axis; 0 where one side does not vary."""
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return np.asarray((a * b).sum(axis=-1) / np.where(scale > 0, scale, 1))


def depth_correlation(values: Ranks, rng: np.random.Generator) -> tuple[float, float]:
    """Spearman's rank correlation of values [n_layers] with depth, and its two-sided permutation p."""
    ranked, depth = ranks(values), np.arange(len(values), dtype=np.float64)
    rho = float(correlation(ranked, depth))
    shuffled = correlation(rng.permuted(np.tile(ranked, (10_000, 1)), axis=1), depth)
    return rho, float((1 + (np.abs(shuffled) >= abs(rho) - 1e-12).sum()) / 10_001)


def as_used(block: BlockWeights, name: str) -> Array:
    """The matrix with the weight of the norm before it folded into its rows, where there is one."""
    W: Array = getattr(block, name)
    before = {"W_Q": block.ln1, "W_K": block.ln1, "W_V": block.ln1, "W_gate": block.ln2, "W_in": block.ln2}
    return W * before[name][:, None] if name in before else W


def third_ratio(values: Ranks) -> float:
    """Mean of the last third of the layers over the mean of the first third."""
    third = max(len(values) // 3, 1)
    return float(values[-third:].mean() / values[:third].mean())


used_norms = np.array([[frobenius(as_used(block, name)) for name in MATRICES] for block in weights.blocks])
rng = np.random.default_rng(0)
bar = 0.05 / len(MATRICES)
rows: list[tuple[str, float, float, float, str, float, float]] = []
answers: dict[str, str] = {}
for column, name in enumerate(MATRICES):
    rho, p = depth_correlation(norms[:, column], rng)
    used_rho, used_p = depth_correlation(used_norms[:, column], rng)
    answers[name] = ("larger" if rho > 0 else "smaller") if p < bar else "no trend"
    rows.append((name, rho, p, third_ratio(norms[:, column]), answers[name], used_rho, used_p))
    lesson.json.setdefault("depth_correlation", {})[name] = {
        "rho": rho, "p": p, "last_third_over_first": rows[-1][3], "answer": answers[name],
        "as_used_rho": used_rho, "as_used_p": used_p, "as_used_frobenius": used_norms[:, column].tolist(),
    }  # fmt: skip
lesson.table(
    ["matrix", "rho", "p", "last/first third", "later layers", "rho as used", "p as used"],
    [list(row) for row in rows],
    caption=f"rank correlation of the norm with depth, over {config.n_layers} layers",
    formats={"rho": "+.2f", "p": ".4f", "last/first third": ".2f", "rho as used": "+.2f", "p as used": ".4f"},
)

# %% 6. Checks and what was found
lesson.section("6. Checks and what was found")


def heads_gap(block: BlockWeights, name: str) -> float:
    """How far the squared norms of a matrix's heads are from summing to its own, as a share of it."""
    whole = frobenius(getattr(block, name)) ** 2
    return abs(sum(frobenius(head) ** 2 for head in getattr(block.heads, name)) / whole - 1)


gap = max(heads_gap(block, name) for block in weights.blocks for name in ("W_Q", "W_K", "W_V", "W_O"))
lesson.check("squared norms of the heads sum to the matrix's (relative)", gap, 1e-5)
d_q, d_kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
by_formula = (2 * d_q + 2 * d_kv + 3 * config.d_mlp) * config.d_model
counted = sum(sizes[name] for name in MATRICES)
lesson.check("parameters of a block's matrices equal d_model * (2 d_q + 2 d_kv + 3 d_mlp)", counted - by_formula, 0)
spread = np.abs(std - float(weights.W_E.std(dtype=np.float64)))
lesson.check("standard deviation from the row norms equals NumPy's", spread, 1e-8)
for name, rho, p, ratio, _, used_rho, used_p in rows:
    lesson.finding(
        f"{name}: later layers have {'larger' if rho > 0 else 'smaller'} norms.",
        established=p < bar,
        evidence=f"rank correlation with depth {rho:+.2f}; the last third of the layers has {ratio:.2f} times the "
        f"norm of the first third",
        control=f"shuffled layers correlate as strongly with p = {p:.4f} (bar {bar:.4f}); with the norm's weight "
        f"folded in the correlation is {used_rho:+.2f} (p = {used_p:.4f})",
    )
grow, shrink, flat = (
    [name for name in MATRICES if answers[name] == kind] for kind in ("larger", "smaller", "no trend")
)
changed = [row[0] for row in rows if (row[2] < bar) != (row[6] < bar) or (row[2] < bar and row[1] * row[5] < 0)]
lesson.say(
    "Do later layers have larger norms? In this model: "
    + "; ".join(
        f"{text} {', '.join(names)}"
        for text, names in (("yes for", grow), ("smaller for", shrink), ("no trend shown for", flat))
        if names
    )
    + ". "
    + (
        f"Folding the norm's weight in changes the answer for {', '.join(changed)}: there the raw norm alone would "
        "have misled."
        if changed
        else "Folding the norm's weight in changes none of these answers."
    )
    + " A norm says how much a matrix could do, not how much it does: that depends on what flows through it."
)
largest = int(np.argmax(norms[:, MATRICES.index("W_out")]))
lesson.exercise(
    "Which layer has the largest W_out, and what is its norm divided by the root of the number of entries?",
    answer=f"layer {largest}, {norms[largest, -1] / np.sqrt(weights.blocks[largest].W_out.size):.5f}",
    hint="that quotient is the root mean square of the entries, which can be compared across shapes",
    minutes=5,
    difficulty="easy",
)
singular = np.linalg.svd(weights.blocks[0].heads.W_K[0].astype(np.float64), compute_uv=False)
lesson.exercise(
    "The Frobenius norm is also the root of the sum of squared singular values. For the first key head of layer 0, "
    "what share of the squared norm do the largest 8 singular values carry?",
    answer=f"{(singular[:8] ** 2).sum() / (singular**2).sum():.1%}",
    hint="np.linalg.svd(weights.blocks[0].heads.W_K[0], compute_uv=False)",
    minutes=10,
    difficulty="medium",
)
lesson.finish()
