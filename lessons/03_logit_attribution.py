# %% [markdown]
"""Which components drive the prediction?

What you will learn: to take a prediction apart into what every layer, head and neuron wrote for it, so that the parts
sum exactly to the whole, and why what a part wrote is not yet what it caused.

Hook points used: hook_embed, blocks.i.hook_attn_out, blocks.i.hook_mlp_out, blocks.i.attn.hook_z,
blocks.i.mlp.hook_post, blocks.i.hook_resid_pre, blocks.i.hook_resid_post, ln_final.hook_scale

Needs: lesson 0

Time: 25 minutes to read, 15 seconds to run

Paper: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits (the residual stream as a sum); Wang et al.
2022, Interpretability in the Wild (direct effect); McGrath et al. 2023, The Hydra Effect (what is taken out is made up
for)
"""

# %% Set-up
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tinymi import Model
from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint, get_act_name
from tinymi.lesson import Lesson, Token, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The Eiffel Tower is in", help="the prompt to take apart")
lesson.option("--answer", default=" Paris", help="the answer: one token, mostly with a space in front")
lesson.option("--foil", default=" London", help="what it is held against: one token, not the answer")
options = lesson.start()
model = lesson.load_model()
config, weights = model.config, model.weights
n_layers, n_heads = config.n_layers, config.n_heads
rng = np.random.default_rng(0)


def choose(model: Model, text: str, given: bool, instead: str) -> str:
    """The text if it is one token. A default that this tokenizer cannot write gives way; what you gave does not."""
    try:
        model.to_single_token(text)
    except InputError:
        if given:
            raise
        return instead
    return text


answer = choose(model, options.answer, options.answer != " Paris", "P")
foil = choose(model, options.foil, options.foil != " London", "L")
if answer == foil:
    raise InputError(f"--foil: {foil!r} is the answer itself; give another token to hold it against")

# %% 1. One prediction as a sum
lesson.section("1. One prediction as a sum")
lesson.say(
    "Every layer adds to the residual stream and nothing ever overwrites it. So the stream that makes the prediction, "
    "the last position's after the last layer, is a sum: the token's embedding, plus what each attention layer wrote, "
    "plus what each MLP wrote. Logits are read off that stream along fixed directions. If a thing is a sum, and we "
    "read it along a direction, then each part has a share of what we read.\n\n"
    "One step is in the way: the final norm divides the stream by its size. That size is one number, it comes from the "
    "whole stream, and we keep it as it was (people say: the norm's scale is frozen). With it, the shares add up "
    "exactly. What we read is a logit difference, answer minus foil: how much more the model wants the one than the "
    "other. What is good for both cancels."
)
lesson.code(
    """
# [d_model], at the last position:
x = embed + sum(attn_out[layer] + mlp_out[layer] for all layers)
# one number, frozen:
scale = sqrt(mean(x ** 2) + eps)
# [d_model]:
direction = ln_final * (W_U[:, answer] - W_U[:, foil]) / scale
# all shares together: logit(answer) - logit(foil)
share of a component = component @ direction
""",
    caption="the whole method",
)


@dataclass(frozen=True)
class Run:
    """One prompt's last position: what every component wrote there, and along which direction it is read."""

    prompt: str
    answer: str
    foil: str
    tokens: Tokens  # [1, pos]
    logits: Array  # [d_vocab]
    parts: Array  # [1 + 2 * n_layers, d_model]: the embedding, then attention and MLP of each layer in turn
    resid: Array  # [1 + n_layers, d_model]: the stream that enters each layer, and the last one
    scale: float
    direction: Array  # [d_model]

    @property
    def shares(self) -> Array:
        """Every component's share of the logit difference: [1 + 2 * n_layers]."""
        return self.parts @ self.direction

    def difference(self, logits: Array) -> float:
        return float(logits[..., self.ids[0]] - logits[..., self.ids[1]])

    @property
    def ids(self) -> tuple[int, int]:
        return model.to_single_token(self.answer), model.to_single_token(self.foil)


NAMES = ["embed", *(f"{layer}.{kind}" for layer in range(n_layers) for kind in ("attn_out", "mlp_out"))]
POINTS = ["hook_embed", *(f"blocks.{layer}.hook_{kind}_out" for layer in range(n_layers) for kind in ("attn", "mlp"))]
STREAMS = ["blocks.0.hook_resid_pre", *(get_act_name("resid_post", layer) for layer in range(n_layers))]


