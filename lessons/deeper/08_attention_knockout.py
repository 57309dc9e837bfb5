# %% [markdown]
"""Does it hold? Windows, layers and heads chosen on some prompts and tested on others

What you will learn: to choose a cut on one half of the prompts and measure it on the other, and to compare a cut with a
patch on one scale.

Needs: attention knockout

Time: 10 minutes to read, 20 seconds to run

Paper: Geva et al. 2023, Dissecting Recall of Factual Associations, https://arxiv.org/abs/2304.14767; Heimersheim and
Nanda 2024, How to Use and Interpret Activation Patching, https://arxiv.org/abs/2404.15255; Xiao et al. 2023,
Efficient Streaming Language Models with Attention Sinks, https://arxiv.org/abs/2309.17453
"""

# %% Set-up
from collections.abc import Sequence
from typing import Any, NamedTuple

from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import HookPoint
from tinymi.teaching import Lesson, prompts, stats

import numpy as np

WIDTH = 5  # layers in a window
FIRST = 0  # the position of the sink
CHOOSE, TEST = slice(0, None, 2), slice(1, None, 2)  # every other prompt
lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
n_layers, n_heads = model.config.n_layers, model.config.n_heads
all_layers = list(range(n_layers))


def is_one_token(word: str) -> bool:
    return bool(model.to_tokens(f" {word}", add_special_tokens=False).size == 1)


# %% [markdown]
# ## 1. The prompts and the score
#
# All countries of the list whose names and capitals are one token each, whether the model knows the answer or not. The
# score of a prompt: the logit of its capital above the mean logit of all the other capitals. A cut lowers it, or not.

# %%
pairs = [pair[:2] for pair in prompts("capitals_by_weights") if all(map(is_one_token, pair[:2]))]
if len(pairs) < 8:
    raise InputError(
        f"--model: its tokenizer cuts too many words: {len(pairs)} of the capitals are one token, 8 needed"
    )
countries, capitals = ([model.to_single_token(f" {word}") for word in column] for column in zip(*pairs, strict=True))


class Form(NamedTuple):
    """The prompts of one form, and a run of them without any cut."""

    tokens: Tokens  # [prompt, pos]
    subject: int  # the position of the country
    streams: list[Array]  # what enters each layer, [prompt, pos, d_model]
    scores: Array  # [prompt]


def score(logits: Array, rows: slice = slice(None)) -> Array:
    """[prompt, d_vocab] -> [prompt]: the capital's logit above the mean of the others'."""
    of_capitals = logits[:, capitals].astype(np.float64)  # [prompt, capital]
    own = of_capitals[np.arange(len(logits)), np.arange(len(capitals))[rows]]
    return np.asarray(own - (of_capitals.sum(axis=1) - own) / (len(capitals) - 1))


def run_form(form: str) -> Form:
    tokens = np.concatenate([model.to_tokens(form.format(country)) for country, _ in pairs])
    logits, cache = model.run_with_cache(tokens, lambda point: point.endswith("hook_resid_pre"))
    subject = int(np.flatnonzero(tokens[0] == countries[0])[0])
    streams = [cache["resid_pre", layer] for layer in all_layers]
    return Form(tokens, subject, streams, score(logits[:, -1]))


def fall(
    form: Form, layers: Sequence[int], key: int, rows: slice, heads: Any = slice(None), share_out: bool = True
) -> Array:
    """[prompt]: by how much the score falls when the last position does not see `key` in these layers and heads."""

    def forbid(pattern: Array, hook: HookPoint) -> Array:
        pattern = pattern.copy()  # [prompt, head, from, to]
        pattern[:, heads, -1, key] = 0
        if share_out:
            pattern[:, :, -1] /= pattern[:, :, -1].sum(axis=-1, keepdims=True)
        return pattern

    points = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    stream = form.streams[layers[0]][rows]
    logits = model.run_with_hooks(stream, [(points, forbid)], start_at_layer=layers[0], positions=-1)[:, 0]
    return np.asarray(form.scores[rows] - score(logits, rows))


form = run_form("The capital of {} is")
subject, last = form.subject, form.tokens.shape[1] - 1
lesson.say(f"{len(pairs)} prompts; the score without any cut: {stats.mean(form.scores):.2f}.")

# %% [markdown]
# ## 2. Windows: choose on one half, test on the other
#
# Geva et al. cut windows of layers. The choosing half takes the window with the largest fall, the testing half measures
# it. The control: the other words in the same window.

