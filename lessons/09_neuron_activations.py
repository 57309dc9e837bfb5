# %% [markdown]
"""What does one neuron do?

What you will learn: where a neuron's number comes from, when it fires, what it writes, and what happens without it.
Then the five most active neurons of every layer, and why a guess about a neuron needs a test.

Needs: tour

Time: 15 minutes to read, 6 seconds to run

Paper: Shazeer 2020, GLU Variants Improve Transformer, https://arxiv.org/abs/2002.05202; Bolukbasi et al. 2021, An
Interpretability Illusion for BERT, https://arxiv.org/abs/2104.07143; Sun et al. 2024, Massive Activations in Large
Language Models, https://arxiv.org/abs/2402.17762
"""

# %% Set-up
from typing import Any

from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.ops import silu, softmax
from tinymi.teaching import Lesson, Token, prompts, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--layer", type=int, default=27, minimum=0, help="the layer of the neuron")
lesson.option("--neuron", type=int, default=334, minimum=0, help="its number in that layer")
lesson.option("--prompt", default="I know that she didn", help="a prompt that ends where the neuron fires")
options = lesson.start()
model = lesson.load_model()
if model.weights.blocks[0].b_gate is not None:
    raise InputError("--model: its MLP adds biases, which this lesson's formula leaves out; take a model without them")
n_layers = model.config.n_layers
layer, neuron = options.layer % n_layers, options.neuron % model.config.d_mlp
w = model.weights.blocks[layer]

# %% [markdown]
# ## 1. Where its number comes from
#
# An MLP is a row of neurons. Each reads the normed stream along two directions of its own: one opens its gate, the
# other is what it lets through. The product is the neuron's activation.

# %%
tokens = model.to_tokens(options.prompt)
logits, cache = model.run_with_cache(tokens)
x = cache["ln2.normalized", layer] * w.ln2  # [1, pos, d_model]
post = silu(x @ w.W_gate) * (x @ w.W_in)  # [1, pos, d_mlp]
lesson.equal("this is what the model computes", post, cache["post", layer])
lesson.say(f"Neuron {layer}.{neuron} at the end of {options.prompt!r}: {post[0, -1, neuron]:+.1f}")

# %% [markdown]
# ## 2. When it fires
#
# Thirty short texts of five kinds: code, mathematics, poetry, facts, talk. In which does it fire most, and where? The
# first position is left out. A few neurons reach hundreds there whatever the text is (Sun et al. 2024), which says
# nothing about the text.

# %%
texts = [(kind, text.encode().decode("unicode_escape")) for kind, text in prompts("five_kinds")[::2]]
points = [f"blocks.{i}.mlp.hook_post" for i in range(n_layers)]
pieces, activations = [], []  # of each text
for _, text in lesson.progress(texts, "texts"):
    ids = model.to_tokens(text)
    kept = model.run_with_cache(ids, points, stop_at_layer=n_layers)[1]
    pieces.append(model.to_str_tokens(ids[0])[1:])
    activations.append(np.stack([kept[point][0, 1:] for point in points], axis=1))  # [pos, layer, d_mlp]

# %%
mine = [a[:, layer, neuron] for a in activations]  # of each text, [pos]
strongest = sorted(range(len(texts)), key=lambda i: -mine[i].max())[:5]
contexts, fires_at = [], []
for i in strongest:
    place = int(mine[i].argmax())
    around = slice(max(0, place - 6), place + 3)
    contexts.append((pieces[i][around], mine[i][around]))
    fires_at.append(show_token(pieces[i][place]))
picture = lesson.highlight(contexts, [texts[i][0] for i in strongest], "where it fires most", ".0f")

# %% [markdown]
# ## 3. What it writes
#
# It writes its row of W_out, as strongly as it fires, and the unembedding tells which tokens that promotes. So far this
# is a guess. Take what it writes out of the stream: does the model miss it?


# %%
def without(n: int) -> Array:
    """The probabilities of the next token [d_vocab] when this neuron of the layer writes nothing."""
    stream = cache["resid_post", layer] - post[..., n, None] * w.W_out[n]  # [1, pos, d_model]
    return softmax(model(stream, start_at_layer=layer + 1, positions=-1)[0, 0])


promotes = w.W_out[neuron] * model.weights.ln_final @ model.weights.W_U  # [d_vocab]
promoted = np.argsort(-promotes)[:6]
before, after = softmax(logits[0, -1]), without(neuron)
columns = {"token": [Token(t) for t in model.to_str_tokens(promoted)], "written": promotes[promoted]}
columns |= {"probability": before[promoted], "without it": after[promoted]}
lesson.table(columns, caption=f"what {layer}.{neuron} promotes, and the prediction after the prompt", format=".3f")

# %% [markdown]
# A control: take out other neurons of the layer instead. How far does the probability of the first token move then?

# %%
best = promoted[0]
moved = [abs(without(n)[best] - before[best]) for n in np.random.default_rng(0).permutation(len(w.W_out))[:20]]
lesson.say(f"20 other neurons move it by {np.mean(moved):.4f} on average, and by {np.max(moved):.4f} at most.")
lesson.headline(
    f"Neuron {layer}.{neuron} fires at {', '.join(fires_at)} and writes {show_token(model.to_str_tokens([best])[0])}. "
    f"Without the neuron, the probability of what it writes falls from {before[best]:.3f} to {after[best]:.3f}.",
    picture,
)

# %% [markdown]
# ## 4. The five most active neurons of every layer
#
# Active is measured against a neuron's own habit: its largest activation, divided by its average size. The hypothesis
# is the plainest there is: it is about the kind of text in which its five strongest places are found.

# %%
kinds = np.repeat([kind for kind, _ in texts], [len(p) for p in pieces])
words = [piece for p in pieces for piece in p]
guesses: list[dict[str, Any]] = []
for i in range(n_layers):
    a = np.concatenate([of_text[:, i] for of_text in activations])  # [token, d_mlp]
    for n in np.argsort(-abs(a).max(axis=0) / abs(a).mean(axis=0))[:5]:
        places = np.argsort(-abs(a[:, n]))[:5]
        names, counts = np.unique(kinds[places], return_counts=True)
        guess = f"{names[counts.argmax()]} ({counts.max()} of 5)"
        guesses.append({"layer": i, "neuron": int(n), "hypothesis": guess, "at": [words[p] for p in places]})
shown = [g for g in guesses if g["layer"] in (0, n_layers // 3, 2 * n_layers // 3, n_layers - 1)]
columns = {"neuron": [f"{g['layer']}.{g['neuron']}" for g in shown], "hypothesis": [g["hypothesis"] for g in shown]}
columns |= {"strongest at": [Token("".join(g["at"][:3])) for g in shown]}
lesson.table(columns, caption="four of the layers; the JSON file has all")
lesson.keep(hypotheses=guesses, activation=post[0, :, neuron], promoted=promoted)

# %% [markdown]
# Five places are easily alike by chance: `deeper/09_neuron_activations.py` tests the guesses on thirty other texts. A
# neuron may also answer to several unrelated things (lesson 17). Try one: `--layer 25 --neuron 577` is about years.

# %% [markdown]
# Exercise (easy, 5 minutes): How large is the largest activation of any neuron in this layer at position 0 of the
# prompt, against the largest at the other positions? Give the ratio.
#
# Hint: `abs(cache["post", layer][0])`

# %%
size = abs(cache["post", layer][0]).max(axis=1)  # [pos]
lesson.answer(float(size[0] / max(size[1:], default=size[0])))
lesson.finish()
