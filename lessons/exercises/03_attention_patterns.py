# %% [markdown]
"""Exercises for "Attention patterns"."""

# %% Set-up
import tinymi
from tinymi.arrays import Tokens
from tinymi.run import Model

import numpy as np

# %% [markdown]
# Exercise (easy, 10 minutes): Write `previous_share`: how much a head looks at the token before, on average over all
# positions that have one.
#
# Hint: a pattern's row is the position that looks (query), its column the position that is looked at (key)
#
# Hint: the entries with key = query - 1 are the diagonal below the main one: `pattern.diagonal(-1)`


# %%
def previous_share(model: Model, tokens: Tokens, layer: int, head: int) -> float:
    """The mean attention from each position but the first to the one before it; tokens are [1, pos]."""
    _, cache = model.run_with_cache(tokens)
    pattern = cache["pattern", layer][0, head]  # [query_pos, key_pos]
    return float(pattern.diagonal(-1).mean())


# %% Mistakes
MISTAKES = [
    ("diagonal(-1)", "diagonal(1)", "You look at the next token, which is always hidden: rows are queries, not keys."),
    ("diagonal(-1)", "diagonal()", "One position off: this is how much each token looks at itself."),
    ("diagonal(-1)", "diagonal(-2)", "One position off: this is the token two places before."),
    (".mean()", ".sum()", "You have summed over the positions: take the mean."),
    (".mean()", ".sum() / len(pattern)", "The first position has no token before it: divide by one position less."),
    ("[0, head]", "[0].mean(axis=0)", "You have averaged over all heads: only this head is asked for."),
    ('"pattern", layer', '"pattern", layer - 1', "One layer off: layers count from 0."),
]

# %% [markdown]
# Exercise (research, 90 minutes): Do induction heads copy words that the text has spelled in another case?
#
# Hint: say a list of names twice, the second time in capitals, and compare with a list that is not repeated
#
# Hint: your report is good when it says which tokens the two spellings share; compares with heads that are no induction
# heads; and gives an interval over lists that had no part in choosing the head

# %% [markdown]
# Exercise (easy, 10 minutes): What is wrong with this finding? "After 'The capital of France is', the last token gives
# 0.67 of its attention, mean of all heads, to 'The'. So the model looks for the article."
#
# Hint: begin the sentence with another word
#
# Hint: the answer: in "Our capital of France is" the word "Our" gets 0.67, too. The first position is an attention
# sink: it is read for its place, whatever stands there.


# %% Control
model = tinymi.load()


def at_first(prompt: str) -> float:
    _, cache = model.run_with_cache(model.to_tokens(prompt))
    return float(np.mean([cache["pattern", layer][0, :, -1, 0] for layer in range(model.config.n_layers)]))


claim, control = at_first("The capital of France is"), at_first("Our capital of France is")