def take_apart(model: Model, prompt: str, answer: str, foil: str) -> Run:
    tokens = model.to_tokens(prompt)
    logits, cache = model.run_with_cache(tokens, [*POINTS, *STREAMS, "ln_final.hook_scale"], positions=-1)
    scale = float(cache["ln_final.hook_scale"][0, -1, 0])
    W_U, ids = model.weights.W_U, [model.to_single_token(answer), model.to_single_token(foil)]
    direction = model.weights.ln_final * (W_U[:, ids[0]] - W_U[:, ids[1]]) / scale
    parts, resid = (np.stack([cache[name][0, -1] for name in points]) for points in (POINTS, STREAMS))
    return Run(prompt, answer, foil, tokens, logits[0, 0], parts, resid, scale, direction)


def probability(logits: Array, token: int) -> float:
    return float(1 / np.exp(logits - logits[token]).sum())


def rank_of(logits: Array, token: int) -> int:
    return 1 + int((logits > logits[token]).sum())


run = take_apart(model, options.prompt, answer, foil)
logit_diff = run.difference(run.logits)
by_size = np.argsort(-np.abs(run.shares), kind="stable")
lesson.say(
    f'The prompt: "{run.prompt}". The answer {show_token(answer)} has rank {rank_of(run.logits, run.ids[0])} and '
    f"probability {probability(run.logits, run.ids[0]):.3f}, the foil {show_token(foil)} rank "
    f"{rank_of(run.logits, run.ids[1])} and {probability(run.logits, run.ids[1]):.3f}. The logit difference is "
    f"{logit_diff:+.2f}: the model {'favours the answer' if logit_diff > 0 else 'does not favour the answer'}.\n\n"
    f"Here are the {len(NAMES)} shares, layer by layer; the embedding has {float(run.shares[0]):+.2f}. Bars to the "
    "right are for the answer, to the left for the foil. Look at where they stand: early or late, attention or MLP?"
)
attn_shares, mlp_shares = run.shares[1::2], run.shares[2::2]  # each [n_layers]
lesson.bars(
    [f"layer {layer}" for layer in range(n_layers)],
    {"attention": attn_shares.tolist(), "MLP": mlp_shares.tolist()},
    caption=f"share of the logit difference {show_token(answer)} - {show_token(foil)}",
    format="+.2f",
)
totals = np.cumsum(run.shares)[0::2]  # [1 + n_layers]: after the embedding, after layer 0, ...
lesson.say(
    "The running total: what is there after each layer, if the rest were cut off (with the final scale). A rise at a "
    "layer is what it wrote. Does it climb steadily, or at once?"
)
lesson.lines(
    range(n_layers),
    totals[1:].tolist(),
    caption="running total of the shares",
    x_label="after layer",
    y_label="logit difference",
    format="+.2f",
)
half = int(np.flatnonzero(totals * np.sign(logit_diff) >= abs(logit_diff) / 2)[0]) - 1
against = float(run.shares[run.shares * logit_diff < 0].sum())
lesson.say(
    "The ten largest: "
    + ", ".join(f"`{NAMES[i]}` {run.shares[i]:+.2f}" for i in by_size[:10])
    + f". Half of the difference is first reached after {'the embedding' if half < 0 else f'layer {half}'}. "
    f"{int((run.shares * logit_diff < 0).sum())} of {len(NAMES)} components work the other way, {against:+.2f} in all."
)

# %% 2. One token, without a foil
lesson.section("2. One token, without a foil")
lesson.say(
    "A foil asks a sharper question, but a choice hides in it: what speaks for both tokens is invisible. Without a "
    "foil one can hold the answer against the mean logit of the whole vocabulary: the direction is then the answer's "
    "column of `W_U` minus the mean of all columns. (Adding one number to all logits changes no probability, so a bare "
    "logit means nothing; that is why something has to be held against it.) Look at what the foil had hidden: shares "
    "that are large here and were small above."
)
mean_direction = weights.ln_final * (weights.W_U[:, run.ids[0]] - weights.W_U.mean(axis=1)) / run.scale
token_shares = run.parts @ mean_direction  # [1 + 2 * n_layers]
above_mean = float(run.logits[run.ids[0]] - run.logits.mean())
lesson.table(
    ["component", "answer - vocabulary mean", "answer - foil"],
    [
        [NAMES[i], float(token_shares[i]), float(run.shares[i])]
        for i in np.argsort(-np.abs(token_shares), kind="stable")[:8]
    ]
    + [["all components", float(token_shares.sum()), float(run.shares.sum())]],
    caption="the eight components with the largest share of the answer's logit",
    formats={"answer - vocabulary mean": "+.2f", "answer - foil": "+.2f"},
)

