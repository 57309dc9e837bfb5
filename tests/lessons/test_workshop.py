"""The workshop: its reference is the model, at every step."""

from tinymi.teaching.diagnosis import arguments_for
from tinymi.teaching.made_up import made_up_model
from tinymi.teaching.tasks import workshop

import numpy as np
import pytest

POINTS = ["embed", "x", "q", "rot_q", "attn_scores", "pattern", "z", "attn_out", "mlp_out", "logits"]


@pytest.mark.parametrize(("step", "point"), list(enumerate(POINTS)))
def test_each_step_equals_the_models_own_value(step: int, point: str) -> None:
    model, task = made_up_model(), workshop()[step]
    values = arguments_for(model, np.array([[3, 14, 15, 9, 26]]), np.random.default_rng(0))
    values["embed"] = model.run_with_cache(values["tokens"])[1]["hook_embed"]
    names = task.reference().__code__.co_varnames[: task.reference().__code__.co_argcount]
    result = task.reference()(*[values[name] for name in names])
    np.testing.assert_allclose(result, values[point], rtol=1e-4, atol=1e-5)


def test_patterns_cache_and_hook_equal_the_models() -> None:
    model = made_up_model()
    values = arguments_for(model, np.array([[3, 14, 15, 9, 26]]), np.random.default_rng(0))
    tokens, layer, config = values["tokens"], values["layer"], model.config
    patterns, streams, edited = (task.reference() for task in workshop()[10:])
    given = (tokens, model.weights, config.rms_eps, config.rope_base)
    _, cache = model.run_with_cache(tokens)
    layers = range(config.n_layers)
    np.testing.assert_allclose(patterns(*given), np.stack([cache["pattern", i][0] for i in layers]), atol=1e-5)
    expected = [*(cache["resid_pre", i][0] for i in layers), cache["resid_post", config.n_layers - 1][0]]
    np.testing.assert_allclose(streams(*given), np.stack(expected), rtol=1e-4, atol=1e-4)
    hooks = [(f"blocks.{layer}.hook_resid_pre", lambda value, hook: values["edit"](value))]
    np.testing.assert_allclose(
        edited(*given, layer, values["edit"]), model.run_with_hooks(tokens, hooks), rtol=1e-3, atol=1e-4
    )
