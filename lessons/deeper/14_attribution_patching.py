# %% [markdown]
"""Does it hold? Guesses for patches, on new pairs, in the IOI circuit, and for edges

What you will learn: to hold gradients against real patches on held-out pairs, to find the IOI heads with one backward
pass, and to build a circuit of edges and ask whether it is faithful.

Needs: attribution patching, IOI circuit

Time: 20 minutes to read, 25 seconds to run

Paper: Syed et al. 2023, Attribution Patching Outperforms Automated Circuit Discovery, https://arxiv.org/abs/2310.10348;
Kramar et al. 2024, AtP*, https://arxiv.org/abs/2403.00745; Hanna et al. 2024, Have Faith in Faithfulness (EAP-IG),
https://arxiv.org/abs/2403.17806
"""

# %% Set-up
import sys
from collections.abc import Sequence
from typing import Any

from tinymi import ActivationCache, KeyValueCache
from tinymi.arrays import Array
from tinymi.hooks import HookPoint
from tinymi.ops import rms_norm, rms_norm_back
from tinymi.teaching import Lesson, prompts, stats

import numpy as np

sys.path.append(f"{sys.path[0]}/..")  # the folder of ioi.py
from ioi import NAMES, TEMPLATES, make_task, unrelated

lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
weights, n_layers, n_heads = model.weights, model.config.n_layers, model.config.n_heads
layers = range(n_layers)

# %% [markdown]
# ## 1. Held-out pairs
#
# Capitals that the short lesson did not use, two by two, clean and corrupted: nothing here was chosen on them. All run
# as one batch. The metric of a pair is its share of the way from corrupted (0) to clean (1). Every head is guessed and
# patched at the last position.

