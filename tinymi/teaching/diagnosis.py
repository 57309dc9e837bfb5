"""What is wrong with a reader's function: compared with the reference on several runs, and said as a teacher would."""

import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import Any

from tinymi.arrays import Array, Tokens
from tinymi.hooks import POINTS
from tinymi.run import Model
from tinymi.teaching.exercises import Verdict
from tinymi.teaching.made_up import made_up_model
from tinymi.teaching.tasks import Function, Task

import numpy as np

PROMPTS = ("The colour of grass is", "My sister lives in")
TOLERANCE = 1e-3  # of the largest number


def judge_function(task: Task, function: Function, load: Callable[[], Model] | None = None) -> Verdict:
    """Run both on the made-up model, then on a real one. The first difference is explained.

    load: gives the real one, and is called where the made-up model shows no difference; None leaves it out.
    """
    reference = task.reference()
    names = list(inspect.signature(reference).parameters)
    count = 0
    for values in trials(load):
        arguments = [values[name] for name in names]
        expected = reference(*arguments)
        try:
            actual = function(*arguments)
        except NotImplementedError as error:  # a blank, here or in a function that it calls
            return Verdict("open", f"{error}.")
        except Exception as error:
            return Verdict("wrong", f"It raised {raised(error, function.__code__.co_filename)}")
        if problem := explain(task, actual, expected, arguments):
            return Verdict("wrong", problem)
        count += 1
    return Verdict("right", f"{function.__name__} equals the reference in {count} runs.")


def raised(error: Exception, file: str) -> str:
    """An error of a reader's code, with the line of the reader's file that it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" (line {frames[-1].lineno}: `{frames[-1].line}`)" if frames and frames[-1].line else ""
    return f"{type(error).__name__}: {error}{place}."


def trials(load: Callable[[], Model] | None) -> Iterator[dict[str, Any]]:
    """What a function may ask for by the names of its parameters, for each run."""
    rng, small = np.random.default_rng(1), made_up_model()
    for n_pos in (7, 5, 9):
        yield arguments_for(small, rng.choice(small.config.d_vocab, (1, n_pos), replace=False), rng)
    if load is None:
        return
    model = load()
    for prompt in PROMPTS:
        yield arguments_for(model, model.to_tokens(prompt), rng)


def arguments_for(model: Model, tokens: Tokens, rng: np.random.Generator) -> dict[str, Any]:
    """A run's values under their short names, the weights of its layer, and numbers to choose a part by."""
    config, weights, n_pos = model.config, model.weights, tokens.shape[1]
    layer, head = int(rng.integers(1, config.n_layers)), int(rng.integers(1, config.n_heads))
    answer, wrong, other = (int(token) for token in rng.choice(config.d_vocab, 3, replace=False))
    corrupted = tokens.copy()
    pos = n_pos // 2
    corrupted[0, pos] = other
    logits, cache = model.run_with_cache(tokens)
    run = {point.short.replace(".", "_"): cache[point.short, layer] for point in POINTS if point.in_block}
    w = weights.blocks[layer]
    return run | {
        "model": model,
        "tokens": tokens,
        "corrupted": corrupted,
        "logits": logits,
        "weights": weights,
        "W_E": weights.W_E,
        "w": w,
        "x": run["ln1_normalized"] * w.ln1,
        "x_mlp": run["ln2_normalized"] * w.ln2,
        "ln1": w.ln1,
        "W_Q": w.W_Q,
        "d_head": config.d_head,
        "eps": config.rms_eps,
        "rope_base": config.rope_base,
        "layer": layer,
        "head": head,
        "pos": pos,
        "neuron": int(rng.integers(config.d_mlp)),
        "answer": answer,
        "wrong": wrong,
        "direction": rng.normal(size=config.d_model).astype(np.float32),
        "dose": 0.3,
        "edit": lambda stream: stream * 0.5 + 1.0,
    }


