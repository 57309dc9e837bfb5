# %% [markdown]
"""Does it hold? Number in other sentences, before every layer, and in other directions than the probe's

What you will learn: the control task in full, to ask a probe in sentences that it has not seen, to hold a direction
against relabelled ones, and why the probe that fits best can miss the direction that the model uses.

Needs: linear probe

Time: 15 minutes to read, 30 seconds to run

Paper: Hewitt and Liang 2019, Designing and Interpreting Probes with Control Tasks, https://arxiv.org/abs/1909.03368;
Marks and Tegmark 2023, The Geometry of Truth, https://arxiv.org/abs/2310.06824
"""

# %% Set-up
from typing import NamedTuple

from tinymi import ActivationCache
from tinymi.arrays import Array, Tokens
from tinymi.hooks import HookPoint
from tinymi.teaching import Lesson, prompts, show_token, stats

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
lesson = Lesson(__doc__)
lesson.start()
model = lesson.load_model()
n_layers, n_heads = model.config.n_layers, model.config.n_heads
VERBS = [[model.to_single_token(f" {verb}") for verb in pair.split()] for pair in ("is are", "was were", "has have")]
nouns, texts = prompts("nouns")[20:], [text for (text,) in prompts("number_sentences")]
number = np.repeat([-1.0, 1.0], len(nouns))  # [form]: all singulars, then their plurals
noun_of = np.tile(np.arange(len(nouns)), 2)
new, each = noun_of >= 25, np.arange(len(texts))
layers = range(0, n_layers, 4)
half = len(layers) // 2
middle, late = layers[half], layers[-1]
rng = np.random.default_rng(0)


class Sentence(NamedTuple):  # with each form of each noun
    tokens: Tokens  # [form, pos]
    noun: int  # its position
    logits: Array  # after the last word, [form, d_vocab]
    cache: ActivationCache


def run(text: str) -> Sentence:
    tokens = np.concatenate([model.to_tokens(text.replace("{}", pair[form])) for form in (0, 1) for pair in nouns])
    logits, cache = model.run_with_cache(tokens, lambda name: name.endswith("resid_pre"), positions=-1)
    return Sentence(tokens, int((tokens[0] != tokens[1]).argmax()), logits[:, 0], cache)


sentences = [run(text) for text in lesson.progress(texts, "sentences")]


def streams(place: str, layer: int) -> Array:
    """What enters a layer at the "noun" or at the "last word" of each sentence: [sentence, form, d_model]."""
    where = [s.noun if place == "noun" else -1 for s in sentences]
    return np.array([s.cache["resid_pre", layer][:, pos] for s, pos in zip(sentences, where)], dtype=float)


def fit(rows: Array, y: Array, penalty: float = 0.1) -> tuple[Array, Array]:
    """A probe's direction, of length 1, and the mean of the rows [row, d_model] that it learned from."""
    mean, size = rows.mean(axis=0), np.linalg.norm(rows, axis=1).mean()
    x = (rows - mean) / size
    w = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y)  # as in the lesson, from a smaller matrix
    return w / max(float(np.linalg.norm(w)), 1e-12), mean


def reads(x: Array, y: Array, learn: tuple[Mask, Mask], ask: tuple[Mask, Mask]) -> Array:
    """learn, ask: which sentences and forms of x [sentence, form, d_model]. Is each answer right? [sentence, form]"""
    w, mean = fit(x[np.ix_(*learn)].reshape(-1, x.shape[-1]), np.tile(y[learn[1]], learn[0].sum()))
    return np.asarray(((x[np.ix_(*ask)] - mean) @ w > 0) == (y[ask[1]] > 0), dtype=float)


# %% [markdown]
# ## 1. The control task in full
#
# Hewitt and Liang deal a random label to each word, here to each form of each noun, and ask in sentences that the probe
# has not seen, about words that it has. How much better it reads the real labels is its *selectivity*.

# %%
some, others, all_forms = each < len(each) - 2, each >= len(each) - 2, number != 0


