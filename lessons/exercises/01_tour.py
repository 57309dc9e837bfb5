# %% [markdown]
"""Exercises for "Tour"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.run import Model

# %% [markdown]
# Exercise (easy, 10 minutes): Write `stream_as_sum`: the last residual stream as the sum of all
# that was written to it.
#
# Hint: the embedding begins, then each layer adds `attn_out` and `mlp_out`


# %%
def stream_as_sum(model: Model, tokens: Tokens) -> Array:
    """[pos, d_model]: what leaves the last layer, without reading resid_post; tokens are [1, pos]."""
    _, cache = model.run_with_cache(tokens)
    total: Array = cache["hook_embed"][0].copy()
    for layer in range(model.config.n_layers):
        total += cache["attn_out", layer][0]
        total += cache["mlp_out", layer][0]
    return total


# %% Mistakes
MISTAKES = [
    (
        'cache["hook_embed"][0].copy()',
        '0 * cache["hook_embed"][0]',
        "The embedding is missing: the stream begins with it.",
    ),
    ('        total += cache["mlp_out", layer][0]\n', "", "The MLPs are missing: they write, too."),
    ('        total += cache["attn_out", layer][0]\n', "", "Attention is missing: it writes, too."),
    ("range(model.config.n_layers)", "range(model.config.n_layers - 1)", "The last layer is missing."),
    ("range(model.config.n_layers)", "range(1, model.config.n_layers)", "Layer 0 is missing: layers count from 0."),
]

# %% [markdown]
# Exercise (research, 60 minutes): Which part of a layer changes the stream more, attention or MLP, and is it the same
# in all layers?
#
# Hint: a length says little where vectors partly cancel: measure how far the stream turns, too
#
# Hint: your report is good when it leaves position 0 apart and says why; uses texts of several kinds; and names the
# layer in which your answer is wrong
