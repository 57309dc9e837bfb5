# %% [markdown]
"""What does this neuron respond to?

What you will learn: what a neuron of an MLP is and what it is not, how to find the tokens that drive it and the
tokens that it promotes, and how to test a guess about it on text that the guess was not made from.

Hook points used: blocks.i.hook_mlp_out, blocks.i.mlp.hook_post, blocks.i.ln2.hook_normalized

Needs: lessons 0 and 1

Time: 20 minutes to read, 15 seconds to run

Paper: Geva et al. 2021, Transformer Feed-Forward Layers Are Key-Value Memories; Elhage et al. 2022, Toy Models of
Superposition (why a neuron need not mean one thing); Shazeer 2020 (the gated MLP)
"""

# %% Set-up
import keyword
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tinymi import Model
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import HookPoint, get_act_name
from tinymi.lesson import Lesson, Token, show_token
from tinymi.ops import silu

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

lesson = Lesson(__doc__)
lesson.option("--site", choices=["mlp_out", "post"], default="post", help="rank residual dimensions or neurons")
lesson.option("--layer", type=int, help="the layer to show in full; without it, the one with most hypotheses")
lesson.option(
    "--prompts",
    metavar="FILE",
    help="your own prompts: UTF-8 text, one prompt a line, as TEXT or KIND<tab>TEXT; \\n, \\t and \\\\ in TEXT stand "
    "for a line break, a tab and a backslash; empty lines are skipped; of each kind the 2nd, 4th, 6th ... prompt is "
    "held out",
)
options = lesson.start()

# %% The prompts. Of each kind the first, third, fifth ... are looked at, the others are held out.
PROMPTS = {
    "code": [
        "def area(radius):\n    pi = 3.14159\n    return pi * radius ** 2\n\nprint(area(5))\n",
        "for name in names:\n    if len(name) > 3:\n        print(name.upper())\n    else:\n        continue\n",
        "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
        "import os\nimport sys\n\nwith open(sys.argv[1]) as handle:\n    lines = handle.readlines()\n",
        "while low <= high:\n    middle = (low + high) // 2\n    if values[middle] == target:\n        return middle\n",
        "try:\n    count = int(text)\nexcept ValueError:\n    count = 0\nfinally:\n    print(count)\n",
        "SELECT name, price FROM products WHERE price > 100 ORDER BY price DESC LIMIT 10;\n",
        'function greet(user) {\n  if (!user) {\n    return "Hello";\n  }\n  return "Hello, " + user;\n}\n',
        "int main(void) {\n    int sum = 0;\n    for (int i = 1; i <= 10; i++) {\n        sum += i;\n    }\n",
        "squares = [n * n for n in range(20) if n % 2 == 0]\ntotal = sum(squares)\nassert total > 0\n",
        "def is_prime(n):\n    if n < 2:\n        return False\n    return all(n % d for d in range(2, n))\n",
        "from math import sqrt\n\ndef distance(x, y):\n    return sqrt(x ** 2 + y ** 2)\n",
    ],
    "math": [
        "If 3x + 7 = 22, then 3x = 15 and x = 5. Check: 3 * 5 + 7 = 22.",
        "The sum of the first n whole numbers is n(n + 1) / 2; for n = 100 this gives 5050.",
        "A triangle with sides 3, 4 and 5 is right-angled, because 3^2 + 4^2 = 9 + 16 = 25 = 5^2.",
        "12 + 30 = 42, 42 - 17 = 25, 25 * 4 = 100, and 100 / 8 = 12.5.",
        "Let f(x) = x^2 - 4x + 3. Then f(1) = 0 and f(3) = 0, so the roots are 1 and 3.",
        "The derivative of x^3 is 3x^2, and the integral of 2x from 0 to 4 is 16.",
        "There are 52 cards, so the probability of drawing an ace is 4/52 = 1/13, about 7.7 percent.",
        "Solve: 2(y - 1) = 10. Divide by 2: y - 1 = 5. Therefore y = 6.",
        "The circumference of a circle is 2 * pi * r; with r = 7 we get about 43.98.",
        "Since 2^10 = 1024, the logarithm of 1024 to the base 2 equals 10. Also 2^5 = 32.",
        "Proof: suppose that n is even. Then n = 2k for some integer k, and n^2 = 4k^2 is even too.",
        "A car drives 150 km in 2.5 hours. Its speed is 150 / 2.5 = 60 km per hour.",
    ],
    "poetry": [
        "Tyger Tyger, burning bright,\nIn the forests of the night;\nWhat immortal hand or eye,\n",  # Blake
        "I met a traveller from an antique land,\nWho said: Two vast and trunkless legs of stone\n",  # P. B. Shelley
        "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n",  # Shakespeare
        "Hope is the thing with feathers\nThat perches in the soul,\nAnd sings the tune without the "
        "words,\n",  # Dickinson
        "I wandered lonely as a cloud\nThat floats on high o'er vales and hills,\n",  # Wordsworth
        "Who has seen the wind?\nNeither I nor you:\nBut when the leaves hang trembling,\n",  # C. Rossetti
        "She walks in beauty, like the night\nOf cloudless climes and starry skies;\n",  # Byron
        "In Xanadu did Kubla Khan\nA stately pleasure-dome decree:\nWhere Alph, the sacred river, ran\n",  # Coleridge
        "Season of mists and mellow fruitfulness,\nClose bosom-friend of the maturing sun;\n",  # Keats
        "Break, break, break,\nOn thy cold gray stones, O Sea!\nAnd I would that my tongue could utter\n",  # Tennyson
        "Because I could not stop for Death,\nHe kindly stopped for me;\nThe carriage held but just "
        "ourselves\n",  # Dickinson
        "O my Luve is like a red, red rose\nThat's newly sprung in June;\nO my Luve is like the melody\n",  # Burns
    ],
    "factual": [
        "The Amazon rainforest covers much of Brazil and Peru and is home to millions of species of insects.",
        "Marie Curie won the Nobel Prize in Physics in 1903 and the Nobel Prize in Chemistry in 1911.",
        "Water boils at 100 degrees Celsius at sea level, but at a lower temperature in the mountains.",
        "The human heart pumps blood through the lungs, where it takes up oxygen, and then around the body.",
        "The Berlin Wall was built in 1961 and fell in November 1989, a year before Germany was united.",
        "Mount Kilimanjaro in Tanzania is the highest mountain in Africa; its summit lies at 5,895 metres.",
        "Photosynthesis turns carbon dioxide and water into sugar, and it sets oxygen free.",
        "The Great Wall of China was built over many centuries, and most of what stands today is from the Ming "
        "dynasty.",
        "Johann Sebastian Bach was born in Eisenach in 1685 and worked in Leipzig until his death in 1750.",
        "Jupiter is the largest planet of the Solar System, and Galileo saw four of its moons in 1610.",
        "The Nile flows north through Sudan and Egypt and reaches the Mediterranean Sea near Alexandria.",
        "Bees tell each other where flowers are by a dance, which Karl von Frisch explained in the 1940s.",
    ],
    "conversational": [
        '"Are you coming to the party on Saturday?" asked Tom. "I don\'t know yet," said Anna, "maybe later."',
        "Hi Sarah! How have you been? I haven't seen you in ages. Do you want to get a coffee this week?",
        "Customer: My parcel hasn't arrived.\nAgent: I'm sorry to hear that. Could you give me the order number?\n",
        "Mum, can I go out and play? - Not now, dear, dinner is almost ready. - But everyone else is outside!",
        "Oh no, I left my keys at home again! Can you let me in? Thanks so much, you're the best.",
        '"What did the doctor say?" Peter asked. "She says that I should rest for a while," Lucy answered.',
        "Well, I think we should wait. What if it rains? - Then we'll just stay inside and watch a film.",
        "Teacher: Who can tell me the answer?\nStudent: Is it seven?\nTeacher: Very good, Emma, well done!\n",
        "Hey, did you see the game last night? It was amazing! I couldn't believe that last goal.",
        "A: Excuse me, where is the station?\nB: Go straight on and turn left. It's about ten minutes.\nA: Thanks!\n",
        "Honestly, I'm so tired today. I didn't sleep at all, and then my boss called me at six. Can you imagine?",
        "Good morning, this is David speaking. I'm calling about the flat. Is it still free, or am I too late?",
    ],
}