def seen_and_not(x: Array, y: Array) -> tuple[Array, Array]:
    """The accuracy in other sentences for each form: when its noun was learned from, and when not."""
    unseen = np.zeros(len(y))
    for fold in [noun_of % 3 == k for k in range(3)]:
        unseen[fold] = reads(x, y, (some, ~fold), (others, fold)).mean(axis=0)
    return reads(x, y, (some, all_forms), (others, all_forms)).mean(axis=0), unseen


tasks = ("number, seen", "number, new", "dealt, seen", "dealt, new")
right = np.zeros((len(layers), len(tasks), len(number)))
for row, layer in enumerate(lesson.progress(layers, "layers")):
    x = streams("noun", layer)
    right[row, :2] = seen_and_not(x, number)
    right[row, 2:] = np.mean([seen_and_not(x, rng.permutation(number)) for _ in range(3)], axis=0)
curves = dict(zip(tasks, right.mean(axis=2).T))
lesson.lines(layers, curves, "read rightly at the noun, in other sentences", "layer", "share", ".2f")
real, real_new, _, dealt_new = right[half].mean(axis=1)
lesson.finding(
    f"Before layer {middle}, a probe reads labels dealt at random in new sentences, if it has seen the nouns.",
    stats.mean_by_group(right[half, 2], noun_of),
    0.8,
    control=f"nouns that it has not seen: {dealt_new:.2f}; number: {real:.2f} and {real_new:.2f}",
)

# %% [markdown]
# ## 2. A sentence that the probe has not seen
#
# All probes of the lesson learned from one sentence. Now they learn from all but one, and are asked there about the new
# nouns. In four of the six another noun comes between, with a number of its own.


# %%
def across(place: str, itself: bool = False) -> Array:
    """The accuracy on new nouns in each sentence, learned from all others or from itself: [layer, sentence]."""
    accuracy = np.zeros((len(layers), len(each)))
    for row, layer in enumerate(layers):
        x = streams(place, layer)
        accuracy[row] = [reads(x, number, ((each == i) == itself, ~new), (each == i, new)).mean() for i in each]
    return accuracy


noun, end, own = across("noun"), across("last word"), across("last word", itself=True)
columns = dict(zip(("noun", "last word", "last word, own"), (x.mean(axis=1) for x in (noun, end, own))))
lesson.table({"layer": layers} | columns, caption="new nouns read rightly; learned from others, or own", format=".2f")
lesson.finding(
    f"At the last word, before layer {middle}, a probe is better in its own sentence than in another.",
    stats.paired_difference(own[half], end[half]),
    control=f"{own[half].mean():.2f} and {end[half].mean():.2f}; at the noun it is {noun[half].mean():.2f} in another; "
    f"before layer {late}, where the verb needs it, the last word has {own[-1].mean():.2f} and {end[-1].mean():.2f}",
)

# %% [markdown]
# ## 3. Other sentences, other verbs
#
# A probe learns from all sentences but one, and its direction is taken out there, at the noun. The control's probe
# learned odd and even nouns. In the last column all of the number is gone from the last word.


# %%
def rerun(s: Sentence, layer: int, pos: int, there: Array, forms: Mask = new) -> Array:
    """The logits of these forms with other streams [form, d_model] at one place."""
    stream = s.cache["resid_pre", layer][forms]
    stream[:, pos] = there
    return model(stream, start_at_layer=layer, positions=-1)[:, 0]


def lean(logits: Array, pair: list[int] = VERBS[0]) -> Array:
    return np.asarray(logits[:, pair[1]] - logits[:, pair[0]])


def left(s: Sentence, logits: Array, forms: Mask = new, pair: list[int] = VERBS[0]) -> Array:
    after, before = (np.subtract(*np.split(lean(x, pair), 2)[::-1]) for x in (logits, s.logits[forms]))
    return np.asarray(after / before.mean())  # what is left of the gap, as a share of its mean: [noun]


