# %% [markdown]
"""Which edges of attention does an answer need, and at which depth?

What you will learn: to cut single edges of attention (this position no longer reads that one) in one head, a layer or
a window of layers, to find where an answer is fetched from its subject, and why a cut of the first position proves
little.

Hook points used: blocks.i.attn.hook_attn_scores, blocks.i.attn.hook_pattern, blocks.i.hook_resid_pre

Needs: lessons 0 and 7

Time: 20 minutes to read, 15 seconds to run

Paper: Geva et al. 2023, Dissecting Recall of Factual Associations in Auto-Regressive Language Models (attention
knockout in windows of layers); Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks
"""

# %% Set-up
import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

from tinymi import KeyValueCache, Model
from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint, get_act_name
from tinymi.lesson import Lesson, Token, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", help="a prompt of your own, instead of the capitals; then --subject too")
lesson.option("--subject", type=int, metavar="POSITION", help="where the subject's last token stands in it, from 0")
lesson.option(
    "--window", type=int, metavar="N", help="how many layers a window has; without it 5, or all if there are fewer"
)
options = lesson.start()
if (options.prompt is None) != (options.subject is None):
    raise InputError("--prompt and --subject belong together: give both or neither")
model = lesson.load_model()
config = model.config
n_layers, n_heads = config.n_layers, config.n_heads
width = min(5, n_layers) if options.window is None else options.window
if not 1 <= width <= n_layers:
    raise InputError(f"--window: {width}, but the model has {n_layers} layers; give 1 to {n_layers}")
rng = np.random.default_rng(0)

# %% 1. The prompts
CAPITALS = "France Italy Spain Germany Japan Russia China Greece England Austria Cuba Ireland Egypt Poland"


def choose_prompts(model: Model, n: int) -> tuple[Tokens, int]:
    """Up to n capitals' prompts of the commonest length [prompt, pos], the surest first, and the subject's position."""
    made = [model.to_tokens(f"The capital of {country} is")[0] for country in CAPITALS.split()]
    length = Counter(len(row) for row in made).most_common(1)[0][0]
    rows = np.stack([row for row in made if len(row) == length])
    logits = model(rows, positions=-1)[:, 0]
    surest = np.argsort(-probabilities(logits).max(axis=-1), kind="stable")[:n]
    return rows[np.sort(surest)], length - 2


def probabilities(logits: Array) -> Array:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p: Array = e / e.sum(axis=-1, keepdims=True)
    return p


if options.prompt is None:
    tokens, subject = choose_prompts(model, 8)
else:
    tokens, subject = model.to_tokens(options.prompt), options.subject
n_prompts, n_pos = tokens.shape
end = n_pos - 1
if not 0 < subject < end:
    raise InputError(
        f"--subject: position {subject} of a prompt with positions 0 to {end}; give one behind the first and before "
        "the last"
    )
str_tokens = model.to_str_tokens(tokens[0])
labels = [Token(piece) if i != subject or n_prompts == 1 else f"{i} subject" for i, piece in enumerate(str_tokens)]
_, kept = model.run_with_cache(tokens, lambda name: name.endswith("hook_resid_pre"), positions=-1)
streams = [kept["resid_pre", layer] for layer in range(n_layers)]  # each [prompt, pos, d_model]
logits = model(tokens, positions=-1)[:, 0]  # [prompt, d_vocab]
clean = probabilities(logits)
ranked = np.argsort(-logits, axis=-1, kind="stable")[:, :2]
answer, rival = ranked[:, 0], ranked[:, 1]  # [prompt]: what the model says, and its second choice
rows = np.arange(n_prompts)

lesson.section("1. What is an edge, and what does its cut change?")
lesson.say(
    "Attention is the only way by which one position learns anything of another. An edge (query <- key) is one number "
    "of a pattern: how much the query's position takes from the key's. To cut it, its score is set to minus infinity "
    "before softmax: the weight becomes exactly 0, and the rest of the row shares what it had. All other edges "
    "stay.\n\n"
    f"What does the last position need to read? The prompts are {n_prompts} of one form and length; the answer is what "
    "the model says without any cut. Three figures for each cut: KL, how far the whole prediction moves (in bits), the "
    "fall of the logit difference between the answer and the model's second choice, and how many predictions change."
)
lesson.table(
    ["prompt", "the model says", "probability", "second choice", "logit difference"],
    [
        [model.to_string(tokens[i]), Token(model.to_str_tokens(answer[i : i + 1])[0]), float(clean[i, answer[i]]),
         Token(model.to_str_tokens(rival[i : i + 1])[0]), float(logits[i, answer[i]] - logits[i, rival[i]])]
        for i in rows
    ],
    formats={"probability": ".3f", "logit difference": "+.2f"},
)  # fmt: skip