def read_prompts(path: str) -> dict[str, list[str]]:
    """Kind -> prompts of a file of lines TEXT or KIND<tab>TEXT, with its escapes undone."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"--prompts {path}: cannot be read ({error.strerror}); give a text file") from None
    except UnicodeDecodeError:
        raise InputError(f"--prompts {path}: is not UTF-8; save it as UTF-8 text, one prompt a line") from None
    found: dict[str, list[str]] = {}
    for line in text.split("\n"):
        kind, tab, prompt = line.rstrip("\r").partition("\t")
        if not tab:
            kind, prompt = "own", kind
        if prompt.strip():
            unescaped = re.sub(r"\\([nt\\])", lambda match: {"n": "\n", "t": "\t"}.get(match[1], "\\"), prompt)
            found.setdefault(kind.strip() or "own", []).append(unescaped)
    if sum(len(prompts) // 2 for prompts in found.values()) < 2:
        n_prompts = sum(map(len, found.values()))
        raise InputError(f"--prompts {path}: has {n_prompts} prompts; give 4 or more, of each kind 2 or more")
    return found


by_kind = read_prompts(options.prompts) if options.prompts is not None else PROMPTS
model = lesson.load_model()
config, weights = model.config, model.weights
if options.layer is not None and not 0 <= options.layer < config.n_layers:
    raise InputError(f"--layer {options.layer}: the model has layers 0 to {config.n_layers - 1}")


# %% 1. Two sets of prompts
class Text:
    """A set of prompts as one long row of tokens: for each its prompt, its position, and the piece of text it is."""

    def __init__(self, model: Model, prompts: Sequence[tuple[str, str]]) -> None:
        self.kinds = [kind for kind, _ in prompts]
        self.tokens = [model.to_tokens(text) for _, text in prompts]  # each [batch 1, pos]
        self.pieces = [model.to_str_tokens(tokens[0]) for tokens in self.tokens]
        lengths = [tokens.shape[1] for tokens in self.tokens]
        self.prompt = np.repeat(np.arange(len(prompts)), lengths)  # [token]
        self.position = np.concatenate([np.arange(length) for length in lengths])  # [token]

    def piece(self, token: int) -> str:
        return str(self.pieces[self.prompt[token]][self.position[token]])

    def context(self, token: int, before: int = 5) -> Token:
        """The token in brackets after the few before it."""
        position, pieces = int(self.position[token]), self.pieces[self.prompt[token]]
        return Token("".join(pieces[max(position - before, 0) : position]) + "[" + pieces[position] + "]")


first = Text(model, [(kind, text) for kind, texts in by_kind.items() for text in texts[0::2]])
held_out = Text(model, [(kind, text) for kind, texts in by_kind.items() for text in texts[1::2]])
for text in (first, held_out):
    if (text.position > 0).sum() < 50:
        raise InputError(f"--prompts {options.prompts}: too little text, each half needs 50 tokens; give more prompts")

lesson.section("1. Two sets of prompts")
lesson.say(
    "A neuron is judged by the text that it was seen on, so the text must be varied, and a guess must be tested on "
    "text that it was not made from. There are two sets of prompts of the same kinds on other topics: guesses are made "
    "on the first, and tested on the second, which is held out. Look at how little text it is: what is said below "
    "holds for text like this."
)
lesson.table(
    ["kind", "prompts", "tokens", "held-out prompts", "held-out tokens", "the first prompt begins"],
    [
        [
            kind,
            first.kinds.count(kind),
            sum(len(pieces) for pieces, of in zip(first.pieces, first.kinds, strict=True) if of == kind),
            held_out.kinds.count(kind),
            sum(len(pieces) for pieces, of in zip(held_out.pieces, held_out.kinds, strict=True) if of == kind),
            Token(texts[0][:30]),
        ]
        for kind, texts in by_kind.items()
    ],
)

# %% 2. One run, every layer
layers = range(config.n_layers)
Columns = dict[str, Integers | slice]


def capture(model: Model, text: Text, columns: Columns) -> dict[str, Array]:
    """What each named point holds, [token, column], over all prompts; prompts of one length run as one batch."""
    lengths = [tokens.shape[1] for tokens in text.tokens]
    kept: dict[str, list[Array]] = {name: [np.empty(0)] * len(lengths) for name in columns}
    for length in lesson.progress(sorted(set(lengths)), "prompts by their length"):
        batch = [i for i, n_pos in enumerate(lengths) if n_pos == length]

        def keep(value: Array, hook: HookPoint, batch: list[int] = batch) -> None:
            for row, i in enumerate(batch):
                kept[hook.name][i] = value[row][:, columns[hook.name]]  # [pos, column]

        tokens = np.concatenate([text.tokens[i] for i in batch])  # [batch, pos]
        model.run_with_hooks(tokens, [(list(columns), keep)], stop_at_layer=model.config.n_layers)
    return {name: np.concatenate(kept.pop(name)) for name in columns}  # [token, column]


everything = {get_act_name(point, i): slice(None) for point in ("mlp_out", "post", "ln2.normalized") for i in layers}
cache = capture(model, first, dict(everything))
mlp_out = [cache[get_act_name("mlp_out", layer)] for layer in layers]  # per layer [token, d_model]
post = [cache[get_act_name("post", layer)] for layer in layers]  # per layer [token, d_mlp]

# %% 2. Why the first token is left out
lesson.section("2. Why the first token is left out")
lesson.say(
    "A neuron is one of the d_mlp numbers in the middle of an MLP, where its non-linearity acts: neuron n computes "
    "silu(x . W_gate[:, n]) * (x . W_in[:, n]), which is `mlp.hook_post`, and writes that multiple of W_out[n] to the "
    "residual stream. The sum of all writes is `hook_mlp_out`, d_model numbers wide. Before any ranking: take the "
    "largest absolute activation of each token, and compare the first token of the prompts with the others."
)


def typical_peaks(acts: Array, position: Integers, at: int) -> tuple[float, float]:
    """Of each token the largest absolute activation; its median at one position, and over all but positions 0 and 1."""
    peaks = np.abs(acts).max(axis=1)  # [token]
    return float(np.median(peaks[position == at])), float(np.median(peaks[position > 1]))


starts = np.array([typical_peaks(post[layer], first.position, 0) for layer in layers])  # [n_layers, 2]
seconds = np.array([typical_peaks(post[layer], first.position, 1) for layer in layers])
ratios = starts[:, 0] / np.maximum(starts[:, 1], 1e-30)
extreme = sorted(np.argsort(-ratios, kind="stable")[:5].tolist())
lesson.table(
    ["layer", "position 0", "position 1", "all others", "position 0 / others"],
    [[i, float(starts[i, 0]), float(seconds[i, 0]), float(starts[i, 1]), float(ratios[i])] for i in extreme],
    caption="a token's largest absolute activation, median over tokens; the layers where position 0 stands out most",
    formats=dict.fromkeys(["position 0", "position 1", "all others", "position 0 / others"], ".1f"),
)
sink = int(np.argmax(ratios))
stands_out = bool(ratios[sink] > 10)
middle = math.sqrt(starts[sink, 0] * starts[sink, 1]) if stands_out else math.inf


def like_a_start(acts: Array, position: Integers, middle: float) -> npt.NDArray[np.bool_]:
    """Later tokens whose largest activation lies nearer to that of position 0, by ratio, than to the others'."""
    alike: npt.NDArray[np.bool_] = (np.abs(acts).max(axis=1) > middle) & (position > 0)
    return alike


