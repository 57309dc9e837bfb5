# %% [markdown]
"""Exercises for "Path patching"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.ops import rms_norm
from tinymi.run import Model

# %% [markdown]
# Exercise (medium, 20 minutes): Write `keys_without`: the keys, before RoPE, that a layer makes of its stream when one
# head of the layer before wrote nothing.
#
# Hint: a head writes `z @ W_O`; take that out of the stream that enters the layer
#
# Hint: the norm comes before the keys: `rms_norm(stream, block.ln1, model.config.rms_eps)`


# %%
def keys_without(model: Model, tokens: Tokens, layer: int, head: int) -> Array:
    """[pos, n_kv_heads * d_head]. head: of layer - 1. tokens: [1, pos]; the model's keys have no bias."""
    _, cache = model.run_with_cache(tokens)
    write = cache["z", layer - 1][0, :, head] @ model.weights.blocks[layer - 1].heads.W_O[head]
    stream = cache["resid_pre", layer][0] - write
    block = model.weights.blocks[layer]
    return rms_norm(stream, block.ln1, model.config.rms_eps) @ block.W_K


# %% Mistakes
MISTAKES = [
    (" - write", "", "Nothing is taken out: these are the keys of the run itself."),
    (" - write", " + write", "You added the head's write once more: subtract it."),
    ("rms_norm(stream, block.ln1, model.config.rms_eps)", "stream", "You forgot the norm: it comes before the keys."),
    (".heads.W_O[head]", ".heads.W_O[0]", "Each head has its own W_O: use `heads.W_O[head]`."),
    ('cache["resid_pre", layer]', 'cache["resid_mid", layer]', "The keys are made before the layer's attention adds."),
    ("block.W_K", "block.W_V", "These are the values: use W_K."),
]

# %% [markdown]
# Exercise (research, 120 minutes): Who writes for whom in a task of your own? Find the strongest path between two
# heads, and show that it is the path and not the sender.
#
# Hint: guess all paths with one gradient, then patch the twenty best
#
# Hint: your report is good when it says how many paths were guessed; chooses them on some prompts and tests them on
# others; and patches the same sender into other readers as a control
