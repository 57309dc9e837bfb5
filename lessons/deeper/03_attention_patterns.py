# %% [markdown]
"""Does it hold? Attention heads by kind, the sink, and the two halves of copying

What you will learn: to choose heads on one kind of text and test them on another, to count heads that share a key head
as one witness, to measure a circuit by its share of an effect, and to patch a path: through keys, queries or values.

Needs: attention patterns

Time: 15 minutes to read, 20 seconds to run

Paper: Olsson et al. 2022, Induction Heads, https://arxiv.org/abs/2209.11895; Kobayashi et al. 2020, Attention is Not
Only a Weight, https://arxiv.org/abs/2004.10102; Gu et al. 2024, When Attention Sink Emerges,
https://arxiv.org/abs/2410.10781; Barbero et al. 2025, https://arxiv.org/abs/2504.02732
"""

# %% Set-up
from collections.abc import Sequence
from typing import Any

from tinymi.arrays import Array, Tokens
from tinymi.hooks import Callback, HookPoint
from tinymi.ops import softmax
from tinymi.teaching import Lesson, prompts, stats

import numpy as np

Head = tuple[int, int]
PLAIN = ("first", "self", "prev")  # kinds of keys that need no repetition
N, N_SEQUENCES = 20, 12  # random tokens, which come twice; sequences, half to choose heads on and half to test them
lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
n_layers, n_heads, n_kv_heads = model.config.n_layers, model.config.n_heads, model.config.n_kv_heads
group = n_heads // n_kv_heads  # so many heads share one key head and one value head
sentences = [model.to_tokens(line[0]) for line in prompts("attention_patterns")]
all_heads = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
rng = np.random.default_rng(0)


def keys_by_kind(tokens: Tokens) -> dict[str, Array]:
    """For each kind of key, [query_pos, key_pos]: whether this key is of this kind for this query."""
    query, key = np.indices((len(tokens), len(tokens)))
    copy, far = tokens[query] == tokens[key], (key > 0) & (key < query - 1)
    kinds = {"first": (key == 0) & (query > 0), "self": (key == query) & (query > 0)}
    kinds |= {"prev": (key == query - 1) & (key > 0), "copy": copy & far, "next": np.roll(copy, 1, axis=1) & far}
    return kinds | {"sham": np.roll(copy, 3, axis=1) & far}


def share(patterns: Array, keys: Array) -> Array:
    """Attention to a kind of key, averaged over the rows that have one: [..., query, key] -> [...]."""
    return np.asarray((patterns * keys).sum(axis=(-2, -1)) / max(keys.any(axis=1).sum(), 1))


def patterns_of(tokens: Tokens) -> Array:
    """[batch, n_layers, n_heads, query_pos, key_pos]"""
    _, cache = model.run_with_cache(tokens, lambda point: point.endswith("hook_pattern"), stop_at_layer=n_layers)
    return np.stack([cache["pattern", layer] for layer in range(n_layers)], axis=1)


def strongest(values: Array, n: int) -> list[Head]:
    """The n heads (layer, head) with the largest values [n_layers, n_heads]."""
    return [all_heads[i] for i in np.argsort(-values, axis=None)[:n]]


def names(heads: Sequence[Head]) -> str:
    return " ".join(f"{layer}.{head}" for layer, head in heads)