# %% 3. Heads
lesson.section("3. Finer: every head")
lesson.say(
    "An attention layer is a sum too. Head h writes `z_h @ W_O_h`, and the heads' shares sum to their layer's. Look "
    "for strong colours; then, for the heads that write most, at the token the last position reads in them."
)


def head_shares(model: Model, run: Run) -> tuple[Array, Array]:
    """Every head's share [n_layers, n_heads], and what the last position reads [n_layers, n_heads, key_pos]."""
    points = [get_act_name(name, layer) for layer in range(model.config.n_layers) for name in ("z", "pattern")]
    _, cache = model.run_with_cache(run.tokens, points, positions=-1)
    shares = []
    for layer, block in enumerate(model.weights.blocks):
        z = cache["z", layer][0, -1][:, None, :]  # [n_heads, 1, d_head]
        written = (z @ block.heads.W_O)[:, 0]  # [n_heads, 1, d_head] @ [n_heads, d_head, d_model]
        shares.append(written @ run.direction)  # [n_heads]
    patterns = [cache["pattern", layer][0, :, -1] for layer in range(model.config.n_layers)]
    return np.stack(shares), np.stack(patterns)


heads, reading = head_shares(model, run)
lesson.heatmap(heads, caption="each head's share", row_axis="layer", column_axis="head", format="+.2f")
str_tokens = model.to_str_tokens(run.tokens[0])
top_heads = [divmod(int(i), n_heads) for i in np.argsort(-np.abs(heads), axis=None, kind="stable")[:6]]
head_rows = []
for layer, head in top_heads:
    weight = reading[layer, head]
    inner = 1 + int(weight[1:].argmax()) if len(weight) > 1 else 0
    head_rows.append(
        [f"{layer}.{head}", float(heads[layer, head]), float(weight[0]), Token(str_tokens[inner]), float(weight[inner])]
    )
lesson.table(
    ["head", "share", "reads first token", "else mostly", "weight"],
    head_rows,
    caption="the heads with the largest shares, and what the last position reads in them (attention weights)",
    formats={"share": "+.2f", "reads first token": ".2f", "weight": ".2f"},
)

# %% 4. Neurons
strongest = int(np.abs(mlp_shares).argmax())
lesson.section(f"4. Finer still: the neurons of MLP {strongest}")
lesson.say(
    f"The MLP with the largest share here is that of layer {strongest}, {mlp_shares[strongest]:+.2f}. It is a sum over "
    f"its {config.d_mlp:,} neurons: each writes its row of `W_out`, times its activation. A neuron's share is "
    "therefore two numbers: how strongly it is active here, and how far its row points along our direction. Look at "
    "both, and at which tokens the row promotes most whenever it is active as here."
)
_, cache = model.run_with_cache(run.tokens, [get_act_name("post", strongest)], positions=-1)
post = cache["post", strongest][0, -1]  # [d_mlp]
W_out = weights.blocks[strongest].W_out  # [d_mlp, d_model]
neurons = post * (W_out @ run.direction)  # [d_mlp]
top_neurons = np.argsort(-np.abs(neurons), kind="stable")[:8]
promoted = np.sign(post[top_neurons])[:, None] * (W_out[top_neurons] * weights.ln_final) @ weights.W_U  # [8, d_vocab]
neuron_rows = []
for n, logits in zip(top_neurons, promoted, strict=True):
    tokens = [int(token) for token in np.argsort(-logits, kind="stable")[:4]]
    pieces = " ".join(show_token(piece) for piece in model.to_str_tokens(tokens))
    neuron_rows.append([int(n), float(neurons[n]), float(post[n]), pieces])