held_sink = capture(model, held_out, {get_act_name("post", sink): slice(None)})[get_act_name("post", sink)]
extra = like_a_start(post[sink], first.position, middle)  # [token]
held_extra = like_a_start(held_sink, held_out.position, middle)
found_starts = [(text, int(t)) for text, rows in ((first, extra), (held_out, held_extra)) for t in np.flatnonzero(rows)]
sink_peaks = np.abs(post[sink][first.position == 0]).max(axis=1)
lesson.say(
    f"In layer {sink} the first token's largest activation is {ratios[sink]:.0f} times the usual one"
    + (
        f", and it is nearly the same for every prompt, {sink_peaks.min():.0f} to {sink_peaks.max():.0f}, whatever "
        "word stands there. It says 'this is the start' (what the attention sink looks at), would lead every ranking "
        "here, and tells nothing about words. So position 0 is left out of all that follows."
        if stands_out
        else ": not much. Position 0 is left out of all that follows all the same, as it has no text before it."
    )
    + (
        f" That is not quite enough: {len(found_starts)} later tokens behave like a start as well (their largest "
        f"activation in layer {sink} is above {middle:.0f}, halfway by ratio between the two medians), "
        + ", ".join(show_token(text.context(t)) for text, t in found_starts[:5])
        + ". They are left out too."
        if found_starts
        else ""
    )
)
lesson.json["position_0"] = [
    {"layer": i, "position_0": float(starts[i, 0]), "position_1": float(seconds[i, 0]), "others": float(starts[i, 1])}
    for i in layers
]
lesson.json["like_a_start"] = [
    {"held_out": text is held_out, "prompt": int(text.prompt[t]), "position": int(text.position[t])}
    for text, t in found_starts
]
first_rows = np.flatnonzero((first.position > 0) & ~extra)  # the tokens that count
held_rows = np.flatnonzero((held_out.position > 0) & ~held_extra)

