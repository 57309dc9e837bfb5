# %% [markdown]
"""What happens, step by step, in one forward pass?

What you will learn: every line of code that runs between a prompt and a prediction, what each matmul multiplies,
how large everything is, and where the arithmetic goes.

Hook points used: all but hook_result

Needs: lesson 00

Time: 20 minutes to read, 3 seconds to run

Paper: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits
"""

# %% Set-up
import ast
import dataclasses
import inspect
import math
import sys
import textwrap
import time
import tracemalloc
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast

import tinymi
import tinymi.model as code
from tinymi import ops
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import POINTS, HookPoint, Point
from tinymi.lesson import Lesson, Token, show_token
from tinymi.ops import softmax
from tinymi.weights import AnyWeights, BlockWeights, tensor_shapes

import numpy as np

lesson = Lesson(__doc__)
lesson.option("prompt", nargs="?", default="The Eiffel Tower is in", help="the prompt to follow")
lesson.option("--layer", type=int, default=0, help="the layer that is told in full")
lesson.option("--position", type=int, default=-1, help="the position whose numbers are shown, from 0; -1 is the last")
options = lesson.start()
model = lesson.load_model()
config = model.config
tokens = model.to_tokens(options.prompt)  # [batch 1, pos]
str_tokens = model.to_str_tokens(options.prompt)
n_pos = tokens.shape[1]
if not 0 <= options.layer < config.n_layers:
    raise InputError(f"--layer {options.layer}: the model has layers 0 to {config.n_layers - 1}; give one of these")
if not -n_pos <= options.position < n_pos:
    raise InputError(f"--position {options.position}: the prompt has positions 0 to {n_pos - 1}; give one of these")
layer, position = options.layer, options.position % n_pos

# %% 1. How the run is watched
lesson.section("1. How the run is watched")
lesson.say(
    "Everything below is taken from one real run, so it cannot differ from the code. Python's own tracing tells which "
    "lines of `tinymi/model.py` are executed; the weights are handed over as arrays that write down each matmul they "
    "take part in; and a hook at each point cuts the run into steps, and keeps the step's result."
)


@dataclass
class Step:
    """What happened between one hook point and the next."""

    hook: HookPoint
    value: Array  # what the hook point saw
    lines: list[tuple[int, str]]  # depth of the call, statement
    matmuls: list[tuple[tuple[int, ...], tuple[int, ...]]]  # shapes of the two factors
    elementwise: int  # numbers that other operations gave

    @property
    def multiply_adds(self) -> int:
        """A matmul [.., n, m] @ [.., m, k] multiplies and adds n * m * k times, for each of the leading axes."""
        return sum(math.prod(left) * right[-1] for left, right in self.matmuls)


@dataclass
class Watch:
    """Collects what happens, until a hook takes it as one step."""

    steps: list[Step] = field(default_factory=list)
    lines: list[tuple[int, str]] = field(default_factory=list)
    matmuls: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    elementwise: int = 0

    def step(self, value: Array, hook: HookPoint) -> None:
        """The callback at every hook point."""
        self.steps.append(Step(hook, np.array(value), self.lines, self.matmuls, self.elementwise))
        self.lines, self.matmuls, self.elementwise = [], [], 0

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """For sys.settrace: notes each statement of model.py's functions from `forward` inwards."""
        if frame.f_code.co_filename != code.__file__ or frame.f_code.co_name not in FUNCTIONS:
            return None
        if event == "line" and (statement := STATEMENTS.get(frame.f_lineno)) is not None:
            self.lines.append((depth_below_forward(frame), statement))
        return self.trace


FUNCTIONS = {"forward", "block", "norm", "attention", "write_heads", "mlp", "unembed"}
watch = Watch()


def depth_below_forward(frame: FrameType) -> int:
    """0 in `forward`, 1 in what it calls, and so on."""
    depth, caller = 0, frame
    while caller.f_code.co_name != "forward" and caller.f_back is not None:
        depth, caller = depth + 1, caller.f_back
    return depth


