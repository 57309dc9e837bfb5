# %% [markdown]
"""Which head talks to which?

What you will learn: path patching. Change what one head wrote, let one reader alone see it, and hold all else still.

Needs: attention patterns, activation patching

Time: 10 minutes to read, 5 seconds to run

Paper: Wang et al. 2022, Interpretability in the Wild, https://arxiv.org/abs/2211.00593; Goldowsky-Dill et al. 2023,
Localizing Model Behavior with Path Patching, https://arxiv.org/abs/2304.05969
"""

# %% Set-up
from typing import Any

from tinymi import logit_difference
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.teaching import Lesson

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--clean", default=" Alice Cooper met Peter Smith. Alice Cooper met Peter", help="a prompt that repeats")
lesson.option("--corrupted", default=" Peter Cooper met Alice Smith. Alice Cooper met Peter", help="words exchanged")
lesson.option("--answer", default=" Smith", help="what the clean prompt repeats: one token")
lesson.option("--wrong", default=" Cooper", help="what the corrupted prompt repeats: one token")
options = lesson.start()
model = lesson.load_model()
n_layers, n_heads, n_kv_heads = model.config.n_layers, model.config.n_heads, model.config.n_kv_heads
group = n_heads // n_kv_heads  # so many heads share a key head
tokens, corrupted_tokens = model.to_tokens(options.clean), model.to_tokens(options.corrupted)
answer, wrong = model.to_single_token(options.answer), model.to_single_token(options.wrong)
if tokens.shape != corrupted_tokens.shape or (tokens == corrupted_tokens).all() or answer == wrong:
    lengths = f"--clean has {tokens.size} tokens and --corrupted {corrupted_tokens.size}"
    raise InputError(f"{lengths}; give two different prompts of equal length, with two different answers")

# %% [markdown]
# ## 1. Two prompts that ask for two surnames
#
# "Alice Cooper met Peter Smith. Alice Cooper met Peter" asks for Smith. Lesson 3 found how the model copies: one head
# notes at each word which word stands before it, and induction heads look for the note "before me stands Peter". The
# *corrupted* prompt begins "Peter Cooper met Alice Smith", so there the note is at Cooper. Who writes it, and who reads
# it? We watch the logit difference, answer minus wrong answer: 0 is its place in the clean run, 1 in the corrupted one.


# %%
def moved(logits: Array) -> Array:
    return np.asarray((high - logit_difference(logits, answer, wrong)[0]) / (high - low))  # [row]


logits, clean = model.run_with_cache(tokens)
corrupted_logits, corrupted = model.run_with_cache(corrupted_tokens)
high, low = (float(logit_difference(x, answer, wrong)[0][0]) for x in (logits, corrupted_logits))
lesson.say(f"The logit difference is {high:+.2f} in the clean run and {low:+.2f} in the corrupted one.")

# %% [markdown]
# ## 2. Which keys matter?
#
# A note is read through keys. So give one key head the keys of the corrupted run: activation patching, as in lesson 7.
# Neighbouring heads share a key head, so they share the patch. (Each row of a batch is a run of its own.)


# %%
def run_with(letter: str, layer: int, value: Array) -> Array:
    """How far the answer moves, in each row, when a layer has these queries, keys or values: [row]."""
    stream = np.repeat(clean["resid_pre", layer], len(value), axis=0)  # [row, pos, d_model]
    hooks = [(f"blocks.{layer}.attn.hook_{letter}", lambda old, hook: value)]
    return moved(model.run_with_hooks(stream, hooks, start_at_layer=layer, positions=-1))


def key_names(layer: int, key_head: int) -> str:
    return f"{layer}.{group * key_head} to {layer}.{group * key_head + group - 1}"


whole = np.zeros((n_layers, n_kv_heads))
for layer in lesson.progress(range(1, n_layers), "keys"):  # not layer 0: no head writes before it
    value = np.repeat(clean["k", layer], n_kv_heads, axis=0)  # [row, pos, n_kv_heads, d_head]
    for row in range(n_kv_heads):
        value[row, :, row] = corrupted["k", layer][0, :, row]
    whole[layer] = run_with("k", layer, value)
