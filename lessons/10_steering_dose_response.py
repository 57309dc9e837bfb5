# %% [markdown]
"""Can we steer the model, and what does a dose cost?

What you will learn: to make a direction from contrasting prompts, to add it to the residual stream in doses, and to
tell a steered model from a broken one: against random directions, and by what the model itself thinks of the text.

Hook points used: blocks.i.hook_resid_post

Needs: lessons 0 and 4

Time: 20 minutes to read, 25 seconds to run

Paper: Turner et al. 2023, Activation Addition: Steering Language Models Without Optimization; Rimsky et al. 2023,
Steering Llama 2 via Contrastive Activation Addition (difference of means over many pairs)
"""

# %% Set-up
import math
from collections.abc import Sequence

from tinymi import Model
from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint, get_act_name
from tinymi.lesson import Lesson, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--layer", type=int, help="the layer that is steered when the model writes; without it, the best one")
lesson.option("--prompt", default="Yesterday we watched a new film. It was", help="the prompt that is continued")
lesson.option("--tokens", type=int, default=12, metavar="N", help="tokens of each continuation, 1 to 100")
options = lesson.start()
if not 1 <= options.tokens <= 100:
    raise InputError(f"--tokens: {options.tokens}; give 1 to 100")
model = lesson.load_model()
config = model.config
n_layers = config.n_layers
if options.layer is not None and not 0 <= options.layer < n_layers:
    raise InputError(f"--layer {options.layer}: the model has layers 0 to {n_layers - 1}")
rng = np.random.default_rng(0)

# %% 1. A direction
PRAISE = (
    "I loved this book. The story was", "What a lovely day. The weather was", "The meal was delicious and the waiter",
    "She won the prize and her "
    "friends", "The garden is beautiful and the children", "We laughed all evening and the music",
    "The doctor was kind and the nurse", "He passed the exam and his mother",
)  # fmt: skip
BLAME = (
    "I hated this book. The story was", "What an awful day. The weather was", "The meal was disgusting and the waiter",
    "She lost the prize and her friends", "The garden is ugly and the children", "We argued all evening and the music",
    "The doctor was rude and the nurse", "He failed the exam and his mother",
)  # fmt: skip
# None of these has anything to do with books, meals or exams: the direction must work on prompts it was not made from.
NEUTRAL = (
    "I think that the new phone "
    "is", "My opinion of the hotel is", "The last concert in town was", "Our trip to the coast was",
    "People say that the teacher "
    "is", "The service in this shop is", "The house at the corner looks", "After the match the team felt",
)  # fmt: skip
GOOD = [
    "",
    "good",
    "great",
    "wonderful",
    "excellent",
    "beautiful",
    "amazing",
    "fantastic",
    "perfect",
    "lovely",
    "happy",
    "nice",
][1:]
BAD = ["", "bad", "terrible", "awful", "horrible", "poor", "ugly", "disappointing", "worst", "sad", "wrong", "boring"][
    1:
]
DOSES = (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)
N_RANDOM = 3

lesson.section("1. A direction from contrasting prompts")
lesson.say(
    f"Two sets of {len(PRAISE)} prompts that differ in one respect: something went well, or badly. For each layer we "
    "take the residual stream at the last token of every prompt and subtract the mean over the one set from the mean "
    "over the other. What the prompts share falls out, and what is peculiar to one pair is averaged away: that is why "
    "one pair is not enough. The difference, made to have length 1, is the layer's direction.\n\n"
    "To steer is to add it to the stream, at every position but the first (the sink has a stream of a size of its "
    "own), at one layer. The dose is in units of that layer's residual norm: 0.5 adds a vector half as long as the "
    "streams there usually are. Without such a unit a dose means nothing, as streams grow many times longer through "
    "the layers."
)