def simple_statements(source: str) -> dict[int, str]:
    """First line -> text of every statement that does something itself (not `if`, `for`, a docstring)."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return)):
            found[node.lineno] = " ".join(ast.unparse(node).split())
    return found


STATEMENTS = simple_statements(inspect.getsource(code))


class Watched(np.ndarray[Any, Any]):
    """An array that tells `watch` which operations it goes through. Whatever comes of it is Watched too."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **settings: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, Watched) else x for x in inputs]
        target = None if out is None else tuple(x.view(np.ndarray) for x in out)
        result = getattr(ufunc, method)(*plain, **settings, **({} if target is None else {"out": target}))
        if ufunc is np.matmul:
            watch.matmuls.append((plain[0].shape, plain[1].shape))
        else:
            watch.elementwise += np.size(result)
        return out[0] if out else stay_watched(result)

    def __array_function__(self, function: Any, types: Any, arguments: Any, settings: Any) -> Any:
        return stay_watched(super().__array_function__(function, types, arguments, settings))


def stay_watched(x: Any) -> Any:
    """An array as a Watched one, of the same memory; anything else as it is."""
    return x.view(Watched) if isinstance(x, np.ndarray) else x


class WatchedWeights:
    """The model's weights, every array Watched when it is used; nothing is copied."""

    def __init__(self, weights: AnyWeights) -> None:
        self.weights, self.blocks, self.dtype = weights, self, weights.dtype

    def __getattr__(self, name: str) -> Any:  # W_E, ln_final, W_U
        return stay_watched(getattr(self.weights, name))

    def __getitem__(self, layer: int) -> BlockWeights:
        block = self.weights.blocks[layer]
        return dataclasses.replace(block, **{name: stay_watched(x) for name, x in vars(block).items()})


watched_model = tinymi.Model(config, cast(AnyWeights, WatchedWeights(model.weights)))
everything_told = [(lambda name: not name.endswith("hook_result"), watch.step)]
sys.settrace(watch.trace)
watched_logits = np.array(watched_model.run_with_hooks(tokens, everything_told))  # [batch 1, pos, d_vocab]
sys.settrace(None)
told = {step.hook.name: step for step in watch.steps}

# %% 2. Before the first layer
lesson.section("2. Before the first layer")
lesson.say(
    "The prompt is cut into tokens, and each token's id picks one row of the embedding: from here on a token is "
    f"{config.d_model} numbers, the residual stream at its position. What follows shows the numbers of position "
    f"{position}, {show_token(str_tokens[position])}."
)
lesson.table(
    ["position", "token", "id", "shown"],
    [[i, Token(piece), int(tokens[0, i]), "<-" if i == position else ""] for i, piece in enumerate(str_tokens)],
)

# The factors of each step's matmul, [n, m] @ [m, k], by the names of their axes. That these have the sizes of the run
# is checked below.
d_q, d_kv = "n_heads*d_head", "n_kv_heads*d_head"
AXES = {
    "q": ("pos", "d_model", d_q),
    "k": ("pos", "d_model", d_kv),
    "v": ("pos", "d_model", d_kv),
    "attn_scores": ("query_pos", "d_head", "key_pos"),
    "z": ("query_pos", "key_pos", "d_head"),
    "attn_out": ("pos", d_q, "d_model"),
    "pre": ("pos", "d_model", "d_mlp"),
    "pre_linear": ("pos", "d_model", "d_mlp"),
    "mlp_out": ("pos", "d_mlp", "d_model"),
    "logits": ("pos", "d_model", "d_vocab"),
}
SIZES = {name: getattr(config, name) for name in ("d_model", "n_heads", "n_kv_heads", "d_head", "d_mlp", "d_vocab")}
SIZES |= {"pos": n_pos, "query_pos": n_pos, "key_pos": n_pos, "batch": 1, "1": 1}
MEANING = {
    "embed": "Each token's row of the embedding: what the model knows of a word before it has read any other.",
    "resid_pre": "The residual stream enters. All layers read from it and add to it; nothing is ever overwritten.",
    "ln1.scale": "How large the stream is at each position: one number, its root mean square.",
    "ln1.normalized": "Divided by it, every position has the same size, and only its direction is left.",
    "q": "Each head asks: what do I look for from here? First the norm's learned weight is multiplied in.",
    "k": "Each position offers each head something to be found by. Several query heads may share one key head.",
    "v": "And what a head that looks here will get.",
    "rot_q": "Pairs of numbers of each query are turned by an angle that grows with the position: order counts.",
    "rot_k": "Keys are turned likewise: a query and a key then agree by content and by how far apart they are.",
    "attn_scores": "How well each query agrees with each key; in_groups puts the heads that share a key head together. "
    "What lies in the future gets minus infinity.",
    "pattern": "Softmax makes each row of scores into shares that sum to 1: where this position reads, how much.",
    "z": "The values, averaged by these shares: what each head takes along from where it looked.",
    "attn_out": "All heads' findings, written back in the stream's own directions, and summed.",
    "resid_mid": "The stream with what attention has added.",
    "ln2.scale": "Its root mean square, again one number per position.",
    "ln2.normalized": "And the stream divided by it.",
    "pre": "Each neuron's gate: does the stream point where this neuron looks?",
    "pre_linear": "And what the neuron would let through.",
    "post": "SiLU closes gates below zero almost fully; gate times content is what the neuron says.",
    "mlp_out": "Each neuron adds its own direction to the stream, as strongly as it fires.",
    "resid_post": "The stream that leaves this layer, and enters the next.",
    "ln_final.scale": "The size of the last stream.",
    "ln_final.normalized": "The last stream, divided by it.",
    "logits": "How far the stream points along each token's direction: one number per token of the vocabulary.",
}