# %% 3. What the MLP writes: residual dimensions
lesson.section("3. Residual dimensions are not neurons")
lesson.say(
    "Some tools rank the entries of `hook_mlp_out` and call them neurons. Look at what that gives: for each layer the "
    "five dimensions with the largest absolute value, and how many layers share them. Then at what stands behind one "
    "such number, at its largest token: it is a sum over all neurons of the layer, so how many neurons make up half of "
    "it (adding absolute contributions, largest first), and is it the same neuron that leads in every layer? It could "
    "not be: a neuron lives in one layer."
)
TOP = 5


def most_active(acts: Array, rows: Integers) -> Integers:
    """The TOP columns with the largest absolute value in these rows, largest first."""
    return np.argsort(-np.abs(acts[rows]).max(axis=0), kind="stable")[:TOP]


def sharing(chosen: Integers) -> Counter[int]:
    """How many layers have each column among their TOP: chosen is [n_layers, TOP]."""
    return Counter(chosen.ravel().tolist())


def half_of(contributions: Array) -> int:
    """How many of the largest absolute contributions sum to half of all."""
    sizes = np.sort(np.abs(contributions))[::-1]
    return int(np.searchsorted(np.cumsum(sizes), sizes.sum() / 2)) + 1


top_dims = np.array([most_active(acts, first_rows) for acts in mlp_out])  # [n_layers, TOP]
top_neurons = np.array([most_active(acts, first_rows) for acts in post])
prompt_rows = [first_rows[first.prompt[first_rows] == i] for i in range(len(first.kinds))]
prompt_dims = np.array([[most_active(acts, rows) for rows in prompt_rows if len(rows)] for acts in mlp_out])
dims_shared, neurons_shared = sharing(top_dims), sharing(top_neurons)
dim_rows: list[list[float]] = []
for dim, n_layers in dims_shared.most_common(5):
    leaders, halves = set(), []
    for layer in layers:
        token = first_rows[np.argmax(np.abs(mlp_out[layer][first_rows, dim]))]
        contributions = post[layer][token] * weights.blocks[layer].W_out[:, dim]  # [d_mlp], sums to mlp_out[token, dim]
        leaders.add((layer, int(np.argmax(np.abs(contributions)))))
        halves.append(half_of(contributions))
    share = float((prompt_dims == dim).any(axis=-1).mean())
    dim_rows.append([dim, n_layers, share, float(np.median(halves)), len({n for _, n in leaders})])
lesson.table(
    ["dimension", "layers of " + str(config.n_layers), "prompts x layers", "neurons for half", "neurons that lead"],
    dim_rows,
    caption="the residual dimensions that come up most; how often among the five largest; who writes them",
    formats={"prompts x layers": ".0%", "neurons for half": ".0f"},
)
rng = np.random.default_rng(0)


def shared_by_chance(n_layers: int, width: int, rng: np.random.Generator) -> Integers:
    """In 1,000 draws of TOP random columns per layer: by how many layers the most shared column is shared."""
    draws = [
        [rng.choice(width, TOP, replace=False) for _ in range(n_layers)] for _ in lesson.progress(range(1_000), "draws")
    ]
    return np.array([sharing(np.array(draw)).most_common(1)[0][1] for draw in draws])


chance_shared = shared_by_chance(config.n_layers, config.d_model, rng)
dim, n_shared = dims_shared.most_common(1)[0]
n_neurons_shared = neurons_shared.most_common(1)[0][1]
few = [d for d, n in dims_shared.items() if n > chance_shared.max()]
lesson.say(
    f"Dimension {dim} is among the five largest of {n_shared} of {config.n_layers} layers; five random dimensions a "
    f"layer would give {chance_shared.mean():.1f} for the most shared one, and never more than {chance_shared.max()} "
    f"in 1,000 draws. {len(few)} of {config.d_model} dimensions are shared by more layers than that. Neurons show "
    f"nothing of the kind: the most shared number among the most active neurons occurs in {n_neurons_shared} layers, "
    "and two neurons of one number in two layers have nothing to do with each other anyway."
)
lesson.json["mlp_out"] = {
    "dimensions": [dict(zip(("dimension", "layers", "prompts_x_layers", "neurons_for_half", "neurons_that_lead"), r,
                            strict=True)) for r in dim_rows],
    "top": top_dims.tolist(), "by_chance": float(chance_shared.mean()), "by_chance_largest": int(chance_shared.max()),
    "neurons_shared": n_neurons_shared,
}  # fmt: skip

