# %% [markdown]
"""How does the model build up its answer?

What you will learn: to read the residual stream after every layer with the model's own unembedding (the logit
lens), to see at which layer an answer comes up and where it stays, and what the lens shows when there is nothing
to see.

Hook points used: hook_embed, blocks.i.hook_resid_post

Needs: lesson 0

Time: 20 minutes to read, 5 seconds to run

Paper: nostalgebraist 2020, interpreting GPT: the logit lens; Belrose et al. 2023, Eliciting Latent Predictions
from Transformers with the Tuned Lens (why early layers are hard to read so)
"""

# %% Set-up
from collections import Counter
from typing import Any

from tinymi import Model
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.lesson import Lesson, Token, show_token

import numpy as np
import numpy.typing as npt

# Where several continuations are right, the one that the model finds likeliest is followed.
PROMPTS = {
    "The capital of France is": (" Paris",),
    "Barack Obama was born in": (" Hawaii", " Honolulu"),
    "The largest planet in the solar system is": (" Jupiter",),
    "Water freezes at zero degrees": (" Celsius",),
    "def fibonacci(n):": ("\n", "\n  ", "\n   ", "\n    ", "\n\t"),  # a new line, indented as the tokenizer has it
}
# More facts, by kind: a template and pairs of subject and answer.
CAPITALS = "Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, Russia Moscow, Egypt Cairo, Greece Athens, "
CAPITALS += "China Beijing, England London, Austria Vienna, Cuba Havana, Ireland Dublin"
OPPOSITES = "hot cold, up down, black white, left right, day night, big small, good bad, rich poor"
EVERYDAY = {
    "The chemical symbol for gold is": "Au", "Water is made of hydrogen and": "oxygen",
    "There are sixty seconds in a": "minute", "There are sixty minutes in an": "hour",
    "There are seven days in a": "week", "There are twelve months in a": "year",
    "The Statue of Liberty is in New": "York", "The Earth orbits the": "Sun",
    "A baby cat is called a": "kitten", "One, two, three, four,": "five",
    "The day after Monday is": "Tuesday", "Distance is measured in meters and time in": "seconds",
}  # fmt: skip

lesson = Lesson(__doc__)
lesson.option(
    "--prompt",
    action="append",
    metavar="TEXT[=>ANSWER]",
    help="one more prompt, and after the last => its right answer, which must be one token with its leading space: "
    '--prompt "Two plus two is=> four"; may be given several times',
)
options = lesson.start()
model = lesson.load_model()
config = model.config
n_layers = config.n_layers
ln_final, W_U, rms_eps = model.weights.ln_final, model.weights.W_U, config.rms_eps

# %% 1. The lens
lesson.section("1. The lens")
lesson.say(
    "A model turns its last residual stream into logits in two steps: the final norm, and one matmul with the "
    "unembedding `W_U`. Every layer reads and writes the same stream, so we may do these two steps after any layer, "
    "as if the model ended there, and see which token it would say. That is the logit lens. It looks at the last "
    "position only: the one that makes the prediction.\n\n"
    f"Layer L is the stream after layer L (`hook_resid_post`), so layer {n_layers - 1} is the model's real output. "
    "The row `embed` is what enters layer 0: the last token's own embedding. Rank 1 is the likeliest token."
)
lesson.code(
    """
scale  = sqrt(mean(resid ** 2) + eps)         # one number per layer and prompt
# [layers * prompts, d_model] @ [d_model, d_vocab]:
logits = (resid / scale * ln_final) @ W_U
""",
    caption="the whole lens",
)

Ranks = npt.NDArray[np.int64]


def lens(resid: Array, weight: Array, W_U: Array, eps: float) -> Array:
    """The logits of any residual streams: [..., d_model] -> [..., d_vocab], all in one matmul."""
    scale = np.sqrt(np.mean(resid * resid, axis=-1, keepdims=True) + eps)
    normalized = (resid / scale * weight).reshape(-1, resid.shape[-1])  # [rows, d_model]
    logits: Array = (normalized @ W_U).reshape(*resid.shape[:-1], -1)  # [..., d_vocab]
    return logits


