# %% [markdown]
"""Does it hold? Every rhyme, two layers, and a transcoder's features

What you will learn: to ask of all rhymes what the lesson asked of two, with intervals, and to repeat a published
experiment on planning with features: suppress those of one rhyme, inject one of another, and sweep the position.

Needs: planning in poems, sparse autoencoder

Time: 10 minutes to read, 25 seconds to run

Paper: Lindsey et al. 2025, On the Biology of a Large Language Model,
https://transformer-circuits.pub/2025/attribution-graphs/biology.html; repeated on Llama-3.2-1B by candle-mi,
https://github.com/PCfVW/candle-mi
"""

# %% Set-up
import re
from typing import Any

from tinymi import load_dictionary
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import HookPoint
from tinymi.ops import softmax
from tinymi.teaching import Lesson, Token, prompts, stats

import numpy as np

POEM = (
    "The birds were singing in the tree,\nAnd everything was wild and free.\nThe river ran down to the sea,\n"
    "There is so much we cannot "
)
lesson = Lesson(__doc__)
lesson.option("--line", default="There is so much we cannot", help="how the last line of each poem begins")
lesson.option("--dictionary", help="a cross-layer transcoder or an SAE, for part 3: a folder or a hub id")
lesson.option("--suppress", default="13:30985,9:5488,14:27874,13:32049", help="its features to suppress, layer:feature")
lesson.option("--inject", default="14:13043", help="its features to inject, layer:feature")
lesson.option("--word", default=" that", help="the word that the injected features stand for: one token")
lesson.option("--strength", type=float, default=10.0, help="how often each feature's decoder row is added")
options = lesson.start()
if not options.line.strip() or "\n" in options.line:
    raise InputError(f"--line: {options.line!r}; give the beginning of one line")
model = lesson.load_model()
n_layers = model.config.n_layers

# %% [markdown]
# ## 1. Does it rhyme?
#
# As in the lesson, for each of the eight rhymes; the interval draws rhymes. The control deals out the words anew: each
# poem is asked for the words of the next rhyme in the list.

