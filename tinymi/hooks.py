"""Hooks: the table of every point of the forward pass that can be read or changed, and how that is done.

A callback is `fn(value, hook)`. It gets the value at one point as a read-only array, and the `HookPoint`. It returns
None (nothing changes) or a new array of the same shape, which takes the value's place. One mechanism serves capture and
intervention: a cache is filled by callbacks that return None.

Hooks are data handed to one run. There is no global state, and nothing lingers after the run.
Names and axes are those of TransformerLens 1 to 3.
"""

import difflib
import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

from tinymi.arrays import Array, is_int
from tinymi.errors import HookError, NotCachedError, TinymiError

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """One row of the table: a place in the forward pass."""

    short: str  # as in the forward pass: tap("pattern", ...), and in cache["pattern", layer]
    template: str  # the full name; {layer} stands for the layer's number
    axes: tuple[str, ...]
    meaning: str

    @property
    def in_block(self) -> bool:
        return "{layer}" in self.template


_STREAM = ("batch", "pos", "d_model")
_SCALE = ("batch", "pos", "1")
_HEADS = ("batch", "pos", "n_heads", "d_head")
_KV_HEADS = ("batch", "pos", "n_kv_heads", "d_head")
_EDGES = ("batch", "n_heads", "query_pos", "key_pos")
_NEURONS = ("batch", "pos", "d_mlp")
_B = "blocks.{layer}."

# In the order of execution.
POINTS = (
    Point("embed", "hook_embed", _STREAM, "the embedding row of each token"),
    Point("resid_pre", _B + "hook_resid_pre", _STREAM, "the residual stream that enters"),
    Point("ln1.scale", _B + "ln1.hook_scale", _SCALE, "its root mean square"),
    Point("ln1.normalized", _B + "ln1.hook_normalized", _STREAM, "stream / scale, before the learned weight"),
    Point("q", _B + "attn.hook_q", _HEADS, "queries, before RoPE (and QK-norm)"),
    Point("k", _B + "attn.hook_k", _KV_HEADS, "keys, before RoPE (and QK-norm)"),
    Point("v", _B + "attn.hook_v", _KV_HEADS, "values"),
    Point("rot_q", _B + "attn.hook_rot_q", _HEADS, "queries after RoPE"),
    Point("rot_k", _B + "attn.hook_rot_k", _KV_HEADS, "keys after RoPE"),
    Point("attn_scores", _B + "attn.hook_attn_scores", _EDGES, "q . k / sqrt(d_head); -inf for keys in the future"),
    Point("pattern", _B + "attn.hook_pattern", _EDGES, "softmax of the scores: each row sums to 1"),
    Point("z", _B + "attn.hook_z", _HEADS, "values averaged by the pattern; the place to ablate a head"),
    Point("result", _B + "attn.hook_result", ("batch", "pos", "n_heads", "d_model"), "what each head writes"),
    Point("attn_out", _B + "hook_attn_out", _STREAM, "what attention adds to the stream"),
    Point("resid_mid", _B + "hook_resid_mid", _STREAM, "the stream after attention"),
    Point("ln2.scale", _B + "ln2.hook_scale", _SCALE, "its root mean square"),
    Point("ln2.normalized", _B + "ln2.hook_normalized", _STREAM, "stream / scale, before the learned weight"),
    Point("pre", _B + "mlp.hook_pre", _NEURONS, "x @ W_gate: each neuron's gate"),
    Point("pre_linear", _B + "mlp.hook_pre_linear", _NEURONS, "x @ W_in: what each neuron lets through"),
    Point("post", _B + "mlp.hook_post", _NEURONS, "silu(pre) * pre_linear: the neurons"),
    Point("mlp_out", _B + "hook_mlp_out", _STREAM, "what the MLP adds to the stream"),
    Point("resid_post", _B + "hook_resid_post", _STREAM, "the residual stream that leaves"),
    Point("ln_final.scale", "ln_final.hook_scale", _SCALE, "the last stream's root mean square"),
    Point("ln_final.normalized", "ln_final.hook_normalized", _STREAM, "last stream / scale, before the weight"),
    Point("logits", "unembed.hook_out", ("batch", "pos", "d_vocab"), "the logits"),
)