def read(logits: Array) -> tuple[Array, Array]:
    """Of logits [..., d_vocab]: the probabilities, and their entropy in bits [...]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)  # so that exp cannot overflow
    e = np.exp(shifted)
    total = e.sum(axis=-1, keepdims=True)
    p = e / total
    entropy = (np.log(total[..., 0]) - (p * shifted).sum(axis=-1)) / float(np.log(2))
    return p, np.maximum(entropy, 0)


def rank_of(logits: Array, token: int) -> Ranks:
    """The rank of a token in logits [..., d_vocab]: 1 is the likeliest."""
    return np.asarray(1 + (logits > logits[..., token, None]).sum(axis=-1), dtype=np.int64)


def first_and_stable(hit: npt.NDArray[np.bool_]) -> tuple[int | None, int | None]:
    """Of one yes or no per layer: the first yes, and the first layer from which all are yes."""
    misses = np.flatnonzero(~hit)
    stable = int(misses[-1]) + 1 if len(misses) else 0
    return (int(hit.argmax()) if hit.any() else None), (stable if stable < len(hit) else None)


def residual_streams(model: Model, prompts: list[str]) -> list[Array]:
    """For each prompt [1 + n_layers, pos, d_model]: the embedding, then every layer. One batch per prompt length."""
    points = ["hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(model.config.n_layers))]
    tokens = [model.to_tokens(prompt) for prompt in prompts]
    streams: list[Array] = [np.empty(0)] * len(prompts)
    for n_pos in {row.shape[1] for row in tokens}:
        group = [i for i, row in enumerate(tokens) if row.shape[1] == n_pos]
        _, cache = model.run_with_cache(np.vstack([tokens[i] for i in group]), points, positions=-1)
        stacked = np.stack([cache[point] for point in points], axis=1)  # [batch, 1 + n_layers, pos, d_model]
        for row, i in enumerate(group):
            streams[i] = stacked[row]
    return streams


def single_tokens(model: Model, texts: tuple[str, ...]) -> list[int]:
    """The ids of those texts that the tokenizer can write as one token."""
    found = []
    for text in texts:
        try:
            found.append(model.to_single_token(text))
        except InputError:
            continue
    return found


# %% 2. The prompts
asked: list[tuple[str, list[int]]] = [(prompt, single_tokens(model, texts)) for prompt, texts in PROMPTS.items()]
for given in options.prompt or []:
    prompt, arrow, answer_text = given.rpartition("=>")
    if arrow and not answer_text:
        raise InputError(f'--prompt {given!r}: has no answer after the last =>; write "TEXT=> ANSWER" or TEXT alone')
    asked.append((prompt, [model.to_single_token(answer_text)]) if arrow else (answer_text, []))
prompts = [prompt for prompt, _ in asked]
streams = residual_streams(model, prompts)
resid = np.stack([stream[:, -1] for stream in streams])  # [prompts, 1 + n_layers, d_model]
logits = lens(resid, ln_final, W_U, rms_eps)  # [prompts, 1 + n_layers, d_vocab]
probabilities, entropy = read(logits)
top = logits.argmax(axis=-1)  # [prompts, 1 + n_layers]
top_p = probabilities.max(axis=-1)
final = [int(token) for token in top[:, -1]]
known = [bool(choices) for _, choices in asked]
# What is followed: the right answer, or the model's own last word where none was given or none is one token.
answers = [
    max(choices, key=lambda token: float(logits[i, -1, token])) if choices else final[i]
    for i, (_, choices) in enumerate(asked)
]
text_of = {int(t): model.to_str_tokens([int(t)])[0] for t in {*top.ravel().tolist(), *answers}}
ranks = np.stack([rank_of(logits[i], token) for i, token in enumerate(answers)])  # [prompts, 1 + n_layers]
answer_p = np.stack([probabilities[i, :, token] for i, token in enumerate(answers)])
answer_at = [first_and_stable(top[i, 1:] == token) for i, token in enumerate(answers)]
final_at = [first_and_stable(top[i, 1:] == token) for i, token in enumerate(final)]
right = [known[i] and final[i] == answers[i] for i in range(len(prompts))]
lesson.json["prompts"] = [
    {
        "prompt": prompt, "answer": text_of[answers[i]], "answer_id": answers[i],
        "answer_source": "right answer" if known[i] else "the model's own last word", "answered_right": right[i],
        "first_layer": answer_at[i][0], "stable_layer": answer_at[i][1],
        "final": {"token": text_of[final[i]], "token_id": final[i], "probability": float(top_p[i, -1]),
                  "first_layer": final_at[i][0], "stable_layer": final_at[i][1]},
        "layers": [
            {"layer": row - 1, "token": text_of[int(top[i, row])], "token_id": int(top[i, row]),
             "probability": float(top_p[i, row]), "answer_rank": int(ranks[i, row]),
             "answer_probability": float(answer_p[i, row]), "entropy_bits": float(entropy[i, row]),
             "final_token_probability": float(probabilities[i, row, final[i]])}
            for row in range(n_layers + 1)
        ],
    }
    for i, prompt in enumerate(prompts)
]  # fmt: skip
for entry in lesson.json["prompts"]:
    entry["embed"] = entry["layers"].pop(0) | {"layer": None}

lesson.section("2. The prompts, and what the model says to them")
lesson.say("Before we look inside: does the model know? Look at the rank of the right answer in its real output.")
lesson.table(
    ["prompt", "right answer", "its rank", "the model says", "probability"],
    [
        [prompt, Token(text_of[answers[i]]) if known[i] else None, int(ranks[i, -1]) if known[i] else None,
         Token(text_of[final[i]]), float(top_p[i, -1])]
        for i, prompt in enumerate(prompts)
    ],
    formats={"probability": ".3f"},
)  # fmt: skip
for i, prompt in enumerate(prompts):
    if known[i] and not right[i]:
        lesson.say(
            f'"{prompt}": the model does not give the right answer. {show_token(text_of[answers[i]])} ends at rank '
            f"{ranks[i, -1]} with probability {answer_p[i, -1]:.4f}; below we follow it, and beside it what the model "
            f"says instead, {show_token(text_of[final[i]])} ({top_p[i, -1]:.3f})."
        )
    elif not known[i]:
        lesson.say(
            f'"{prompt}": no right answer to follow'
            + (" (this tokenizer cannot write it as one token)" if prompt in PROMPTS else "")
            + f"; we follow the model's own last word, {show_token(text_of[final[i]])}."
        )
if "def fibonacci(n):" in prompts and known[prompts.index("def fibonacci(n):")]:
    lesson.say(
        "After a function's head comes a new line with indentation. Tokenizers glue these together in their own ways; "
        "of those that this one has as one token the model finds "
        f"{show_token(text_of[answers[prompts.index('def fibonacci(n):')]])} the likeliest. The last space of an "
        "indentation may belong to the next word."
    )

# %% 3. The matrix
lesson.section("3. Layer by layer: what would the model say if it ended here?")
lesson.say(
    "Each column is a prompt, read it downwards; the stronger a cell's colour, the more probable its token. A filled "
    "mark ■ stands where the right answer comes first and stays to the end; ▸ where it comes first but is lost again. "
    "Where the model does not end with a right answer, □ and ▹ do the same for its own last word. Look how long the "
    "columns say nothing about the question, and how sure of it they look."
)


def marked(i: int, row: int) -> str:
    """The cell's token, with a mark where the followed token first comes up or settles."""
    first, stable = final_at[i]
    mark = {first: "▸ " if right[i] else "▹ "} | {stable: "■ " if right[i] else "□ "}
    piece = text_of[int(top[i, row])]
    return mark[row - 1] + show_token(piece) if row - 1 in mark else Token(piece)


