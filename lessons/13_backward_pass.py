# %% [markdown]
"""What would a small change do to the answer?

What you will learn: the backward pass. It gives the derivative of an answer with respect to every value of a run, by
the chain rule, one matmul at a time. And why a derivative does not tell what a removal would do.

Needs: logit attribution

Time: 15 minutes to read, 7 seconds to run

Paper: Simonyan et al. 2013, Deep Inside Convolutional Networks, https://arxiv.org/abs/1312.6034
"""

# %% Set-up
from tinymi import logit_difference
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import Callback
from tinymi.teaching import Lesson, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The capital of France is", help="the prompt to explain")
lesson.option("--answer", default=" Paris", help="the answer: one token, mostly with a space first")
lesson.option("--wrong", default=" Rome", help="the answer it is compared with: one token, too")
options = lesson.start()
model = lesson.load_model()
tokens, n_layers, n_heads = model.to_tokens(options.prompt), model.config.n_layers, model.config.n_heads
answer, wrong = lesson.token(options.answer), lesson.token(options.wrong)
if answer == wrong or tokens.size < 2:
    raise InputError("--prompt, --answer, --wrong: give a prompt of two tokens or more, and two different answers")

# %% [markdown]
# ## 1. One number for each value
#
# Take one number that a run computes: the logit difference, answer minus wrong answer. Its *gradient* at a hook point
# has the shape of the value there: how fast the difference grows with each of its numbers. One pass backwards gives
# the gradients at all points.

# %%
logits, cache, grads = model.run_with_gradients(tokens, lambda logits: logit_difference(logits, answer, wrong)[1])
whole = float(logits[0, -1, answer] - logits[0, -1, wrong])
by_head = np.array([(grads["z", i] * cache["z", i])[0, -1].sum(axis=-1) for i in range(n_layers)])  # [layer, head]
layer, head = divmod(int(by_head.argmax()), n_heads)
lesson.say(f"The difference is {whole:+.2f}. Head {layer}.{head} has the largest gradient x activation (section 3).")

# %% [markdown]
# ## 2. The chain rule, one matmul at a time
#
# Go back through the MLP of that layer, and its norm. `d_x` is the gradient at x. If y = x @ W, then x[i] reaches y[j]
# through W[i, j], so d_x = d_y @ W.T. If two lines read x, their gradients add up.

# %%
w = model.weights.blocks[layer]
pre, pre_linear, n = (cache[name, layer][0] for name in ("pre", "pre_linear", "ln2.normalized"))
sigmoid = 1 / (1 + np.exp(-pre))
d_mlp_out = grads["resid_post", layer][0]  # [pos, d_model]: the stream's own, as the MLP adds to it
d_post = d_mlp_out @ w.W_out.T  # [pos, d_mlp]
d_pre_linear = d_post * pre * sigmoid  # post = silu(pre) * pre_linear, and silu(pre) = pre * sigmoid
d_pre = d_post * pre_linear * sigmoid * (1 + pre * (1 - sigmoid))
d_n = (d_pre_linear @ w.W_in.T + d_pre @ w.W_gate.T) * w.ln2  # [pos, d_model]
d_norm = (d_n - n * (d_n * n).mean(axis=-1, keepdims=True)) / cache["ln2.scale", layer][0]
d_resid_mid = d_mlp_out + d_norm
lesson.equal("by hand it is what the engine computes", d_resid_mid, grads["resid_mid", layer][0], 1e-4)

# %% [markdown]
# The norm's line takes out of the gradient what points along the stream: a longer stream is divided by more, so growing
# alone does nothing. Attention goes the same way: read `tinymi/backward.py` beside `tinymi/model.py`. Is it all right?
# Nudge each value of the layer along its gradient and against it, and run the rest of the model.


# %%
def difference(hooks: list[tuple[str, Callback]], start: int = 0) -> float:
    logits = model.run_with_hooks(cache["resid_pre", start], hooks, start_at_layer=start)[0, -1]  # [d_vocab]
    return float(logits[answer] - logits[wrong])


def add(point: str, vector: Array) -> tuple[str, Callback]:
    return point, lambda value, hook: value + vector


should, moves = [], []
for name in (point for point in grads if point.startswith(f"blocks.{layer}.")):
    size, steepness = np.linalg.norm(cache[name][np.isfinite(cache[name])]), np.linalg.norm(grads[name])
    nudge = min(0.01 * size, 0.01 / steepness) * grads[name] / steepness  # so little that the model is a straight line
    should.append((2 * nudge * grads[name]).sum())
    moves.append(difference([add(name, nudge)], layer) - difference([add(name, -nudge)], layer))
lesson.equal(f"a nudge at any of {len(moves)} points moves the difference as its gradient says", moves, should, 2e-2)