def last_streams(model: Model, prompts: Sequence[str]) -> Array:
    """The stream after each layer at each prompt's last token: [n_layers, prompt, d_model]."""
    points = [get_act_name("resid_post", layer) for layer in range(model.config.n_layers)]
    rows = []
    for prompt in prompts:
        _, cache = model.run_with_cache(model.to_tokens(prompt), points, positions=-1)
        rows.append(np.stack([cache[point][0, -1] for point in points]))
    return np.stack(rows, axis=1)


def lengths(x: Array) -> Array:
    """The length of each row: [..., d] -> [...]."""
    found: Array = np.sqrt(np.square(x).sum(axis=-1))
    return found


praise, blame = last_streams(model, PRAISE), last_streams(model, BLAME)  # each [n_layers, prompt, d_model]
difference = praise.mean(axis=1) - blame.mean(axis=1)  # [n_layers, d_model]
direction = difference / lengths(difference)[:, None]  # [n_layers, d_model], each of length 1
randoms = rng.standard_normal((N_RANDOM, n_layers, config.d_model), dtype=np.float32)
randoms /= lengths(randoms)[..., None]


def as_batches(model: Model, prompts: Sequence[str]) -> list[Tokens]:
    """The prompts' tokens, those of one length together: each [prompt, pos]."""
    rows = [model.to_tokens(prompt)[0] for prompt in prompts]
    return [np.stack([row for row in rows if len(row) == n]) for n in sorted({len(row) for row in rows})]


batches = as_batches(model, NEUTRAL)
points = [get_act_name("resid_post", layer) for layer in range(n_layers)]
caches = [model.run_with_cache(tokens, points, positions=-1) for tokens in batches]
streams = [[cache[point] for point in points] for _, cache in caches]  # batch -> layer -> [prompt, pos, d_model]
clean = np.concatenate([logits[:, 0] for logits, _ in caches])  # [prompt, d_vocab]
norms = np.array([
    float(np.mean(np.concatenate([lengths(batch[layer][:, 1:]).ravel() for batch in streams])))
    for layer in range(n_layers)
])  # [n_layers]: the usual length of a stream  # fmt: skip


def split_half(layer: int) -> float:
    """The cosine of the directions made from the odd and from the even pairs."""
    halves = [praise[layer, i::2].mean(axis=0) - blame[layer, i::2].mean(axis=0) for i in (0, 1)]
    return float(halves[0] @ halves[1] / (lengths(halves[0]) * lengths(halves[1])))


reliable = [split_half(layer) for layer in range(n_layers)]
shown_layers = sorted({round(i * (n_layers - 1) / 9) for i in range(10)})
lesson.say(
    "Is there a direction at all, or only noise of eight pairs? Make it twice, from the even and from the odd pairs: "
    "the cosine between the two says how far they agree (0: not at all, 1: the same). Look also at how much longer "
    "streams become."
)
lesson.table(
    ["layer", "usual length of a stream", "length of the difference", "cosine of the halves"],
    [[layer, norms[layer], float(lengths(difference[layer])), reliable[layer]] for layer in shown_layers],
    formats={
        "usual length of a stream": ".1f", "length of the difference": ".1f", "cosine of the halves": "+.2f",
    },
)  # fmt: skip

# %% 2. Every layer, every dose
lesson.section("2. Every layer, every dose")


def word_ids(model: Model, words: Sequence[str]) -> list[int]:
    """The words, with a space before them, that are one token; for a tokenizer with too few, their first letters."""
    found = []
    for text in [f" {word}" for word in words]:
        try:
            found.append(model.to_single_token(text))
        except InputError:
            continue
    return found if len(found) >= 3 else sorted({model.to_single_token(word[0]) for word in words})


good, bad = word_ids(model, GOOD), word_ids(model, BAD)
bad = [token for token in bad if token not in good]


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def odds(log_p: Array) -> Array:
    """log2 of P(a good word) / P(a bad word): [..., d_vocab] -> [...]."""
    p = np.exp(log_p)
    up, down = (np.log2(np.maximum(p[..., words].sum(axis=-1), 1e-30)) for words in (good, bad))
    bits: Array = up - down
    return bits


clean_log_p = log_softmax(clean)  # [prompt, d_vocab]


