# %% [markdown]
"""Where do attention heads look, and which of them look there for a reason?

What you will learn: to sort what a head reads into kinds (the first position, the token before, an earlier copy, the
token after an earlier copy, itself), to find heads on one kind of text and confirm them on another, and three traps:
the sink, the average over heads, and taking attention for an explanation.

Hook points used: blocks.i.attn.hook_pattern, hook_rot_q, hook_rot_k, hook_v, hook_z, blocks.i.hook_resid_pre

Needs: lesson 0

Time: 20 minutes to read, 20 seconds to run

Paper: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Olsson et al. 2022, In-context Learning
and Induction Heads; Kobayashi et al. 2020, Attention is Not Only a Weight
"""

# %% Set-up
import math
from typing import Any

from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint, get_act_name
from tinymi.lesson import Lesson, Token, show_token
from tinymi.ops import softmax

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Head = tuple[int, int]

# Every text says something twice, so that each has earlier copies to look at. None is the default prompt.
NATURAL = (
    "The baker sold bread to Peter Johnson on Monday, and on Tuesday Peter Johnson came back for more.",
    "First wash the red lentils, then boil the red lentils for twenty minutes, and salt them at the end.",
    "If the sensor is wet, the alarm goes off; if the alarm goes off, the guard calls the fire station.",
    "My sister keeps a green parrot. She says that the green parrot can whistle better than my sister can.",
    "Professor Lindqvist gave a talk in Oslo. After the talk, a student asked Professor Lindqvist about the ice.",
    "for row in table: print(row) and then for row in other: print(row)",
    "The treaty was signed in 1921. Nobody who read the treaty that was signed in 1921 expected peace.",
    "Rain fell on the tin roof all night long, and all night long the old dog slept under the tin roof.",
    "Question: what is the price of silver? Answer: the price of silver rose again this week.",
    "They walked along the river, past the mill and the bridge, and then along the river home again.",
    "A small boat left the harbour at dawn. By noon the small boat was only a dot behind the harbour wall.",
    "He said that he would call. I said that he would not. In the end he did call, and I said nothing.",
    "Section 4 of the contract applies to tenants. Tenants who break section 4 of the contract lose the deposit.",
    "Two plus three makes five, and three plus two makes five, so the order of two and three does not matter.",
    "The orchestra played Mozart badly, but Mozart played badly is still better than silence, said the orchestra.",
    "Dear Ms Okafor, thank you for your letter of May. Your letter of May was a great help. Dear Ms Okafor, write "
    "soon.",
)
KINDS = ("sink", "itself", "previous", "duplicate", "induction")
DUPLICATE, INDUCTION = KINDS.index("duplicate"), KINDS.index("induction")
N_FOUND = 5  # heads per kind that the natural prompts may propose
N_RANDOM, N_SEQUENCES = 20, 12  # random tokens per sequence (they come twice), and sequences
N_ZEROED, N_DRAWS = 4, 6  # heads taken out together, and random sets of heads to compare with
LIFT = 5  # the bar: so many times the share of a head that spreads its attention evenly

lesson = Lesson(__doc__)
lesson.option(
    "--prompt",
    default="Our neighbour Alice Cooper sang on Friday. The whole town came, because Alice",
    help="the prompt whose patterns are shown; best with something in it that comes again",
)
options = lesson.start()
model = lesson.load_model()
config = model.config
n_layers, n_heads = config.n_layers, config.n_heads
rng = np.random.default_rng(0)

tokens = model.to_tokens(options.prompt)  # [batch 1, pos]
str_tokens = model.to_str_tokens(options.prompt)
n_pos = len(str_tokens)
if n_pos < 4:
    raise InputError(
        f"--prompt: {n_pos} token{'s' * (n_pos > 1)}, too few for a pattern; give at least 4, with a repetition"
    )
lesson.json["prompt"] = {"tokens": [int(token) for token in tokens[0]], "str_tokens": str_tokens}


def name(head: Head) -> str:
    """(17, 4) -> "17.4": head 4 of layer 17."""
    return f"{head[0]}.{head[1]}"


def all_names(short: str) -> list[str]:
    """A hook point's name in every layer."""
    return [get_act_name(short, layer) for layer in range(n_layers)]


# %% 1. One prompt, and the picture that misleads
lesson.section("1. One prompt, and the picture that misleads")
lesson.say(
    "A pattern is a table per head: row by row, how much a position (the query) reads from each position up to it (the "
    "keys). A first idea is to average the heads of a layer and ask where the last token looks. The table does that. "
    "Look at how often the answer is position 0, and then at the last two columns: the head of the same layer that "
    "looks hardest at something else. The average hides it. `17.4` would be head 4 of layer 17, both counted from 0."
)
_, cache = model.run_with_cache(
    tokens, [*all_names("pattern"), *all_names("v"), *all_names("z"), *all_names("rot_q"), *all_names("rot_k")],
    stop_at_layer=n_layers,
)  # fmt: skip
patterns = np.stack([cache["pattern", layer][0] for layer in range(n_layers)])  # [n_layers, n_heads, query, key]
last_rows = patterns[:, :, -1]  # [n_layers, n_heads, key]
mean_rows = last_rows.mean(axis=1)  # [n_layers, key]
rows: list[list[Any]] = []
for layer in range(n_layers):
    away = last_rows[layer].copy()
    away[:, 0] = 0
    at_head, key = (int(i) for i in np.unravel_index(away.argmax(), away.shape))
    top = int(mean_rows[layer].argmax())
    n_sinks = int((last_rows[layer].argmax(axis=-1) == 0).sum())
    rows.append([layer, top, Token(str_tokens[top]), float(mean_rows[layer, top]), n_sinks,
                 name((layer, at_head)),
                 Token(str_tokens[key]), float(away[at_head, key])])  # fmt: skip