# %%
windows = [all_layers[start : start + WIDTH] for start in range(0, n_layers, WIDTH)]
window_names = [f"{window[0]}-{window[-1]}" for window in windows]
by_window = [[fall(form, window, subject, rows) for rows in (CHOOSE, TEST)] for window in windows]
best = int(np.argmax([choose.mean() for choose, _ in by_window]))
others = {key: fall(form, windows[best], key, TEST) for key in range(1, last + 1) if key != subject}
lesson.bars(
    window_names,
    {half: [values[i].mean() for values in by_window] for i, half in enumerate(("choosing half", "testing half"))},
    "fall of the score when the last position does not see the country, by layers",
    "+.2f",
)
worst_other = max(float(values.mean()) for values in others.values())
lesson.finding(
    f"The answer needs the look at the country in layers {window_names[best]}.",
    stats.mean(by_window[best][1]),
    above=3 * max(worst_other, 0),
    control=f"the other words in these layers {worst_other:.2f} at most; the bar is three times that",
)

# %% [markdown]
# ## 3. One layer, one head
#
# Now single layers, and the heads of the three strongest. Again one half chooses and the other measures.

# %%
by_layer = np.stack([fall(form, [layer], subject, CHOOSE) for layer in lesson.progress(all_layers, "layers")])
strongest = [int(layer) for layer in np.argsort(-by_layer.mean(axis=1))[:3]]
layer = strongest[0]
heads = [(at, head) for at in strongest for head in range(n_heads)]
by_head = {(at, head): fall(form, [at], subject, CHOOSE, head) for at, head in lesson.progress(heads, "heads")}
ranked = sorted(heads, key=lambda pair: -by_head[pair].mean())
best_head = ranked[0]
layer_fall, head_fall = fall(form, [layer], subject, TEST), fall(form, [best_head[0]], subject, TEST, best_head[1])
tested = [head_fall, *(fall(form, [at], subject, TEST, head) for at, head in ranked[1:5])]
lesson.table(
    {
        "head": [f"{at}.{head}" for at, head in ranked[:5]],
        "choosing half": [by_head[pair].mean() for pair in ranked[:5]],
        "testing half": [f"{stats.mean(values):.2f}" for values in tested],
    },
    caption="fall of the score when one head does not see the country",
    format=".2f",
)
without = [values[1].mean() for window, values in zip(windows, by_window, strict=True) if layer not in window]
largest_without = max([float(value) for value in without], default=np.inf)
lesson.finding(
    f"One layer, {layer}, is needed more than any window of {WIDTH} without it.",
    stats.mean(layer_fall),
    above=2 * max(largest_without, 0),
    control=f"the windows without it {largest_without:.2f} at most; the bar is twice that",
)
name = f"{best_head[0]}.{best_head[1]}"
lesson.finding(
    f"One head, {name}, does more than half of what its layer does.",
    stats.mean(head_fall - layer_fall / 2),
    control=f"the head {head_fall.mean():.2f}, the layer {layer_fall.mean():.2f}, the next head {tested[1].mean():.2f}",
)

# %% [markdown]
# ## 4. The same head, by a cut and by a patch
#
# A patch takes one answer out and puts another in, so the two prompts of a pair change places. A cut takes out only. So
# cut in both prompts of a pair, and see how far they still stand apart: A's capital minus B's, after A and after B.

# %%
rows = np.arange(len(pairs))[TEST]
partners = np.roll(rows, 1)


def apart(logits: Array, other: Array) -> Array:
    """[pair]: how far the two prompts of each pair stand apart, from their logits [pair, d_vocab]."""
    a, b, i = np.array(capitals)[rows], np.array(capitals)[partners], np.arange(len(rows))
    return np.asarray((logits[i, a] - logits[i, b]) - (other[i, a] - other[i, b]))


def head_cut(pattern: Array, hook: HookPoint) -> Array:
    pattern = pattern.copy()
    pattern[:, best_head[1], -1, subject] = 0
    return np.asarray(pattern / pattern.sum(axis=-1, keepdims=True))


def head_patch(z: Array, hook: HookPoint) -> Array:
    z = z.copy()  # [prompt, pos, n_heads, d_head]
    z[:, -1, best_head[1]] = partner_z[:, -1, best_head[1]]
    return z


