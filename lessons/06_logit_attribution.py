# %% [markdown]
"""Which components drive the prediction?

What you will learn: direct logit attribution. A prediction is a sum of what every layer and every head wrote, so each
has a share that you can read off. And why a share is not yet a cause.

Needs: quick start, tour

Time: 15 minutes to read, 5 seconds to run

Paper: Elhage et al. 2021, Transformer Circuits, https://transformer-circuits.pub/2021/framework/index.html
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import ActivationCache
from tinymi.teaching import Lesson, Token, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The Eiffel Tower is in", help="the prompt to take apart")
lesson.option("--answer", default=" Paris", help="the answer: one token, mostly with a space first")
lesson.option("--wrong", default=" Rome", help="the answer it is compared with: one token, too")
options = lesson.start()
model = lesson.load_model()
weights, n_layers, n_heads = model.weights, model.config.n_layers, model.config.n_heads
answer, wrong = model.to_single_token(options.answer), model.to_single_token(options.wrong)
if answer == wrong:
    raise InputError(f"--wrong: {options.wrong!r} is the answer itself; give another token to compare it with")

# %% [markdown]
# ## 1. A prediction is a sum
#
# Every layer adds to the residual stream, and nothing is overwritten. So the last stream is a sum: the embedding, plus
# what each attention layer wrote, plus what each MLP wrote. A logit is read off along one direction, so each part has
# its share of the logit difference, answer minus wrong answer. (All parts are divided by this run's final norm scale.)

# %%
POINTS = ["hook_embed", *(f"blocks.{layer}.hook_{part}_out" for layer in range(n_layers) for part in ("attn", "mlp"))]


def run(prompt: str, answer: int, wrong: int) -> tuple[ActivationCache, Array, Array, float]:
    logits, cache = model.run_with_cache(model.to_tokens(prompt))
    scale = cache["ln_final.hook_scale"][0, -1]
    direction = weights.ln_final * (weights.W_U[:, answer] - weights.W_U[:, wrong]) / scale  # [d_model]
    shares = np.array([cache[point][0, -1] @ direction for point in POINTS])  # [component]
    return cache, direction, shares, float(logits[0, -1, answer] - logits[0, -1, wrong])


cache, direction, shares, difference = run(options.prompt, answer, wrong)
lesson.equal("the shares sum to the difference", shares.sum(), difference)

# %% [markdown]
# Beside it, as a control, an equally clear prediction that no fact makes: the next word of "It was a dark and stormy",
# against the model's second choice. Compare how the shares are spread, and which part writes the largest one.

# %%
CONTROL = "It was a dark and stormy"
first, second = np.argsort(-model(model.to_tokens(CONTROL))[0, -1])[:2]
control, control_difference = run(CONTROL, first, second)[2:]
names = [" - ".join(map(show_token, model.to_str_tokens(ids))) for ids in ([answer, wrong], [first, second])]
caption = f"{names[0]} is {difference:+.2f}, layer by layer; control: {names[1]} is {control_difference:+.2f}"
series = {"attention": shares[1::2], "MLP": shares[2::2], "control: both": control[1::2] + control[2::2]}
picture = lesson.bars([f"layer {layer}" for layer in range(n_layers)], series, caption, "+.2f")

# %% [markdown]
# ## 2. Which heads?
#
# Attention is a sum over its heads. Each writes `z @ W_O`, so each has a share.

# %%
heads = np.zeros((n_layers, n_heads))
for layer, block in enumerate(weights.blocks):
    for head in range(n_heads):
        heads[layer, head] = cache["z", layer][0, -1, head] @ block.heads.W_O[head] @ direction
bias = [0 if block.b_O is None else block.b_O @ direction for block in weights.blocks]  # few models have one
lesson.equal("heads' shares sum to their layer's", heads.sum(axis=1) + bias, shares[1::2])
top = [divmod(int(i), n_heads) for i in np.argsort(-abs(heads), axis=None)[:5]]
reads = np.array([cache["pattern", layer][0, head, -1] for layer, head in top])  # [5, key_pos]
pieces = [Token(piece) for piece in model.to_str_tokens(options.prompt)]
columns = {"head": [f"{layer}.{head}" for layer, head in top], "share": [heads[place] for place in top]}
columns |= {"reads most": [pieces[i] for i in reads.argmax(axis=1)], "weight": reads.max(axis=1)}
lesson.table(columns, caption="the largest shares of heads, and what these read at the last position", format=".2f")

# %% [markdown]
# ## 3. The same head elsewhere
#
# What does the first head of this table write? Read its vector with the unembedding. And take it to two more prompts:
# one asks for Paris in another way, one for no city at all. Look at the difference there, and who wrote it.

# %%
layer, head = top[0]
rows = []
for prompt in (options.prompt, "The capital of France is", "She drank a glass of"):
    other, towards, _, total = run(prompt, answer, wrong)
    written = other["z", layer][0, -1, head] @ weights.blocks[layer].heads.W_O[head]  # [d_model]
    promoted = model.to_str_tokens(np.argsort(-(written * weights.ln_final @ weights.W_U))[:2])
    pattern = other["pattern", layer][0, head, -1]  # [key_pos]
    read = Token(model.to_str_tokens(model.to_tokens(prompt)[0])[pattern.argmax()])
    rows.append((prompt, total, written @ towards, read, pattern.max(), ", ".join(map(show_token, promoted))))
by_prompt = dict(zip(("prompt", "total", "share", "reads most", "weight", "writes"), zip(*rows)))
lesson.table(by_prompt, caption=f"head {layer}.{head} on three prompts", format=".2f")

# %% [markdown]
# ## 4. Who wrote it, and who is needed?
#
# A share is bookkeeping: what would happen without the component? Set what it writes at the last position to zero, and
# let the layers above run again. How far the difference falls is the component's total effect.

# %%
tokens = model.to_tokens(options.prompt)
others = np.arange(tokens.size)[:, None] < tokens.size - 1  # all positions but the last
effect = np.zeros(len(POINTS))
for i, point in enumerate(POINTS):
    remove = [(point, lambda value, hook: value * others)]
    logits = model.run_with_hooks(tokens, remove, positions=-1)[0, 0]
    effect[i] = difference - (logits[answer] - logits[wrong])
chosen = [*np.argsort(-abs(shares))[:5], *np.argsort(-abs(effect))[:3]]
caption = "the five largest shares, and the three components whose removal does most"
lesson.table({"component": POINTS, "share": shares, "total effect": effect}, dict.fromkeys(chosen), caption, "+.2f")

# %% [markdown]
# The two need not agree. Later layers, and the final norm, may make up for what a late component wrote, and they build
# on what an early one did. (A zero is a violent thing to put there: `deeper/06_logit_attribution.py` puts an average.)

# %%
share, read, words = rows[0][2], rows[0][3], rows[0][5]
text = f"Head {layer}.{head} writes {share:+.2f} of {difference:+.2f}: it reads {show_token(read)} and promotes"
lesson.headline(f"{text} {words}.", picture)

# %% [markdown]
# Exercise (easy, 3 minutes): Swap the two answers. What do the shares sum to?
#
# Hint: what happens to the direction?

# %%
lesson.answer(run(options.prompt, wrong, answer)[2].sum())

# %% [markdown]
# Exercise (medium, 10 minutes): A tempting mistake: divide each part by its own size. Then what is the sum?
#
# Hint: the size is `np.sqrt(np.mean(part**2) + model.config.rms_eps)`

# %%
parts = np.array([cache[point][0, -1] for point in POINTS])  # [component, d_model]
own_size = np.sqrt(np.mean(parts**2, axis=1) + model.config.rms_eps)
lesson.answer((shares * cache["ln_final.hook_scale"][0, -1] / own_size).sum())
lesson.finish()