lesson.table(
    ["neuron", "share", "activation", "promotes"],
    neuron_rows,
    caption=f"the eight neurons of layer {strongest} with the largest shares",
    formats={"share": "+.3f", "activation": "+.2f"},
)
top_sum = float(neurons[top_neurons].sum())
lesson.say(
    f"These eight of {config.d_mlp:,} neurons sum to {top_sum:+.2f}, the whole MLP to {mlp_shares[strongest]:+.2f}; "
    f"all its neurons, each without its sign, sum to {float(np.abs(neurons).sum()):.2f}: "
    + (
        "most of what the neurons write cancels within the layer."
        if np.abs(neurons).sum() > 2 * abs(mlp_shares[strongest])
        else "little of it cancels."
    )
)

# %% 5. How localised?
lesson.section("5. How localised is an answer?")
lesson.say(
    "Is a prediction the work of a few components or of many? One figure: how few components make up 80 % of all "
    "shares, each taken without its sign (with the signs, shares that cancel each other would count for nothing). 1 "
    f"would be a single component; {len(NAMES)} is all. The first prompt asks for a fact. The second, the control, is "
    "a phrase that goes on by itself. The third and fourth have the same answer and foil as the first but do not ask "
    "for them: one asks for some place, the other for none."
)


def localisation(shares: Array) -> int:
    """How few components make up 80 % of the sum of absolute shares."""
    sizes = np.sort(np.abs(shares))[::-1]
    return int(np.searchsorted(np.cumsum(sizes), 0.8 * sizes.sum())) + 1


other_answer, other_foil = choose(model, " day", False, "d"), choose(model, " night", False, "n")
control = take_apart(model, "At the end of the", other_answer, other_foil)
place = take_apart(model, "My friend lives in", answer, foil)
no_place = take_apart(model, "She drank a glass of", answer, foil)
runs = {"asks": run, "control": control, "asks for some place": place, "does not ask": no_place}
lesson.table(
    ["prompt", "answer - foil", "difference", "sum of sizes", "for 80 %", "largest", "its share"],
    [
        [r.prompt, f"{show_token(r.answer)} - {show_token(r.foil)}", r.difference(r.logits),
         float(np.abs(r.shares).sum()),
         localisation(r.shares), NAMES[int(np.abs(r.shares).argmax())],
         float(r.shares[np.abs(r.shares).argmax()])]
        for r in runs.values()
    ],
    caption=f"how large the shares are, and how few of {len(NAMES)} components make up 80 % of their sizes",
    formats={"difference": "+.2f", "sum of sizes": ".1f", "its share": "+.2f"},
)  # fmt: skip
lesson.say("The first two side by side. Are they the same components?")
side = sorted({int(i) for r in (run, control) for i in np.argsort(-np.abs(r.shares), kind="stable")[:8]})
lesson.bars(
    [NAMES[i] for i in side],
    {f"{show_token(r.answer)}": [float(r.shares[i]) for i in side] for r in (run, control)},
    caption="the components that are among the eight largest of the first prompt or of the control",
    format="+.2f",
)
asked = run.shares - no_place.shares
same = float(np.corrcoef(run.shares, no_place.shares)[0, 1])
asked_top = np.argsort(-np.abs(asked), kind="stable")[:6]
lesson.say(
    f'On "{no_place.prompt}", which asks for no place, {show_token(answer)} still leads {show_token(foil)} by '
    f"{no_place.difference(no_place.logits):+.2f}, made of shares that sum to {np.abs(no_place.shares).sum():.1f} "
    "without their signs. Shares of that size are there even where nothing is asked: a large share alone proves "
    f"nothing. The correlation of the two prompts' shares is {same:+.2f}. What the question adds shows in the "
    "difference of the two:"
)
lesson.table(
    ["component", "asks", "does not ask", "asks - does not"],
    [[NAMES[i], float(run.shares[i]), float(no_place.shares[i]), float(asked[i])] for i in asked_top],
    caption="the components whose share the question changes most",
    formats=dict.fromkeys(["asks", "does not ask", "asks - does not"], "+.2f"),
)

