# %% [markdown]
"""Exercises for "Fooling yourself"."""

# %% [markdown]
# Exercise (research, 120 minutes): Take a finding of lessons 00 to 11 and try to undo it with a control of your own.
#
# Hint: ask what else would give this number: the prompt's form, the position, the length of a vector, a choice made
# after looking
#
# Hint: your report is good when the control was named before it was run; the number with and without it stand side by
# side; the finding is left standing where the control does not touch it; and others could repeat it from your text
