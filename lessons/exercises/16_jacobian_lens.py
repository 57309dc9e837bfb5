# %% [markdown]
"""Exercises for "Jacobian lens"."""

# %% Set-up
from tinymi.arrays import Array

import numpy as np

# %% [markdown]
# Exercise (hard, 20 minutes): The model's last step before the unembedding divides a stream by its root mean square.
# Write `norm_jacobian`, the Jacobian of this division, as a formula and without nudges.
#
# Hint: if the root mean square were a constant, it would be the unit matrix divided by it
#
# Hint: but it grows with x: its derivative with respect to x[i] is x[i] / (d_model * rms)


# %%
def norm_jacobian(resid_pre: Array, eps: float) -> Array:
    """How x / rms(x) depends on x, at the last position of resid_pre [1, pos, d_model]: [out, in]."""
    x = resid_pre[0, -1]
    rms = np.sqrt(np.mean(x**2) + eps)
    return np.asarray((np.eye(len(x)) - np.outer(x, x) / (len(x) * rms**2)) / rms)


# %% Mistakes
MISTAKES = [
    (" - np.outer(x, x) / (len(x) * rms**2)", "", "The root mean square grows with x, too: take that off."),
    ("- np.outer", "+ np.outer", "Where x grows, so does the root mean square, and outputs shrink: minus."),
    ("(len(x) * rms**2)", "rms**2", "You forgot that it is a mean: divide by d_model, too."),
    ("(len(x) * rms**2)", "len(x)", "You divided by the root mean square once: the second term has it three times."),
    ("(len(x) * rms**2)) / rms", "(len(x) * rms**2))", "The root mean square divides both terms."),
    ("[0, -1]", "[0, 0]", "You read the first position: the last one is asked for."),
]

# %% [markdown]
# Exercise (research, 120 minutes): The lens sees a capital early. What else does it see before the logit lens, and what
# later?
#
# Hint: take facts, grammar and copied words, twenty prompts of each
#
# Hint: your report is good when it compares ranks and not examples; counts prompts of each kind that the model answers
# wrongly; and has the shuffled Jacobian beside every number