# More facts and more phrases, so that the figure has a spread.
FACTS = (
    ("The Colosseum is in", " Rome", " Paris"),
    ("The Acropolis is in", " Athens", " Rome"),
    ("The Louvre is in", " Paris", " London"),
    ("The Great Wall is in", " China", " Japan"),
    ("The capital of Italy is", " Rome", " Paris"),
    ("The capital of Spain is", " Madrid", " Rome"),
    ("The capital of Germany is", " Berlin", " Paris"),
    ("The capital of Russia is", " Moscow", " Berlin"),
    ("The capital of Greece is", " Athens", " Rome"),
    ("The capital of China is", " Beijing", " Tokyo"),
    ("The capital of England is", " London", " Paris"),
    ("The capital of Japan is", " Tokyo", " Beijing"),
)
PHRASES = (
    ("Thank you very", " much", " little"),
    ("Once upon a", " time", " place"),
    ("He shook his", " head", " hand"),
    ("She could not believe her", " eyes", " ears"),
    ("Last but not", " least", " most"),
    ("From time to", " time", " place"),
    ("He smiled from ear to", " ear", " nose"),
    ("They lived happily ever", " after", " before"),
    ("Better late than", " never", " always"),
    ("It was a matter of life and", " death", " love"),
    ("The best of both", " worlds", " words"),
    ("He looked left and", " right", " up"),
)


def known_ones(model: Model, asked: Iterable[tuple[str, str, str]]) -> list[Run]:
    """Those prompts whose answer is one token, and which the model gives a higher logit than the foil."""
    found = []
    for prompt, answer, foil in lesson.progress(asked, "prompts"):
        try:
            r = take_apart(model, prompt, answer, foil)
        except InputError:
            continue
        if r.difference(r.logits) > 0:
            found.append(r)
    return found


kinds = {"facts": known_ones(model, FACTS), "phrases": known_ones(model, PHRASES)}
figures = {kind: [localisation(r.shares) for r in found] for kind, found in kinds.items()}
gap, gap_interval = 0.0, (0.0, 0.0)
if min(map(len, figures.values())) >= 5:
    drawn = {kind: rng.choice(values, (5000, len(values))).mean(axis=1) for kind, values in figures.items()}
    gap = float(np.mean(figures["phrases"]) - np.mean(figures["facts"]))
    low, high = np.percentile(drawn["phrases"] - drawn["facts"], [2.5, 97.5])
    gap_interval = (float(low), float(high))
    lesson.say(
        "Two prompts are an anecdote. Over more of each kind, all of which the model answers with a positive "
        f"difference: {len(figures['facts'])} facts need {np.mean(figures['facts']):.1f} components on average "
        f"({min(figures['facts'])} to {max(figures['facts'])}), {len(figures['phrases'])} phrases "
        f"{np.mean(figures['phrases']):.1f} ({min(figures['phrases'])} to {max(figures['phrases'])})."
    )

# %% 6. What a component wrote, and what it caused
lesson.section("6. What a component wrote, and what it caused")
lesson.say(
    "A share is bookkeeping: it says what a component wrote along the direction, not what would happen without it. So "
    "take the ten components with the largest shares and remove each in turn. At the last position its write is set to "
    "zero, the layers above run again, and the logit difference falls by the total effect. That effect is three "
    "things, and they add up exactly:\n\n"
    "`direct`: the share itself. `later layers`: what the components above write otherwise, now that they read another "
    "stream. `norm`: the final scale is another one, so everything is read at another size.\n\n"
    "Beside it, the same removal with the component's mean instead of zero (its average write at the last position of "
    "the other prompts of this lesson: what is special to this prompt goes, the rest stays), and zero at every "
    "position, where other words' computations break too. Look for rows where `direct` and `total` disagree."
)


def remove(mean: Array) -> Callback:
    """Row 0 loses the write at the last position, row 1 gets the mean [d_model] there, row 2 loses it everywhere."""

    def callback(value: Array, hook: HookPoint) -> Array:
        edited = value.copy()  # [3, pos, d_model]
        edited[0, -1], edited[1, -1], edited[2] = 0, mean, 0
        return edited

    return callback


