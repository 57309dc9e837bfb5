# %% [markdown]
"""Can one backward pass stand in for all the patches?

What you will learn: attribution patching. One gradient guesses what each patch would do, at every layer, position and
head. You see where the guess fails, find out why, and mend it.

Needs: activation patching

Time: 10 minutes to read, 6 seconds to run

Paper: Nanda 2023, Attribution Patching, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching;
Hanna et al. 2024, Have Faith in Faithfulness, https://arxiv.org/abs/2403.17806
"""

# %% Set-up
from tinymi import ActivationCache, logit_difference
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import Callback, NameFilter
from tinymi.teaching import Lesson, Token, stats

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--clean", default="The capital of France is", help="a prompt")
lesson.option("--corrupted", default="The capital of Italy is", help="another prompt, with as many tokens")
lesson.option("--answer", default=" Paris", help="the clean prompt's answer: one token, mostly with a space first")
lesson.option("--wrong", default=" Rome", help="the corrupted prompt's answer: one token, too")
options = lesson.start()
model = lesson.load_model()
n_layers, n_heads = model.config.n_layers, model.config.n_heads
tokens, corrupted_tokens = model.to_tokens(options.clean), model.to_tokens(options.corrupted)
answer, wrong = model.to_single_token(options.answer), model.to_single_token(options.wrong)
if tokens.shape != corrupted_tokens.shape or (tokens == corrupted_tokens).all() or answer == wrong:
    lengths = f"--clean has {tokens.size} tokens and --corrupted {corrupted_tokens.size}"
    raise InputError(f"{lengths}; give two different prompts of equal length, with two different answers")

# %% [markdown]
# ## 1. One gradient for all patches
#
# Lesson 7 put the clean run's stream into the corrupted run, one run for each layer and position. The gradient in the
# corrupted run says how fast the logit difference grows with each number of the stream. So multiply what a patch
# changes, clean - corrupted, by the gradient, and add up. That is the guess.


# %%
def moved(logits: Array) -> float:
    """0 is the corrupted run, 1 the clean run."""
    return float((logit_difference(logits, answer, wrong)[0][0] - low) / (high - low))


def guess(name: str, layer: int, grads: ActivationCache) -> Array:
    """How far patches would move the answer, by the gradients of one run: [pos], or [pos, n_heads]."""
    change = (clean[name, layer] - corrupted[name, layer]) * grads[name, layer]
    return np.asarray(change[0].sum(axis=-1) / (high - low))


d_logits = logit_difference(np.zeros((*tokens.shape, model.config.d_vocab)), answer, wrong)[1]
clean_logits, clean, clean_grads = model.run_with_gradients(tokens, d_logits)
corrupted_logits, corrupted, grads = model.run_with_gradients(corrupted_tokens, d_logits)
high, low = (float(logit_difference(x, answer, wrong)[0][0]) for x in (clean_logits, corrupted_logits))
first = int((tokens != corrupted_tokens)[0].argmax())
guesses = np.array([guess("resid_pre", layer, grads)[first:] for layer in range(n_layers)])  # [layer, pos]
patches = np.zeros_like(guesses)
for layer in range(n_layers):
    for pos in range(first, tokens.size):
        stream = corrupted["resid_pre", layer].copy()  # [1, pos, d_model]
        stream[0, pos] = clean["resid_pre", layer][0, pos]
        patches[layer, pos - first] = moved(model(stream, start_at_layer=layer))

# %%
rank = stats.rank_correlation(patches.ravel(), guesses.ravel())
labels = [label for piece in model.to_str_tokens(tokens[0])[first:] for label in (Token(piece), "guess")]
grid = np.stack([patches, guesses], axis=-1).reshape(n_layers, -1)[::3]  # beside each patch the guess
caption = f"how far {patches.size} patches move the answer (every third layer); rank correlation {rank:.2f}"
lesson.heatmap(grid, range(0, n_layers, 3), labels, caption, "layer", format=".2f")

# %% [markdown]
# ## 2. Every head, from the same gradient
#
# The backward pass left a gradient at every head's output, too. So guess all heads, and patch only the strongest: the
# method says where to look. Then turn the pair round, and patch back: from the corrupted run into the clean one.