def short(text: str, size: int = 13) -> str:
    return text if len(text) <= size else "…" + text[1 - size :]


row_labels = ["embed", *range(n_layers)]
lesson.heatmap(
    top_p.T,
    row_labels=row_labels,
    column_labels=[short(prompt) for prompt in prompts],
    texts=[[marked(i, row) for i in range(len(prompts))] for row in range(n_layers + 1)],
    caption="likeliest token after each layer, coloured by its probability (columns: the ends of the prompts)",
    row_axis="layer",
    column_axis="prompt",
    color="probability",
    center=None,
)
lesson.table(
    ["prompt", "followed", "first at layer", "stays from layer", "the model says", "first", "stays from"],
    [
        [short(prompt, 20), Token(text_of[answers[i]]), *answer_at[i], Token(text_of[final[i]]), *final_at[i]]
        for i, prompt in enumerate(prompts)
    ],
    caption=f"where the right answer is top-1, and where the model's own last word is; the last layer is "
    f"{n_layers - 1}; a dash: never",
)

# %% 4. Probability, rank and entropy
lesson.section("4. Probability, rank and entropy through depth")
lesson.say(
    "Top-1 is a hard test; an answer climbs before it wins. Each cell is the rank of the followed token among all "
    f"{config.d_vocab:,}; where its probability is at least 0.001 it stands behind. A strong colour is a good rank. "
    "Look for the layer at which the ranks begin to fall."
)
lesson.heatmap(
    -np.log10(ranks.T),
    row_labels=row_labels,
    column_labels=[show_token(text_of[token]) for token in answers],
    texts=[
        [f"{r:,}" + (f"  {p:.3f}" if p >= 0.001 else "") for r, p in zip(ranks[:, row], answer_p[:, row], strict=True)]
        for row in range(n_layers + 1)
    ],
    caption="rank (1 = likeliest) and probability of the followed token",
    row_axis="layer",
    column_axis="token",
    color="-log10 of the rank",
    center=None,
)
lesson.say(
    "Entropy says how undecided a reading is: 0 bits when one token has all the probability, "
    f"{np.log2(config.d_vocab):.1f} bits when all {config.d_vocab:,} are equally likely. Is the lens undecided as "
    "long as the answer is not there?"
)
lesson.lines(
    range(n_layers),
    {f"{i + 1} {short(prompts[i])}": entropy[i, 1:].tolist() for i in range(len(prompts))},
    caption="entropy of the lens' distribution",
    x_label="layer",
    y_label="bits",
    format=".2f",
)
half = max(n_layers // 2, 1)
early_entropy, last_entropy = float(entropy[:, 1 : half + 1].mean()), float(entropy[:, -1].mean())
early_p = float(top_p[:, 1 : half + 1].mean())
early_tokens = Counter(top[:, 1 : half + 1].ravel().tolist())
lesson.say(
    f"In the first {half} layers the lens has {early_entropy:.2f} bits on average, in the last layer "
    f"{last_entropy:.2f}, and its likeliest token has probability {early_p:.2f}. "
    + (
        "So it is no more undecided early than at the end: a probability that the lens gives is not a belief of the "
        "model's. "
        if early_entropy <= last_entropy
        else "It is more undecided early than at the end. "
    )
    + f"These early layers give only {len(early_tokens)} different tokens in {early_tokens.total()} readings, most "
    "often " + ", ".join(f"{show_token(text_of[t])} ({n})" for t, n in early_tokens.most_common(3)) + "."
)

# %% 5. What the lens reads from nothing
N_SEEDS = 3
lesson.section("5. What does the lens read from nothing?")
lesson.say(
    "A lens shows something whatever you hold it over. So we hold it over streams that know nothing, and hold broken "
    f"lenses over the real streams: {len(prompts)} prompts x {n_layers} layers, {N_SEEDS} random seeds. The norm takes "
    "the length of a stream out, so the length of a random direction does not matter."
)
lesson.table(
    ["name", "stream", "norm weight"],
    [
        ["real lens", "as it is", "ln_final"],
        ["random direction", "normally distributed numbers", "ln_final"],
        ["shuffled stream", "its own numbers in another order", "ln_final"],
        ["shuffled norm", "as it is", "ln_final in another order"],
        ["other layer's norm", "as it is", "ln1 of a random layer, scaled to the size of ln_final"],
    ],
)
lesson.say("Look at how often the followed token shows up, and at how sure the lens is of nothing.")
real = resid[:, 1:]  # [prompts, n_layers, d_model]


def top_probability(logits: Array) -> Array:
    """The probability of the likeliest token: softmax at its largest logit."""
    return np.asarray(1 / np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1))