def n_key_heads(heads: Sequence[Head]) -> int:
    return len({(layer, head // group) for layer, head in heads})  # heads that share one are one witness


# %% [markdown]
# ## 1. The sink: is it the word, or the place?
#
# We put other words at position 0, and as a control the same words at position 1, after the sentence's own first word.

# %%
own = sentences[0]
words = rng.choice(np.setdiff1d(np.concatenate(sentences, axis=1), own), 8, replace=False)
at_first = np.repeat(own, len(words), axis=0)
at_first[:, 0] = words
at_second = np.insert(np.repeat(own, len(words), axis=0), 1, words, axis=1)
first_share = patterns_of(at_first)[..., 2:, 0].mean(axis=(1, 2, 3))  # [word]
second_share = patterns_of(at_second)[..., 3:, 1].mean(axis=(1, 2, 3))
even = float(np.mean([1 / (query + 1) for query in range(2, own.shape[1])]))
lesson.finding(
    "Position 0 is read for its place and not for its word.",
    stats.paired_difference(first_share, second_share),
    above=2 * even,
    control=f"the share a word gets is {first_share.min():.2f} to {first_share.max():.2f} at position 0, on average "
    f"{second_share.mean():.2f} at position 1; spread evenly {even:.2f}",
)

# %% [markdown]
# A weight does not say how long the value vector is. What moves from key to query is `pattern * (v @ W_O)`, and this is
# what Kobayashi et al. measure. Why there is a sink is an open question, see Gu et al. and Barbero et al.

# %%
attended, moved, by_sentence = [], [], []
for tokens in sentences:
    _, cache = model.run_with_cache(tokens, lambda point: point.endswith(("hook_pattern", "hook_v")))
    patterns = np.stack([cache["pattern", layer][0] for layer in range(n_layers)])
    by_sentence.append({kind: share(patterns, keys) for kind, keys in keys_by_kind(tokens[0]).items()})
    for layer, block in enumerate(model.weights.blocks):
        v = np.repeat(cache["v", layer][0], group, axis=1).swapaxes(0, 1)  # [n_heads, key_pos, d_head]
        size = np.linalg.norm(v @ block.heads.W_O, axis=-1)[:, None]  # [n_heads, 1, key_pos]
        attended.append(patterns[layer, :, 1:, 0].mean())
        moved.append((patterns[layer] * size)[:, 1:, 0].sum() / (patterns[layer] * size)[:, 1:].sum())
lesson.say(
    f"On {len(sentences)} sentences position 0 gets {np.mean(attended):.0%} of the attention and makes up "
    f"{np.mean(moved):.0%} of what is moved."
)

# %% [markdown]
# ## 2. Kinds of heads: chosen on sentences, tested on random tokens
#
# The best of many heads looks good by luck, and sentences are full of accidents. So sentences only propose five heads
# per kind. Random tokens that come twice decide, and only the second half counts. The bar: five times the share of a
# head that spreads its attention evenly, for the lower end of the interval. *copy* and *next* must also beat their own
# share where the first half holds other tokens. *sham*, the third token after the copy, shows what passes by accident.

# %%
start = np.full((N_SEQUENCES, 1), sentences[0][0, 0])
pool = np.setdiff1d(np.arange(model.config.d_vocab), start)
halves = np.stack([rng.choice(pool, 2 * N, replace=False) for _ in range(N_SEQUENCES)])
repeated = np.hstack([start, halves[:, :N], halves[:, :N]])  # [sequence, 2 N + 1]
on_repeated, on_others = patterns_of(repeated), patterns_of(np.hstack([start, halves[:, N:], halves[:, :N]]))
masks = keys_by_kind(repeated[0])  # the same for each sequence, as all tokens of a half differ
for keys in masks.values():
    keys[: N + 1] = False  # the second half only
evenly = np.tril(np.ones((2 * N + 1, 2 * N + 1))) / np.arange(1, 2 * N + 2)[:, None]
bars = {kind: 5 * float(share(evenly, keys)) for kind, keys in masks.items()}
random_share = {kind: share(on_repeated, keys) for kind, keys in masks.items()}  # [sequence, n_layers, n_heads] each
control_share = {kind: share(on_others, keys) for kind, keys in masks.items()}


def passes(kind: str, head: Head) -> bool:
    values, control = (shares[kind][:, head[0], head[1]] for shares in (random_share, control_share))
    if values.mean() <= bars[kind] or stats.mean(values).low <= bars[kind]:
        return False
    return kind in PLAIN or stats.mean(values - control).low > 0


proposed = {kind: strongest(np.mean([shares[kind] for shares in by_sentence], axis=0), 5) for kind in masks}
passing = {kind: [head for head in all_heads if passes(kind, head)] for kind in masks}
confirmed = {kind: [head for head in proposed[kind] if head in passing[kind]] for kind in masks}
lesson.table(
    {
        "kind": list(masks),
        "proposed": [names(proposed[kind]) for kind in masks],
        "confirmed": [len(confirmed[kind]) for kind in masks],
        "of all heads": [len(heads) for heads in passing.values()],
        "key heads": [n_key_heads(heads) for heads in passing.values()],
    },
    caption="heads that sentences propose and random tokens confirm; how many of all heads pass, with how many key "
    "heads between them: heads that share one are no independent witnesses",
)
for kind in ("prev", "copy", "next"):
    layer, head = (confirmed[kind] or proposed[kind])[0]
    lesson.finding(
        f"There are {kind} heads: {names(confirmed[kind]) or 'none confirmed'}.",
        stats.mean(random_share[kind][:, layer, head]),
        above=bars[kind],
        control=f"without a repetition {control_share[kind][:, layer, head].mean():.2f}; {len(passing['sham'])} of "
        f"{len(all_heads)} heads pass for the sham kind; the estimate is of the first head",
    )

# %% [markdown]
# ## 3. How much of the copying is theirs?
#
# The model gains from repetition: its loss is lower the second time. Which share of this gain goes when heads are
# silent? Half of the sequences choose the heads, the other half measure. The control: as many heads of other key-value
# groups of the same layers. Look how the share grows.

# %%
choose, test = slice(0, N_SEQUENCES // 2), slice(N_SEQUENCES // 2, None)
logits, cache = model.run_with_cache(repeated, lambda point: point.endswith("hook_resid_pre"))


def loss_of(logits: Array, tokens: Tokens) -> Array:
    """[2, sequence]: mean loss in nats, the first and the second time; the first token of a half cannot be known."""
    p = np.take_along_axis(softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)[..., 0]
    return np.asarray(-np.log(p).reshape(len(p), 2, N)[:, :, 1:].mean(axis=2).T)


def silencing(heads: Sequence[Head]) -> list[tuple[str, Callback]]:
    def silence(z: Array, hook: HookPoint) -> Array:
        z = z.copy()  # [batch, pos, n_heads, d_head]
        z[:, :, [head for layer, head in heads if layer == hook.layer]] = 0
        return z

    return [(f"blocks.{layer}.attn.hook_z", silence) for layer in sorted({layer for layer, _ in heads})]


def lost(begin: int, hooks: Sequence[Any], part: slice) -> Array:
    """[sequence]: the share of the gain that goes when hooks act from layer `begin` on; nothing below runs again."""
    logits = model.run_with_hooks(cache["resid_pre", begin][part], hooks, start_at_layer=begin)
    first, second = whole[:, part]
    return np.asarray((loss_of(logits, repeated[part])[1] - second) / (first - second))


def lost_without(heads: Sequence[Head], part: slice = test) -> Array:
    return lost(min((layer for layer, _ in heads), default=n_layers - 1), silencing(heads), part)


def other_groups(heads: Sequence[Head]) -> list[Head]:
    """As many heads of the same layers, from key-value groups that hold none of these."""
    drawn: list[Head] = []
    for layer, kv in sorted({(layer, head // group) for layer, head in heads}):
        free = sorted(set(range(n_kv_heads)) - {head // group for at, head in heads if at == layer})
        size = sum((at, head // group) == (layer, kv) for at, head in heads)
        drawn += [(layer, int(other) * group + i) for other in rng.permutation(free)[:1] for i in range(size)]
    return drawn


whole = loss_of(logits, repeated)  # [2, sequence]
readers = strongest(random_share["next"][choose].mean(axis=0), 16)
sizes = [n for n in (1, 2, 4, 8, 16) if n <= len(readers)]
lost_by = {n: lost_without(readers[:n]) for n in sizes}
control_by = {n: float(lost_without(other_groups(readers[:n])).mean()) for n in sizes}
lesson.table(
    {
        "silent": sizes,
        "key heads": [n_key_heads(readers[:n]) for n in sizes],
        "gain lost": [f"{stats.mean(values):.0%}" for values in lost_by.values()],
        "control": [f"{value:.0%}" for value in control_by.values()],
    },
    caption=f"the strongest induction heads silent, {names(readers[:4])} first; the loss is {whole[0].mean():.2f} the "
    f"first time and {whole[1].mean():.2f} the second",
)
one_by_one = [lost_without([head]) for head in readers[:4]]
alone, most_alone = np.sum(one_by_one, axis=0), max(one_by_one, key=np.mean)
lesson.finding(
    "Four induction heads together are needed for more of the copying than the four one by one.",
    stats.paired_difference(lost_by[4], alone),
    control=f"one by one they cost {alone.mean():.0%} of the gain in sum, together {lost_by[4].mean():.0%}; heads of "
    f"other groups {control_by[4]:.0%}",
)

# %% [markdown]
# ## 4. The first half of the circuit
#
# Five prev heads are candidates; the choosing half takes the one whose silence costs most. Is it needed on the other
# half? And which way does its effect go: through the keys, queries or values of later layers? A run without the writer
# lends only its keys, say, to a run with it: path patching.

# %%
prev_share = random_share["prev"].mean(axis=0)
candidates = strongest(np.where(np.arange(n_layers)[:, None] < n_layers - 1, prev_share, 0), 5)  # a layer must follow
costs = {head: float(lost_without([head], choose).mean()) for head in candidates}
writer = max(candidates, key=lambda head: costs[head])
total, begin = lost_without([writer]), writer[0]
resid, lent = cache["resid_pre", begin][test], lambda point: point.endswith(("hook_q", "hook_k", "hook_v"))
_, without = model.run_with_cache(resid, lent, fwd_hooks=silencing([writer]), start_at_layer=begin)
paths = {}
for what in ("k", "q", "v"):
    points = [f"blocks.{layer}.attn.hook_{what}" for layer in range(begin + 1, n_layers)]
    paths[what] = lost(begin, [(points, lambda value, hook: without[hook.name])], test)
lesson.bars(
    [f"{names([head])} (attention {prev_share[head]:.2f})" for head in candidates],
    list(costs.values()),
    "share of the gain lost without each prev head, choosing half, and its attention to the token before",
    "+.2f",
)
lesson.bars(
    ["whole effect", "through keys", "through queries", "through values"],
    [total.mean(), *(path.mean() for path in paths.values())],
    f"share of the gain lost without {names([writer])}, testing half",
    "+.2f",
)
lesson.finding(
    f"One prev head, {names([writer])}, is needed for more of the copying than any one induction head.",
    stats.paired_difference(total, most_alone),
    control=f"{total.mean():.0%} of the gain, one of the four induction heads {most_alone.mean():.0%} at most",
)
lesson.finding(
    "Its effect goes through keys more than through queries or values.",
    stats.mean(paths["k"] - np.maximum(paths["q"], paths["v"])),
    control=f"keys {paths['k'].mean():.0%}, queries {paths['q'].mean():.0%}, values {paths['v'].mean():.0%}",
)

# %% [markdown]
# ## 5. Checks

# %%
made_up = np.zeros((5, 2 * N + 1, 2 * N + 1))  # heads that read one kind of key, found token by token
for query in range(2, 2 * N + 1):
    copies = [key for key in range(1, query - 1) if repeated[0, key] == repeated[0, query]]
    for number, key in enumerate([0, query, query - 1, *copies, *(key + 1 for key in copies)]):
        made_up[number, query, key] = 1
label = [[share(head, masks[kind]) for kind in (*PLAIN, "copy", "next")] for head in made_up]
lesson.equal("a made-up head of one kind has all of its attention there", label, np.eye(5))
lesson.equal("every row of a pattern sums to 1", on_repeated.sum(axis=-1), np.ones(on_repeated.shape[:-1]))
last = repeated[-1:]
plain = loss_of(model.run_with_hooks(last, silencing(readers[:4])), last)[1, 0]
fast = lost_by[4][-1] * (whole[0] - whole[1])[-1] + whole[1][-1]
lesson.equal("restarting from a layer, in a batch, gives the loss of a whole run alone", fast, plain, 1e-3)
lesson.keep(repeated=repeated, readers=readers, lost_by=lost_by, writer=writer, total=total, paths=paths)
lesson.finish()