@dataclass(frozen=True)
class HookPoint:
    """One point of one run, as a callback sees it."""

    name: str  # "blocks.5.attn.hook_pattern"
    layer: int | None  # 5, or None outside the blocks
    point: Point


Callback = Callable[[Array, HookPoint], Array | None]
NameFilter = str | Iterable[str] | Callable[[str], bool] | None


@lru_cache
def hook_points(layers: range, *, embed: bool = True, unembed: bool = True) -> Mapping[str, HookPoint]:
    """Full name -> point, in order of execution, for a run through `layers`.

    embed, unembed: whether the run begins with the embedding and ends with the final norm and the logits.
    """
    first, *last = (HookPoint(point.template, None, point) for point in POINTS if not point.in_block)
    blocks = [HookPoint(p.template.format(layer=layer), layer, p) for layer in layers for p in POINTS if p.in_block]
    points = [*([first] if embed else []), *blocks, *(last if unembed else [])]
    return MappingProxyType({point.name: point for point in points})


# TransformerLens 4's names for the same values. Its attn.hook_in and mlp.hook_in come after the norm's weight.
_SPELLINGS = {
    "hook_in": "hook_resid_pre",
    "attn.hook_out": "hook_attn_out",
    "mlp.hook_out": "hook_mlp_out",
    "hook_out": "hook_resid_post",
}
_AFTER_WEIGHT = {"attn.hook_in": "ln1", "mlp.hook_in": "ln2"}


def _our_name(name: str) -> str:
    """TransformerLens 4's spelling of a full name in ours; any other name unchanged."""
    block = re.match(r"blocks\.\d+\.", name)
    if block is None:
        return name
    rest = name[block.end() :]
    if rest in _AFTER_WEIGHT:
        norm = _AFTER_WEIGHT[rest]
        raise HookError(
            f"no hook point {name!r}: here it is {block[0]}{norm}.hook_normalized, before the norm's learned weight; "
            f"multiply by model.weights.blocks[layer].{norm}"
        )
    return block[0] + _SPELLINGS.get(rest, rest)


_TEMPLATES = [{p.short: p.template for p in POINTS if p.in_block == in_block} for in_block in (False, True)]


def get_act_name(short: str, layer: int | None = None, layer_type: str | None = None) -> str:
    """The full name: ("pattern", 5) -> "blocks.5.attn.hook_pattern", ("scale", 5, "ln1") -> "blocks.5.ln1.hook_scale".

    short: the name in the forward pass ("pattern", "ln1.scale", "logits"). layer: None outside the blocks. layer_type:
    "ln1" or "ln2"; "attn" and "mlp" say what the name says already.
    Raises HookError for a name that is not in the table.
    """
    templates = _TEMPLATES[layer is not None]
    name = f"{layer_type}.{short}" if layer_type else short
    if layer_type in ("attn", "mlp") and f".{layer_type}.hook_" in templates.get(short, ""):
        name = short
    if name in templates:
        return templates[name].format(layer=layer)
    side = "outside the blocks" if layer is None else "in a block"
    raise HookError(f'no hook point "{name}" {side}; {_suggest(name, templates, "valid: " + ", ".join(templates))}')