def size(axis: str) -> int:
    """The number that a name such as n_heads*d_head stands for."""
    return math.prod(SIZES[part] for part in axis.split("*"))


def sized(*axes: str) -> list[tuple[str, int]]:
    """Axes with their sizes: ("pos", 6), ("d_model", 576)."""
    return [(axis, size(axis)) for axis in axes]


def shown_lines(step: Step) -> str:
    """The statements that ran, indented by the depth of their call, in 74 columns."""
    outermost = min((depth for depth, _ in step.lines), default=0)
    rows = []
    for depth, statement in step.lines:
        indent = "  " * (depth - outermost)
        rows += textwrap.wrap(statement, 74, initial_indent=indent, subsequent_indent=f"{indent}    ")
    return "\n".join(rows)


def shown_numbers(point: Point, value: Array) -> tuple[str, Array]:
    """Where the excerpt is from, and all numbers there: the chosen position's (head 0's, where there are heads)."""
    if "query_pos" in point.axes:
        return f"head 0, query {position}, keys from 0", value[0, 0, position, : position + 1]
    if value.ndim == 4:
        return f"position {position}, head 0", value[0, position, 0]
    return f"position {position}", value[0, position]


def tell(step: Step) -> None:
    """One step, as it was seen."""
    point = step.hook.point
    n, m, k = AXES.get(point.short, ("", "", ""))
    where, numbers = shown_numbers(point, step.value)
    lesson.step(
        step.hook.name,
        MEANING[point.short],
        shown_lines(step),
        factors=[sized(n, m), sized(m, k)] if n else [],
        times=f"for each of {config.n_heads} heads" if n == "query_pos" else "",
        result=sized(*point.axes),
        multiply_adds=step.multiply_adds,
        where=where,
        numbers=numbers[:6],
        more=len(numbers) > 6,
    )


tell(told["hook_embed"])

# %% 3. One layer in full
lesson.section(f"3. Layer {layer}, line by line")
lesson.say(
    "Under each hook point: the lines that ran since the one before (indented where a function was called), the matmul "
    "if there was one, with the names of its axes, and some numbers of the result. (The page draws each matmul, too: "
    "sides grow with the logarithm of their axes, and the axis that the two factors share is summed over.) Look for "
    "the two halves: attention, the only place where positions exchange anything, and the MLP, which works on each "
    "position alone. And look at what returns to the stream: one sum each."
)
for step in watch.steps:
    if step.hook.layer == layer:
        tell(step)

# %% 4. The other layers
lesson.section("4. The other layers")
lesson.say(
    "Every layer runs the same lines with other weights. For each: how long the stream is at the position shown, how "
    "long what attention and the MLP add to it, and what the model would say if it ended here (the logit lens, lesson "
    "04). Look for the layer from which on it says the answer."
)


def lens(resid: Array) -> Array:
    """The probabilities [d_vocab] that the model's own end makes of a residual stream [d_model]."""
    scale = np.sqrt(np.mean(resid**2) + config.rms_eps)
    return softmax(resid / scale * model.weights.ln_final @ model.weights.W_U)


