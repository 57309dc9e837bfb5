# %% [markdown]
"""Exercises for "Attribution patching"."""

# %% Set-up
from tinymi import logit_difference
from tinymi.arrays import Array, Tokens
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (medium, 20 minutes): Write `guessed_patches`: the guess for a patch of the stream that enters each layer, at
# each position, in units of the logit difference, answer minus wrong.
#
# Hint: the patch starts from the corrupted run, so take the gradient there
#
# Hint: what the patch changes is clean minus corrupted; sum over d_model


# %%
def guessed_patches(model: Model, tokens: Tokens, corrupted: Tokens, answer: int, wrong: int) -> Array:
    """[n_layers, pos]. tokens is the clean prompt; both are [1, pos]."""
    _, clean_cache = model.run_with_cache(tokens)
    _, cache, grads = model.run_with_gradients(corrupted, lambda logits: logit_difference(logits, answer, wrong)[1])
    layers = range(model.config.n_layers)
    change = np.array([(clean_cache["resid_pre", layer] - cache["resid_pre", layer])[0] for layer in layers])
    return np.array([(change[layer] * grads["resid_pre", layer][0]).sum(axis=-1) for layer in layers])


# %% Mistakes
MISTAKES = [
    (
        "model.run_with_gradients(corrupted,",
        "model.run_with_gradients(tokens,",
        "Nothing changes: you ran the clean prompt twice. Take the gradient in the corrupted run.",
    ),
    (' - cache["resid_pre", layer]', "", "Subtract the corrupted run's stream: the patch changes no more than that."),
    ("resid_pre", "resid_post", "One layer off: this is what leaves the layer, and what enters it is asked for."),
    ("answer, wrong)[1]", "wrong, answer)[1]", "The wrong way round: the answer first, then the wrong one."),
]

# %% [markdown]
# Exercise (research, 120 minutes): Take a pair of prompts of your own. Which heads does the guess miss, and is it the
# softmax, the norms or the MLPs?
#
# Hint: patch the twenty heads with the largest guesses, and twenty others
#
# Hint: your report is good when it counts how many heads were patched; turns the pair round; and shows that what bends
# the curve, held still, leaves a straight line
