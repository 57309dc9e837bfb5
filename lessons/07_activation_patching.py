# %% [markdown]
"""Where does the model keep the answer, and who moves it?

What you will learn: activation patching. Copy one vector from a run that knows the answer into a run that does not, and
see whether the answer comes along. It is the simplest causal experiment on a language model.

Needs: quick start, tour

Time: 10 minutes to read, 5 seconds to run

Paper: Heimersheim and Nanda 2024, How to Use and Interpret Activation Patching, https://arxiv.org/abs/2404.15255
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import HookPoint
from tinymi.teaching import Lesson, Token, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--clean", default="The capital of France is", help="a prompt")
lesson.option("--corrupted", default="The capital of Italy is", help="another prompt, with as many tokens")
lesson.option("--answer", default=" Paris", help="the clean prompt's answer: one token, mostly with a space first")
lesson.option("--wrong", default=" Rome", help="the corrupted prompt's answer: one token, too")
options = lesson.start()
model = lesson.load_model()
n_layers, n_heads = model.config.n_layers, model.config.n_heads
clean, corrupted = model.to_tokens(options.clean), model.to_tokens(options.corrupted)
answer, wrong = model.to_single_token(options.answer), model.to_single_token(options.wrong)
if clean.shape != corrupted.shape or (clean == corrupted).all() or answer == wrong:
    lengths = f"--clean has {clean.size} tokens and --corrupted {corrupted.size}"
    raise InputError(f"{lengths}; give two different prompts of equal length, with two different answers")

# %% [markdown]
# ## 1. Two prompts that differ in one word
#
# The *clean* prompt asks for Paris, the *corrupted* one for Rome. We watch the logit difference: how much more the
# model wants Paris than Rome. A patch moves it along a scale from 0 (the corrupted run) to 1 (the clean run).


# %%
def difference(logits: Array) -> float:
    return float(logits[0, -1, answer] - logits[0, -1, wrong])


def moved(logits: Array) -> float:
    return (difference(logits) - low) / (high - low)


clean_logits, clean_cache = model.run_with_cache(clean)
corrupted_logits, corrupted_cache = model.run_with_cache(corrupted)
low, high = difference(corrupted_logits), difference(clean_logits)
lesson.say(f"The difference is {high:+.2f} in the clean run and {low:+.2f} in the corrupted one.")

# %% [markdown]
# ## 2. Patch the residual stream: every layer, every position
#
# Start from the corrupted run. At one layer and one position, put in the clean run's residual stream, and let the rest
# of the model run on. (Before the first word that differs both are the same.) Follow each column down.

# %%
first = int((clean != corrupted)[0].argmax())
grid = np.zeros((n_layers, clean.size - first))
for layer in range(n_layers):
    for pos in range(first, clean.size):
        stream = corrupted_cache["resid_pre", layer].copy()  # [1, pos, d_model]
        stream[0, pos] = clean_cache["resid_pre", layer][0, pos]  # the patch
        grid[layer, pos - first] = moved(model(stream, start_at_layer=layer))
pieces = [Token(piece) for piece in model.to_str_tokens(clean[0])]
caption = "how far a patch of the stream that enters a layer moves the answer"
picture = lesson.heatmap(grid, None, pieces[first:], caption, row_axis="layer", format=".2f")
middle = model(clean_cache["resid_pre", n_layers // 2], start_at_layer=n_layers // 2)
lesson.equal("patching all gives the clean run", middle, clean_logits)

# %% [markdown]
# ## 3. Who carried it? Patch one head at a time
#
# Two corners are 1 by construction: at the word where the model starts, at the position where it ends. Only attention
# moves anything from one to the other. So take the layer where the last column jumps, and patch its heads at the end.

# %%
at_last = np.append(grid[:, -1], 1.0)  # before each layer, and after the last one
jump = int(np.diff(at_last).argmax())


def patch_head(head: int, source: Array) -> Array:
    def patch(z: Array, hook: HookPoint) -> Array:
        z = z.copy()  # [1, pos, n_heads, d_head]
        z[0, -1, head] = source[0, -1, head]
        return z

    return model.run_with_hooks(corrupted, [(f"blocks.{jump}.attn.hook_z", patch)])


by_head = [moved(patch_head(head, clean_cache["z", jump])) for head in range(n_heads)]
mover = int(np.argmax(by_head))
name = f"{jump}.{mover}"
caption = f"how far each head moves the answer; all of layer {jump}: {at_last[jump]:.2f} to {at_last[jump + 1]:.2f}"
lesson.bars([f"head {jump}.{head}" for head in range(n_heads)], by_head, caption, ".2f")

# %% [markdown]
# ## 4. What does it read, and what does it write?
#
# Its pattern says what it reads; the unembedding says what its write promotes.

# %%
reads = clean_cache["pattern", jump][0, mover, -1]  # [key_pos]
writes = clean_cache["z", jump][0, -1, mover] @ model.weights.blocks[jump].heads.W_O[mover]  # [d_model]
promoted = writes * model.weights.ln_final @ model.weights.W_U  # [d_vocab]
words = map(show_token, model.to_str_tokens(np.argsort(-promoted)[:6]))
lesson.table({"token": pieces, "weight": reads}, caption=f"what head {name} reads at the last position", format=".2f")
lesson.say(f"Its write promotes most: {', '.join(words)}.")

# %% [markdown]
# ## 5. Does the answer come in, or does the wrong one only go out?
#
# Both move the difference. So patch the head from a prompt that asks for no capital, too: half-way can mean that
# neither answer is left. Where the answer itself comes in, the head is *enough* to bring it. Does the model *need* it,
# and do other questions go this way? See `deeper/07_activation_patching.py`.

# %%
sources = [options.corrupted, options.clean, "The colour of grass is"]
runs = [patch_head(mover, model.run_with_cache(model.to_tokens(source))[1]["z", jump]) for source in sources]
says = [Token(model.to_str_tokens([int(logits[0, -1].argmax())])[0]) for logits in runs]
columns = {f"head {name} from the run of": sources, "moves": map(moved, runs), "the model says": says}
lesson.table(columns, caption=f"{options.corrupted!r}, with this head patched", format=".2f")
text = f"Head {name} carries it: it reads {show_token(pieces[int(reads.argmax())])}, and its output alone moves the"
lesson.headline(f"{text} prediction {max(by_head):.0%} of the way to {show_token(options.answer)}.", picture)

# %% [markdown]
# Exercise (easy, 5 minutes): Patch what MLP 0 writes at the first word that differs. How far? Why does it prove little?
#
# Hint: which words has this MLP seen?

# %%
stream = corrupted_cache["resid_post", 0].copy()
stream[0, first] += (clean_cache["mlp_out", 0] - corrupted_cache["mlp_out", 0])[0, first]
lesson.answer(moved(model(stream, start_at_layer=1)))

# %% [markdown]
# Exercise (easy, 5 minutes): Patch the head from "The capital of Germany is". What does the model say? How far is that?
#
# Hint: `patch_head(mover, cache["z", jump])`, with the cache of that run

# %%
_, germany = model.run_with_cache(model.to_tokens("The capital of Germany is"))
lesson.answer(moved(patch_head(mover, germany["z", jump])))
lesson.finish()
