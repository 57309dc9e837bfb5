# %% [markdown]
"""Can you turn a dial and change what the model says?

What you will learn: activation steering. Add one vector to the residual stream and watch the text change with the
dose, and learn how to tell a direction that means something from one that only shakes the model.

Needs: quick start, logit attribution

Time: 10 minutes to read, 6 seconds to run

Paper: Turner et al. 2023, Activation Addition, https://arxiv.org/abs/2308.10248; Rimsky et al. 2023, Steering Llama 2
via Contrastive Activation Addition, https://arxiv.org/abs/2312.06681; Wu et al. 2025, AxBench,
https://arxiv.org/abs/2501.17148
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.ops import softmax
from tinymi.teaching import Lesson, prompts

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="My review of the hotel: we found it", help="the prompt that is continued")
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
# away over eight. What is left points from blame to praise. (`padding` fills shorter prompts up in front.)

# %%
good, bad = zip(*prompts("sentiment_pairs"), strict=True)
well, badly = (model(model.to_tokens(texts, padding=True), stop_at_layer=layer)[:, -1] for texts in (good, bad))
differences = well - badly  # [pair, d_model]
direction = differences.mean(axis=0) / np.linalg.norm(differences.mean(axis=0))
size = float(np.linalg.norm(well, axis=1).mean())
lesson.say(f"At layer {layer} a stream is about {size:.0f} long, so a dose of 0.5 adds a vector of {size / 2:.0f}.")

# %% [markdown]
# ## 2. Turn the dial
#
# Add the direction at one layer while the model writes. The dose is a share of the stream's own length: without such a
# unit a dose means nothing. Each row of the batch gets a dose of its own, and the model takes the likeliest token each
# time. Read the rows from the top down.


# %%
def write(steps: Array) -> list[str]:
    """How the prompt goes on when each of these vectors [step, d_model] is added at the layer."""
    tokens = model.to_tokens([options.prompt] * len(steps))
    add = [(point, lambda resid, hook: resid + steps[:, None])]  # [step, pos, d_model]
    written = model.generate(tokens, 8, fwd_hooks=add, stop_at_end=False)
    return [model.to_string(row[tokens.shape[1] :]).strip() for row in written]


doses = np.array([-0.4, -0.2, 0.0, 0.2, 0.4])
steps = size * doses[:, None] * direction  # [dose, d_model]
texts = write(steps)
picture = lesson.table({"dose": doses, "it goes on": texts}, caption=f"{options.prompt} ...", format="+.1f")

# %% [markdown]
# ## 3. A number for it
#
# Eleven words of praise, eleven of blame: how far are the first ahead? We count in bits: one bit ahead is twice as
# probable, two bits four times. Ask at the end of eight prompts that take no side. And look at the last column: how
# much of the prediction do these words hold at all?

# %%
words = zip(*prompts("sentiment_words"), strict=True)
praise, blame = ([model.to_single_token(f" {word}") for word in column] for column in words)
neutral = [prompt for (prompt,) in prompts("sentiment_neutral")]
streams = [model(model.to_tokens(prompt), stop_at_layer=layer) for prompt in neutral]  # each [1, pos, d_model]


def predict(steps: Array) -> Array:
    """The next token of each neutral prompt, with each of these vectors added: [prompt, step, d_vocab]."""
    logits = [model(stream + steps[:, None], start_at_layer=layer, positions=-1)[:, 0] for stream in streams]
    return softmax(np.stack(logits))


def ahead(probs: Array) -> Array:
    """Praise over blame in bits, the mean of the prompts: [prompt, ..., d_vocab] -> [...]."""
    return np.asarray(np.log2(probs[..., praise].sum(axis=-1) / probs[..., blame].sum(axis=-1)).mean(axis=0))


probs = predict(steps)
odds, percent = ahead(probs), 100 * probs[..., praise + blame].sum(axis=-1).mean(axis=0)
lesson.table({"dose": doses, "praise over blame, bits": odds, "% of the prediction": percent}, format="+.1f")
lesson.equal("dose 0 changes nothing", probs[0, 2], softmax(model(model.to_tokens(neutral[0]))[0, -1]), 1e-3)

# %% [markdown]
# ## 4. The control: the same recipe, with half of the labels swapped
#
# Any vector of that length changes the prediction. So build others in the same way, but call praise blame in four of
# the eight pairs. Compare the swing from the lowest dose to the highest, and then what the widest of them writes.

# %%
ends = doses[[0, -1]]
swaps = [[0, 1, 2, 3], [0, 1, 4, 5], [0, 2, 4, 6], [0, 3, 5, 6]]
signs = np.ones((len(swaps), len(differences)))
for row, swapped in zip(signs, swaps):
    row[swapped] = -1
controls = signs @ differences  # [control, d_model]
controls = controls / np.linalg.norm(controls, axis=1, keepdims=True)
low, high = (ahead(predict(size * dose * controls)) for dose in ends)
swings = np.array([odds[-1] - odds[0], *(high - low)])
names = ["the direction", *(f"pairs {', '.join(map(str, swapped))} swapped" for swapped in swaps)]
lesson.bars(names, swings, "swing of praise over blame, bits", "+.1f")
widest = int(abs(swings[1:]).argmax())
others = write(size * ends[:, None] * controls[widest])
lesson.table({"dose": ends, "it goes on": others}, caption="the control with the widest swing", format="+.1f")
lesson.headline(
    f"Add one vector at layer {layer}, and '{texts[0]}' turns into '{texts[-1]}'. But do not trust the odds of a few "
    f"words: they swing by {swings[0]:.1f} bits, and by {abs(swings[1 + widest]):.1f} under a control.",
    picture,
)
lesson.keep(direction=direction, size=size, doses=doses, odds=odds)

# %% [markdown]
# The words that the odds count are seldom the next word at all. So a vector that only shakes the model can move them
# far, while its text does not turn: look at the text first. Steering shows that the model keeps something in a
# direction, and that you can reach it. Whether the model uses it when nobody steers is another question.
#
# And there is a cheaper way to make a model praise: say so in front. On benchmarks, too, prompting beats steering (Wu
# et al. 2025).

# %%
after = []
for text in ("I hated it. It was awful.", "I loved it. It was wonderful."):
    tokens = model.to_tokens([f"{text} {prompt}" for prompt in neutral], padding=True)
    after.append(float(ahead(softmax(model(tokens, positions=-1)[:, 0]))))
lesson.say(f"Praise over blame: {after[0]:+.1f} bits after hating it, {after[1]:+.1f} bits after loving it.")

# %% [markdown]
# Exercise (easy, 5 minutes): Dose 1 adds a vector as long as the stream itself. By how many bits is praise ahead there,
# and what does the model write?
#
# Hint: `size * direction[None]` is such a step, for `predict` and for `write`

# %%
lesson.answer(float(ahead(predict(size * direction[None]))[0]))
lesson.finish()