rng = np.random.default_rng(0)
size = float(np.sqrt(np.mean(np.square(ln_final))))
ln1s = [model.weights.blocks[i].ln1 for i in rng.permutation(np.resize(np.arange(n_layers), N_SEEDS))]
other_norms = [ln1 * (size / float(np.sqrt(np.mean(np.square(ln1))))) for ln1 in ln1s]
nothing: dict[str, list[tuple[Array, Array]]] = {  # name: (streams, norm weight) for each seed
    "real lens": [(real, ln_final)],
    "random direction": [(rng.standard_normal(real.shape, dtype=np.float32), ln_final) for _ in range(N_SEEDS)],
    "shuffled stream": [(rng.permuted(real, axis=-1), ln_final) for _ in range(N_SEEDS)],
    "shuffled norm": [(real, rng.permutation(ln_final)) for _ in range(N_SEEDS)],
    "other layer's norm": [(real, weight) for weight in other_norms],
}
rows = []
for name, seeds in nothing.items():
    seen_ranks, seen_p, seen_tokens, distinct = [], [], Counter[int](), []
    for resid_seen, weight in seeds:
        seen = lens(resid_seen, weight, W_U, rms_eps)  # [prompts, n_layers, d_vocab]
        seen_ranks.append(np.stack([rank_of(seen[i], token) for i, token in enumerate(answers)]))
        seen_p.append(float(top_probability(seen).mean()))
        tops = seen.argmax(axis=-1).ravel().tolist()
        seen_tokens.update(tops)
        distinct.append(len(set(tops)))
    r = np.stack(seen_ranks)  # [seeds, prompts, n_layers]
    favourites = [int(token) for token, _ in seen_tokens.most_common(3)]
    rows.append(
        {
            "control": name, "top_1": float((r == 1).mean()), "top_10": float((r <= 10).mean()),
            "top_10_by_seed": (r <= 10).mean(axis=(1, 2)).tolist(),
            "top_1_last_layer": float((r[:, :, -1] == 1).mean()), "mean_probability": float(np.mean(seen_p)),
            "distinct_tokens": float(np.mean(distinct)),
            "favourites": [
                {"token": model.to_str_tokens([token])[0], "share": seen_tokens[token] / seen_tokens.total()}
                for token in favourites
            ],
        }
    )  # fmt: skip
