"""The backward pass against torch's autograd, finite differences, and what a frozen pass must add up to."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tinymi
import tinymi.backward as backward_code
from tests.engine.torch_gradients import torch_gradients
from tests.variants import VARIANTS, hugging_face, random_tokens, save_variant
from tinymi.arrays import Array
from tinymi.backward import FREEZABLE
from tinymi.ops import rope_angles

import numpy as np
import pytest
import torch


def some_metric(logits: Array) -> Array:
    """The derivative of a metric that depends on every logit, in its own way on each."""
    rng = np.random.default_rng(1)
    return np.asarray(rng.standard_normal(logits.shape) / logits.shape[-1])


def largest_error(grads: Any, expected: dict[str, Array]) -> float:
    """Over all points, as a share of the largest derivative at that point."""
    assert set(grads) == set(expected)
    errors = {}
    for name, wanted in expected.items():
        assert grads[name].shape == wanted.shape, name
        errors[name] = np.abs(grads[name] - wanted).max() / max(np.abs(wanted).max(), 1e-12)
    worst = max(errors, key=lambda name: errors[name])
    print(f"{worst}: {errors[worst]:.1e}")
    return float(errors[worst])


def without_result(names: Any) -> Any:
    return {name: names[name] for name in names if not name.endswith("hook_result")}


@pytest.mark.parametrize("freeze", [(), FREEZABLE], ids=["all", "frozen"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_gradient_equals_autograd(name: str, freeze: tuple[str, ...], tmp_path: Path) -> None:
    folder = save_variant(tmp_path, name)
    tokens = random_tokens(2, 30)
    for dtype, tolerance in ((np.float32, 1e-4), (np.float64, 1e-8)):
        reference = hugging_face(folder, getattr(torch, dtype.__name__))
        model = tinymi.load(folder, dtype=dtype)
        angles = rope_angles(model.config, np.arange(tokens.shape[1])[None])
        expected_logits, expected = torch_gradients(reference, tokens, some_metric, freeze=freeze, angles=angles)
        logits, cache, grads = model.run_with_gradients(tokens, some_metric, freeze=freeze)
        assert logits.dtype == grads["hook_embed"].dtype == dtype
        assert np.abs(logits - expected_logits).max() <= 1e-5 * np.ptp(expected_logits)
        assert set(cache) == set(grads)
        assert largest_error(without_result(grads), expected) <= tolerance


def test_default_model_equals_autograd(default_model: tinymi.Model, default_model_folder: Path) -> None:
    tokens = default_model.to_tokens("The capital of France is")
    paris, rome = default_model.to_single_token(" Paris"), default_model.to_single_token(" Rome")

    def metric(logits: Array) -> Array:
        return tinymi.logit_difference(logits, paris, rome)[1]

    angles = rope_angles(default_model.config, np.arange(5)[None])
    _, expected = torch_gradients(hugging_face(default_model_folder), tokens, metric, angles=angles)
    _, _, grads = default_model.run_with_gradients(tokens, metric)
    assert largest_error(without_result(grads), expected) <= 1e-4


@pytest.mark.parametrize("point", ["hook_resid_pre", "attn.hook_z", "attn.hook_pattern", "mlp.hook_post"])
def test_gradients_of_an_edited_run(point: str, tmp_path: Path) -> None:
    """What a hook added is a constant: the derivatives are those of the run with that sum in it."""
    folder = save_variant(tmp_path, "qwen3-free-head")
    model, tokens, name = tinymi.load(folder), random_tokens(2, 12), f"blocks.1.{point}"
    added = 0.1 * np.random.default_rng(3).standard_normal(model.run_with_cache(tokens, name)[1][name].shape)
    _, _, grads = model.run_with_gradients(tokens, some_metric, fwd_hooks=[(name, lambda value, hook: value + added)])
    edits = {name: lambda value: value + torch.from_numpy(added).to(value.dtype)}
    angles = rope_angles(model.config, np.arange(12)[None])
    _, expected = torch_gradients(hugging_face(folder), tokens, some_metric, edits, angles=angles)
    assert largest_error(without_result(grads), expected) <= 1e-4
    plain = model.run_with_gradients(tokens, some_metric)[2]
    assert np.abs(plain["hook_embed"] - grads["hook_embed"]).max() > 1e-3 * np.abs(grads["hook_embed"]).max()


@pytest.fixture(scope="module")
def float64(free_head_folder: Path) -> tinymi.Model:
    return tinymi.load(free_head_folder, dtype=np.float64)


@pytest.mark.parametrize("point", tinymi.POINTS, ids=lambda point: point.short)
def test_finite_differences(point: tinymi.Point, float64: tinymi.Model) -> None:
    """Nudging one number of a value changes the metric by the derivative there, hook_result included."""
    tokens, name = random_tokens(1, 7), point.template.format(layer=1)
    logits, cache, grads = float64.run_with_gradients(tokens, some_metric, [name])
    weights = some_metric(logits)
    value = cache[name]
    largest = np.argsort(-np.abs(grads[name]), axis=None)[:3]
    for place in (np.unravel_index(i, value.shape) for i in largest):

        def metric_after(step: float, place: Any = place) -> float:
            def nudge(value: Array, hook: tinymi.HookPoint) -> Array:
                value = value.copy()
                value[place] += step
                return value

            return float((weights * float64.run_with_hooks(tokens, [(name, nudge)])).sum())

        slope = (metric_after(1e-5) - metric_after(-1e-5)) / 2e-5
        assert slope == pytest.approx(grads[name][place], rel=1e-6, abs=1e-10)


def test_part_of_a_run(float64: tinymi.Model) -> None:
    tokens = random_tokens(2, 9)
    _, cache, grads = float64.run_with_gradients(tokens, some_metric, positions=[2, -1, 2])
    _, _, later = float64.run_with_gradients(cache["resid_pre", 1], some_metric, start_at_layer=1, positions=[2, -1, 2])
    assert "hook_embed" not in later
    assert "blocks.0.hook_resid_post" not in later
    np.testing.assert_allclose(later["resid_pre", 1], grads["resid_pre", 1], rtol=1e-9)
    everywhere = np.zeros((2, 9, float64.config.d_vocab))
    metric = some_metric(np.zeros((2, 3, float64.config.d_vocab)))
    for i, position in enumerate((2, 8, 2)):
        everywhere[:, position] += metric[:, i]
    np.testing.assert_allclose(
        float64.run_with_gradients(tokens, everywhere)[2]["hook_embed"], grads["hook_embed"], rtol=1e-9, atol=1e-12
    )


def test_a_prompt_of_a_batch_has_its_own_gradients(float64: tinymi.Model) -> None:
    tokens = random_tokens(3, 8)
    metric = some_metric(np.zeros((3, 8, float64.config.d_vocab)))
    batch = float64.run_with_gradients(tokens, metric)[2]
    alone = float64.run_with_gradients(tokens[1:2], metric[1:2])[2]
    for name in alone:
        np.testing.assert_allclose(batch[name][1:2], alone[name], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("start", [0, 1, 3])
def test_a_frozen_pass_is_a_sum_over_writers(start: int, float64: tinymi.Model) -> None:
    """The stream that enters a layer is what all before it wrote: their shares sum to the metric."""
    tokens = random_tokens(2, 10)
    logits, cache, grads = float64.run_with_gradients(tokens, some_metric, freeze=FREEZABLE)
    d = grads["resid_post", 2] if start == 3 else grads["resid_pre", start]
    writers = [cache["hook_embed"]]
    writers += [cache[name, layer] for layer in range(start) for name in ("attn_out", "mlp_out")]
    shares = [(written * d).sum() for written in writers]
    assert sum(shares) == pytest.approx((some_metric(logits) * logits).sum(), rel=1e-9)
    unfrozen = float64.run_with_gradients(tokens, some_metric)[2]["hook_embed"]
    assert (cache["hook_embed"] * unfrozen).sum() != pytest.approx((some_metric(logits) * logits).sum(), rel=1e-2)


def test_two_metrics_and_their_derivatives(tiny_model: tinymi.Model) -> None:
    logits = torch.from_numpy(tiny_model(random_tokens(2, 5) % 250).copy()).double().requires_grad_()
    value, d_logits = tinymi.log_probability(logits.detach().numpy(), 7)
    expected = torch.log_softmax(logits[:, -1], dim=-1)[:, 7]
    expected.sum().backward()
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-9)
    assert logits.grad is not None
    np.testing.assert_allclose(d_logits, logits.grad.numpy(), atol=1e-12)
    value, d_logits = tinymi.logit_difference(logits.detach().numpy(), 3, 5)
    np.testing.assert_allclose(value, (logits[:, -1, 3] - logits[:, -1, 5]).detach().numpy())
    np.testing.assert_allclose((d_logits * logits.detach().numpy()).sum(axis=(1, 2)), value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"d_logits": np.zeros((1, 5))}, "d_logits: float64 of shape"),
        ({"d_logits": lambda logits: logits * np.nan}, "holds NaN"),
        ({"freeze": "scale"}, "give a list"),
        ({"freeze": ["mlp"]}, "pattern, scale, gate"),
        ({"names_filter": "blocks.9.hook_resid_pre"}, "blocks.9.hook_resid_pre"),
        ({"start_at_layer": 3}, "leaves no layer"),
    ],
)
def test_what_makes_no_gradient_is_refused(arguments: dict[str, Any], words: str, tiny: tinymi.Model) -> None:
    given: dict[str, Any] = {"d_logits": some_metric} | arguments
    x = np.zeros((1, 4, tiny.config.d_model)) if "start_at_layer" in arguments else random_tokens(1, 4)
    with pytest.raises(tinymi.TinymiError, match=words):
        tiny.run_with_gradients(x, **given)


def test_every_line_of_the_backward_pass_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each assignment and return of the formulas, scaled by 1.5 one at a time: the comparison with torch notices."""
    folder = save_variant(tmp_path, "qwen3-free-head")
    tokens, model = random_tokens(1, 6), tinymi.load(folder, dtype=np.float64)
    angles = rope_angles(model.config, np.arange(6)[None])
    _, expected = torch_gradients(hugging_face(folder, torch.float64), tokens, some_metric, angles=angles)
    mutants = list(scaled_one_by_one(backward_code))
    assert len(mutants) > 30
    unnoticed = []
    for line, functions in mutants:
        with monkeypatch.context() as patch:
            for name, function in functions.items():
                patch.setattr(backward_code, name, function)
            patch.setattr("tinymi.run.backward", functions["backward"])
            grads = model.run_with_gradients(tokens, some_metric)[2]
        if largest_error(without_result(grads), expected) <= 1e-8:
            unnoticed.append(line)
    assert unnoticed == []


def scaled_one_by_one(module: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The module's functions, with the value of one `d_... =` statement or `return` at a time multiplied by 1.5."""
    functions = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.FunctionDef)]
    formulas = [function for function in functions if function.name.endswith(("back", "backward"))]
    for statement in [node for formula in formulas for node in ast.walk(formula)]:
        text = ast.unparse(statement)
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.Return) or "zeros_like(resid)" in text:
            continue
        if not isinstance(statement, ast.Return) and "d_" not in text.partition("=")[0]:
            continue
        original = statement.value
        assert original is not None
        statement.value = ast.BinOp(original, ast.Mult(), ast.Constant(1.5))
        mutant = ast.fix_missing_locations(ast.Module(list(formulas), []))
        names = dict(vars(module))
        exec(compile(mutant, module.__file__, "exec"), names)
        statement.value = original
        yield text, {formula.name: names[formula.name] for formula in formulas}
