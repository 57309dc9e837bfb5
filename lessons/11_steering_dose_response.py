# %% [markdown]
"""Can you turn a dial and change what the model says?

What you will learn: activation steering. Add one vector to the residual stream and watch the text change with the
dose, and learn how to tell a direction that means something from one that only shakes the model.

Needs: quick start, logit attribution

Time: 10 minutes to read, 9 seconds to run

Paper: Turner et al. 2023, Activation Addition, https://arxiv.org/abs/2308.10248; Rimsky et al. 2023, Steering Llama 2
via Contrastive Activation Addition, https://arxiv.org/abs/2312.06681; Wu et al. 2025, AxBench,
https://arxiv.org/abs/2501.17148
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.hooks import HookPoint
from tinymi.ops import softmax
from tinymi.teaching import Lesson, prompts

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="My review of the hotel: the room was", help="the prompt that is continued")
lesson.option("--layer", type=int, minimum=1, help="the layer that is steered; without it, a little past the middle")
options = lesson.start()
model = lesson.load_model()
layer = max(1, int(0.59 * model.config.n_layers)) if options.layer is None else options.layer
point = f"blocks.{layer}.hook_resid_pre"

# %% [markdown]
# ## 1. A direction from pairs of prompts
#
# Eight pairs of prompts differ in one respect: things went well, or badly. Take the residual stream at the last token
# of each, and subtract. What the two prompts of a pair share drops out, and what is special about one pair averages
# away over eight. What is left points from blame to praise.


# %%
def last_stream(prompt: str) -> Array:
    _, cache = model.run_with_cache(model.to_tokens(prompt), point)
    return np.asarray(cache[point][0, -1])  # [d_model]


pairs = prompts("sentiment_pairs")
differences = np.array([last_stream(praise) - last_stream(blame) for praise, blame in pairs])  # [pair, d_model]
direction = differences.mean(axis=0)
direction = direction / np.linalg.norm(direction)
size = float(np.mean([np.linalg.norm(last_stream(praise)) for praise, _ in pairs]))
lesson.say(
    f"At layer {layer} a residual stream is about {size:.0f} long. A dose of 0.5 adds a vector of {size / 2:.0f}."
)

# %% [markdown]
# ## 2. Turn the dial
#
# Add the direction at one layer while the model writes. The dose is a share of the stream's own length: without such a
# unit a dose means nothing. All rows are sampled with the same random numbers. Read them from the top down.


# %%
tokens = model.to_tokens(options.prompt)


def continuation(vector: Array, dose: float) -> str:
    def add(resid: Array, hook: HookPoint) -> Array:
        return resid + dose * size * vector  # [batch, pos, d_model]

    written = model.generate(tokens, 12, temperature=0.7, top_k=20, seed=0, fwd_hooks=[(point, add)])
    return model.to_string(written[0, tokens.shape[1] :])


doses = [-0.4, -0.2, 0.0, 0.2, 0.4]
texts = [continuation(direction, dose) for dose in doses]
picture = lesson.table({"dose": doses, "it goes on": texts}, caption=f"{options.prompt} ...", format="+.1f")

# %% [markdown]
# ## 3. A number for it
#
# Eleven words of praise, eleven of blame: how much more probable are the first, in bits? Ask at the end of eight
# prompts that take no side. Look at the second column, too: how much of the prediction do these words hold at all?

# %%
praise, blame = (
    [model.to_single_token(f" {word}") for word in column] for column in zip(*prompts("sentiment_words"), strict=True)
)
neutral = [prompt for (prompt,) in prompts("sentiment_neutral")]
streams = [model(model.to_tokens(prompt), stop_at_layer=layer) for prompt in neutral]  # each [1, pos, d_model]


def measure(vector: Array, dose: float) -> tuple[float, float]:
    """Praise over blame in bits, and the words' share of the prediction: means over the prompts."""
    logits = [model(stream + dose * size * vector, start_at_layer=layer, positions=-1)[0, 0] for stream in streams]
    probs = softmax(np.stack(logits))  # [prompt, d_vocab]
    up, down = probs[:, praise].sum(axis=1), probs[:, blame].sum(axis=1)
    return float(np.log2(up / down).mean()), float((up + down).mean())