def steered(resid: Array, vectors: Array) -> Array:
    """A batch of blocks of prompts [block * prompt, pos, d_model] with vectors[block] added to all but position 0."""
    edited = resid.reshape(len(vectors), -1, *resid.shape[1:]).copy()  # [block, prompt, pos, d_model]
    edited[:, :, 1:] += vectors[:, None, None]
    return edited.reshape(resid.shape)


def respond(layer: int, vectors: Array) -> Array:
    """The log probabilities [block, prompt, d_vocab] when vectors [block, d_model] are added after a layer."""
    found = []
    for batch in streams:
        resid = steered(np.tile(batch[layer], (len(vectors), 1, 1)), vectors)
        logits = model(resid, start_at_layer=layer + 1, positions=-1)[:, 0]
        found.append(log_softmax(logits).reshape(len(vectors), len(batch[layer]), -1))
    return np.concatenate(found, axis=1)


def figures(log_p: Array) -> tuple[Array, Array]:
    """Of [block, prompt, d_vocab]: the change of the odds and KL(unsteered || steered), in bits, [block, prompt]."""
    kl: Array = (np.exp(clean_log_p) * (clean_log_p - log_p)).sum(axis=-1) / math.log(2)
    return odds(log_p) - odds(clean_log_p), kl


lesson.say(
    f"The prompts are now {len(NEUTRAL)} others, about phones, hotels and matches. Two figures for each layer and "
    f"dose: the answer, log2 of P(good word) / P(bad word) for the next token, of {len(good)} good words and "
    f"{len(bad)} bad ones ({', '.join(show_token(p) for p in model.to_str_tokens(good[:3]))} ... against "
    f"{', '.join(show_token(p) for p in model.to_str_tokens(bad[:3]))} ...), and KL, how far the whole prediction has "
    f"moved. Without steering the odds are {float(odds(clean_log_p).mean()):+.2f} bits. Look for layers where a small "
    "dose moves the odds in both directions."
)
doses = np.array(DOSES, dtype=np.float32)
found = []
for layer in lesson.progress(range(n_layers), "doses", n_layers):
    vectors = doses[:, None] * float(norms[layer]) * direction[layer]  # [dose, d_model]
    found.append(figures(respond(layer, vectors)))
