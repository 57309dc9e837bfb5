# %% [markdown]
"""Which features answer this prompt, and what does the dictionary miss?

What you will learn: to take one stream apart into features and an error, to ablate, weigh and add a feature, and to
keep the error in view: a dictionary holds what it was trained on, and not all that the model uses.

Needs: logit attribution, sparse autoencoder

Time: 10 minutes to read, 6 seconds to run, after lesson 19

Paper: Marks et al. 2024, Sparse Feature Circuits, https://arxiv.org/abs/2403.19647
"""

# %% Set-up
from tinymi import load_dictionary
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.ops import softmax
from tinymi.teaching import Lesson, Token, show_token

import numpy as np
from features import dictionary

lesson = Lesson(__doc__)
lesson.option("--prompt", default="import numpy as", help="the prompt that is taken apart")
lesson.option("--other", default="The capital of France is", help="a prompt to compare it with")
lesson.option("--dictionary", help="an SAE of a residual stream: a folder or a hub id; without it, that of lesson 19")
options = lesson.start()
model = lesson.load_model()
sae = dictionary(model) if options.dictionary is None else load_dictionary(options.dictionary, model)
layer = int(sae.reads.split(".")[1]) + sae.reads.endswith("post")  # the layer that reads this stream
if min(model.to_tokens(text).size for text in (options.prompt, options.other)) < 2:
    raise InputError("--prompt and --other: one has a single token; give two or more, for the first is left out")

# %% [markdown]
# ## 1. A stream is a constant, a few features, and an error
#
# Each feature has a direction, and a strength at each position. What constant and features do not rebuild is the error.
# The table leaves out the first position, as the training did.

# %%
tokens = model.to_tokens(options.prompt)
logits, cache = model.run_with_cache(tokens)
x = cache[sae.reads][0]  # [pos, d_model]
f = sae.encode(x)  # [pos, feature]
directions, constant = sae.W_dec, sae.b_dec  # [feature, d_model], [d_model]
error = x - constant - f @ directions
lesson.equal("constant, features and error sum to the stream", constant + f @ directions + error, x)

strongest = [", ".join(map(str, np.argsort(-row)[:4])) for row in f[1:]]
left = (error**2).sum(axis=1) / ((x - constant) ** 2).sum(axis=1)
columns = {"token": [Token(piece) for piece in model.to_str_tokens(tokens[0, 1:])], "strongest features": strongest}
caption = f"the strongest of {sae.n_features:,} features, and the error's share of the squared length"
lesson.table(columns | {"error": [f"{share:.0%}" for share in left[1:]]}, caption=caption)

# %% [markdown]
# ## 2. Take out one at a time
#
# At the last position, subtract one feature's part of the stream and let the later layers run on. How far does log P of
# the answer fall? The control subtracts as many features that are not active here, as strongly.


# %%
def moved(x: Array, pos: int, vectors: Array, answer: int) -> Array:
    """How far log P of the answer moves when each of some vectors [n, d_model] is added to x [pos, d_model] at pos."""
    streams = np.repeat(x[None], len(vectors) + 1, axis=0)
    streams[:-1, pos] += vectors  # the last stream stays as it is
    probs = softmax(model(streams, start_at_layer=layer, positions=-1)[:, 0].astype(np.float64))
    return np.asarray(np.log(probs[:-1, answer] / probs[-1, answer]))


answer = int(logits[0, -1].argmax())
shown = show_token(model.to_string([answer]))
active = np.flatnonzero(f[-1])
others = np.random.default_rng(0).choice(np.flatnonzero(f[-1] == 0), len(active), replace=False)
strength = f[-1, active][:, None]  # [feature, 1]
without = moved(x, -1, -strength * directions[active], answer)
control = moved(x, -1, -strength * directions[others], answer)
order = np.argsort(without)[:6]
labels = [f"feature {active[i]}" for i in order] + ["control, largest"]
caption = f"how log P of {shown} moves without it, in nats"
picture = lesson.bars(labels, [*without[order], control[abs(control).argmax()]], caption, "+.2f")

