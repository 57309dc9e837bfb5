# %% [markdown]
"""If a probe can read it, does the model use it?

What you will learn: linear probes. One ridge regression reads a property off a stream. A control task says what its
accuracy is worth, and ablation and steering say whether the model needs what the probe reads.

Needs: activation patching, steering

Time: 12 minutes to read, 9 seconds to run

Paper: Hewitt and Liang 2019, Designing and Interpreting Probes with Control Tasks, https://arxiv.org/abs/1909.03368;
Elazar et al. 2021, Amnesic Probing, https://arxiv.org/abs/2006.00995
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.teaching import Lesson, Token, prompts, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The {} of France", help="the prompt, with {} for the noun")
options = lesson.start()
model = lesson.load_model()
singular_verb, plural_verb = model.to_single_token(" is"), model.to_single_token(" are")
nouns = prompts("nouns")  # pairs: singular, plural
rows = [model.to_tokens(options.prompt.replace("{}", pair[form])) for form in (0, 1) for pair in nouns]
if "{}" not in options.prompt or len({row.shape for row in rows}) > 1:
    raise InputError(f"--prompt: {options.prompt!r}; put {{}} where the noun goes, after a space")

# %% [markdown]
# ## 1. Something that the model must know
#
# "The capital of France" goes on with "is", "The capitals of France" with "are". So at its end the model must know the
# number of a noun that it has read before. Take sixty nouns in both forms. Probes learn from 45 of them, and all that
# follows is measured on the other 15. The *gap*: how much more the model wants "are" after plurals than singulars.

# %%
tokens = np.concatenate(rows)  # [form, pos]: sixty singulars, then their plurals
number = np.repeat([-1, 1], len(nouns))  # [form]
new = np.tile(np.arange(len(nouns)) >= 45, 2)  # [form]: no probe learns from these
logits, cache = model.run_with_cache(tokens, lambda name: name.endswith("resid_pre"), positions=-1)


def wants_plural(logits: Array) -> Array:
    return np.asarray(logits[:, 0, plural_verb] - logits[:, 0, singular_verb])


def gap(logits: Array) -> float:
    return float(2 * (number[new] * wants_plural(logits)).mean())  # the mean of plurals minus that of singulars


right = (wants_plural(logits) > 0) == (number > 0)
lesson.say(f"The verb is right after {right.sum()} of {right.size} forms. The gap is {gap(logits[new]):.2f} logits.")

# %% [markdown]
# ## 2. A probe for each place
#
# A linear probe is a direction w: along it, plurals are to be at 1 and singulars at -1. Ridge regression has a closed
# form for the best w. Take the noun and each word after it, before every fourth layer. A probe *reads* the number where
# it gets 90 % of the new forms right. The *control task* has nothing to find: is the noun on an odd line of the file?


# %%
def ridge(x: Array, y: Array) -> Array:
    """The w [d_model] that makes |x @ w - y|^2 + 0.1 |w|^2 least; x is [row, d_model], y [row]."""
    return np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)


def probe(layer: int, pos: int, labels: Array) -> tuple[Array, Array, Array]:
    """Its direction, the mean stream that it learned from (both [d_model]), and which forms it reads rightly [form]."""
    stream = cache["resid_pre", layer][:, pos].astype(float)  # [form, d_model]
    mean, size = stream[~new].mean(axis=0), np.linalg.norm(stream[~new], axis=1).mean()
    x = (stream - mean) / size
    w = ridge(x[~new], labels[~new])
    return w / max(float(np.linalg.norm(w)), 1e-12), mean, (x @ w > 0) == (labels > 0)


noun_pos, layers = int((tokens[0] != tokens[1]).argmax()), range(0, model.config.n_layers, 4)
words = ["noun", *map(show_token, model.to_str_tokens(tokens[0])[noun_pos + 1 :])]
tasks = {word: (noun_pos + i, number) for i, word in enumerate(words)}  # position and labels of each probe
tasks["control"] = (noun_pos, np.tile([-1, 1], len(nouns)))
rightly = {name: np.array([probe(layer, *task)[2] for layer in layers]) for name, task in tasks.items()}
accuracy = {name: forms[:, new].mean(axis=1) for name, forms in rightly.items()}
seen = {"control, seen nouns": rightly["control"][:, ~new].mean(axis=1)}
lesson.lines(layers, accuracy | seen, "share of the new forms that a probe reads rightly", "layer", "share", ".2f")
x, y = cache["resid_pre", 0][:, noun_pos].astype(float), number.astype(float)
lesson.equal("where the loss is least, its slope is 0", x.T @ (y - x @ ridge(x, y)), 0.1 * ridge(x, y))

# %% [markdown]
# Before layer 0 only the noun itself tells. A few layers later every word does. The control is as good, but only on the
# nouns that it learned from: there is room for any labels of so few words. So test a probe on new ones.
#
# ## 3. Take it out
#
# Does the verb need what a probe reads? At one place, set the stream's part along w to its mean: now the probe is
# blind. Let the rest of the model run on. The verb *needs* it where less than half of the gap is left. Is one direction
# too little? Then take out *all* of the number: give both forms of a noun the mean of their two streams.


# %%
def left(layer: int, pos: int, there: Array) -> float:
    stream = cache["resid_pre", layer].copy()  # [form, pos, d_model]
    stream[:, pos] = there
    return gap(model(stream[new], start_at_layer=layer, positions=-1)) / gap(logits[new])


grid = np.zeros((len(layers), len(tasks)))
for row, layer in enumerate(layers):
    for column, (pos, labels) in enumerate(tasks.values()):
        (w, mean, _), stream = probe(layer, pos, labels), cache["resid_pre", layer][:, pos]
        grid[row, column] = left(layer, pos, stream - np.outer((stream - mean) @ w, w))
picture = lesson.heatmap(grid, layers, list(tasks), "share of the gap left without what is read", "layer", format=".2f")
means = {at: np.tile(np.mean(np.split(cache["resid_pre", at], 2), axis=0), (2, 1, 1)) for at in layers}
whole = [[left(at, noun_pos + i, means[at][:, noun_pos + i]) for i in range(len(words))] for at in layers]
lesson.heatmap(whole, layers, words, "share that is left without all of the number", "layer", format=".2f")

# %% [markdown]
# ## 4. Put it in
#
# So the number is used at the noun, until something brings it to the last word. (The deeper file names the head.) Now
# the other way round: add the direction to the singulars, as far as plurals are from singulars. Does the verb turn?

# %%
middle, singular, moved, says = layers[len(layers) // 2], new & (number < 0), [], []
for pos, labels in tasks.values():
    stream = cache["resid_pre", middle].copy()
    apart = 2 * (number[:, None] * stream[:, pos]).mean(axis=0)  # the mean of plurals minus that of singulars
    stream[:, pos] += np.linalg.norm(apart) * probe(middle, pos, labels)[0]
    run = model(stream[singular], start_at_layer=middle, positions=-1)
    moved.append((wants_plural(run) - wants_plural(logits[singular])).mean() / gap(logits[new]))
    says.append(Token(model.to_str_tokens([int(run[-1, 0].argmax())])[0]))  # after the last noun, capital
columns = {"added at": list(tasks), "share of the gap": moved, options.prompt.replace("{}", nouns[-1][0]): says}
lesson.table(columns, caption=f"the probe's direction, added before layer {middle}", format=".2f")
readable, needed = np.array([accuracy[word] >= 0.9 for word in words]).T, grid[:, : len(words)] < 0.5
text = f"A probe cannot tell. Probes read the number of new nouns at {readable.sum()} of {readable.size} places"
lesson.headline(f"{text}, and the verb needs what they read at {(readable & needed).sum()} of them.", picture)

# %% [markdown]
# Exercise (easy, 5 minutes): In the middle layer, each word after the noun can do without the number. Can all at once?
# Which share of the gap is left?
#
# Hint: `stream[:, noun_pos + 1 :]`, and `means[middle]`

# %%
stream = cache["resid_pre", middle].copy()
stream[:, noun_pos + 1 :] = means[middle][:, noun_pos + 1 :]
lesson.answer(gap(model(stream[new], start_at_layer=middle, positions=-1)) / gap(logits[new]))
lesson.finish()