def explain(task: Task, actual: Any, expected: Any, arguments: Sequence[Any]) -> str:
    """What is wrong with `actual`; "" if nothing is."""
    if actual is None or actual is Ellipsis:
        return "It returns nothing: end it with `return`."
    try:
        given, right = (np.asarray(values, dtype=float) for values in (actual, expected))
    except (TypeError, ValueError):
        return f"It returns a {type(actual).__name__}, but numbers are asked for."
    if equal(given, right):
        return ""
    for old, new, sentence in task.mistakes:
        if equal(given, np.asarray(task.reference(old, new)(*arguments), dtype=float)):
            return sentence
    return _shape(given, right) if given.shape != right.shape else _numbers(given, right)


def equal(given: Array, right: Array) -> bool:
    if given.shape != right.shape:
        return False
    finite = np.isfinite(right)
    size = np.abs(right[finite]).max(initial=0)
    return bool(np.allclose(given, right, rtol=0, atol=TOLERANCE * size, equal_nan=True))


def _shape(given: Array, right: Array) -> str:
    shapes = f"Yours has the shape {list(given.shape)}, and {list(right.shape)} is asked for"
    if equal(given.squeeze(), right.squeeze()):
        return f"{shapes}: the numbers are right, and an axis of length 1 is too many or missing."
    if given.ndim == right.ndim and (order := _order(given, right)):
        return f"{shapes}: the numbers are right, but the axes are in another order; transpose by {order}."
    for axis in range(given.ndim):
        for name in ("sum", "mean"):
            if equal(getattr(given, name)(axis=axis), right):
                return f"{shapes}: take the {name} over axis {axis}, and it is right."
        if given.shape[axis] and equal(np.asarray(given.take(-1, axis=axis)), right):
            return f"{shapes}: only the last entry of axis {axis} is asked for."
    return f"{shapes}."


def _order(given: Array, right: Array) -> tuple[int, ...] | None:
    return next((order for order in permutations(range(given.ndim)) if equal(given.transpose(order), right)), None)


def _numbers(given: Array, right: Array) -> str:
    """The shape is right, the numbers are not."""
    if not np.isfinite(given[np.isfinite(right)]).all():
        return "It has numbers that are not finite: look for a division by 0, 0 times infinity, the exp of too much."
    if (finite := np.isinf(right) & np.isfinite(given)).any():
        return f"Yours has {given[finite][0]:.4g} where {right[finite][0]} is asked for."
    if equal(-given, right):
        return "The size is right, the sign is not: what minus what is asked for?"
    if order := _order(given, right):
        return f"The numbers are right, but the axes are in another order; transpose by {order}."
    for axis in range(given.ndim):
        n = given.shape[axis]
        for by in (1, -1) if n > 2 else ():
            moved, here = (given, right) if by == 1 else (right, given)
            if equal(moved.take(range(1, n), axis), here.take(range(n - 1), axis)):
                return f"The numbers are right, but one place off along axis {axis}."
        if equal(np.flip(given, axis), right):
            return f"The numbers are right, but axis {axis} runs backwards."
    nonzero = np.isfinite(right) & (np.abs(right) > TOLERANCE)
    factors = given[nonzero] / right[nonzero]
    if len(factors) > 1 and np.ptp(factors) < TOLERANCE * abs(factors[0]):
        return f"Each number is {factors[0]:.3g} times what it should be: a factor is missing, or one too many."
    if len(factors) > 1 and np.ptp(given - right) < TOLERANCE * np.abs(right).max():
        return f"Each number is off by the same {(given - right).flat[0]:.3g}."
    where = np.unravel_index(np.nanargmax(np.abs(np.where(np.isfinite(right), given - right, 0))), right.shape)
    place = f" at {[int(i) for i in where]}" if where else ""
    return f"The shape is right, the numbers are not:{place} yours is {given[where]:.4g}, not {right[where]:.4g}."