# %%
rows = prompts("poems")
words = [(rhyme, word) for rhyme, row in enumerate(rows) for word in row[0].split()]
ids = np.array([model.to_single_token(" " + word) for _, word in words])
rhyme_of = np.array([rhyme for rhyme, _ in words])
poems = ["\n".join(lines) for row in rows for lines in (row[1:4], row[4:7])]  # two for each rhyme
layers = [n_layers // 3, 2 * n_layers // 3]
points = [f"blocks.{layer}.hook_resid_pre" for layer in layers]


def log_p(logits: Array) -> Array:
    return np.asarray(np.log(softmax(logits.astype(np.float64))[..., ids]))


pieces: list[list[str]] = []
streams: list[list[Array]] = []  # of each poem and layer: [pos, d_model]
after: list[Array] = []  # of each poem: [word]
for poem in lesson.progress(poems, "poems"):
    tokens = model.to_tokens(f"{poem}\n{options.line}")
    logits, cache = model.run_with_cache(tokens, points)
    pieces.append(model.to_str_tokens(tokens[0]))
    streams.append([cache[point][0] for point in points])
    after.append(log_p(logits[0, -1]))
in_poem = np.array([[f" {word}," in poem or f" {word}." in poem for _, word in words] for poem in poems])


def gains(shift: int) -> list[float]:
    """For each rhyme: how much likelier the new words of the rhyme `shift` further on are than after other poems."""
    asked = (np.arange(len(poems)) // 2 + shift) % len(rows)
    asked_for = asked[:, None] == rhyme_of  # [poem, word]
    usual = np.nanmean(np.where(rhyme_of == np.arange(len(poems))[:, None] // 2, np.nan, after), axis=0)
    gain = np.where(asked_for & ~in_poem, np.array(after) - usual, np.nan)
    return [float(np.nanmean(gain[asked == rhyme])) for rhyme in range(len(rows))]


rhyming, control = stats.mean(gains(0)), stats.mean(gains(1))
lesson.finding(
    "Words that rhyme are likelier than after poems of other rhymes.",
    rhyming,
    control=f"the words of the next rhyme: {control:.2f} nats",
)

# %% [markdown]
# ## 2. Whatever a poem holds before its last word
#
# Put the whole stream of a poem with another rhyme into each poem, at one position of the last line, and see how far
# the words of the other rhyme move. What any direction holds there, the whole stream holds as well. Each poem gets
# three other rhymes; the interval draws the rhyme that is brought in. The yardstick is the other poem itself.

# %%
n = min(len(p) - max(i for i, piece in enumerate(p) if "\n" in piece) for p in pieces)  # with the line break before it


def total(log_probs: Array, rhyme: int) -> Array:
    """log P of all words of a rhyme, from log P of each word [..., word]."""
    return np.asarray(np.log(np.exp(log_probs[..., rhyme_of == rhyme]).sum(axis=-1)))


pairs = [(own, (own + 2 * step) % len(poems)) for own in range(len(poems)) for step in (1, 2, 3)]
moves = np.zeros((len(layers), len(pairs), n))  # [layer, pair, place]
for i, layer in enumerate(layers):
    for j, (own, other) in enumerate(lesson.progress(pairs, f"pairs of poems, layer {layer}")):
        batch = np.repeat(streams[own][i][None], n, axis=0)  # [place, pos, d_model]
        batch[np.arange(n), np.arange(-n, 0)] = streams[other][i][-n:]
        patched = log_p(model(batch, start_at_layer=layer, positions=-1)[:, 0])
        moves[i, j] = total(patched, other // 2) - total(after[own], other // 2)
again = log_p(model(streams[1][0][None], start_at_layer=layers[0], positions=-1)[:, 0])
lesson.equal("run on from a layer, a poem ends as it did", again[0], after[1])
brought = np.array([other // 2 for _, other in pairs])
yardstick = np.array([total(after[other], other // 2) - total(after[own], other // 2) for own, other in pairs])
columns: dict[str, Any] = {"at": [Token(piece) for piece in pieces[0][-n:]]}
columns |= {f"layer {layer}": moves[i].mean(axis=0) for i, layer in enumerate(layers)}
lesson.table(columns, caption="nats by which the words of the other rhyme move", format="+.2f")
lesson.say(f"The other poem itself moves them by {yardstick.mean():+.2f}.")
for i, layer in enumerate(layers):
    best = int(moves[i, :, :-1].mean(axis=0).argmax())
    lesson.finding(
        f"Before the last word, some position of layer {layer} holds the rhyme.",
        stats.mean_by_group(moves[i, :, best], brought),
        above=0.1,
        control="a bar of 0.1 nats, since the largest of several positions is taken",
    )

# %% [markdown]
# ## 3. The published experiment, with features
#
# In a large model, and then by candle-mi in Llama-3.2-1B, features of one rhyme were suppressed and another injected,
# at one position at a time: the decoder row of each, times a strength, at every layer that it writes to. You need the
# model and the transcoder:
#
#     tinymi run 22 --deeper --model meta-llama/Llama-3.2-1B --dictionary mntss/clt-llama-3.2-1b-524k
#
# candle-mi prints, for " that": 1.06e-6 with nothing changed, 4.9e-4 for " cannot", and 0.687 at the last position,
# where a decoder row goes straight to the logits. The control injects features that were drawn by chance.


# %%
def parse(text: str) -> list[tuple[int, int]]:
    """ "14:13043,9:5" to [(14, 13043), (9, 5)]. Raises InputError."""
    matches = [re.fullmatch(r"(\d{1,6}):(\d{1,9})", part.strip()) for part in text.split(",")]
    if not all(matches):
        raise InputError(f"--suppress and --inject: {text!r}; 14:13043,9:5488 would be valid: layer:feature")
    return [(int(match[1]), int(match[2])) for match in matches if match]


def add_rows(pushes: dict[str, Array], features: list[tuple[int, int]], strength: float) -> None:
    """Add the decoder rows of some features, times the strength, to what is pushed at each hook point."""
    for layer, feature in features:
        dictionary = load_dictionary(options.dictionary, model, layer=layer)
        if feature >= dictionary.n_features:
            raise InputError(f"feature {layer}:{feature}: the layer has features 0 to {dictionary.n_features - 1}")
        for point, row in zip(dictionary.writes, dictionary.decoder[feature].reshape(len(dictionary.writes), -1)):
            pushes[point] = pushes.get(point, 0) + strength * row


def sweep(inject: list[tuple[int, int]]) -> Array:
    """log P of the word at the end when the features are pushed at each position of the poem."""
    pushes: dict[str, Array] = {}
    add_rows(pushes, inject, options.strength)
    add_rows(pushes, parse(options.suppress), -options.strength)
    found = np.zeros(tokens.shape[1])
    for pos in lesson.progress(range(tokens.shape[1]), "positions"):

        def push(value: Array, hook: HookPoint, pos: int = pos) -> Array:
            value = value.copy()  # [1, pos, d_model]
            value[0, pos] += pushes[hook.name]
            return value

        logits = model.run_with_hooks(tokens, [(point, push) for point in pushes], positions=-1)
        found[pos] = np.log(softmax(logits[0, 0].astype(np.float64))[word])
    return found


if options.dictionary is None:
    lesson.say("No --dictionary was given, so this part was not run.")
else:
    tokens, word = model.to_tokens(POEM), model.to_single_token(options.word)
    usual = float(np.log(softmax(model(tokens, positions=-1)[0, 0].astype(np.float64))[word]))
    inject, rng = parse(options.inject), np.random.default_rng(0)
    sizes = [load_dictionary(options.dictionary, model, layer=layer).n_features for layer, _ in inject]
    by_chance = [sweep([(layer, int(rng.integers(size))) for (layer, _), size in zip(inject, sizes)]) for _ in range(3)]
    moved, chance = sweep(inject) - usual, np.array(by_chance) - usual
    columns = {"at": [Token(piece) for piece in model.to_str_tokens(tokens[0])[:-1]], "the features": moved[:-1]}
    columns |= {"by chance, from": chance[:, :-1].min(axis=0), "to": chance[:, :-1].max(axis=0)}
    lesson.table(columns, caption=f"nats by which log P of {options.word!r} moves; usually {usual:.2f}", format="+.2f")
    lesson.say(
        f"At the last position, where it is a direct write: {moved[-1]:+.2f}; by chance {chance[:, -1].max():+.2f}."
    )
    lesson.keep(features_moved=moved, chance_moved=chance)

lesson.headline(
    f"A new rhyme is {rhyming:.2f} nats likelier than elsewhere. A stream put in before the last word brings another "
    f"rhyme by at most {moves[:, :, :-1].mean(axis=1).max():+.2f} nats; the other poem itself does by "
    f"{yardstick.mean():+.2f}."
)
lesson.keep(rhyming=gains(0), shifted=gains(1), moves=moves, yardstick=yardstick)
lesson.finish()