def without(there: Array, w: Array, mean: Array) -> Array:
    return np.asarray(there - np.outer((there - mean) @ w, w))


def averaged(there: Array) -> Array:  # both forms of each noun get their mean
    return np.concatenate([there.reshape(2, -1, *there.shape[1:]).mean(axis=0)] * 2)


x, kept = streams("noun", middle), np.zeros((len(texts), 3, len(VERBS)))  # [sentence, what, verbs]
for i, s in enumerate(lesson.progress(sentences, "sentences")):
    rows = x[each != i][:, ~new].reshape(-1, x.shape[-1])
    probes = [fit(rows, np.tile(y[~new], len(each) - 1)) for y in (number, noun_of % 2 * 2.0 - 1)]
    runs = [rerun(s, middle, s.noun, without(x[i, new], *probe)) for probe in probes]
    runs.append(rerun(s, middle, -1, averaged(s.cache["resid_pre", middle][new, -1])))
    kept[i] = [[left(s, logits, pair=pair).mean() for pair in VERBS] for logits in runs]
columns = dict(zip(("probe", "control", "all, last word"), kept.mean(axis=2).T))
lesson.table({"sentence": texts} | columns, caption="gap left, mean of is, was and has", format=".2f")
took, of_control, at_end = 1 - kept.mean(axis=2).T  # [sentence]
lesson.finding(
    f"Before layer {middle}, more than half of the gap goes with the direction found in other sentences.",
    stats.mean(took),
    0.5,
    control=f"the control's takes {abs(of_control.mean()):.2f}; all of the number at the end, {at_end.mean():.2f}",
)

# %% [markdown]
# ## 4. Before every layer
#
# The lesson's sentence, with eight new nouns: the probe's direction is taken out at each place, before every layer.