rows: list[list[Any]] = []
for i in range(config.n_layers):
    attn_out, mlp_out, resid_post = (
        told[f"blocks.{i}.hook_{name}"].value[0, position] for name in ("attn_out", "mlp_out", "resid_post")
    )
    probabilities = lens(resid_post)
    best = int(probabilities.argmax())
    lengths = [float(np.linalg.norm(x)) for x in (attn_out, mlp_out, resid_post)]
    rows.append([i, *lengths, Token(model.to_str_tokens([best])[0]), float(probabilities[best])])
headers = ["layer", "attention adds", "MLP adds", "stream", "lens says", "probability"]
lesson.table(
    headers,
    rows,
    caption=f"lengths at position {position}, {show_token(str_tokens[position])}",
    formats={"attention adds": ".1f", "MLP adds": ".1f", "stream": ".1f", "probability": ".3f"},
)
lesson.json["layers"] = [dict(zip([header.replace(" ", "_") for header in headers], row, strict=True)) for row in rows]

# %% 5. The end: logits
lesson.section("5. The end: logits")
for name in ("ln_final.hook_scale", "ln_final.hook_normalized", "unembed.hook_out"):
    tell(told[name])
final = softmax(watched_logits[0, position])  # [d_vocab]
top = np.argsort(-final, kind="stable")[:5]
lesson.bars(
    [Token(piece) for piece in model.to_str_tokens(top)],
    [float(final[token]) for token in top],
    caption=f"the likeliest tokens after {show_token(str_tokens[position])}, and their probability",
    format=".3f",
)

# %% 6. What it cost
lesson.section("6. What it cost")
KINDS = {
    "attention: queries, keys, values": ("q", "k", "v"),
    "attention: scores and averages": ("attn_scores", "z"),
    "attention: writing back": ("attn_out",),
    "MLP: gates and contents": ("pre", "pre_linear"),
    "MLP: writing back": ("mlp_out",),
    "unembedding": ("logits",),
}


def counted(points: tuple[str, ...]) -> int:
    """The multiply-adds of all steps that end at these points."""
    return sum(step.multiply_adds for step in watch.steps if step.hook.point.short in points)


def by_formula() -> dict[str, int]:
    """The same from the config alone: positions x rows x columns of each matrix, and of each head's attention."""
    d_model, heads, kv_heads, d_head = config.d_model, config.n_heads, config.n_kv_heads, config.d_head
    one_layer = [
        n_pos * d_model * (heads + 2 * kv_heads) * d_head,
        2 * heads * n_pos * n_pos * d_head,
        n_pos * heads * d_head * d_model,
        n_pos * 2 * d_model * config.d_mlp,
        n_pos * config.d_mlp * d_model,
    ]
    return dict(zip(KINDS, [*(config.n_layers * n for n in one_layer), n_pos * d_model * config.d_vocab], strict=True))


formula = by_formula()
total = sum(step.multiply_adds for step in watch.steps)
elementwise = sum(step.elementwise for step in watch.steps)
lesson.say(
    "A matmul's cost is the product of its three sizes. Look at which part is largest, and at the part in which "
    "positions look at each other: it alone grows with the square of the prompt's length."
)
lesson.table(
    ["where", "counted in the run", "by formula", "share"],
    [[kind, counted(points), formula[kind], counted(points) / total] for kind, points in KINDS.items()]
    + [["all", total, sum(formula.values()), 1.0]],
    caption=f"multiply-adds of one forward pass of {n_pos} tokens through {config.n_layers} layers",
    formats={"counted in the run": ",", "by formula": ",", "share": ".1%"},
)
start = time.perf_counter()
plain_logits = model(tokens)  # [batch 1, pos, d_vocab]
seconds = time.perf_counter() - start
tracemalloc.start()
model(tokens)
peak = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
seen = sum(step.value.nbytes for step in watch.steps)
itemsize = model.weights.dtype.itemsize
weights_bytes = itemsize * sum(math.prod(shape) for _, shape in tensor_shapes(config))
kept = itemsize * 2 * config.n_layers * n_pos * config.n_kv_heads * config.d_head
lesson.table(
    ["memory", "MiB"],
    [
        ["the weights", weights_bytes / 2**20],
        ["at most at one time beside them, in a run that nobody watches", peak / 2**20],
        ["all values that hooks saw, kept at once", seen / 2**20],
        ["keys and values of the prompt, if kept for the next token", kept / 2**20],
    ],
    formats={"MiB": ",.2f"},
)
lesson.say(
    f"Beside the matmuls, all other operations together gave {elementwise:,} numbers: {elementwise / total:.2%} of the "
    f"multiply-adds. One run took {1000 * seconds:.0f} milliseconds here, {total / seconds / 1e9:.0f} thousand million "
    "multiply-adds a second."
)
lesson.json["multiply_adds"] = {kind: counted(points) for kind, points in KINDS.items()} | {"all": total}
lesson.json["steps"] = [
    {"hook": step.hook.name, "shape": list(step.value.shape), "multiply_adds": step.multiply_adds}
    for step in watch.steps
]
lesson.json["top"] = [
    {"token": model.to_str_tokens([token])[0], "token_id": int(token), "probability": float(final[token])}
    for token in top
]