# %%
def patch(base: ActivationCache, layer: int, head: int, share: float = 1.0, still: tuple[str, ...] = ()) -> float:
    """Take a head's last output a share of the way to the other run's. Points that end in `still` do not change."""
    other = clean if base is corrupted else corrupted
    step = np.zeros_like(base["z", layer])  # [1, pos, n_heads, d_head]
    step[0, -1, head] = share * (other["z", layer] - base["z", layer])[0, -1, head]
    hooks: list[tuple[NameFilter, Callback]] = [(f"blocks.{layer}.attn.hook_z", lambda z, hook: z + step)]
    if still:
        hooks.append((lambda name: name.endswith(still), lambda value, hook: base[hook.name]))
    there = moved(model.run_with_hooks(base["resid_pre", layer], hooks, start_at_layer=layer))
    return there if base is corrupted else 1 - there


there, back = (np.array([guess("z", i, by)[-1] for i in range(n_layers)]) for by in (grads, clean_grads))
top = [divmod(int(i), n_heads) for i in np.argsort(-abs(there), axis=None)[:4]]  # there, back: [n_layers, n_heads]
columns = {"head": [f"{layer}.{head}" for layer, head in top], "guess": [there[at] for at in top]}
columns["patch"], columns["guess back"] = [patch(corrupted, *at) for at in top], [back[at] for at in top]
columns["patch back"] = [patch(clean, *at) for at in top]
lesson.table(columns, caption=f"the strongest of {there.size} heads at the last position", format=".2f")
layer, head = top[0]
whole = guess("attn_out", layer, grads)[-1]
lesson.equal("the guesses for a layer's heads sum to that for its attention", there[layer].sum(), whole)

# %% [markdown]
# ## 3. What bends the curve?
#
# The guess is the slope at which a patch starts. So patch the first head back in small steps. Three things after it are
# not linear: where later heads look, what the norms divide by, and the MLPs. Hold one of them still, and patch again.

# %%
shares = (0, 0.2, 0.4, 0.6, 0.8, 1)
held = {"nothing": (), "patterns": ("hook_pattern",), "norm scales": ("hook_scale",), "MLPs": ("hook_mlp_out",)}
curves = {f"{x} held": [patch(clean, layer, head, share, held[x]) for share in shares] for x in held}
picture = lesson.lines(shares, curves, f"head {layer}.{head} patched back", "share of the patch", "moved", ".2f")
half, whole = (patch(clean, layer, head, share, sum(held.values(), ())) for share in (0.5, 1))
lesson.equal("with all three held still, half a patch does half of it", 2 * half, whole, 1e-3)

# %% [markdown]
# With the MLPs held, the curve is nearly straight and ends near the guess. The others hardly matter. A neuron is not
# linear: it multiplies two things that it reads.
#
# ## 4. More than one gradient
#
# *Integrated gradients*: mix the two prompts' embeddings in several proportions, run each mixture, and take the mean of
# the gradients. They serve all heads at once, as before, and both ways have the same guess.

# %%
mixed: list[float] = []
for share in (0.125, 0.375, 0.625, 0.875):
    stream = corrupted["hook_embed"] + share * (clean["hook_embed"] - corrupted["hook_embed"])
    between = model.run_with_gradients(stream, d_logits, f"blocks.{layer}.attn.hook_z", start_at_layer=0)[2]
    mixed.append(guess("z", layer, between)[-1, head])
lesson.say(f"Four gradients: {', '.join(f'{x:.2f}' for x in mixed)}. Their mean is {np.mean(mixed):.2f}.")
text = f"One backward pass guesses {patches.size} patches, rank correlation {rank:.2f}. Head {layer}.{head} moves the"
lesson.headline(f"{text} answer {curves['nothing held'][-1]:.0%} back; the guess is {back[layer, head]:.0%}.", picture)
lesson.keep(patches=patches, guesses=guesses, heads=there, back=back, head=[layer, head], curves=curves, mixed=mixed)

# %% [markdown]
# Exercise (easy, 5 minutes): Hold still one MLP at a time, and patch back. Which one does the head need most?
#
# Hint: `still=(f"blocks.{i}.hook_mlp_out",)`

# %%
by_mlp = [patch(clean, layer, head, still=(f"blocks.{i}.hook_mlp_out",)) for i in range(layer, n_layers)]
lesson.answer(layer + int(np.argmin(by_mlp)))
lesson.finish()
