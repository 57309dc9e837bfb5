"""The table of wrong use: one row per case, each a call that must end in one line of the family's.

Tokens, positions, layers, hooks, caches, prompts, settings. What a checkpoint can do wrong is in test_bad_input.py.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tinymi
from tests.variants import error
from tinymi import HookError, InputError
from tinymi.hooks import HookPoint
from tinymi.weights import Weights

import numpy as np
import pytest

Call = Callable[[tinymi.Model], object]
IDS = np.array([[1, 2, 3]])
STREAM = np.ones((1, 2, 32), np.float32)
SCORES, RESID, SCALE = "blocks.1.attn.hook_attn_scores", "blocks.1.hook_resid_pre", "blocks.1.ln1.hook_scale"


def listen(value: Any, hook: HookPoint) -> None:
    """A callback that does nothing."""


def hooked(change: Callable[[Any], Any], point: str = RESID) -> Call:
    return lambda model: model.run_with_hooks(IDS, [(point, lambda value, hook: change(value))])


def hooks(fwd_hooks: Any) -> Call:
    return lambda model: model.run_with_hooks(IDS, fwd_hooks)


def run(tokens: Any, **options: Any) -> Call:
    return lambda model: model(tokens, **options)


def cached(key: Any) -> Call:
    return lambda model: model.run_with_cache(IDS)[1][key]


def future(value: Any) -> Callable[[Any], Any]:
    """Scores with another value in the place of -inf, which stands for keys in the future."""
    return lambda scores: np.where(np.isfinite(scores), scores, np.float32(value))


def as_kind(kind: str) -> Callable[[Any], Any]:
    return lambda value: value.astype(kind)


def loaded(options: dict[str, Any]) -> Call:
    return lambda model: tinymi.load("x", **options)


def generate(**options: Any) -> Call:
    return lambda model: model.generate(IDS, **({"max_new_tokens": 2} | options))


NOT_FINITE = "the callback returned (nan|inf|-inf) at .*return finite numbers"
TOKENS: list[tuple[str, Call, str]] = [
    ("rows of unequal length", run([[1, 2], [3]]), "tokens: rows of unequal length"),
    ("a row and a number", run([[1, 2], 3]), "tokens: rows of unequal length"),
    ("an id below zero", run([[-2]]), "id -2 is outside the vocabulary, 0 to 299"),
    ("an id beyond the vocabulary", run([[300]]), "id 300 is outside"),
    ("an id of 63 bits", run(np.array([[2**63]], np.uint64)), "id 9223372036854775808 is outside"),
    ("an id beyond 64 bits", run([[2**70]]), "tokens: object of shape"),
    ("ids that are floats", run([[1.0]]), "tokens: float64 of shape"),
    ("ids that are bools", run([[True]]), "tokens: bool of shape"),
    ("text in a list of lists", run([["abc"]]), "tokens: <U3 of shape"),
    ("ids that are nothing", run(None), "tokens: object of shape"),
    ("one row of ids", run([1, 2]), r"tokens: int64 of shape \[2\]"),
    ("no ids", run(np.zeros((1, 0), int)), "holds no token"),
    ("text of unequal rows", lambda model: model.to_string([[1], [2, 3]]), "tokens: rows of unequal length"),
    ("a stream of unequal rows", run([[[1.0] * 32, [1.0]]], start_at_layer=0), "start_at_layer: rows of unequal"),
    ("a stream of another width", run(STREAM[..., :8], start_at_layer=0), "must be a residual stream"),
    ("more than the context", run(np.zeros((1, 129), int)), "129 positions, but the model takes 1 to 128"),
]
PLACES: list[tuple[str, Call, str]] = [
    *(
        (f"positions {at!r}", run(IDS, positions=at), f"positions: .*{words}")
        for at, words in (
            *((1.5, "whole numbers"), (True, "whole numbers"), ("x", "whole numbers"), ([[1]], "whole numbers")),
            *(([True, False, True], "whole numbers"), ([0.5], "whole numbers"), ([float("nan")], "whole numbers")),
            *((slice("a"), "whole numbers"), (slice(0, 2, 0), "whole numbers"), ([0, [1]], "unequal length")),
            *((3, "0 to 2"), (-4, "0 to 2"), (2**70, "whole numbers")),
        )
    ),
    *(
        (f"stop_at_layer={layer!r}", run(IDS, stop_at_layer=layer), "stop_at_layer: layer .* of a model with layers 0")
        for layer in (1.5, True, "1", [1], 4, -4, 2**70)
    ),
    *((f"start_at_layer={layer!r}", run(STREAM, start_at_layer=layer), "start_at_layer: layer") for layer in (1.0, 9)),
    *((f"cache[{key!r}]", cached(key), "is not a key") for key in (5, None, ("pattern",), ("pattern", "1"), (5, 1))),
    *((f"cache[{key!r}]", cached(key), "is not a key") for key in (("pattern", 1.5), ("pattern", 1, 2))),
    ("a cache's layer of another model", cached(("pattern", 99)), "layer 99 of a model with layers 0 to 2"),
    ("a cache's point that does not exist", cached(("zz", 1)), 'hook point "zz"'),
]
HOOKS: list[tuple[str, Call, str]] = [
    ("NaN", hooked(lambda value: value * np.nan), NOT_FINITE),
    ("infinity in one place", hooked(lambda value: np.where(value == value.max(), np.inf, value)), NOT_FINITE),
    ("too large for float32", hooked(lambda value: np.full(value.shape, 1e300)), NOT_FINITE),
    ("NaN where scores are -inf", hooked(future(np.nan), SCORES), NOT_FINITE),
    ("infinity where scores are -inf", hooked(future(np.inf), SCORES), NOT_FINITE),
    ("a row of scores without a key", hooked(lambda value: np.full_like(value, -np.inf), SCORES), NOT_FINITE),
    ("a scale of 0", hooked(lambda value: value * 0, SCALE), "a scale of 0"),
    *(
        (f"an array of {kind}", hooked(as_kind(kind)), "return None or a float array")
        for kind in ("int64", "bool", "complex64", "object")
    ),
    ("a list", hooked(lambda value: value.tolist()), "returned a list; return None or a float array"),
    ("a number", hooked(lambda value: 0.0), "returned a float; return None or a float array"),
    ("fewer positions", hooked(lambda value: value[:, :1]), r"shape \[1, 1, 32\] for \[1, 3, 32\]"),
    ("axes exchanged", hooked(lambda value: value.swapaxes(1, 2)), r"shape \[1, 32, 3\] for \[1, 3, 32\]"),
    (
        "another model's layer",
        hooks([("blocks.30.hook_resid_pre", listen)]),
        "no hook point .* in this run .*goes through layers 0 to 2",
    ),
    ("a name with an escape", hooks([("blocks.1\x1b[2J\n", listen)]), r'blocks\.1\\x1b\[2J "'),
    ("a name that is a number", hooks([(5, listen)]), "hook names: 5, a int"),
    ("no names", hooks([([], listen)]), "an empty list"),
    ("a filter that matches nothing", hooks([(lambda name: False, listen)]), "matches none"),
    *(
        (f"hooks that are {hooks_of!r}"[:40], hooks(hooks_of), "fwd_hooks: ")
        for hooks_of in (5, None, ["x"], [(RESID,)], [(RESID, None)], [(RESID, listen, 3)])
    ),
    ("a filter of a cache that is a number", lambda model: model.run_with_cache(IDS, 5), "hook names: 5"),  # type: ignore[arg-type]
]
SETTINGS: list[tuple[str, Call, str]] = [
    *((f"max_new_tokens={n!r}", generate(max_new_tokens=n), "max_new_tokens: ") for n in (0, 1.5, True, "2", 10**9)),
    *((f"temperature={t!r}", generate(temperature=t), "temperature: ") for t in (-1, 1e-320, np.nan, np.inf, "x")),
    *((f"top_k={k!r}", generate(temperature=1.0, top_k=k), "top_k: ") for k in (0, 1.5, 10**9, "x")),
    *((f"seed={seed!r}", generate(seed=seed), "seed: ") for seed in (-1, 1.5, "x", None)),
    *(
        (f"load with {options}", loaded(options), f"{next(iter(options))}: ")
        for options in (
            *({"dtype": "foo"}, {"dtype": 5}, {"dtype": np.int64}, {"dtype": np.float16}, {"weights": "all"}),
            *({"weights": ["loaded"]}, {"ignore_config": "sliding_window"}, {"ignore_config": 5}),
        )
    ),
    ("a revision that is a number", lambda model: tinymi.load("a/b", revision=5), "revision=5 is not a name"),  # type: ignore[arg-type]
]
CASES = [*TOKENS, *PLACES, *HOOKS, *SETTINGS]


@pytest.mark.parametrize(("name", "call", "words"), CASES, ids=[name for name, _, _ in CASES])
def test_wrong_use_is_refused(name: str, call: Call, words: str, tiny: tinymi.Model) -> None:
    with pytest.raises(tinymi.TinymiError, match=words) as caught:
        call(tiny)
    assert "\n" not in str(caught.value)
    assert 30 < len(str(caught.value)) < 500, str(caught.value)


def test_scores_times_zero_are_not_silently_nan(tiny: tinymi.Model) -> None:
    """The commonest way to NaN: -inf times 0."""
    with pytest.raises(HookError, match=rf"{SCORES}.* returned nan at \[0, 0, 0, 1\].*the value was -inf"):  # noqa: SIM117
        with np.errstate(invalid="ignore"):
            hooked(lambda value: value * 0, SCORES)(tiny)


def test_what_looks_wrong_and_is_not(tiny: tinymi.Model) -> None:
    """NumPy's own numbers count as numbers, keys in the future may be seen, and a half float is a float."""
    model: Any = tiny
    expected = model(IDS)
    for positions, same in ((np.int64(1), [1]), (slice(np.int64(1), None), [1, 2]), ([np.uint8(2), -3], [2, 0])):
        assert error(model(IDS, positions=positions), expected[:, same]) < 1e-6
    cache = model.run_with_cache(IDS)[1]
    assert cache["pattern", np.int64(-1)] is cache["pattern", 2]
    assert np.isfinite(model.run_with_hooks(IDS, [(SCORES, lambda value, hook: future(0.0)(value))])).all()
    assert np.isfinite(model.run_with_hooks(IDS, [(RESID, lambda value, hook: value.astype(np.float16))])).all()
    assert model.generate(IDS, np.int64(1), temperature=np.float32(0.5), top_k=np.int32(2)).shape == (1, 4)


def test_a_model_that_computes_nan_does_not_pretend_to_generate(tiny: tinymi.Model) -> None:
    assert isinstance(tiny.weights, Weights)
    weights = replace(tiny.weights, ln_final=np.full(32, np.nan, np.float32))
    for temperature in (0.0, 1.0):
        with pytest.raises(InputError, match="the logits hold NaN"):
            tinymi.Model(tiny.config, weights).generate(IDS, 1, temperature=temperature)