Measured = dict[str, Array]  # "kl", "fall", "changed", "answer": each [..., prompt]


def measure(after: Array) -> Measured:
    """What a cut has changed: after [..., prompt, d_vocab] logits against the clean run."""
    p = probabilities(after)
    log_ratio = np.log2(np.maximum(clean, 1e-30)) - np.log2(np.maximum(p, 1e-30))
    gap = after[..., rows, answer] - after[..., rows, rival]
    return {
        "kl": (clean * log_ratio).sum(axis=-1),
        "fall": (logits[rows, answer] - logits[rows, rival]) - gap,
        "changed": (after.argmax(axis=-1) != answer).astype(np.float32),
        "answer": p[..., rows, answer],
    }


def stacked(parts: Sequence[Measured]) -> Measured:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


# %% 2. Every edge, in all layers
lesson.section("2. Every edge, cut in all layers at once")
lesson.say(
    "First the coarse picture: each edge of the prompt is cut in every head of every layer. (A position's edge to "
    "itself may be cut too; only position 0 has no other edge and must keep it.) Look for the last row: which words "
    "does the prediction need to be read directly? And at column 0, of which more below."
)


def cut(query: int, key: int, row: int, n_rows: int) -> Callback:
    """Cut one edge in all heads, in block `row` of a batch of blocks of n_rows prompts."""

    def callback(scores: Array, hook: HookPoint) -> Array:
        edited = scores.copy()  # [block * prompt, n_heads, query_pos, key_pos]
        edited[row * n_rows : (row + 1) * n_rows, :, query, key] = -math.inf
        return edited

    return callback


edges = [(query, key) for query in range(1, n_pos) for key in range(query + 1)]
everywhere = [get_act_name("attn_scores", layer) for layer in range(n_layers)]
all_cut = model.run_with_hooks(
    np.tile(tokens, (len(edges), 1)),
    [(everywhere, cut(query, key, i, n_prompts)) for i, (query, key) in enumerate(edges)],
    positions=-1,
)
by_edge = measure(all_cut[:, 0].reshape(len(edges), n_prompts, -1))  # each [edge, prompt]
grid = np.zeros((n_pos, n_pos), dtype=np.float32)
for i, (query, key) in enumerate(edges):
    grid[query, key] = by_edge["kl"][i].mean()
lesson.heatmap(
    grid[1:],
    row_labels=labels[1:],
    column_labels=labels,
    row_axis="query",
    column_axis="key",
    caption=f"KL in bits when an edge is cut in all {n_layers} layers, mean over {n_prompts} prompts",
    format="z.2f",
)
shown_edges = [i for i, (query, _) in enumerate(edges) if query == end]
lesson.table(
    ["edge", "KL", "fall", "predictions changed"],
    [
        [f"last <- {key} {'subject' if key == subject else show_token(str_tokens[key])}",
         *(float(by_edge[name][i].mean()) for name in ("kl", "fall")), float(by_edge["changed"][i].mean())]
        for i in shown_edges for key in [edges[i][1]]
    ],
    caption="the edges of the last position; fall: of the logit difference",
    formats={"KL": ".2f", "fall": "+.2f", "predictions changed": ".0%"},
)  # fmt: skip

# %% 3. At which depth?
lesson.section(f"3. At which depth? Windows of {width} layers")
lesson.say(
    "Now the last position's edges, cut only in a window of layers that slides through the model. What a window's cut "
    "destroys must be fetched in that window: before it, it was not there yet, and after it, it is no longer needed. "
    "The other words are the controls: their edges are cut in the same window. Only the last position's own rows "
    "change, so only it runs again, from the window's first layer on; all others' keys and values are kept from one "
    "run."
)