# %%
lines = [line for line in prompts("capitals") if line[0] not in ("France", "Italy", "Spain")][:16]
questions = model.to_tokens([f"The capital of {country} is" for country, _ in lines])  # [question, pos]
answers = np.array([model.to_single_token(capital) for _, capital in lines])
clean_tokens, corrupted_tokens = questions[::2], questions[1::2]  # [pair, pos]
right, wrong, pair = answers[::2], answers[1::2], np.arange(len(answers) // 2)


def differences(logits: Array) -> Array:
    return np.asarray(logits[pair, -1, right] - logits[pair, -1, wrong])  # [pair]


def moved(logits: Array) -> Array:
    return (differences(logits) - low) / span


clean_logits, clean = model.run_with_cache(clean_tokens)
corrupted_logits, corrupted = model.run_with_cache(corrupted_tokens)
low, span = differences(corrupted_logits), differences(clean_logits) - differences(corrupted_logits)
d_logits = np.zeros_like(corrupted_logits)
d_logits[pair, -1, right], d_logits[pair, -1, wrong] = 1 / span, -1 / span


def guess(stream: Array) -> Array:
    """For each head, by the gradients of the run that starts with this stream: [n_layers, n_heads, pair]."""
    grads = model.run_with_gradients(stream, d_logits, lambda name: name.endswith("hook_z"), start_at_layer=0)[2]
    changes = [(clean["z", i] - corrupted["z", i]) * grads["z", i] for i in layers]  # each [pair, pos, n_heads, d_head]
    return np.array([change[:, -1].sum(axis=-1).T for change in changes])


def run_heads(stream: Array, layer: int, heads: Any, instead: Array, hold: Any = (), past: Any = None) -> Array:
    """A run of each prompt for each head, with its z from instead [prompt, pos, n_heads, d_head]: the last logits.

    hold: more hooks; past: the positions before. Returns [prompt * head, 1, d_vocab].
    """

    def put(z: Array, hook: HookPoint) -> Array:
        z = z.copy()  # [prompt * head, pos, n_heads, d_head]
        for row, head in enumerate(heads):
            z[row :: len(heads), :, head] = instead[:, :, head]
        return z

    rows, past = np.repeat(stream, len(heads), axis=0), past and past.repeat(len(heads))
    hooks = [(f"blocks.{layer}.attn.hook_z", put), *hold]
    return model.run_with_hooks(rows, hooks, start_at_layer=layer, positions=[-1], past_kv_cache=past)


past = KeyValueCache(len(pair), questions.shape[1], model.config, weights.dtype)
model(corrupted_tokens[:, :-1], stop_at_layer=n_layers, past_kv_cache=past)  # the positions before the last run once
real = np.zeros((n_layers, n_heads, len(pair)))
for layer in lesson.progress(layers, "patches"):
    stream, z = corrupted["resid_pre", layer][:, -1:], clean["z", layer][:, -1:]
    logits = run_heads(stream, layer, range(n_heads), z, past=past)
    real[layer] = [moved(logits[head::n_heads]) for head in range(n_heads)]

start, end = corrupted["hook_embed"], clean["hook_embed"]
guesses = {"one gradient": guess(start)}
guesses["four gradients"] = np.mean([guess(start + (i + 0.5) / 4 * (end - start)) for i in range(4)], axis=0)
top = [divmod(int(i), n_heads) for i in np.argsort(-abs(real.mean(axis=-1)), axis=None)[:6]]
(layer, head), name = top[0], f"{top[0][0]}.{top[0][1]}"
columns: dict[str, Any] = {"head": [f"{layer}.{head}" for layer, head in top]}
for title, values in {"patch": real, **guesses}.items():
    columns[title] = [f"{values[at].mean():.2f} ({values[at].min():.2f} to {values[at].max():.2f})" for at in top]
picture = lesson.table(columns, caption="the strongest heads: mean, and the range over pairs")
both = [[(real[..., i].ravel(), by[..., i].ravel()) for i in pair] for by in guesses.values()]
r = [f"{stats.mean([np.corrcoef(*xy)[0, 1] for xy in of_pairs]):.2f}" for of_pairs in both]
by_rank = [f"{stats.mean([stats.rank_correlation(*xy) for xy in of_pairs]):.2f}" for of_pairs in both]
text = f"Guesses and patches of all {n_layers * n_heads} heads correlate with {r[0]} for one gradient, {r[1]} for four."
lesson.say(f"{text} By rank: {by_rank[0]} and {by_rank[1]}.")
one, four = (np.array([abs(by[at] - real[at]) for at in top]) for by in guesses.values())  # [head, pair]
lesson.finding(
    f"The mean of four gradients misses the effect of head {name} by less than one gradient does.",
    stats.paired_difference(one[0], four[0]),
    control=f"the next five heads are missed by {one[1:].mean():.3f} with one, by {four[1:].mean():.3f} with four",
)

# %% [markdown]
# ## 2. What bends the curve, on these pairs
#
# How far is the first hundredth of the way, times 100, from the whole? As in the lesson, with a part held still.

# %%
HELD = {"nothing": (), "patterns": ("hook_pattern",), "norm scales": ("hook_scale",), "MLPs": ("hook_mlp_out",)}
_, kept = model.run_with_cache(corrupted_tokens, lambda name: name.endswith(sum(HELD.values(), ())), positions=[-1])


def patch_part(share: float, held: tuple[str, ...]) -> Array:
    z = corrupted["z", layer].copy()  # [pair, pos, n_heads, d_head]
    z[:, -1] += share * (clean["z", layer] - corrupted["z", layer])[:, -1]
    hold = [(lambda name: name.endswith(held), lambda value, hook: kept[hook.name])] if held else []
    return moved(run_heads(corrupted["resid_pre", layer], layer, [head], z, hold))


bends = {what: abs(patch_part(1, still) - 100 * patch_part(0.01, still)) for what, still in HELD.items()}
lesson.bars(list(bends), [bend.mean() for bend in bends.values()], f"head {name}: slope and effect are apart by", ".2f")
control = ", ".join(f"{what} held {bend.mean():.2f}" for what, bend in bends.items())
text = f"The MLPs bend the curve of head {name}: with their outputs held, slope and effect come closer."
lesson.finding(text, stats.paired_difference(bends["nothing"], bends["MLPs"]), control=control)

# %% [markdown]
# ## 3. The IOI heads, by one backward pass
#
# Lesson 10 takes out each head in a run of its own. Here one backward pass on two sentences of its first template
# guesses what it costs to put each head's mean in its place, over sentences with three names. The real runs are the
# control. The head that the guess misses most is taken out once more, with all later attention patterns held still.

# %%
task = make_task(model, TEMPLATES[0], n_pairs=1)
case = np.arange(len(task.prompts))


def io_minus_s(logits: Array) -> Array:
    """[prompt * row, pos, d_vocab] -> [row]"""
    rows = logits[:, -1].reshape(len(case), -1, logits.shape[-1])  # [prompt, row, d_vocab]
    return np.asarray((rows[case, :, task.io_id] - rows[case, :, task.s_id]).mean(axis=0))


logits, ioi = model.run_with_cache(task.tokens)
full, d_io = float(io_minus_s(logits)[0]), np.zeros_like(logits)
d_io[case, -1, task.io_id], d_io[case, -1, task.s_id] = 1 / len(case), -1 / len(case)
grads = model.run_with_gradients(task.tokens, d_io)[2]
_, abc = model.run_with_cache(unrelated(model, TEMPLATES[0]), lambda name: name.endswith("hook_z"))
mean = [np.repeat(abc["z", i].mean(axis=0)[None], len(case), axis=0) for i in layers]  # as z: each the same for all
by_gradient = np.array([((ioi["z", i] - mean[i]) * grads["z", i]).sum(axis=(0, 1, 3)) for i in layers])

without = [run_heads(ioi["resid_pre", i], i, range(n_heads), mean[i]) for i in lesson.progress(layers, "knock-out")]
loss = full - np.array([io_minus_s(logits) for logits in without])  # [n_layers, n_heads]
order = np.argsort(-abs(loss), axis=None)[:10]
ten = [divmod(int(i), n_heads) for i in order]
columns = {"head": [f"{i}.{head}" for i, head in ten], "loss": loss.flat[order], "guess": by_gradient.flat[order]}
columns["place by guess"] = [int((abs(by_gradient) > abs(by_gradient[place])).sum()) + 1 for place in ten]
lesson.table(columns, caption=f"the ten largest losses of {loss.size}, from {full:.2f}", format=".2f")
shared = sum(place <= 10 for place in columns["place by guess"])
lesson.finding(
    "One backward pass finds most of the ten heads that cost most.",
    established=shared > 5,
    evidence=f"{shared} of 10 are among the ten largest guesses (the bar: half); correlation "
    f"{np.corrcoef(loss.ravel(), by_gradient.ravel())[0, 1]:.2f}",
    control=f"ten heads at random share {100 / loss.size:.1f} on average",
)

missed = max(ten, key=lambda place: abs(loss[place] - by_gradient[place]))
hold = [(lambda name: name.endswith("hook_pattern"), lambda value, hook: ioi[hook.name])]
still = run_heads(ioi["resid_pre", missed[0]], missed[0], missed[1:], mean[missed[0]], hold)
still_cost = full - float(io_minus_s(still)[0])
text = f"Head {missed[0]}.{missed[1]}: the guess is {by_gradient[missed]:+.2f}, the loss {loss[missed]:+.2f}"
lesson.say(f"{text}, with the patterns held {still_cost:+.2f}.")

# %% [markdown]
# ## 4. Edges
#
# An edge leads from what writes (the embedding, a head, an MLP) to what reads later (a head's query, key or value, an
# MLP, the logits). The guess for it: the change of what is written, times the gradient at what is read. The corrupted
# prompts name a third person in place of the second S. As in EAP-IG, the gradients come from runs on the way.

# %%
texts = []
for prompt, io, s in zip(task.prompts, task.io, task.s):
    third: str = next(name for name in NAMES if name not in (io, s))
    texts.append(third.join(prompt.rpartition(s)[::2]))
other_logits, other = model.run_with_cache(model.to_tokens(texts))
gap = full - io_minus_s(other_logits)[0]
n_kv, n_writers, eps = model.config.n_kv_heads, n_heads + 1, model.config.rms_eps
n_readers, n_sources = n_heads + 2 * n_kv + 1, 1 + n_layers * n_writers  # a layer's queries, keys, values, its MLP
before = [1 + i * n_writers + part * n_heads for i in layers for part in [0] * (n_readers - 1) + [1]] + [n_sources]
allowed = np.arange(n_sources) < np.array(before)[:, None]  # [reader, source]: which sources come before a reader


def matrix(x: str, layer: int) -> Array:
    return np.asarray(getattr(weights.blocks[layer].heads, f"W_{x.upper()}")[:, None])  # [heads, 1, d_in, d_out]


def edge_guesses(runs: Sequence[tuple[ActivationCache, ActivationCache]]) -> Array:
    """The mean over runs, each with its gradients, in shares of the gap: [reader, source]."""
    total = np.zeros((len(before), change[0].size))
    for cache, grads in runs:
        d: list[Array] = []  # at what is read: each [prompt, pos, d_model]
        for i in layers:
            d_normed = np.concatenate([np.moveaxis(grads[x, i], 2, 0) @ matrix(x, i).mT for x in "qkv"])
            d += [*rms_norm_back(d_normed, cache["resid_pre", i], weights.blocks[i].ln1, eps)]
            d.append(grads["resid_mid", i] - grads["resid_post", i])
        total += np.reshape([*d, grads["resid_post", n_layers - 1]], total.shape) / len(runs)
    return np.where(allowed, total @ change.reshape(len(change), -1).T / gap, 0)


news = [ioi["hook_embed"] - other["hook_embed"]]  # what each source writes in the clean run, against the corrupted one
for i in layers:
    by_heads = np.moveaxis(ioi["z", i] - other["z", i], 2, 0) @ matrix("o", i)
    news += [*by_heads, ioi["mlp_out", i] - other["mlp_out", i]]
change = np.array(news)  # [source, prompt, pos, d_model]
steps = [other["hook_embed"] + (i + 0.5) / 4 * change[0] for i in range(4)]
edges = edge_guesses([model.run_with_gradients(x, d_io, start_at_layer=0)[1:] for x in steps])

# %% [markdown]
# Is the circuit faithful? Run the clean prompts with the top edges only. Along all others each reader gets what the
# corrupted run wrote. So every reader has an input of its own, made of what the sources before it write in this run.


# %%
def run_layer(layer: int, kept: Array, news: Array) -> None:
    """Put into news what the heads and the MLP of a layer write, against the corrupted run."""
    at, old, ln1 = 1 + layer * n_writers, other["resid_pre", layer], weights.blocks[layer].ln1
    *attention, mlp = kept[layer * n_readers : (layer + 1) * n_readers]  # each [source]
    arrives = np.tensordot(attention, news, axes=1)  # [reader, prompt, pos, d_model]
    parts = np.split(rms_norm(old + arrives, ln1, eps) - rms_norm(old, ln1, eps), [n_heads, n_heads + n_kv])
    values = {x: other[x, layer] + (part @ matrix(x, layer)).transpose(1, 2, 0, 3) for x, part in zip("qkv", parts)}

    def heads_write(z: Array, hook: HookPoint) -> None:
        news[at : at + n_heads] = np.moveaxis(z - other["z", layer], 2, 0) @ matrix("o", layer)

    def mlp_reads(resid_mid: Array, hook: HookPoint) -> Array:
        return np.asarray(other["resid_mid", layer] + np.tensordot(mlp, news, axes=1))

    hooks: list[Any] = [(f"blocks.{layer}.attn.hook_{x}", lambda _, hook: values[hook.name[-1]]) for x in "qkv"]
    hooks += [(f"blocks.{layer}.attn.hook_z", heads_write), (f"blocks.{layer}.hook_resid_mid", mlp_reads)]
    part: dict[str, Any] = {"start_at_layer": layer, "stop_at_layer": layer + 1}
    _, cache = model.run_with_cache(old, f"blocks.{layer}.hook_mlp_out", fwd_hooks=hooks, **part)
    news[at + n_heads] = cache["mlp_out", layer] - other["mlp_out", layer]


def run_edges(kept: Array) -> float:
    """How far the difference comes, 0 corrupted to 1 clean, with only the edges kept: [reader, source]."""
    news, kept = np.zeros_like(change), kept.astype(change.dtype)  # news: what each source writes in this run
    news[0] = change[0]
    for layer in layers:
        run_layer(layer, kept, news)
    last = other["resid_post", n_layers - 1] + np.tensordot(kept[-1], news, axes=1)
    logits = model(last, start_at_layer=n_layers, positions=[-1])
    return float(io_minus_s(logits - other_logits[:, -1:])[0] / gap)


def top_edges(guesses: Array, count: int) -> Array:
    return np.asarray(allowed & (abs(guesses) >= np.sort(abs(guesses[allowed]))[-count]))


dealt = np.zeros_like(edges)
dealt[allowed] = np.random.default_rng(0).permutation(edges[allowed])
methods = {"four gradients": edges, "one gradient": edge_guesses([(ioi, grads)]), "random": dealt}
ends = [run_edges(np.zeros_like(edges)), run_edges(np.where(allowed, 1.0, 0.0))]
lesson.equal("without edges it is the corrupted run, with all the clean one", ends, [0, 1], 1e-3)
sizes = [min(size, int(allowed.sum())) for size in (100, 500, 2000, 10000)]
curves = {what: [run_edges(top_edges(by, size)) for size in sizes] for what, by in methods.items()}
caption = f"how far the top edges of {allowed.sum():,} bring IO - S"
lesson.table({"edges": sizes, **curves}, caption=caption, format=".2f")
lesson.finding(
    "The edges with the largest guesses carry much of the task, and as many random ones nothing.",
    established=min(np.subtract(curves["four gradients"], curves["random"])) > 0.2,
    evidence=f"{curves['four gradients'][0]:.2f} to {curves['four gradients'][-1]:.2f} (the bar: 0.2 above random)",
    control=f"the same guesses dealt out to random edges: {max(map(abs, curves['random'])):.2f} at most",
)
text = f"One gradient misses the effect of head {name} by {one[0].mean():.2f}, four by {four[0].mean():.2f}."
lesson.headline(f"{text} In lesson 10's task, one finds {shared} of the ten heads that cost most.", picture)
lesson.keep(prompts=lines, real=real, one=guesses["one gradient"], bends=bends, loss=loss, by_gradient=by_gradient)
lesson.keep(missed=missed, still_cost=still_cost, curves=curves)
lesson.keep(texts=[task.prompts, texts], gap=gap, to_logits=edges[-1])
lesson.finish()
