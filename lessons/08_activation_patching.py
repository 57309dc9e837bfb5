# %% [markdown]
"""Where does the model keep what the answer depends on?

What you will learn: to patch activations from one run into another, over layers, positions and heads, in both
directions, and three traps: what recovers by construction, what recovers because something was removed, and what
suffices but is not needed.

Hook points used: blocks.i.hook_resid_pre, blocks.i.hook_attn_out, blocks.i.hook_mlp_out, blocks.i.attn.hook_z,
blocks.i.hook_resid_post

Needs: lessons 0 and 3

Time: 25 minutes to read, 15 seconds to run

Paper: Vig et al. 2020, Causal Mediation Analysis; Meng et al. 2022, Locating and Editing Factual Associations in GPT
(which corrupts with noise; here a second prompt does it); Heimersheim and Nanda 2024, How to use and interpret
activation patching
"""

# %% Set-up
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tinymi import KeyValueCache, Model
from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint, get_act_name
from tinymi.lesson import Lesson, Token, show_token
from tinymi.ops import rms_norm
from tinymi.sweep import digest, remember

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompts", type=int, default=6, metavar="N", help="prompts, in pairs: a multiple of 2")
lesson.option("--clean", metavar="TEXT", help="a prompt of your own, instead of the capitals; with the next three")
lesson.option("--corrupted", metavar="TEXT", help="another prompt with as many tokens")
lesson.option("--answer", metavar="TEXT", help="what the clean prompt should be answered with: one token")
lesson.option("--wrong", metavar="TEXT", help="what the corrupted prompt should be answered with: one token")
lesson.sweep_options()
options = lesson.start()
own = [options.clean, options.corrupted, options.answer, options.wrong]
if any(text is not None for text in own) and any(text is None for text in own):
    raise InputError("--clean, --corrupted, --answer and --wrong belong together; give all four or none")
if options.prompts < 2 or options.prompts % 2:
    raise InputError(f"--prompts: {options.prompts}, but prompts come in pairs; give an even number, 2 or more")
model = lesson.load_model()
config, weights = model.config, model.weights
n_layers, n_heads = config.n_layers, config.n_heads

# %% 1. Two prompts that differ in one thing
lesson.section("1. Two prompts that differ in one thing")
CAPITALS = "Germany Berlin, Italy Rome, France Paris, Japan Tokyo, Russia Moscow, China Beijing, Greece Athens, "
CAPITALS += "England London, Spain Madrid, Austria Vienna, Cuba Havana, Ireland Dublin"
UNRELATED = ("The colour of grass is", "The taste of sugar is", "The name of Mary is", "The sound of rain is")


@dataclass(frozen=True)
class Pairs:
    """Pairs of prompts of one length: row i of clean and of corrupted belong together."""

    clean: Tokens  # [batch, pos]
    corrupted: Tokens  # [batch, pos]
    ids: Tokens  # [batch, 2]: the right answers to the clean and to the corrupted prompt

    @property
    def n_pos(self) -> int:
        return int(self.clean.shape[1])


Asked = tuple[Tokens, int]  # a prompt's tokens [pos] and the answer's id


def one_token(model: Model, prompt: str, answer: str) -> Asked | None:
    try:
        return model.to_tokens(prompt)[0], model.to_single_token(answer)
    except InputError:
        return None


