# %% [markdown]
"""What would a small change do to the answer?

What you will learn: the backward pass. It gives the derivative of an answer with respect to every value of a run, by
the chain rule, one matmul at a time. And why a derivative does not tell what a removal would do.

Needs: logit attribution

Time: 20 minutes to read, 7 seconds to run

Paper: Simonyan et al. 2013, Deep Inside Convolutional Networks, https://arxiv.org/abs/1312.6034
"""

# %% Set-up
import math
from typing import Any

from tinymi import logit_difference
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint
from tinymi.ops import rms_norm_back, rope, rope_angles
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
z_points = [f"blocks.{layer}.attn.hook_z" for layer in range(n_layers)]
by_head = np.array([(grads[z] * cache[z])[0, -1].sum(axis=-1) for z in z_points])  # [n_layers, n_heads]
layer, head = divmod(int(by_head.argmax()), n_heads)
lesson.say(f"The difference is {whole:+.2f}. Head {layer}.{head} has the largest gradient x activation (section 3).")

# %% [markdown]
# ## 2. The chain rule, one matmul at a time
#
# We go back through the layer of that head. `d["x"]` is the gradient at x. If y = x @ W, then x[i] reaches y[j] through
# W[i, j], so d_x = d_y @ W.T. If two lines read x, their gradients add up. First the MLP and its norm.

# %%
w, eps = model.weights.blocks[layer], model.config.rms_eps
x = {name.rpartition("hook_")[2]: cache[name][0] for name in cache if name.startswith(f"blocks.{layer}.")}
n1, n2 = (cache["normalized", layer, name][0] for name in ("ln1", "ln2"))  # [pos, d_model]
d = {"mlp_out": grads["resid_post", layer][0]}  # [pos, d_model]: the stream's own, as the MLP adds to it

sigmoid = 1 / (1 + np.exp(-x["pre"]))
d["post"] = d["mlp_out"] @ w.W_out.T  # [pos, d_mlp]
d["pre_linear"] = d["post"] * x["pre"] * sigmoid  # post = silu(pre) * pre_linear, and silu(pre) = pre * sigmoid
d["pre"] = d["post"] * x["pre_linear"] * sigmoid * (1 + x["pre"] * (1 - sigmoid))
d_n = (d["pre_linear"] @ w.W_in.T + d["pre"] @ w.W_gate.T) * w.ln2  # [pos, d_model]
d_n = (d_n - n2 * (d_n * n2).mean(axis=-1, keepdims=True)) / cache["scale", layer, "ln2"][0]
d["resid_mid"] = d["mlp_out"] + d_n

# %% [markdown]
# The norm's line takes out of the gradient what points along the stream: a longer stream is divided by more, so that
# growing alone does nothing. Now attention, head by head, and its norm.

# %%
d |= {name: np.zeros_like(x[name]) for name in ("z", "pattern", "attn_scores", "q", "k", "v")}
for h in range(n_heads):
    kv = h // (n_heads // model.config.n_kv_heads)  # the key-value head that this head reads
    q, k, v, pattern = x["rot_q"][:, h], x["rot_k"][:, kv], x["v"][:, kv], x["pattern"][h]
    d["z"][:, h] = d_z = d["resid_mid"] @ w.heads.W_O[h].T  # [pos, d_head]
    d["v"][:, kv] += pattern.T @ d_z  # z = pattern @ v
    d["pattern"][h] = d_pattern = d_z @ v.T  # [query_pos, key_pos]
    d["attn_scores"][h] = d_scores = pattern * (d_pattern - (d_pattern * pattern).sum(axis=-1, keepdims=True))
    d["q"][:, h] = d_scores @ k / math.sqrt(w.d_head)  # scores = q @ k.T / sqrt(d_head)
    d["k"][:, kv] += d_scores.T @ q / math.sqrt(w.d_head)

cos, sin = rope_angles(model.config, np.arange(tokens.size)[None], model.weights.dtype)
d["q"], d["k"] = (rope(d[name][None], cos, -sin)[0] for name in "qk")  # what RoPE turned is turned back
if w.q_norm is not None and w.k_norm is not None:  # Qwen3
    d["q"], d["k"] = rms_norm_back(d["q"], x["q"], w.q_norm, eps), rms_norm_back(d["k"], x["k"], w.k_norm, eps)
d_q, d_k, d_v = (d[name].reshape(tokens.size, -1) for name in "qkv")  # [pos, heads * d_head]
d_n = (d_q @ w.W_Q.T + d_k @ w.W_K.T + d_v @ w.W_V.T) * w.ln1  # [pos, d_model]
d_n = (d_n - n1 * (d_n * n1).mean(axis=-1, keepdims=True)) / cache["scale", layer, "ln1"][0]
d["resid_pre"] = d["resid_mid"] + d_n

# %% [markdown]
# Is it right? Nudge each value along its gradient, so little that the difference should move by 0.01, and run the rest
# of the model. Nudge it the other way, too.


# %%
def difference(hooks: list[tuple[str, Callback]], start: int = 0) -> float:
    logits = model.run_with_hooks(cache["resid_pre", start], hooks, start_at_layer=start)[0, -1]  # [d_vocab]
    return float(logits[answer] - logits[wrong])


def add(vector: Array) -> Callback:
    return lambda value, hook: value + vector


