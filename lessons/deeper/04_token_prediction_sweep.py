# %% [markdown]
"""Does it hold? Facts against ordinary text, and what a lens makes up

What you will learn: to draw templates and not prompts, to hold a claim about facts against ordinary text, and to hold a
lens over streams that know nothing.

Needs: token prediction sweep

Time: 8 minutes to read, 10 seconds to run

Paper: nostalgebraist 2020, interpreting GPT: the logit lens,
https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens; Belrose et al. 2023, Eliciting Latent
Predictions from Transformers with the Tuned Lens, https://arxiv.org/abs/2303.08112
"""

# %% Set-up
from collections import Counter
from typing import NamedTuple

from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.ops import rms_norm, softmax
from tinymi.teaching import Lesson, prompts, show_token, stats

import numpy as np

lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
n_layers, weights, eps = model.config.n_layers, model.weights, model.config.rms_eps
points = [f"blocks.{layer}.hook_resid_post" for layer in range(n_layers)]
rng = np.random.default_rng(0)


def lens(resid: Array, weight: Array = weights.ln_final) -> Array:
    """[..., d_model] -> [..., d_vocab]"""
    logits: Array = rms_norm(resid, weight, eps) @ weights.W_U
    return logits


def streams_of(text: str, positions: slice = slice(-1, None)) -> Array:
    """The stream after every layer: [n_layers, pos, d_model]."""
    _, cache = model.run_with_cache(model.to_tokens(text), points, stop_at_layer=n_layers)
    return np.stack([cache[point][0, positions] for point in points])


def rank_of(logits: Array, token: int) -> Array:
    """1: it comes first. [..., d_vocab] -> [...]"""
    return np.asarray(1 + (logits > logits[..., [token]]).sum(axis=-1))


def stays_from(hits: Array) -> int:
    """The first layer from which on all are hits, where the last layer is one."""
    misses = np.flatnonzero(np.logical_not(hits))
    return int(misses[-1]) + 1 if len(misses) else 0


def single_token(word: str) -> int | None:
    try:
        return model.to_single_token(f" {word}")
    except InputError:
        return None


# %% [markdown]
# ## 1. At which depth do answers come first?
#
# Facts of nine templates, and ten that stand alone. We keep those that the model answers rightly, and ask from which
# layer on the answer comes first for good. Facts of one template share most of their words and perhaps one mechanism,
# so they count as one witness: the intervals draw templates.


# %%
class Fact(NamedTuple):
    """What the lens says at the last position of a prompt. Ranks: [n_layers]."""

    template: str
    right: bool  # whether the model says the answer
    ranks: Array  # of the answer
    other_ranks: list[Array]  # of each other answer of the template
    subject_ranks: Array  # empty where there is no subject
    stream: Array  # [n_layers, d_model]
    token: int


def read(template: str, subject: str, token: int, others: set[int]) -> Fact:
    stream = streams_of(template.replace("{}", subject))[:, 0]
    logits = lens(stream)
    is_right = int(logits[-1].argmax()) == token
    about = single_token(subject) if subject else None
    subject_ranks = rank_of(logits, about) if about is not None else np.zeros(0)
    other_ranks = [rank_of(logits, other) for other in sorted(others - {token})]
    return Fact(template, is_right, rank_of(logits, token), other_ranks, subject_ranks, stream, token)


known = [(template, subject, single_token(answer)) for template, subject, answer in prompts("lens_facts")]
lines = [(template, subject, token) for template, subject, token in known if token is not None]
answers = {template: {token for other, _, token in lines if other == template} for template, _, _ in lines}
facts = [read(*line, answers[line[0]]) for line in lesson.progress(lines, "facts")]
right = [fact for fact in facts if fact.right]
pairs = [fact for fact in right if len(fact.subject_ranks) and fact.other_ranks]
if not pairs:
    raise InputError(f"--model: answers {len(right)} of {len(facts)} facts rightly; there is too little to follow here")
layers = [stays_from(fact.ranks == 1) for fact in right]
kinds = ["one prompt each" if "{}" not in fact.template else fact.template for fact in right]
names = list(dict.fromkeys(kinds))
members = [[layer for layer, kind in zip(layers, kinds) if kind == name] for name in names]
lesson.table(
    {
        "template": names,
        "facts": [len(group) for group in members],
        "earliest": [min(group) for group in members],
        "mean": [float(np.mean(group)) for group in members],
        "latest": [max(group) for group in members],
    },
    caption=f"layer from which on the right answer comes first, of 0 to {n_layers - 1}; the model answers {len(right)} "
    f"of {len(facts)} facts rightly",
    format=".1f",
)

# %% [markdown]
# Is that special to facts? The control is ordinary text: eight paragraphs, every sixth position, and the model's own
# next token, whatever it is.

# %%
paragraphs = [line[0].replace(r"\n", "\n") for line in prompts("lens_test")]
ordinary: list[list[int]] = []  # for each paragraph the layers at which its tokens settle
for paragraph in lesson.progress(paragraphs, "ordinary text"):
    firsts = lens(streams_of(paragraph, slice(1, None, 6))).argmax(axis=-1)  # [n_layers, pos]
    ordinary.append([stays_from(row == row[-1]) for row in firsts.T])