at = best_head[0]
a, b = form.streams[at][rows], form.streams[at][partners]
attention = f"blocks.{at}.attn."
_, cache = model.run_with_cache(b, attention + "hook_z", start_at_layer=at)
partner_z = cache["z", at]
uncut = [model(stream, start_at_layer=at, positions=-1)[:, 0] for stream in (a, b)]
cut_hook = [(attention + "hook_pattern", head_cut)]
cut = [model.run_with_hooks(stream, cut_hook, start_at_layer=at, positions=-1)[:, 0] for stream in (a, b)]
patched = model.run_with_hooks(a, [(attention + "hook_z", head_patch)], start_at_layer=at, positions=-1)[:, 0]
distance = apart(*uncut)
by_patch, by_cut = apart(uncut[0], patched) / distance, 1 - apart(*cut) / distance
one_cut = apart(uncut[0], cut[0]) / distance
lesson.table(
    {
        f"head {name}": ["patched from the partner", "cut in both prompts", "cut in one prompt"],
        "of the distance": [f"{stats.mean(values):.2f}" for values in (by_patch, by_cut, one_cut)],
    },
    caption="the share of the distance between two prompts that goes: testing half, each with the next as partner",
)
lesson.finding(
    "Cut in both prompts, the head closes most of the distance between them, as its patch does.",
    stats.mean(by_cut),
    above=0.5,
    control=f"patched {by_patch.mean():.2f}; cut in one prompt {one_cut.mean():.2f}, as a cut puts nothing in",
)

# %% [markdown]
# ## 5. What the other layers are needed for
#
# A layer whose cut does nothing alone may still fetch: another may stand in for it. So cut all layers but the strongest
# at once, and all of them.

# %%
together = fall(form, [at for at in all_layers if at != layer], subject, TEST)
everywhere = fall(form, all_layers, subject, TEST)
lesson.finding(
    f"The looks in the layers other than {layer} are needed, too.",
    stats.mean(together),
    control=f"layer {layer} alone {layer_fall.mean():.2f}, the others {together.mean():.2f}, in sum "
    f"{layer_fall.mean() + together.mean():.2f}; all at once {everywhere.mean():.2f} of {form.scores[TEST].mean():.2f}",
)

# %% [markdown]
# ## 6. The first position, cut in two ways
#
# Where a cut takes away what was read, it makes little difference whether the share is passed on or dropped. So compare
# the two ways for the first position and for the country.

# %%
ways = {
    (key, share_out): np.stack([fall(form, window, key, TEST, share_out=share_out) for window in windows])
    for key in (FIRST, subject)
    for share_out in (True, False)
}  # each [window, prompt]
columns = {"layers": window_names}
for key, what in ((FIRST, "first"), (subject, "country")):
    columns |= {f"{what}, shared out": ways[key, True].mean(axis=1), f"{what}, dropped": ways[key, False].mean(axis=1)}
lesson.table(columns, caption="fall of the score, testing half", format="+.2f")
gap = {key: np.abs(ways[key, True] - ways[key, False]).mean(axis=0) for key in (FIRST, subject)}  # [prompt]
lesson.finding(
    "What a cut of the first position does hangs on where its share goes, more than for the country.",
    stats.paired_difference(gap[FIRST], gap[subject]),
    control=f"the two ways differ by {gap[FIRST].mean():.2f} at the first position and {gap[subject].mean():.2f} at "
    "the country (mean over the windows of the size of the difference)",
)

# %% [markdown]
# ## 7. Another form of the question

# %%
other_form = run_form("In {}, the name of the capital is")
other_fall = fall(other_form, [best_head[0]], other_form.subject, TEST, best_head[1])
other_control = fall(other_form, [best_head[0]], other_form.subject + 2, TEST, best_head[1])
lesson.finding(
    f"Another form of the question needs head {name}'s look at the country, too.",
    stats.mean(other_fall),
    above=3 * max(float(other_control.mean()), 0),
    control=f"its look at a word after the country {other_control.mean():.2f}; the score is "
    f"{other_form.scores[TEST].mean():.2f}",
)

# %% [markdown]
# ## 8. Checks


# %%
def mask(attention_scores: Array, hook: HookPoint) -> Array:
    attention_scores = attention_scores.copy()
    attention_scores[:, :, -1, subject] = -np.inf
    return attention_scores


points = [f"blocks.{at}.attn.hook_attn_scores" for at in windows[best]]
plain = model.run_with_hooks(form.tokens[1:2], [(points, mask)])[:, -1]  # prompt 1 is the first of the testing half
lesson.equal(
    "in a batch from a layer on, and one prompt alone with its scores masked",
    by_window[best][1][0],
    (form.scores[1:2] - score(plain, slice(1, 2)))[0],
    1e-3,
)
lesson.keep(pairs=pairs, scores=form.scores, windows=windows, best=best, by_window=[values[1] for values in by_window])
lesson.keep(layer=layer, head=best_head, layer_fall=layer_fall, head_fall=head_fall, together=together, gap=gap[FIRST])
lesson.keep(by_patch=by_patch, by_cut=by_cut, one_cut=one_cut, other_fall=other_fall)
lesson.finish()
