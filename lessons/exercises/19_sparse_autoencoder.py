# %% [markdown]
"""Exercises for "Sparse autoencoder"."""

# %% Set-up
import tinymi
from tinymi.arrays import Array
from tinymi.teaching import prompts
from tinymi.weights import BlockWeights

import numpy as np

# %% [markdown]
# Exercise (medium, 15 minutes): Write `rebuilt`: a stream as an SAE rebuilds it that has W_gate as its W_enc, W_out
# as its W_dec, no biases and no mean. Three features are active at each position.
#
# Hint: np.partition(pre, -3, axis=-1)[..., -3] is the third largest of each row
#
# Hint: a feature is never negative


# %%
def rebuilt(resid_post: Array, w: BlockWeights) -> Array:
    """[batch, pos, d_model], from resid_post of the same shape."""
    pre = resid_post @ w.W_gate  # [batch, pos, feature]
    third = np.partition(pre, -3, axis=-1)[..., -3, None]
    f = np.maximum(pre, 0) * (pre >= third)
    written: Array = f @ w.W_out
    return written


# %% Mistakes
MISTAKES = [
    (" * (pre >= third)", "", "You kept all features that are positive: only the three largest stay."),
    ("-3, None]", "-1, None]", "You kept the largest feature alone: three stay."),
    ("np.partition(pre,", "np.partition(abs(pre),", "The three largest are asked for, not the three farthest from 0."),
    ("-3, axis=-1)", "-3, axis=-2)", "You compared positions: take the three largest features of each position."),
    ("f @ w.W_out", "f", "These are the features: each writes its row of W_out."),
    ("w.W_gate", "w.W_in", "You read with W_in: W_gate is asked for."),
]

# %% [markdown]
# Exercise (medium, 15 minutes): What is wrong with this finding? "One direction alone explains 0.99 of the variance of
# the stream that enters layer 25. So this layer holds one large feature, which tells most about a token."
#
# Hint: at which positions is that direction strong?
#
# Hint: the answer: two vectors explain 0.98, one for the first position of a text and one for all others. The
# direction is the attention sink. Leave the first position out, as the lesson does, before you count features.


# %% Control
model = tinymi.load()
texts = [model.to_tokens(line[0].replace(r"\n", "\n"))[:, :64] for line in prompts("lens_train")[::4]]
streams = [model(tokens, stop_at_layer=25)[0] for tokens in texts]  # each [pos, d_model]
rows = np.concatenate(streams)
first = np.concatenate([np.arange(len(stream)) == 0 for stream in streams])
x = rows - rows.mean(axis=0)
sizes = np.linalg.svd(x, compute_uv=False) ** 2
two = np.where(first[:, None], rows[first].mean(axis=0), rows[~first].mean(axis=0))
claim, control = sizes[0] / sizes.sum(), 1 - ((rows - two) ** 2).sum() / (x**2).sum()

# %% [markdown]
# Exercise (research, 120 minutes): Two trainings find different features (`deeper/19_sparse_autoencoder.py`). Do they
# agree more when they last longer, and do the features on which they agree have better cards?
#
# Hint: `--steps 800`, and another seed in `train`
#
# Hint: your report is good when it has three lengths of training and three seeds of each; a control for the cosines;
# the variance left over beside each; and cards that were tested before the two groups were looked at
