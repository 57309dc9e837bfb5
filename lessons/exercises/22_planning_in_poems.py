# %% [markdown]
"""Exercises for "Planning in poems"."""

# %% Set-up
from tinymi.arrays import Array, Tokens
from tinymi.hooks import HookPoint
from tinymi.run import Model

# %% [markdown]
# Exercise (medium, 20 minutes): Write `sweep_places`: add a direction to the stream that enters a layer, at one
# position at a time. How far does a token's logit at the end move, for each position?
#
# Hint: one run without the direction, and one run for each position
#
# Hint: in the hook, copy the value, then add to `value[0, place]`


# %%
def sweep_places(model: Model, tokens: Tokens, layer: int, direction: Array, answer: int) -> list[float]:
    """[pos]; tokens: [1, pos], direction: [d_model]."""
    usual = model(tokens)[0, -1, answer]
    moved = []
    for place in range(tokens.shape[1]):

        def add(value: Array, hook: HookPoint, place: int = place) -> Array:
            value = value.copy()
            value[0, place] += direction
            return value

        logits = model.run_with_hooks(tokens, [(f"blocks.{layer}.hook_resid_pre", add)])
        moved.append(float(logits[0, -1, answer] - usual))
    return moved


# %% Mistakes
MISTAKES = [
    (" - usual", "", "These are the logits themselves: subtract the run without the direction."),
    ("value[0, place] +=", "value[0, place] =", "You replaced the stream: add to it."),
    ("value[0, place] +=", "value[0] +=", "You added at every position: add at one at a time."),
    ("logits[0, -1, answer]", "logits[0, place, answer]", "Read the logit at the end, not where you added."),
    (
        "resid_pre",
        "resid_post",
        "One layer off: you added to what leaves the layer, where what enters it is asked for.",
    ),
]

# %% [markdown]
# Exercise (research, 120 minutes): Which model rhymes? Measure it on models of several sizes, with rhymes and poems of
# your own. If one does, where in the line does it hold its rhyme?
#
# Hint: `--model` takes others; part 1 of the lesson is the measure
#
# Hint: your report is good when it counts words of the poem apart; draws rhymes, not words; compares with rhymes that
# were dealt out anew; and leaves the last position out of every sweep
