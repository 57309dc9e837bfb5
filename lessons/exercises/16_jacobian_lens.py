# %% [markdown]
"""Exercises for "Jacobian lens"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (medium, 15 minutes): Write `slopes`: how fast a token's logit at the last position rises with each number of
# the stream that enters a layer there. It is a row of a lens, of one place, with the last norm and the unembedding in.
#
# Hint: one backward pass has all of them: `model.run_with_gradients(tokens, d_logits)`
#
# Hint: d_logits has the shape of the logits; it is 1 at the last position and the token, and 0 elsewhere


# %%
def slopes(model: Model, tokens: Tokens, layer: int, answer: int) -> Array:
    """[d_model], for tokens [1, pos]."""
    d_logits = np.zeros((1, tokens.shape[1], model.config.d_vocab), dtype=np.float32)
    d_logits[0, -1, answer] = 1
    *_, grads = model.run_with_gradients(tokens, d_logits)
    return np.asarray(grads["resid_pre", layer][0, -1])


# %% Mistakes
MISTAKES = [
    ("*_, grads", "_, grads, _", "This is the stream itself: the slopes are in the third value that is returned."),
    ("layer][0, -1]", "layer][0, 0]", "You read the first position: the last one is asked for."),
    ("layer][0, -1]", "layer][0].sum(axis=0)", "You added up the positions: the last one is asked for."),
    ('"resid_pre"', '"resid_post"', "One layer off: this is what leaves the layer, where what enters it is asked for."),
    (
        "[0, -1, answer] = 1",
        "[0, -1] = 1",
        "You took the slope of the sum of all logits: take that of the token alone.",
    ),
]

# %% [markdown]
# Exercise (research, 120 minutes): The lens sees a capital early. What else does it see before the logit lens, and what
# later?
#
# Hint: take facts, grammar and copied words, twenty prompts of each
#
# Hint: your report is good when it compares ranks and not examples; counts prompts of each kind that the model answers
# wrongly; and has the shuffled Jacobian beside every number
