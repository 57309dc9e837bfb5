# %% [markdown]
"""Exercises for "Jacobian lens"."""

# %% [markdown]
# Exercise (research, 120 minutes): The lens sees a capital early. What else does it see before the logit lens, and what
# later?
#
# Hint: take facts, grammar and copied words, twenty prompts of each
#
# Hint: your report is good when it compares ranks and not examples; counts prompts of each kind that the model answers
# wrongly; and has the shuffled Jacobian beside every number
