# %% [markdown]
"""Can one backward pass stand in for all the patches?

What you will learn: attribution patching. One gradient guesses what each patch would do, at every layer, position and
head. You see where the guess fails, find out why, and mend it.

Needs: activation patching

Time: 12 minutes to read, 6 seconds to run

Paper: Nanda 2023, Attribution Patching, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching;
Hanna et al. 2024, Have Faith in Faithfulness, https://arxiv.org/abs/2403.17806
"""

# %% Set-up
from time import perf_counter

from tinymi import ActivationCache
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint, NameFilter
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
def difference(logits: Array) -> float:
    return float(logits[0, -1, answer] - logits[0, -1, wrong])


def moved(logits: Array) -> float:
    """0 is the corrupted run, 1 the clean run."""
    return (difference(logits) - low) / (high - low)


def guess(name: str, layer: int, grads: ActivationCache) -> Array:
    """The same by a gradient: [pos], or [pos, n_heads]."""
    change = (clean[name, layer] - corrupted[name, layer]) * grads[name, layer]
    return np.asarray(change[0].sum(axis=-1) / (high - low))


d_logits = np.zeros((*tokens.shape, model.config.d_vocab))  # how fast the difference grows with each logit
d_logits[0, -1, [answer, wrong]] = 1, -1
started = perf_counter()
clean_logits, clean, clean_grads = model.run_with_gradients(tokens, d_logits)
corrupted_logits, corrupted, grads = model.run_with_gradients(corrupted_tokens, d_logits)
low, high = difference(corrupted_logits), difference(clean_logits)
first = int((tokens != corrupted_tokens)[0].argmax())
guesses = np.array([guess("resid_pre", layer, grads)[first:] for layer in range(n_layers)])  # [layer, pos]
guessed, patches = perf_counter(), np.zeros_like(guesses)
for layer in range(n_layers):
    for pos in range(first, tokens.size):
        stream = corrupted["resid_pre", layer].copy()  # [1, pos, d_model]
        stream[0, pos] = clean["resid_pre", layer][0, pos]
        patches[layer, pos - first] = moved(model(stream, start_at_layer=layer))
patched = perf_counter()

some = range(0, n_layers, 3)
grid = np.stack([patches, guesses], axis=-1).reshape(n_layers, -1)[some]
labels = [label for piece in model.to_str_tokens(tokens[0])[first:] for label in (Token(piece), "guess")]
lesson.heatmap(
    grid, some, labels, "how far patches of the stream move the answer, and the guess", "layer", format=".2f"
)
rank = stats.rank_correlation(patches.ravel(), guesses.ravel())
took = f"Two runs with gradients took {guessed - started:.1f} s, {patches.size} patches {patched - guessed:.1f} s"
lesson.say(f"{took}. Rank correlation: {rank:.2f}.")

# %% [markdown]
# ## 2. Every head, from the same gradient
#
# The backward pass left a gradient at every head's output, too. So guess all heads, and patch only the strongest. This
# is what the method is for: it says where to look.


# %%
def patch(base: ActivationCache, layer: int, head: int, share: float = 1.0, still: tuple[str, ...] = ()) -> float:
    """Move a head's last output a share of the way to the other run's. Some points can be held still meanwhile."""

    def move(z: Array, hook: HookPoint) -> Array:
        z = z.copy()  # [1, pos, n_heads, d_head]
        z[0, -1, head] += share * (clean["z", layer] + corrupted["z", layer] - 2 * base["z", layer])[0, -1, head]
        return z

    hooks: list[tuple[NameFilter, Callback]] = [(f"blocks.{layer}.attn.hook_z", move)]
    if still:
        hooks.append((lambda name: name.endswith(still), lambda value, hook: base[hook.name]))
    there = moved(model.run_with_hooks(base["resid_pre", layer], hooks, start_at_layer=layer))
    return there if base is corrupted else 1 - there


heads = np.array([guess("z", layer, grads)[-1] for layer in range(n_layers)])  # [n_layers, n_heads]
top = [divmod(int(i), n_heads) for i in np.argsort(-abs(heads), axis=None)[:4]]
columns = {"head": [f"{layer}.{head}" for layer, head in top], "guess": [heads[place] for place in top]}
columns["patch"] = [patch(corrupted, *place) for place in top]
lesson.table(columns, caption=f"the strongest of {heads.size} heads at the last position", format=".2f")
layer, head = top[0]
whole = guess("attn_out", layer, grads)[-1]
lesson.equal("the guesses for a layer's heads sum to that for its attention", heads[layer].sum(), whole)

# %% [markdown]
# ## 3. Turn the pair round
#
# So far so good. Now patch that head back: from the corrupted run into the clean one. The same prompts, the same head.
# And go in small steps, as the guess is the slope at which the curve starts. (Then try the whole lesson with
# `--corrupted "The capital of Spain is" --wrong " Madrid"`.)

# %%
ways, shares = {"there": corrupted, "back": clean}, (0, 0.2, 0.4, 0.6, 0.8, 1)
slopes = [float(guess("z", layer, each)[-1, head]) for each in (grads, clean_grads)]
curves = [[patch(base, layer, head, share) for share in shares] for base in ways.values()]
names = [f"{way}, guess {at:.2f}" for way, at in zip(ways, slopes)]
picture = lesson.lines(shares, dict(zip(names, curves)), f"head {layer}.{head}", "share of the patch", "moved", ".2f")

# %% [markdown]
# ## 4. What bends the curve?
#
# Three things after the head are not linear: where later heads look, what the norms divide by, and the MLPs. Hold one
# of them still, and patch again. The slope is the first hundredth of the way, times 100. When does it tell the whole?

# %%
held = {"nothing": (), "patterns": ("hook_pattern",), "norm scales": ("hook_scale",), "MLPs": ("hook_mlp_out",)}
columns = {"held still": list(held)}
for way, base in ways.items():
    columns[f"slope {way}"] = [100 * patch(base, layer, head, 0.01, still) for still in held.values()]
    columns[f"whole {way}"] = [patch(base, layer, head, 1.0, still) for still in held.values()]
lesson.table(columns, format=".2f")
half, whole = (patch(corrupted, layer, head, to, ("hook_pattern", "hook_scale", "hook_mlp_out")) for to in (0.5, 1))
lesson.equal("with all three held still, half a patch does half of it", 2 * half, whole, 1e-3)

# %% [markdown]
# The MLPs bend it, not the norms and not the patterns. Each neuron multiplies two things that it reads.
#
# ## 5. More than one gradient
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
effects = f"which moves {curves[0][-1]:.2f} there and {curves[1][-1]:.2f} back, it says"
text = f"One backward pass guesses {patches.size} patches, rank correlation {rank:.2f}. But for head {layer}.{head},"
lesson.headline(f"{text} {effects} {slopes[0]:.2f} and {slopes[1]:.2f}.", picture)
lesson.keep(
    patches=patches, guesses=guesses, heads=heads, head=[layer, head], curves=curves, slopes=slopes, mixed=mixed
)

# %% [markdown]
# Exercise (easy, 5 minutes): Hold still one MLP at a time, and patch back. Which one does the head need most?
#
# Hint: `still=(f"blocks.{i}.hook_mlp_out",)`

# %%
by_mlp = [patch(clean, layer, head, still=(f"blocks.{i}.hook_mlp_out",)) for i in range(layer, n_layers)]
lesson.answer(layer + int(np.argmin(by_mlp)))
lesson.finish()