lesson.table(
    ["layer", "pos", "the average reads", "share", "heads at 0", "one head", "reads", "its share"],
    rows,
    caption=f"what the last token, {show_token(str_tokens[-1])}, reads; heads at 0: how many of {n_heads} look first "
    "at position 0",
    formats={"share": ".2f", "its share": ".2f"},
)
lesson.json["last_token"] = [
    {"layer": row[0], "mean_top_position": row[1], "mean_top_token": str(row[2]), "mean_top_share": row[3],
     "heads_at_zero": row[4], "away_head": row[5], "away_token": str(row[6]), "away_share": row[7]}
    for row in rows
]  # fmt: skip
n_at_zero = sum(row[1] == 0 for row in rows)
n_hidden = sum(row[1] == 0 and row[7] > 0.5 for row in rows)
lesson.say(
    f"In {n_at_zero} of {n_layers} layers the average reads {show_token(str_tokens[0])} at position 0 most. In "
    f"{n_hidden} of those one head gives more than half of its attention to a single other token, which the average "
    "does not show. The table also has only one row of each pattern. And is it the word at position 0 that matters, or "
    "the place?"
)

# %% 2. Five kinds of keys
lesson.section("2. Five kinds of keys")
lesson.say(
    "So we look head by head, on all rows, and sort the keys into kinds. `sink`: position 0. `itself`: the query's own "
    "position. `previous`: the token before. `duplicate`: an earlier copy of the query's token. `induction`: the token "
    "after an earlier copy, which is what came next last time. Two rules keep the count honest. A key has one kind: "
    "position 0 never counts as `previous`, although for row 1 it is. And a share is attention per row in which the "
    "kind exists: a row without an earlier copy says nothing about duplicates."
)


def kind_masks(tokens: Tokens) -> Mask:
    """[kind, query, key]: which key is of which kind for which query; row 0, which reads only itself, is left out.

    Where two kinds would fit, the plainer one has the key: sink, itself, previous, duplicate, induction.
    """
    query, key = np.arange(len(tokens))[:, None], np.arange(len(tokens))
    copy = (tokens[:, None] == tokens) & (key < query)
    after_copy = np.zeros_like(copy)
    after_copy[:, 1:] = copy[:, :-1]  # key j comes after a copy when key j - 1 is one
    after_copy &= key <= query
    free = (key <= query) & (query > 0)
    masks = np.zeros((len(KINDS), *free.shape), dtype=bool)
    for kind, wanted in enumerate((key == 0, key == query, key == query - 1, copy, after_copy)):
        masks[kind] = wanted & free
        free = free & ~masks[kind]
    return masks


def kind_sums(pattern: Array, masks: Mask) -> Floats:
    """[kind, n_layers, n_heads]: the attention to the keys of a kind, summed over all rows."""
    flat = pattern.reshape(*pattern.shape[:-2], -1)  # [n_layers, n_heads, query * key]
    sums: Floats = np.moveaxis(flat @ masks.reshape(len(masks), -1).T.astype(flat.dtype), -1, 0).astype(np.float64)
    return sums


def count_rows(masks: Mask) -> Floats:
    """[kind]: the rows in which the kind exists."""
    rows: Floats = masks.any(axis=-1).sum(axis=-1).astype(np.float64)
    return rows


def even_pattern(n_pos: int) -> Array:
    """[query, key]: a head that spreads its attention evenly over the keys that it may read."""
    even: Array = (
        np.tril(np.ones((n_pos, n_pos), dtype=np.float32)) / np.arange(1, n_pos + 1, dtype=np.float32)[:, None]
    )
    return even