@cache
def prefix(first: int) -> KeyValueCache:
    """Keys and values of all positions but the last, from layer `first` on."""
    past = KeyValueCache(n_prompts, n_pos, config, streams[first].dtype)
    model(streams[first][:, :end], start_at_layer=first, stop_at_layer=n_layers, past_kv_cache=past)
    return past


def cut_keys(keys: Sequence[int], heads: Sequence[int] | None, value: float) -> Callback:
    """Of the last position, the only query that runs: block i of each prompt loses key i, in all heads or in heads[i].

    value: what stands there instead, -inf in the scores, or 0 in the pattern (then nobody gets the key's share).
    """

    def callback(found: Array, hook: HookPoint) -> Array:
        edited = found.reshape(n_prompts, -1, *found.shape[1:]).copy()  # [prompt, block, n_heads, 1, key_pos]
        for block, key in enumerate(keys):
            edited[:, block, slice(None) if heads is None else heads[block], :, key] = value
        return edited.reshape(found.shape)

    return callback


def run_last(window: range, keys: Sequence[int], heads: Sequence[int] | None = None, renormalise: bool = True) -> Array:
    """The logits [block, prompt, d_vocab] when block i loses the edge last <- keys[i] in a window of layers."""
    first, n_blocks = window.start, len(keys)
    name, value = ("attn_scores", -math.inf) if renormalise else ("pattern", 0.0)
    hooks = [([get_act_name(name, layer) for layer in window], cut_keys(keys, heads, value))]
    last = np.repeat(streams[first][:, end:], n_blocks, axis=0)  # [prompt * block, 1, d_model]
    out = model.run_with_hooks(last, hooks, start_at_layer=first, past_kv_cache=prefix(first).repeat(n_blocks))
    return out[:, 0].reshape(n_prompts, n_blocks, -1).transpose(1, 0, 2)


every_key = list(range(n_pos))
windows = [range(first, first + width) for first in range(n_layers - width + 1)]
by_window = stacked([
    measure(run_last(window, every_key)) for window in lesson.progress(windows, "windows", len(windows))
])  # each [window, key, prompt]  # fmt: skip
window_labels = [f"{window.start}-{window.stop - 1}" for window in windows]
lesson.heatmap(
    by_window["kl"].mean(axis=-1),
    row_labels=window_labels,
    column_labels=labels,
    row_axis="layers",
    column_axis="last <- key",
    caption=f"KL in bits when the last position no longer reads a word in {width} layers",
    format="z.2f",
)
others = [key for key in range(1, end) if key != subject]
series = {"subject": by_window["answer"][:, subject].mean(axis=-1).tolist()}
if others:
    series["other words, the worst"] = by_window["answer"][:, others].mean(axis=-1).min(axis=1).tolist()
series["first position"] = by_window["answer"][:, 0].mean(axis=-1).tolist()
lesson.lines(
    [window.start for window in windows],
    series,
    caption=f"probability of the answer (uncut: {float(clean[rows, answer].mean()):.2f}) when an edge is cut in a "
    "window",
    x_label="first layer of the window",
    y_label="probability",
    format="z.2f",
)
kl = by_window["kl"]  # [window, key, prompt]
worst = int(kl[:, subject].mean(axis=-1).argmax())
lesson.say(
    f"The subject's edge matters most in layers {window_labels[worst]}: KL {kl[worst, subject].mean():.2f} bits, and "
    f"{by_window['changed'][worst, subject].mean():.0%} of the predictions change. "
    + (
        f"In the same layers the other words' edges cost {kl[worst, others].mean():.3f} on average, "
        f"{kl[worst, others].mean(axis=-1).max():.3f} at most. "
        if others
        else ""
    )
    + "Geva et al. read such a picture as three steps: the subject's position gathers what is known of it in the "
    "layers below, the last position learns what is asked, and in these layers it fetches the attribute from the "
    "subject."
)

