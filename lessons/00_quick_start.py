# %% [markdown]
"""What is inside a language model, and can we touch it?

What you will learn: to load a model, turn text into tokens, run one forward pass, read one attention pattern,
and change the run while it goes on.

Hook points used: blocks.i.attn.hook_pattern

Needs: nothing; this is the first lesson

Time: 10 minutes to read, 5 seconds to run

Paper: Vaswani et al. 2017, Attention Is All You Need
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.hooks import Callback, HookPoint, get_act_name
from tinymi.lesson import Lesson, Token, show_token
from tinymi.ops import softmax

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The capital of France is", help="the text to go on from")
options = lesson.start()
model = lesson.load_model()
config = model.config
lesson.say(
    f"The model has {config.n_layers} layers of {config.n_heads} attention heads, and its residual stream is "
    f"{config.d_model} numbers wide: that is all it knows about a token on its way through."
)

# %% 1. Text becomes tokens
lesson.section("1. Text becomes tokens")
lesson.say(
    "A model reads token ids, not letters. Look at where the text is cut, and at the spaces: a space belongs to the "
    "token that it stands before, and is drawn here so that you can see it."
)
tokens = model.to_tokens(options.prompt)  # [batch 1, pos]
str_tokens = model.to_str_tokens(options.prompt)
n_pos = tokens.shape[1]
lesson.table(["position", "token", "id"], [[i, Token(piece), int(tokens[0, i])] for i, piece in enumerate(str_tokens)])

# %% 2. One forward pass
lesson.section("2. One forward pass")
lesson.say(
    "For every position the model gives one number per token of its vocabulary, the logits; softmax makes them the "
    "probabilities of the next token. Look at the last position: what comes after the prompt?"
)
logits = model(tokens)  # [batch 1, pos, d_vocab]
probabilities = softmax(logits[0, -1])  # [d_vocab]
top = np.argsort(-probabilities, kind="stable")[:5]
top_tokens = model.to_str_tokens(top)
lesson.bars(
    [Token(piece) for piece in top_tokens],
    [float(probabilities[token]) for token in top],
    caption="the five likeliest next tokens and their probability",
    format=".3f",
)
answer, answer_text = int(top[0]), show_token(top_tokens[0])
lesson.json["top"] = [
    {"token": piece, "token_id": int(token), "probability": float(probabilities[token])}
    for piece, token in zip(top_tokens, top, strict=True)
]

# %% 3. One attention pattern, captured
lesson.section("3. One attention pattern, captured")
lesson.say(
    "`run_with_cache` does the same forward pass and keeps what you name. Row by row: how much does each position "
    "(query) read from each earlier one (key)? Look at the first column: much attention goes to position 0 whatever "
    "stands there. That is the attention sink, a place to look when a head has nothing to say."
)
layer = config.n_layers // 2
cached_logits, cache = model.run_with_cache(tokens, f"blocks.{layer}.attn.hook_pattern")
pattern = cache["pattern", layer][0]  # [n_heads, query_pos, key_pos]
lesson.attention(str_tokens, {layer: pattern}, caption=f"attention of layer {layer}, in the middle of the model")
if n_pos > 1:
    sink = float(pattern[:, 1:, 0].mean())
    lesson.say(
        f"In layer {layer} the positions after the first give {sink:.0%} of their attention to position 0, averaged "
        f"over {config.n_heads} heads; spread evenly over what each may see it would be "
        f"{np.mean([1 / (i + 1) for i in range(1, n_pos)]):.0%}."
    )

# %% 4. One intervention
lesson.section("4. One intervention")
half = config.n_layers // 2
lesson.say(
    "Reading shows what a model does, changing it shows what matters. For each token in turn, we forbid the last "
    "position to read it: a callback sets that one edge of the pattern to zero and scales the rest of the row up, so "
    f"that it still sums to 1, in every head of layers {half} to {config.n_layers - 1}. The number to watch is the "
    f"probability of the answer, {answer_text}. Each row is the control of the others."
)


def cut(key_pos: int) -> Callback:
    """A callback that takes the edge from the last position to key_pos out of every head's pattern."""

    def callback(pattern: Array, hook: HookPoint) -> Array:
        edited = pattern.copy()  # what a callback gets is read-only
        edited[:, :, -1, key_pos] = 0
        rest = edited[:, :, -1:].sum(axis=-1, keepdims=True)  # zero only where a row had nothing else to read
        edited[:, :, -1:] /= np.where(rest > 0, rest, 1)
        return edited

    return callback


