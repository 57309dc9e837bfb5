# %% [markdown]
"""Exercises for "Neuron activations"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.ops import silu
from tinymi.run import Model

# %% [markdown]
# Exercise (medium, 15 minutes): Write `neuron_activation` without reading `post` from the cache.
#
# Hint: the MLP reads `cache["ln2.normalized", layer]`, times the weight `ln2`
#
# Hint: silu(x @ W_gate) * (x @ W_in), and of each matrix only the neuron's column


# %%
def neuron_activation(model: Model, tokens: Tokens, layer: int, neuron: int) -> Array:
    """[pos]: the neuron's activation at each of tokens [1, pos]."""
    _, cache = model.run_with_cache(tokens)
    w = model.weights.blocks[layer]
    x = cache["ln2.normalized", layer][0] * w.ln2  # [pos, d_model]
    gate = silu(x @ w.W_gate[:, neuron])
    through: Array = x @ w.W_in[:, neuron]
    return gate * through


# %% Mistakes
MISTAKES = [
    (" * w.ln2", "", "You forgot the norm's weight: multiply by `ln2`."),
    (
        '"ln2.normalized", layer][0] * w.ln2',
        '"ln1.normalized", layer][0] * w.ln1',
        "This is what attention reads: the MLP reads the stream after it, normed by ln2.",
    ),
    ('"ln2.normalized"', '"resid_mid"', "You forgot to divide by the root mean square: read `ln2.normalized`."),
    ("gate * through", "gate", "This is the gate alone: multiply by x @ W_in."),
    ("silu(x @ w.W_gate[:, neuron])", "x @ w.W_gate[:, neuron]", "You forgot silu on the gate."),
    (
        "gate * through",
        "silu(through) * (x @ w.W_gate[:, neuron])",
        "You have taken the two matrices for each other: silu belongs to x @ W_gate.",
    ),
]

# %% [markdown]
# Exercise (research, 120 minutes): Choose a neuron at random, guess what it is for, and try to show your guess wrong.
#
# Hint: write texts that your guess says fire it, and texts that it says do not, before you run any
#
# Hint: your report is good when the neuron was drawn by a seed; the guess was fixed before the test; the share of right
# predictions stands beside that of a second random neuron; and a failed guess is reported as one
