# %% [markdown]
"""Exercises for "Linear probe"."""

# %% Set-up
import tinymi
from tinymi.arrays import Array, Tokens
from tinymi.hooks import HookPoint
from tinymi.run import Model
from tinymi.teaching import prompts

import numpy as np

# %% [markdown]
# Exercise (medium, 15 minutes): Write `without_direction`: a token's logit when the stream that enters a layer has lost
# its part along a direction, at one position.
#
# Hint: first make the direction's length 1; the part along it is then `(stream @ unit) * unit`
#
# Hint: the stream is read-only: `copy()` it, then change one position


# %%
def without_direction(model: Model, tokens: Tokens, layer: int, pos: int, direction: Array, answer: int) -> float:
    """The logit at the last of tokens [1, pos]; direction is [d_model]."""
    unit = direction / np.linalg.norm(direction)

    def take_out(stream: Array, hook: HookPoint) -> Array:
        stream = stream.copy()  # [1, pos, d_model]
        stream[0, pos] -= (stream[0, pos] @ unit) * unit
        return stream

    logits = model.run_with_hooks(tokens, [(f"blocks.{layer}.hook_resid_pre", take_out)])
    return float(logits[0, -1, answer])


# %% Mistakes
MISTAKES = [
    (" / np.linalg.norm(direction)", "", "Make the direction's length 1 first: you take out too much or too little."),
    ("-= (stream", "+= (stream", "You doubled the part along the direction: subtract it."),
    ("-= (stream", "= (stream", "You kept nothing but the part along the direction: subtract it."),
    (
        "-= (stream[0, pos] @ unit) * unit",
        "-= unit",
        "You subtracted the direction itself, not the stream's part along it.",
    ),
    (
        "stream[0, pos] -= (stream[0, pos] @ unit) * unit",
        "stream[0] -= np.outer(stream[0] @ unit, unit)",
        "You took it out at all positions: one is asked for.",
    ),
    ("resid_pre", "resid_post", "One layer off: this leaves the layer, and what enters it is asked for."),
]

# %% [markdown]
# Exercise (medium, 10 minutes): What is wrong with this finding? "A linear probe reads off the stream of a noun, in the
# middle of the model, whether the noun begins with a letter of A to L. Its accuracy on 120 forms is 1.00. So the model
# keeps the alphabet there."
#
# Hint: which forms did it learn from, and which did it read?
#
# Hint: the answer: deal the labels to the nouns at random, and the accuracy on the same forms is 1.00, too. So what has
# the probe read? The forms that it learned from: a stream has room for any labels of so few.


# %% Control
model = tinymi.load()
forms = [form for pair in prompts("nouns") for form in pair]
tokens = np.concatenate([model.to_tokens(f"The {form}") for form in forms])
stream = np.asarray(model(tokens, stop_at_layer=model.config.n_layers // 2)[:, -1], float)
stream -= stream.mean(axis=0)


def right(labels: Array) -> float:
    w = stream.T @ np.linalg.solve(stream @ stream.T + np.eye(len(stream)), labels)
    return float(((stream @ w > 0) == (labels > 0)).mean())


letters = np.array([1.0 if form < "m" else -1.0 for form in forms])
claim, control = right(letters), right(np.repeat(np.random.default_rng(0).permutation(letters[::2]), 2))

# %% [markdown]
# Exercise (research, 120 minutes): Choose another property with a behaviour that shows it: a verb's tense, a name's
# gender, the language of a text. Where can a probe read it, and where does the behaviour need it?
#
# Hint: make the behaviour a difference of two logits, and keep words of the test out of the training
#
# Hint: your report is good when the bars for reading and needing were set before you looked; the accuracy on new words
# stands beside the control task's; and each ablation has a relabelled direction and the whole property beside it
