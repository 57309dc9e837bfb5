# %% [markdown]
"""How do two attention heads together copy a text?

What you will learn: to read attention patterns, sort heads by what they look at, and take a circuit of two apart.

Needs: quick start, tour

Time: 12 minutes to read, 5 seconds to run

Paper: Elhage et al. 2021, A Mathematical Framework, https://transformer-circuits.pub/2021/framework/index.html; Olsson
et al. 2022, In-context Learning and Induction Heads, https://arxiv.org/abs/2209.11895
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.ops import softmax
from tinymi.teaching import Lesson

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="Alice Cooper met Peter Smith", help="3 to 100 tokens; the lesson says them twice")
options = lesson.start()
model = lesson.load_model()
n_layers, n_heads, blocks = model.config.n_layers, model.config.n_heads, model.weights.blocks
names = np.array([f"{layer}.{head}" for layer in range(n_layers) for head in range(n_heads)])
again = model.to_tokens(f" {options.prompt}", add_special_tokens=False)[:, :-1]
if not 2 <= again.shape[1] < 100:
    raise InputError(f"--prompt: {again.shape[1] + 1} tokens, but a text to be copied here has 3 to 100")
tokens = np.hstack([model.to_tokens(f" {options.prompt}"), again])

# %% [markdown]
# ## 1. A head that knows what came next last time
#
# An attention pattern has a row for each position (the query): weights for all positions up to it (the keys), which sum
# to 1. We say the prompt twice, the second time without its last token. Nobody can guess Peter's surname, but the text
# has said it once. An *induction head* looks at the token after an earlier copy of its own. Look at the last rows.

# %%
_, cache = model.run_with_cache(tokens)
patterns = np.stack([cache["pattern", layer][0] for layer in range(n_layers)])  # [layer, head, query, key]
query, key = np.indices(patterns.shape[2:])
copy = tokens[0, query] == tokens[0, key]
after_copy = np.roll(copy, 1, axis=1) & (key > 0) & (key < query - 1)  # the left neighbour is a copy
induction = (patterns * after_copy).sum(axis=(2, 3))[1:]  # not layer 0: its keys do not know their neighbours
reader, head = divmod(n_heads + int(induction.argmax()), n_heads)
picture = lesson.attention(model.to_str_tokens(tokens[0]), dict(enumerate(patterns)), heads=[(reader, head)])

# %% [markdown]
# ## 2. All heads, by kind
#
# Five kinds of keys: the *first* position (the *attention sink*, read for its place and not for its word), the query's
# own (*self*), the one before (*prev*), an earlier *copy* of its token, and the one after such a copy (*next*).

# %%
kinds = {"first": key == 0, "self": key == query, "prev": (key == query - 1) & (key > 0)}
kinds |= {"copy": copy & (key > 0) & (key < query - 1), "next": after_copy}
shares, best = {}, []
for kind, keys in kinds.items():
    keys[0] = False  # the first row has only itself to look at
    n_rows = max(keys.any(axis=1).sum(), 1)  # rows that have a key of this kind
    shares[kind] = (patterns * keys).sum(axis=(2, 3)).ravel() / n_rows  # of each head
    best.append(", ".join(f"{names[i]} ({shares[kind][i]:.2f})" for i in np.argsort(-shares[kind])[:5]))
columns = {"kind": list(kinds), "heads": [int((x > 0.5).sum()) for x in shares.values()], "the five strongest": best}
lesson.table(columns, caption=f"how many of {len(names)} heads give more than half of their attention to a kind of key")

# %% [markdown]
# ## 3. How does it find the place?
#
# The last position must find the place whose *left neighbour* is Peter. It compares its query with every key, and a key
# is made of the stream at its own place, which began as the embedding of Smith alone. So an earlier head must have
# written "before me stands Peter" there. Which one? Take what one head wrote out of the stream that makes the keys of
# the induction head, and change nothing else. All other heads are the control.

# %%
target = int(np.flatnonzero(after_copy[-1])[-1])
resid = cache["resid_pre", reader]  # [1, pos, d_model]
k, pattern = f"blocks.{reader}.attn.hook_k", f"blocks.{reader}.attn.hook_pattern"


def attention_with_keys_of(stream: Array) -> float:
    _, other = model.run_with_cache(stream, k, start_at_layer=reader, stop_at_layer=reader + 1)
    swap = [(k, lambda value, hook: other[k])]
    _, patched = model.run_with_cache(resid, pattern, fwd_hooks=swap, start_at_layer=reader, stop_at_layer=reader + 1)
    return float(patched[pattern][0, head, -1, target])


left = []
for layer in range(reader):
    for writer, W_O in enumerate(blocks[layer].heads.W_O):
        write = cache["z", layer][:, :, writer] @ W_O  # [1, pos, d_model]
        left.append(attention_with_keys_of(resid - write))
before = attention_with_keys_of(resid)
lesson.equal("with nothing taken out the attention is the same", before, patterns[reader, head, -1, target])
order = np.argsort(left)[:6]
labels, values = ["with all heads", *(f"without {names[i]}" for i in order)], [before, *(left[i] for i in order)]
lesson.bars(labels, values, f"attention of {reader}.{head}, last position, to the token after the copy", ".2f")

# %% [markdown]
# One head looks at the token before and writes down what it saw, and the induction head finds this note: *composition
# through keys*. Other *prev* heads look as hard and matter little here: a pattern does not show who needs it. And heads
# that share one key head read the same notes: count them as one witness.
#
# ## 4. Does the model need the two?
#
# Random tokens, then the same again. The second time the model can copy, and the loss falls: minus the log of the right
# token's probability, in nats. How much of this gain is lost when what some heads gathered becomes zero? The first time
# is the control, for there is nothing to copy yet.

# %%
twice = np.tile(np.random.default_rng(0).choice(model.config.d_vocab, 40, replace=False), 2)
cuts = {"nobody": order[:0], "the reader": np.array([reader * n_heads + head])}
cuts |= {"four readers": np.argsort(-shares["next"])[:4], "the writer": order[:1]}
loud = np.ones((n_layers, n_heads, 1), dtype=np.float32)  # 0 for a silent head
hooks = [(lambda name: name.endswith("hook_z"), lambda z, hook: z * loud[hook.layer])]
loss = []
for silent in cuts.values():
    loud[:] = 1
    loud.flat[silent] = 0
    logits = model.run_with_hooks(np.append(tokens[0, :1], twice)[None], hooks)
    p = softmax(logits[0, :-1])[np.arange(80), twice]  # of the right tokens
    loss.append(-np.log(p).reshape(2, 40)[:, 1:].mean(axis=1))
first, second = np.transpose(loss)
lost = (second - second[0]) / (first[0] - second[0])
columns = {"silent": list(cuts), "heads": [" ".join(names[silent]) for silent in cuts.values()]}
columns |= {"first time": first, "second time": second, "gain lost": lost}
lesson.table(columns, caption="loss on 40 random tokens said twice, and the share of the gain", format=".2f")
text = f"Head {reader}.{head} finds what came next by a note of head {names[order[0]]}. Without this note its attention"
text += f" falls from {before:.2f} to {min(left):.2f}; without its writer, repetition gains {lost[3]:.0%} less."
lesson.headline(text, picture)

# %% [markdown]
# Exercise (easy, 5 minutes): In "The capital of France is", which head gives most of its attention to position 3, the
# country, from the last position? Lessons 06 and 07 ask what it does with it.
#
# Hint: `cache["pattern", layer][0, :, -1, 3]` has a number for each head

# %%
_, thread = model.run_with_cache(model.to_tokens("The capital of France is"))
lesson.answer(names[np.argmax([thread["pattern", layer][0, :, -1, 3] for layer in range(n_layers)])])

# %% [markdown]
# Exercise (easy, 5 minutes): How many heads give none of the five kinds more than half of their attention?
#
# Hint: `shares[kind]` has a number for each head

# %%
lesson.answer(int((np.max(list(shares.values()), axis=0) <= 0.5).sum()))
lesson.finish()