# %% 4. The most active neurons and the hypotheses
SITE = options.site
unit = "neuron" if SITE == "post" else "dimension"
acts, chosen = (post, top_neurons) if SITE == "post" else (mlp_out, top_dims)
width = acts[0].shape[1]
others = np.array([rng.choice(np.setdiff1d(np.arange(width), top), TOP, replace=False) for top in chosen])
both = np.hstack([chosen, others])  # [n_layers, 2 * TOP]: the most active and, as a control, as many random ones
held = capture(model, held_out, {get_act_name(SITE, layer): both[layer] for layer in layers})
first_acts = np.concatenate([acts[layer][first_rows][:, both[layer]] for layer in layers], axis=1).T  # [unit, token]
held_acts = np.concatenate([held[get_act_name(SITE, layer)][held_rows] for layer in layers], axis=1).T
peak = np.take_along_axis(first_acts, np.abs(first_acts).argmax(axis=1)[:, None], axis=1)[:, 0]  # [unit], signed
sign = np.where(peak < 0, -1, 1)[:, None].astype(first_acts.dtype)
n_fire = max(TOP, round(0.025 * len(first_rows)))
threshold = -np.sort(-sign * first_acts, axis=1)[:, n_fire - 1 : n_fire]  # [unit, 1]
fires, held_fires = sign * first_acts >= threshold, sign * held_acts >= threshold  # [unit, token]

lesson.section(f"4. A hypothesis for each {unit}, made by rule")
lesson.say(
    f"For each layer we take the {TOP} {unit}s with the largest absolute activation, {config.n_layers * TOP} in all. A "
    f"{unit} may be active upwards or downwards: the side of its largest activation counts. It 'fires' on a token when "
    f"it is at least as active as on its {n_fire} strongest tokens of the first set (2.5 %)."
)
FUNCTION_WORDS = {
    "article": ["a", "an", "the", "this", "that", "these", "those"],
    "preposition": [
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "from",
        "with",
        "by",
        "about",
        "over",
        "through",
        "between",
        "around",
        "near",
        "under",
    ],
    "pronoun": [
        "i",
        "you",
        "he",
        "she",
        "it",
        "we",
        "they",
        "me",
        "him",
        "her",
        "us",
        "them",
        "my",
        "your",
        "his",
        "its",
        "our",
        "their",
        "thee",
        "thou",
        "who",
        "what",
    ],
    "verb of being or having": [
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "am",
        "has",
        "have",
        "had",
        "do",
        "does",
        "did",
        "'s",
        "'m",
        "'re",
        "'ve",
    ],
    "conjunction": ["and", "or", "but", "if", "because", "so", "than", "as", "then", "when", "while", "where"],
}
ALL_FUNCTION_WORDS = {word for words in FUNCTION_WORDS.values() for word in words}
KEYWORDS = {
    *keyword.kwlist,
    *["int", "void", "function", "const", "let", "var", "self", "select", "where", "order", "limit"],
}
Rule = Callable[[str, str], bool]  # of a piece and of the text before it


def is_word(piece: str, before: str) -> bool:
    return piece.strip()[:1].isalpha() and not (piece[:1].isalpha() and before[-1:].isalpha())


def is_capital(piece: str, before: str) -> bool:
    return is_word(piece, before) and piece.strip()[0].isupper()


def is_name(piece: str, before: str) -> bool:
    """A capital where no sentence or line begins; 'I' does not count."""
    inside = before.rstrip(" \"'(")[-1:] not in ("", ".", "!", "?", ":", "-", "\n")
    return is_capital(piece, before) and inside and piece.strip() != "I" and not piece.strip()[1:].isupper()


RULES: dict[str, Rule] = {
    "punctuation": lambda piece, _: re.fullmatch(r"[^\w\s]+", piece.strip()) is not None,
    "comma": lambda piece, _: piece.strip()[-1:] == ",",
    "end of a sentence": lambda piece, _: piece.strip()[:1] in tuple(".!?"),
    "bracket": lambda piece, _: piece.strip()[:1] in tuple("()[]{}"),
    "quotation mark": lambda piece, _: '"' in piece,
    "arithmetic sign": lambda piece, _: re.fullmatch(r"[-+*/=^<>%]+", piece.strip()) is not None,
    "digit": lambda piece, _: piece.strip().isdigit(),
    "line break": lambda piece, _: "\n" in piece,
    "white space": lambda piece, _: piece.isspace(),
    "code keyword": lambda piece, _: piece.strip().lower() in KEYWORDS - ALL_FUNCTION_WORDS,
    "capitalised word": is_capital,
    "name": is_name,
    "function word": lambda piece, _: piece.strip().lower() in ALL_FUNCTION_WORDS,
    "later part of a word": lambda piece, before: piece[:1].isalpha() and before[-1:].isalpha(),
} | {kind: lambda piece, _, words=words: piece.strip().lower() in words for kind, words in FUNCTION_WORDS.items()}
NEIGHBOURS = ("punctuation", "end of a sentence", "comma", "bracket", "arithmetic sign", "digit", "line break",
              "white space", "name", "function word", "article", "preposition", "later part of a word")  # fmt: skip


def describe(pieces: Sequence[str], kind: str) -> list[set[str]]:
    """For each token of a prompt the names of all categories that it belongs to."""
    own = [{name for name, rule in RULES.items() if rule(p, "".join(pieces[:i]))} for i, p in enumerate(pieces)]
    before = [set[str](), *({f"after {name}" for name in names if name in NEIGHBOURS} for names in own[:-1])]
    after = [*({f"before {name}" for name in names if name in NEIGHBOURS} for names in own[1:]), set[str]()]
    itself = ({f"the token {show_token(p)}", f"in {kind}"} for p in pieces)
    return [names.union(*more) for names, *more in zip(own, before, after, itself, strict=True)]


def membership(text: Text, rows: Integers) -> list[set[str]]:
    described = [names for p, kind in zip(text.pieces, text.kinds, strict=True) for names in describe(p, kind)]
    return [described[row] for row in rows]


first_names, held_names = membership(first, first_rows), membership(held_out, held_rows)
first_count = Counter(name for names in first_names for name in names)
held_count = Counter(name for names in held_names for name in names)
categories = sorted(
    name for name, n in first_count.items() if min(n, held_count[name]) >= 5 and n <= 0.5 * len(first_rows)
)
labels = np.array([[c in names for c in categories] for names in first_names], dtype=np.float32)  # [token, category]
held_labels = np.array([[c in names for c in categories] for names in held_names], dtype=np.float32)

