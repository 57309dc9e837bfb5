# %% [markdown]
"""Exercises for "Token prediction sweep"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (medium, 20 minutes): Write `rank_by_layer`: the rank of a token under the logit lens after each layer.
#
# Hint: the likeliest token has rank 1: count the tokens with a higher logit, and add 1
#
# Hint: the lens is the model's end: divide by the root mean square, times `ln_final`, times W_U


# %%
def rank_by_layer(model: Model, tokens: Tokens, answer: int) -> Array:
    """[n_layers], at the last of tokens [1, pos]."""
    _, cache = model.run_with_cache(tokens)
    ranks = []
    for layer in range(model.config.n_layers):
        stream = cache["resid_post", layer][0, -1]  # [d_model]
        normed = stream / np.sqrt(np.mean(stream**2) + model.config.rms_eps) * model.weights.ln_final
        logits = normed @ model.weights.W_U
        ranks.append(1 + np.sum(logits > logits[answer]))
    return np.array(ranks)


# %% Mistakes
MISTAKES = [
    ("1 + np.sum", "np.sum", "You count from 0: the likeliest token has rank 1."),
    ("logits > logits", "logits < logits", "The wrong way round: you counted the tokens that are less likely."),
    (" * model.weights.ln_final", "", "You forgot the final norm's weight: multiply by `model.weights.ln_final`."),
    (
        "resid_post",
        "resid_pre",
        "One layer off: these streams enter the layers, and those that leave them are asked for.",
    ),
    ("[0, -1]", "[0, 0]", "You read the first position: the last one is asked for."),
]

# %% [markdown]
# Exercise (research, 60 minutes): Do frequent answers appear earlier than rare ones?
#
# Hint: the id of a token is a rough measure of how frequent it was when the tokenizer was made
#
# Hint: your report is good when both groups of prompts have the same form; a layer at which an answer "appears" is
# defined before looking; and the same is shown for a token that is not the answer
