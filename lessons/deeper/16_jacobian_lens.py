# %% [markdown]
"""Does it hold? The average Jacobian at all layers, against the translator that has learned from text

What you will learn: to compare two lenses place by place on text that neither has seen, and to ask how many places an
average needs.

Needs: Jacobian lens

Time: 12 minutes to read, 25 seconds to run

Paper: Hernandez et al. 2023, Linearity of Relation Decoding in Transformer Language Models,
https://arxiv.org/abs/2308.09124; Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned
Lens, https://arxiv.org/abs/2303.08112
"""

# %% Set-up
from collections.abc import Sequence

from tinymi import KeyValueCache
from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.ops import rms
from tinymi.teaching import Lesson, prompts, stats

import numpy as np

N_PLACES, N_TOKENS = 6, 12
lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
weights, config, n_layers = model.weights, model.config, model.config.n_layers
rows = sorted({*range(n_layers - 1, -1, -3), 4 * n_layers // 5})  # the layers before which a lens reads
late = [i for i, layer in enumerate(rows) if layer >= 2 * n_layers // 3]
early = [i for i, layer in enumerate(rows) if layer < 2 * n_layers // 3]
points = [*(f"blocks.{layer}.hook_resid_pre" for layer in rows), f"blocks.{n_layers - 1}.hook_resid_post"]


def paragraphs(name: str) -> list[str]:
    return [line[0].replace(r"\n", "\n") for line in prompts(name)]


# %% [markdown]
# ## 1. The average Jacobian of every layer
#
# As in the lesson, but through all layers: at each of a few places of the training text, every number that enters a
# layer is nudged, and the Jacobians of the layers are multiplied.


# %%
def jacobians(tokens: Tokens) -> Array:
    """At the last position, from what enters each of the layers read to what the last one leaves: [row, out, in]."""
    _, cache = model.run_with_cache(tokens, lambda name: name.endswith("resid_pre"), stop_at_layer=n_layers)
    past = KeyValueCache(1, tokens.shape[1], config, weights.dtype)
    model(tokens[:, :-1], stop_at_layer=n_layers, past_kv_cache=past)
    many = past.repeat(config.d_model + 1)
    ones = np.eye(config.d_model + 1, config.d_model, dtype=weights.dtype)  # the last row is 0: no nudge
    product, parts = np.eye(config.d_model, dtype=weights.dtype), []
    for layer in reversed(range(n_layers)):
        stream = cache["resid_pre", layer][:, -1]  # [1, d_model]
        size = 0.01 * rms(stream, 0)
        left = model(
            (stream + size * ones)[:, None], start_at_layer=layer, stop_at_layer=layer + 1, past_kv_cache=many
        )[:, 0]
        product = product @ ((left[:-1] - left[-1]).T / size)
        if layer in rows:
            parts.append(product)
    return np.stack(parts[::-1])


train_text = paragraphs("lens_train")
places = [model.to_tokens(text)[:, :N_TOKENS] for text in train_text[:: len(train_text) // N_PLACES][:N_PLACES]]
by_place = np.stack([jacobians(tokens) for tokens in lesson.progress(places, "places")])  # [place, row, out, in]
J = by_place.mean(axis=0)

# %% [markdown]
# ## 2. Text that no lens has seen
#
# The translators learn from half of the training text, with lesson 5's penalty. The means come from the same text. All
# lenses read the same held-out places: at which share of them do they name the model's own token, and how far are they
# from its prediction, in bits? Places of one paragraph count as one: the intervals are over paragraphs.


# %%
def streams_of(text: str) -> Array:
    """What enters each of the layers read, and what leaves the last, without the sink: [row or end, pos, d_model]."""
    _, cache = model.run_with_cache(model.to_tokens(text), points, stop_at_layer=n_layers)
    return np.stack([cache[point][0, 1:] for point in points])


def normed(x: Array) -> Array:
    return x / rms(x, config.rms_eps)


def read(x: Array) -> Array:
    """Log probabilities: [place, d_model] -> [place, d_vocab]."""
    logits = normed(x) * weights.ln_final @ weights.W_U
    logits -= logits.max(axis=-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))


train = np.concatenate([streams_of(text) for text in lesson.progress(train_text[::2], "text")], axis=1)
mean, normed_train = train.mean(axis=1), normed(train)
normed_mean = normed_train.mean(axis=1)
shuffle = np.random.default_rng(0).permutation(config.d_model)


def ridge(row: int) -> Array:
    """Lesson 5's translator of a layer's normed streams: [d_model, d_model]."""
    X, Y = normed_train[row] - normed_mean[row], normed_train[-1] - normed_mean[-1]  # [token, d_model]
    return np.asarray(np.linalg.solve(X.T @ X + 0.1 * len(X) * np.eye(X.shape[1], dtype=X.dtype), X.T @ Y))


translators = [ridge(row) for row in range(len(rows))]


def readings(row: int, x: Array) -> dict[str, Array]:
    """What each lens makes of streams: [place, d_model] each."""
    shift = x - mean[row]
    return {
        "logit lens": x,
        "shifted": mean[-1] + shift,
        "Jacobian": mean[-1] + shift @ J[row].T,
        "shuffled": mean[-1] + shift[:, shuffle] @ J[row].T,
        "translator": normed_mean[-1] + (normed(x) - normed_mean[row]) @ translators[row],
    }


tests = [streams_of(text)[:, 1::5] for text in paragraphs("lens_test")]
owner = np.repeat(np.arange(len(tests)), [test.shape[1] for test in tests])
held_out = np.concatenate(tests, axis=1)  # [row or end, place, d_model]
final = read(held_out[-1])
answers = final.argmax(axis=-1)
LENSES = tuple(readings(0, held_out[0]))
right = np.zeros((len(LENSES), len(rows), len(answers)))  # whether the likeliest token is the model's
bits = np.zeros_like(right)
for row in lesson.progress(range(len(rows)), "reading"):
    for i, x in enumerate(readings(row, held_out[row]).values()):
        log_q = read(x)
        right[i, row] = log_q.argmax(axis=-1) == answers
        bits[i, row] = (np.exp(final) * (final - log_q)).sum(axis=-1) / np.log(2)
shares = {name: right[i].mean(axis=1) for i, name in enumerate(LENSES)}
distances = {name: bits[i].mean(axis=1) for i, name in enumerate(LENSES)}
caption = f"share of {len(answers)} held-out places where a lens names the model's token"
lesson.lines(rows, shares, caption, "before layer", "share", ".2f")
lesson.table(
    {"before": rows, **distances}, caption="bits from the model's prediction, at the same places", format=".1f"
)

# %% [markdown]
# The shuffled matrix is as large, but reads the numbers of the stream in a wrong order. The shifted lens is the
# Jacobian lens without a Jacobian: what is better than that comes from the derivative.


# %%
def nearer(a: str, b: str, some: Sequence[int]) -> stats.Estimate:
    """By how many bits lens a is nearer to the prediction than lens b, mean over some rows."""
    gain = bits[LENSES.index(b)][some].mean(axis=0) - bits[LENSES.index(a)][some].mean(axis=0)
    return stats.mean_by_group(gain, owner)


def more_often(a: str, b: str, some: Sequence[int]) -> stats.Estimate:
    gain = right[LENSES.index(a)][some].mean(axis=0) - right[LENSES.index(b)][some].mean(axis=0)
    return stats.mean_by_group(gain, owner)


lesson.finding(
    "In the first two thirds of the layers a translator is nearer than the Jacobian lens by over a bit.",
    nearer("translator", "Jacobian", early),
    1.0,
    control=f"the Jacobian lens is nearer than the shifted one by {nearer('Jacobian', 'shifted', early):.2f}",
)
lesson.finding(
    "In the last third the derivative adds more than half a bit to the shifted lens.",
    nearer("Jacobian", "shifted", late),
    0.5,
    control=f"the shuffled matrix adds {nearer('shuffled', 'shifted', late):.2f}",
)
lesson.finding(
    "In the last third the Jacobian lens names the model's token more often than the logit lens.",
    more_often("Jacobian", "logit lens", late),
    control=f"more often than the translator, which has learned from {train.shape[1]:,} tokens, by "
    f"{more_often('Jacobian', 'translator', late):.2f}",
)

# %% [markdown]
# ## 3. How many places does the average need?

# %%
row = rows.index(4 * n_layers // 5)
shift = held_out[row] - mean[row]
sizes = [n for n in (1, 2, 4, 8) if n < N_PLACES] + [N_PLACES]
matrices = [by_place[:n, row].mean(axis=0) for n in sizes]
far = [
    (np.exp(final) * (final - read(mean[-1] + shift @ matrix.T))).sum(axis=-1).mean() / np.log(2) for matrix in matrices
]
lesson.table(
    {"places": sizes, "bits": far}, caption=f"bits from the prediction, before layer {rows[row]}", format=".2f"
)

# %% [markdown]
# ## 4. Capitals: when does the answer come?
#
# In lesson 7 one head, in layer 23 of the default model, brings the capital. Does a lens see it come? Only questions
# that the model answers rightly count. None of the Jacobians was taken at one of them.


# %%
def asked(country: str, capital: str) -> tuple[Array, int] | None:
    """The streams at the end of a question, [row or end, d_model], and its answer, if the model gives it."""
    try:
        answer = model.to_single_token(capital)
    except InputError:
        return None
    streams = streams_of(f"The capital of {country} is")[:, -1]
    return (streams, answer) if read(streams[-1:]).argmax() == answer else None


questions = [question for line in prompts("capitals") if (question := asked(*line))]
if questions:
    streams = np.stack([stream for stream, _ in questions], axis=1)  # [row or end, question, d_model]
    capitals = np.array([answer for _, answer in questions])
    ranks = np.zeros((len(LENSES), len(rows), len(capitals)))
    best = np.zeros_like(ranks)  # of these capitals, is the right one the first?
    for i in late:
        for lens, x in enumerate(readings(i, streams[i]).values()):
            log_q = read(x)
            own = log_q[np.arange(len(capitals)), capitals]
            ranks[lens, i] = 1 + (log_q > own[:, None]).sum(axis=-1)
            best[lens, i] = own == log_q[:, capitals].max(axis=-1)
    columns = {name: np.median(ranks[lens][late], axis=1).astype(int) for lens, name in enumerate(LENSES)}
    caption = f"the capital's rank among {config.d_vocab:,} tokens, median of {len(capitals)} questions"
    picture = lesson.table({"before": [rows[i] for i in late], **columns}, caption=caption)
    at = {name: ranks[lens, row] for lens, name in enumerate(LENSES)}
    jacobian = LENSES.index("Jacobian")
    lesson.finding(
        f"Before layer {rows[row]}, the capital stands ten times higher in the Jacobian lens than in the logit lens.",
        stats.mean(np.log10(at["logit lens"] / at["Jacobian"])),
        1.0,
        control=f"powers of ten; than in the translator {stats.mean(np.log10(at['translator'] / at['Jacobian'])):.2f}, "
        f"than with the shuffled matrix {np.log10(at['shuffled'] / at['Jacobian']).mean():.2f}",
    )
    before, after = best[:, row - 1].mean(axis=1), best[:, row].mean(axis=1)
    lesson.finding(
        f"Layer {rows[row - 1]} brings the answer: of these {len(capitals)} capitals, the right one now comes first.",
        stats.mean(best[jacobian, row] - best[jacobian, row - 1]),
        0.5,
        control=f"{before[jacobian]:.0%} before layer {rows[row - 1]}, {after[jacobian]:.0%} before layer {rows[row]}; "
        f"by the logit lens {before[0]:.0%} and {after[0]:.0%}; by chance {1 / len(capitals):.0%}",
    )
    middle = {name: f"{np.median(values):,.0f}" for name, values in at.items()}
    lesson.headline(
        f"Before layer {rows[row]}, a capital has rank {middle['Jacobian']} in the Jacobian lens, "
        f"{middle['translator']} in a translator and {middle['logit lens']} in the logit lens. On other text the "
        "translator is no worse there, and better before.",
        picture,
    )
    lesson.keep(ranks=ranks, capitals=capitals)

# %%
prompt = model.to_tokens("The capital of France is")
logits, cache = model.run_with_cache(prompt, points[-1:])
lesson.equal(
    "the last stream is read as the model does", read(cache[points[-1]][0]).argmax(axis=-1), logits[0].argmax(axis=-1)
)
lesson.keep(rows=rows, jacobian=J[0][:3], shares=shares, bits=distances)
lesson.finish()