def choose_pairs(model: Model, n: int) -> Pairs:
    """n pairs of capitals with the commonest prompt length, those the model answers best first.

    Each country is in one pair as long as that is possible; then come all other pairs.
    """
    words = [pair.split() for pair in CAPITALS.split(", ")]
    made = [one_token(model, f"The capital of {country} is", f" {capital}") for country, capital in words]
    usable = [asked for asked in made if asked is not None]
    if len(usable) < 2:  # a tokenizer that has no such words: any two letters will do to see the method
        usable = [(model.to_tokens(f"The capital of {x} is")[0], model.to_single_token(x)) for x in "ABCDEFGHIJKL"]
    length = Counter(len(tokens) for tokens, _ in usable).most_common(1)[0][0]
    usable = [asked for asked in usable if len(asked[0]) == length]
    logits = model(np.stack([tokens for tokens, _ in usable]), positions=-1)[:, 0]  # [prompt, d_vocab]
    ranks = [int((row > row[answer]).sum()) for row, (_, answer) in zip(logits, usable, strict=True)]
    best = [usable[i] for i in np.argsort(ranks, kind="stable")]
    made_first = [(best[i], best[i + 1]) for i in range(0, len(best) - 1, 2)]
    others = [(best[i], best[j]) for i, j in combinations(range(len(best)), 2) if (i % 2, j) != (0, i + 1)]
    possible = [*made_first, *others]
    if n > len(possible):
        raise InputError(f"--prompts: {2 * n}, but {len(best)} capitals make {2 * len(possible)}; give fewer")
    return make_pairs(possible[:n])


def make_pairs(chosen: Sequence[tuple[Asked, Asked]]) -> Pairs:
    clean, corrupted = (np.stack([pair[i][0] for pair in chosen]) for i in (0, 1))
    return Pairs(clean, corrupted, np.array([[a[1], b[1]] for a, b in chosen]))


def own_pair(model: Model, clean: str, corrupted: str, answer: str, wrong: str) -> Pairs:
    tokens = [model.to_tokens(text)[0] for text in (clean, corrupted)]
    if len(tokens[0]) != len(tokens[1]):
        pieces = " / ".join(" ".join(show_token(piece) for piece in model.to_str_tokens(row)) for row in tokens)
        raise InputError(
            f"--corrupted: {len(tokens[1])} tokens, --clean {len(tokens[0])} ({pieces}); positions can only be swapped "
            "between prompts of equal length"
        )
    return make_pairs([((tokens[0], model.to_single_token(answer)), (tokens[1], model.to_single_token(wrong)))])


