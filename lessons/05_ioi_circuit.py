# %% [markdown]
"""Which heads does the model use to tell who was given the drink?

What you will learn: to find a circuit. You knock out every attention head in turn, measure what each head reads and
writes, give it a role only where the evidence carries it, and test how much of the behaviour the found heads explain.

Hook points used: blocks.i.attn.hook_pattern, blocks.i.attn.hook_z, blocks.i.hook_resid_pre, ln_final.hook_scale

Needs: lessons 0 and 3

Time: 40 minutes to read, a minute or two to run

Paper: Wang et al. 2022, Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small;
McDougall et al. 2023, Copy Suppression
"""

# %% Set-up
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tinymi import KeyValueCache, Model
from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint, get_act_name
from tinymi.lesson import Lesson, show_token
from tinymi.ops import rms_norm
from tinymi.sweep import Work, digest, remember

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompts", type=int, default=16, metavar="N", help="prompts of the sweep, a multiple of 2")
lesson.sweep_options()
lesson.option("--anyway", action="store_true", default=False, help="go on although the model cannot do the task")
options = lesson.start()
if options.prompts < 2 or options.prompts % 2:
    raise InputError(f"--prompts: {options.prompts}, but prompts come in pairs; give an even number, 2 or more")
model = lesson.load_model()
config, weights = model.config, model.weights
n_layers, n_heads = config.n_layers, config.n_heads
rng = np.random.default_rng(0)

# %% 1. The task
lesson.section("1. The task: who gets it?")
lesson.say(
    '"When Mary and John found the store, John sent it to" goes on with " Mary". To say so, the model must notice that '
    "John stands there twice and name the other one. The name to be given is the indirect object (IO), the one that "
    "stands twice the subject (S; its places are S1 and S2, the last word is END). Each text exists twice, with either "
    "name as S, so that liking one name better does not help; the two halves are called ABBA (IO, S, S) and BABA "
    "(S, IO, S). The number to watch is the logit difference, logit(IO) - logit(S)."
)
NAMES = "Mary John Tom Anna James Kate Paul Sarah David Emma Mark Laura Peter Lucy Jack Alice George Jane Simon Helen"
PLACES = "store park school garden office house station river"
TEMPLATES = (
    "In the{place},{a} met{b}.{s} gave it to",
    "When{a} and{b} found the{place},{s} sent it to",
    "Before{a} and{b} left the{place},{s} said goodbye to",
    "After{a} and{b} reached the{place},{s} showed it to",
    "While{a} and{b} cleaned the{place},{s} sang softly to",
    "Once{a} and{b} saw the{place},{s} handed it to",
    "As{a} and{b} crossed the{place},{s} talked quietly to",
    "Where{a} and{b} built the{place},{s} passed it to",
)
HELD_OUT = (
    "Then,{a} and{b} went to the{place}.{s} gave a book to",
    "At the{place},{a} and{b} had lunch and{s} passed the salt to",
)


def single_tokens(model: Model, words: Iterable[str]) -> list[str]:
    """The words, with a space before them, that are one token; capital letters for a tokenizer that has too few."""
    found = []
    for piece in [f" {word}" for word in words]:
        try:
            model.to_single_token(piece)
            found.append(piece)
        except InputError:
            continue
    return found if len(found) >= 6 else list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True)
class Batch:
    """Prompts whose names stand at the same places but for order; rows 2i and 2i + 1 are one text's two endings."""

    texts: list[str]
    template: list[int]  # of each row
    tokens: Tokens  # [batch, pos]
    ids: Tokens  # [batch, 2]: the tokens of IO and S
    io: Tokens  # [batch]: the position of IO, and so on
    s1: Tokens
    s2: Tokens

    @property
    def n_shared(self) -> int:
        """The positions before S2, which both endings share."""
        return int(self.s2[0])

    @property
    def rows(self) -> Tokens:
        return np.arange(len(self.texts))


def make_batches(model: Model, templates: Sequence[str], pairs: Iterable[tuple[int, str, str, str]]) -> list[Batch]:
    """Both endings of each (template, name a, name b, place), in batches of one length."""
    groups: dict[tuple[int, int], list[tuple[str, int, Tokens, Tokens]]] = {}
    for index, a, b, place in pairs:
        for io, s in ((a, b), (b, a)):
            text = templates[index].format(a=a, b=b, s=s, place=place)
            tokens = model.to_tokens(text)[0]
            ids = np.array([model.to_single_token(io), model.to_single_token(s)])
            s2 = int(np.flatnonzero(tokens == ids[1])[-1])
            groups.setdefault((len(tokens), s2), []).append((text, index, tokens, ids))
    return [as_batch(rows) for rows in groups.values()]


def as_batch(rows: Sequence[tuple[str, int, Tokens, Tokens]]) -> Batch:
    texts, template, tokens, ids = (list(column) for column in zip(*rows, strict=True))
    found, wanted = np.stack(tokens), np.stack(ids)
    io, s1 = ((found == wanted[:, [i]]).argmax(axis=1) for i in (0, 1))
    s2 = found.shape[1] - 1 - (found[:, ::-1] == wanted[:, [1]]).argmax(axis=1)
    return Batch(texts, template, found, wanted, io, s1, s2)


def draw_pairs(rng: np.random.Generator, n_templates: int, per_template: int) -> list[tuple[int, str, str, str]]:
    """For each template, so many pairs of names at a place."""
    drawn = []
    for index in list(range(n_templates)) * per_template:
        a, b = (str(name) for name in rng.choice(names, 2, replace=False))
        drawn.append((index, a, b, str(rng.choice(places))))
    return drawn


