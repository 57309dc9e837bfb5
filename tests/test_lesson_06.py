"""Lesson 6: its lens against Hugging Face, its translators against a least-squares fit, its findings."""

from pathlib import Path
from typing import Any

from tests.analyses import kl_bits, logit_lens
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Model

import numpy as np
import pytest
import torch

LESSON = "06_logit_lens"


def check_prompt(found: dict[str, Any], folder: Path, model: Model) -> None:
    prompt = found["prompt"]
    log_p = torch.log_softmax(logit_lens(hugging_face(folder), model.to_tokens(prompt["prompt"])), dim=-1)
    assert len(prompt["layers"]) == model.config.n_layers + 1
    final = log_p[-1, -1]
    for row, expected in zip(prompt["layers"], log_p, strict=True):
        last = expected[-1]
        assert row["probability"] == pytest.approx(float(last[prompt["answer_id"]].exp()), abs=1e-4)
        assert row["kl"] == pytest.approx(kl_bits(final, last), abs=5e-3, rel=1e-4)
        near = 1e-3
        above = [int((last > last[prompt["answer_id"]] + shift).sum()) for shift in (near, -near)]
        assert 1 + above[0] <= row["rank"] <= 1 + above[1]
        for entry in row["top"]:
            top = expected[entry["position"]].topk(5).values.exp()
            np.testing.assert_allclose(entry["probabilities"], top, atol=1e-4)


def test_a_tiny_random_model(tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    found = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), "--prompt", "abc abd", "--answer", "e")
    assert found["prompt"]["answer"] == "e"
    check_prompt(found, tiny_folder, tiny_model)


@pytest.mark.parametrize("options", [["--answer", "two tokens"], ["--prompt", ""], ["--prompt", "x" * 600]])
def test_wrong_options_are_one_line_and_status_2(options: list[str], tiny_folder: Path) -> None:
    refusal(LESSON, "--model", str(tiny_folder), *options)


@pytest.fixture(scope="module")
def found(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("06"))


def test_the_lens_is_hugging_faces(found: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    check_prompt(found, default_model_folder, default_model)


def test_the_text(found: dict[str, Any]) -> None:
    assert found["text"]["train_tokens"] > 2000
    assert found["text"]["test_tokens"] > 450
    penalties = [entry["penalty"] for entry in found["text"]["penalty_errors"]]
    assert penalties[0] < found["text"]["penalty"] < penalties[-1]  # the best one lies inside the range


def test_what_part_is_the_lens_own_fault(found: dict[str, Any]) -> None:
    early = found["early"]
    assert early["raw"] > 15
    assert 6 < early["bias_only"] < 8.5
    assert early["translated"] < early["bias_only"] - 2
    assert early["translated_on_train"] < early["translated"]  # over-fitting shows
    for row in found["scores"][1:-1]:
        assert row["test"]["translated"] < row["test"]["bias only"]
        assert row["test"]["translated top-1"] > row["test"]["raw top-1"] - 0.03
    assert found["scores"][-1]["test"]["raw"] == pytest.approx(0, abs=1e-6)
    established = [finding["established"] for finding in found["findings"]]
    assert established[1:] == [True, True, True]


def test_the_translator_is_ridge_regression(
    found: dict[str, Any], default_model: Model, default_model_folder: Path
) -> None:
    """One layer's translated KL at the prompt, with a translator fitted anew by torch on Hugging Face's states."""
    source = (Path(__file__).parent.parent / "lessons" / f"{LESSON}.py").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(source[source.index("TRAIN = (") : source.index("# %% 1. ")], names)
    reference = hugging_face(default_model_folder).requires_grad_(False)
    last: list[Any] = []
    reference.model.norm.register_forward_pre_hook(lambda module, args: last.append(args[0][0].double()))
    layer = 12

    def normed(x: Any) -> Any:
        return x / torch.sqrt((x**2).mean(dim=-1, keepdim=True) + reference.config.rms_norm_eps)

    def states(text: str) -> tuple[Any, Any]:
        with torch.no_grad():
            out = reference(torch.from_numpy(default_model.to_tokens(text)), output_hidden_states=True)
        return normed(out.hidden_states[layer + 1][0].double()), normed(last[-1])

    pairs = [states(text) for text in names["TRAIN"]]
    x, y = (torch.cat([pair[i][1:] for pair in pairs]) for i in (0, 1))
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    penalty = found["text"]["penalty"] * len(x)
    # Ridge as ordinary least squares with one more row for each number, instead of the normal equations.
    rows = torch.cat([x - mean_x, penalty**0.5 * torch.eye(x.shape[1], dtype=x.dtype)])
    A = torch.linalg.lstsq(rows, torch.cat([y - mean_y, torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)])).solution
    prompt, final = (state[-1] for state in states(found["prompt"]["prompt"]))
    head, weight = reference.lm_head.weight.double(), reference.model.norm.weight.double()
    translated = mean_y + (prompt - mean_x) @ A
    kl = kl_bits(head @ (final * weight), head @ (translated * weight))
    assert found["prompt"]["layers"][layer + 1]["translated_kl"] == pytest.approx(kl, abs=2e-2)
