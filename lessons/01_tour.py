# %% [markdown]
"""What happens between a prompt and a prediction?

What you will learn: the whole forward pass, from token ids to logits: each line of code that runs, what its matmul
multiplies, and the numbers that come out.

Needs: quick start

Time: 20 minutes to read, 5 seconds to run

Paper: Elhage et al. 2021, A Mathematical Framework, https://transformer-circuits.pub/2021/framework/index.html
"""

# %% Set-up
from typing import Any

from tinymi.ops import softmax
from tinymi.teaching import Lesson, Token
from tinymi.teaching.watch import FACTORS, sized, watch

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The capital of France is", help="the prompt to follow")
lesson.option("--layer", type=int, default=23, minimum=0, help="the layer that is told line by line")
options = lesson.start()
model = lesson.load_model()
config, weights = model.config, model.weights
layer = min(options.layer, config.n_layers - 1)
tokens = model.to_tokens(options.prompt)  # [1, pos]
pieces = [Token(piece) for piece in model.to_str_tokens(tokens[0])]
n_pos = len(pieces)
steps = watch(model, tokens)  # one real run, cut at every hook point


def show(point: str, meaning: str) -> None:
    """One step of the run: the line, its matmul, and some numbers, with every position and head to pick on the page."""
    step = steps[point]
    axes, value = step.hook.point.axes, step.value[0]
    factors = FACTORS.get(step.hook.point.short)
    where: dict[str, Any] = {"position": (pieces, n_pos - 1)}
    if "query_pos" in axes:
        value = value.swapaxes(0, 1)  # [query_pos, n_heads, key_pos]
    if value.ndim == 3:
        where["head"] = (range(value.shape[1]), min(4, value.shape[1] - 1))
    lesson.step(
        point,
        meaning,
        step.formula,
        factors=[sized(factors[:2], model, n_pos), sized(factors[1:], model, n_pos)] if factors else [],
        times=f"for each of {config.n_heads} heads" if "query_pos" in (factors or ()) else "",
        result=sized(axes, model, n_pos),
        multiply_adds=step.multiply_adds,
        where=where,
        numbers=value[..., :6],
        more=value.shape[-1] > 6,
    )


# %% [markdown]
# ## 1. Words become vectors
#
# A prompt is cut into tokens, and each token's number picks one row of a table, the embedding. From here on each
# position has a vector, the **residual stream**. Everything that follows reads from it and adds to it.

# %%
lesson.table({"position": range(n_pos), "token": pieces, "id": tokens[0]})
show("hook_embed", "Each token's row: what the model knows of a word on its own.")

# %% [markdown]
# ## 2. Attention: the only place where positions exchange anything
#
# First the stream is divided by its size (RMSNorm), so that only its direction counts. Then each head asks, from each
# position: what am I looking for (query)? What do I have to offer (key)? And what do I hand over (value)? Layer after
# layer does the same with other weights. This one is told line by line.

# %%
block = f"blocks.{layer}"
show(f"{block}.ln1.hook_normalized", "The stream that enters, divided by its size.")
show(f"{block}.attn.hook_q", "Queries: what each head looks for from here.")
show(f"{block}.attn.hook_rot_q", "RoPE turns each pair of numbers by its position.")
show(f"{block}.attn.hook_attn_scores", "How well query and key fit; -inf in the future.")
show(f"{block}.attn.hook_pattern", "Where it reads: softmax makes shares of scores.")
show(f"{block}.attn.hook_z", "The values, averaged by these shares, for each head.")
show(f"{block}.hook_attn_out", "All heads write back, and their writes are summed.")

# %% [markdown]
# ## 3. The MLP: each position alone
#
# Attention's sum is added to the stream. Then each neuron looks at the new stream along two directions: one opens its
# gate, the other is what it lets through. What passes is written along a third direction.

# %%
show(f"{block}.hook_resid_mid", "The stream with what attention added.")
show(f"{block}.mlp.hook_pre", "The gates: does the stream point where a neuron looks?")
show(f"{block}.mlp.hook_post", "The neurons: SiLU(gate) times content, mostly near 0.")
show(f"{block}.hook_mlp_out", "Each neuron adds its direction, as strongly as it fires.")

# %% [markdown]
# ## 4. Vectors become words
#
# After the last layer the stream is normed once more and compared with one direction per token of the vocabulary.
# Softmax turns these numbers, the logits, into probabilities. Do that after every layer, and you see the answer form.

# %%
show("unembed.hook_out", "How far the last stream points along each token's direction.")
streams = np.stack([steps[f"blocks.{i}.hook_resid_post"].value[0, -1] for i in range(config.n_layers)])
sizes = np.sqrt(np.mean(streams**2, axis=1, keepdims=True) + config.rms_eps)
probs = softmax(streams / sizes * weights.ln_final @ weights.W_U)  # [layer, d_vocab]
best = probs.argmax(axis=1)
columns = {"after layer": range(config.n_layers), "stream's size": sizes[:, 0]}
columns |= {"likeliest next token": [Token(piece) for piece in model.to_str_tokens(best)]}
columns |= {"probability": probs.max(axis=1)}
picture = lesson.table(columns, rows=range(config.n_layers)[-7:], format=".2f")
lesson.equal("the last row is the prediction", probs[-1], softmax(model(tokens)[0, -1]))

# %% [markdown]
# ## 5. Where the arithmetic goes
#
# A matmul [n, m] @ [m, k] multiplies and adds n * m * k times. Count all of this run, and compare with a formula.

# %%
parts = {"attention": ("q", "k", "v", "attn_scores", "z", "attn_out"), "MLP": ("pre", "pre_linear", "mlp_out")}
parts["unembedding"] = ("logits",)
counted = {name: sum(s.multiply_adds for s in steps.values() if s.hook.point.short in parts[name]) for name in parts}
heads, total = 2 * config.n_heads + 2 * config.n_kv_heads, sum(counted.values())
per_layer = config.d_model * (heads * config.d_head + 3 * config.d_mlp) + 2 * config.n_heads * n_pos * config.d_head
formula = n_pos * (config.n_layers * per_layer + config.d_model * config.d_vocab)
shares = [100 * count / total for count in counted.values()]
lesson.table({"part": list(counted), "multiply-adds": [f"{n:,}" for n in counted.values()], "%": shares}, format=".1f")
lesson.equal("multiply-adds, by formula", total, formula, 0.0)
written = sum(s.value for s in steps.values() if s.hook.point.short in ("embed", "attn_out", "mlp_out"))
last = steps[f"blocks.{config.n_layers - 1}.hook_resid_post"].value
lesson.equal("the sum of all that was written", written, last)
lesson.headline(
    f"{n_pos} tokens become {n_pos} vectors, {config.n_layers} layers add to them {2 * config.n_layers} times, and the "
    f"last vector is read off: {model.to_str_tokens(best[-1:])[0].strip()}.",
    picture,
)

# %% [markdown]
# Exercise (medium, 10 minutes): From how many tokens on does looking at each other (scores and averages) cost more than
# all else in a layer?
#
# Hint: in `per_layer` only the last term grows with the prompt

# %%
rest = config.d_model * (heads * config.d_head + 3 * config.d_mlp)
lesson.answer(rest // (2 * config.n_heads * config.d_head) + 1)
lesson.finish()
