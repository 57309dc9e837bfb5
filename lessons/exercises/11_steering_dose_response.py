# %% [markdown]
"""Exercises for "Steering dose response"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.hooks import HookPoint
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (medium, 20 minutes): Write `steered`: a token's logit when a direction is added to the stream that enters a
# layer, at every position. Dose 1 adds a vector as long as the stream is there.
#
# Hint: first make the direction's length 1
#
# Hint: each position has a length of its own: `np.linalg.norm(stream, axis=-1, keepdims=True)`


# %%
def steered(model: Model, tokens: Tokens, layer: int, direction: Array, dose: float, answer: int) -> float:
    """The logit at the last of tokens [1, pos]; direction is [d_model]."""
    unit = direction / np.linalg.norm(direction)

    def add(stream: Array, hook: HookPoint) -> Array:
        lengths: Array = np.linalg.norm(stream, axis=-1, keepdims=True)
        return stream + dose * lengths * unit

    logits = model.run_with_hooks(tokens, [(f"blocks.{layer}.hook_resid_pre", add)])
    return float(logits[0, -1, answer])


# %% Mistakes
MISTAKES = [
    (" / np.linalg.norm(direction)", "", "Make the direction's length 1 first: else the dose depends on it."),
    ("stream + dose", "stream - dose", "You subtracted the direction."),
    ("dose * lengths", "dose", "Dose 1 is as long as the stream: multiply by its length."),
    ("axis=-1, keepdims=True", "keepdims=True", "You took one length for all positions: each has its own."),
    ("stream + dose", "0 * stream + dose", "You replaced the stream: add to it."),
    ("resid_pre", "resid_post", "One layer off: you steered what leaves the layer, where what enters it is asked for."),
]

# %% [markdown]
# Exercise (research, 60 minutes): Make a direction of your own: formal and casual, past and present, French and
# English. At which layer does it steer best?
#
# Hint: write eight pairs of prompts that differ in this one respect, and put them where the lesson has `good` and `bad`
#
# Hint: your report is good when the layer was chosen on some neutral prompts and measured on others; the direction
# stands beside the same recipe with half of the labels swapped; and texts are shown next to numbers, at both signs