lesson.say(
    f"A hypothesis is the name of a category of tokens. There are {len(categories)} that occur at least five times in "
    "either set and in no more than half of the first: what the token is (punctuation, digit, code keyword, name, "
    "article, one particular token ...), what stands before or after it, and which kind of prompt it is in.\n\n"
    f"The rule, stated before we look. On the first set, a category is a candidate for a {unit} when at least half of "
    "the tokens it fires on belong to it (precision), and at least twice as many as of all tokens (lift). Of the "
    "candidates the one that would be least likely by chance is the guess. One guess for each, and it survives when, "
    f"on the held-out set, the {unit} fires at least five times, precision and lift hold again, and so many hits have "
    "a probability below 1 % if firing had nothing to do with the category."
)
Labels = npt.NDArray[np.bool_]


def precisions(fires: Labels, labels: Array) -> Array:
    """Of the tokens that each unit fires on, the share in each category: [unit, category]."""
    hits = fires.astype(np.float32) @ labels
    share: Array = hits / np.maximum(fires.sum(axis=1, keepdims=True), 1)
    return share


def surprise(precision: Array, base: Array, n: Integers) -> Array:
    """n * KL(precision || base rate), in nats: how unlikely such a precision is by chance, [unit, category]."""
    p, q = np.clip(precision, 1e-6, 1 - 1e-6), np.clip(base, 1e-6, 1 - 1e-6)
    nats: Array = n[:, None] * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    return nats


def guess(fires: Labels, labels: Array) -> Integers:
    """For each unit its category, -1 for none."""
    precision, base = precisions(fires, labels), labels.mean(axis=0)
    candidate = (precision >= 0.5) & (precision >= 2 * base)
    nats = np.where(candidate, surprise(precision, base, fires.sum(axis=1)), -1)
    return np.where(candidate.any(axis=1), nats.argmax(axis=1), -1)


def at_least(hits: int, n: int, base: float) -> float:
    """The probability of so many hits or more in n tries, each with the base rate."""
    return sum(math.comb(n, k) * base**k * (1 - base) ** (n - k) for k in range(hits, n + 1))


def test(fires: Labels, labels: Array, guessed: Integers) -> tuple[Array, Array, Labels]:
    """Of each unit's guess on other text: precision, lift over the base rate, and whether it survives: each [unit]."""
    rows, n, base = np.arange(len(guessed)), fires.sum(axis=1), labels.mean(axis=0)[guessed]
    precision = precisions(fires, labels)[rows, guessed]
    lift = precision / np.maximum(base, 1e-9)
    unlikely = [
        at_least(round(float(p * k)), int(k), float(b)) < 0.01 for p, k, b in zip(precision, n, base, strict=True)
    ]
    return precision, lift, (guessed >= 0) & (n >= 5) & (precision >= 0.5) & (lift >= 2) & np.array(unlikely)


guessed = guess(fires, labels)
precision, lift, survives = test(held_fires, held_labels, guessed)
n_units = config.n_layers * 2 * TOP
layer_of, place_of = np.divmod(np.arange(n_units), 2 * TOP)
is_top = place_of < TOP  # the most active ones; the others are random
number = both.ravel()  # [unit]: its neuron or dimension


def by_chance(rng: np.random.Generator) -> int:
    """How many of the most active survive when the categories are dealt out to the tokens at random."""
    mixed, held_mixed = rng.permutation(labels), rng.permutation(held_labels)
    return int(test(held_fires, held_mixed, guess(fires, mixed))[2][is_top].sum())


shuffled = [by_chance(rng) for _ in lesson.progress(range(20), "shuffled categories")]
n_top, n_random = int(survives[is_top].sum()), int(survives[~is_top].sum())
n_guessed = int((guessed[is_top] >= 0).sum())
n_each = config.n_layers * TOP
lesson.say(
    f"Of the {n_each} most active {unit}s, {n_guessed} get a guess and {n_top} guesses survive; the others have no "
    f"hypothesis. Two controls. With the categories dealt out to the tokens at random {np.mean(shuffled):.1f} survive "
    f"({max(shuffled)} at most in {len(shuffled)} draws). Of as many random {unit}s of the same layers {n_random} do."
)
found = Counter(categories[guessed[u]] for u in np.flatnonzero(survives & is_top))
if found:
    lesson.bars(
        [name for name, _ in found.most_common(12)],
        [n for _, n in found.most_common(12)],
        caption=f"the hypotheses that survive most often (of {len(found)})",
        format=".0f",
    )

# %% 5. One layer in full
first_all = {
    int(u): acts[layer_of[u]][:, number[u]] for u in np.flatnonzero(is_top)
}  # [token], all tokens of the first set


def extremes(values: Array, n: int = 3) -> tuple[list[int], list[int]]:
    """The tokens with the highest and the lowest activation, of those that count."""
    order = first_rows[np.argsort(values[first_rows], kind="stable")]
    return [int(t) for t in order[::-1][:n]], [int(t) for t in order[:n]]


def gate_and_in(layer: int, token: int, neuron: int) -> tuple[float, float]:
    """The two factors of a neuron's activation: x . W_gate[:, n] before silu, and x . W_in[:, n]."""
    block = weights.blocks[layer]
    x = cache[get_act_name("ln2.normalized", layer)][token] * block.ln2  # [d_model], what the MLP reads
    return float(x @ block.W_gate[:, neuron]), float(x @ block.W_in[:, neuron])