order = np.argsort(-whole[1:], axis=None)[:5] + n_kv_heads
labels = [f"keys of {key_names(*divmod(int(i), n_kv_heads))}" for i in order]
lesson.bars(labels, whole.flat[order], "how far one key head moves the answer", "+.2f")
reader, key_head = divmod(int(order[0]), n_kv_heads)

# %% [markdown]
# ## 3. One path
#
# Who wrote into the first of these keys? Take the stream that enters their layer, and exchange in it *what one earlier
# head wrote*. Make these keys of it, and nothing else: other heads, MLPs, the reader's own queries and values stay as
# in the clean run. Then let the model run on. This is a path patch, from a sender to a reader.


# %%
def sent(layer: int) -> Array:
    """What enters the reader's layer with one head's write exchanged, for each head: [n_heads, pos, d_model]."""
    change = (corrupted["z", layer] - clean["z", layer])[0].swapaxes(0, 1)  # [n_heads, pos, d_head]
    return np.asarray(clean["resid_pre", reader] + change @ model.weights.blocks[layer].heads.W_O)


def read(letter: str, heads: int | slice, stream: Array) -> Array:
    """The clean queries, keys or values of the reader's layer, but those of some heads are made of this stream."""
    point = f"blocks.{reader}.attn.hook_{letter}"
    _, cache = model.run_with_cache(stream, point, start_at_layer=reader, stop_at_layer=reader + 1)
    value = np.repeat(clean[letter, reader], len(stream), axis=0)  # [row, pos, n_heads or n_kv_heads, d_head]
    value[:, :, heads] = cache[point][:, :, heads]
    return value


keys = [read("k", key_head, sent(layer)) for layer in range(reader)]
paths = np.array([run_with("k", reader, value) for value in lesson.progress(keys, "senders")])  # [layer, head]
best = [divmod(int(i), n_heads) for i in np.argsort(-paths, axis=None)]
names = [f"{layer}.{head}" for layer, head in best]
caption = f"how far heads move the answer by the keys of {key_names(reader, key_head)}, the first eight of {paths.size}"
picture = lesson.bars(names[:8], np.sort(paths, axis=None)[::-1][:8], caption, "+.2f")

# %% [markdown]
# ## 4. Is it this path?
#
# The controls: the same sender by the reader's queries, by its values, and by the keys of the others in its layer.

# %%
sender = best[0]
stream = sent(sender[0])[[sender[1]]]  # [1, pos, d_model]
controls: dict[str, Any] = {"these keys": ("k", key_head), "their values": ("v", key_head)}
controls["their queries"] = ("q", slice(group * key_head, group * (key_head + 1)))
controls |= {f"keys of {key_names(reader, i)}": ("k", i) for i in range(n_kv_heads) if i != key_head}
by = [run_with(letter, reader, read(letter, heads, stream))[0] for letter, heads in controls.values()]
lesson.table({"by": list(controls), "moves": by}, caption=f"how far head {names[0]} moves the answer", format="+.2f")
everything = run_with("k", reader, read("k", key_head, corrupted["resid_pre", reader]))
lesson.equal("all senders at once are the patch of section 2", everything, whole[[reader], key_head], 1e-4)
path = f"One path, from head {names[0]} to the keys of {key_names(reader, key_head)}, moves the answer"
lesson.headline(f"{path} {paths[best[0]]:.0%} of the way. The next head moves it {paths[best[1]]:.0%}.", picture)
lesson.keep(whole=whole, reader=[reader, key_head], paths=paths, sender=sender, by=by)

# %% [markdown]
# The queries have little news here, as both prompts end alike: this does not say that they never matter. And each
# sender took a run. The deeper file guesses all paths at once, as lesson 14 does, patches the best, and tries queries.

# %% [markdown]
# Exercise (easy, 5 minutes): MLPs write into these keys, too. How far does the strongest one move the answer?
#
# Hint: `clean["resid_pre", reader] + corrupted["mlp_out", layer] - clean["mlp_out", layer]`

# %%
streams = [clean["resid_pre", reader] + corrupted["mlp_out", i] - clean["mlp_out", i] for i in range(reader)]
lesson.answer(max(run_with("k", reader, read("k", key_head, np.concatenate(streams)))))
lesson.finish()