def parts_without(model: Model, run: Run, component: int, streams: Sequence[Array], mean: Array) -> Array:
    """What all components write at the last position in the three removals: [3, 1 + 2 * n_layers, d_model].

    streams: what enters each layer, [1, pos, d_model] each; the layers below the component need not run again.
    """
    hooks = [(POINTS[component], remove(mean))]
    if component == 0:
        _, cache = model.run_with_cache(np.tile(run.tokens, (3, 1)), POINTS, fwd_hooks=hooks, positions=-1)
        return np.stack([cache[name][:, -1] for name in POINTS], axis=1)
    start = (component - 1) // 2
    kept, below = POINTS[1 + 2 * start :], np.tile(run.parts[: 1 + 2 * start], (3, 1, 1))
    tiled = np.tile(streams[start], (3, 1, 1))
    _, cache = model.run_with_cache(tiled, kept, fwd_hooks=hooks, start_at_layer=start, positions=-1)
    return np.concatenate([below, np.stack([cache[name][:, -1] for name in kept], axis=1)], axis=1)


def read(run: Run, parts: Array, eps: float) -> Array:
    """The logit differences that sums of parts [..., component, d_model] give, each with a scale of its own."""
    x = parts.sum(axis=-2)
    scale = np.sqrt(np.mean(x * x, axis=-1) + eps)
    difference: Array = (x @ run.direction) * run.scale / scale
    return difference


def effects(run: Run, streams: Sequence[Array], component: int) -> dict[str, float]:
    """What the removal of one component does, and through what."""
    parts = parts_without(model, run, component, streams, mean_parts[component])
    total, mean, everywhere = (float(x) for x in run.difference(run.logits) - read(run, parts, config.rms_eps))
    direct = float(run.shares[component])
    later = float((run.parts - parts[0])[component + 1 :].sum(axis=0) @ run.direction)
    return {
        "direct": direct, "later layers": later, "norm": total - direct - later, "total": total,
        "mean": mean, "all positions": everywhere,
    }  # fmt: skip


def entering(model: Model, run: Run) -> list[Array]:
    """The stream that enters each layer, [1, pos, d_model] each."""
    points = [get_act_name("resid_pre", layer) for layer in range(model.config.n_layers)]
    _, cache = model.run_with_cache(run.tokens, points, positions=-1)
    return [cache[point] for point in points]


streams = entering(model, run)
references = [r.parts for r in (control, place, no_place, *kinds["facts"], *kinds["phrases"]) if r.prompt != run.prompt]
mean_parts = np.mean(references, axis=0)  # [1 + 2 * n_layers, d_model]
table = {i: effects(run, streams, i) for i in lesson.progress(range(len(NAMES)), "removing components", len(NAMES))}
ten = [int(i) for i in by_size[:10]]
columns = list(table[0])
lesson.table(
    ["component", *columns],
    [[NAMES[i], *table[i].values()] for i in ten],
    caption="removing the ten components with the largest shares, one at a time; the logit difference is "
    f"{logit_diff:+.2f}",
    formats=dict.fromkeys(columns, "+.2f"),
)
direct, total, averaged, everywhere = (
    np.array([row[name] for row in table.values()]) for name in ("direct", "total", "mean", "all positions")
)
order = np.argsort(-np.abs(total), kind="stable")
everywhere_order = np.argsort(-np.abs(everywhere), kind="stable")
eased = [i for i in ten if abs(total[i]) < 0.7 * abs(direct[i])]
grown = [i for i in ten if abs(total[i]) > 1.4 * abs(direct[i])]
turned = [i for i in ten if total[i] * direct[i] < 0]


def listed(components: Sequence[int]) -> str:
    return ", ".join(f"`{NAMES[i]}`" for i in components) or "none"


lesson.say(
    f"Causing less than 70 % of what they wrote, because the layers above make up for it: {listed(eased)}. Causing "
    f"more than 140 %, because the layers above build on it: {listed(grown)}. Of the other sign: {listed(turned)}.\n\n"
    f"And the other way round. Over all {len(NAMES)} components, those with the largest total effect at the last "
    "position are "
    + ", ".join(f"`{NAMES[i]}` ({total[i]:+.2f}, wrote {direct[i]:+.2f})" for i in order[:4])
    + "; set to zero at every position, "
    + ", ".join(f"`{NAMES[i]}` ({everywhere[i]:+.2f}, wrote {direct[i]:+.2f})" for i in everywhere_order[:4])
    + ". A component can write next to nothing along the direction and be needed by everything above it. Direct effect "
    "answers: who put the answer into words? Total effect answers: who is needed? What lies between them is the work "
    "that one component does for another, and it is where a circuit is to be looked for (lesson 5)."
)