# %% 4. One layer, one head
lesson.section("4. One layer, and one head")
single = stacked([
    measure(run_last(range(layer, layer + 1), every_key))
    for layer in lesson.progress(range(n_layers), "single layers", n_layers)
])  # each [layer, key, prompt]  # fmt: skip
lesson.say(
    "Does it need a window, or is it one layer's work? And is it one head's? Each head in turn loses its edge last <- "
    "subject in one layer; all other heads keep theirs. Look for a single strong colour."
)
all_heads = list(range(n_heads))
by_head = stacked([
    measure(run_last(range(layer, layer + 1), [subject] * n_heads, all_heads))
    for layer in lesson.progress(range(n_layers), "single heads", n_layers)
])  # each [layer, head, prompt]  # fmt: skip
lesson.heatmap(
    by_head["fall"].mean(axis=-1),
    row_axis="layer",
    column_axis="head",
    caption="fall of the logit difference when one head no longer reads the subject from the last position",
    format="z.2f",
)
falls = by_head["fall"].mean(axis=-1)  # [layer, head]
top = [divmod(int(i), n_heads) for i in np.argsort(-np.abs(falls), axis=None, kind="stable")[:6]]


def interval(values: Array) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over prompts [prompt]."""
    drawn = rng.choice(values.astype(np.float64), (5000, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


head_rows = []
for layer, head in top:
    low, high = interval(by_head["fall"][layer, head])
    head_rows.append(
        [f"{layer}.{head}", float(falls[layer, head]), f"[{low:+.2f}, {high:+.2f}]",
         *(float(by_head[name][layer, head].mean()) for name in ("kl", "changed"))]
    )  # fmt: skip
lesson.table(
    ["head", "fall", "95 % interval", "KL", "predictions changed"],
    head_rows,
    caption="the six heads whose edge last <- subject matters most",
    formats={"fall": "+.2f", "KL": ".3f", "predictions changed": ".0%"},
)
layer_worst = int(single["kl"][:, subject].mean(axis=-1).argmax())
lesson.say(
    f"Cut in layer {layer_worst} alone, in all heads, the edge costs {single['kl'][layer_worst, subject].mean():.2f} "
    f"bits; in its worst window {kl[worst, subject].mean():.2f}. The head with the largest fall is "
    f"{top[0][0]}.{top[0][1]} ({falls[top[0]]:+.2f}), the next {top[1][0]}.{top[1][1]} ({falls[top[1]]:+.2f})."
)

# %% 5. The first position
lesson.section("5. The trap of the first position")
lesson.say(
    "A common demonstration cuts last <- 0 in one layer and reports that the prediction moves. It does. But the first "
    "position is a sink (lesson 7): heads that have nothing to say look there, because they must look somewhere. Cut "
    "that edge, and the row is shared out anew: a weight that stood for nothing now falls on real words, and the head "
    "says something it never says. So cut it in a second way: set the weight to 0 in the pattern, after softmax, and "
    "let nobody have the share. What remains of the effect is what was really read there; the rest came from the "
    "sharing out."
)
two_ways = {
    way: stacked([
        measure(run_last(window, [0, subject], renormalise=way == "shared out"))
        for window in lesson.progress(windows, way, len(windows))
    ])
    for way in ("shared out", "dropped")
}  # way -> each [window, key 0 or subject, prompt]  # fmt: skip
shown = sorted({round(i * (len(windows) - 1) / 7) for i in range(8)})
lesson.table(
    ["layers", "first, shared out", "first, dropped", "subject, shared out", "subject, dropped"],
    [
        [window_labels[w], *(float(two_ways[way]["kl"][w, key].mean()) for key in (0, 1) for way in two_ways)]
        for w in shown
    ],
    caption="KL in bits, for the first position's edge and the subject's, when the cut weight is shared out among the "
    "other keys, and when it is dropped",
    formats=dict.fromkeys(
        ["first, shared out", "first, dropped", "subject, shared out", "subject, dropped"], ".2f"
    ),
)  # fmt: skip
first_shared, first_dropped = (
    two_ways[way]["kl"][:, 0].mean(axis=0) for way in two_ways
)  # [prompt]: mean over windows
lesson.say(
    f"Over all windows the first position's edge costs {first_shared.mean():.2f} bits when its weight is shared out, "
    f"and {first_dropped.mean():.2f} when it is dropped: "
    + (
        f"{1 - first_dropped.mean() / first_shared.mean():.0%} of the effect was made by the cut itself."
        if first_dropped.mean() < first_shared.mean()
        else "here the sharing out is not what makes the effect."
    )
)

# %% 6. Checks and what was found
lesson.section("6. Checks and what was found")


def plain(window: range, key: int, head: int | None, row: int) -> Array:
    """One cut of one prompt in one run of all positions, from the tokens on: the logits [d_vocab]."""

    def callback(scores: Array, hook: HookPoint) -> Array:
        edited = scores.copy()
        edited[:, slice(None) if head is None else head, end, key] = -math.inf
        return edited

    names = [get_act_name("attn_scores", layer) for layer in window]
    found: Array = model.run_with_hooks(tokens[row : row + 1], [(names, callback)])[0, -1]
    return found


size = float(np.abs(logits).max())
checked = windows[worst]
lesson.check(
    "the last position alone, with the others' keys and values kept, equals a plain run (relative)",
    max(
        float(np.abs(run_last(checked, every_key)[subject, 0] - plain(checked, subject, None, 0)).max()),
        float(
            np.abs(
                run_last(range(top[0][0], top[0][0] + 1), [subject] * n_heads, all_heads)[top[0][1], -1]
                - plain(range(top[0][0], top[0][0] + 1), subject, top[0][1], n_prompts - 1)
            ).max()
        ),
    )
    / size,
    1e-4,
)
_, kept = model.run_with_cache(
    tokens,
    [get_act_name("pattern", layer) for layer in windows[0]],
    fwd_hooks=[([get_act_name("attn_scores", layer) for layer in windows[0]], cut(end, subject, 0, n_prompts))],
    positions=-1,
)
patterns = np.stack([kept["pattern", layer] for layer in windows[0]])
lesson.check("a cut edge has weight 0", float(np.abs(patterns[:, :, :, end, subject]).max()), 0.0)
lesson.check("its row still sums to 1", float(np.abs(patterns[:, :, :, end].sum(axis=-1) - 1).max()), 1e-5)
full_window = range(n_layers)
last_edge = edges.index((end, subject))
lesson.check(
    "cut in all layers, both ways of running agree (relative)",
    float(
        np.abs(run_last(full_window, [subject])[0] - all_cut[:, 0].reshape(len(edges), n_prompts, -1)[last_edge]).max()
    )
    / size,
    1e-4,
)
lesson.check("KL is never negative (bits)", float(max(0.0, -kl.min(), -by_head["kl"].min())), 1e-5)

answers_low = interval(kl[worst, subject])
if others:
    control = kl[:, others].mean(axis=-1).max()
    lesson.finding(
        f"The answer is fetched from the subject in a few layers: without the edge in layers {window_labels[worst]} "
        "the prediction is another one.",
        established=answers_low[0] > 3 * float(control) and float(by_window["changed"][worst, subject].mean()) > 0.5,
        evidence=f"KL {kl[worst, subject].mean():.2f} bits, 95 % bootstrap interval over {n_prompts} prompts "
        f"[{answers_low[0]:.2f}, {answers_low[1]:.2f}]; {by_window['changed'][worst, subject].mean():.0%} of the "
        "predictions change",
        control=f"the edges to the words between, in any window: {float(control):.2f} at most (mean over prompts); "
        "the bar is an interval above three times that, and more than half of the predictions changed",
    )
outside = [w for w, window in enumerate(windows) if window.stop <= layer_worst or window.start > layer_worst]
lesson.finding(
    f"One layer does most of it: layer {layer_worst}.",
    established=bool(outside)
    and interval(single["kl"][layer_worst, subject])[0] > 2 * float(kl[outside][:, subject].mean(axis=-1).max()),
    evidence=f"cut in that layer alone {single['kl'][layer_worst, subject].mean():.2f} bits (interval "
    f"[{interval(single['kl'][layer_worst, subject])[0]:.2f}, {interval(single['kl'][layer_worst, subject])[1]:.2f}])",
    control=(
        f"all windows of {width} layers without it: {float(kl[outside][:, subject].mean(axis=-1).max()):.2f} at most; "
        if outside
        else "no window is without it; "
    )
    + "the bar is an interval above twice that",
)
best_low, best_high = interval(by_head["fall"][top[0]])
second = float(np.abs(np.delete(falls.ravel(), top[0][0] * n_heads + top[0][1])).max())
lesson.finding(
    f"And one head does most of that: {top[0][0]}.{top[0][1]}.",
    established=best_low > 3 * second,
    evidence=f"its edge last <- subject alone takes {falls[top[0]]:+.2f} off the logit difference, interval "
    f"[{best_low:+.2f}, {best_high:+.2f}], and changes {by_head['changed'][top[0]].mean():.0%} of the predictions",
    control=f"the same edge in any of the other {n_layers * n_heads - 1} heads: {second:.2f} at most; the bar is an "
    "interval above three times that",
)
first_gap = interval(first_shared - first_dropped)
lesson.finding(
    "Most of what a cut of the first position's edge does is made by the cut itself.",
    established=first_gap[0] > 0 and float(first_dropped.mean()) < 0.5 * float(first_shared.mean()),
    evidence=f"{first_shared.mean():.2f} bits when the weight is shared out, {first_dropped.mean():.2f} when it is "
    f"dropped (mean over {len(windows)} windows); difference {float((first_shared - first_dropped).mean()):+.2f}, "
    f"interval [{first_gap[0]:+.2f}, {first_gap[1]:+.2f}]",
    control=f"the subject's edge in its worst window: {two_ways['shared out']['kl'][worst, 1].mean():.2f} shared out, "
    f"{two_ways['dropped']['kl'][worst, 1].mean():.2f} dropped; the bar is less than half, and an interval above 0",
)
lesson.say(
    "What this does not say. A cut shows that an edge is needed, not what comes over it, and an edge that is not "
    "needed may have a twin that does the same. The windows' width is a choice: wide ones find what several layers "
    "share, narrow ones say where. And all this is one form of prompt."
)
lesson.json["prompts"] = [
    {"prompt": model.to_string(tokens[i]), "answer": model.to_str_tokens(answer[i : i + 1])[0],
     "rival": model.to_str_tokens(rival[i : i + 1])[0], "probability": float(clean[i, answer[i]]),
     "logit_diff": float(logits[i, answer[i]] - logits[i, rival[i]])}
    for i in rows
]  # fmt: skip
lesson.json["positions"] = {"tokens": str_tokens, "subject": subject}
lesson.json["edges"] = [
    {"query": query, "key": key, **{name: float(values[i].mean()) for name, values in by_edge.items()}}
    for i, (query, key) in enumerate(edges)
]
lesson.json["windows"] = [
    {"layers": [window.start, window.stop - 1], "key": key,
     **{name: values[w, key].tolist() for name, values in by_window.items()}}
    for w, window in enumerate(windows) for key in every_key
]  # fmt: skip
lesson.json["single_layers"] = {name: values.tolist() for name, values in single.items()}
lesson.json["heads"] = {name: values.tolist() for name, values in by_head.items()}
lesson.json["two_ways"] = {
    way.replace(" ", "_"): {"first": values["kl"][:, 0].tolist(), "subject": values["kl"][:, 1].tolist()}
    for way, values in two_ways.items()
}
without = measure(run_last(full_window, [subject], renormalise=False))
lesson.exercise(
    "Cut last <- subject in all layers, but drop the weight instead of sharing it out. What is the KL then?",
    answer=f"{without['kl'].mean():.2f} bits (shared out: {by_edge['kl'][last_edge].mean():.2f})",
    hint="run_last(range(n_layers), [subject], renormalise=False)",
    minutes=5,
    difficulty="easy",
)
inner = [i for i, (query, key) in enumerate(edges) if query != end and key != 0 and query != key]
lesson.exercise(
    "Of all edges that neither end at the last position nor begin at the first, nor at the query itself: which one "
    "costs most when cut in all layers?",
    answer=(
        "{} <- {}, {:.2f} bits".format(*edges[max(inner, key=lambda i: by_edge["kl"][i].mean())],
                                       max(by_edge["kl"][i].mean() for i in inner))
        if inner else "there is none in a prompt this short"
    ),
    hint="edges and by_edge['kl'] have the same order",
    minutes=5,
    difficulty="easy",
)  # fmt: skip
but_one = [get_act_name("attn_scores", layer) for layer in range(n_layers) if layer != layer_worst]
spared = model.run_with_hooks(tokens, [(but_one, cut(end, subject, 0, n_prompts))], positions=-1)[:, 0]
lesson.exercise(
    f"Cut the subject's edge in all layers but {layer_worst}. How many predictions change?",
    answer=f"{int((spared.argmax(axis=-1) != answer).sum())} of {n_prompts}",
    hint="hooks on all layers but one, with the callback `cut`",
    minutes=10,
    difficulty="medium",
)
lesson.finish()
