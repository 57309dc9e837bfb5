"""Lesson 17: its gradient against torch's own, and what it says of rare features."""

from pathlib import Path
from typing import Any

from tests.running import ROOT, default_lesson_json
from tinymi.teaching.cells import cells

import numpy as np
import pytest
import torch

NAME = "17_superposition"


def defined(name: str) -> dict[str, Any]:
    """What the lesson's cells of definitions define, without running the rest."""
    source = (ROOT / "lessons" / f"{name}.py").read_text("utf-8")
    space: dict[str, Any] = {"np": np, "Array": Any, "n": 12, "d": 3}
    (cell,) = [cell for cell in cells(source) if "def loss_and_gradients" in cell.text]
    exec(cell.text, space)
    return space


def test_the_gradient_is_torchs() -> None:
    space, rng = defined(NAME), np.random.default_rng(0)
    W, b, x = rng.normal(size=(12, 3)), rng.normal(size=12), space["sample"](rng, 40, 0.4)
    loss, d_W, d_b = space["loss_and_gradients"](x, W, b)
    tW, tb = (torch.from_numpy(a).requires_grad_() for a in (W, b))
    y = (torch.from_numpy(x) @ tW @ tW.T + tb).relu()
    expected = (torch.from_numpy(space["importance"]) * (y - torch.from_numpy(x)) ** 2).sum(dim=1).mean()
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()))
    np.testing.assert_allclose(d_W, tW.grad, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(d_b, tb.grad, rtol=1e-10, atol=1e-12)


def test_rare_features_share_dimensions(tmp_path: Path) -> None:
    lesson = default_lesson_json(NAME, tmp_path)
    stored = lesson["stored"]
    assert stored[0] == 5, "one for each dimension"
    assert stored == sorted(stored)
    assert stored[-1] > 15
    W = np.array(lesson["W"])
    assert np.linalg.matrix_rank(W) == 5