answer, kl_of = (np.stack(values) for values in zip(*found, strict=True))  # each [n_layers, dose, prompt]
dose_labels = [f"{dose:+g}" for dose in DOSES]
lesson.heatmap(
    answer.mean(axis=-1), column_labels=dose_labels, row_axis="layer", column_axis="dose", format="+.1f",
    caption=f"change of the odds in bits, mean over {len(NEUTRAL)} prompts",
)  # fmt: skip
lesson.heatmap(
    kl_of.mean(axis=-1), column_labels=dose_labels, row_axis="layer", column_axis="dose", format=".1f", center=None,
    caption="KL from the unsteered prediction, in bits",
)  # fmt: skip
up, down = DOSES.index(0.5), DOSES.index(-0.5)
swing = answer[:, up] - answer[:, down]  # [n_layers, prompt]: from dose -0.5 to +0.5
lower = max(n_layers - n_layers // 3, 1)  # the layers below the last third
best = options.layer if options.layer is not None else int(swing[:lower].mean(axis=-1).argmax())
HALF = np.array([-0.5, 0.5], dtype=np.float32)


def respond_to_random(layer: int) -> tuple[Array, Array]:
    """Change of the odds and KL under random directions at dose -0.5 and 0.5: each [random, dose, prompt]."""
    vectors = HALF[None, :, None] * float(norms[layer]) * randoms[:, layer, None]  # [random, dose, d_model]
    change, kl = figures(respond(layer, vectors.reshape(-1, config.d_model)))
    return change.reshape(N_RANDOM, 2, -1), kl.reshape(N_RANDOM, 2, -1)


compared = sorted({*shown_layers, best})
control = {layer: respond_to_random(layer) for layer in lesson.progress(compared, "random directions", len(compared))}
random_swing = {layer: np.abs((change[:, 1] - change[:, 0]).mean(axis=-1)) for layer, (change, _) in control.items()}
lesson.say(
    "The control: random directions of the same length. From dose -0.5 to +0.5 the odds swing by so much, with our "
    f"direction and with {N_RANDOM} random ones (mean of the sizes); and KL at these doses. A KL that is as large "
    "under a random direction says that the model is being shaken, not steered."
)
lesson.table(
    ["layer", "swing", "random", "KL", "KL, random"],
    [
        [layer, float(swing[layer].mean()), float(random_swing[layer].mean()),
         float(kl_of[layer, [down, up]].mean()), float(control[layer][1].mean())]
        for layer in compared
    ],
    formats={"swing": "+.2f", "random": ".2f", "KL": ".2f", "KL, random": ".2f"},
)  # fmt: skip
per_bit = swing.mean(axis=-1) / np.maximum(kl_of[:, [down, up]].mean(axis=(1, 2)), 1e-6)  # [n_layers]

# %% 3. What does it write?
lesson.section(f"3. What does it write? Layer {best}")
WRITTEN = (-1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0)
lesson.say(
    f"Layer {best} "
    + (
        "was asked for. "
        if options.layer is not None
        else "has the largest swing of the lower two thirds (above, a direction acts almost directly on the logits of "
        "the words that we count). "
    )
    + f'The model continues "{options.prompt}" greedily, {options.tokens} tokens, with the direction added in every '
    "step. Fluency is judged by the model itself, unsteered: its loss on the continuation, in bits per token (what is "
    "likely costs little). Loops are likely too, so look at the last column as well: how many of the tokens are "
    "different ones. Look for the dose at which the text turns, and the one at which it falls apart."
)


def steer_rows(vectors: Array) -> Callback:
    """Adds vectors[row] to each row at every position but the prompt's first.

    With a key-value cache a step sees only the newest position; the first run sees the whole prompt.
    """

    def callback(resid: Array, hook: HookPoint) -> Array:
        edited = resid.copy()  # [row, pos, d_model]
        begin = 1 if resid.shape[1] > 1 else 0
        edited[:, begin:] += vectors[:, None]
        return edited

    return callback


def write(vectors: Array, layer: int) -> Tokens:
    """The continuation of the prompt under each of the vectors [row, d_model]: [row, n]."""
    prompt = np.repeat(model.to_tokens(options.prompt), len(vectors), axis=0)
    hooks = [(points[layer], steer_rows(vectors))]
    return model.generate(prompt, options.tokens, fwd_hooks=hooks)[:, prompt.shape[1] :]


def own_loss(written: Tokens) -> Array:
    """The unsteered model's loss on each continuation, bits per token: [row]."""
    prompt = np.repeat(model.to_tokens(options.prompt), len(written), axis=0)
    log_p = log_softmax(model(np.hstack([prompt, written])[:, :-1], positions=slice(prompt.shape[1] - 1, None)))
    loss: Array = -np.take_along_axis(log_p, written[..., None], axis=-1)[..., 0].mean(axis=-1) / math.log(2)
    return loss


if model.to_tokens(options.prompt).shape[1] < 2:
    raise InputError("--prompt: one token, and the first is not steered; give a longer prompt")
amounts = np.array(WRITTEN, dtype=np.float32)[:, None] * float(norms[best])
written = write(amounts * direction[best], best)
loss = own_loss(written)
random_written = [write(amounts * randoms[i, best], best) for i in range(2)]
random_loss = np.stack([own_loss(rows) for rows in random_written])  # [random, dose]


def text_of(row: Tokens) -> str:
    """A continuation as text; where it holds ids that the tokenizer has not, piece by piece."""
    try:
        return model.to_string(row)
    except InputError:
        return "".join(model.to_str_tokens(row))


def different(rows: Tokens) -> list[float]:
    """The share of tokens that are different ones, for each row."""
    return [len(set(row.tolist())) / len(row) for row in rows]


lesson.table(
    ["dose", "continuation", "loss", "different"],
    [
        [f"{dose:+g}", text_of(row).replace("\n", " ⏎ "), float(bits), share]
        for dose, row, bits, share in zip(WRITTEN, written, loss, different(written), strict=True)
    ],
    caption="what the model writes under each dose of the direction",
    formats={"loss": ".2f", "different": ".0%"},
)
lesson.table(
    ["dose", "continuation", "loss", "different"],
    [
        [f"{dose:+g}", text_of(row).replace("\n", " ⏎ "), float(bits), share]
        for dose, row, bits, share in zip(
            WRITTEN, random_written[0], random_loss[0], different(random_written[0]), strict=True
        )
    ],
    caption="the control: the same doses of a random direction",
    formats={"loss": ".2f", "different": ".0%"},
)
lesson.lines(
    WRITTEN,
    {"our direction": loss.tolist(), "random directions, mean": random_loss.mean(axis=0).tolist()},
    caption="the unsteered model's loss on the continuation",
    x_label="dose",
    y_label="bits per token",
    format=".2f",
)

# %% 4. Checks and what was found
lesson.section("4. Checks and what was found")
zero = respond(best, np.zeros((1, config.d_model), np.float32))[0]
lesson.check("dose 0 changes nothing (log probabilities)", float(np.abs(zero - clean_log_p).max()), 1e-3)
tokens = batches[0]
vector = 0.5 * float(norms[best]) * direction[best][None]


def add_vector(resid: Array, hook: HookPoint) -> Array:
    return steered(resid, vector)


plain = model.run_with_hooks(tokens, [(points[best], add_vector)], positions=-1)[:, 0]
lesson.check(
    "starting again behind the layer equals a plain run with a hook (log probabilities)",
    float(np.abs(respond(best, vector)[0, : len(tokens)] - log_softmax(plain)).max()),
    1e-3,
)
lesson.check("directions have length 1", float(np.abs(lengths(direction) - 1).max()), 1e-5)
prompt_rows = np.repeat(model.to_tokens(options.prompt), 3, axis=0)
some = [0, len(WRITTEN) // 2, len(WRITTEN) - 1]
hooks = [(points[best], steer_rows(amounts[some] * direction[best]))]
slow = model.generate(prompt_rows, options.tokens, fwd_hooks=hooks, use_past_kv_cache=False)[:, prompt_rows.shape[1] :]
lesson.check(
    "writing with a key-value cache gives the same tokens as without", float((slow != written[some]).sum()), 0.0
)


def interval(values: Array) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval over prompts."""
    drawn = rng.choice(values.astype(np.float64), (5000, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


mean, low, high = interval(swing[best])
random_best = random_swing[best]  # [random]
lesson.finding(
    f"The direction steers: added after layer {best} it moves the odds of good against bad words, on prompts it was "
    "not made from.",
    established=low > 2 * float(random_best.max()) and low > 0,
    evidence=f"from dose -0.5 to +0.5 the odds swing by {mean:+.2f} bits, 95 % bootstrap interval over {len(NEUTRAL)} "
    f"prompts [{low:+.2f}, {high:+.2f}]",
    control=f"random directions of the same length {', '.join(f'{x:.2f}' for x in random_best)} (sizes); the bar is an "
    "interval above twice the largest",
)
rising = [layer for layer in range(n_layers) if (np.diff(answer[layer, down : up + 1].mean(axis=-1)) > 0).all()]
lesson.finding(
    "Dose and response go together between -0.5 and +0.5: more is more, in both directions.",
    established=best in rising,
    evidence=f"layer {best}: "
    + ", ".join(f"{label} {x:+.2f}" for label, x in zip(dose_labels, answer[best].mean(axis=-1), strict=True))
    + f" bits; so in {len(rising)} of {n_layers} layers",
    control="an order of four doses comes out rising by chance in 1 of 24 layers",
)
large = [i for i, dose in enumerate(WRITTEN) if abs(dose) == 1]
small = [i for i, dose in enumerate(WRITTEN) if abs(dose) <= 0.1]
cost, before = float(loss[large].mean()), float(loss[small].mean())
lesson.finding(
    "A dose costs fluency: at one residual norm the model itself finds its text far less likely.",
    established=cost > 2 * before,
    evidence=f"{cost:.2f} bits per token at dose 1 in either direction, {before:.2f} at 0.1 and below",
    control=f"random directions at dose 1: {float(random_loss[:, large].mean()):.2f}; the bar is twice the loss of "
    "small doses",
)
late = float(swing[lower:].mean()) if lower < n_layers else 0.0
lesson.say(
    f"In which layer? The largest swing is in layer {int(swing.mean(axis=-1).argmax())}; per bit of KL, that is for "
    f"the least disturbance, layer {int(per_bit.argmax())} is best. The last third of the layers swings by {late:+.2f} "
    "on average: there a direction acts almost directly on the logits of the words counted, and proves little about "
    "what the model understands (lesson 3).\n\n"
    "What this does not say. That the direction is 'sentiment': it is what these sixteen prompts differ in, and words "
    "like 'won' and 'lost' are part of it. That the model uses this direction when nobody steers. And a steered odds "
    "figure is not a steered text: read the continuations."
)
lesson.json["direction"] = [
    {"layer": layer, "residual_norm": norms[layer], "difference_norm": float(lengths(difference[layer])),
     "cosine_of_halves": reliable[layer]}
    for layer in range(n_layers)
]  # fmt: skip
lesson.json["prompts"] = {"praise": PRAISE, "blame": BLAME, "neutral": [model.to_string(r) for b in batches for r in b]}
lesson.json["words"] = {"good": model.to_str_tokens(good), "bad": model.to_str_tokens(bad)}
lesson.json["unsteered_odds"] = odds(clean_log_p).tolist()
lesson.json["doses"] = list(DOSES)
lesson.json["odds_change"], lesson.json["kl"] = answer.tolist(), kl_of.tolist()
lesson.json["random"] = [
    {"layer": layer, "doses": HALF.tolist(), "odds_change": change.tolist(), "kl": kl.tolist()}
    for layer, (change, kl) in control.items()
]
lesson.json["layer"] = best
lesson.json["continuations"] = [
    {"dose": dose, "text": text_of(row), "token_ids": row.tolist(), "loss": float(bits), "different": share,
     "random": [
         {"text": text_of(rows[i]), "loss": float(random_loss[r, i])} for r, rows in enumerate(random_written)
     ]}
    for i, (dose, row, bits, share) in enumerate(zip(WRITTEN, written, loss, different(written), strict=True))
]  # fmt: skip
cosine = float(direction[best] @ direction[max(best - 1, 0)])
lesson.exercise(
    f"How alike are the directions of layers {max(best - 1, 0)} and {best}? Compute their cosine.",
    answer=f"{cosine:.3f}",
    hint="both have length 1, so it is their dot product",
    minutes=3,
    difficulty="easy",
)
logit_direction = direction[best] * model.weights.ln_final @ model.weights.W_U  # [d_vocab]
tops = [int(token) for token in np.argsort(-logit_direction, kind="stable")[:5]]
lesson.exercise(
    f"Which five tokens does the direction of layer {best} promote if it is sent straight through the unembedding?",
    answer=" ".join(show_token(piece) for piece in model.to_str_tokens(tops)),
    hint="direction * ln_final @ W_U; no layer in between",
    minutes=5,
    difficulty="easy",
)
one_pair = praise[best, 0] - blame[best, 0]
lesson.exercise(
    f"Make the direction of layer {best} from the first pair alone. What is its cosine with the one from all pairs?",
    answer=f"{float(one_pair @ direction[best] / lengths(one_pair)):.3f}",
    hint="praise[best, 0] - blame[best, 0], divided by its length",
    minutes=5,
    difficulty="medium",
)
lesson.finish()
