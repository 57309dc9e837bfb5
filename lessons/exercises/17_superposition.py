# %% [markdown]
"""Exercises for "Superposition"."""

# %% Set-up
from tinymi.arrays import Array

import numpy as np

# %% [markdown]
# Exercise (medium, 15 minutes): Write `dimensions_per_feature`: how much of a dimension each feature has for itself
# (Elhage et al. 2022). It is 1 for a feature at right angles to all others, and 1/2 for one of two on the same line.
#
# Hint: the squared length of its direction, divided by a sum over all features, itself included
#
# Hint: the sum is of the squared dot products of the feature's direction, made length 1, with the others as they are


# %%
def dimensions_per_feature(W_Q: Array) -> Array:
    """[feature], of any matrix [feature, d]. It is tried on a W_Q, each row taken as a feature."""
    lengths = np.linalg.norm(W_Q, axis=1, keepdims=True)  # [feature, 1]
    overlap = (W_Q / lengths) @ W_Q.T  # [feature, other]
    return np.asarray(lengths[:, 0] ** 2 / (overlap**2).sum(axis=1))


# %% Mistakes
MISTAKES = [
    ("(W_Q / lengths) @", "W_Q @", "Make the feature's own direction length 1 before you compare it."),
    ("overlap**2", "abs(overlap)", "Square the dot products before you add them up."),
    ("lengths[:, 0] ** 2", "lengths[:, 0]", "Square the length of the direction."),
    ("sum(axis=1)", "sum(axis=0)", "You summed over the features: sum over the others, for each feature."),
]

# %% [markdown]
# Exercise (research, 90 minutes): Let features come in pairs: where one is present, so is the other. Which angle does
# the toy give the two directions of a pair, and does rarity change it?
#
# Hint: draw one presence for both features of a pair, and two sizes
#
# Hint: your report is good when it trains from several seeds; holds the angle within pairs against that between
# features of different pairs; and shows the same for features that come alone