# %% [markdown]
# ## 3. What does it write to the answer itself?
#
# The last stream of the model is constant, features and error, plus what the later layers added. With the final norm's
# scale held fixed, as in lesson 6, each part has a share of the answer's logit.

# %%
unembed = model.weights.ln_final * model.weights.W_U[:, answer] / cache["ln_final.hook_scale"][0, -1]  # [d_model]
shares = f[-1, active] * (directions[active] @ unembed)
later = cache["resid_post", model.config.n_layers - 1][0, -1] - x[-1]
rest = {"the constant": constant @ unembed, "the error": error[-1] @ unembed, "later layers": later @ unembed}
lesson.equal("the shares sum to the logit", shares.sum() + sum(rest.values()), logits[0, -1, answer], 1e-4)
lesson.bars(["all features", *rest], [shares.sum(), *rest.values()], f"shares of the logit of {shown}", "+.2f")
best = int(active[order[0]])
lesson.say(f"Feature {best} itself writes {shares[order[0]]:+.2f}. The rest of its effect comes about in later layers.")

# %% [markdown]
# ## 4. Add it to another prompt
#
# Add the feature with the largest effect to the last stream of "We write pandas as", in doses of its strength here.
# Does it move the answer further than the control, three of the inactive features, as strongly?

# %%
_, cache = model.run_with_cache(model.to_tokens("We write pandas as"), sae.reads)
doses, size = np.array([-2, -1, 1, 2]), f[-1, best]
pushes = {i: np.outer(doses * size, directions[i]) for i in (best, *others[:3])}  # [dose, d_model] each
steered = {f"feature {i}": moved(cache[sae.reads][0], -1, push, answer) for i, push in pushes.items()}
caption = f"nats by which log P of {shown} moves after 'We write pandas as'"
lesson.table({"dose": doses} | steered, caption=caption, format="+.2f")

# %% [markdown]
# ## 5. What does the dictionary miss?
#
# Lesson 19's dictionary was trained on Python's documentation. Does it hold what a question about a country needs? Take
# out all features at a position, or the error. Where the error costs more, the model reads there what the dictionary
# does not hold. Look at both prompts.

# %%
for prompt in (options.prompt, options.other):
    ids = model.to_tokens(prompt)
    ends, cache = model.run_with_cache(ids)
    stream = cache[sae.reads][0]
    parts = sae.encode(stream) @ directions
    vectors = np.stack([-parts, parts + constant - stream])  # [2, pos, d_model]
    each = [moved(stream, pos, vectors[:, pos], int(ends[0, -1].argmax())) for pos in range(1, len(stream))]
    at, moves = [Token(piece) for piece in model.to_str_tokens(ids[0, 1:])], np.stack(each, axis=1)
    columns = {"token": at, "without all features": list(moves[0]), "without the error": list(moves[1])}
    lesson.table(columns, caption=f"{prompt!r}: nats by which log P of its answer moves", format="+.2f")
worst = int(moves[1].argmin())
fall = f"Feature {best} counts most: without it, log P of {shown} moves by {without[order[0]]:+.2f} nats."
text = f"{fall} But the error may count more: without it at {show_token(at[worst])}, the other answer moves by"
text += f" {moves[1, worst]:+.2f} nats, and without all features there by {moves[0, worst]:+.2f}."
lesson.headline(text, picture)
lesson.keep(active=active, without=without, control=control, shares=shares, rest=list(rest.values()), other_moves=moves)
lesson.keep(steered=list(steered.values()), answer=answer, layer=layer, inactive=others)

# %% [markdown]
# Exercise (easy, 5 minutes): How many of the active features move log P by more than the largest control?
#
# Hint: `abs(without) > abs(control).max()`

# %%
lesson.answer(int((abs(without) > abs(control).max()).sum()))
lesson.finish()
