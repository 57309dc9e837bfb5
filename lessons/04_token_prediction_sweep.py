# %% [markdown]
"""At which layer does the answer appear?

What you will learn: the logit lens. Hold the model's own last two steps over every layer and see what it would say if
it ended there; and why the lens is sure of itself even where there is nothing to see.

Needs: quick start, tour

Time: 8 minutes to read, 3 seconds to run

Paper: nostalgebraist 2020, interpreting GPT: the logit lens,
https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.ops import softmax
from tinymi.teaching import Lesson, Token, prompts, show_token

import numpy as np

FIVE = [line[0] for line in prompts("token_prediction_sweep")]
lesson = Lesson(__doc__)
lesson.option("--prompt", default=FIVE, many=True, metavar="TEXT[=>ANSWER]", help="a prompt, and the answer to follow")
options = lesson.start()
model = lesson.load_model()
n_layers = model.config.n_layers

# %% [markdown]
# ## 1. The lens
#
# A model turns its last residual stream into scores in two steps: the final norm, and one matmul with the unembedding
# `W_U`. Every layer reads and writes the same stream. So you may take these two steps after any layer, as if the model
# ended there.


# %%
def lens(resid: Array) -> Array:
    scale = np.sqrt((resid * resid).mean(axis=-1, keepdims=True) + model.config.rms_eps)
    logits: Array = resid / scale * model.weights.ln_final @ model.weights.W_U  # [..., d_model] -> [..., d_vocab]
    return logits


# %% [markdown]
# ## 2. Five prompts, layer by layer
#
# We look at the last position, which makes the prediction, and follow one token: the right answer, or, where none is
# given, what the model says in the end. A cell shows the rank of this token among all, and then the token that comes
# first. `embed` is the last token alone, before any layer. Read the columns downwards. How long do they say nothing
# about the question?

# %%
points = ["hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(n_layers))]
texts, followed, streams, readings = [], [], [], []
for prompt in options.prompt:
    text, arrow, answer = prompt.rpartition("=>") if "=>" in prompt else (prompt, "", "")
    final_logits, cache = model.run_with_cache(model.to_tokens(text), points)
    resid = np.stack([cache[point][0, -1] for point in points])  # [1 + n_layers, d_model]
    logits = lens(resid)  # [1 + n_layers, d_vocab]
    texts.append(text)
    followed.append(lesson.token(answer, text) if arrow else int(logits[-1].argmax()))
    streams.append(resid)
    readings.append(logits)
lesson.equal("after the last layer the lens gives the model's own logits", logits[-1], final_logits[0, -1])

# %%
ranks = np.array([1 + (logits > logits[:, [token]]).sum(axis=1) for logits, token in zip(readings, followed)])
firsts = np.array([logits.argmax(axis=1) for logits in readings])  # ranks and firsts: [prompt, 1 + n_layers]
cells = [
    [f"{rank:,} {show_token(piece)}" for rank, piece in zip(ranks[:, row], model.to_str_tokens(firsts[:, row]))]
    for row in range(1 + n_layers)
]
picture = lesson.heatmap(
    -np.log10(ranks.T),
    ["embed", *range(n_layers)],
    [text if len(text) < 11 else f"…{text[-9:]}" for text in texts],
    "the rank of the followed token, and the token that comes first",
    row_axis="layer",
    center=None,
    texts=cells,
    color="-log10 of the rank",
)

# %% [markdown]
# ## 3. Where it comes first, and where it stays
#
# A dash: never. Of the five default prompts one asks what this model does not know: Obama. And look at Paris once more.
# Its rank begins to fall in one layer, and lessons 06 and 07 find the head that does it.


# %%
def stays_from(hits: list[bool]) -> int | None:
    layers = [layer for layer in range(len(hits)) if all(hits[layer:])]
    return layers[0] if layers else None


hits = (firsts[:, 1:] == np.array(followed)[:, None]).tolist()  # [prompt, n_layers]
columns = {"prompt": texts, "follows": [Token(piece) for piece in model.to_str_tokens(followed)]}
columns |= {"first at": [row.index(True) if any(row) else None for row in hits]}
columns |= {"stays from": [stays_from(row) for row in hits], "rank at the end": ranks[:, -1].tolist()}
columns |= {"probability": [softmax(logits[-1])[token] for logits, token in zip(readings, followed)]}
lesson.table(columns, caption=f"layers at which the token comes first, of 0 to {n_layers - 1}", format=".3f")
last_word = ", ".join(str(stays_from((row == row[-1]).tolist())) for row in firsts[:, 1:])
lesson.headline(
    f"What the model says in the end leads the lens only from layer {last_word} on (one number for each prompt; the "
    f"layers are 0 to {n_layers - 1}).",
    picture,
)

# %% [markdown]
# ## 4. What does the lens read from nothing?
#
# Is the lens undecided as long as the answer is not there? Entropy says how undecided a reading is: 0 bits when one
# token has all the probability. As a control, hold the lens over random vectors, which know nothing.

# %%
half = max(n_layers // 2, 1)
noise = np.random.default_rng(0).standard_normal((half * len(texts), model.config.d_model), dtype=np.float32)
early, end = [logits[1 : 1 + half] for logits in readings], [logits[-1:] for logits in readings]
rows = {f"layers 0 to {half - 1}": np.concatenate(early), "the last layer": np.concatenate(end), "noise": lens(noise)}
p = {name: softmax(logits) for name, logits in rows.items()}
columns = {"the lens over": list(rows)}
columns |= {"entropy": [-(x * np.log2(np.maximum(x, 1e-30))).sum(axis=1).mean() for x in p.values()]}
columns |= {"probability of the first token": [x.max(axis=1).mean() for x in p.values()]}
columns |= {"different first tokens": [f"{len(set(x.argmax(axis=1)))} of {len(x)}" for x in p.values()]}
lesson.table(columns, caption="how sure the lens is, on average", format=".2f")

# %% [markdown]
# The lens picks a favourite even from noise: its probability is no belief of the model's. And where it shows no answer,
# the stream is not empty. It may hold the answer in directions that the unembedding does not read: see lesson 05.

# %% [markdown]
# Exercise (easy, 5 minutes): From which layer on is the token of the first prompt among the hundred likeliest for good?
#
# Hint: `ranks[0]` has a rank before the first layer and after each; `stays_from` takes a list of bools

# %%
lesson.answer(stays_from((ranks[0, 1:] <= 100).tolist()))

# %% [markdown]
# Exercise (medium, 10 minutes): Leave the norm's weight out of the lens. What does the last layer say to the first
# prompt then?
#
# Hint: `streams[0][-1]` is what leaves the last layer; to divide it by a number changes no order

# %%
lesson.answer(model.to_str_tokens([int((streams[0][-1] @ model.weights.W_U).argmax())])[0])
lesson.finish()
