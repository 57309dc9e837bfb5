# %% [markdown]
"""Exercises for "Logit lens"."""

# %% Set-up
from tinymi.arrays import Tokens
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (medium, 15 minutes): Write `lens_logit`: the logit of a token if the model ended after this layer.
#
# Hint: the stream that leaves a layer is `cache["resid_post", layer]`
#
# Hint: do with it what the model does after its last layer: divide by the root mean square, multiply by the final
# norm's weight, then by the token's column of W_U


# %%
def lens_logit(model: Model, tokens: Tokens, layer: int, answer: int) -> float:
    """The logit lens after `layer` at the last of tokens [1, pos]."""
    _, cache = model.run_with_cache(tokens)
    stream = cache["resid_post", layer][0, -1]  # [d_model]
    normed = stream / np.sqrt(np.mean(stream**2) + model.config.rms_eps)
    return float((normed * model.weights.ln_final) @ model.weights.W_U[:, answer])


# %% Mistakes
MISTAKES = [
    (" * model.weights.ln_final", "", "You forgot the final norm's weight: multiply by `model.weights.ln_final`."),
    (
        "(normed *",
        "(stream *",
        "You forgot to divide by the root mean square: early streams are short, late ones long.",
    ),
    (
        "resid_post",
        "resid_pre",
        "One layer off: this stream enters the layer, and the one that leaves it is asked for.",
    ),
    ("[0, -1]", "[0, 0]", "You read the first position: the last one is asked for."),
    ("np.mean(stream**2)", "np.sum(stream**2)", "You divide by the length: the root *mean* square is asked for."),
    ("stream / np.sqrt(np.mean(", "(stream - stream.mean()) / np.sqrt(np.mean(", "RMSNorm takes no mean off."),
]

# %% [markdown]
# Exercise (research, 90 minutes): At which layer can the lens first tell a prompt whose answer the model knows from one
# that it does not?
#
# Hint: half of your prompts choose the layer, the other half tests it
#
# Hint: your report is good when the two kinds of prompts have the same form; debris is named as such; and the
# control, a lens on another prompt's stream, is in the same table
