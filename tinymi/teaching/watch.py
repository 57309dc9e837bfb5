"""One forward pass, watched: which lines ran for each value, what was multiplied, and what came out.

Everything is taken from a real run, so it cannot differ from the code. Python's own tracing tells which lines of
tinymi/model.py run, the weights are handed over as arrays that write down each matmul, and a hook at each point cuts
the run into steps.
"""

import ast
import dataclasses
import inspect
import math
import sys
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast

import tinymi.model as code
from tinymi.arrays import Array, Tokens
from tinymi.hooks import HookPoint
from tinymi.run import Model
from tinymi.weights import AnyWeights, BlockWeights

import numpy as np

FUNCTIONS = {"forward", "embed", "run_layers", "block", "norm", "attention", "write_heads", "mlp", "unembed"}
# The factors of each step's matmul, [n, m] @ [m, k], by the names of their axes.
FACTORS = {
    "q": ("pos", "d_model", "n_heads*d_head"),
    "k": ("pos", "d_model", "n_kv_heads*d_head"),
    "v": ("pos", "d_model", "n_kv_heads*d_head"),
    "attn_scores": ("query_pos", "d_head", "key_pos"),
    "z": ("query_pos", "key_pos", "d_head"),
    "attn_out": ("pos", "n_heads*d_head", "d_model"),
    "pre": ("pos", "d_model", "d_mlp"),
    "pre_linear": ("pos", "d_model", "d_mlp"),
    "mlp_out": ("pos", "d_mlp", "d_model"),
    "logits": ("pos", "d_model", "d_vocab"),
}
Shapes = list[tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass
class Step:
    """What happened between one hook point and the next."""

    hook: HookPoint
    value: Array  # what the hook point saw
    lines: list[str]  # the statements of model.py that ran
    matmuls: Shapes  # the two factors of each

    @property
    def formula(self) -> str:
        """The statement that says most: the last one with a matmul, or else the last one."""
        matmuls = [line for line in self.lines if "linear(" in line or " @ " in line]
        return (matmuls or self.lines or [""])[-1]

    @property
    def multiply_adds(self) -> int:
        """A matmul [.., n, m] @ [.., m, k] multiplies and adds n * m * k times, for each of the leading axes."""
        return sum(math.prod(left) * right[-1] for left, right in self.matmuls)


def watch(model: Model, tokens: Tokens) -> dict[str, Step]:
    """The steps of one run on tokens [1, pos], in order, by their hook point's name. hook_result has none."""
    watcher = _Watcher()
    watched = Model(model.config, cast(AnyWeights, _WatchedWeights(model.weights, watcher)))
    sys.settrace(watcher.trace)
    try:
        watched.run_with_hooks(tokens, [(lambda name: not name.endswith("hook_result"), watcher.cut)])
    finally:
        sys.settrace(None)
    return {step.hook.name: step for step in watcher.steps}


def sized(axes: tuple[str, ...], model: Model, n_pos: int) -> list[tuple[str, int]]:
    """Axes with their sizes in this run: ("pos", 5), ("n_heads*d_head", 576)."""
    sizes = vars(model.config) | {"pos": n_pos, "query_pos": n_pos, "key_pos": n_pos, "batch": 1, "1": 1}
    return [(axis, math.prod(sizes[part] for part in axis.split("*"))) for axis in axes]


@dataclass
class _Watcher:
    """Collects what happens until a hook cuts it off as one step."""

    steps: list[Step] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    matmuls: Shapes = field(default_factory=list)

    def cut(self, value: Array, hook: HookPoint) -> None:
        """The callback at every hook point."""
        self.steps.append(Step(hook, np.array(value), self.lines, self.matmuls))
        self.lines, self.matmuls = [], []

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """For sys.settrace: notes each statement of the forward pass."""
        if frame.f_code.co_filename != code.__file__ or frame.f_code.co_name not in FUNCTIONS:
            return None
        if event == "line" and (statement := _STATEMENTS.get(frame.f_lineno)) is not None:
            self.lines.append(statement)
        return self.trace


def _simple_statements(source: str) -> dict[int, str]:
    """First line -> text of every assignment and every `return` of a formula."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign | ast.Return)]
    return {node.lineno: " ".join(ast.unparse(node).split()) for node in nodes}


_STATEMENTS = _simple_statements(inspect.getsource(code))


class _Watched(np.ndarray[Any, Any]):
    """An array that tells the watcher which matmuls it goes through. Whatever comes of it is watched, too."""

    watcher: _Watcher | None = None

    def __array_finalize__(self, parent: Any) -> None:
        self.watcher = getattr(parent, "watcher", None)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **settings: Any) -> Any:
        watcher = next(x.watcher for x in inputs if isinstance(x, _Watched))
        plain = [x.view(np.ndarray) if isinstance(x, _Watched) else x for x in inputs]
        if out is not None:
            settings["out"] = tuple(x.view(np.ndarray) for x in out)
        result = getattr(ufunc, method)(*plain, **settings)
        if ufunc is np.matmul and watcher is not None:
            watcher.matmuls.append((plain[0].shape, plain[1].shape))
        return out[0] if out else _watched(result, watcher)

    def __array_function__(self, function: Any, types: Any, arguments: Any, settings: Any) -> Any:
        return _watched(super().__array_function__(function, types, arguments, settings), self.watcher)


def _watched(x: Any, watcher: _Watcher | None) -> Any:
    """An array as a watched one, of the same memory."""
    if not isinstance(x, np.ndarray):
        return x
    view = x.view(_Watched)
    view.watcher = watcher
    return view


class _WatchedWeights:
    """The model's weights, every array watched when it is used; nothing is copied."""

    def __init__(self, weights: AnyWeights, watcher: _Watcher) -> None:
        self.weights, self.watcher, self.blocks, self.dtype = weights, watcher, self, weights.dtype

    def __getattr__(self, name: str) -> Any:  # W_E, ln_final, W_U
        return _watched(getattr(self.weights, name), self.watcher)

    def __getitem__(self, layer: int) -> BlockWeights:
        block = self.weights.blocks[layer]
        return dataclasses.replace(block, **{name: _watched(x, self.watcher) for name, x in vars(block).items()})