upper_patterns = [get_act_name("pattern", i) for i in range(half, config.n_layers)]
cut_probabilities = []
for position in range(n_pos):
    cut_logits = model.run_with_hooks(tokens, [(upper_patterns, cut(position))], positions=-1)
    cut_probabilities.append(float(softmax(cut_logits[0, -1])[answer]))
lesson.table(
    ["token cut off", "probability of the answer", "change"],
    [
        [Token(piece), p, p - float(probabilities[answer])]
        for piece, p in zip(str_tokens, cut_probabilities, strict=True)
    ],
    caption=f"the answer {answer_text} has probability {probabilities[answer]:.3f} when nothing is cut",
    formats={"probability of the answer": ".3f", "change": "+.3f"},
)
lesson.json["cuts"] = [
    {"position": i, "token": str_tokens[i], "answer_probability": p} for i, p in enumerate(cut_probabilities)
]

# %% 5. Checks and what was found
lesson.section("5. Checks and what was found")
lesson.say("A check is an identity that must hold for every model. A finding is a claim about this one.")
lesson.check("probabilities sum to 1", abs(float(probabilities.sum()) - 1), 1e-5)
lesson.check("pattern rows sum to 1", float(np.abs(pattern.sum(axis=-1) - 1).max()), 1e-5)
lesson.check("no position attends to a later one", float(np.abs(np.triu(pattern, k=1)).max()), 0.0)
lesson.check("watching changes nothing", float(np.abs(cached_logits - logits).max()), 0.0)
untouched = model.run_with_hooks(tokens, [(upper_patterns, lambda pattern, hook: pattern.copy())])
lesson.check("replacing each pattern by itself changes nothing", float(np.abs(untouched - logits).max()), 0.0)
last_only = model(tokens, positions=-1)
lesson.check(
    "logits of the last position alone equal those of all", float(np.abs(last_only[:, 0] - logits[:, -1]).max()), 1e-3
)

words = list(range(1, n_pos - 1))  # neither the sink nor the last position itself
drops = {i: float(probabilities[answer]) - cut_probabilities[i] for i in words}
if len(words) >= 2:
    first, second = sorted(words, key=lambda i: -drops[i])[:2]
    lesson.finding(
        f"The answer {answer_text} depends on what the last position reads, in the upper half of the model, from "
        f"{show_token(str_tokens[first])}: more than from any other word between the first and the last.",
        established=drops[first] > 0.05 and drops[first] > 2 * max(drops[second], 0.0),
        evidence=f"cut off, the probability goes from {probabilities[answer]:.3f} to {cut_probabilities[first]:.3f}",
        control=f"the next most needed word, {show_token(str_tokens[second])}, takes it to "
        f"{cut_probabilities[second]:.3f}; the bar is a fall above 0.05 and twice the control's",
    )
lesson.say(
    f"Two cautions. Without position 0 the answer's probability is {cut_probabilities[0]:.3f}, but that says little of "
    "the word there: it is the sink, and the attention that it held back now falls on the other words. And what a word "
    "has already passed on to later words, in the layers below, stays: a small change does not prove that a word is "
    "unimportant."
)
lesson.exercise(
    "Which token is the second likeliest, and what is its logit minus the answer's?",
    answer=f"{show_token(top_tokens[1])}, {logits[0, -1, top[1]] - logits[0, -1, answer]:.3f}",
    hint="logits[0, -1]; a difference of logits is the logarithm of a ratio of probabilities",
    minutes=3,
    difficulty="easy",
)
entropy = -float((probabilities * np.log2(np.maximum(probabilities, 1e-30))).sum())
lesson.exercise(
    "How undecided is the model? Compute the entropy of the next token's distribution in bits.",
    answer=f"{entropy:.3f} bits, of at most {np.log2(config.d_vocab):.3f}",
    hint="-(p * np.log2(p)).sum()",
    minutes=5,
    difficulty="easy",
)
lesson.finish()
