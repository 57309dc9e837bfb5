# %% [markdown]
"""Exercises for "IOI circuit"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.hooks import HookPoint
from tinymi.run import Model

# %% [markdown]
# Exercise (hard, 25 minutes): Write `head_loss`: what the logit difference, answer minus wrong, loses when a head's
# output `z` is replaced at every position by its mean over the positions of this prompt.
#
# Hint: a callback gets z [1, pos, n_heads, d_head] and returns a changed copy
#
# Hint: loss is before minus after


# %%
def head_loss(model: Model, tokens: Tokens, layer: int, head: int, answer: int, wrong: int) -> float:
    """What is lost at the last of tokens [1, pos]; above 0 where the head helps the answer."""

    def take_out(z: Array, hook: HookPoint) -> Array:
        z = z.copy()
        z[0, :, head] = z[0, :, head].mean(axis=0)
        return z

    before = model(tokens)[0, -1]
    after = model.run_with_hooks(tokens, [(f"blocks.{layer}.attn.hook_z", take_out)])[0, -1]
    return float((before[answer] - before[wrong]) - (after[answer] - after[wrong]))


# %% Mistakes
MISTAKES = [
    ("z[0, :, head].mean(axis=0)", "0", "You put in zero, which no later layer has ever seen: put in the mean."),
    ("z[0, :, head] = ", "z[0, -1, head] = ", "You replaced the output at the last position only: do it at all."),
    (
        "z[0, :, head].mean(axis=0)",
        "z[0, :, head].mean()",
        "The mean over positions is a vector [d_head], not a number.",
    ),
    ("z[0, :, head].mean(axis=0)", "z[0].mean(axis=1)", "You took the mean over the heads, not over the positions."),
    ("(before[answer] - before[wrong]) - ", "", "This is the difference that is left: what is lost is asked for."),
    ("blocks.{layer}", "blocks.{layer - 1}", "One layer off: layers count from 0."),
]

# %% [markdown]
# Exercise (hard, 120 minutes): Which head takes over when you knock out the strongest name mover?
#
# Hint: compare every head's direct effect before and after
#
# Hint: use other templates than the one that found it; choose heads on one half of the prompts and test them on the
# other half; give what is taken over as a share of what was lost

# %% [markdown]
# Exercise (research, 120 minutes): "Friends Mary and John found a ring at the store. John gave it to" fails for this
# model in that order of the names. Why? The question is open.
#
# Hint: compare the attention of the lesson's heads in this prompt and in one that works
#
# Hint: position 1 is a second sink there, but taking the MLP writes at position 1 away does not mend it
#
# Hint: your report is good when your explanation, fixed before you look, tells which of ten new templates fail; and a
# change in the run that follows from it mends a prompt that fails
