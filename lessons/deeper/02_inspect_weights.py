# %% [markdown]
"""Does it hold? Trends of depth, and what heads make of words

What you will learn: to hold a trend over layers against a random walk; why the norm of one matrix is not a fact about
the model; to choose a head with some words and test it with others.

Needs: inspect weights

Time: 10 minutes to read, 10 seconds to run

Paper: Elhage et al. 2021, A Mathematical Framework, https://transformer-circuits.pub/2021/framework/index.html; Yule
1926, Why do we Sometimes get Nonsense-Correlations between Time-Series?
"""

# %% Set-up
from dataclasses import replace

from tinymi import Model
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.ops import rms_norm, silu
from tinymi.teaching import Lesson, prompts, stats
from tinymi.weights import BlockWeights, Weights

import numpy as np

lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
weights, blocks, config = model.weights, model.weights.blocks, model.config
n_layers, n_heads = config.n_layers, config.n_heads
rng = np.random.default_rng(0)

# %% [markdown]
# ## 1. Does anything grow with depth?
#
# The lesson compared the last third of the layers with the first. Could chance make such a difference? There are two
# ways to ask.
#
# Any order: shuffle the layers. This is easy to beat, because neighbouring layers are alike and shuffled ones are not.
#
# A walk: keep the steps from layer to layer as large as they are, but let each go up or down by the toss of a coin. A
# curve made this way drifts, and drifts look like trends.
#
# Seven matrices alone, and five with the weight of the norm before them, are twelve questions. So the bar for each p is
# 0.05 / 12.

