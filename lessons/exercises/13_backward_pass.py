# %% [markdown]
"""Exercises for "Backward pass"."""

# %% Set-up
from tinymi import logit_difference
from tinymi.arrays import Array, Tokens
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (medium, 15 minutes): Write `mlp_slopes`: gradient times activation of what each MLP writes at the last
# position, for the logit difference, answer minus wrong.
#
# Hint: `model.run_with_gradients(tokens, lambda logits: logit_difference(logits, answer, wrong)[1])`
#
# Hint: one number for each layer: multiply gradient and value entry by entry, then sum over d_model


# %%
def mlp_slopes(model: Model, tokens: Tokens, answer: int, wrong: int) -> Array:
    """[n_layers], at the last of tokens [1, pos]."""
    _, cache, grads = model.run_with_gradients(tokens, lambda logits: logit_difference(logits, answer, wrong)[1])
    layers = range(model.config.n_layers)
    return np.array([(grads["mlp_out", layer] * cache["mlp_out", layer])[0, -1].sum() for layer in layers])


# %% Mistakes
MISTAKES = [
    (' * cache["mlp_out", layer]', "", "This is the gradient alone: multiply it by what the MLP writes."),
    ("answer, wrong)[1]", "wrong, answer)[1]", "The wrong way round: the answer first, then the wrong one."),
    ("[0, -1].sum()", "[0].sum()", "You summed over all positions: only the last one is asked for."),
    ("[0, -1].sum()", "[0, 0].sum()", "You read the first position: the last one is asked for."),
    ("mlp_out", "attn_out", "These are the attention layers: the MLPs are asked for."),
]

# %% [markdown]
# Exercise (research, 90 minutes): For which components is gradient times activation a good guess of what removal costs?
# Find a number of the run, read without removing anything, that tells where the guess will be bad.
#
# Hint: try the attention weight of a saturated head, the size of the write beside that of the stream, the layer
#
# Hint: your report is good when it states the rule before it looks at new prompts; gives the error there with an
# interval over prompts; and holds the rule against a simpler one, such as the layer's number
