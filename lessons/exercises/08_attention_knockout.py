# %% [markdown]
"""Exercises for "Attention knockout"."""

# %% Set-up
import tinymi
from tinymi.arrays import Array, Tokens
from tinymi.hooks import HookPoint
from tinymi.ops import softmax
from tinymi.run import Model

# %% [markdown]
# Exercise (medium, 15 minutes): Write `knocked_out`: a token's logit when the last position cannot see position `pos`,
# in all heads of one layer.
#
# Hint: a pattern is [1, n_heads, query_pos, key_pos]
#
# Hint: share out what was taken: divide the row by its new sum


# %%
def knocked_out(model: Model, tokens: Tokens, layer: int, pos: int, answer: int) -> float:
    """The logit at the last of tokens [1, pos]."""

    def forbid(pattern: Array, hook: HookPoint) -> Array:
        pattern = pattern.copy()
        pattern[0, :, -1, pos] = 0
        pattern[0, :, -1] /= pattern[0, :, -1].sum(axis=-1, keepdims=True)
        return pattern

    logits = model.run_with_hooks(tokens, [(f"blocks.{layer}.attn.hook_pattern", forbid)])
    return float(logits[0, -1, answer])


# %% Mistakes
MISTAKES = [
    (
        "        pattern[0, :, -1] /= pattern[0, :, -1].sum(axis=-1, keepdims=True)\n",
        "",
        "The row no longer sums to 1: share out what was taken.",
    ),
    (
        "pattern[0, :, -1, pos] = 0",
        "pattern[0, :, pos, -1] = 0",
        "Nothing is cut: the query comes first, then the key, and nobody sees the future anyway.",
    ),
    ("pattern[0, :, -1, pos] = 0", "pattern[0, :, -1, pos - 1] = 0", "One position off: you hid the position before."),
    ("pattern[0, :, -1, pos] = 0", "pattern[0, 0, -1, pos] = 0", "You cut in head 0 alone: do it in all heads."),
    ("blocks.{layer}", "blocks.{layer - 1}", "One layer off: layers count from 0."),
]

# %% [markdown]
# Exercise (research, 90 minutes): Where does the answer go when the last token may not look at the country? Find the
# token that it is read from instead, or show that there is none.
#
# Hint: knock out two looks at once
#
# Hint: your report is good when it treats the first token apart; compares pairs of cuts with the sum of the two alone;
# and repeats the result on countries that had no part in finding it

# %% [markdown]
# Exercise (medium, 10 minutes): What is wrong with this finding? "Forbid the last token to look at 'The', in all
# layers, and the probability of Paris after 'The capital of France is' falls from 0.77 to 0.00. So the model needs the
# article."
#
# Hint: is there another way to take the article away?
#
# Hint: the answer: write "Our" in its place, and Paris still has 0.73. The first position is a place to rest attention
# at; cut it off, and heads must look at words that they would have left alone.


# %% Control
model = tinymi.load()


def p_paris(prompt: str) -> float:
    return float(softmax(model(model.to_tokens(prompt))[0, -1])[model.to_single_token(" Paris")])


claim, control = p_paris("The capital of France is"), p_paris("Our capital of France is")