def promotes(u: int, n: int = 4) -> list[str]:
    """The tokens that the unit promotes when it is active on its strong side."""
    row = np.zeros(config.d_model, np.float32)
    if SITE == "post":
        row = weights.blocks[layer_of[u]].W_out[number[u]]
    else:
        row[number[u]] = 1
    logits = float(sign[u, 0]) * (row * weights.ln_final) @ weights.W_U  # [d_vocab]
    return model.to_str_tokens([int(token) for token in np.argsort(-logits, kind="stable")[:n]])


def hypothesis(u: int) -> str:
    return categories[guessed[u]] if survives[u] else "no hypothesis"


counts = [int(survives[(layer_of == layer) & is_top].sum()) for layer in layers]
shown = options.layer if options.layer is not None else int(np.argmax(counts))
lesson.section(f"5. Layer {shown} in full")
lesson.say(
    f"Each of the five most active {unit}s of layer {shown}, with the tokens (in brackets) that drive it highest and "
    "lowest."
    + (
        " `gate` is x . W_gate[:, n] and `in` is x . W_in[:, n]. silu(gate) is about gate itself when that is "
        "positive, and between -0.28 and 0 when it is negative: a large activation needs an open gate, and its sign is "
        "then that of `in`. Look whether the highest and the lowest tokens have anything in common."
        if SITE == "post"
        else " A dimension has no gate of its own: look how unlike each other its tokens are."
    )
    + " Under each table stands what it writes: the tokens that it promotes through the unembedding when it is active "
    "on its strong side. This leaves out all layers in between, so early layers look stranger than they are."
)
for u in map(int, np.flatnonzero((layer_of == shown) & is_top)):
    rows = []
    for side, tokens in zip(("highest", "lowest"), extremes(first_all[u]), strict=True):
        for token in tokens:
            factors = gate_and_in(shown, token, number[u]) if SITE == "post" else ()
            rows.append(
                [side, first.context(token), first.kinds[first.prompt[token]], float(first_all[u][token]), *factors]
            )
    headers = ["side", "token", "kind", "activation", *(("gate", "in") if SITE == "post" else ())]
    lesson.table(
        headers,
        rows,
        caption=f"{unit} {number[u]} of layer {shown}: {hypothesis(u)}"
        + (f", held-out precision {precision[u]:.0%}, lift {lift[u]:.1f}" if survives[u] else ""),
        formats=dict.fromkeys(headers[3:], "+.2f"),
    )
    lesson.say(f"{number[u]} promotes " + " ".join(show_token(piece) for piece in promotes(u, 6)) + ".")

# %% 6. Summary
lesson.section("6. Summary")
MAX_ROWS = 40
kept = [int(u) for u in np.flatnonzero(survives & is_top)]
best = sorted(sorted(kept, key=lambda u: -lift[u])[:MAX_ROWS])
lesson.json["layers"] = []
for layer in layers:
    neurons = []
    for u in map(int, np.flatnonzero((layer_of == layer) & is_top)):
        highest, lowest = extremes(first_all[u])
        strong = highest if sign[u, 0] > 0 else lowest
        neurons.append({
            "neuron": int(number[u]), "activation": float(peak[u]), "site": SITE,
            **{
                side: [
                    {"token": first.piece(t), "context": str(first.context(t)), "kind": first.kinds[first.prompt[t]],
                     "prompt": int(first.prompt[t]), "position": int(first.position[t]),
                     "activation": float(first_all[u][t])}
                    for t in tokens
                ]
                for side, tokens in (("top_tokens", strong), ("highest", highest), ("lowest", lowest))
            },
            "gate": gate_and_in(layer, strong[0], int(number[u]))[0] if SITE == "post" else None,
            "guess": categories[guessed[u]] if guessed[u] >= 0 else None, "hypothesis": hypothesis(u),
            "precision": float(precision[u]) if guessed[u] >= 0 else None,
            "lift": float(lift[u]) if guessed[u] >= 0 else None,
            "fires_held_out": int(held_fires[u].sum()), "promotes": promotes(u),
        })  # fmt: skip
    lesson.json["layers"].append({"layer": layer, "neurons": neurons})
lesson.json["prompts"] = [
    {"set": name, "kind": kind, "prompt": prompt}
    for name, start in (("first", 0), ("held out", 1)) for kind, texts in by_kind.items() for prompt in texts[start::2]
]  # fmt: skip
lesson.json["hypotheses"] = {
    "units": n_each, "guessed": n_guessed, "survive": n_top, "survive_random_units": n_random, "shuffled": shuffled,
    "by_category": dict(found), "by_layer": counts,
}  # fmt: skip
lesson.say(
    f"How many of a layer's five have a hypothesis that survived: {', '.join(map(str, counts))} (layer 0 to "
    f"{config.n_layers - 1}). "
    + (
        f"The table shows {f'the {MAX_ROWS} with the largest lift' if len(kept) > MAX_ROWS else 'them all'}; "
        f"every one of the {n_each} {unit}s is in the file that --json writes. Top tokens are those on the strong side."
        if kept
        else f"None of the {n_each} {unit}s has one, so there is no table."
    )
)
if best:
    lesson.table(
        ["layer", unit, "activation", "top tokens", "hypothesis", "precision", "lift"],
        [
            [int(layer_of[u]), int(number[u]), float(peak[u]),
             " ".join(show_token(first.piece(t)) for t in extremes(first_all[u])[0 if sign[u, 0] > 0 else 1]),
             hypothesis(u), float(precision[u]), float(lift[u])]
            for u in best
        ],
        caption="hypotheses that survived, with precision and lift on held-out prompts",
        formats={"activation": "+.1f", "precision": ".0%", "lift": ".1f"},
    )  # fmt: skip

# %% 7. Checks and what was found
lesson.section("7. Checks and what was found")


