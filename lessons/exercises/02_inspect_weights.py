# %% [markdown]
"""Exercises for "Inspect weights"."""

# %% Set-up
import tinymi
from tinymi.arrays import Array

import numpy as np

# %% [markdown]
# Exercise (easy, 10 minutes): Write `cosines`: how alike a token's embedding is to every token's.
#
# Hint: the cosine is the dot product, divided by both lengths


# %%
def cosines(W_E: Array, answer: int) -> Array:
    """[d_vocab], from W_E [d_vocab, d_model] and a token's id."""
    lengths: Array = np.linalg.norm(W_E, axis=1)
    products: Array = W_E @ W_E[answer]
    result: Array = products / (lengths * lengths[answer])
    return result


# %% Mistakes
MISTAKES = [
    (
        "products / (lengths * lengths[answer])",
        "products",
        "These are dot products: long rows win. Divide by the lengths.",
    ),
    ("(lengths * lengths[answer])", "lengths[answer]", "You divided by this token's length alone: long rows win."),
    (
        "(lengths * lengths[answer])",
        "lengths",
        "You divided by the others' lengths alone: divide by this token's, too.",
    ),
    ("products / (lengths * lengths[answer])", "np.linalg.norm(W_E - W_E[answer], axis=1)", "These are distances."),
]

# %% [markdown]
# Exercise (research, 60 minutes): Do a word with a capital and the same word without lie apart by the same vector?
#
# Hint: the mean of many differences is never zero: compare with differences of pairs that you shuffled
#
# Hint: your report is good when the vector comes from some words and is tested on others; the words are drawn, not
# chosen; and the share of words for which it fails is given

# %% [markdown]
# Exercise (medium, 10 minutes): What is wrong with this finding? "The rows of W_E for ␣France and ␣Paris have a cosine
# of 0.59. So the embedding already stores which city is whose capital."
#
# Hint: which other words are close to ␣France?
#
# Hint: the answer: ␣Germany is closer, at 0.69. The embedding stores what kind of word it is: a country, a place.


# %% Control
model = tinymi.load()


def alike(one: str, other: str) -> float:
    W_E, a, b = model.weights.W_E, model.to_single_token(one), model.to_single_token(other)
    return float(cosines(W_E, a)[b])


claim, control = alike(" France", " Paris"), alike(" France", " Germany")