# %%
s, few = sentences[0], new & (noun_of < 33)
names = ["noun", *map(show_token, model.to_str_tokens(s.tokens[0])[s.noun + 1 :])]
stays = np.zeros((len(names), n_layers, few.sum() // 2))  # [place, layer, noun]
for layer in lesson.progress(range(n_layers), "layers"):
    for i in range(len(names)):
        there = s.cache["resid_pre", layer][:, s.noun + i].astype(float)
        rest = without(there[few], *fit(there[~new], number[~new]))
        stays[i, layer] = left(s, rerun(s, layer, s.noun + i, rest, few), few)
lesson.lines(range(n_layers), dict(zip(names, stays.mean(axis=2))), "gap left", "layer", "share", ".2f")
worst = int(stays[1].mean(axis=1).argmin())
lesson.finding(
    f"The verb does not need what a probe reads at the word after the noun, not even before the worst layer, {worst}.",
    stats.mean(1 - (left(s, s.logits[few], few) - stays[1, worst])),
    0.9,
    control=f"without the probe's direction at the noun there, {stays[0, worst].mean():.2f}",
)

# %% [markdown]
# ## 5. Relabelled
#
# Deal the labels otherwise, fit, and take out that direction, or add it to singulars. Does one of 20 do as much?


# %%
def between_means(x: Array, forms: Mask = ~new) -> Array:  # of the plurals, minus the singulars
    return np.asarray(2 / forms.sum() * number[forms] @ x[forms])


there = s.cache["resid_pre", middle][:, s.noun].astype(float)
size, singular = np.linalg.norm(between_means(there)), few & (number < 0)
takes, adds = np.zeros(21), np.zeros(21)
for i in lesson.progress(range(21), "labels"):
    w, mean = fit(there[~new], rng.permutation(number[~new]) if i else number[~new])
    takes[i] = 1 - left(s, rerun(s, middle, s.noun, without(there[few], w, mean), few), few).mean()
    moved = rerun(s, middle, s.noun, there[singular] + size * w, singular)
    adds[i] = (lean(moved) - lean(s.logits[singular])).mean() / between_means(lean(s.logits), few)
wider = int(max((abs(sizes[1:]) >= sizes[0]).sum() for sizes in (takes, adds)))
p = (1 + wider) / 21
lesson.finding(
    "Taken out or added, the probe's direction does more than any relabelled one.",
    established=p < 0.05,
    evidence=f"{takes[0]:.2f} and {adds[0]:.2f} of the gap; {wider} of 20 do as much (bar: p below 0.05; {p:.3f})",
    control=f"the largest of 20 take {abs(takes[1:]).max():.2f} and add {abs(adds[1:]).max():.2f}",
)

# %% [markdown]
# ## 6. Which direction?
#
# The smaller the penalty, the more a probe may use whatever tells its own words apart. The plain alternative is the
# difference of the means (Marks and Tegmark 2023). Take each out, early: what is left, and what does a new probe read?

# %%
early, table, remain = layers[min(1, len(layers) - 1)], [], []
there = s.cache["resid_pre", early][:, s.noun].astype(float)
mean, means = there[~new].mean(axis=0), between_means(there) / np.linalg.norm(between_means(there))
directions = {f"ridge, penalty {size:g}": fit(there[~new], number[~new], size)[0] for size in (0.001, 0.01, 0.1, 1)}
directions["difference of means"] = means
for name, w in directions.items():
    rest = without(there, w, mean)
    again, _ = fit(rest[~new], number[~new])
    first, second = (((x[new] - mean) @ v * number[new] > 0).mean() for x, v in ((there, w), (rest, again)))
    remain.append(left(s, rerun(s, early, s.noun, rest[new])))
    table.append((name, first, w @ means, second, remain[-1].mean()))
columns = dict(zip(("direction", "reads", "cosine", "a new probe then reads", "gap left"), zip(*table)))
picture = lesson.table(columns, caption=f"taken out at the noun, before layer {early}", format=".2f")
lesson.finding(
    "The probe with the smallest penalty reads as well as the difference of means, and leaves more of the gap.",
    stats.paired_difference(remain[0], remain[-1]),
    0.1,
    control=f"they leave {remain[0].mean():.2f} and {remain[-1].mean():.2f}, the lesson's probe {remain[2].mean():.2f}",
)

# %% [markdown]
# ## 7. Who brings it to the last word?
#
# Average what each head writes there over the two forms of a noun. Eight nouns choose the head, the new ones test it.


# %%
def without_head(layer: int, head: int, forms: Mask = new) -> Array:
    def average(z: Array, hook: HookPoint) -> Array:
        z = z.copy()  # [form, pos, n_heads, d_head]
        z[:, -1, head] = averaged(z[:, -1, head])
        return z

    stream, hooks = s.cache["resid_pre", layer][forms], [(f"blocks.{layer}.attn.hook_z", average)]
    return left(s, model.run_with_hooks(stream, hooks, start_at_layer=layer, positions=-1)[:, 0], forms)


heads = [(layer, head) for layer in range(4 * n_layers // 5, n_layers) for head in range(n_heads)]
best, second = sorted(heads, key=lambda at: without_head(at[0], at[1], noun_of < 8).mean())[:2]
brought = [left(s, s.logits[new]) - without_head(*at) for at in (best, second)]
name = f"{best[0]}.{best[1]}"
lesson.finding(
    f"Head {name} brings the number: without what it writes at the last word, more than a third of the gap goes.",
    stats.mean(brought[0]),
    1 / 3,
    control=f"the next best, {second[0]}.{second[1]}, {brought[1].mean():.2f}",
)
lesson.headline(
    f"Yes: for new nouns, in other sentences, with other verbs. Head {name} brings the number to the last word. But a "
    f"probe with a small penalty would have misled us: {remain[0].mean():.2f} of the gap is left without it.",
    picture,
)
lesson.equal("putting back what was there", rerun(s, middle, 1, s.cache["resid_pre", middle][new, 1]), s.logits[new])
lesson.keep(kept=kept, stays=stays, remain=remain, heads=[best, second], brought=brought)
lesson.finish()
