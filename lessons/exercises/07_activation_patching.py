# %% [markdown]
"""Exercises for "Activation patching"."""

# %% Set-up
import tinymi
from tinymi.arrays import Tokens
from tinymi.run import Model

# %% [markdown]
# Exercise (medium, 20 minutes): Write `patched`: the logit difference of the corrupted run, with the clean run's stream
# put in at one layer and position.
#
# Hint: `model(stream, start_at_layer=layer)` runs the rest of the model on a stream
#
# Hint: the arrays of a cache are read-only: `copy()` the corrupted stream, then change one position


# %%
def patched(model: Model, tokens: Tokens, corrupted: Tokens, layer: int, pos: int, answer: int, wrong: int) -> float:
    """Answer minus wrong at the last position. tokens is the clean prompt; both are [1, pos]."""
    _, clean_cache = model.run_with_cache(tokens)
    _, corrupted_cache = model.run_with_cache(corrupted)
    stream = corrupted_cache["resid_pre", layer].copy()  # [1, pos, d_model]
    stream[0, pos] = clean_cache["resid_pre", layer][0, pos]
    logits = model(stream, start_at_layer=layer)
    return float(logits[0, -1, answer] - logits[0, -1, wrong])


# %% Mistakes
MISTAKES = [
    (
        "(tokens)\n    _, corrupted_cache = model.run_with_cache(corrupted)",
        "(corrupted)\n    _, corrupted_cache = model.run_with_cache(tokens)",
        "The wrong way round: start from the corrupted run, and put in what the clean run has.",
    ),
    ("stream[0, pos] = ", "", "Nothing is patched: this is the corrupted run itself."),
    (
        'stream[0, pos] = clean_cache["resid_pre", layer][0, pos]',
        'stream = clean_cache["resid_pre", layer]',
        "You patched all positions, so this is the clean run itself: patch one position.",
    ),
    ("][0, pos]", "][0, pos - 1]", "One position off: you put in the clean run's position before."),
    ("resid_pre", "resid_post", "One layer off: you patched what leaves the layer, where what enters it is asked for."),
    (" - logits[0, -1, wrong]", "", "This is the answer's logit alone: subtract the wrong answer's."),
]

# %% [markdown]
# Exercise (research, 90 minutes): Patch a fact of another kind, a language or a landmark. Does the same head carry it?
#
# Hint: both prompts need as many tokens, and the model must answer both rightly
#
# Hint: your report is good when it names the pairs that failed, too; says how far the next best head moves the answer;
# and patches from an unrelated prompt as a control

# %% [markdown]
# Exercise (medium, 10 minutes): What is wrong with this finding? "Put the stream of the run on France into the run on
# Italy, at the last position before the last layer: this moves 1.00 of the way to Paris. So the last layer is where
# the model knows capitals."
#
# Hint: patch from a prompt that is about no country
#
# Hint: the answer: patched from "The colour of grass is", its next token is moved as far, 1.00 of the way. All that the
# model will say must be there by then: where everything passes, a patch says nothing about what was found where.


# %% Control
model = tinymi.load()


def moved_at_the_end(source: str) -> float:
    last, italy = model.config.n_layers - 1, model.run_with_cache(model.to_tokens("The capital of Italy is"))
    clean = model.run_with_cache(model.to_tokens(source))
    stream = italy[1]["resid_pre", last].copy()
    stream[0, -1] = clean[1]["resid_pre", last][0, -1]
    says, rome = clean[0][0, -1].argmax(), model.to_single_token(" Rome")
    now, low, high = (x[0, -1, says] - x[0, -1, rome] for x in (model(stream, start_at_layer=last), italy[0], clean[0]))
    return float((now - low) / (high - low))


claim, control = moved_at_the_end("The capital of France is"), moved_at_the_end("The colour of grass is")