# %% [markdown]
# ## 3. Gradient times activation
#
# Multiply the gradient at what a component writes by what it writes, at the last position: that is the slope of the
# difference as you turn the component up. On a straight line it would be what removal costs. Remove each, as lesson 6
# did, and compare.

# %%
POINTS = [f"blocks.{i}.hook_{part}_out" for i in range(n_layers) for part in ("attn", "mlp")]
LABELS = [f"{part} {i}" for i in range(n_layers) for part in ("attention", "MLP")]
at_last = np.arange(tokens.size)[:, None] == tokens.size - 1  # [pos, 1]
slope = np.array([(grads[point] * cache[point])[0, -1].sum() for point in ("hook_embed", *POINTS)])
effect = np.array([whole - difference([add(x, -cache[x] * at_last)], i // 2) for i, x in enumerate(POINTS)])
columns = {"component": LABELS, "slope": slope[1:], "removal costs": effect}
caption = f"the six largest effects; the slopes of all, embedding included, sum to {slope.sum():+.2f}"
lesson.table(columns, np.argsort(-abs(effect))[:6], caption, "+.2f")

# %% [markdown]
# Why 0, and not the difference? Turn all of them up at once: each norm divides by more, and nothing changes. (Lesson 6
# takes the last norm's scale as given, so its shares sum to the difference.)
#
# ## 4. Where the two part
#
# Turn the component with the largest gap down. Then again with all attention patterns held as they were.

# %%
worst = int(np.argmax(abs(effect - slope[1:])))
name, doses = POINTS[worst], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
down = [add(name, (dose - 1) * cache[name] * at_last) for dose in doses]
held = [(point, lambda value, hook: cache[hook.name]) for point in cache if point.endswith("hook_pattern")]
curves = {"the model": [difference([hook]) for hook in down]}
curves["the gradient"] = [whole - (1 - dose) * float(slope[1 + worst]) for dose in doses]
curves["patterns held"] = [difference([hook, *held]) for hook in down]
picture = lesson.lines(doses, curves, f"the difference with {LABELS[worst]} turned down", "dose", format="+.2f")
text = f"A small change is no removal: the gradient gives {LABELS[worst]} {slope[1 + worst]:+.2f}, and without it"
lesson.headline(f"{text} the difference falls by {effect[worst]:+.2f}, from {whole:+.2f}.", picture)

# %% [markdown]
# A held curve that stays up says: here it acts through softmaxes. (On other prompts it need not: see the deeper file.)
# So take one softmax alone: where the head of section 1 looks from the last position. What it reads is the sum of the
# values, each times its weight. So the gradient at a score is the weight, times how much more that token's value is
# worth than the sum. Near a weight of 1 the two are the same, and the score has nowhere to go. Farther down it has.

# %%
v = cache["v", layer][0, :, head * model.config.n_kv_heads // n_heads]  # [key_pos, d_head]
pattern = cache["pattern", layer][0, head, -1]  # [key_pos]
worth = v @ w.heads.W_O[head] @ grads["attn_out", layer][0, -1]  # [key_pos]: of each value, for the difference
d_scores = pattern * (worth - pattern @ worth)
lesson.equal("the engine's softmax agrees", d_scores, grads["attn_scores", layer][0, head, -1], 1e-4)

key, steps, place = int(pattern.argmax()), np.array([-4, -2, 2, 4]), np.zeros_like(grads["attn_scores", layer])
place[0, head, -1, key] = 1
moved = [difference([add(f"blocks.{layer}.attn.hook_attn_scores", step * place)], layer) - whole for step in steps]
scores = {"score": list(map("{:+}".format, steps)), "gradient expects": list(steps * d_scores[key]), "moves": moved}
token = show_token(model.to_str_tokens(tokens[0])[key])
lesson.table(scores, caption=f"head {layer}.{head}: its score for {token}, weight {pattern[key]:.2f}", format="+.2f")
lesson.keep(layer=layer, head=head, slope=slope, effect=effect, curves=curves, scores=scores)
lesson.keep(d_resid_mid=d_resid_mid, d_scores=d_scores)

# %% [markdown]
# Exercise (medium, 10 minutes): The norms bend a curve, too. With `freeze=["scale"]` the gradient takes them as held.
# What is gradient x activation of the last MLP then? And what does its removal cost with `ln_final.hook_scale` held?
#
# Hint: two numbers that are equal; `run_with_gradients(tokens, grads["unembed.hook_out"], POINTS[-1], freeze=...)`

# %%
frozen = model.run_with_gradients(tokens, grads["unembed.hook_out"], POINTS[-1], freeze=["scale"])[2]
lesson.answer((frozen[POINTS[-1]] * cache[POINTS[-1]])[0, -1].sum())
lesson.finish()
