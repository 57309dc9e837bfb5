# %% [markdown]
"""Does the model choose its rhyme before it writes the line?

What you will learn: to test a claim about planning. A large model was found to hold the word that ends a line before it
begins the line. Ask a small one: does it rhyme, and does a rhyme that you inject early reach the end? And see why the
largest effect of such an experiment proves nothing.

Needs: activation patching, steering dose response

Time: 10 minutes to read, 9 seconds to run

Paper: Lindsey et al. 2025, On the Biology of a Large Language Model,
https://transformer-circuits.pub/2025/attribution-graphs/biology.html
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.ops import softmax
from tinymi.teaching import Lesson, Token, prompts

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--line", default="There is so much we cannot", help="how the last line of each poem begins")
options = lesson.start()
if not options.line.strip() or "\n" in options.line:
    raise InputError(f"--line: {options.line!r}; give the beginning of one line")
model = lesson.load_model()

# %% [markdown]
# ## 1. Does it rhyme?
#
# Sixteen poems of three lines, two for each of eight rhymes, all go on with the same line. How likely is a word that
# would rhyme, and how likely is it after the poems with other rhymes? Words that stand in the poem are counted apart.

# %%
rows = prompts("poems")
words = [(rhyme, word) for rhyme, row in enumerate(rows) for word in row[0].split()]
ids = np.array([model.to_single_token(" " + word) for _, word in words])
rhyme_of = np.array([rhyme for rhyme, _ in words])
poems = [(rhyme, "\n".join(lines)) for rhyme, row in enumerate(rows) for lines in (row[1:4], row[4:7])]


def log_p(logits: Array) -> Array:
    """log P of each word, from logits [..., d_vocab]: [..., word]."""
    return np.asarray(np.log(softmax(logits.astype(np.float64))[..., ids]))


after = np.zeros((len(poems), len(words)))
for i, (_, poem) in enumerate(lesson.progress(poems, "poems")):
    after[i] = log_p(model(model.to_tokens(f"{poem}\n{options.line}"))[0, -1])

in_poem = np.array([[f" {word}," in poem or f" {word}." in poem for _, word in words] for _, poem in poems])
rhymes = np.array([rhyme == rhyme_of for rhyme, _ in poems])  # [poem, word]
gain = after - np.nanmean(np.where(rhymes, np.nan, after), axis=0)  # above its mean after the other poems
rhyming, repeating = gain[rhymes & ~in_poem].mean(), gain[in_poem].mean()
caption = "how much likelier a word is than after the other poems, in nats"
lesson.bars(["rhymes, and is new", "stands in the poem"], [rhyming, repeating], caption, ".2f")

# %% [markdown]
# ## 2. Inject another rhyme
#
# Two ways, at one position at a time. Add twice a direction: the mean stream at the words of another rhyme, minus that
# at the words of this one. Or put in the whole stream of a poem with the other rhyme: whatever plan it holds there
# comes along. Do words of that rhyme become likelier at the end? The control: four random directions as long.

# %%
old, new = 0, 1
poem = " / ".join([*rows[old][1:4], options.line])
lesson.say(f"The poem: {poem} ... Its rhymes: {rows[old][0]}. The others: {rows[new][0]}.")
layer = 2 * model.config.n_layers // 3
point = f"blocks.{layer}.hook_resid_pre"


def stream(text: str) -> tuple[list[str], Array]:
    """The pieces of a text, and the stream that enters the layer [pos, d_model]."""
    tokens = model.to_tokens(text)
    return model.to_str_tokens(tokens[0]), model.run_with_cache(tokens, point)[1][point][0]


def mean_at_words(rhyme: int) -> Array:
    text, x_text = stream("\n".join(poem for i, poem in poems if i == rhyme))
    return np.asarray(x_text[[i - 1 for i, piece in enumerate(text) if piece[0] in ",."]].mean(axis=0))


direction = mean_at_words(new) - mean_at_words(old)
pieces, x = stream(f"{poems[2 * old][1]}\n{options.line}")
x_new = stream(f"{poems[2 * new][1]}\n{options.line}")[1]
n = len(pieces) - max(i for i, piece in enumerate(pieces) if "\n" in piece)  # the last line, with the break before it


def moved(line: Array) -> Array:
    """The change of log P of all words of the new rhyme, when one position of the last line takes its row of `line`."""
    streams = np.repeat(x[None], n + 1, axis=0)  # the last one stays as it is
    streams[np.arange(n), np.arange(-n, 0)] = line
    each = log_p(model(streams, start_at_layer=layer)[:, -1])[:, rhyme_of == new]
    total = np.log(np.exp(each).sum(axis=1))
    return np.asarray(total[:-1] - total[-1])


def of_length(vector: Array) -> Array:
    return np.asarray(vector * np.linalg.norm(direction) / np.linalg.norm(vector), np.float32)


rng = np.random.default_rng(0)
added, patched = moved(x[-n:] + 2 * direction), moved(x_new[-n:])
random = np.array([moved(x[-n:] + 2 * of_length(rng.normal(size=len(direction)))) for _ in range(4)])
at = [Token(piece) for piece in pieces[-n:-1]]
columns = {"at": at, "direction added": added[:-1], "whole stream": patched[:-1]}
columns |= {"random, from": random[:, :-1].min(axis=0), "to": random[:, :-1].max(axis=0)}
picture = lesson.table(columns, caption="nats by which the words of the new rhyme move at the end", format="+.2f")

# %% [markdown]
# ## 3. The last position is another matter
#
# The table leaves out the last token, where the next word is read off. What is added there goes on to the unembedding.
# To see it, add a direction that is nothing but a write: the mean unembedding of the new words, minus that of the old.

# %%
unembed = model.weights.W_U[:, ids]  # [d_model, word]
write = of_length(unembed[:, rhyme_of == new].mean(axis=1) - unembed[:, rhyme_of == old].mean(axis=1))
by_write = moved(x[-n:] + 2 * write)
every = [added, by_write, random.mean(axis=0)]
columns = {"added": ["the direction", "a write of the words", "random, the mean of four"]}
columns |= {"highest before the last token": [row[:-1].max() for row in every], "at it": [row[-1] for row in every]}
lesson.table(columns, caption="nats by which the words of the new rhyme move", format="+.2f")
lesson.equal("putting back the stream that was there changes nothing", 1 + moved(x[-n:]), np.ones(n))
text = f"It barely rhymes: a new rhyme is {rhyming:.2f} nats likelier than elsewhere, a repeated word {repeating:.2f}."
low, high = patched[:-1].min(), patched[:-1].max()
text += f" Before the last word, another poem's stream moves its rhyme by {low:+.2f} to {high:+.2f} nats."
lesson.headline(text, picture)
lesson.keep(gain=[rhyming, repeating], added=added, patched=patched, random=random, by_write=by_write, layer=layer)

# %% [markdown]
# So the largest number says least: at the last token, a vector that points at words makes them likely, plan or no plan.
# A larger model may well plan its rhymes. `deeper/22_planning_in_poems.py` tries all rhymes, and Llama-3.2-1B.

# %% [markdown]
# Exercise (medium, 10 minutes): Put the whole last line's streams in at once, all positions but the last. How far do
# the new words move?
#
# Hint: `model(streams, start_at_layer=layer)`, with `streams[0, -n:-1] = x_new[-n:-1]`

# %%
streams = np.repeat(x[None], 2, axis=0)
streams[0, -n:-1] = x_new[-n:-1]
total = np.log(np.exp(log_p(model(streams, start_at_layer=layer)[:, -1])[:, rhyme_of == new]).sum(axis=1))
lesson.answer(float(total[0] - total[1]), tolerance=0.05)
lesson.finish()
