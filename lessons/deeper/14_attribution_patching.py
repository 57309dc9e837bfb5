# %% [markdown]
"""Does it hold? Guesses for patches, on new pairs, in the IOI circuit, and for edges

What you will learn: to hold gradients against real patches on held-out pairs, to find the IOI heads with one backward
pass, and to build a circuit of edges and ask whether it is faithful.

Needs: attribution patching, IOI circuit

Time: 20 minutes to read, 45 seconds to run

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
from tinymi.hooks import Callback, HookPoint
from tinymi.ops import rms_norm, rms_norm_back
from tinymi.teaching import Lesson, prompts, stats
from tinymi.weights import BlockWeights

import numpy as np

sys.path.append(f"{sys.path[0]}/..")  # the folder of ioi.py
from ioi import NAMES, TEMPLATES, make_task, unrelated

lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
weights, n_layers, n_heads = model.weights, model.config.n_layers, model.config.n_heads
layers = range(n_layers)
rng = np.random.default_rng(0)

# %% [markdown]
# ## 1. Held-out pairs
#
# Capitals that the short lesson did not use, two by two: nothing here was chosen on them. Each pair is clean and
# corrupted. All run as one batch, and the metric of each is its share of the way from corrupted (0) to clean (1).

# %%
lines = [line for line in prompts("capitals") if line[0] not in ("France", "Italy", "Spain")][:16]
questions = model.to_tokens([f"The capital of {country} is" for country, _ in lines])  # [question, pos]
answers, length = np.array([model.to_single_token(capital) for _, capital in lines]), questions.shape[1]
clean_tokens, corrupted_tokens = questions[::2], questions[1::2]  # [pair, pos]
right, wrong, pair = answers[::2], answers[1::2], np.arange(len(answers) // 2)
subject = int((questions != questions[0]).any(axis=0).argmax())
POINTS = ("resid_pre", "attn_out", "mlp_out", "z")


def wanted(name: str) -> bool:
    return name.endswith(tuple(f"hook_{point}" for point in POINTS))


def differences(logits: Array) -> Array:
    return np.asarray(logits[pair, -1, right] - logits[pair, -1, wrong])  # [pair]


clean_logits, clean = model.run_with_cache(clean_tokens, wanted)
corrupted_logits, corrupted = model.run_with_cache(corrupted_tokens, wanted)
low, span = differences(corrupted_logits), differences(clean_logits) - differences(corrupted_logits)
d_logits = np.zeros_like(corrupted_logits)
d_logits[pair, -1, right], d_logits[pair, -1, wrong] = 1 / span, -1 / span


def moved(logits: Array) -> Array:
    return (differences(logits) - low) / span


def guess(grads: Sequence[ActivationCache]) -> dict[str, Array]:
    """For each kind of patch the guess by the mean gradient: [n_layers, place, pair]."""
    by: dict[str, list[Array]] = {name: [] for name in ("heads", *POINTS[:3])}
    for layer in layers:
        for name in POINTS:
            gradient = np.mean([each[name, layer] for each in grads], axis=0)
            change = ((clean[name, layer] - corrupted[name, layer]) * gradient).sum(axis=-1)  # [pair, pos, ...]
            by["heads" if name == "z" else name].append(change[:, -1].T if name == "z" else change[:, [subject, -1]].T)
    return {name: np.array(values) for name, values in by.items()}


embeds = clean["resid_pre", 0], corrupted["resid_pre", 0]
mixed = [embeds[1] + (i + 0.5) / 4 * (embeds[0] - embeds[1]) for i in range(4)]
between = [model.run_with_gradients(x, d_logits, wanted, start_at_layer=0)[2] for x in mixed]
one = guess([model.run_with_gradients(corrupted_tokens, d_logits, wanted)[2]])
four = guess(between)


def patch_layer(layer: int, pos: int, n_heads: int) -> Array:
    """The three kinds of patch at a position, then one for each head; all in one batch: [patch, pair]."""
    stream, kinds = corrupted["resid_pre", layer], [*POINTS[:3], *range(n_heads)]
    hooks: list[tuple[str, Callback]] = []
    for row, kind in enumerate(kinds):
        name, head = ("z", (kind,)) if isinstance(kind, int) else (kind, ())

        def put(value: Array, hook: HookPoint, row: int = row, name: str = name, head: Any = head) -> Array:
            rows = value.copy().reshape(len(pair), len(kinds), *value.shape[1:])  # [pair, patch, pos, ...]
            rows[(slice(None), row, 0, *head)] = clean[name, layer][(slice(None), pos, *head)]
            return rows.reshape(value.shape)

        hooks.append((f"blocks.{layer}.{'attn.' if name == 'z' else ''}hook_{name}", put))
    past = KeyValueCache(len(pair), length, model.config, stream.dtype)
    model(stream[:, :pos], start_at_layer=layer, stop_at_layer=n_layers, past_kv_cache=past)
    part: dict[str, Any] = {"start_at_layer": layer, "positions": -1, "past_kv_cache": past.repeat(len(kinds))}
    logits = model.run_with_hooks(np.repeat(stream[:, pos:], len(kinds), axis=0), hooks, **part)
    return np.array([moved(logits[row :: len(kinds)]) for row in range(len(kinds))])


real = {name: np.zeros_like(values) for name, values in one.items()}  # [n_layers, place, pair]
for layer in lesson.progress(layers, "patches"):
    at_last = patch_layer(layer, length - 1, n_heads)
    at_subject = patch_layer(layer, subject, 0)
    real["heads"][layer] = at_last[3:]
    for row, name in enumerate(POINTS[:3]):
        real[name][layer] = at_subject[row], at_last[row]

guesses = {"one gradient": one, "four gradients": four}
columns: dict[str, Any] = {"patch": list(real)}
for title, by in guesses.items():
    flat = [[(real[name][..., i].ravel(), by[name][..., i].ravel()) for i in pair] for name in real]
    columns[f"r, {title}"] = [f"{stats.mean([np.corrcoef(*xy)[0, 1] for xy in each]):.2f}" for each in flat]
    columns[f"rank, {title[:4]}"] = [np.mean([stats.rank_correlation(*xy) for xy in each]) for each in flat]
lesson.table(columns, caption=f"correlation with real patches, mean of {len(pair)} pairs", format=".2f")
size = abs(real["heads"].mean(axis=-1))
top = [divmod(int(i), n_heads) for i in np.argsort(-size, axis=None)[:6]]
best, name = top[0], f"{top[0][0]}.{top[0][1]}"
columns, misses = {"head": [f"{layer}.{head}" for layer, head in top]}, []
for title, values in {"patch": real["heads"], "one gradient": one["heads"], "four gradients": four["heads"]}.items():
    columns[title] = [f"{values[at].mean():.2f} ({values[at].min():.2f} to {values[at].max():.2f})" for at in top]
    misses.append(np.array([abs(values[at] - real["heads"][at]) for at in top]))  # [head, pair]
lesson.table(columns, caption="the strongest heads: mean, and the range over pairs")
lesson.finding(
    f"The mean of four gradients misses the effect of head {name} by less than one gradient does.",
    stats.paired_difference(misses[1][0], misses[2][0]),
    control=f"it is a cure for the curve only: the next five heads are missed by {misses[1][1:].mean():.3f} with one "
    f"gradient and by {misses[2][1:].mean():.3f} with four",
)

# %% [markdown]
# ## 2. What bends the curve, on these pairs
#
# As in the short lesson, with a part of the model held still. How far is the first hundredth of the way, times 100,
# from the whole?

# %%
HELD = {"nothing": (), "patterns": ("hook_pattern",), "norm scales": ("hook_scale",), "MLPs": ("hook_mlp_out",)}
_, kept = model.run_with_cache(corrupted_tokens, lambda name: name.endswith(("pattern", "scale", "mlp_out")))


def patch_part(share: float, still: tuple[str, ...]) -> Array:
    def move(z: Array, hook: HookPoint) -> Array:
        z = z.copy()  # [pair, pos, n_heads, d_head]
        z[:, -1, best[1]] += share * (clean["z", best[0]] - corrupted["z", best[0]])[:, -1, best[1]]
        return z

    hooks: list[Any] = [(f"blocks.{best[0]}.attn.hook_z", move)]
    if still:
        hooks.append((lambda name: name.endswith(still), lambda value, hook: kept[hook.name]))
    return moved(model.run_with_hooks(corrupted["resid_pre", best[0]], hooks, start_at_layer=best[0]))


bends = {what: abs(patch_part(1, still) - 100 * patch_part(0.01, still)) for what, still in HELD.items()}
lesson.bars(list(bends), [bend.mean() for bend in bends.values()], f"head {name}: slope and effect are apart by", ".2f")
control = ", ".join(f"{what} held {bend.mean():.2f}" for what, bend in bends.items())
text = f"The MLPs bend the curve of head {name}: with their outputs held, slope and effect come closer."
lesson.finding(text, stats.paired_difference(bends["nothing"], bends["MLPs"]), control=control)

# %% [markdown]
# ## 3. The IOI heads, by one backward pass
#
# Lesson 10 takes out each head in a run of its own. Here one backward pass on sentences of its template guesses what it
# costs to put in each head's mean. The real runs are the control.

# %%
task = make_task(model, TEMPLATES[0], n_pairs=1)  # two prompts
case = np.arange(len(task.prompts))


def io_minus_s(logits: Array) -> float:
    return float((logits[case, -1, task.io_id] - logits[case, -1, task.s_id]).mean())


logits, ioi = model.run_with_cache(task.tokens)
d_io = np.zeros_like(logits)
d_io[case, -1, task.io_id], d_io[case, -1, task.s_id] = 1 / len(case), -1 / len(case)
grads = model.run_with_gradients(task.tokens, d_io)[2]
_, abc = model.run_with_cache(unrelated(model, TEMPLATES[0]), lambda name: name.endswith("hook_z"))
mean = [abc["z", layer].mean(axis=0) for layer in layers]  # each [pos, n_heads, d_head]
by_gradient = np.array([((ioi["z", i] - mean[i]) * grads["z", i]).sum(axis=(0, 1, 3)) for i in layers])


def without(layer: int, head: int, still: tuple[str, ...] = ()) -> float:
    def take_out(z: Array, hook: HookPoint) -> Array:
        z = z.copy()  # [prompt, pos, n_heads, d_head]
        z[:, :, head] = mean[layer][:, head]
        return z

    hooks: list[Any] = [(f"blocks.{layer}.attn.hook_z", take_out)]
    if still:
        hooks.append((lambda name: name.endswith(still), lambda value, hook: ioi[hook.name]))
    return io_minus_s(model.run_with_hooks(ioi["resid_pre", layer], hooks, start_at_layer=layer, positions=[-1]))


full = io_minus_s(logits)
loss = np.array([[full - without(i, head) for head in range(n_heads)] for i in lesson.progress(layers, "knock-out")])
order, by_guess = (np.argsort(-abs(values), axis=None)[:10] for values in (loss, by_gradient))
ten = [divmod(int(i), n_heads) for i in order]
columns = {"head": [f"{layer}.{head}" for layer, head in ten], "loss": [loss[place] for place in ten]}
columns["guess"] = [by_gradient[place] for place in ten]
columns["place by guess"] = [int((abs(by_gradient) > abs(by_gradient[place])).sum()) + 1 for place in ten]
lesson.table(columns, caption=f"the ten largest losses of {loss.size}, from {full:.2f}", format=".2f")
shared = len(set(order.tolist()) & set(by_guess.tolist()))
pearson = np.corrcoef(loss.ravel(), by_gradient.ravel())[0, 1]
lesson.finding(
    "One backward pass finds most of the ten heads that cost most.",
    established=shared > 5,
    evidence=f"{shared} of 10 are among the ten largest guesses (the bar: half); correlation {pearson:.2f}",
    control=f"ten heads at random share {100 / loss.size:.1f} on average",
)

# %% [markdown]
# And the head that the guess misses most: does it act through where later heads look? Hold their patterns still. (For
# this case AtP* puts the real softmax in place of its slope.)

# %%
missed = max(ten, key=lambda place: abs(loss[place] - by_gradient[place]))
still_cost = full - without(*missed, ("hook_pattern",))
text = f"Head {missed[0]}.{missed[1]}: the guess is {by_gradient[missed]:+.2f}, the loss {loss[missed]:+.2f}"
lesson.say(f"{text}, and {still_cost:+.2f} with all later patterns held still.")

# %% [markdown]
# ## 4. Edges
#
# An edge leads from what writes (the embedding, a head, an MLP) to what reads later (a head's query, key or value, an
# MLP, the logits). The guess for it: the change of what is written, times the gradient at what reads. The corrupted
# prompts name a third person in place of the second S. As in EAP-IG, the gradients come from runs on the way.


# %%
def third_name(prompt: str, io: str, s: str) -> str:
    third: str = next(name for name in NAMES if name not in (io, s))
    return third.join(prompt.rpartition(s)[::2])


texts = [third_name(*line) for line in zip(task.prompts, task.io, task.s)]
other_logits, other = model.run_with_cache(model.to_tokens(texts))
gap = full - io_minus_s(other_logits)
n_kv, step, eps = model.config.n_kv_heads, n_heads + 1, model.config.rms_eps
sources = ["embedding", *(f"{i}.{head}" if head < n_heads else f"MLP {i}" for i in layers for head in range(step))]
before = [1 + i * step + part * n_heads for i in layers for part in (0, 1)] + [len(sources)]  # sources that a group has


def by_head(x: Array) -> Array:
    return x.transpose(2, 0, 1, 3)  # [prompt, pos, heads, d_head] -> [heads, prompt, pos, d_head]


def matrices(block: BlockWeights) -> tuple[Array, Array, Array]:
    return block.heads.W_Q, block.heads.W_K, block.heads.W_V  # [heads, d_model, d_head] each


def writes(cache: ActivationCache) -> Array:
    """[source, prompt, pos, d_model]: the embedding, then of each layer the heads and the MLP."""
    parts = [cache["hook_embed"][None]]
    for layer in layers:
        parts += [by_head(cache["z", layer]) @ weights.blocks[layer].heads.W_O[:, None], cache["mlp_out", layer][None]]
    return np.concatenate(parts)


def reads(cache: ActivationCache, grads: ActivationCache) -> list[Array]:
    """The gradient at what is read, [reader, prompt, pos, d_model], for the attention and MLP of each layer; logits."""
    parts: list[Array] = []
    for layer, block in enumerate(weights.blocks):
        d = np.concatenate([by_head(grads[x, layer]) @ W.mT[:, None] for x, W in zip("qkv", matrices(block))])
        parts.append(rms_norm_back(d, cache["resid_pre", layer], block.ln1, eps))
        parts.append((grads["resid_mid", layer] - grads["resid_post", layer])[None])
    return [*parts, grads["resid_post", n_layers - 1][None]]


def edge_guesses(runs: Sequence[tuple[ActivationCache, ActivationCache]]) -> list[Array]:
    """[reader, source] for each group of readers, in shares of the gap."""
    total = [sum(parts) / len(runs) for parts in zip(*(reads(*run) for run in runs))]
    return [d.reshape(len(d), -1) @ change[:n].T / gap for d, n in zip(total, before)]


change = (writes(ioi) - writes(other)).reshape(len(sources), -1)
start, end = other["hook_embed"], ioi["hook_embed"]
steps = [start + (i + 0.5) / 4 * (end - start) for i in range(4)]
edges = edge_guesses([model.run_with_gradients(x, d_io, start_at_layer=0)[1:] for x in steps])
n_edges = sum(group.size for group in edges)

# %% [markdown]
# Is the circuit faithful? Run the clean prompts with the top edges only. Along all others each reader gets what the
# corrupted run wrote. So every reader has an input of its own, made of what the sources before it write in this run.


# %%
def run_edges(kept: Sequence[Array]) -> float:
    """How far the difference comes, 0 corrupted to 1 clean, with only the edges kept: [reader, source] each."""
    news = np.zeros((len(sources), *start.shape), start.dtype)  # what each source writes, against the corrupted run
    news[0] = end - start

    def arrives(group: int) -> Array:
        return np.tensordot(kept[group].astype(news.dtype), news[: before[group]], axes=1)  # [reader, prompt, pos, ...]

    for layer, block in enumerate(weights.blocks):
        old, at = other["resid_pre", layer], 1 + layer * step
        new = rms_norm(old + arrives(2 * layer), block.ln1, eps) - rms_norm(old, block.ln1, eps)
        attention = f"blocks.{layer}.attn.hook_"
        hooks: list[Any] = []
        for x, part, W in zip("qkv", np.split(new, [n_heads, n_heads + n_kv]), matrices(block)):
            value = other[x, layer] + (part @ W[:, None]).transpose(1, 2, 0, 3)  # [prompt, pos, heads, d_head]
            hooks.append((attention + x, lambda _, hook, value=value: value))

        def heads_write(z: Array, hook: HookPoint, layer: int = layer, at: int = at) -> None:
            news[at : at + n_heads] = by_head(z - other["z", layer]) @ weights.blocks[layer].heads.W_O[:, None]

        def mlp_reads(resid_mid: Array, hook: HookPoint, layer: int = layer) -> Array:
            return np.asarray(other["resid_mid", layer] + arrives(2 * layer + 1)[0])

        hooks += [(f"{attention}z", heads_write), (f"blocks.{layer}.hook_resid_mid", mlp_reads)]
        span: dict[str, Any] = {"start_at_layer": layer, "stop_at_layer": layer + 1}
        _, cache = model.run_with_cache(old, f"blocks.{layer}.hook_mlp_out", fwd_hooks=hooks, **span)
        news[at + n_heads] = cache["mlp_out", layer] - other["mlp_out", layer]
    last = other["resid_post", n_layers - 1] + arrives(-1)[0]
    return (io_minus_s(model(last, start_at_layer=n_layers, positions=[-1])) - io_minus_s(other_logits)) / gap


def top_edges(groups: Sequence[Array], count: int) -> list[Array]:
    cut = np.sort(abs(np.concatenate([group.ravel() for group in groups])))[-count]
    return [abs(group) >= cut for group in groups]


dealt = rng.permutation(np.concatenate([group.ravel() for group in edges]))
parts = np.split(dealt, np.cumsum([group.size for group in edges])[:-1])
methods = {"four gradients": edges, "one gradient": edge_guesses([(ioi, grads)])}
methods["random"] = [part.reshape(group.shape) for part, group in zip(parts, edges)]
both = [run_edges([np.full(group.shape, kept) for group in edges]) for kept in (False, True)]
lesson.equal("without edges it is the corrupted run, with all the clean one", both, [0, 1], 1e-3)
sizes = [min(size, n_edges) for size in (100, 500, 2000, 10000)]
curves = {what: [run_edges(top_edges(groups, size)) for size in sizes] for what, groups in methods.items()}
lesson.lines(np.log10(sizes).tolist(), curves, f"IO - S by the top edges of {n_edges:,}", "log10 edges", "share", ".2f")
shares = {what: ", ".join(f"{round(share, 2) + 0.0:.2f}" for share in curve) for what, curve in curves.items()}
lesson.finding(
    "The edges with the largest guesses carry much of the task, and as many random ones nothing.",
    established=min(np.subtract(curves["four gradients"], curves["random"])) > 0.2,
    evidence=f"with {sizes} edges {shares['four gradients']} (the bar: 0.2 above random); by one gradient "
    f"{shares['one gradient']}",
    control=f"the same guesses dealt out to random edges: {shares['random']}",
)

# %% [markdown]
# The strongest edges, drawn. Heads that share a key or a value are one reader, drawn at the first of them.

# %%
readers = []
for layer in layers:
    keys = [f"{layer}.{head * n_heads // n_kv}" for head in range(n_kv)]
    readers += [*(f"{layer}.{head}" for head in range(n_heads)), *keys, *keys, f"MLP {layer}"]
readers.append("logits")
matrix = np.concatenate([np.pad(group, ((0, 0), (0, len(sources) - group.shape[1]))) for group in edges])
strongest = [divmod(int(i), len(sources)) for i in np.argsort(-abs(matrix), axis=None)[:16]]
arrows: dict[tuple[str, str], float] = {}
for to, at in strongest:
    arrows[sources[at], readers[to]] = arrows.get((sources[at], readers[to]), 0.0) + matrix[to, at]
depth = {source: (i - 1) // step for i, source in enumerate(sources)} | {"logits": n_layers}
nodes = [(end, depth[end], "IO - S" if end == "logits" else "") for end in dict.fromkeys(sum(arrows, ()))]
lesson.graph(nodes, [(*arrow, weight) for arrow, weight in arrows.items()], "the 16 edges with the largest guesses")
lesson.keep(real=real, one=one, four=four, bends=bends, loss=loss, by_gradient=by_gradient, curves=curves)
lesson.keep(prompts=lines, texts=[task.prompts, texts], arrows=[[*arrow, weight] for arrow, weight in arrows.items()])
lesson.keep(gap=gap, missed=missed, still_cost=still_cost)
lesson.finish()
