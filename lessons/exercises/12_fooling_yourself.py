# %% [markdown]
"""Exercises for "Fooling yourself"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.run import Model

# %% [markdown]
# Exercise (medium, 15 minutes): Write `late_share`: which share of all that is written along a direction comes from the
# last third of the layers. With an answer's direction it is the claim of section 3, with a random one its control.
#
# Hint: the components are the embedding, and each layer's `attn_out` and `mlp_out`
#
# Hint: add up sizes, not numbers with a sign


# %%
def late_share(model: Model, tokens: Tokens, direction: Array) -> float:
    """At the last of tokens [1, pos]. direction [d_model] is read behind the final norm's weight, `ln_final`."""
    _, cache = model.run_with_cache(tokens)
    towards = model.weights.ln_final * direction
    embed = abs(cache["hook_embed"][0, -1] @ towards)
    sizes = []  # of what each layer writes
    for layer in range(model.config.n_layers):
        sizes.append(abs(cache["attn_out", layer][0, -1] @ towards) + abs(cache["mlp_out", layer][0, -1] @ towards))
    third = max(len(sizes) // 3, 1)
    return float(sum(sizes[-third:]) / (embed + sum(sizes)))


# %% Mistakes
MISTAKES = [
    ("abs(", "(", "Add up sizes: numbers with opposite signs cancel."),
    ("@ towards) + abs(", "@ towards + ", "Attention and MLP are two components: take the size of each, then add."),
    ("model.weights.ln_final * direction", "direction", "You forgot the final norm's weight: multiply by `ln_final`."),
    ("(embed + sum(sizes))", "sum(sizes)", "You left out the embedding: it writes, too."),
    ("[-third:]", "[:third]", "This is the share of the first third."),
    ("[0, -1]", "[0, 0]", "You read the first position: the last one predicts."),
]

# %% [markdown]
# Exercise (research, 120 minutes): Take a finding of lessons 00 to 11 and try to undo it with a control of your own.
#
# Hint: ask what else would give this number: the prompt's form, the position, the length of a vector, a choice made
# after looking
#
# Hint: your report is good when the control was named before it was run; the number with and without it stand side by
# side; the finding is left standing where the control does not touch it; and others could repeat it from your text