# %% 7. The formulas behind the names
lesson.section("7. The formulas behind the names")
lesson.say("The lines above call a few functions of `tinymi/ops.py`. These are all of them, without their comments.")


def body(function: Any) -> str:
    """A function's source without its docstring."""
    tree = ast.parse(inspect.getsource(function)).body[0]
    assert isinstance(tree, ast.FunctionDef)
    tree.body = tree.body[1:]
    rows = []
    for row in ast.unparse(tree).splitlines():
        indent = row[: len(row) - len(row.lstrip())]
        rows += textwrap.wrap(row, 76, subsequent_indent=f"{indent}    ", drop_whitespace=True) or [""]
    return "\n".join(rows)


for function in (ops.linear, ops.rms, ops.rope, ops.softmax, ops.silu):
    lesson.code(body(function))

# %% 8. Checks
lesson.section("8. Checks")
shapes = [
    ([math.prod(left), math.prod(right)], [heads * size(n) * size(m), shared * size(m) * size(k)])
    for step in watch.steps
    for left, right in step.matmuls
    for n, m, k in [AXES[step.hook.point.short]]
    for heads, shared in [(config.n_heads, config.n_kv_heads) if n == "query_pos" else (1, 1)]
]
wrong = sum(sorted(found) != sorted(expected) for found, expected in shapes)
unnamed = [step for step in watch.steps if step.value.shape != tuple(size(axis) for axis in step.hook.point.axes)]
points = {point.short for point in POINTS} - {"result"}
lesson.check("watching changes no logit", float(np.abs(watched_logits - plain_logits).max()), 0.0)
lesson.check("multiply-adds counted equal those by formula", abs(total - sum(formula.values())), 0)
lesson.check("matmuls whose sizes are not those of their axes", wrong, 0)
lesson.check("results whose sizes are not those of their axes", len(unnamed), 0)
lesson.check("matmuls in a layer and at the end", abs(len(shapes) - (9 * config.n_layers + 1)), 0)
lesson.check("hook points without a sentence, or sentences without one", len(points ^ set(MEANING)), 0)
resid = told["hook_embed"].value + sum(
    told[f"blocks.{i}.hook_{name}"].value for i in range(config.n_layers) for name in ("attn_out", "mlp_out")
)
last = told[f"blocks.{config.n_layers - 1}.hook_resid_post"].value
lesson.check(
    "the last stream is the embedding and all that was added", float(np.abs(resid - last).max() / np.ptp(last)), 1e-5
)
lesson.exercise(
    "How many multiply-adds does one more token cost, if the keys and values of the prompt are kept?",
    answer=f"{sum(formula.values()) // n_pos - formula['attention: scores and averages'] // n_pos:,} plus "
    f"{2 * config.n_layers * config.n_heads * (n_pos + 1) * config.d_head:,} for attention",
    hint="every term but one grows with the positions of the run; that one with queries times keys",
    minutes=10,
    difficulty="medium",
)
longer = (
    config.d_model * (2 * config.n_heads + 2 * config.n_kv_heads) * config.d_head + 3 * config.d_model * config.d_mlp
) / (2 * config.n_heads * config.d_head)
lesson.exercise(
    "From how many tokens on does looking at each other cost more than all else in a layer?",
    answer=f"{math.floor(longer) + 1:,} tokens",
    hint="a layer's other matmuls cost the same for each token; scores and averages cost more with each",
    minutes=10,
    difficulty="medium",
)
lesson.finish()