odds, shares = zip(*[measure(direction, dose) for dose in doses], strict=True)
lesson.keep(direction=direction, size=size, doses=doses, odds=odds)
percent = [100 * share for share in shares]
lesson.table({"dose": doses, "praise over blame, bits": odds, "% of the prediction": percent}, format="+.1f")
whole = model(model.to_tokens(neutral[0]))
lesson.equal("stopping at the layer and going on gives the same logits", model(streams[0], start_at_layer=layer), whole)

# %% [markdown]
# ## 4. The control: the same recipe, with half of the labels swapped
#
# Any vector of that length changes the prediction. So build others in the same way, but call praise blame in four of
# the eight pairs. Compare the swing from the lowest dose to the highest, and then what the widest of them writes.

# %%
swings, controls = {"the direction": odds[-1] - odds[0]}, []
for swapped_pairs in ([0, 1, 2, 3], [0, 1, 4, 5], [0, 2, 4, 6], [0, 3, 5, 6]):
    signs = np.ones(len(pairs))
    signs[swapped_pairs] = -1
    vector = signs @ differences  # [d_model]
    controls.append(vector / np.linalg.norm(vector))
    low, high = (measure(controls[-1], dose)[0] for dose in (doses[0], doses[-1]))
    swings[f"pairs {', '.join(map(str, swapped_pairs))} swapped"] = high - low
sizes = list(swings.values())
lesson.bars(list(swings), sizes, "swing of praise over blame, bits", "+.1f")
widest = int(np.argmax(np.abs(sizes[1:])))
other_texts = [continuation(controls[widest], dose) for dose in (doses[0], doses[-1])]
lesson.table({"dose": [doses[0], doses[-1]], "it goes on": other_texts}, caption="the widest control", format="+.1f")

# %%
lesson.headline(
    f"Yes, both ways: one vector at layer {layer} turns the text. But do not trust the odds of a few words: they "
    f"swing by {sizes[0]:.1f} bits, and by {abs(sizes[1 + widest]):.1f} under a control whose text does not turn.",
    picture,
)

# %% [markdown]
# The words that the odds count are seldom the next word at all, so a vector that only shakes the model can move them
# far. What the text does is the better measure. There is also a cheaper way to make a model praise: say so in front.

# %%
odds_after = []
for text in ("I hated it. It was awful.", "I loved it. It was wonderful."):
    rows = [softmax(model(model.to_tokens(f"{text} {prompt}"), positions=-1)[0, 0]) for prompt in neutral]
    odds_after.append(np.mean([np.log2(row[praise].sum() / row[blame].sum()) for row in rows]))
lesson.say(f"Praise over blame: {odds_after[0]:+.1f} bits after hating it, {odds_after[1]:+.1f} bits after loving it.")

# %% [markdown]
# On benchmarks, too, prompting beats steering (Wu et al. 2025). What steering shows is where a model keeps something,
# and that it can be reached. Whether the model uses this direction when nobody steers is another question.

# %% [markdown]
# Exercise (easy, 5 minutes): Dose 1 adds a vector as long as the stream itself. By how many bits is praise ahead there,
# and what does the model write?
#
# Hint: `measure(direction, 1.0)` and `continuation(direction, 1.0)`

# %%
lesson.answer(measure(direction, 1.0)[0])

# %% [markdown]
# Exercise (research, 30 minutes): Make a direction of your own (formal and casual, past and present, French and
# English) from eight pairs. At which layer does it steer best? Choose the layer on four neutral prompts and measure on
# the others.
#
# Hint: replace `pairs`, and loop over `layer`
#
# Hint: your report is good when the eight pairs were written before any was tried; the layer was chosen on other
# prompts than those measured; and the same recipe with half of the labels swapped stands beside it

# %%
lesson.answer("it counts if it swings further than the same recipe with half of the labels swapped")
lesson.finish()