pairs = own_pair(model, *own) if own[0] is not None else choose_pairs(model, options.prompts // 2)
if (pairs.ids[:, 0] == pairs.ids[:, 1]).any():
    raise InputError("--wrong: is the answer itself; give the answer to the corrupted prompt")
n_pairs, n_pos = len(pairs.clean), pairs.n_pos


def difference(resid: Array, ids: Tokens, model: Model) -> Array:
    """logit(clean's answer) - logit(corrupted's) of last streams [..., batch, d_model]: two columns of W_U."""
    w = model.weights
    normed = rms_norm(resid, w.ln_final, model.config.rms_eps)
    value: Array = (normed * (w.W_U[:, ids[:, 0]] - w.W_U[:, ids[:, 1]]).T).sum(axis=-1)
    return value


SITES = ("resid_pre", "attn_out", "mlp_out")
Values = Mapping[str, Array]  # name of a point -> its value in one run


def run(model: Model, tokens: Tokens) -> Values:
    """All that is patched, of one run: [batch, pos, ...] for each point."""
    layers = range(model.config.n_layers)
    points = [get_act_name(name, layer) for layer in layers for name in (*SITES, "z")]
    points.append(get_act_name("resid_post", model.config.n_layers - 1))
    _, cache = model.run_with_cache(tokens, points, positions=-1)
    return {point: cache[point] for point in points}


clean, corrupted = run(model, pairs.clean), run(model, pairs.corrupted)
LAST = get_act_name("resid_post", n_layers - 1)
clean_diff, corrupted_diff = (difference(values[LAST][:, -1], pairs.ids, model) for values in (clean, corrupted))
distance = clean_diff - corrupted_diff  # [batch]
differs = np.flatnonzero((pairs.clean != pairs.corrupted).any(axis=0))  # the positions where the two differ
if len(differs) == 0:
    raise InputError("--corrupted: is the clean prompt itself, so there is nothing to patch; change a word of it")
begin = int(differs[0])  # before it the two runs are the same, and nothing can come over
n_new = n_pos - begin
lesson.say(
    'A clean prompt, "The capital of France is", and a corrupted one, "The capital of Italy is", of the same length. '
    "The two runs differ in one word, so whatever makes the answers differ lies in the activations that differ. "
    "Patching takes one activation out of one run and puts it into the other. If the answer comes over with it, what "
    "the answer depends on was there.\n\n"
    "The number to watch is logit(clean's answer) - logit(corrupted's answer). Two directions: denoising patches clean "
    "activations into the corrupted run and asks what suffices to bring the answer back; noising patches corrupted "
    "ones into the clean run and asks what is needed to keep it. Both are given as a share: 0 nothing happened, 1 all "
    "the way to the other run."
)
columns = pairs.clean, pairs.corrupted, pairs.ids, clean_diff, corrupted_diff
lesson.table(
    ["clean", "corrupted", "answers", "in the clean run", "in the corrupted run"],
    [
        [
            model.to_string(a),
            model.to_string(b),
            " / ".join(map(show_token, model.to_str_tokens(ids))),
            float(x),
            float(y),
        ]
        for a, b, ids, x, y in zip(*(column[:12] for column in columns), strict=True)
    ],
    caption="the pairs"
    + f" (the first 12 of {n_pairs})" * (n_pairs > 12)
    + ", chosen for equal length and one-token answers, and their logit differences",
    formats=dict.fromkeys(["in the clean run", "in the corrupted run"], "+.2f"),
)
able = bool((clean_diff > 0).all() and (corrupted_diff < 0).all())
if not able:
    lesson.say(
        "Mind: the model does not tell all of these answers apart in the right direction, so the shares below have a "
        "small or turned scale and say little."
    )
str_tokens = model.to_str_tokens(pairs.clean[0])
labels = [Token(piece) if i not in differs else f"{i} differs" for i, piece in enumerate(str_tokens)][begin:]

# %% 2. The sweep
lesson.section("2. Every layer, every position")
lesson.say(
    "Three places are patched, at each layer and position: the stream that enters the layer (`resid_pre`, all that is "
    "known there), and what attention and MLP add (`attn_out`, `mlp_out`). And every head's output (`hook_z`, at all "
    "positions). A patch in layer L leaves the layers below alone, so each run starts at L, and all patches of a layer "
    "run as one batch. And what stands before the first word that differs is the same in both runs: it runs once, and "
    "its keys and values are kept."
)
lesson.code(
    """
rows of one layer's batch, for each pair
(new: how many positions there are from the first word that differs on):
  block 0 ... new-1            resid_pre at position p, from the other run
  block new ... 2 new-1        attn_out  at position p
  block 2 new ... 3 new-1      mlp_out   at position p
  block 3 new ... + n_heads-1  hook_z of head h, all positions
share = (difference after the patch - before)
        / (difference of the other run - before)
""",
    caption="one run per layer",
)


def put(source: Array, first: int) -> Callback:
    """Block first + p of each pair gets `source` [pair, pos, d] at position p; the other blocks stay."""

    def callback(value: Array, hook: HookPoint) -> Array:
        edited = value.reshape(len(source), -1, *value.shape[1:]).copy()  # [pair, block, pos, d]
        for position in range(source.shape[1]):
            edited[:, first + position, position] = source[:, position]
        return edited.reshape(value.shape)

    return callback


def put_heads(source: Array, first: int) -> Callback:
    """Block first + h of each pair gets head h's z from `source` [pair, pos, n_heads, d_head]."""

    def callback(value: Array, hook: HookPoint) -> Array:
        edited = value.reshape(len(source), -1, *value.shape[1:]).copy()  # [pair, block, pos, n_heads, d_head]
        for head in range(source.shape[2]):
            edited[:, first + head, :, head] = source[:, :, head]
        return edited.reshape(value.shape)

    return callback


def last_streams(
    model: Model, layer: int, resid: Array, begin: int, n_blocks: int, hooks: Sequence[tuple[str, Callback]]
) -> Array:
    """The last position's last stream of every block, [pair, block, d_model], in a run from `layer` on.

    resid: the stream that enters the layer, [pair, pos, d_model]. What stands before `begin` runs once for all blocks.
    """
    stop, past = model.config.n_layers, None
    if begin:
        past = KeyValueCache(len(resid), resid.shape[1], model.config, resid.dtype)
        model(resid[:, :begin], start_at_layer=layer, stop_at_layer=stop, past_kv_cache=past)
        past = past.repeat(n_blocks)
    blocks = np.repeat(resid[:, begin:], n_blocks, axis=0)  # [pair * block, new, d_model]
    out = model.run_with_hooks(blocks, hooks, start_at_layer=layer, stop_at_layer=stop, past_kv_cache=past)
    return out[:, -1].reshape(len(resid), n_blocks, -1)


def patch_layer(model: Model, layer: int, base: Values, source: Values, ids: Tokens, begin: int) -> Array:
    """The differences after each patch of one layer: [3 * new + n_heads, pair]."""
    other = {name: source[get_act_name(name, layer)][:, begin:] for name in (*SITES, "z")}
    n_new = other["resid_pre"].shape[1]
    hooks = [
        (get_act_name("resid_pre", layer), put(other["resid_pre"], 0)),
        (get_act_name("attn_out", layer), put(other["attn_out"], n_new)),
        (get_act_name("mlp_out", layer), put(other["mlp_out"], 2 * n_new)),
        (get_act_name("z", layer), put_heads(other["z"], 3 * n_new)),
    ]
    n_blocks = 3 * n_new + model.config.n_heads
    out = last_streams(model, layer, base[get_act_name("resid_pre", layer)], begin, n_blocks, hooks)
    return difference(out.transpose(1, 0, 2), ids, model)


def patch(model: Model, task: Mapping[str, Any]) -> list[list[float]]:
    """One task of the sweep: all patches of a layer, one group of pairs: differences [3 * new + n_heads][pair]."""

    def values(name: str) -> Values:
        return remember(f"run {digest([task['model'], task[name]])}", lambda: run(model, np.array(task[name])))

    ids, begin = np.array(task["ids"]), task["begin"]
    found = patch_layer(model, task["layer"], values("base"), values("source"), ids, begin)
    return [[float(x) for x in row] for row in found]


GROUP = 3  # pairs that are patched together


def sweep(base: Tokens, source: Tokens, before: Array, after: Array, what: str) -> Array:
    """The share of each patch, from runs on `source` into runs on `base`: [n_layers, 3 * new + n_heads, pair]."""
    tasks = [
        {
            "model": sweeper.source,
            "layer": layer,
            "begin": begin,
            "base": base[i : i + GROUP].tolist(),
            "source": source[i : i + GROUP].tolist(),
            "ids": pairs.ids[i : i + GROUP].tolist(),
        }
        for i in range(0, n_pairs, GROUP)
        for layer in range(n_layers)
    ]
    found = sweeper.run(patch, tasks, what)
    by_group = [np.array(found[i : i + n_layers], np.float32) for i in range(0, len(found), n_layers)]
    shares: Array = (np.concatenate(by_group, axis=-1) - before) / (after - before)
    return shares


sweeper = lesson.sweep(model, [model.to_string(row) for rows in (pairs.clean, pairs.corrupted) for row in rows])
shares = {
    "denoising": sweep(pairs.corrupted, pairs.clean, corrupted_diff, clean_diff, "denoising"),
    "noising": sweep(pairs.clean, pairs.corrupted, clean_diff, corrupted_diff, "noising"),
}
sweeper.close()
grids = {
    way: {
        **{site: values[:, i * n_new : (i + 1) * n_new] for i, site in enumerate(SITES)},
        "heads": values[:, 3 * n_new :],
    }
    for way, values in shares.items()
}  # way -> site -> [n_layers, pos or head, batch]
lesson.say(
    f"First the stream, denoising, mean over {n_pairs} pair{'s' * (n_pairs > 1)}, from the first word that differs "
    "on. Look how the answer moves from one column to another, and in which layers."
)
lesson.heatmap(
    grids["denoising"]["resid_pre"].mean(axis=-1),
    column_labels=labels,
    row_axis="layer",
    column_axis="position",
    caption="denoising: share of the difference that comes over with resid_pre",
    format="z.2f",
)
subject, end = int(differs[-1]) - begin, n_new - 1  # counted from `begin`
at_subject, at_end = (grids["denoising"]["resid_pre"][:, position] for position in (subject, end))  # [n_layers, batch]


def handover(at_subject: Array, at_end: Array) -> int | None:
    """The first layer from which on the last position carries more than the word that differs; each [n_layers]."""
    behind = np.flatnonzero(at_end <= at_subject)
    first = int(behind[-1]) + 1 if len(behind) else 0
    return first if first < len(at_end) else None


crossings = [handover(at_subject[:, i], at_end[:, i]) for i in range(n_pairs)]
crossing = handover(at_subject.mean(axis=1), at_end.mean(axis=1))
lesson.lines(
    range(n_layers),
    {
        f"{way}, {where}": grids[way]["resid_pre"][:, position].mean(axis=-1).tolist()
        for way in grids
        for where, position in (("where they differ", subject), ("last", end))
        if position != subject or where == "where they differ"
    },
    caption="the stream at the word that differs, and at the last position",
    x_label="layer",
    y_label="share",
    format="z.2f",
)
lesson.say(
    (
        f"The last position carries more than the word itself from layer {crossing} on (pair by pair: "
        f"{', '.join(str(layer) for layer in crossings)}). Somewhere before that, attention has carried it over."
        if crossing is not None and subject != end
        else "There is no layer from which the last position carries more than the word that differs."
    )
    + "\n\nThe last position of late layers recovers by construction, and this is no finding. The prediction is read "
    "off the last position after the last layer, and nothing else. Patch that and you have the other run, whatever is "
    "in it: the share is 1 (checked below). One layer earlier only one layer's work is missing, and so on. In the same "
    f"way position {subject + begin} in layer 0 is 1 where it is the only one that differs: the patch is the other "
    "prompt. What can be found out lies between these two corners: when, and through what, does it move?"
)

# %% 3. Who moves it
lesson.section("3. Who moves it: attention, MLPs, heads")
lesson.say(
    "A patch of `attn_out` or `mlp_out` carries over what one layer adds, not all that came before. Look for attention "
    "at the last position (it fetches) and MLPs at the word that differs (they enrich it)."
)
for site in ("attn_out", "mlp_out"):
    lesson.heatmap(
        grids["denoising"][site].mean(axis=-1),
        column_labels=labels,
        row_axis="layer",
        column_axis="position",
        caption=f"denoising: share that comes over with {site}",
        format="z.2f",
    )
lesson.heatmap(
    grids["denoising"]["heads"].mean(axis=-1),
    row_axis="layer",
    column_axis="head",
    caption="denoising: share that comes over with one head's output, all positions",
    format="z.2f",
)
lesson.say("Now the same heads the other way round, noising: what is lost when the head says what it says elsewhere?")
lesson.heatmap(
    grids["noising"]["heads"].mean(axis=-1),
    row_axis="layer",
    column_axis="head",
    caption="noising: share that is lost with one head's output, all positions",
    format="z.2f",
)
heads = {way: grids[way]["heads"] for way in grids}  # [n_layers, n_heads, batch]
order = np.argsort(-np.abs(heads["denoising"].mean(axis=-1)), axis=None, kind="stable")[:8]
top_heads = [divmod(int(i), n_heads) for i in order]
lesson.table(
    ["head", "denoising", "smallest", "largest", "noising", "smallest ", "largest "],
    [
        [f"{layer}.{head}",
         *(float(f(heads[way][layer, head])) for way in heads for f in (np.mean, np.min, np.max))]
        for layer, head in top_heads
    ],
    caption=f"the eight heads with the largest shares; smallest and largest over {n_pairs} pairs",
    formats=dict.fromkeys(["denoising", "smallest", "largest", "noising", "smallest ", "largest "], "+.2f"),
)  # fmt: skip


def agreement(site: str) -> float:
    """The correlation of both directions over all cells of a grid."""
    a, b = (grids[way][site].mean(axis=-1).ravel() for way in grids)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


agreements = {site: agreement(site) for site in (*SITES, "heads")}
total = {way: float(heads[way].mean(axis=-1).sum()) for way in heads}
lesson.say(
    "Do the two directions agree? Correlation over all cells: "
    + ", ".join(f"`{site}` {value:+.2f}" for site, value in agreements.items())
    + f". All heads' shares sum to {total['denoising']:+.2f} (denoising) and {total['noising']:+.2f} (noising): they "
    "need not sum to 1, because a patched head also changes what the heads above it do. A head that suffices a little "
    "and is not needed has others that do the same; one that is needed and does not suffice works only together with "
    "others."
)

# %% 4. Controls
lesson.section("4. Is it the answer that comes over?")
lesson.say(
    "The trap of all denoising: a share above 0 need not mean that the clean answer was brought in. It may mean that "
    "the corrupted one was thrown out. So we patch in the stream of prompts that have nothing to do with either. What "
    "comes over from those can only be removal."
)
unrelated = [row for row in (model.to_tokens(text)[0] for text in UNRELATED) if len(row) == n_pos][:2]
if not unrelated:  # other lengths: the clean prompt's own words in reverse order
    unrelated = [pairs.clean[0][::-1].copy()]


def patch_stream(layer: int, source: Array) -> Array:
    """The shares of resid_pre alone, from any source [pair, pos, d_model]: [new, pair]."""
    hooks = [(get_act_name("resid_pre", layer), put(source[:, begin:], 0))]
    out = last_streams(model, layer, corrupted[get_act_name("resid_pre", layer)], begin, n_new, hooks)
    share: Array = (difference(out.transpose(1, 0, 2), pairs.ids, model) - corrupted_diff) / distance
    return share


streams = [run(model, np.repeat(row[None], n_pairs, axis=0)) for row in unrelated]
removal = np.mean(
    [
        [patch_stream(layer, values[get_act_name("resid_pre", layer)]) for layer in range(n_layers)]
        for values in lesson.progress(streams, "unrelated prompts", len(streams))
    ],
    axis=0,
)  # [n_layers, new, pair]
shown_layers = sorted({round(i * (n_layers - 1) / 9) for i in range(10)})
lesson.table(
    ["layer", "clean, differs", "unrelated, differs", "clean, last", "unrelated, last"],
    [
        [layer, *(float(x.mean()) for x in (at_subject[layer], removal[layer, subject], at_end[layer],
                                           removal[layer, end]))]
        for layer in shown_layers
    ],
    caption="denoising with resid_pre, from the clean prompt and from unrelated prompts, at the word that differs and "
    "at the last position",
    formats=dict.fromkeys(["clean, differs", "unrelated, differs", "clean, last", "unrelated, last"], ".2f"),
)  # fmt: skip
beyond = at_subject.mean(axis=1) - removal[:, subject].mean(axis=1)  # [n_layers]
lesson.say(
    f"Unrelated prompts bring over {removal[: max(1, n_layers // 3), subject].mean():.2f} at the word that differs in "
    f"the first third of the layers, where the clean one brings {at_subject[: max(1, n_layers // 3)].mean():.2f}. That "
    "much of a share is removal; only what lies above it is the answer coming in. The same caution holds for every "
    "cell of every grid above."
)

# %% 5. Checks and what was found
lesson.section("5. Checks and what was found")


def everything(layer: int, base: Values, source: Values) -> Array:
    """The difference after patching resid_pre at all positions of a layer: [batch]."""
    out = model(source[get_act_name("resid_pre", layer)], start_at_layer=layer, stop_at_layer=n_layers)
    return difference(out[:, -1], pairs.ids, model)


def plain(layer: int, site: str, position: int, row: int) -> float:
    """One patch of one pair, denoising, in one run from the tokens on."""

    def callback(value: Array, hook: HookPoint) -> Array:
        edited = value.copy()
        edited[0, begin + position] = clean[hook.name][row, begin + position]
        return edited

    hooks = [(get_act_name(site, layer), callback)]
    logits = model.run_with_hooks(pairs.corrupted[row][None], hooks, positions=-1)[0, 0]
    value = float(logits[pairs.ids[row, 0]] - logits[pairs.ids[row, 1]])
    return (value - float(corrupted_diff[row])) / float(distance[row])


middle = n_layers // 2
scale = float(np.abs(distance).min())
lesson.check(
    "patching every position of a layer's stream is the other run (share, layers 0, middle and last)",
    max(
        float(np.abs((everything(layer, corrupted, clean) - clean_diff) / distance).max())
        for layer in (0, middle, n_layers - 1)
    ),
    1e-3,
)
nothing = patch_stream(middle, corrupted[get_act_name("resid_pre", middle)])
lesson.check("patching a run with itself changes nothing (share)", float(np.abs(nothing).max()), 1e-3)
last = difference(clean[LAST][:, -1], pairs.ids, model)
lesson.check(
    "the last position after the last layer recovers all, by construction (share)",
    float(np.abs((last - corrupted_diff) / distance - 1).max()),
    1e-3,
)
if begin:
    lesson.check(
        "before the first position that differs nothing comes over (share, plain runs)",
        max(abs(plain(layer, "resid_pre", -1, 0)) for layer in (0, middle, n_layers - 1)),
        1e-3,
    )
cells = [
    (0, "resid_pre", subject),
    (middle, "attn_out", end),
    (middle, "mlp_out", subject),
    (n_layers - 1, "mlp_out", end),
]
lesson.check(
    "the batch of a layer equals one plain run per patch (share)",
    max(
        abs(plain(layer, site, position, n_pairs - 1) - float(grids["denoising"][site][layer, position, -1]))
        for layer, site, position in cells
    ),
    1e-3,
)
third = max(n_layers // 3, 1)
final = max(third // 2, 1)
if subject != end:
    lesson.finding(
        "What the answer depends on stays at the word itself through the first third of the layers, and is at the last "
        "position in the last third.",
        established=able
        and bool((at_subject[:third] > 0.8).all() and (at_end[:third] < 0.2).all())
        and bool((at_end[n_layers - final :] > 0.8).all()),
        evidence=f"denoising, over {n_pairs} pairs: at the word {at_subject[:third].min():.2f} at least in layers 0 to "
        f"{third - 1}, at the last position {at_end[:third].max():.2f} at most; in the last {final} layers the last "
        f"position has {at_end[n_layers - final :].min():.2f} at least",
        control=f"the stream of unrelated prompts, at the word, first third: {removal[:third, subject].mean():.2f} on "
        f"average, {removal[:third, subject].max():.2f} at most; the bars are 0.8 and 0.2 in every pair",
    )
lesson.finding(
    "More than removal: the clean prompt's own stream brings the answer in.",
    established=able and bool((at_subject[:third] - removal[:third, subject] > 0.25).all()),
    evidence=f"at the word, first third of the layers: {float(beyond[:third].mean()):+.2f} above what unrelated "
    f"prompts bring ({float((at_subject[:third] - removal[:third, subject]).min()):+.2f} at least, over layers and "
    "pairs)",
    control=f"unrelated prompts bring {removal[:third, subject].mean():.2f} by removing the corrupted word alone; the "
    "bar is 0.25 above in every layer and pair",
)
best_head = top_heads[0]
both = [float(heads[way][best_head].min()) for way in heads]
rest = np.delete(heads["denoising"].mean(axis=-1).ravel(), best_head[0] * n_heads + best_head[1])
lesson.finding(
    f"Head {best_head[0]}.{best_head[1]} moves part of the answer: its output alone suffices for some of it and is "
    "needed for some of it.",
    established=able
    and min(both) > 0.05
    and float(heads["denoising"][best_head].mean()) > 3 * float(np.abs(rest).mean()),
    evidence=f"denoising {heads['denoising'][best_head].mean():+.2f} ({both[0]:+.2f} at least over {n_pairs} pairs), "
    f"noising {heads['noising'][best_head].mean():+.2f} ({both[1]:+.2f} at least)",
    control=f"the other {len(rest)} heads: {float(np.abs(rest).mean()):.3f} on average without sign, "
    f"{float(np.abs(rest).max()):.2f} at most; the bar is 0.05 in each pair and direction, and three times that "
    "average",
)
lesson.say(
    f"Three cautions. {n_pairs} pair{'s' * (n_pairs > 1)} of one template: another template may take another way. A "
    "patch says that a difference between two prompts passes through a place, so what both prompts share (that a "
    "capital is asked for) is invisible here. And a small share does not mean unimportant: what three heads do "
    "together is not found by patching one (see lesson 5)."
)
lesson.json["pairs"] = [
    {
        "clean": model.to_string(a), "corrupted": model.to_string(b), "answer": model.to_str_tokens(ids)[0],
        "wrong": model.to_str_tokens(ids)[1], "clean_diff": float(x), "corrupted_diff": float(y), "handover": layer,
    }
    for a, b, ids, x, y, layer in zip(
        pairs.clean, pairs.corrupted, pairs.ids, clean_diff, corrupted_diff, crossings, strict=True
    )
]  # fmt: skip
lesson.json["positions"] = {"tokens": str_tokens, "differs": differs.tolist(), "first_patched": begin}
for way, by_site in grids.items():
    lesson.json[way] = {site: values.tolist() for site, values in by_site.items()}
lesson.json["unrelated"] = {"prompts": [model.to_string(row) for row in unrelated], "resid_pre": removal.tolist()}
lesson.json["agreement"] = agreements
lesson.json["handover"] = crossing
lesson.exercise(
    "In which layer does the MLP at the word that differs bring over most, denoising, mean over the pairs?",
    answer=f"layer {int(grids['denoising']['mlp_out'][:, subject].mean(axis=-1).argmax())}, "
    f"{float(grids['denoising']['mlp_out'][:, subject].mean(axis=-1).max()):.2f}",
    hint='grids["denoising"]["mlp_out"] is [n_layers, pos, batch]',
    minutes=3,
    difficulty="easy",
)
swapped = (everything(0, clean, corrupted) - clean_diff) / -distance
lesson.exercise(
    "Noise every position of layer 0's stream. What share is lost? Think before you run it.",
    answer=f"{float(swapped.mean()):.2f}",
    hint="the stream that enters layer 0 is the embedding of the other prompt",
    minutes=3,
    difficulty="easy",
)
top_three = top_heads[:3]


def several(chosen: Sequence[tuple[int, int]]) -> float:
    """The share that comes over when some heads are patched together, denoising."""

    def callback(value: Array, hook: HookPoint) -> Array:
        edited = value.copy()
        for layer, head in chosen:
            if get_act_name("z", layer) == hook.name:
                edited[:, :, head] = clean[hook.name][:, :, head]
        return edited

    hooks = [(sorted({get_act_name("z", layer) for layer, _ in chosen}), callback)]
    out = model.run_with_hooks(pairs.corrupted, hooks, stop_at_layer=n_layers)
    return float(((difference(out[:, -1], pairs.ids, model) - corrupted_diff) / distance).mean())


lesson.exercise(
    f"Patch the three heads with the largest shares ({', '.join(f'{a}.{b}' for a, b in top_three)}) together, "
    "denoising. What comes over, and is it the sum of the three?",
    answer=f"{several(top_three):.2f}; the sum is "
    f"{sum(float(heads['denoising'][head].mean()) for head in top_three):.2f}",
    hint="one hook for each layer that puts several heads' z in",
    minutes=15,
    difficulty="medium",
)
lesson.finish()
