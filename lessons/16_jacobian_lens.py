# %% [markdown]
"""What will the later layers make of this stream?

What you will learn: to take the derivative of a layer by nudging, to chain layers, and to read through the average.

Needs: logit lens

Time: 12 minutes to read, 8 seconds to run

Paper: Hernandez et al. 2023, Linearity of Relation Decoding in Transformer Language Models,
https://arxiv.org/abs/2308.09124
"""

# %% Set-up
from tinymi import KeyValueCache
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.ops import rms, rms_norm
from tinymi.teaching import Lesson, Token, prompts, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The capital of France is", help="the prompt to read")
options = lesson.start()
model = lesson.load_model()
weights, config, n_layers = model.weights, model.config, model.config.n_layers
if model.to_tokens(options.prompt).size < 2:
    raise InputError(f"--prompt: {options.prompt!r} is one token, and no lens reads the first one; give two or more")
layers = range(4 * n_layers // 5 - 1, n_layers)  # the lenses read before each of these
points = [*(f"blocks.{layer}.hook_resid_pre" for layer in layers), f"blocks.{n_layers - 1}.hook_resid_post"]

# %% [markdown]
# ## 1. The derivative of one layer
#
# The logit lens reads an early stream as if no layer followed. But what do the later layers make of it? Take one layer
# at one position. Nudge one number that enters, and see how all the numbers that leave change. Do so for each number:
# the table of changes is the layer's *Jacobian*. Each row of a batch is one nudge.


# %%
def jacobian(stream: Array, layer: int, past: KeyValueCache) -> Array:
    """How what leaves a layer depends on what enters it [d_model], at the position after those in past: [out, in]."""
    size = 0.01 * np.sqrt((stream * stream).mean())
    nudges = size * np.eye(config.d_model + 1, config.d_model)  # the last row is 0: no nudge
    rows = (stream + nudges)[:, None]  # [d_model + 1, 1, d_model]
    left = model(rows, start_at_layer=layer, stop_at_layer=layer + 1, past_kv_cache=past)[:, 0]
    return np.asarray((left[:-1] - left[-1]).T / size)


# %% [markdown]
# ## 2. All the layers that follow
#
# The chain rule: the Jacobian of several layers is the product of theirs. But it is true near one stream only. So take
# it at a few places of ordinary text, and average. The check is the backward pass: it carries a derivative from the end
# of the model to an early stream, and so must the product.

# %%
text = [line[0].replace(r"\n", "\n") for line in prompts("lens_train")[::4]]
J = np.zeros((len(layers), config.d_model, config.d_model), weights.dtype)  # [layer, out, in]
for paragraph in lesson.progress(text[:4], "places"):
    tokens = model.to_tokens(paragraph)[:, :12]
    past = KeyValueCache(1, tokens.size, config, weights.dtype)  # what the earlier positions say stays the same
    model(tokens[:, :-1], stop_at_layer=n_layers, past_kv_cache=past)
    many = past.repeat(config.d_model + 1)
    _, cache = model.run_with_cache(tokens[:, -1:], points, stop_at_layer=n_layers, past_kv_cache=past)
    product = np.eye(config.d_model, dtype=weights.dtype)  # from what enters a layer to what leaves the last one
    for i in reversed(range(len(layers))):
        product = product @ jacobian(cache["resid_pre", layers[i]][0, 0], layers[i], many)
        J[i] += product / 4
metric = np.eye(1, config.d_vocab)[None]  # of the logits at the last position: the first one
grads = model.run_with_gradients(tokens, metric, [points[0], points[-1]], positions=-1)[2]
early, late = grads[points[0]][0, -1], grads[points[-1]][0, -1]  # [d_model]
lesson.equal("the product carries a derivative as the backward pass does", late @ product, early, 0.02)

# %% [markdown]
# ## 3. Read through it
#
# A derivative speaks of changes. So start where the stream is on average, and let `J` carry what is different here:
# `mean at the end + J @ (stream - mean)`. Then read as ever, with the last norm and the unembedding. Without `J` this
# is the shifted lens of lesson 5. The rival is lesson 5's translator, a matrix fitted to what the last layer leaves.
# Compare the table with lesson 7, which found the layer and the head that bring the answer.


# %%
def streams_of(paragraph: str) -> Array:
    """What enters each of the layers, and what leaves the last, without the sink: [layer or end, pos, d_model]."""
    _, cache = model.run_with_cache(model.to_tokens(paragraph)[:, :48], points, stop_at_layer=n_layers)
    return np.stack([cache[point][0, 1:] for point in points])


def says(x: Array) -> Array:
    return np.asarray((rms_norm(x, weights.ln_final, config.rms_eps) @ weights.W_U).argmax(axis=-1))


train = np.concatenate([streams_of(paragraph) for paragraph in lesson.progress(text, "text")], axis=1)
normed = train / rms(train, config.rms_eps)
mean, mean_normed = train.mean(axis=1), normed.mean(axis=1)  # [layer or end, d_model]
penalty = 0.1 * train.shape[1] * np.eye(config.d_model, dtype=train.dtype)
shuffle = np.random.default_rng(0).permutation(config.d_model)


def readings(i: int, x: Array) -> dict[str, Array]:
    """What each lens makes of streams [place, d_model] that enter layers[i]."""
    X, Y = (normed[row] - mean_normed[row] for row in (i, -1))  # [token, d_model]
    A = np.linalg.solve(X.T @ X + penalty, X.T @ Y)
    lenses = {"logit lens": x, "shifted": mean[-1] + x - mean[i], "Jacobian": mean[-1] + (x - mean[i]) @ J[i].T}
    lenses["shuffled"] = mean[-1] + (x - mean[i])[:, shuffle] @ J[i].T  # each number in a wrong place
    return lenses | {"translator": mean_normed[-1] + (x / rms(x, config.rms_eps) - mean_normed[i]) @ A}


own = streams_of(options.prompt)[:, -1:]  # at the last position
words = [{name: model.to_str_tokens(says(x))[0] for name, x in readings(i, own[i]).items()} for i in range(len(layers))]
said = show_token(model.to_str_tokens(says(own[-1]))[0])
columns = {"before": list(layers)} | {name: [Token(row[name]) for row in words] for name in words[0]}
picture = lesson.table(columns, caption=f"what each lens reads at the end of {options.prompt!r}; the model says {said}")

# %% [markdown]
# ## 4. Text that no lens has seen
#
# One prompt is no evidence. At which share of the places in other text does a lens name the token that the model says?

# %%
held_out = np.concatenate([streams_of(line[0].replace(r"\n", "\n"))[:, ::4] for line in prompts("lens_test")], axis=1)
answers, shown = says(held_out[-1]), range(1, len(layers), 2)
right = [{name: np.mean(says(x) == answers) for name, x in readings(i, held_out[i]).items()} for i in shown]
shares = {name: [row[name] for row in right] for name in right[0]}
columns = {"before": [layers[i] for i in shown], **shares}
lesson.table(columns, caption=f"share of {answers.size} places where a lens names the model's token", format=".2f")
first = {name: f'"{show_token(word)}"' for name, word in words[1].items()}
reads = f"the Jacobian lens reads {first['Jacobian']} where the logit lens reads {first['logit lens']}"
right_at = f"at {shares['Jacobian'][0]:.0%} of the places, a translator at {shares['translator'][0]:.0%}"
answer = f"Before layer {layers[1]}, {reads}, and the model will say {said}."
lesson.headline(f"{answer} In other text it names the model's token {right_at}.", picture)
lesson.keep(jacobian=J[0][:3], layers=list(layers), words=words, shares=shares)

# %% [markdown]
# Few places are read here: ten points of difference may be chance. In `deeper/16_jacobian_lens.py`, with all layers and
# intervals, the translator reads early layers better: a derivative knows only what the later layers do with a small
# change, and a translator learns whatever helps to guess.

# %% [markdown]
# Exercise (easy, 5 minutes): Read through the Jacobian without the means, `J @ stream`. What does it read before the
# last layer, at the end of the prompt?
#
# Hint: `own[-2] @ J[-1].T`

# %%
lesson.answer(show_token(model.to_str_tokens(says(own[-2] @ J[-1].T))[0]))
lesson.finish()