lesson.json["controls"] = rows
lesson.table(
    ["lens", "top 1", "top 10", "top 1, last layer", "mean probability", "different tokens", "most often"],
    [[c["control"], c["top_1"], c["top_10"], c["top_1_last_layer"], c["mean_probability"], c["distinct_tokens"],
      "{} {:.0%}".format(show_token(c["favourites"][0]["token"]), c["favourites"][0]["share"])] for c in rows],
    caption=f"share of readings in which the followed token is in the top 1 or 10 (by chance it would be in the top "
    f"10 in {10 / config.d_vocab:.2%}); mean probability of the likeliest token; how many different tokens are the "
    f"likeliest in {len(prompts) * n_layers} readings, and which one most often",
    formats={"top 1": ".1%", "top 10": ".1%", "top 1, last layer": ".0%", "mean probability": ".2f",
             "different tokens": ".0f"},
)  # fmt: skip
by_name = {c["control"]: c for c in rows}
nothing_p = by_name["random direction"]["mean_probability"]
lesson.say(
    f"Over random directions the lens' likeliest token has probability {nothing_p:.2f} on average"
    + (
        " with nothing behind it: that a lens is sure proves nothing. "
        if nothing_p > 0.1
        else ": of nothing, this lens is not sure. "
    )
    + (
        "But random directions give nearly always a different token, and real streams the same few: those few are "
        "no habit of the lens, they are what the real streams have in common. "
        if by_name["random direction"]["distinct_tokens"] > 2 * by_name["real lens"]["distinct_tokens"]
        else ""
    )
    + "And the other way round: where the lens shows no answer, the stream is not empty. It may hold the answer in "
    "directions that later layers turn towards the unembedding. A lens that is trained to translate each layer is the "
    "remedy; lesson 6 has one."
)

# %% 6. More facts
lesson.section("6. At which depth do facts crystallise?")
lesson.say(
    "Five prompts are few. Here are more facts of three kinds. We keep those that the model answers rightly, and ask "
    "from which layer on the answer is among the likeliest 1,000, 100, 10, and at the top, for good. In brackets stand "
    "95 % bootstrap intervals of the median: facts are drawn again and again, with replacement. They are on the narrow "
    "side, as facts of one kind share most of their words."
)
asked_facts = [
    ("capital", f"The capital of {s} is", f" {a}") for s, a in (pair.split() for pair in CAPITALS.split(", "))
]
asked_facts += [("opposite", f"The opposite of {s} is", f" {a}") for s, a in (p.split() for p in OPPOSITES.split(", "))]
asked_facts += [("everyday", prompt, f" {answer}") for prompt, answer in EVERYDAY.items()]
facts = [(*fact, single[0]) for fact in asked_facts if (single := single_tokens(model, (fact[2],)))]


def quartiles(values: list[int]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)


