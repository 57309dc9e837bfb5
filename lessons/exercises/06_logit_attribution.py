# %% [markdown]
"""Exercises for "Logit attribution"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (medium, 20 minutes): Write `head_shares`: each head's share of the logit difference, answer minus wrong.
#
# Hint: what a head writes at the last position is `cache["z", layer][0, -1, head] @ block.heads.W_O[head]`
#
# Hint: the final norm stands between the stream and W_U. It divides by this run's `ln_final.hook_scale`, and multiplies
# by `ln_final`


# %%
def head_shares(model: Model, tokens: Tokens, answer: int, wrong: int) -> Array:
    """[n_layers, n_heads], at the last of tokens [1, pos]."""
    _, cache = model.run_with_cache(tokens)
    weights = model.weights
    direction = weights.ln_final * (weights.W_U[:, answer] - weights.W_U[:, wrong])
    direction = direction / cache["ln_final.hook_scale"][0, -1]
    shares = np.zeros((model.config.n_layers, model.config.n_heads))
    for layer, block in enumerate(weights.blocks):
        for head in range(model.config.n_heads):
            shares[layer, head] = cache["z", layer][0, -1, head] @ block.heads.W_O[head] @ direction
    return shares


# %% Mistakes
MISTAKES = [
    ("weights.ln_final * ", "", "You forgot the final norm's weight: multiply the direction by `weights.ln_final`."),
    (' / cache["ln_final.hook_scale"][0, -1]', "", "You forgot what the final norm divides by: `ln_final.hook_scale`."),
    ("weights.W_U[:, answer] - weights.W_U[:, wrong]", "weights.W_U[:, answer]", "This is the answer's logit alone."),
    ("layer][0, -1, head]", "layer][0, 0, head]", "You read the first position: the last one predicts."),
    ("layer][0, -1, head]", "layer][0, -2, head]", "One position off: this is the last but one."),
    ("W_O[head] @", "W_O[0] @", "Each head has its own W_O: use `block.heads.W_O[head]`."),
]

# %% [markdown]
# Exercise (research, 90 minutes): Is a head with a large share needed? Find one that is not.
#
# Hint: compare each head's share with what is lost when you set its output to its mean over other prompts
#
# Hint: your report is good when it counts how many heads you compared; shows a head where share and loss agree beside
# one where they do not; and says which later part makes up for it, with its own knockout as evidence