# %% 7. Checks and what was found
lesson.section("7. Checks and what was found")
size = float(np.abs(run.shares).sum())
lesson.check(
    "all shares sum to the logit difference, for every prompt here (relative to the sum of their sizes)",
    max(abs(float(r.shares.sum()) - r.difference(r.logits)) / float(np.abs(r.shares).sum())
        for r in [*runs.values(), *kinds["facts"], *kinds["phrases"]]),
    1e-5,
)  # fmt: skip
lesson.check(
    "one token against the vocabulary mean: the shares sum to its logit above the mean (relative)",
    abs(float(token_shares.sum()) - above_mean) / float(np.abs(token_shares).sum()),
    1e-5,
)
lesson.check(
    "the heads' shares sum to their layer's (relative)",
    float(np.abs(heads.sum(axis=1) - attn_shares).max()) / size,
    1e-5,
)
lesson.check(
    f"the neurons' shares sum to MLP {strongest}'s (relative)",
    abs(float(neurons.sum()) - float(mlp_shares[strongest])) / size,
    1e-5,
)
lesson.check(
    "the running total after each layer is that layer's stream, read along the direction (relative)",
    float(np.abs(totals - run.resid @ run.direction).max()) / size,
    1e-5,
)


def plain_total(component: int) -> float:
    """The removal at the last position in one plain run from the tokens on."""

    def nothing_at_the_end(value: Array, hook: HookPoint) -> Array:
        edited = value.copy()
        edited[:, -1] = 0
        return edited

    logits = model.run_with_hooks(run.tokens, [(POINTS[component], nothing_at_the_end)])[0, -1]
    return logit_diff - run.difference(logits)


lesson.check(
    "removing a component and adding up equals a plain run without it (relative)",
    max(abs(plain_total(i) - float(total[i])) for i in (0, *ten[:3])) / size,
    1e-5,
)


