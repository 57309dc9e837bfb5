# %% [markdown]
"""Exercises for "Quick start"."""

# %% Set-up
from tinymi.arrays import Tokens
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (easy, 10 minutes): Write `next_probability`: how probable a token is as the next one.
#
# Hint: `model(tokens)` has a row of logits for every position. Which one speaks of what comes after the whole text?
#
# Hint: a probability is exp(logit), divided by the sum of exp over the vocabulary


# %%
def next_probability(model: Model, tokens: Tokens, answer: int) -> float:
    """The probability that the token `answer` comes after tokens [1, pos]."""
    logits = model(tokens)[0, -1]  # [d_vocab]
    odds = np.exp(logits - logits.max())
    return float(odds[answer] / odds.sum())


# %% Mistakes
MISTAKES = [
    ("[0, -1]", "[0, 0]", "You read the first position: what comes after the whole text stands at the last one."),
    ("[0, -1]", "[0, -2]", "One position off: you read the last but one, which guesses the last token itself."),
    ("odds[answer] / odds.sum()", "logits[answer]", "This is the logit. Softmax turns logits into probabilities."),
    (" / odds.sum()", "", "You have not divided by the sum: exp(logit) alone is no probability."),
    ("odds[answer] / odds.sum()", "np.log(odds[answer] / odds.sum())", "This is the log of the probability."),
]

# %% [markdown]
# Exercise (research, 60 minutes): Find a fact that the model knows, and one that it does not, and the head that reads
# the word which matters in each. Is it the same head?
#
# Hint: write down what you expect before you look
#
# Hint: your report is good when it names the prompts tried, all of them; has a control (the same sentence about another
# subject); gives a number and its size; and says what would have shown you wrong