# %%
MATRICES = ("W_Q", "W_K", "W_V", "W_O", "W_gate", "W_in", "W_out")
BEFORE = {"W_Q": "ln1", "W_K": "ln1", "W_V": "ln1", "W_gate": "ln2", "W_in": "ln2"}
BAR = 0.05 / 12
THIRD = max(n_layers // 3, 1)


def folded(block: BlockWeights, name: str) -> Array:
    """The matrix with the weight of the norm before it."""
    W: Array = getattr(block, name)
    with_weight: Array = getattr(block, BEFORE[name])[:, None] * W
    return with_weight


def rise(log_norms: Array) -> Array:
    """[..., n_layers] -> [...]: mean of the last third less mean of the first."""
    difference: Array = log_norms[..., -THIRD:].mean(axis=-1) - log_norms[..., :THIRD].mean(axis=-1)
    return difference


def p_value(log_norms: Array, draws: Array) -> float:
    """How often a draw rises or falls as far: draws [n, n_layers]."""
    return float((1 + (np.abs(rise(draws)) >= abs(rise(log_norms)) - 1e-12).sum()) / (1 + len(draws)))


def walks(log_norms: Array, n: int = 10_000) -> Array:
    """Random walks with the steps of log_norms, each up or down: [n, n_layers]."""
    steps = np.diff(log_norms) * rng.choice([-1, 1], (n, n_layers - 1))
    return np.concatenate([np.zeros((n, 1)), steps.cumsum(axis=1)], axis=1)


def trend(log_norms: Array) -> tuple[float, float, float, float]:
    """Rank correlation with depth, growth, p among shuffled layers, p among random walks."""
    shuffled = rng.permuted(np.tile(log_norms, (10_000, 1)), axis=1)
    rho = stats.rank_correlation(log_norms, np.arange(n_layers, dtype=float))
    norms = np.exp(log_norms)
    growth = float(norms[-THIRD:].mean() / norms[:THIRD].mean())
    return rho, growth, p_value(log_norms, shuffled), p_value(log_norms, walks(log_norms))


norms = {name: [np.linalg.norm(getattr(block, name)) for block in blocks] for name in MATRICES}
norms |= {f"{name}, folded": [np.linalg.norm(folded(block, name)) for block in blocks] for name in BEFORE}
trends = [trend(np.log(values)) for values in norms.values()]
rho, growth, p_shuffled, p_walk = np.transpose(trends)
columns = {"norm of": list(norms), "rank corr.": rho, "last/first third": growth}
lesson.table(columns | {"p, any order": p_shuffled, "p, walk": p_walk}, format=".3g")
lesson.keep(trends=dict(zip(norms, trends)))

# %%
passed = (p_shuffled < BAR) & (p_walk < BAR)
lesson.finding(
    "Some matrix grows or shrinks with depth further than a random walk would.",
    established=passed.any(),
    evidence=f"of 12 norms {passed.sum()} pass both tests (the bar: p below {BAR:.4f}); the smallest p among walks is "
    f"{p_walk.min():.3f}",
    control=f"shuffled layers alone would let {(p_shuffled < BAR).sum()} pass",
)

# %% [markdown]
# ## 2. The norm of one matrix is not a fact about the model
#
# Double W_V and halve W_O. Both norms change, and the model does not: what the values gain, W_O takes back.

# %%
doubled = [
    replace(block, W_V=block.W_V * 2, b_V=None if block.b_V is None else block.b_V * 2, W_O=block.W_O / 2)
    for block in blocks
]
rescaled = Model(config, Weights(weights.W_E, doubled, weights.ln_final, weights.W_U))
tokens = np.array([[3, 1, 4, 1, 5]])
lesson.equal("twice W_V, half W_O: the same logits", rescaled(tokens), model(tokens))

# %% [markdown]
# Products are free of that: of queries and keys (at distance 0, where RoPE turns neither), of values and output, of
# what each neuron reads and writes. All with the norm's weight, and with the tests of section 1.


# %%
def product_norms(block: BlockWeights) -> tuple[float, float, float]:
    """Norms of the products of a layer: queries and keys, values and output (root of the heads' squares), neurons."""
    heads, group = block.heads, n_heads // config.n_kv_heads
    qk = [
        np.linalg.norm((block.ln1[:, None] * heads.W_Q[h]) @ (block.ln1[:, None] * heads.W_K[h // group]).T)
        for h in range(n_heads)
    ]
    ov = [np.linalg.norm(block.ln1[:, None] * heads.W_V[h // group] @ heads.W_O[h]) for h in range(n_heads)]
    neurons = np.linalg.norm(folded(block, "W_in"), axis=0) * np.linalg.norm(block.W_out, axis=1)
    return float(np.linalg.norm(qk)), float(np.linalg.norm(ov)), float(np.linalg.norm(neurons))


products = np.log([product_norms(block) for block in blocks]).T  # [product, n_layers]
rho, growth, p_shuffled, p_walk = np.transpose([trend(product) for product in products])
columns = {"norm of": ["queries and keys", "values and output", "neurons: in and out"], "rank corr.": rho}
lesson.table(columns | {"last/first third": growth, "p, any order": p_shuffled, "p, walk": p_walk}, format=".3g")
lesson.keep(products=np.exp(products))

# %% [markdown]
# ## 3. Is there a head for colours?
#
# The lesson showed a head that turns one colour into others. To test it, take 15 families of words. Half of a family
# chooses the head: the one that, given a word, promotes the others of this half most. The other half tests it. Then the
# halves change places.
#
# Two other explanations have to be ruled out. A head may promote the same words whatever it is given: take off what it
# makes of the words of all other families. And words of a family have similar columns in W_U, so that copying one
# promotes the others: take off what the word's own embedding promotes. We take off the larger of the two.


# %%
def is_token(word: str) -> bool:
    return model.to_tokens(f" {word}", add_special_tokens=False).size == 1


known = {name: [word for word in words if is_token(word)] for name, *words in prompts("word_families")}
families = {name: words for name, words in known.items() if len(words) >= 4}
rows = [row for row in prompts("capitals_by_weights") if all(map(is_token, row))]
if len(families) < 2 or len(rows) < 4:
    raise InputError("tokenizer: cuts too many words of lessons/prompts/word_families.txt and capitals_by_weights.txt")
family = np.array([name for name, words in families.items() for _ in words])
words = np.array([model.to_single_token(f" {word}") for words in families.values() for word in words])
U = weights.ln_final[:, None] * weights.W_U
U = U - U.mean(axis=1, keepdims=True)  # a logit is measured from the mean of all tokens
covariance = U @ U.T / config.d_vocab


def scores(written: Array, targets: Array) -> Array:
    """[..., d_model] -> [..., target]: logits of the targets, in standard deviations over the vocabulary."""
    deviation = np.sqrt(((written @ covariance) * written).sum(axis=-1, keepdims=True))
    return np.asarray((written / deviation) @ U[:, targets])


def write(words: Array) -> Array:
    """What each head makes of each word as the first MLP hands it on: [head, word, d_model]."""
    x = rms_norm(weights.W_E[words], blocks[0].ln2, config.rms_eps)
    vectors = weights.W_E[words] + silu(x @ blocks[0].W_gate) * (x @ blocks[0].W_in) @ blocks[0].W_out
    written = []
    for block in blocks:
        values = rms_norm(vectors, block.ln1, config.rms_eps) @ block.heads.W_V  # [n_kv_heads, word, d_head]
        written.append(np.repeat(values, n_heads // config.n_kv_heads, axis=0) @ block.heads.W_O)
    return np.concatenate(written)


promoted = scores(write(words), words)  # [head, word given, word promoted]
copied = scores(weights.W_E[words], words)  # [word given, word promoted]


def test_family(family: Array, name: str) -> tuple[list[int], stats.Estimate]:
    """The heads that the two halves choose, and how far each promotes the other half beyond both controls."""
    members, others = np.flatnonzero(family == name), np.flatnonzero(family != name)
    chosen, gains = [], []
    for choose, test in ((members[::2], members[1::2]), (members[1::2], members[::2])):
        apart = ~np.eye(len(choose), dtype=bool)
        head = int(promoted[:, choose[:, None], choose][:, apart].mean(axis=1).argmax())
        control = np.maximum(promoted[head][np.ix_(others, test)].mean(axis=0), copied[np.ix_(test, test)])
        gain = promoted[head][np.ix_(test, test)] - control
        chosen.append(head)
        gains += [float(np.delete(row, i).mean()) for i, row in enumerate(gain)]
    return chosen, stats.mean(gains)


def passes(chosen: list[int], gain: stats.Estimate) -> bool:
    """The bar: both halves choose the same head, and the whole interval of its gain is above 0."""
    return chosen[0] == chosen[1] and gain.low > 0


def head_name(head: int) -> str:
    return f"{head // n_heads}.{head % n_heads}"


tests = {name: test_family(family, name) for name in families}
heads = [" and ".join(head_name(head) for head in dict.fromkeys(chosen)) for chosen, _ in tests.values()]
columns = {"family": list(families), "head": heads, "gain": [f"{gain:.1f}" for _, gain in tests.values()]}
lesson.table(columns | {"passes": [passes(*test) for test in tests.values()]})
dealt = [rng.permutation(family) for _ in range(10)]
by_chance = [sum(passes(*test_family(labels, name)) for name in families) for labels in dealt]
n_passed = sum(passes(*test) for test in tests.values())
lesson.finding(
    "Some heads hold families of words: given one word, they promote the others.",
    established=n_passed > max(by_chance),
    evidence=f"{n_passed} of {len(families)} families pass on words that did not choose the head",
    control=f"with the words dealt out to families at random {np.mean(by_chance):.1f} pass ({max(by_chance)} at most)",
)
lesson.keep(families={name: [head_name(head) for head in chosen] for name, (chosen, _) in tests.items()})

# %% [markdown]
# ## 4. Do the weights know the capitals?
#
# In the quick start, one head reads the country before the model says its capital. Ask all heads: given a country, how
# far do you promote its own capital above those of other countries? Choose the head with half of the countries.

# %%
country, capital, adjective = np.array([[model.to_single_token(f" {word}") for word in row] for row in rows]).T
half = len(rows) // 2


def ahead(matrix: Array) -> Array:
    """[..., n, n] -> [..., n]: the own entry of each row less the mean of the others."""
    own = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.asarray(own - (matrix.sum(axis=-1) - own) / (matrix.shape[-1] - 1))


written = write(country)
for what, targets in (("capital", capital), ("adjective", adjective)):
    lead = ahead(scores(written, targets))  # [head, country]
    order = np.argsort(-lead[:, :half].mean(axis=1))
    best, second = int(order[0]), int(order[1])
    new = slice(half, None)
    top_1 = (scores(written[best], targets).argmax(axis=-1) == np.arange(len(rows)))[new]
    copy = ahead(scores(weights.W_E[country], targets))[new]
    lesson.finding(
        f"Head {head_name(best)} promotes a country's own {what} above those of other countries.",
        stats.paired_difference(lead[best, new], copy),
        control=f"the gain is over what the country's own embedding promotes; head {head_name(second)}, the next, has "
        f"{stats.paired_difference(lead[second, new], copy):.2f}; the own {what} is first of {len(rows)} for "
        f"{top_1.sum()} of {len(top_1)} new countries",
    )
    lesson.keep(**{what: [head_name(head) for head in order[:3]]})

# %% [markdown]
# ## 5. Are neighbours in the embedding really alike?
#
# For each word of the families: is the nearest of all these words from the same family? Only words with the same kind
# of first letter are compared, so that capital letters do not explain it.

# %%
unit = weights.W_E[words] / np.linalg.norm(weights.W_E[words], axis=1, keepdims=True)
cosine = unit @ unit.T - 2 * np.eye(len(words))  # no word is its own neighbour
capitalised = np.array([word[0].isupper() for members in families.values() for word in members])
case = np.where(capitalised[:, None] == capitalised, 0, -2)  # only words that begin with the same kind of letter
same = family[(cosine + case).argmax(axis=1)] == family
chance = [np.mean((labels := rng.permutation(family))[cosine.argmax(axis=1)] == labels) for _ in range(100)]
lesson.finding(
    "The nearest word in the embedding is of the same family.",
    stats.mean_by_group(same, family.tolist()),
    above=0.5,
    control=f"with the words dealt out to families at random {np.mean(chance):.2f}",
)

# %% [markdown]
# ## 6. Two identities

# %%
head_squares = [sum(np.linalg.norm(head) ** 2 for head in block.heads.W_Q) for block in blocks]
squares = [np.linalg.norm(block.W_Q) ** 2 for block in blocks]
lesson.equal("squared norms of the heads sum to the matrix's", head_squares, squares)
d_q, d_kv = n_heads * config.d_head, config.n_kv_heads * config.d_head
counted = sum(getattr(blocks[0], name).size for name in MATRICES)
by_formula = config.d_model * (2 * d_q + 2 * d_kv + 3 * config.d_mlp)
lesson.equal("numbers of a layer: d_model * (2 d_q + 2 d_kv + 3 d_mlp)", counted, by_formula, tolerance=0)
lesson.finish()