names, places = single_tokens(model, NAMES.split()), single_tokens(model, PLACES.split())
GROUP = 8  # pairs of endings that are swept together
pairs = draw_pairs(rng, len(TEMPLATES), max(4, -(-options.prompts // (2 * len(TEMPLATES)))))
swept_pairs = pairs[: options.prompts // 2]
prompt_groups = [swept_pairs[i : i + GROUP] for i in range(0, len(swept_pairs), GROUP)]
sweep = [batch for group in prompt_groups for batch in make_batches(model, TEMPLATES, group)]
core = make_batches(model, TEMPLATES, prompt_groups[0])  # for what is too dear to measure on a long sweep
known = make_batches(model, TEMPLATES, pairs[: 4 * len(TEMPLATES)])  # and what is cheap
held_out = make_batches(model, HELD_OUT, draw_pairs(rng, len(HELD_OUT), 4))


def logit_differences(model: Model, batch: Batch, hooks: Sequence[tuple[str, Callback]] = ()) -> Array:
    """logit(IO) - logit(S) at END: [batch]."""
    logits = model.run_with_hooks(batch.tokens, hooks, positions=-1)[:, 0]
    difference: Array = logits[batch.rows, batch.ids[:, 0]] - logits[batch.rows, batch.ids[:, 1]]
    return difference


def joined(parts: Iterable[Array]) -> Array:
    """Values of several batches, prompts last, one after the other."""
    return np.concatenate(list(parts), axis=-1)


def spread(values: Array) -> Array:
    """Mean and bootstrap 95 % interval over prompts: [..., n] -> [..., 3]. What is drawn are pairs of endings."""
    pairs = values.reshape(*values.shape[:-1], -1, 2).mean(axis=-1).astype(np.float64)
    n = pairs.shape[-1]
    share = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=2000) / n  # [draws, n]
    low, high = np.quantile(pairs @ share.T, (0.025, 0.975), axis=-1)
    return np.stack([pairs.mean(axis=-1), low, high], axis=-1)


def interval(values: Array, format: str = ".2f") -> str:
    """A spread in words: mean [low, high]."""
    mean, low, high = spread(values)
    return f"{mean:{format}} [{low:{format}}, {high:{format}}]"


Words = Sequence[Sequence[str]]  # for each text three names and a place


def draw_abc(rng: np.random.Generator, n: int) -> Words:
    """The words of n texts with three unrelated names: the paper's ABC distribution."""
    return [(*(str(name) for name in rng.choice(names, 3, replace=False)), str(rng.choice(places))) for _ in range(n)]


def run_abc(model: Model, template: str, drawn: Words) -> tuple[Array, Array]:
    """What every head's z is on average over such texts [n_layers, pos, n_heads, d_head], and
    logit(first name) - logit(second) at END [n]."""
    n = len(drawn)
    tokens = model.to_tokens([template.format(a=a, b=b, s=c, place=place) for a, b, c, place in drawn])
    logits, cache = model.run_with_cache(tokens, lambda name: name.endswith("hook_z"), positions=-1)
    first, second = (logits[np.arange(n), 0, [model.to_single_token(row[i]) for row in drawn]] for i in (0, 1))
    return np.stack([cache["z", layer].mean(axis=0) for layer in range(model.config.n_layers)]), first - second


abc_words = {template: draw_abc(rng, 12) for template in TEMPLATES + HELD_OUT}
abc = {template: run_abc(model, template, drawn) for template, drawn in abc_words.items()}
abc_means = {template: mean for template, (mean, _) in abc.items()}
abc_differences = np.concatenate([differences for _, differences in abc.values()])


def bounds(drop: Array) -> str:
    """The interval of a spread [3] as text."""
    return f"[{drop[1]:+.2f}, {drop[2]:+.2f}]"


baseline = {
    batch_name: joined(logit_differences(model, batch) for batch in batches)
    for batch_name, batches in (("known", known), ("held out", held_out))
}
lesson.say(
    f"{len(names)} names and {len(places)} places are single tokens here. An example: {sweep[0].texts[0]!r} wants "
    f"{show_token(model.to_str_tokens(sweep[0].ids[0])[0])}. The last row is the control: a third name stands where S2 "
    "was, so that nothing tells the two others apart but their order."
)
lesson.table(
    ["prompts", "number", "mean logit difference", "95 % interval", "IO above S"],
    [
        [label, values.size, float(values.mean()), bounds(spread(np.repeat(values, 2))), float((values > 0).mean())]
        for label, values in [
            ("ABBA", baseline["known"][0::2]),
            ("BABA", baseline["known"][1::2]),
            ("templates held out", baseline["held out"]),
            ("control: first name - second", abc_differences),
        ]
    ],
    formats={"mean logit difference": "+.2f", "IO above S": ".0%"},
)
lesson.json["prompts"] = [
    {"prompt": text, "io": piece[0], "s": piece[1], "order": ("ABBA", "BABA")[i % 2], "logit_diff": float(d)}
    for batch in sweep
    for i, (text, piece, d) in enumerate(
        zip(batch.texts, map(model.to_str_tokens, batch.ids), logit_differences(model, batch), strict=True)
    )
]
lesson.json["baseline"] = {
    "mean_logit_diff": float(baseline["known"].mean()),
    "accuracy": float((baseline["known"] > 0).mean()),
    "interval": spread(baseline["known"])[1:].tolist(),
    **{
        order: {
            "mean_logit_diff": float(baseline["known"][i::2].mean()),
            "accuracy": float((baseline["known"][i::2] > 0).mean()),
            "interval": spread(np.repeat(baseline["known"][i::2], 2))[1:].tolist(),
        }
        for i, order in enumerate(("ABBA", "BABA"))
    },
    "held_out": {
        "mean_logit_diff": float(baseline["held out"].mean()),
        "accuracy": float((baseline["held out"] > 0).mean()),
    },
    "control_abc": float(abc_differences.mean()),
}
can = bool(spread(baseline["known"])[1] > 0 and min((baseline["known"][i::2] > 0).mean() for i in (0, 1)) >= 0.7)
lesson.finding(
    "The model does the task: it gives the indirect object a higher logit than the subject, in both orders.",
    established=can,
    evidence=f"logit difference {interval(baseline['known'])}, IO above S in {(baseline['known'] > 0).mean():.0%} of "
    f"{baseline['known'].size} prompts (bar: 70 % in each order, and an interval above 0)",
    control=f"with a third name in place of S2 the first name leads the second by {abc_differences.mean():+.2f} on "
    "average",
)
if not can and not options.anyway:
    lesson.say(
        "The model cannot do the task, so there is no circuit to be found, and the lesson stops here. A larger model "
        "may do better; --anyway goes on all the same, to see what the method gives when there is nothing to find."
    )
    lesson.finish()
    raise SystemExit(0)

# %% 2. Knock out every head
lesson.section("2. Knock out every head in turn")
lesson.say(
    f"Now each of the {n_layers} x {n_heads} heads is silenced, one at a time: its attention pattern is set to zero, "
    "so that it reads nothing and writes nothing. What falls is the logit difference, if the head was needed.\n\n"
    "Two things make that affordable, and neither changes a number. A head of layer 20 changes nothing below layer 20, "
    "so each run starts from the residual stream that enters the head's layer, and all heads of a layer run as one "
    "batch. And the two endings of a text share everything before S2, so the beginning runs once, its keys and values "
    "are kept, and both endings go on from there. The plain way, one head and one text at a time from the tokens on, "
    "stands below it and is compared at the end."
)


def read_names(resid: Array, ids: Tokens, model: Model) -> Array:
    """logit(IO) - logit(S) of last streams [..., batch, d_model]: the final norm, and two columns of W_U."""
    w = model.weights
    normed = rms_norm(resid, w.ln_final, model.config.rms_eps)
    difference: Array = (normed * (w.W_U[:, ids[:, 0]] - w.W_U[:, ids[:, 1]]).T).sum(axis=-1)
    return difference


def zero_own_head(pattern: Array, hook: HookPoint) -> Array:
    """The batch comes in n_heads blocks; block i loses head i: [n_heads * rows, n_heads, query_pos, key_pos]."""
    edited = pattern.reshape(pattern.shape[1], -1, *pattern.shape[1:]).copy()  # [n_heads, rows, n_heads, q, k]
    for head in range(len(edited)):
        edited[head, :, head] = 0
    return edited.reshape(pattern.shape)


def mean_own_head(mean: Array) -> Callback:
    """Block i gets head i's output from `mean` [rows, pos, n_heads, d_head]."""

    def callback(z: Array, hook: HookPoint) -> Array:
        edited = z.reshape(z.shape[2], -1, *z.shape[1:]).copy()  # [n_heads, rows, pos, n_heads, d_head]
        for head in range(len(edited)):
            edited[head, :, :, head] = mean[:, :, head]
        return edited.reshape(z.shape)

    return callback


def knock_out_layer(model: Model, batch: Batch, layer: int, resid: Array, mean: Array | None = None) -> Array:
    """Each head of a layer in turn: logit differences [n_heads, batch].

    resid: the stream that enters the layer [batch, pos, d_model]. The head's pattern is zeroed, or, where `mean`
    [batch, pos, n_heads, d_head] is given, its z is replaced by that.
    """
    n_shared, n_heads, n_layers = batch.n_shared, model.config.n_heads, model.config.n_layers
    name = get_act_name("pattern" if mean is None else "z", layer)

    def run(resid: Array, mean: Array | None, past: KeyValueCache) -> Array:
        edit = zero_own_head if mean is None else mean_own_head(mean)
        return model.run_with_hooks(
            np.tile(resid, (n_heads, 1, 1)), [(name, edit)],
            start_at_layer=layer, stop_at_layer=n_layers, past_kv_cache=past,
        )  # fmt: skip

    past = KeyValueCache(n_heads * len(resid) // 2, resid.shape[1], model.config, resid.dtype)
    run(resid[::2, :n_shared], None if mean is None else mean[::2, :n_shared], past)  # one beginning for two endings
    out = run(resid[:, n_shared:], None if mean is None else mean[:, n_shared:], past.repeat(2))
    return read_names(out[:, -1].reshape(n_heads, len(resid), -1), batch.ids, model)


def knock_out_plainly(model: Model, text: str, layer: int, head: int) -> Array:
    """One head, one text, from the tokens on: the logits at END."""

    def without_head(pattern: Array, hook: HookPoint) -> Array:
        edited = pattern.copy()
        edited[:, head] = 0
        return edited

    hooks = [(get_act_name("pattern", layer), without_head)]
    logits: Array = model.run_with_hooks(model.to_tokens(text), hooks)[0, -1]
    return logits


def abc_mean(means: Mapping[str, Array], batch: Batch, layer: int, templates: Sequence[str]) -> Array:
    """The mean z of each row's template: [batch, pos, n_heads, d_head]."""
    return np.stack([means[templates[index]][layer] for index in batch.template])


def first_half(batch: Batch) -> Batch:
    n = max(len(batch.texts) // 4 * 2, 2)
    return replace(batch, **{name: getattr(batch, name)[:n] for name in batch.__dataclass_fields__})


def resid_pre(model: Model, batch: Batch) -> Array:
    """The stream that enters each layer: [n_layers, batch, pos, d_model]."""
    _, cache = model.run_with_cache(batch.tokens, lambda name: name.endswith("hook_resid_pre"), positions=-1)
    return np.stack([cache["resid_pre", layer] for layer in range(model.config.n_layers)])


def with_streams(
    model: Model, source: str | None, group: Sequence[tuple[int, str, str, str]]
) -> list[tuple[Batch, Array]]:
    """A group's batches, each with the streams that enter its layers; made once for all layers of the model's sweep."""

    def make() -> list[tuple[Batch, Array]]:
        return [(batch, resid_pre(model, batch)) for batch in make_batches(model, TEMPLATES, group)]

    return remember(f"streams {digest([source, group])}", make)


def zero_out(model: Model, task: Mapping[str, Any]) -> list[list[float]]:
    """One task of the sweep: all heads of a layer, one group of prompts: [n_heads][n]."""
    found, layer = with_streams(model, task["model"], task["group"]), task["layer"]
    differences = joined(knock_out_layer(model, batch, layer, resid[layer]) for batch, resid in found)
    return [[float(x) for x in row] for row in differences]


def average_out(model: Model, task: Mapping[str, Any]) -> list[list[float]]:
    """The same with the mean over ABC texts in place of zero, for half of the group's prompts."""
    found, layer = with_streams(model, task["model"], task["group"]), task["layer"]
    means = remember(
        f"abc {digest([task['model'], task['abc']])}",
        lambda: {template: run_abc(model, template, drawn)[0] for template, drawn in task["abc"].items()},
    )
    parts = []
    for batch, resid in found:
        half = first_half(batch)
        mean = abc_mean(means, half, layer, TEMPLATES)
        parts.append(knock_out_layer(model, half, layer, resid[layer, : len(half.texts)], mean))
    return [[float(x) for x in row] for row in joined(parts)]


def swept(work: Work, what: str, **more: Any) -> Array:
    """A work's results for all layers and all groups: [n_layers, n_heads, n]."""
    tasks = [
        {"model": sweeper.source, "layer": layer, "group": group, **more}
        for group in prompt_groups
        for layer in range(n_layers)
    ]
    found = sweeper.run(work, tasks, what)
    by_group = [np.array(found[i : i + n_layers], np.float32) for i in range(0, len(found), n_layers)]
    return joined(by_group)


sweeper = lesson.sweep(model, prompts=[text for batch in sweep for text in batch.texts])
plain = joined(logit_differences(model, batch) for batch in sweep)  # [n]
zeroed = swept(zero_out, "knocking out heads (zero)")
zero_drop = spread(plain - zeroed)  # [n_layers, n_heads, 3]
lesson.say(
    f"Look for strong colours: heads without which the logit difference, {plain.mean():.2f} on these {plain.size} "
    "prompts, falls (positive) or rises (negative)."
)
lesson.heatmap(
    zero_drop[..., 0], caption="how far the logit difference falls when the head's pattern is set to zero",
    row_axis="layer", column_axis="head", format="z.2f",
)  # fmt: skip
lesson.json["knockout"] = zeroed.mean(axis=-1).tolist()
lesson.json["knockout_drop"] = zero_drop.tolist()

# %% 3. A fairer knock-out
lesson.section("3. A fairer knock-out: the mean instead of nothing")
halves = [first_half(batch) for batch in sweep]
half_plain = joined(logit_differences(model, batch) for batch in halves)
lesson.say(
    "Zero is no neutral value. Later layers expect what a head usually writes, and its absence can break things that "
    "have nothing to do with the names. The paper therefore replaces a head's output by its mean over the ABC texts "
    "(the same template, three unrelated names): all that a head says about any such text stays, and what it knows of "
    f"who stands twice is gone. The same sweep on half of the prompts, {half_plain.size}:"
)
averaged = swept(
    average_out, "knocking out heads (mean)", abc={template: abc_words[template] for template in TEMPLATES}
)
sweeper.close()
mean_drop = spread(half_plain - averaged)
lesson.heatmap(
    mean_drop[..., 0], caption="how far it falls when the head's output is replaced by its mean over ABC texts",
    row_axis="layer", column_axis="head", format="z.2f",
)  # fmt: skip
lesson.json["knockout_mean_ablation"] = averaged.mean(axis=-1).tolist()
lesson.json["knockout_mean_ablation_drop"] = mean_drop.tolist()
lesson.json["knockout_mean_ablation_prompts"] = int(half_plain.size)

BAR = 0.05  # of the baseline: what counts as a strong effect
scale = abs(float(plain.mean()))
gap = zero_drop[..., 0] - mean_drop[..., 0]
at_odds = [divmod(int(i), n_heads) for i in np.argsort(-np.abs(gap), axis=None, kind="stable")[:6]]
lesson.table(
    ["head", "zero", "95 % interval", "mean", "95 % interval "],
    [
        [f"{layer}.{head}", zero_drop[layer, head, 0], bounds(zero_drop[layer, head]),
         mean_drop[layer, head, 0], bounds(mean_drop[layer, head])]
        for layer, head in at_odds
    ],
    caption="the six heads for which the two disagree most", formats={"zero": "+.2f", "mean": "+.2f"},
)  # fmt: skip
strong = {kind: np.abs(drop[..., 0]) >= BAR * scale for kind, drop in (("zero", zero_drop), ("mean", mean_drop))}
only_zero = int((strong["zero"] & ~strong["mean"]).sum())
lesson.say(
    f"{int(strong['zero'].sum())} heads change the logit difference by {BAR:.0%} of it or more when zeroed, "
    f"{int(strong['mean'].sum())} when replaced by their mean, {int((strong['zero'] & strong['mean']).sum())} both "
    f"ways. For the {only_zero} that only zero finds, what is missed is not what they know of the names. The roles "
    "below go by the mean."
)

# %% 4. What each head reads and writes
lesson.section("4. What each head reads and writes")
lesson.say(
    f"That a head is needed does not say what it does. Four measurements on all heads, on {baseline['known'].size} "
    "prompts:\n\n"
    "Attention: how much END reads from IO, S1 and S2, how much S2 reads from S1 and from the word after S1, and how "
    "much the word after S1 reads from S1.\n\n"
    "Direct effect: what the head's own write at END adds to the logit difference, with the final norm's scale frozen "
    "(the norm divides by one number, which is kept as it is), and apart, what it adds to IO's logit and to S's "
    "(against the vocabulary's mean).\n\n"
    "Copy score: the name's residual stream after layer 0 is sent through the head's W_V and W_O and the unembedding; "
    "how often is the name among the five highest tokens (+1) or the five lowest (-1)?"
)
EDGES = {
    "END->IO": ("end", "io"),
    "END->S1": ("end", "s1"),
    "END->S2": ("end", "s2"),
    "END->END": ("end", "end"),
    "END->0": ("end", "first"),
    "S2->S1": ("s2", "s1"),
    "S2->S1+1": ("s2", "after"),
    "S1+1->S1": ("after", "s1"),
}


def places_of(batch: Batch) -> dict[str, Tokens]:
    end = np.full(len(batch.texts), batch.tokens.shape[1] - 1)
    return {"io": batch.io, "s1": batch.s1, "s2": batch.s2, "after": batch.s1 + 1, "end": end, "first": end * 0}


def read_attention(pattern: Array, places: dict[str, Tokens]) -> dict[str, Array]:
    """Each edge's weight in every head: pattern [batch, n_heads, query_pos, key_pos] -> [n_heads, batch]."""
    rows = np.arange(len(pattern))
    return {edge: pattern[rows, :, places[query], places[key]].T for edge, (query, key) in EDGES.items()}


def read_direct(z: Array, W_O: Array, directions: Array) -> Array:
    """What each head writes at END, along each direction: z [batch, n_heads, d_head], directions [2, batch, d_model]
    -> [2, n_heads, batch]."""
    written = z.transpose(1, 0, 2) @ W_O  # [n_heads, batch, d_model]
    direct: Array = (written * directions[:, None]).sum(axis=-1)
    return direct


def name_directions(batch: Batch, scale: Array, model: Model) -> Array:
    """Where IO's and S's logits read the stream at END, against the vocabulary's mean: [2, batch, d_model]."""
    w = model.weights
    columns = w.W_U[:, batch.ids.T].transpose(1, 2, 0)  # [2, batch, d_model]
    directions: Array = (columns - w.W_U.mean(axis=1)) * w.ln_final / scale
    return directions


def copy_scores(resid: Array, ids: Tokens, layer: int, model: Model) -> Array:
    """Share of names [batch, d_model] that a head's OV circuit puts among the top 5, minus the bottom 5: [n_heads]."""
    w, config = model.weights.blocks[layer], model.config
    values = rms_norm(resid, w.ln1, config.rms_eps) @ w.heads.W_V  # [n_kv_heads, batch, d_head]
    values = np.repeat(values, config.n_heads // config.n_kv_heads, axis=0)
    written = (values @ w.heads.W_O) * model.weights.ln_final  # [n_heads, batch, d_model]
    logits = written.reshape(-1, config.d_model) @ model.weights.W_U
    own = logits[np.arange(len(logits)), np.tile(ids, config.n_heads)][:, None]
    above, below = (logits > own).sum(axis=1), (logits < own).sum(axis=1)  # [n_heads * batch]
    score: Array = ((above < 5).astype(np.float32) - (below < 5)).reshape(config.n_heads, -1).mean(axis=1)
    return score


def measure(
    model: Model, batch: Batch, resid: Array, start: int = 0, hooks: Sequence[tuple[str, Callback]] = ()
) -> dict[str, Array]:
    """Every edge's weight and every head's direct effects in a run from layer `start` on, which the stream resid
    [batch, pos, d_model] enters: name -> [n_layers - start, n_heads, batch]."""
    layers = range(start, model.config.n_layers)
    kept = [get_act_name(name, layer) for layer in layers for name in ("pattern", "z")]
    _, cache = model.run_with_cache(
        resid, [*kept, "ln_final.hook_scale"], fwd_hooks=hooks, start_at_layer=start, positions=-1
    )
    places, directions = places_of(batch), name_directions(batch, cache["ln_final.hook_scale"][:, -1], model)
    found = []
    for layer in layers:
        io, s = read_direct(cache["z", layer][:, -1], model.weights.blocks[layer].heads.W_O, directions)
        found.append(read_attention(cache["pattern", layer], places) | {"IO": io, "S": s, "direct": io - s})
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


def measure_all(model: Model, batches: Sequence[Batch]) -> dict[str, Array]:
    parts = [measure(model, batch, model(batch.tokens, stop_at_layer=0)) for batch in batches]
    return {name: joined(part[name] for part in parts) for name in parts[0]}


evidence = measure_all(model, known)
name_rows = [(model(batch.tokens, stop_at_layer=1)[batch.rows, batch.io], batch.ids[:, 0]) for batch in core]
io_rows, io_ids = (np.concatenate(column) for column in zip(*name_rows, strict=True))
copying = np.stack([copy_scores(io_rows, io_ids, layer, model) for layer in range(n_layers)])  # [n_layers, n_heads]
average = {name: values.mean(axis=-1) for name, values in evidence.items()}  # [n_layers, n_heads]


def top_heads(values: Array, n: int) -> list[tuple[int, int]]:
    """The n heads with the largest absolute values [n_layers, n_heads]."""
    order = np.argsort(-np.abs(values), axis=None, kind="stable")[:n]
    return [divmod(int(i), values.shape[1]) for i in order]


lesson.say(
    "The heads that write most along the logit difference. Look at which name they write about, and at what they read "
    "(END-> is left out in the heads of these four columns):"
)
READ = {"IO ": "END->IO", "S1": "END->S1", "S2": "END->S2", "END": "END->END"}
lesson.table(
    ["head", "direct", "95 % interval", "to IO", "to S", *READ, "copy"],
    [
        [f"{layer}.{head}", average["direct"][layer, head], bounds(spread(evidence["direct"][layer, head])),
         *(average[name][layer, head] for name in ("IO", "S", *READ.values())), copying[layer, head]]
        for layer, head in top_heads(average["direct"], 10)
    ],
    formats=dict.fromkeys(("direct", "to IO", "to S", "copy"), "+.2f") | dict.fromkeys(READ, ".2f"),
)  # fmt: skip

# %% 5. Roles
lesson.section("5. Roles, where the evidence carries them")
DIRECT_BAR = 0.03  # of the baseline: what counts as writing to the logits oneself
lesson.say(
    f"The rule, stated before we look. A head is strong when its mean ablation moves the logit difference by {BAR:.0%} "
    f"of it or more, or when its direct effect is {DIRECT_BAR:.0%} of it or more. It reads the place that has the "
    "largest of END->IO, END->S1 and END->S2, if that is at least 0.2. A strong head gets the first role that fits.\n\n"
    "Name mover: reads IO, direct effect positive, copy score 0.5 or more. Negative name mover: reads IO, direct "
    "effect negative, copy score -0.5 or less. S-suppressor: reads S2, and lowers S's logit by more than it moves "
    "IO's. S-inhibition: reads S2, hardly writes to the logits itself, and without it the name movers read IO less, by "
    f"{BAR:.0%} or more and with an interval below 0. Duplicate-token: S2->S1 at least 0.2. Induction: S2->S1+1. "
    "Previous-token: S1+1->S1. These last four must help: their ablation lowers the logit difference. What is strong "
    "and fits none of these is unclassified and described by what it does. A backup name mover is one whose direct "
    "effect grows when all name movers are knocked out together."
)
Hooks = Sequence[tuple[str, Callback]]
READS = ("END->IO", "END->S1", "END->S2")
Head = tuple[int, int]  # layer, head
Rows = dict[Head, dict[str, float]]


def writer_role(row: dict[str, float], bar: float) -> str | None:
    """The role of a head that writes to the logits itself, from its averages; bar: the least direct effect."""
    reads = max(READS, key=lambda edge: row[edge])
    if row[reads] < 0.2 or abs(row["direct"]) < bar:
        return None
    if reads == "END->IO" and row["direct"] > 0 and row["copy"] >= 0.5:
        return "name mover"
    if reads == "END->IO" and row["direct"] < 0 and row["copy"] <= -0.5:
        return "negative name mover"
    if reads == "END->S2" and row["S"] < 0 and -row["S"] > abs(row["IO"]):
        return "S-suppressor"
    return None


def reader_role(row: dict[str, float], bar: float) -> str | None:
    """The role of a head that works through others."""
    if abs(row["direct"]) >= bar or row["effect"] < 0:
        return None
    reads = max(READS, key=lambda edge: row[edge])
    if reads == "END->S2" and row[reads] >= 0.2 and row["IO read"] <= -BAR and row["IO read high"] < 0:
        return "S-inhibition"
    edges = {"S2->S1": "duplicate-token", "S2->S1+1": "induction", "S1+1->S1": "previous-token"}
    best = max(edges, key=lambda edge: row[edge])
    return edges[best] if row[best] >= 0.2 else None


def description(row: dict[str, float], bar: float) -> str:
    """What a head does, in place of a role."""
    best = max((edge for edge in EDGES if edge != "END->0"), key=lambda edge: row[edge])
    reads = best if row[best] >= 0.2 else "no one place"
    writes = "through others" if abs(row["direct"]) < bar else "for IO" if row["direct"] > 0 else "against IO"
    return f"reads {reads}, works {writes}"


def mean_hooks(batch: Batch, heads: Iterable[Head], templates: Sequence[str]) -> list[tuple[str, Callback]]:
    """Hooks that replace these heads' z by its mean over ABC texts."""
    chosen: dict[int, list[int]] = {}
    for layer, head in heads:
        chosen.setdefault(layer, []).append(head)

    def ablate(layer: int, heads: list[int]) -> Callback:
        mean = abc_mean(abc_means, batch, layer, templates)

        def callback(z: Array, hook: HookPoint) -> Array:
            edited = z.copy()
            edited[:, :, heads] = mean[:, :, heads]
            return edited

        return callback

    return [(get_act_name("z", layer), ablate(layer, found)) for layer, found in chosen.items()]


def without(batches: Sequence[Batch], heads: Sequence[Head], templates: Sequence[str]) -> Array:
    """Logit differences with these heads mean-ablated together: [n]."""
    return joined(logit_differences(model, batch, mean_hooks(batch, heads, templates)) for batch in batches)


def without_one(batch: Batch, streams: Array, head: Head, templates: Sequence[str]) -> Array:
    """The same for one head, from the stream that enters its layer on; streams [n_layers, batch, pos, d_model]."""
    hooks = mean_hooks(batch, [head], templates)
    out = model.run_with_hooks(streams[head[0]], hooks, start_at_layer=head[0], stop_at_layer=n_layers)
    return read_names(out[:, -1], batch.ids, model)


def changes(
    batches: Sequence[Batch], streams: Sequence[Array], head: Head, templates: Sequence[str], before: dict[str, Array]
) -> dict[str, Array]:
    """What one head's mean ablation changes in all that `before` holds, in the layers above: [n_layers, n_heads, n]."""
    start = head[0]
    parts = [
        measure(model, batch, stream[start], start, mean_hooks(batch, [head], templates))
        for batch, stream in zip(batches, streams, strict=True)
    ]
    found = {name: np.zeros_like(values) for name, values in before.items()}
    for name, values in before.items():
        found[name][start + 1 :] = joined(part[name][1:] for part in parts) - values[start + 1 :]
    return found


def reading_change(
    change: dict[str, Array], before: dict[str, Array], readers: Sequence[Head], edge: str, layer: int
) -> Array:
    """The change of the weight that the readers above a layer give to an edge, as a share of it: [3]."""
    above = [reader for reader in readers if reader[0] > layer]
    if not above:
        return np.zeros(3)
    weight = sum(float(before[edge][reader].mean()) for reader in above)
    share: Array = spread(np.sum([change[edge][reader] for reader in above], axis=0)) / max(weight, 1e-6)
    return share


def averages(
    heads: Iterable[Head], evidence: dict[str, Array], effect: dict[Head, Array]
) -> dict[Head, dict[str, float]]:
    """One row of numbers per head: mean edges and writes, copy score, knock-out effect with its interval."""
    rows = {}
    for head in heads:
        row = {name: float(values[head].mean()) for name, values in evidence.items()} | {"copy": float(copying[head])}
        for name, values in (("effect", effect[head]), ("direct", spread(evidence["direct"][head]))):
            row |= {name: float(values[0]), f"{name} low": float(values[1]), f"{name} high": float(values[2])}
        rows[head] = row
    return rows


def with_reading(rows: Rows, ablated: dict[Head, dict[str, Array]], before: dict[str, Array], bar: float) -> Rows:
    """The rows, and what each head's ablation does to the name movers' reading of IO and the S-suppressors' of S2."""
    found = {head: dict(row) for head, row in rows.items()}
    for name, edge, role in (("IO read", "END->IO", "name mover"), ("S2 read", "END->S2", "S-suppressor")):
        readers = [head for head, row in rows.items() if writer_role(row, bar) == role]
        for head, row in found.items():
            change: Array = np.zeros(3)
            if head in ablated:
                change = reading_change(ablated[head], before, readers, edge, head[0])
            row[name], row[f"{name} low"], row[f"{name} high"] = (float(x) for x in change)
    return found


def is_strong(row: dict[str, float], scale: float) -> bool:
    return abs(row["effect"]) >= BAR * scale or abs(row["direct"]) >= DIRECT_BAR * scale


def role_of(row: dict[str, float], scale: float) -> str:
    bar = DIRECT_BAR * scale
    return (writer_role(row, bar) or reader_role(row, bar) or "unclassified") if is_strong(row, scale) else "weak"


def is_solid(row: dict[str, float], scale: float) -> bool:
    """Whether what makes the head strong has an interval without 0."""
    by_effect = abs(row["effect"]) >= BAR * scale and row["effect low"] * row["effect high"] > 0
    return by_effect or (abs(row["direct"]) >= DIRECT_BAR * scale and row["direct low"] * row["direct high"] > 0)


known_scale, held_scale = abs(float(baseline["known"].mean())), abs(float(baseline["held out"].mean()))
every = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
effect = {head: mean_drop[head] for head in every}
streams = [resid for _, resid in with_streams(model, sweeper.source, prompt_groups[0])]
core_plain = joined(logit_differences(model, batch) for batch in core)
again_on = core_plain.size if core_plain.size > half_plain.size else 0  # prompts, where that is more than the sweep had
for head in [head for head in every if again_on and abs(effect[head][0]) >= BAR / 2 * known_scale]:
    effect[head] = spread(core_plain - joined(
        without_one(batch, stream, head, TEMPLATES) for batch, stream in zip(core, streams, strict=True)
    ))  # fmt: skip
all_rows = averages(every, evidence, effect)
candidates = [head for head in every if is_strong(all_rows[head], known_scale)]
readers = [head for head in candidates if abs(all_rows[head]["direct"]) < DIRECT_BAR * known_scale]
before = measure_all(model, core)
ablated = {
    head: changes(core, streams, head, TEMPLATES, before)
    for head in lesson.progress(readers, "what the heads steer", len(readers))
}
rows = with_reading({head: all_rows[head] for head in candidates}, ablated, before, DIRECT_BAR * known_scale)
role = {head: role_of(row, known_scale) for head, row in rows.items()}

held_streams = [resid_pre(model, batch) for batch in held_out]
held_effect = {
    head: spread(baseline["held out"] - joined(
        without_one(batch, stream, head, HELD_OUT) for batch, stream in zip(held_out, held_streams, strict=True)
    ))
    for head in lesson.progress(candidates, "held-out templates", len(candidates))
}  # fmt: skip
held_before = measure_all(model, held_out)
held_ablated = {head: changes(held_out, held_streams, head, HELD_OUT, held_before) for head in readers}
held_rows = with_reading(
    averages(candidates, held_before, held_effect), held_ablated, held_before, DIRECT_BAR * held_scale
)
again = {head: role_of(row, held_scale) == role[head] and is_solid(row, held_scale) for head, row in held_rows.items()}
labelled = [head for head in candidates if role[head] != "unclassified"]
others = [head for head in candidates if role[head] == "unclassified"]
lesson.say(
    f"{len(candidates)} of {len(every)} heads are strong. `effect` is how far the logit difference falls under mean "
    "ablation"
    + (f" (heads with half the bar or more were measured again, on all {again_on} prompts)" if again_on else "")
    + f", `held out` the same on {baseline['held out'].size} prompts of {len(HELD_OUT)} templates that nothing above "
    "has seen, and `again` "
    "says whether the rule gives the same role there, with an interval that leaves 0 out."
)


def head_name(head: Head) -> str:
    return f"{head[0]}.{head[1]}"


lesson.table(
    ["head", "role", "effect", "95 % interval", "direct", "copy", "held out", "again"],
    [
        [head_name(head), role[head] if head in labelled else description(rows[head], DIRECT_BAR * known_scale),
         rows[head]["effect"], bounds(effect[head]), rows[head]["direct"], rows[head]["copy"],
         held_rows[head]["effect"], "yes" if again[head] else "no"]
        for head in [*labelled, *others]
    ],
    caption="what each strong head is worth",
    formats={"effect": "+.2f", "direct": "+.2f", "held out": "+.2f", "copy": "+.1f"},
)  # fmt: skip
lesson.say(
    "What each reads, and the last two columns: by how much the name movers read IO less, and the S-suppressors S2, "
    "when the head is ablated (only those in layers above it)."
)
shown_edges = ("END->IO", "END->S2", "S2->S1", "S2->S1+1", "S1+1->S1")
lesson.table(
    ["head", *shown_edges, "IO read", "S2 read"],
    [
        [head_name(head), *(rows[head][edge] for edge in shown_edges), rows[head]["IO read"], rows[head]["S2 read"]]
        for head in [*labelled, *others]
    ],
    caption="what each strong head reads, and whose reading it steers",
    formats=dict.fromkeys(shown_edges, ".2f") | {"IO read": "+.0%", "S2 read": "+.0%"},
)

# %% 6. Controls
lesson.section("6. Could the rule have found this anywhere?")
lesson.say(
    "Two controls. First the same rule with the places moved: IO, S1 and S2 stand for three other words of the same "
    "text, drawn at random; the effects stay as they are. How many strong heads get a role then? Second, all heads "
    "with a role are ablated together on the held-out templates, and beside them as many random heads of the same "
    "layers."
)


def moved_places(batch: Batch, rng: np.random.Generator) -> Batch:
    """The same texts with IO, S1 and S2 at three other places, in the order of the text but for IO."""
    free = [i for i in range(1, batch.tokens.shape[1] - 2) if i not in {*batch.io, *batch.s1, *batch.s2}]
    drawn = np.stack([np.sort(rng.choice(free, 3, replace=len(free) < 3)) for _ in batch.texts])  # [batch, 3]
    return replace(batch, io=drawn[:, 0], s1=drawn[:, 1], s2=drawn[:, 2])


def random_heads(like: Sequence[Head], avoid: Iterable[Head], n_heads: int, rng: np.random.Generator) -> list[Head]:
    """As many heads of each layer as `like` has there, none of them in `avoid` (as far as the layer has others)."""
    chosen: list[Head] = []
    for layer in sorted({layer for layer, _ in like}):
        free = [head for head in range(n_heads) if (layer, head) not in set(avoid)]
        wanted = min(sum(1 for other, _ in like if other == layer), len(free))
        chosen += [(layer, int(head)) for head in rng.choice(free, wanted, replace=False)]
    return chosen


moved_counts = []
for _ in range(5):
    moved = measure_all(model, [moved_places(batch, rng) for batch in core])
    chance = averages(candidates, evidence | {edge: moved[edge] for edge in EDGES}, effect)
    for head, row in chance.items():
        row |= {name: rows[head][name] for name in ("IO read", "IO read high")}
    moved_counts.append(sum(role_of(row, known_scale) != "unclassified" for row in chance.values()))
together = baseline["held out"] - without(held_out, labelled, HELD_OUT)
random_sets = [random_heads(labelled, candidates, n_heads, rng) for _ in range(6)] if labelled else []
random_together = [baseline["held out"] - without(held_out, heads, HELD_OUT) for heads in random_sets]
random_mean = [float(drop.mean()) for drop in random_together]
lesson.say(
    f"With the places moved, {np.mean(moved_counts):.1f} of {len(candidates)} strong heads get a role (5 draws: "
    f"{', '.join(map(str, moved_counts))}); at the true places {len(labelled)} do. Ablated together, the "
    f"{len(labelled)} heads with a role take {interval(together)} off the logit difference of "
    f"{baseline['held out'].mean():.2f}"
    + (
        f"; random heads of the same layers take {np.mean(random_mean):.2f} ({min(random_mean):.2f} to "
        f"{max(random_mean):.2f} in {len(random_mean)} draws)."
        if random_mean
        else "."
    )
)

# %% 7. Who steps in, and through whom
lesson.section("7. Who steps in, and through whom")
UNNAMED = ("weak", "unclassified")
movers = [head for head in labelled if role[head] == "name mover"]
suppressors = [head for head in labelled if role[head] == "S-suppressor"]


def step_in(heads: Sequence[Head], what: str) -> list[Head]:
    """Ablate heads together and say which others' direct effect grows; returns those that grow by the bar."""
    if not heads:
        lesson.say(f"There are no {what}s to knock out, so nobody can step in for them.")
        return []
    start = min(layer for layer, _ in heads)
    parts = [
        measure(model, batch, stream[start], start, mean_hooks(batch, heads, TEMPLATES))["direct"]
        for batch, stream in zip(core, streams, strict=True)
    ]
    change = np.zeros_like(before["direct"])
    change[start:] = joined(parts) - before["direct"][start:]
    for head in heads:
        change[head] = 0
    grown = spread(change)
    order = [head for head in top_heads(np.maximum(grown[..., 0], 0), 5) if grown[head][1] > 0]
    lesson.table(
        ["head", "direct before", "change", "95 % interval", "END->IO", "role"],
        [
            [head_name(head), float(before["direct"][head].mean()), grown[head][0], bounds(grown[head]),
             average["END->IO"][head], role.get(head, "weak")]
            for head in order
        ],
        caption=f"without the {what}s ({', '.join(map(head_name, heads))}): the heads whose direct effect grows most",
        formats={"direct before": "+.2f", "change": "+.2f", "END->IO": ".2f"},
    )  # fmt: skip
    return [head for head in order if grown[head][0] >= DIRECT_BAR * known_scale]


lesson.say(
    "When the paper's name movers are knocked out together, other heads take over: backup name movers. Look at the "
    f"change; the bar for a backup is {DIRECT_BAR:.0%} of the baseline, {DIRECT_BAR * known_scale:.2f}."
)
stepping = step_in(movers, "name mover")
backups = [head for head in stepping if average["END->IO"][head] >= 0.2 and role.get(head, "weak") in UNNAMED]
easing = [head for head in stepping if average["direct"][head] < 0]
lesson.say(
    (
        f"Backup name movers: {', '.join(map(head_name, backups))}. "
        if backups
        else "No head of this model is a backup name mover by that bar. "
    )
    + (
        f"Some of the loss is made up for all the same: {', '.join(map(head_name, easing))}, which worked against IO, "
        "eases off when there is less to work against."
        if easing
        else ""
    )
)
step_in(suppressors, "S-suppressor")
groups = {
    "name movers": movers,
    "S-suppressors": suppressors,
    "other heads": [head for head in every if head not in movers and head not in suppressors],
}
lesson.say(
    "And through whom do the heads work that write nothing to the logits themselves? Each is ablated alone; what the "
    "direct effects of the writing heads lose, group by group, and what the MLPs lose, adds up to its whole effect; "
    "the column `MLPs, rest` also holds what the change of the final norm's scale does."
)


def through(head: Head) -> dict[str, float]:
    """What one head's ablation takes from each group's direct effect, and in all; means over the sweep's prompts."""
    lost = -ablated[head]["direct"].mean(axis=-1)  # [n_layers, n_heads]
    parts = {name: float(sum(lost[other] for other in heads)) for name, heads in groups.items()}
    total = float(effect[head][0])
    return parts | {"MLPs, rest": total - sum(parts.values()), "all": total}


paths = {head: through(head) for head in readers}
if readers:
    lesson.table(
        ["head", "role", *next(iter(paths.values()))],
        [[head_name(head), role[head], *parts.values()] for head, parts in paths.items()],
        caption="where the effect of the reading heads ends up",
        formats=dict.fromkeys(next(iter(paths.values())), "+.2f"),
    )

# %% 8. The circuit
lesson.section("8. The circuit, and how much of the behaviour it is")
circuit = sorted({*labelled, *backups})


def drawn(layer: int) -> str:
    """The circuit's heads in this layer, on as many lines as they need."""
    named = [f"{head_name(head)} {role[head]}".replace(" ", "\xa0") for head in circuit if head[0] == layer]
    wrap = textwrap.TextWrapper(
        width=76, initial_indent=f"layer {layer:>3} | ", subsequent_indent="          | ", break_on_hyphens=False
    )
    return "\n".join(wrap.wrap("   ".join(named))).replace("\xa0", " ")


drawing = [drawn(layer) for layer in sorted({layer for layer, _ in circuit}, reverse=True)]
lesson.say(
    "The heads with a role, drawn as the stream flows: the tokens below, the logits above. Heads on one line work side "
    "by side; what stands lower can be read by what stands higher."
)
lesson.code("\n".join(["          logits", *drawing, "          tokens"]))


def only(batches: Sequence[Batch], heads: Iterable[Head], templates: Sequence[str]) -> Array:
    """Logit differences when every head but these is mean-ablated; the MLPs run as always."""
    kept = set(heads)
    return without(batches, [head for head in every if head not in kept], templates)


empty = only(held_out, [], HELD_OUT)
alone = only(held_out, circuit, HELD_OUT)
chance_alone = np.stack([only(held_out, random_heads(circuit, circuit, n_heads, rng), HELD_OUT) for _ in range(4)])
chance_best = float(chance_alone.mean(axis=1).max())
by_effect = top_heads(mean_drop[..., 0], len(every))
sizes = [size for size in (5, 10, 20, 40, 80) if size < len(every)]
curve = {size: only(held_out, by_effect[:size], HELD_OUT) for size in sizes}
everything = only(held_out, every, HELD_OUT)
full = float(baseline["held out"].mean())
lesson.say(
    "Now the other way round: all heads are mean-ablated but those of the circuit. How much of the logit difference do "
    "they carry alone? Beside it as many random heads of the same layers (mean of 4 draws), and simply the heads with "
    "the largest effect in the sweep, whatever their role. Held-out templates."
)
lesson.table(
    ["heads that stay", "number", "logit difference", "95 % interval", "share of the model's"],
    [
        [label, number, float(np.mean(values)), bounds(spread(values)), float(np.mean(values)) / full]
        for label, number, values in [
            ("none", 0, empty), ("the circuit", len(circuit), alone),
            ("random, same layers", len(circuit), chance_alone.mean(axis=0)),
            *((f"the {size} with the largest effect", size, values) for size, values in curve.items()),
            ("all", len(every), everything),
        ]
    ],
    formats={"logit difference": "+.2f", "share of the model's": ".0%"},
)  # fmt: skip
missing = [head for head in by_effect if head not in circuit][:5]
with_missing = only(held_out, [*circuit, *missing], HELD_OUT)
lesson.say(
    f"What is missing: with the {len(missing)} strongest heads that have no role "
    f"({', '.join(map(head_name, missing))}) added, the circuit carries {interval(with_missing)}, "
    f"{with_missing.mean() / full:.0%}."
)


# %% 9. Checks and what was found
lesson.section("9. Checks and what was found")


def plain_gap() -> float:
    """The sweep against the plain loop, for three heads of the first batch: the largest difference of two logits."""
    gaps = []
    for layer, head in {every[0], every[len(every) // 2], every[-1], *candidates[:1]}:
        for row, text in enumerate(sweep[0].texts[:2]):
            logits = knock_out_plainly(model, text, layer, head)
            io, s = sweep[0].ids[row]
            gaps.append(abs(float(logits[io] - logits[s]) - float(zeroed[layer, head, row])))
    return max(gaps)


def zero_z_gap() -> float:
    """A zeroed pattern against a zeroed z, one head."""

    def zero_z(z: Array, hook: HookPoint) -> Array:
        edited = z.copy()
        edited[:, :, 0] = 0
        return edited

    layer, batch = n_layers // 2, sweep[0]
    found = logit_differences(model, batch, [(get_act_name("z", layer), zero_z)])
    return float(np.abs(found - zeroed[layer, 0, : len(found)]).max())


def attribution_gap() -> float:
    """Every part's direct effect (embedding, heads, MLPs) against the logit difference, on the first batch."""
    batch = core[0]
    mlp_outs = [get_act_name("mlp_out", layer) for layer in range(n_layers)]
    logits, cache = model.run_with_cache(batch.tokens, ["hook_embed", *mlp_outs, "ln_final.hook_scale"], positions=-1)
    io, s = name_directions(batch, cache["ln_final.hook_scale"][:, -1], model)
    stream = cache["hook_embed"][:, -1] + sum(cache["mlp_out", layer][:, -1] for layer in range(n_layers))
    parts = (stream * (io - s)).sum(axis=-1) + before["direct"][..., : len(batch.texts)].sum(axis=(0, 1))
    logits = logits[:, 0]
    return float(np.abs(parts - (logits[batch.rows, batch.ids[:, 0]] - logits[batch.rows, batch.ids[:, 1]])).max())


lesson.check("the sweep equals the plain loop (logits)", plain_gap(), 1e-3)
lesson.check("zeroing a head's pattern equals zeroing its z (logits)", zero_z_gap(), 1e-3)
lesson.check("direct effects of all parts sum to the logit difference", attribution_gap(), 1e-3)
lesson.check("the circuit of all heads is the model", float(np.abs(everything - baseline["held out"]).max()), 1e-4)
scale_gap = np.abs(empty.reshape(-1, 2).sum(axis=1)).max() if empty.size else 0.0
lesson.check("without any head the two endings' logit differences cancel", scale_gap, 1e-3)

kinds = {
    kind: [head for head in labelled if role[head] == kind] for kind in dict.fromkeys(role[head] for head in labelled)
}
for kind, heads in kinds.items():
    solid = [head for head in heads if again[head]]
    lost = [head for head in heads if not again[head]]
    best = max(solid or heads, key=lambda head: abs(rows[head]["effect"]) + abs(rows[head]["direct"]))
    held = held_rows[best]
    others_in_layer = [abs(all_rows[head]["effect"]) for head in every if head[0] == best[0] and head not in candidates]
    lesson.finding(
        f"{kind}: {', '.join(map(head_name, solid or heads))}.",
        established=len(solid) > 0,
        evidence=f"{len(solid)} of {len(heads)} again on held-out templates"
        + (f", not again {', '.join(map(head_name, lost))}" if lost else "")
        + f"; {head_name(best)} there: effect {held['effect']:+.2f} "
        f"{bounds(held_effect[best])}, direct {held['direct']:+.2f} "
        f"[{held['direct low']:+.2f}, {held['direct high']:+.2f}]",
        control=f"heads of layer {best[0]} that are not strong move the logit difference by "
        f"{np.mean(others_in_layer) if others_in_layer else 0:.2f} on average; with the places moved "
        f"{np.mean(moved_counts):.1f} heads get any role at all",
    )
lesson.finding(
    f"The {len(circuit)} heads of the circuit are needed: ablated together they take the logit difference away.",
    established=bool(random_mean) and spread(together)[1] > max(random_mean) and spread(together)[1] > 0.5 * full,
    evidence=f"{interval(together)} of {full:.2f} on held-out templates",
    control=f"random heads of the same layers: {max(random_mean, default=0):.2f} at most in {len(random_mean)} draws",
)
lesson.finding(
    f"The {len(circuit)} heads of the circuit alone carry most of the behaviour.",
    established=bool(circuit) and spread(alone)[1] > 0.5 * full and spread(alone)[1] > chance_best,
    evidence=f"{interval(alone)} of {full:.2f}, {alone.mean() / full:.0%} (bar: the interval above half)",
    control=f"random heads of the same layers {chance_best:+.2f} at most in {len(chance_alone)} draws; with every head "
    f"ablated {empty.mean():+.2f}",
)
if suppressors:
    lesson.say(
        f"The paper has no head like {', '.join(map(head_name, suppressors))}. It looks at S2 from the end, as an "
        "S-inhibition head does, but it does not pass the name on: it lowers S's own logit. McDougall et al. 2023 call "
        "that copy suppression: a head that reads a name which the model is about to say, and writes against it. In "
        "GPT-2 small such heads (negative name movers) work mostly against IO; here "
        f"{sum(rows[head]['direct'] for head in suppressors):+.2f} of the logit difference comes from writing against "
        f"S, the name movers write {sum(rows[head]['direct'] for head in movers):+.2f} in all."
    )
found_kinds = set(kinds)
paper = ("duplicate-token", "previous-token", "induction", "S-inhibition", "name mover", "negative name mover")
not_found = [kind for kind in paper if kind not in found_kinds] + ([] if backups else ["backup name mover"])
lesson.say(
    "Beside the paper's circuit in GPT-2 small, which has 26 heads in seven classes and a logit difference of 3.55: "
    f"here {len(circuit)} heads and {baseline['known'].mean():.2f}. Found in both: "
    f"{', '.join(kind for kind in paper if kind in found_kinds) or 'none'}. Not found here: "
    f"{', '.join(not_found) or 'none'}. Three cautions: the bars are choices, and a head just under one is as real as "
    "a head just over it; the MLPs were left alone; and the attention of a head says what it reads, which is why each "
    "role also needs an effect."
)

lesson.json["heads"] = [
    {
        "layer": head[0], "head": head[1],
        "role": "backup name mover" if head in backups else role.get(head, "weak"),
        "does": description(all_rows[head], DIRECT_BAR * known_scale),
        "evidence": rows.get(head, all_rows[head]),
        "held_out": {"role": role_of(held_rows[head], held_scale), "again": bool(again[head])} | held_rows[head]
        if head in held_rows else None,
        "through": paths.get(head),
    }
    for head in sorted({*candidates, *backups})
]  # fmt: skip
lesson.json["all_heads"] = {
    name: [[all_rows[layer, head][name] for head in range(n_heads)] for layer in range(n_layers)]
    for name in (*EDGES, "IO", "S", "direct", "copy")
}
lesson.json["controls"] = {
    "moved_places": moved_counts, "together": spread(together).tolist(), "random_together": random_mean,
    "random_alone": chance_alone.mean(axis=1).tolist(),
}  # fmt: skip
lesson.json["faithfulness"] = {
    "share": float(alone.mean()) / full, "logit_diff": spread(alone).tolist(), "model": full,
    "none": float(empty.mean()), "heads": len(circuit),
    "by_effect": {str(size): float(values.mean()) for size, values in curve.items()},
    "with_missing": float(with_missing.mean()), "missing": [list(head) for head in missing],
}  # fmt: skip
strongest = top_heads(mean_drop[..., 0], 1)[0]
lesson.exercise(
    "Which head costs the most when it is replaced by its mean, and what share of the logit difference is that?",
    answer=f"{head_name(strongest)}, {mean_drop[strongest][0] / half_plain.mean():.0%}",
    hint="np.unravel_index(np.abs(mean_drop[..., 0]).argmax(), (n_layers, n_heads))",
    minutes=3,
    difficulty="easy",
)
lesson.exercise(
    "How well do zero and mean ablation agree over all heads? Compute the correlation of the two matrices.",
    answer=f"{np.corrcoef(zero_drop[..., 0].ravel(), mean_drop[..., 0].ravel())[0, 1]:.2f}",
    hint="np.corrcoef of the two matrices, flattened; then look at the lowest third of the layers alone",
    minutes=10,
    difficulty="medium",
)
lesson.finish()
