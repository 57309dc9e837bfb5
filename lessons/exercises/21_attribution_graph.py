# %% [markdown]
"""Exercises for "Attribution graph"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.ops import silu
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (medium, 15 minutes): Write `gate_and_input`: a neuron's activation differs between two prompts. How much of
# that comes by its gate, and how much by its input, at each position? The two sum exactly to the difference.
#
# Hint: the activation is `silu(pre) * pre_linear`, and a * b changes by mean(a) times b's change, and so on
#
# Hint: by the gate: the change of `silu(pre)`, times the mean of `pre_linear` in the two runs


# %%
def gate_and_input(model: Model, tokens: Tokens, corrupted: Tokens, layer: int, neuron: int) -> Array:
    """[2, pos]: by the gate and by the input, tokens minus corrupted; both are [1, pos]."""
    runs = [model.run_with_cache(prompt)[1] for prompt in (tokens, corrupted)]
    gates = [silu(run["pre", layer][0, :, neuron]) for run in runs]
    inputs = [run["pre_linear", layer][0, :, neuron] for run in runs]
    by_gate = (gates[0] - gates[1]) * (inputs[0] + inputs[1]) / 2
    by_input = (inputs[0] - inputs[1]) * (gates[0] + gates[1]) / 2
    return np.array([by_gate, by_input])


# %% Mistakes
MISTAKES = [
    (
        "(inputs[0] + inputs[1]) / 2",
        "inputs[0]",
        "Take the mean input of both runs, or the two do not sum to the change.",
    ),
    ("(gates[0] + gates[1]) / 2", "gates[0]", "Take the mean gate of both runs, or the two do not sum to the change."),
    ('silu(run["pre", layer][0, :, neuron])', 'run["pre", layer][0, :, neuron]', "The gate is silu(pre), not pre."),
    ("[by_gate, by_input]", "[by_input, by_gate]", "The gate comes first."),
    (
        "np.array([by_gate, by_input])",
        "np.array([gates[0] * inputs[0] - gates[1] * inputs[1]] * 2)",
        "This is the whole change, twice: say how much of it comes by each of the two.",
    ),
]

# %% [markdown]
# Exercise (research, 180 minutes): Draw the graph of a pair of prompts of your own, in which the answer takes more than
# one step. Which of its nodes would you have expected, and does the model need them?
#
# Hint: look at the error first. Where the answer lies in where heads look, the graph cannot show it
#
# Hint: your report is good when it gives the error beside the gap; exchanges each node and as many others like it; says
# what the nodes keep alone; and shows the same nodes on a pair that had no part in choosing them