should, moves = [], []
for name, gradient in d.items():
    point = next(key for key in cache if key.startswith(f"blocks.{layer}.") and key.endswith(f"hook_{name}"))
    size, steepness = np.linalg.norm(x[name][np.isfinite(x[name])]), np.linalg.norm(gradient)  # masked scores: -inf
    nudge = min(0.01 * size, 0.01 / steepness) * gradient / steepness
    should.append((2 * nudge * gradient).sum())
    moves.append(difference([(point, add(nudge))], layer) - difference([(point, add(-nudge))], layer))
lesson.equal(f"a nudge at any of {len(d)} points moves the difference as its gradient says", moves, should, 2e-2)
lesson.equal("our block ends where the engine's does", d["resid_pre"], grads["resid_pre", layer][0], 1e-4)

# %% [markdown]
# ## 3. Gradient times activation
#
# Multiply the gradient at what a component writes by what it writes, at the last position: that is the slope of the
# difference as you turn the component up. On a straight line it would be what removal costs. Remove each, as lesson 6
# did, and compare.

# %%
POINTS = [f"blocks.{i}.hook_{part}_out" for i in range(n_layers) for part in ("attn", "mlp")]


def turn(point: str, dose: float) -> tuple[str, Callback]:
    def callback(value: Array, hook: HookPoint) -> Array:
        return np.concatenate([value[:, :-1], dose * value[:, -1:]], axis=1)  # [1, pos, d_model]

    return point, callback


slope = np.array([(grads[point] * cache[point])[0, -1].sum() for point in ("hook_embed", *POINTS)])
effect = np.array([whole - difference([turn(point, 0)], i // 2) for i, point in enumerate(POINTS)])
columns: dict[str, Any] = {"component": POINTS, "gradient x activation": slope[1:], "removal costs": effect}
caption = f"the six largest effects; gradient x activation of all, embedding included, sums to {slope.sum():+.2f}"
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
doses = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def hold(value: Array, hook: HookPoint) -> Array:
    return cache[hook.name]


held = [(name, hold) for name in cache if name.endswith("hook_pattern")]
curves = {"the model": [difference([turn(POINTS[worst], dose)]) for dose in doses]}
curves["the gradient"] = [whole - (1 - dose) * float(slope[1 + worst]) for dose in doses]
curves["patterns held"] = [difference([turn(POINTS[worst], dose), *held]) for dose in doses]
picture = lesson.lines(doses, curves, f"{POINTS[worst]} turned down: the difference", "dose", format="+.2f")

# %% [markdown]
# A held curve that stays up says: here it acts through softmaxes. (On other prompts it need not: see the deeper file.)
# Take one softmax alone. Change the score of the token that the head of section 1 reads most. A weight near 1 has
# nowhere to go, so the slope there is small. Farther down it is not.

# %%
weight = cache["pattern", layer][0, head, -1]  # [key_pos]
key, steps = int(weight.argmax()), np.array([-4, -2, 2, 4])
place = np.zeros_like(x["pattern"])  # [n_heads, query_pos, key_pos]
place[head, -1, key] = 1
point = f"blocks.{layer}.attn.hook_attn_scores"
moved = [difference([(point, add(step * place))], layer) - whole for step in steps]
expected = steps * d["attn_scores"][head, -1, key]
scores = {"score": list(map("{:+}".format, steps)), "gradient expects": list(expected), "moves": moved}
token = show_token(model.to_str_tokens(tokens[0])[key])
lesson.table(scores, caption=f"head {layer}.{head}: its score for {token}, weight {weight[key]:.2f}", format="+.2f")

# %% [markdown]
# The other cause is the norm. Hold the last norm's scale, in the run and (`freeze`) in the backward pass: the logits
# are a straight line in what the last MLP writes, and its gradient is exact.

# %%
last, d_logits = POINTS[-1], grads["unembed.hook_out"]
frozen = model.run_with_gradients(tokens, d_logits, last, freeze=["scale"])[2]
slopes = [slope[-1], (frozen[last] * cache[last])[0, -1].sum()]
effects = [effect[-1], whole - difference([turn(last, 0), ("ln_final.hook_scale", hold)])]
columns = {"last MLP": ["as it is", "scale held"], "gradient x activation": slopes, "removal costs": effects}
lesson.table(columns, format="+.2f")
lesson.equal("with the scale held, gradient x activation is the cost", slopes[1], effects[1], 1e-4)

# %%
text = f"A small change is no removal: the gradient gives {POINTS[worst]} {slope[1 + worst]:+.2f}, and without it the"
lesson.headline(f"{text} difference falls by {effect[worst]:+.2f}, from {whole:+.2f}.", picture)

# %% [markdown]
# Exercise (easy, 5 minutes): What does `by_head` sum to over the heads of the layer in section 2? Why?
#
# Hint: compare it with section 3; attention is a sum over heads

# %%
lesson.answer(by_head[layer].sum())

# %% [markdown]
# Exercise (medium, 10 minutes): Take the slope of section 4's curve at the doses 0.1, 0.3, 0.5, 0.7 and 0.9. The mean?
#
# Hint: `fwd_hooks=[turn(point, dose)]` gives that run's gradient; multiply it by the activation of the first run

# %%
point, hooks = POINTS[worst], [[turn(POINTS[worst], dose)] for dose in (0.1, 0.3, 0.5, 0.7, 0.9)]
turned = [model.run_with_gradients(tokens, d_logits, point, fwd_hooks=pairs)[2][point] for pairs in hooks]
lesson.answer(np.mean([(gradient * cache[point])[0, -1].sum() for gradient in turned]))
lesson.keep(layer=layer, head=head, slope=slope, effect=effect, curves=curves, moves=moves)
lesson.keep(block={name: gradient.ravel()[-64:] for name, gradient in d.items()}, scores=scores)
lesson.finish()