def _suggest(name: str, names: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def _in_full(name: str) -> str:
    """What to say of the last part of a name, such as hook_z or z; "" of any other."""
    names = [
        point.template.format(layer="LAYER")
        for point in POINTS
        if name != point.template and (name == point.short or point.template.endswith(f".{name}"))
    ]
    return f"its full name is {' or '.join(names)}; `tinymi points` lists all" if names else ""


class Tap:
    """What the forward pass hands each value through: here nobody listens, and every value is handed back."""

    def __call__(self, point: str, value: Array) -> Array:
        return value

    def wants(self, point: str) -> bool:
        """Whether anyone listens at the point; asked before computing what only a listener needs."""
        return False


SILENT = Tap()


class _Listening(Tap):
    """The tap of one layer that has callbacks."""

    def __init__(self) -> None:
        self.callbacks: defaultdict[str, list[tuple[HookPoint, Callback]]] = defaultdict(list)

    def __call__(self, point: str, value: Array) -> Array:
        for hook, callback in self.callbacks.get(point, ()):
            value = _call(callback, value, hook)
        return value

    def wants(self, point: str) -> bool:
        return point in self.callbacks


class Hooks:
    """The callbacks of one run, by layer. Callbacks of one point are called in the order given."""

    def __init__(self, fwd_hooks: Iterable[tuple[NameFilter, Callback]], points: Mapping[str, HookPoint]) -> None:
        """fwd_hooks: pairs of a name, several names, or a predicate over names, and a callback.

        points: those that the run will reach. Raises HookError for a name that is not among them.
        """
        self._taps: defaultdict[int | None, _Listening] = defaultdict(_Listening)
        for names, callback in map(_pair, _listed(fwd_hooks, "fwd_hooks", "(name, function) pairs")):
            for hook in select(names, points):
                self._taps[hook.layer].callbacks[hook.point.short].append((hook, callback))

    def __bool__(self) -> bool:
        return bool(self._taps)

    def at(self, layer: int | None) -> Tap:
        """The tap of a layer, or of what is outside the blocks (None)."""
        return self._taps.get(layer, SILENT)


def _listed(values: Iterable[T], name: str, valid: str) -> list[T]:
    if not isinstance(values, Iterable):
        raise HookError(f"{name}: {values!r}, a {type(values).__name__}; give {valid}")
    return list(values)


def _pair(entry: tuple[NameFilter, Callback]) -> tuple[NameFilter, Callback]:
    if not isinstance(entry, tuple | list) or len(entry) != 2 or not callable(entry[1]):
        raise HookError(f'fwd_hooks: expected a (name, function) pair such as ("hook_embed", fn), got {entry!r}')
    return entry[0], _positional(entry[1])


def _positional(callback: Callback) -> Callback:
    """The callback as one that takes (value, hook) by position. TransformerLens' callbacks take `hook` by its name."""
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # a built-in function does not tell
        return callback
    for wrapped, kwargs in ((callback, {}), (lambda value, hook: callback(value, hook=hook), {"hook": None})):  # type: ignore[call-arg]
        try:
            signature.bind(None, *([] if kwargs else [None]), **kwargs)
        except TypeError:
            continue
        return wrapped
    raise HookError(f"callback {_name(callback)}{signature}: takes other arguments; write def fn(value, hook)")


def _name(callback: Callback) -> str:
    return str(getattr(callback, "__name__", callback))


def select(names: NameFilter, points: Mapping[str, HookPoint]) -> list[HookPoint]:
    """The points that a filter names: at least one, and every name that it spells out."""
    if names is None:
        return list(points.values())
    if callable(names):
        matches = [hook for name, hook in points.items() if names(name)]
        if not matches:
            raise HookError(
                f"hook filter {getattr(names, '__name__', names)!r}: matches none of this run's {len(points)} points "
                f"({_extent(points)}); write a predicate over names such as those of tinymi.POINTS"
            )
        return matches
    listed = [names] if isinstance(names, str) else _listed(names, "hook names", "a name, several, or a predicate")
    if not listed:
        raise HookError("hook names: an empty list; give at least one name, or None for all")
    ours = [_our_name(name) if isinstance(name, str) else str(name) for name in listed]
    for name in ours:
        if name not in points:
            hint = _layers(name, points) or _in_full(name) or _suggest(name, points, "`tinymi points` lists the names")
            raise HookError(f'no hook point "{name}" in this run ({_extent(points)}); {hint}')
    return [points[name] for name in ours]


def _layers(name: str, points: Mapping[str, HookPoint]) -> str:
    """What to say of a name whose layer this run does not go through."""
    layer = re.match(r"blocks\.(-?\d+)\.", name)
    layers = [point.layer for point in points.values() if point.layer is not None]
    if layer is None or not layers or int(layer[1]) in layers:
        return ""
    return f"the run goes through layers {min(layers)} to {max(layers)}"


def _extent(points: Mapping[str, HookPoint]) -> str:
    names = list(points)
    return f"from {names[0]} to {names[-1]}" if names else "through no layer"


def read_only(value: Array) -> Array:
    """A view that cannot be edited in place."""
    view = value.view()
    view.setflags(write=False)
    return view


def _call(callback: Callback, value: Array, hook: HookPoint) -> Array:
    """The value after one callback."""
    view = read_only(value)
    try:
        returned = callback(view, hook)
    except TinymiError:
        raise
    except Exception as error:
        raise HookError(f"{hook.name}: the callback {_name(callback)} failed: {_failure(error, value)}") from error
    return value if returned is None or returned is view else _checked(returned, value, hook)


def _failure(error: Exception, value: Array) -> str:
    """What went wrong in a callback, and what helps."""
    text = f"{type(error).__name__}: {error}"
    if "read-only" in str(error):
        return f"{text}; values are read-only: start with value = value.copy(), and return it"
    if isinstance(error, IndexError):
        return (
            f"{text}; the value has shape {list(value.shape)}. A step of generate sees one position only, unless you "
            "pass use_past_kv_cache=False"
        )
    return text


def _checked(returned: object, value: Array, hook: HookPoint) -> Array:
    """A private copy of what a callback returned, once it is clear that it can take the value's place."""
    axes = " ".join(hook.point.axes)
    if not isinstance(returned, np.ndarray) or returned.dtype.kind != "f":
        kind = f"{returned.dtype} array" if isinstance(returned, np.ndarray) else type(returned).__name__
        raise HookError(
            f"{hook.name}: the callback returned a {kind}; return None or a float array of shape "
            f"{list(value.shape)} ({axes})"
        )
    if returned.shape != value.shape:
        raise HookError(
            f"{hook.name}: the callback returned shape {list(returned.shape)} for {list(value.shape)} ({axes}); "
            "return an array of the same shape"
        )
    new = np.empty_like(value, subok=False)  # in the value's memory order: equal numbers then give equal results
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        new[...] = returned
    if not np.isfinite(new).all():
        _refuse_not_finite(new, value, hook)
    if hook.point.axes == _SCALE and not new.all():
        raise HookError(f"{hook.name}: the callback returned a scale of 0, by which the stream is divided")
    return new


def _refuse_not_finite(new: Array, value: Array, hook: HookPoint) -> None:
    """NaN and infinity may stand only where the value had the same, and -inf in scores where a row keeps a key."""
    bad = ~np.isfinite(new) & (new != value) & ~(np.isnan(new) & np.isnan(value))
    if hook.point.short == "attn_scores":
        has_key = np.isfinite(new).any(axis=-1, keepdims=True)
        bad &= ~(np.isneginf(new) & has_key)
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise HookError(
            f"{hook.name}: the callback returned {new[place]} at {list(place)} ({' '.join(hook.point.axes)}), where "
            f"the value was {value[place]:.4g}; {int(bad.sum())} such numbers in all: return finite numbers"
        )


class ActivationCache(Mapping[str, Array]):
    """Values of a run: `cache["blocks.5.attn.hook_pattern"]` or `cache["pattern", 5]`, a read-only array.

    Each value is the one that the model went on with, after every edit. A negative layer counts from the end.
    """

    def __init__(self, n_layers: int) -> None:
        self._n_layers = n_layers
        self._values: dict[str, Array] = {}

    def keep(self, value: Array, hook: HookPoint) -> None:
        """The callback that fills the cache."""
        self._values[hook.name] = value

    def __getitem__(self, key: str | tuple[str, int] | tuple[str, int, str]) -> Array:
        name = _our_name(key) if isinstance(key, str) else self._name(key)
        if name in self._values:
            return self._values[name]
        hint = _in_full(name) or _suggest(name, self._values, f"names_filter chose {len(self)} others")
        raise NotCachedError(f'cache: "{name}" was not kept (name it in names_filter); {hint}')

    def _name(self, key: tuple[str, int] | tuple[str, int, str]) -> str:
        texts = (key[0], *key[2:]) if isinstance(key, tuple) and len(key) in (2, 3) else (None,)
        if not all(isinstance(text, str) for text in texts) or not is_int(key[1]):
            raise NotCachedError(f'cache: {key!r} is not a key; give a full name, or name and layer: ("pattern", 5)')
        short, layer, *layer_type = key
        if not -self._n_layers <= layer < self._n_layers:
            raise NotCachedError(f"cache: layer {layer} of a model with layers 0 to {self._n_layers - 1}")
        return get_act_name(short, layer % self._n_layers, *layer_type)

    def only(self, names: Iterable[str]) -> "ActivationCache":
        """A cache of these values alone, in the cache's order."""
        part = ActivationCache(self._n_layers)
        part._values = {name: self._values[name] for name in self._values if name in set(names)}
        return part

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        names = list(self)
        return f"ActivationCache({len(names)} values: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
