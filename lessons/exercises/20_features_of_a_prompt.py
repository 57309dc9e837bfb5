# %% [markdown]
"""Exercises for "Features of a prompt"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.hooks import HookPoint
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (medium, 20 minutes): Write `feature_shares`: how much each of some features writes to a token's logit
# directly, with the final norm's scale of this run. The neurons of a layer stand in for the features here: neuron i
# has a strength at each position, and the row i of W_out as its direction.
#
# Hint: the strengths are `cache["post", layer][0, -1]`
#
# Hint: a direction's share is its dot product with `ln_final * W_U[:, answer]`, divided by the scale


# %%
def feature_shares(model: Model, tokens: Tokens, layer: int, answer: int) -> Array:
    """[feature], at the last of tokens [1, pos]."""
    _, cache = model.run_with_cache(tokens)
    strengths = cache["post", layer][0, -1]
    unembed = model.weights.ln_final * model.weights.W_U[:, answer] / cache["ln_final.hook_scale"][0, -1]
    return np.asarray(strengths * (model.weights.blocks[layer].W_out @ unembed))


# %% Mistakes
MISTAKES = [
    (' / cache["ln_final.hook_scale"][0, -1]', "", "You forgot the norm's scale: divide by it."),
    ("model.weights.ln_final * ", "", "You forgot the weight of the final norm."),
    ("strengths * (", "(strengths > 0) * (", "Each direction counts as often as its feature is strong."),
    ("strengths * (model", "(model", "These are the directions alone: multiply by the strengths."),
    ("[0, -1]\n    unembed", "[0, 0]\n    unembed", "One position is not another: read the last one."),
]

# %% [markdown]
# Exercise (medium, 20 minutes): Write `without_neuron`: the logits at the end when one neuron is taken out at one
# position, by subtracting its strength times its direction from the stream after the layer.
#
# Hint: hook `blocks.{layer}.hook_resid_post`, and subtract at one position only


# %%
def without_neuron(model: Model, tokens: Tokens, layer: int, neuron: int, pos: int) -> Array:
    """[d_vocab]; tokens: [1, pos]."""
    strength = model.run_with_cache(tokens)[1]["post", layer][0, pos, neuron]

    def subtract(stream: Array, hook: HookPoint) -> Array:
        stream = stream.copy()
        stream[0, pos] -= strength * model.weights.blocks[layer].W_out[neuron]
        return stream

    logits = model.run_with_hooks(tokens, [(f"blocks.{layer}.hook_resid_post", subtract)])
    return np.asarray(logits[0, -1])


# %% Mistakes
MISTAKES = [
    ("-= strength *", "+= strength *", "You added the neuron once more: subtract it."),
    ("-= strength *", "-=", "Subtract its direction as often as the neuron is strong."),
    ("stream[0, pos]", "stream[0]", "You took it out at every position: one is asked for."),
    ("logits[0, -1]", "logits[0, pos]", "Read the logits at the end, not where the neuron was."),
]

# %% [markdown]
# Exercise (research, 120 minutes): What must a dictionary see so that the error at " France" no longer matters? Train
# one with lesson 19's code on texts of your own, and take the error out again.
#
# Hint: `windows` in lessons/features.py chooses the text
#
# Hint: your report is good when it says what share of the stream each dictionary leaves over; tests on prompts that
# were not trained on; and compares with a dictionary of the same size on the old text