def value_norms(v: Array, W_O: Array) -> Array:
    """[2, n_heads, key]: lengths of the values v [key, n_kv_heads, d_head], and of what W_O makes of them."""
    values = np.repeat(v, len(W_O) // v.shape[1], axis=1).transpose(1, 0, 2)  # [n_heads, key, d_head]
    squares: Array = np.stack([(values * values).sum(axis=-1), ((values @ W_O) ** 2).sum(axis=-1)])
    return np.sqrt(squares)


def sink_shares(pattern: Array, norms: Array) -> Array:
    """[2, n_heads]: position 0's share in the attention, and in attention times length; row 0 left out."""
    moved = pattern[:, 1:] * norms[:, None, :]  # [n_heads, query, key]
    total = np.maximum(moved.sum(axis=-1), 1e-30)
    return np.stack([pattern[:, 1:, 0].mean(axis=-1), (moved[:, :, 0] / total).mean(axis=-1)])


ids = [model.to_tokens(text)[0] for text in NATURAL]
W_O = [block.heads.W_O for block in model.weights.blocks]  # per layer [n_heads, d_head, d_model]
prompt_sums, prompt_rows, prompt_even, prompt_sinks, prompt_lengths = [], [], [], [], []
for row_ids in lesson.progress(ids, "natural prompts"):
    _, kept = model.run_with_cache(row_ids[None], [*all_names("pattern"), *all_names("v")], stop_at_layer=n_layers)
    pattern = np.stack([kept["pattern", layer][0] for layer in range(n_layers)])  # [n_layers, n_heads, query, key]
    norms = np.stack([value_norms(kept["v", layer][0], W_O[layer]) for layer in range(n_layers)])
    masks = kind_masks(row_ids)
    prompt_sums.append(kind_sums(pattern, masks))
    prompt_rows.append(count_rows(masks))
    prompt_even.append(kind_sums(even_pattern(len(row_ids)), masks))
    prompt_sinks.append([sink_shares(pattern[layer], norms[layer, 1]) for layer in range(n_layers)])
    prompt_lengths.append(np.stack([norms[..., 0], norms[..., 1:].mean(axis=-1)], axis=-1).mean(axis=2))
natural, natural_rows = (
    np.stack(prompt_sums),
    np.stack(prompt_rows),
)  # [prompt, kind, n_layers, n_heads], [prompt, kind]
natural_share = natural.sum(axis=0) / natural_rows.sum(axis=0)[:, None, None]  # [kind, n_layers, n_heads]
natural_even = np.stack(prompt_even).sum(axis=0) / natural_rows.sum(axis=0)  # [kind]
lesson.say(
    f"The shares below come from {len(NATURAL)} natural sentences that all say something twice (the list `NATURAL` in "
    "this file), not from the prompt. A head that spreads its attention evenly over the keys that it may read would "
    "give " + ", ".join(f"{kind} {share:.0%}" for kind, share in zip(KINDS, natural_even, strict=True)) + ". Look for "
    "single strong colours: heads that do one thing. And look at the first grid: is it strong almost everywhere?"
)
for kind, kind_name in enumerate(KINDS):
    lesson.heatmap(
        100 * natural_share[kind].T, row_axis="head", column_axis="layer", center=None, format=".0f",
        caption=f"{kind_name}: percent of a head's attention, natural prompts",
    )  # fmt: skip

# %% 3. Position 0 is a sink
lesson.section("3. Position 0 is a sink")
lesson.say(
    "Is it the word there that draws attention, or the place? We replace the prompt's first token by others and, as a "
    "control, put the same word one place later, behind the prompt's own first token. Look at the two columns: does "
    "the attention go with the word, or stay with the place?"
)
vocabulary = np.setdiff1d(np.concatenate(ids), tokens)  # tokens of ordinary text that the prompt does not hold
words = rng.choice(vocabulary, min(6, len(vocabulary)), replace=False)
as_first = np.repeat(tokens, len(words), axis=0)
as_first[:, 0] = words
as_second = np.insert(np.repeat(tokens, len(words), axis=0), 1, words, axis=1)  # [batch, pos + 1]


def received(tokens: Tokens, key: int) -> Floats:
    """[batch, n_layers, n_heads]: the share that position `key` gets, over the rows from key + 2 on."""
    _, kept = model.run_with_cache(tokens, all_names("pattern"), stop_at_layer=n_layers)
    layers = [kept["pattern", layer][:, :, key + 2 :, key].mean(axis=-1) for layer in range(n_layers)]
    return np.stack(layers, axis=1).astype(np.float64)


own_share, first_share, second_share = received(tokens, 0)[0], received(as_first, 0), received(as_second, 1)
even_first = float(np.mean([1 / (i + 1) for i in range(2, n_pos)]))
even_second = float(np.mean([1 / (i + 1) for i in range(3, n_pos + 1)]))
at_first, at_second = first_share.mean(axis=(1, 2)), second_share.mean(axis=(1, 2))  # [word]
word_pieces = model.to_str_tokens(words)
lesson.table(
    ["word", "at position 0", "at position 1"],
    [
        [Token(str_tokens[0]), float(own_share.mean()), None],
        *([Token(word_pieces[i]), float(at_first[i]), float(at_second[i])] for i in range(len(words))),
        ["evenly spread", even_first, even_second],
    ],
    caption=f"the share that a word gets from the tokens behind it, mean over all {n_layers * n_heads} heads; the "
    "first row is the prompt as it is",
    formats={"at position 0": ".3f", "at position 1": ".3f"},
)
agreement = float(np.corrcoef(own_share.ravel(), first_share.mean(axis=0).ravel())[0, 1])
lesson.say(
    f"Over heads, the share with the prompt's own first word and the mean share with the others correlate with "
    f"{agreement:.2f}: near 1, it is a habit of the head, not something about the word."
)
lesson.say(
    "And what does a head get from there? A weight says how much of a value vector is taken, not how long that vector "
    "is. What moves from key to query is `pattern * (v @ W_O)`, so Kobayashi et al. weigh attention by that length. "
    "Look at the lengths at position 0 beside those elsewhere, and then at the last two columns: position 0's share in "
    "the attention, and in what is really moved."
)
sinks = np.array(prompt_sinks, dtype=np.float64)  # [prompt, n_layers, attention or moved, n_heads]
lengths = np.array(prompt_lengths, dtype=np.float64).mean(axis=0)  # [n_layers, v or v @ W_O, at 0 or elsewhere]
sink_by_layer = sinks.mean(axis=(0, 3))  # [n_layers, attention or moved]
sink_rows = [[layer, *lengths[layer].ravel().tolist(), *sink_by_layer[layer].tolist()] for layer in range(n_layers)]
sink_columns = ("|v| at 0", "|v| others", "|v W_O| at 0", "|v W_O| others", "share of attention", "share moved")
lesson.table(
    ["layer", *sink_columns],
    [sink_rows[layer] for layer in sorted({round(i * (n_layers - 1) / 9) for i in range(10)})],
    caption=f"position 0 against the others, mean over heads and the {len(NATURAL)} natural prompts; ten layers at "
    "most",
    formats=dict.fromkeys(sink_columns[:4], ".2f") | dict.fromkeys(sink_columns[4:], ".3f"),
)
lesson.json["sink"] = {
    "even_at_0": even_first, "even_at_1": even_second, "head_correlation": agreement,
    "own": {"token": str_tokens[0], "at_0": float(own_share.mean())},
    "words": [
        {"token": word_pieces[i], "token_id": int(words[i]), "at_0": float(at_first[i]), "at_1": float(at_second[i])}
        for i in range(len(words))
    ],
    "layers": [
        dict(zip(("layer", "v_norm_at_0", "v_norm_others", "written_norm_at_0", "written_norm_others",
                  "attention_share", "moved_share"), row, strict=True))
        for row in sink_rows
    ],
}  # fmt: skip

# %% 4. Found on sentences, confirmed on random tokens
lesson.section("4. Found on sentences, confirmed on random tokens")
n = N_RANDOM
if config.d_vocab < 3 * n + 1 or config.n_ctx < 2 * n + 1:
    raise InputError(f"--model: {config.d_vocab} tokens, {config.n_ctx} positions; the random tokens need 61 and 41")
lesson.say(
    f"The best of {n_layers * n_heads} heads looks good even by luck, and sentences are full of accidents: the token "
    f"after a copy is often also a name. So the sentences only propose {N_FOUND} heads per kind, and {N_SEQUENCES} "
    f"sequences of random tokens decide: a first token, {n} random tokens, and the same {n} again. There is nothing to "
    "understand in them, and only the second half is counted. The control has the same second half behind a first half "
    "of other tokens: same queries, same places, no repetition."
)
start = int(ids[0][0])  # as the sentences start: with the special token, where the tokenizer adds one
pool = np.setdiff1d(np.arange(config.d_vocab), [start])
drawn = np.stack([rng.choice(pool, 2 * n, replace=False) for _ in range(N_SEQUENCES)])  # [batch, 2 n], all different
again, other = drawn[:, :n], drawn[:, n:]
first_column = np.full((N_SEQUENCES, 1), start)
repeated = np.hstack([first_column, again, again])  # [batch, 2 n + 1]
unrepeated = np.hstack([first_column, other, again])
repeated_masks = kind_masks(repeated[0])  # the same for each, as no token comes a third time
repeated_masks[:, : n + 1] = False  # the second half only
sham_mask = np.zeros_like(repeated_masks[:1])  # a kind that nobody has proposed: the third token after the copy
sham_mask[0, np.arange(n + 1, 2 * n + 1), np.arange(n + 1, 2 * n + 1) - n + 3] = True
masks = np.concatenate([repeated_masks, sham_mask])
_, kept = model.run_with_cache(
    repeated, [*all_names("pattern"), *all_names("resid_pre")], stop_at_layer=n_layers
)  # resid_pre: to start again from a layer in section 6
resid_pre = [kept["resid_pre", layer] for layer in range(n_layers)]
_, kept_unrepeated = model.run_with_cache(unrepeated, all_names("pattern"), stop_at_layer=n_layers)


def stack_shares(kept: Any, rows: Floats) -> Floats:
    """[sequence, kind, n_layers, n_heads]: the share of each kind in each random sequence."""
    per_sequence = [
        kind_sums(np.stack([kept["pattern", layer][i] for layer in range(n_layers)]), masks) for i in range(N_SEQUENCES)
    ]
    return np.stack(per_sequence) / rows[:, None, None]


random_shares = stack_shares(kept, count_rows(masks))
control_shares = stack_shares(kept_unrepeated, count_rows(masks))
random_even = kind_sums(even_pattern(2 * n + 1), masks) / count_rows(masks)  # [kind]
random_share, control_share = random_shares.mean(axis=0), control_shares.mean(axis=0)  # [kind, n_layers, n_heads]


def others(shares: Floats) -> Floats:
    """For each head the mean of the other heads of its layer (the last axis); 0 where there are none."""
    return np.asarray((shares.sum(axis=-1, keepdims=True) - shares) / max(shares.shape[-1] - 1, 1))


def interval(samples: Floats, weights: Floats, level: float, rng: np.random.Generator) -> Floats:
    """[2, ...]: bootstrap interval of sum(samples) / sum(weights), drawing samples (the first axis) 4,000 times."""
    picks = rng.multinomial(len(samples), [1 / len(samples)] * len(samples), 4_000)  # [draw, sample]
    means = (picks @ samples.reshape(len(samples), -1)) / np.maximum(picks @ weights, 1e-30)[:, None]
    tails = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(tails.reshape(2, *samples.shape[1:]))


n_candidates = N_FOUND * len(KINDS)
level = 1 - 0.05 / n_candidates
ones = np.ones(N_SEQUENCES)
random_low = interval(random_shares, ones, level, rng)  # [2, kind, n_layers, n_heads]
above_layer = interval(random_shares - others(random_shares), ones, level, rng)[0]  # lower ends from here on
above_control = interval(random_shares - control_shares, ones, level, rng)[0]
passes = (random_low[0] > LIFT * random_even[:, None, None]) & (above_layer > 0)  # [kind, n_layers, n_heads]
for kind in (DUPLICATE, INDUCTION, len(KINDS)):
    passes[kind] &= above_control[kind] > 0
lesson.say(
    f"The bar was set beforehand: a proposed head is confirmed for its kind when its share on the random tokens lies "
    f"above {LIFT} times that of a head that spreads evenly, and above the mean of the other heads of its layer; for "
    "duplicate and induction also above its own share in the control. All this with the lower end of a bootstrap "
    f"interval over sequences, at {level:.1%} because {n_candidates} heads are tested (0.05 / {n_candidates} each). "
    "Look for heads that are strong on sentences and fall on random tokens, and at the control column: previous, "
    "itself and sink need no repetition, the other two must lose everything without it."
)
candidates: list[dict[str, Any]] = []
for kind, kind_name in enumerate(KINDS):
    natural_interval = interval(natural[:, kind], natural_rows[:, kind], 0.95, rng)
    order = np.argsort(-natural_share[kind].ravel(), kind="stable")[: min(N_FOUND, n_layers * n_heads)]
    for layer, head in zip(*(index.tolist() for index in np.unravel_index(order, (n_layers, n_heads))), strict=True):
        at = (kind, layer, head)
        candidates.append({
            "kind": kind_name, "layer": layer, "head": head, "name": name((layer, head)),
            "natural": float(natural_share[at]), "natural_interval": natural_interval[:, layer, head].tolist(),
            "natural_even": float(natural_even[kind]),
            "natural_layer_others": float(others(natural_share[kind])[layer, head]),
            "random": float(random_share[at]), "random_interval": random_low[(slice(None), *at)].tolist(),
            "random_even": float(random_even[kind]),
            "random_layer_others": float(others(random_share[kind])[layer, head]),
            "control": float(control_share[at]), "confirmed": bool(passes[at]),
        })  # fmt: skip
lesson.table(
    ["kind", "head", "sentences", "random", "low", "high", "others", "control", "confirmed"],
    [
        [c["kind"], c["name"], c["natural"], c["random"], *c["random_interval"], c["random_layer_others"],
         c["control"], "yes" if c["confirmed"] else "no"]
        for c in candidates
    ],
    caption="the heads that stand out on sentences, and their share on random tokens that come twice (low, high: its "
    "interval; others: the other heads of the layer; control: the same places without a repetition); spread evenly it "
    f"would be {float(random_even[0]):.2f}",
    formats=dict.fromkeys(("sentences", "random", "low", "high", "others", "control"), ".2f"),
)  # fmt: skip
confirmed = {
    kind: [(c["layer"], c["head"]) for c in candidates if c["kind"] == kind and c["confirmed"]] for kind in KINDS
}
n_passing = {kind: int(passes[i].sum()) for i, kind in enumerate((*KINDS, "sham"))}
moved_most = max(
    (c for c in candidates if c["kind"] in ("previous", "itself")), key=lambda c: abs(c["random"] - c["control"])
)
lesson.say(
    f"The finding step proposed only {N_FOUND} heads per kind. Of all {n_layers * n_heads} heads the same bar is "
    "passed by "
    + ", ".join(f"{n_passing[kind]} for {kind}" for kind in KINDS)
    + f"; for a sham kind, the third token after the earlier copy, by {n_passing['sham']}: that many the bar lets "
    f"through by accident. One to stop at: {moved_most['name']} ({moved_most['kind']}) has {moved_most['random']:.2f} "
    f"where tokens come again and {moved_most['control']:.2f} in the same places where they do not"
    + (
        ". A label is a summary of some texts, not what the head is."
        if abs(moved_most["random"] - moved_most["control"]) > 0.1
        else ": of the previous and itself heads none depends on the repetition more."
    )
)
lesson.json["even"] = {
    "natural": dict(zip(KINDS, natural_even.tolist(), strict=True)),
    "random": dict(zip((*KINDS, "sham"), random_even.tolist(), strict=True)),
}
lesson.json["natural_prompts"] = [
    {"text": text, "tokens": row.tolist(), "rows": dict(zip(KINDS, rows.tolist(), strict=True))}
    for text, row, rows in zip(NATURAL, ids, natural_rows, strict=True)
]
lesson.json["random_tokens"] = {"repeated": repeated.tolist(), "unrepeated": unrepeated.tolist(), "first_scored": n + 1}
lesson.json["candidates"] = candidates
lesson.json["passing"] = n_passing

# %% 5. The patterns of the prompt, head by head
lesson.section("5. The patterns of the prompt, head by head")
masks_here = kind_masks(tokens[0])
here_rows = count_rows(masks_here)
here_share = kind_sums(patterns, masks_here) / np.maximum(here_rows, 1)[:, None, None]  # [kind, n_layers, n_heads]
shown = [confirmed[kind][0] for kind in ("previous", "duplicate", "induction") if confirmed[kind]]
room = max(1, 200_000 // (n_heads * n_pos * n_pos))  # layers: more would make the page slow
keep = sorted(sorted(range(n_layers), key=lambda layer: (layer not in {head[0] for head in shown}, layer))[:room])
shown = [head for head in shown if head[0] in keep]
lesson.say(
    "Now the patterns themselves. On the page every head can be chosen, and each cell says its number. "
    + (
        f"Here stand {', '.join(map(name, shown))}: the first confirmed head for previous, duplicate and induction. "
        if shown
        else "No head was confirmed for previous, duplicate or induction, so here stands one that looks away from "
        "position 0 most. "
    )
    + "Read row by row. A previous head draws a line below the diagonal; a duplicate head marks earlier copies; an "
    "induction head the token after them. Where a row has nothing of its kind, look at column 0."
    + ("" if here_rows[DUPLICATE] else " This prompt holds no token twice, so for two kinds there is nothing to see.")
    + ("" if len(keep) == n_layers else f" The prompt is long: the page holds {len(keep)} of {n_layers} layers.")
)
lesson.attention(
    str_tokens, {layer: patterns[layer] for layer in keep}, caption="the prompt's patterns", heads=shown or None
)
lesson.json["prompt"] = {
    "tokens": tokens[0].tolist(), "str_tokens": str_tokens,
    "rows": dict(zip(KINDS, here_rows.tolist(), strict=True)),
}  # fmt: skip
lesson.json["heads"] = [
    {
        "layer": layer, "head": head, "name": name((layer, head)),
        "prompt": {k: float(here_share[i, layer, head]) if here_rows[i] else None for i, k in enumerate(KINDS)},
        "natural": {k: float(natural_share[i, layer, head]) for i, k in enumerate(KINDS)},
        "random": {k: float(random_share[i, layer, head]) for i, k in enumerate((*KINDS, "sham"))},
        "control": {k: float(control_share[i, layer, head]) for i, k in enumerate((*KINDS, "sham"))},
        "moved_from_sink": float(sinks[:, layer, 1, head].mean()),
        "labels": [kind for kind in KINDS if (layer, head) in confirmed[kind]],
    }
    for layer in range(n_layers) for head in range(n_heads)
]  # fmt: skip

# %% 6. Does the head matter?
lesson.section("6. Does the head matter?")
lesson.say(
    "A weight says what a head reads, not whether anybody uses it. So we take heads out: `hook_z`, what a head has "
    "gathered, becomes zero. If induction heads are how the model copies, then on the random tokens the loss (minus "
    "the logarithm of the right token's probability) must rise in the second half, where the next token has been seen, "
    "and not in the first, where the same tokens cannot be known. The control takes out as many random other heads of "
    "the same layers. Look at the second half: all together, each alone, and the random sets."
)


def zero_heads(heads: list[int]) -> Callback:
    """A callback that takes heads out."""

    def callback(z: Array, hook: HookPoint) -> Array:
        edited = z.copy()  # [batch, pos, n_heads, d_head]
        edited[:, :, heads] = 0
        return edited

    return callback


def halves_loss(logits: Array, tokens: Tokens) -> Floats:
    """[2, sequence]: mean loss on the 2nd to last random token, the first time and the second time."""
    shifted = logits - logits.max(axis=-1, keepdims=True)  # rows 1 to 2 n - 1: [batch, 2 n - 1, d_vocab]
    normaliser = np.log(np.exp(shifted).sum(axis=-1))
    loss = normaliser - np.take_along_axis(shifted, tokens[:, 2:, None], axis=-1)[..., 0]
    half = tokens.shape[1] // 2
    return np.stack([loss[:, : half - 1].mean(axis=1), loss[:, half:].mean(axis=1)]).astype(np.float64)


def loss_without(heads: list[Head], start_layer: int) -> Floats:
    """[2, sequence]: the loss of both halves with some heads at zero; nothing below start_layer is run again."""
    by_layer = {layer: [head for at, head in heads if at == layer] for layer, _ in heads}
    edits = [(get_act_name("z", layer), zero_heads(some)) for layer, some in by_layer.items()]
    logits = model.run_with_hooks(resid_pre[start_layer], edits, start_at_layer=start_layer, positions=slice(1, 2 * n))
    return halves_loss(logits, repeated)


def some_heads(wanted: list[Head]) -> list[Head]:
    """At most N_ZEROED of them, and at most half of a layer, so that the control finds others there."""
    kept: list[Head] = []
    for head in wanted:
        if len(kept) < N_ZEROED and sum(layer == head[0] for layer, _ in kept) < n_heads // 2:
            kept.append(head)
    return kept


def random_heads(like: list[Head], rng: np.random.Generator) -> list[Head]:
    """As many other heads of the same layers."""
    drawn: list[Head] = []
    for layer in sorted({layer for layer, _ in like}):
        taken = [head for at, head in like if at == layer]
        rest = [head for head in range(n_heads) if head not in taken]
        drawn += [(layer, int(head)) for head in rng.choice(rest, len(taken), replace=False)]
    return drawn


proposed = [(c["layer"], c["head"]) for c in candidates if c["kind"] == "induction"]
zeroed = some_heads(confirmed["induction"] or proposed)
start_layer = min((layer for layer, _ in zeroed), default=n_layers)
clean = loss_without([], start_layer)  # [2, sequence]
together = loss_without(zeroed, start_layer) - clean  # [2, sequence]: the rise in the first and the second half
alone = [loss_without([head], start_layer) - clean for head in zeroed]
draws = [random_heads(zeroed, rng) for _ in range(N_DRAWS)]
drawn_rises = np.array([(loss_without(heads, start_layer) - clean).mean(axis=1) for heads in draws])  # [draw, 2]
rise_low, rise_high = interval(together[1], ones, 0.95, rng).tolist()
induction_scores = [float(random_share[INDUCTION][head]) for head in zeroed]
lesson.table(
    ["heads taken out", "induction share", "rise, first half", "rise, second half"],
    [
        ["all of these: " + " ".join(map(name, zeroed)), None, *together.mean(axis=1).tolist()],
        *([name(head), score, *rise.mean(axis=1).tolist()]
          for head, score, rise in zip(zeroed, induction_scores, alone, strict=True)),
        *(["random: " + " ".join(map(name, heads)), None, *rises.tolist()]
          for heads, rises in zip(draws, drawn_rises, strict=True)),
    ],
    caption=f"loss without any change: first half {clean[0].mean():.2f}, second half {clean[1].mean():.2f}; blind "
    f"guessing would give {math.log(config.d_vocab):.2f}",
    formats={"induction share": ".2f", "rise, first half": "+.3f", "rise, second half": "+.3f"},
)  # fmt: skip
lesson.json["ablation"] = {
    "heads": [name(head) for head in zeroed],
    "loss": {"first": clean[0].tolist(), "second": clean[1].tolist()},
    "together": {"first": together[0].tolist(), "second": together[1].tolist(), "interval": [rise_low, rise_high]},
    "alone": [
        {"name": name(head), "induction": score, "first": float(rise[0].mean()), "second": float(rise[1].mean())}
        for head, score, rise in zip(zeroed, induction_scores, alone, strict=True)
    ],
    "random": [
        {"heads": [name(head) for head in heads], "first": float(rises[0]), "second": float(rises[1])}
        for heads, rises in zip(draws, drawn_rises, strict=True)
    ],
}  # fmt: skip
most = max(drawn_rises[:, 1], default=0.0)
lesson.say(
    f"Taken out together, the {len(zeroed)} heads raise the loss of the second half by {together[1].mean():+.2f} "
    f"(95 % bootstrap interval over sequences {rise_low:+.2f} to {rise_high:+.2f}) and of the first by "
    f"{together[0].mean():+.2f}; random heads of the same layers raise the second half by {most:+.2f} at most. "
    + (
        f"Alone the same heads raise it by {sum(rise[1].mean() for rise in alone):+.2f} in sum: "
        + (
            "together they cost more than one by one, so each stands in for the others."
            if together[1].mean() > 1.2 * sum(rise[1].mean() for rise in alone)
            else "together they cost about what they cost one by one, or less."
        )
        if zeroed
        else ""
    )
)

# %% 7. Checks and what was found
lesson.section("7. Checks and what was found")


def made_up_head(wanted: str, tokens: Tokens) -> Array:
    """[query, key]: a head that reads only one kind of key where there is one, else position 0; token by token."""
    pattern = np.zeros((len(tokens), len(tokens)), dtype=np.float32)
    for query in range(len(tokens)):
        copies = [key for key in range(1, query - 1) if tokens[key] == tokens[query]]
        reads = {
            "sink": 0,
            "itself": query,
            "previous": query - 1 if query > 1 else 0,
            "duplicate": copies[0] if copies else 0,
            "induction": copies[0] + 1 if copies and copies[0] + 1 < query - 1 else 0,
        }
        pattern[query, reads[wanted]] = 1
    return pattern


def label_error() -> float:
    """Made-up heads that read one kind only: how far their share of that kind is from 1 on the repeated tokens."""
    errors = []
    for kind, wanted in enumerate(KINDS):
        shares = kind_sums(made_up_head(wanted, repeated[0]), repeated_masks) / count_rows(repeated_masks)
        errors.append(max(abs(float(share) - (other == kind)) for other, share in enumerate(shares)))
    return max(errors)


def remade(layer: int) -> tuple[Array, Array]:
    """The prompt's patterns from its rotated queries and keys, and what the heads gather with them."""
    q, k, v = (cache[name, layer][0] for name in ("rot_q", "rot_k", "v"))  # [pos, heads, d_head]
    k, v = (np.repeat(x, n_heads // config.n_kv_heads, axis=1) for x in (k, v))
    scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) / math.sqrt(config.d_head)  # [n_heads, query, key]
    future = np.triu(np.ones((n_pos, n_pos), dtype=bool), 1)
    pattern = softmax(np.where(future, np.float32(-np.inf), scores))
    return pattern, (pattern @ v.transpose(1, 0, 2)).transpose(1, 0, 2)  # [pos, n_heads, d_head]


lesson.check("a made-up head that reads one kind of key gets that label, and no other", label_error(), 1e-6)
lesson.check("every row of every pattern sums to 1", float(np.abs(patterns.sum(axis=-1) - 1).max()), 1e-5)
lesson.check(
    "softmax(q k / sqrt(d_head)) is the pattern, in every layer",
    max(float(np.abs(remade(layer)[0] - patterns[layer]).max()) for layer in range(n_layers)),
    1e-4,
)
lesson.check(
    "the pattern times v is z, in every layer (relative)",
    max(
        float(np.abs(remade(layer)[1] - cache["z", layer][0]).max() / np.abs(cache["z", layer]).max())
        for layer in range(n_layers)
    ),
    1e-4,
)
whole = halves_loss(model(repeated, positions=slice(1, 2 * n)), repeated)
lesson.check("starting again from a layer gives the loss of a whole run", float(np.abs(whole - clean).max()), 1e-3)
lesson.finding(
    "Position 0 is a sink: it is read for its place, not for its word.",
    established=bool(at_first.min() > 2 * even_first and at_second.max() < even_second),
    evidence=f"{len(words)} words at position 0 get {at_first.min():.2f} to {at_first.max():.2f} of the attention of "
    f"the tokens behind them; spread evenly it would be {even_first:.2f}",
    control=f"the same words at position 1 get {at_second.min():.2f} to {at_second.max():.2f}, spread evenly "
    f"{even_second:.2f}; the bar is twice as much as evenly at 0, and less than evenly at 1, for each word",
)
for kind_name in ("previous", "duplicate", "induction"):
    kind = KINDS.index(kind_name)
    heads = confirmed[kind_name]
    leader = max(heads, key=lambda head: float(random_share[kind][head]), default=None)
    lesson.finding(
        f"There are {kind_name}{'' if kind_name == 'induction' else '-token'} heads: "
        f"{', '.join(map(name, heads)) or 'none confirmed'}.",
        established=leader is not None and n_passing["sham"] <= 0.05 * n_layers * n_heads,
        evidence=f"{len(heads)} of the {N_FOUND} that sentences proposed are confirmed on random tokens"
        + (
            f"; {name(leader)} has {random_share[kind][leader]:.2f} there, interval {random_low[0, kind][leader]:.2f} "
            f"to {random_low[1, kind][leader]:.2f}"
            if leader is not None
            else ""
        ),
        control=f"evenly {random_even[kind]:.2f}; "
        + (
            f"the other heads of its layer {others(random_share[kind])[leader]:.2f}; in the same places without a "
            f"repetition {control_share[kind][leader]:.2f}; "
            if leader is not None
            else ""
        )
        + f"{n_passing['sham']} of {n_layers * n_heads} heads pass the bar for a sham kind",
    )
lesson.finding(
    "The induction heads are how the model copies what it has seen before.",
    established=bool(confirmed["induction"])
    and rise_low > max(0.0, 2 * most)
    and abs(together[0].mean()) < rise_low / 2,
    evidence=f"without {', '.join(map(name, zeroed))} the loss of the repeated half rises from {clean[1].mean():.2f} "
    f"by {together[1].mean():+.2f}, interval {rise_low:+.2f} to {rise_high:+.2f}",
    control=f"the first half, where nothing can be copied, {together[0].mean():+.2f}; random heads of the same layers "
    f"{most:+.2f} at most in {N_DRAWS} draws; the bar is twice that, and less than half of it in the first half",
)
lesson.say(
    "What this does not say. A head has a label for the texts it was seen on; most heads here have none, and a head "
    "with one may do other things elsewhere. The sink's share in what is moved is smaller than in the attention, and "
    "still not nothing. And that a head reads a token does not say which of the token's properties it takes along: "
    "lesson 8 patches them, lesson 9 cuts single edges."
)
entropy = -(patterns * np.log(np.maximum(patterns, 1e-30))).sum(axis=-1)[:, :, 1:].mean(axis=-1)  # [n_layers, n_heads]
sharpest = tuple(int(i) for i in np.unravel_index(entropy.argmin(), entropy.shape))
lesson.exercise(
    "Which head has the sharpest rows on the prompt: the lowest entropy, on average over all rows but the first?",
    answer=f"{name((sharpest[0], sharpest[1]))}, {entropy.min() / math.log(2):.3f} bits",
    hint="-(p * log2(p)) summed over keys; patterns is [n_layers, n_heads, query, key]",
    minutes=5,
    difficulty="easy",
)
lesson.exercise(
    "On the sentences, what share of its attention does the average head give to the five kinds together?",
    answer=f"{float((natural.sum(axis=1) / (sum(len(row) for row in ids) - len(ids))).sum(axis=0).mean()):.3f}",
    hint="natural holds sums over rows; every row but the first of each sentence counts once",
    minutes=5,
    difficulty="medium",
)
strongest = tuple(int(i) for i in np.unravel_index(random_share[INDUCTION].argmax(), random_share[INDUCTION].shape))
lesson.exercise(
    "Take out only the head with the largest induction share. By how much does the loss of the second half rise?",
    answer=f"{name((strongest[0], strongest[1]))}: "
    f"{(loss_without([(strongest[0], strongest[1])], 0) - whole)[1].mean():+.3f}",
    hint="loss_without([(layer, head)], 0) starts at layer 0; compare with the loss of the whole run",
    minutes=10,
    difficulty="medium",
)
lesson.finish()