def median_interval(values: list[int], rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    drawn = rng.choice(values, size=(5000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def ahead(rank: Ranks, rival: Ranks, layer: int | None, n_before: int = 2) -> bool:
    """Whether a token is above its rival from n_before layers before `layer` on."""
    return layer is not None and bool((rank < rival)[max(layer - n_before, 0) :].all())


told: list[dict[str, Any]] = []  # what we learn of each fact
guesses: dict[str, Array] = {}  # kind: which of its answers each stream favours, [n_layers, facts]
subject_alone: list[bool] = []  # would the subject's embedding alone favour the right answer?
for kind in dict.fromkeys(fact[0] for fact in facts):
    members = [fact for fact in facts if fact[0] == kind]
    kind_resid = np.stack([stream[1:, -1] for stream in residual_streams(model, [fact[1] for fact in members])])
    kind_logits = lens(kind_resid, ln_final, W_U, rms_eps)  # [facts, n_layers, d_vocab]
    said = kind_logits[:, -1].argmax(axis=-1)
    good = [j for j, fact in enumerate(members) if said[j] == fact[3]]
    ids = [members[j][3] for j in good]
    for j, (_, prompt, answer_text, token) in enumerate(members):
        rank = rank_of(kind_logits[j], token)
        first, stable = first_and_stable(kind_logits[j].argmax(axis=-1) == token)
        entry = {"kind": kind, "prompt": prompt, "answer": answer_text, "answered_right": j in good,
                 "says": model.to_str_tokens([int(said[j])])[0], "answer_rank": rank.tolist(),
                 "first_layer": first, "stable_layer": stable}  # fmt: skip
        told.append(entry)
        if kind == "everyday" or j not in good:
            continue
        subject = int(model.to_tokens(prompt)[0, -2])  # "The capital of Italy is": the token before the last
        other = [rank_of(kind_logits[j], swapped) for swapped in ids if swapped != token]
        subject_rank = rank_of(kind_logits[j], subject)
        entry |= {"subject": model.to_str_tokens([subject])[0], "subject_rank": subject_rank.tolist(),
                  "other_answers_rank": np.median(other, axis=0).tolist() if other else None,
                  "above_subject": ahead(rank, subject_rank, stable),
                  "others_above_subject": [ahead(r, subject_rank, stable) for r in other]}  # fmt: skip
    if kind != "everyday" and len(good) > 1:
        among = kind_logits[good][:, :, ids]  # [facts, n_layers, answers]
        guesses[kind] = (among - among.mean(axis=0)).argmax(axis=-1).T
        subjects = [int(model.to_tokens(members[j][1])[0, -2]) for j in good]
        alone = lens(model.weights.W_E[subjects], ln_final, W_U, rms_eps)[:, ids]  # [facts, answers]
        subject_alone += ((alone - alone.mean(axis=0)).argmax(axis=-1) == np.arange(len(good))).tolist()
lesson.json["facts"] = told
kept = [fact for fact in told if fact["answered_right"]]
missed = [fact for fact in told if not fact["answered_right"]]
n_unwritable = len(asked_facts) - len(told)
lesson.say(
    f"Of {len(asked_facts)} facts the model answers {len(kept)} rightly"
    + (f"; {n_unwritable} have no single token for their answer" if n_unwritable else "")
    + "."
    + (" What it says instead: " if missed else "")
    + "; ".join(f"{f['prompt']} {show_token(f['says'])} (for {show_token(f['answer'])})" for f in missed)
    + ("." if missed else "")
)
rng = np.random.default_rng(1)
stable_layers = [fact["stable_layer"] for fact in kept]
depths: dict[str, dict[str, Any]] = {}
for bar in (1000, 100, 10, 1):
    layers = [first_and_stable(np.array(fact["answer_rank"]) <= bar)[1] for fact in kept]
    found = [layer for layer in layers if layer is not None]  # all: in the last layer the rank is 1
    if found:
        low, middle, high = quartiles(found)
        depths[f"top {bar}"] = {"earliest": min(found), "first_quartile": low, "median": middle,
                                "interval": median_interval(found, rng), "third_quartile": high,
                                "latest": max(found)}  # fmt: skip
lesson.json["depths"] = depths
if depths:
    lesson.table(
        ["the answer is for good in", "earliest", "1st quartile", "median", "95 %", "3rd quartile", "latest"],
        [
            [f"the {name}", d["earliest"], d["first_quartile"], d["median"],
             f"[{d['interval'][0]:.1f}, {d['interval'][1]:.1f}]", d["third_quartile"], d["latest"]]
            for name, d in depths.items()
        ],
        caption=f"layer at which {len(kept)} facts pass each bar; the last layer is {n_layers - 1}",
        formats=dict.fromkeys(["1st quartile", "median", "3rd quartile"], ".1f"),
    )  # fmt: skip
    lesson.bars(
        [f"layer {layer}" for layer in range(min(stable_layers), n_layers)],
        [stable_layers.count(layer) for layer in range(min(stable_layers), n_layers)],
        caption="number of facts whose answer is top-1 from this layer on",
        format=".0f",
    )

# Ordinary predictions: the model's own next word inside the five prompts, which nobody would call a fact.
ordinary: list[dict[str, Any]] = []
for stream, prompt in zip(streams, prompts, strict=True):
    if stream.shape[1] > 2:  # neither the first position, which is the attention sink, nor the last
        inner = lens(stream[1:, 1:-1], ln_final, W_U, rms_eps).argmax(axis=-1)  # [n_layers, pos - 2]
        for pos, said in enumerate(inner[-1].tolist(), start=1):
            first, stable = first_and_stable(inner[:, pos - 1] == said)
            ordinary.append({"prompt": prompt, "position": pos, "token": model.to_str_tokens([said])[0],
                             "first_layer": first, "stable_layer": stable})  # fmt: skip
ordinary_layers = [entry["stable_layer"] for entry in ordinary]
lesson.json["ordinary"] = ordinary
if ordinary_layers:
    low, middle, high = quartiles(ordinary_layers)
    lesson.say(
        f"Is that special to facts? The control: the {len(ordinary)} predictions that the model makes on the way, "
        f"inside the prompts of section 2. Its own last word there settles at layer {middle:.1f} (median; quartiles "
        f"{low:.1f} and {high:.1f}; from {min(ordinary_layers)} to {max(ordinary_layers)})."
    )

# %% 7. Before it is top-1
lesson.section("7. What is there before the answer is top-1?")
rivals = [fact for fact in kept if fact.get("other_answers_rank")]
apart_hits = [(guess == np.arange(guess.shape[1])).sum(axis=1) for guess in guesses.values()]  # each [n_layers]
if rivals:
    lesson.say(
        f"The {len(rivals)} capitals and opposites have a subject (`Italy`, `hot`) that we can hold beside the answer. "
        "Three ranks, medians over the facts: of the answer, of the other facts' answers of the same kind (what any "
        "question of this form would show), and of the subject. `told apart` asks which of the answers of its kind a "
        "stream favours most, each answer's logit less its mean over the prompts, so that favourites of the lens do "
        "not count: how often is it the right one? Look at where the answer leaves the others, where it passes the "
        "subject, and where it wins."
    )
    answer_median = np.median([f["answer_rank"] for f in rivals], axis=0)
    other_median = np.median([f["other_answers_rank"] for f in rivals], axis=0)
    subject_median = np.median([f["subject_rank"] for f in rivals], axis=0)
    above_share = np.mean([np.less(f["answer_rank"], f["subject_rank"]) for f in rivals], axis=0)
    lesson.json["by_layer"] = [
        {"layer": layer, "answer_rank": float(answer_median[layer]), "other_answers_rank": float(other_median[layer]),
         "subject_rank": float(subject_median[layer]), "above_subject": float(above_share[layer]),
         "told_apart": float(sum(hits[layer] for hits in apart_hits)) / len(rivals),
         "top_1": float(np.mean([f["answer_rank"][layer] == 1 for f in rivals]))}
        for layer in range(n_layers)
    ]  # fmt: skip
    lesson.table(
        ["layer", "answer", "other answers", "subject", "answer above subject", "told apart", "answer top-1"],
        [list(entry.values()) for entry in lesson.json["by_layer"]],
        caption="median ranks, and shares of the facts",
        formats={"answer": ",.0f", "other answers": ",.0f", "subject": ",.0f", "answer above subject": ".0%",
                 "told apart": ".0%", "answer top-1": ".0%"},
    )  # fmt: skip
else:
    lesson.say("For this we need at least two facts of one kind that the model answers rightly; here are none.")

# %% 8. Checks and what was found
lesson.section("8. Checks and what was found")
alone = np.stack([model(model.to_tokens(prompt))[0, -1] for prompt in prompts])  # [prompts, d_vocab]
scale_of = float(np.abs(alone).max())
lesson.check(
    "the last row of the lens is the model's logits, each prompt run alone (relative)",
    float(np.abs(logits[:, -1] - alone).max()) / scale_of,
    1e-4,
)
own = np.stack([model.weights.W_E[model.to_tokens(prompt)[0, -1]] for prompt in prompts])
lesson.check("the row `embed` reads the last token's embedding", float(np.abs(resid[:, 0] - own).max()), 0.0)
lesson.check("probabilities sum to 1", float(np.abs(probabilities.sum(axis=-1) - 1).max()), 1e-4)
longer = lens(8 * resid[:, -1], ln_final, W_U, 0.0) - lens(resid[:, -1], ln_final, W_U, 0.0)
lesson.check(
    "a stream of 8 times the length reads the same (eps 0, relative)", float(np.abs(longer).max()) / scale_of, 1e-5
)

own_right = [entry["stable_layer"] for entry in lesson.json["prompts"] if entry["answered_right"]]
answered = [*own_right, *stable_layers]
early = [layer for layer in answered if layer < n_layers / 2]
early_ordinary = [layer for layer in ordinary_layers if layer < n_layers / 2]
few = "fewer than five prompts were answered rightly, which is too few to say" if len(answered) < 5 else ""
lesson.finding(
    "The answer crystallises late: for every prompt that the model answers rightly, the answer settles at the top in "
    "the second half of the layers.",
    established=not few and not early,
    evidence=few
    or f"{len(answered) - len(early)} of {len(answered)} settle at layer {n_layers / 2:.0f} or later; earliest "
    f"{min(answered)}, median {np.median(answered):.0f}, latest {max(answered)}, of layers 0 to {n_layers - 1}",
    control=f"of {len(ordinary)} ordinary predictions inside the prompts {len(early_ordinary)} settle in the first "
    "half; the bar is that no answer does",
)
if stable_layers and ordinary_layers:
    means = [rng.choice(layers, (5000, len(layers))).mean(axis=1) for layers in (stable_layers, ordinary_layers)]
    low, high = (float(edge) for edge in np.percentile(means[0] - means[1], [2.5, 97.5]))
    gap = float(np.mean(stable_layers) - np.mean(ordinary_layers))
    lesson.json["later_than_ordinary"] = {"gap": gap, "interval": [low, high]}
    lesson.finding(
        "Facts settle later than ordinary predictions.",
        established=low > 0 and len(kept) >= 5,
        evidence=f"{len(kept)} facts settle at layer {np.mean(stable_layers):.1f} on average",
        control=f"{len(ordinary)} ordinary predictions at layer {np.mean(ordinary_layers):.1f}; the gap is {gap:+.1f} "
        f"layers, 95 % bootstrap interval [{low:+.1f}, {high:+.1f}]; the bar is an interval above 0",
    )
if rivals:
    at_random = np.stack(
        [
            sum((guess == rng.permutation(guess.shape[1])).sum(axis=1) for guess in guesses.values()) / len(rivals)
            for _ in range(2000)
        ]
    )  # [draws, n_layers]
    dealt_out = float(np.percentile(at_random.max(axis=1), 95))
    apart = np.array([entry["told_apart"] for entry in lesson.json["by_layer"]])
    apart_from = first_and_stable(apart > dealt_out)[1]
    settles, alone_share = float(np.median([f["stable_layer"] for f in rivals])), float(np.mean(subject_alone))
    lesson.json["told_apart"] = {"bar": dealt_out, "from_layer": apart_from, "subject_alone": alone_share}
    lesson.finding(
        "The last position's stream holds which fact is asked for, layers before the answer is top-1.",
        established=apart_from is not None and apart_from <= settles - 2 and len(rivals) >= 5,
        evidence=f"from layer {apart_from} on, more answers are told apart from the others of their kind than the bar "
        f"({apart.max():.0%} first at layer {int(apart.argmax())}); they are top-1 from layer {settles:.1f} on "
        "(median)",
        control=f"the bar, {dealt_out:.0%}, is what answers dealt out at random reach in 1 run of 20, each run in its "
        f"best layer. But the subjects' embeddings alone, with no model at all, would tell {alone_share:.0%} apart: "
        "this shows that the subject has arrived, not that the answer has",
    )
    own_share = float(np.mean([f["above_subject"] for f in rivals]))
    other_shares = [float(np.mean(f["others_above_subject"])) for f in rivals]
    differences = [f["above_subject"] - share for f, share in zip(rivals, other_shares, strict=True)]
    drawn = rng.choice(differences, (5000, len(rivals))).mean(axis=1)
    low, high = (float(edge) for edge in np.percentile(drawn, [2.5, 97.5]))
    lesson.json["answer_before_top_1"] = {
        "share": own_share, "others": float(np.mean(other_shares)), "interval": [low, high],
    }  # fmt: skip
    lesson.finding(
        "The answer itself, not its subject alone, is there before it is top-1: from two layers earlier on it is above "
        "its subject.",
        established=own_share > 0.5 and low > 0.25 and len(rivals) >= 5,
        evidence=f"true of {own_share:.0%} of {len(rivals)} facts",
        control=f"and of {np.mean(other_shares):.0%} of the other facts' answers, held over the same prompts; the "
        f"difference is {own_share - np.mean(other_shares):+.2f}, 95 % bootstrap interval [{low:+.2f}, {high:+.2f}]; "
        "the bar is more than half of the facts, and an interval above 0.25",
    )
shown = by_name["real lens"]["top_10"]
noise = max(by_name[name]["top_10"] for name in ("random direction", "shuffled stream"))
broken = [by_name[name]["top_10"] for name in ("shuffled norm", "other layer's norm")]
lesson.finding(
    "The lens does not make answers up: over streams that know nothing they hardly ever show up.",
    established=noise < 0.1 * shown,
    evidence=f"over the real streams the followed token is in the top 10 of {shown:.1%} of {real.shape[0] * n_layers} "
    "readings",
    control=f"over random directions and shuffled streams in {noise:.2%} at most (by chance "
    f"{10 / config.d_vocab:.2%}); over real streams through a shuffled norm weight in {broken[0]:.1%}, through "
    f"another layer's in {broken[1]:.1%}; the bar is a tenth of the real lens' share",
)
if len(answered) >= 5:
    low, middle, high = quartiles(answered)
    n_last = sum(layer == n_layers - 1 for layer in answered)
    lesson.say(
        f"The spread between prompts: half of the {len(answered)} right answers settle between layers {low:.1f} and "
        f"{high:.1f}, all between {min(answered)} and {max(answered)} of 0 to {n_layers - 1}, and {n_last} only in the "
        "very last layer."
    )
lesson.say(
    "Two cautions. Late in the lens is not late in the model: the lens asks when the answer stands in the words of the "
    "output, not when the model knows it. And top-1 is a contest: an answer can climb for many layers and come first "
    "only when the tokens above it give way."
)
half_p = [int(np.flatnonzero(answer_p[i, 1:] >= answer_p[i, -1] / 2)[0]) for i in range(len(prompts))]
lesson.exercise(
    "For every prompt: at which layer does the followed token first have half of its final probability?",
    answer=", ".join(map(str, half_p)),
    hint="answer_probability of prompts[].layers[] in the JSON file, or answer_p[i, 1:] here",
    minutes=5,
    difficulty="easy",
)
cosine = resid[0, 1:] @ resid[0, -1] / np.sqrt((resid[0, 1:] ** 2).sum(axis=-1) * (resid[0, -1] ** 2).sum())
lesson.exercise(
    "For the first prompt: what is the cosine between the stream in the middle of the model, after layer "
    f"{half}, and the last one?",
    answer=f"{cosine[half]:.3f}",
    hint="resid[0, 1:] has one row per layer; divide the dot product by both lengths",
    minutes=5,
    difficulty="easy",
)
no_norm = int((resid[0, -1] @ W_U).argmax())
lesson.exercise(
    "Leave the norm's weight out of the lens (weight 1). What does the last layer say to the first prompt then?",
    answer=f"{show_token(model.to_str_tokens([no_norm])[0])} (with the weight: {show_token(text_of[final[0]])})",
    hint="the length of the stream does not change which token is the likeliest, so resid @ W_U is enough",
    minutes=10,
    difficulty="medium",
)
lesson.finish()