def relative(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max()) / float(np.abs(expected).max())


def remade(layer: int) -> tuple[Array, Array]:
    """Both points of a layer from what enters its MLP: three matmuls."""
    block = weights.blocks[layer]
    x = cache[get_act_name("ln2.normalized", layer)] * block.ln2  # [token, d_model]
    acts = silu(x @ block.W_gate) * (x @ block.W_in)  # [token, d_mlp]
    return acts, acts @ block.W_out


lesson.check(
    "silu(x @ W_gate) * (x @ W_in) is hook_post, in every layer (relative)",
    max(relative(remade(layer)[0], post[layer]) for layer in layers),
    1e-4,
)
lesson.check(
    "its product with W_out is hook_mlp_out, in every layer (relative)",
    max(relative(remade(layer)[1], mlp_out[layer]) for layer in layers),
    1e-4,
)
_, alone = model.run_with_cache(first.tokens[0], [get_act_name(SITE, layer) for layer in layers], positions=-1)
lesson.check(
    "a prompt run alone gives what it gives in its batch (relative)",
    max(relative(acts[layer][first.prompt == 0], alone[get_act_name(SITE, layer)][0]) for layer in layers),
    1e-4,
)
lesson.check(
    f"every {unit} fires on as many tokens of the first set as its threshold says",
    float(np.abs(np.sort(np.where(fires, sign * first_acts, -np.inf), axis=1)[:, -n_fire] - threshold[:, 0]).max()),
    0.0,
)
lesson.finding(
    "The first token is not like the others: neurons are active there as nowhere else.",
    established=stands_out and bool(seconds[sink, 0] < 0.1 * starts[sink, 0]),
    evidence=f"layer {sink}: largest activation {starts[sink, 0]:.1f} at position 0, {starts[sink, 1]:.1f} elsewhere "
    "(medians)",
    control=f"position 1: {seconds[sink, 0]:.1f}; the bar is ten times the usual, and position 1 below a tenth of it",
)
lesson.finding(
    "What a ranking of hook_mlp_out brings up are a few residual dimensions, the same in most layers.",
    established=n_shared > max(config.n_layers / 2, int(chance_shared.max())),
    evidence=f"dimension {dim} is among the five largest of {n_shared} of {config.n_layers} layers",
    control=f"five random dimensions a layer: {chance_shared.max()} at most in 1,000 draws; the most shared number of "
    f"a neuron: {n_neurons_shared} layers; the bar is half of the layers and more than any draw",
)


def share_interval(hits: Labels) -> tuple[float, float, float]:
    """A share and its 95 % bootstrap interval; what is drawn are layers, as neurons of one layer are akin."""
    per_layer = hits.reshape(config.n_layers, -1).mean(axis=1)
    drawn = rng.choice(per_layer, (5000, config.n_layers)).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(per_layer.mean()), float(low), float(high)


share, low, high = share_interval(survives[is_top])
lesson.finding(
    f"Some of the most active {unit}s can be described by a simple rule that holds on new text.",
    established=low > max(shuffled) / n_each and low > 0.1,
    evidence=f"{n_top} of {n_each}, {share:.0%}, 95 % bootstrap interval over layers [{low:.0%}, {high:.0%}]",
    control=f"with the categories dealt out at random {max(shuffled)} at most; the bar is an interval above that and "
    "above 10 %",
)
top_share, random_share = (survives[m].reshape(config.n_layers, -1).mean(axis=1) for m in (is_top, ~is_top))
differences = top_share - random_share  # [n_layers]
drawn = rng.choice(differences, (5000, config.n_layers)).mean(axis=1)
gap, (gap_low, gap_high) = float(differences.mean()), np.percentile(drawn, [2.5, 97.5]).tolist()
lesson.json["hypotheses"] |= {"share": [share, low, high], "more_than_random": [gap, gap_low, gap_high]}
lesson.finding(
    f"The most active {unit}s are easier to describe than random ones of the same layers.",
    established=gap_low > 0,
    evidence=f"{n_top} of {n_each} against {n_random}; difference {gap:+.0%}, 95 % bootstrap interval "
    f"[{gap_low:+.0%}, {gap_high:+.0%}]",
    control="the random ones went through the same rule; the bar is an interval above 0",
)
lesson.say(
    f"What this does not say. A {unit} with a hypothesis fires on such tokens in text like this; it may fire on other "
    "things in other text, and half of its firing may be something else even here. One without may respond to "
    "something that no rule of ours names, or to several things at once (superposition). And nothing here says that "
    "the model uses it: for that one has to change it (lesson 3 removes parts, lesson 5 whole heads)."
)
lesson.exercise(
    f"How many of the {n_each} most active {unit}s have their largest activation on the negative side?",
    answer=int((peak[is_top] < 0).sum()),
    hint="peak[is_top] holds the signed values; in the JSON file it is `activation`",
    minutes=3,
    difficulty="easy",
)
lesson.exercise(
    "Let position 0 back in. In how many layers is the largest absolute activation of all then at position 0?",
    answer=sum(int(first.position[int(np.abs(acts[layer]).max(axis=1).argmax())] == 0) for layer in layers),
    hint="np.abs(acts[layer]).max(axis=1) has one number per token; first.position says where it stands",
    minutes=5,
    difficulty="medium",
)
loose = int((((precision >= 0.3) & (lift >= 2) & (guessed >= 0))[is_top]).sum())
lesson.exercise(
    "Lower the held-out bar: precision 0.3 instead of 0.5, and no bar for chance. How many guesses survive then?",
    answer=loose,
    hint="precision, lift and guessed hold one number per unit; count with a mask and is_top",
    minutes=5,
    difficulty="medium",
)
lesson.finish()