def ranks(values: Array) -> Array:
    return values.argsort(kind="stable").argsort(kind="stable").astype(np.float64)


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's: the correlation of the ranks."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def late_share(run: Run) -> float:
    """How much of the shares' sizes stands in the last third of the layers."""
    first = 1 + 2 * (n_layers - n_layers // 3)
    return float(np.abs(run.shares[first:]).sum() / np.abs(run.shares).sum())


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval."""
    drawn = rng.choice(values, (5000, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.mean(values)), float(low), float(high)


lesson.json["prompts"] = [
    {
        "prompt": r.prompt, "answer": r.answer, "foil": r.foil, "why": why,
        "logit_diff": r.difference(r.logits), "sum": float(r.shares.sum()),
        "sum_of_sizes": float(np.abs(r.shares).sum()),
        "localisation": localisation(r.shares),
        "components": [
            {"name": name, "contribution": float(share)} for name, share in zip(NAMES, r.shares, strict=True)
        ] + ([
            {"name": f"{layer}.head.{head}", "contribution": float(heads[layer, head])}
            for layer in range(n_layers) for head in range(n_heads)
        ] if why == "asks" else []),
    }
    for why, r in [*runs.items(), *((kind, r) for kind, found in kinds.items() for r in found)]
]  # fmt: skip
lesson.json["against_vocabulary_mean"] = {
    "logit_above_mean": above_mean,
    "components": [{"name": n, "contribution": float(c)} for n, c in zip(NAMES, token_shares, strict=True)],
}
lesson.json["running_total"] = totals.tolist()
lesson.json["heads_read"] = [
    dict(zip(("head", "share", "first_token", "token", "weight"), (*row[:3], str(row[3]), row[4]), strict=True))
    for row in head_rows
]
lesson.json["neurons"] = {
    "layer": strongest, "sum_of_sizes": float(np.abs(neurons).sum()),
    "top": [dict(zip(("neuron", "share", "activation", "promotes"), row, strict=True)) for row in neuron_rows],
}  # fmt: skip
lesson.json["effects"] = [{"name": NAMES[i]} | row for i, row in table.items()]
late = {kind: mean_interval([late_share(r) for r in found]) for kind, found in kinds.items() if len(found) >= 5}
uniform = 2 * (n_layers // 3) / len(NAMES)
if "facts" in late:
    share, low, high = late["facts"]
    lesson.finding(
        "The answer is put into words late: the last third of the layers holds more than half of what is written for "
        "and against it.",
        established=low > 0.5,
        evidence=f"{share:.0%} of the shares' sizes over {len(kinds['facts'])} facts, 95 % bootstrap interval "
        f"[{low:.0%}, {high:.0%}]; for {run.prompt!r} {late_share(run):.0%}",
        control=f"spread evenly it would be {uniform:.0%}"
        + (f"; phrases {late['phrases'][0]:.0%}" if "phrases" in late else "")
        + f"; a prompt that does not ask {late_share(no_place):.0%}: late writing is a habit of the model, not of "
        "facts",
    )
if min(map(len, figures.values())) >= 5:
    lesson.finding(
        "Facts are more localised than phrases: fewer components make up 80 % of the shares.",
        established=gap_interval[0] > 0,
        evidence=f"{np.mean(figures['facts']):.1f} components for {len(figures['facts'])} facts, "
        f"{np.mean(figures['phrases']):.1f} for {len(figures['phrases'])} phrases, of {len(NAMES)}; difference "
        f"{gap:+.1f}, 95 % bootstrap interval [{gap_interval[0]:+.1f}, {gap_interval[1]:+.1f}]",
        control=f"the same answer and foil where nothing asks for them: {localisation(no_place.shares)}; the bar is an "
        "interval above 0. Neither kind is the work of a few components",
    )
lesson.json["localisation"] = figures | {"gap": gap, "interval": list(gap_interval)}
replicas = [r for r in kinds["facts"] if r.prompt != run.prompt][:2]
rho = {run.prompt: rank_correlation(np.abs(direct), np.abs(total))}
for r in replicas:
    entered = entering(model, r)
    found = [effects(r, entered, i) for i in lesson.progress(range(len(NAMES)), "another prompt")]
    rho[r.prompt] = rank_correlation(*(np.abs([row[name] for row in found]) for name in ("direct", "total")))
rho_mean = rank_correlation(np.abs(total), np.abs(averaged))
shuffled = [rank_correlation(np.abs(direct), rng.permutation(np.abs(total))) for _ in range(2000)]
bar = float(np.percentile(np.abs(shuffled), 95))
lesson.json["direct_and_total"] = {"rho": rho, "zero_and_mean": rho_mean, "chance": bar}
lesson.finding(
    "How much a component wrote does not say how much it is needed.",
    established=max(rho.values()) < 0.5 < rho_mean,
    evidence=f"rank correlation of direct and total effect, sizes of {len(NAMES)} components, on {len(rho)} prompts: "
    + ", ".join(f"{value:+.2f}" for value in rho.values())
    + " (bar: below 0.5 on each)",
    control=f"removal by zero and by the mean agree on who is needed, {rho_mean:+.2f} (bar: above 0.5), so the total "
    f"effect is no noise; dealt out at random the correlation is within {bar:.2f} of 0 in 95 % of 2,000 draws",
)
lesson.exercise(
    "Which head has the largest share against the answer, and how large is it?",
    answer=f"{int(heads.argmin()) // n_heads}.{int(heads.argmin()) % n_heads}, {heads.min():+.2f}",
    hint="np.unravel_index(heads.argmin(), heads.shape)",
    minutes=3,
    difficulty="easy",
)
swapped = take_apart(model, run.prompt, foil, answer)
lesson.exercise(
    "Swap answer and foil. What are the sum of the shares and the localisation then? Think before you run it.",
    answer=f"{swapped.shares.sum():+.2f}, {localisation(swapped.shares)}",
    hint="the direction changes its sign and nothing else does",
    minutes=5,
    difficulty="easy",
)
own = run.parts / np.sqrt(np.mean(run.parts**2, axis=1, keepdims=True) + config.rms_eps)
wrong = float((own @ (run.direction * run.scale)).sum())
lesson.exercise(
    "A tempting mistake: norm every component by its own size instead of the whole stream's. What do the shares sum "
    "to?",
    answer=f"{wrong:+.2f}, where the logit difference is {logit_diff:+.2f}",
    hint="divide each row of run.parts by its own root mean square, and undo the frozen scale in run.direction",
    minutes=10,
    difficulty="medium",
)
lesson.finish()