text = np.concatenate(ordinary)
by_template = stats.group_means(layers, [fact.template for fact in right])
by_paragraph = [float(np.mean(paragraph)) for paragraph in ordinary]
lesson.finding(
    "Answers come first late: in the second half of the layers.",
    stats.mean(by_template),
    above=n_layers / 2,
    control=f"so do ordinary tokens: at layer {text.mean():.1f} on average, {np.mean(text == n_layers - 1):.0%} of "
    f"{len(text)} only in the last layer. Late writing is a habit of the model and not of facts",
    format=".1f",
)
lesson.finding(
    "Facts come first later than ordinary tokens do.",
    stats.mean_difference(by_template, by_paragraph),
    control=f"the interval draws {len(by_template)} templates and {len(by_paragraph)} paragraphs, not single prompts",
    format="+.1f",
)

# %% [markdown]
# ## 2. What is there before the answer comes first?
#
# Facts with a subject: the median rank of the answer, of the other answers to the same template (what any such prompt
# would show), and of the subject. Where does the answer leave the others, and where does it pass its subject?

# %%
shown = sorted({round(i * (n_layers - 1) / 14) for i in range(8)} | set(range(n_layers // 2, n_layers)))
lesson.table(
    {
        "layer": range(n_layers),
        "answer": np.median([fact.ranks for fact in pairs], axis=0).tolist(),
        "other answers": np.median([np.median(fact.other_ranks, axis=0) for fact in pairs], axis=0).tolist(),
        "subject": np.median([fact.subject_ranks for fact in pairs], axis=0).tolist(),
    },
    rows=shown,
    caption=f"median ranks of {len(pairs)} facts",
    format=",.0f",
)


def is_ahead(ranks: Array, fact: Fact) -> bool:
    """Whether a token ranks better than the fact's subject, from two layers before the answer comes first on."""
    begin = max(stays_from(fact.ranks == 1) - 2, 0)
    return bool((ranks < fact.subject_ranks)[begin:].all())


of_answers = [float(is_ahead(fact.ranks, fact)) for fact in pairs]
of_others = [float(np.mean([is_ahead(ranks, fact) for ranks in fact.other_ranks])) for fact in pairs]
lesson.finding(
    "The answer itself is there before it comes first: from two layers earlier on it ranks better than its subject.",
    stats.mean_by_group(np.subtract(of_answers, of_others), [fact.template for fact in pairs]),
    above=0.25,
    control=f"{np.mean(of_answers):.0%} of the answers do, {np.mean(of_others):.0%} of the other answers over the same "
    "prompts; the estimate is the difference",
)

# %% [markdown]
# ## 3. What does a lens make up?
#
# A lens shows something whatever you hold it over. So hold it over streams that know nothing (random vectors, streams
# with their numbers shuffled), and hold broken lenses over the real streams (the norm's weight shuffled, or that of
# another layer's norm). How often does the answer show up?

# %%
real = np.stack([fact.stream for fact in right[:: max(len(right) // 8, 1)]])  # [fact, n_layers, d_model]
tokens = [fact.token for fact in right[:: max(len(right) // 8, 1)]]
other = weights.blocks[n_layers // 2].ln1
other = other * float(np.linalg.norm(weights.ln_final) / np.linalg.norm(other))
held = {
    "the real lens": (real, weights.ln_final),
    "random vectors": (rng.standard_normal(real.shape, dtype=np.float32), weights.ln_final),
    "shuffled streams": (rng.permuted(real, axis=-1), weights.ln_final),
    "shuffled weight": (real, rng.permutation(weights.ln_final)),
    "another norm's weight": (real, other),
}
rows = []
for streams, weight in held.values():
    logits = [lens(stream, weight) for stream in streams]
    ranks = np.array([rank_of(reading, token) for reading, token in zip(logits, tokens)])
    first, times = Counter(int(i) for reading in logits for i in reading.argmax(axis=-1)).most_common(1)[0]
    sure = np.mean([softmax(reading).max(axis=-1).mean() for reading in logits])
    rows.append(((ranks <= 10).mean(), sure, f"{show_token(model.to_str_tokens([first])[0])} {times / ranks.size:.0%}"))
in_top, sure_of, favourites = zip(*rows)
lesson.table(
    {"held over": list(held), "answer in the top 10": in_top, "probability": sure_of, "most often first": favourites},
    caption=f"{real.shape[0] * n_layers} readings: how often the answer is among the ten likeliest, and the mean "
    "probability of the likeliest token",
    format=".3f",
)
lesson.finding(
    "A lens over streams that know nothing does not make the answer up.",
    established=max(in_top[1:3]) < in_top[0] / 10,
    evidence=f"in the top ten in {in_top[0]:.1%} of the real readings; over random vectors and shuffled streams in "
    f"{max(in_top[1:3]):.1%} at most; the bar: a tenth",
    control=f"broken lenses over real streams: {in_top[3]:.1%} and {in_top[4]:.1%}",
)

# %% [markdown]
# ## 4. Checks

# %%
whole = model(model.to_tokens(paragraphs[0]))[0]
lesson.equal(
    "the last layer's reading is the model's own logits", lens(streams_of(paragraphs[0]))[-1], whole[-1:], 1e-4
)
order = np.argsort(-whole[-1], kind="stable")
lesson.equal("a rank counts the tokens before it", [rank_of(whole[-1], int(order[i])) for i in (0, 5)], [1, 6])
lesson.equal("a stream of 8 times the length reads the same", lens(8 * real[0, -1] / eps), lens(real[0, -1] / eps))
lesson.keep(
    facts=[{"template": f.template, "right": f.right, "ranks": f.ranks} for f in facts], settled=layers,
    ordinary=ordinary, in_top=in_top,
)  # fmt: skip
lesson.finish()
