"""Lesson 5: its knock-outs against Hugging Face and a plain loop, and the circuit it finds in the default model."""

from pathlib import Path
from typing import Any

from tests.analyses import without_heads
from tests.running import default_lesson_json, lesson_json, refusal, run_lesson
from tests.variants import hugging_face
from tinymi import Model
from tinymi.arrays import Array
from tinymi.hooks import HookPoint

import numpy as np
import pytest
import torch

LESSON = "05_ioi_circuit"


def knocked_out_by_hugging_face(reference: Any, model: Model, entry: dict[str, Any], layer: int, head: int) -> float:
    """The logit difference of one prompt without one head."""
    tokens = torch.from_numpy(model.to_tokens(entry["prompt"]))
    with without_heads(reference, {layer: [head]}, model.config.d_head), torch.no_grad():
        logits = reference(tokens).logits[0, -1]
    return float(logits[model.to_single_token(entry["io"])] - logits[model.to_single_token(entry["s"])])


def knocked_out_plainly(model: Model, entry: dict[str, Any], layer: int, head: int) -> float:
    """The same with the pattern set to zero, in one run from the tokens on."""

    def without_head(pattern: Array, hook: HookPoint) -> Array:
        edited = pattern.copy()
        edited[:, head] = 0
        return edited

    hooks = [(f"blocks.{layer}.attn.hook_pattern", without_head)]
    logits = model.run_with_hooks(model.to_tokens(entry["prompt"]), hooks)[0, -1]
    return float(logits[model.to_single_token(entry["io"])] - logits[model.to_single_token(entry["s"])])


def test_a_tiny_random_model(tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    found = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), "--anyway", "--prompts", "4")
    assert len(found["prompts"]) == 4
    assert [entry["order"] for entry in found["prompts"]] == ["ABBA", "BABA"] * 2
    reference = hugging_face(tiny_folder)
    for layer in range(2):
        for head in range(4):
            differences = [
                knocked_out_by_hugging_face(reference, tiny_model, entry, layer, head) for entry in found["prompts"]
            ]
            assert found["knockout"][layer][head] == pytest.approx(np.mean(differences), abs=1e-4)
    assert np.shape(found["knockout_mean_ablation"]) == (2, 4)
    assert not found["findings"][0]["established"]


def test_a_model_that_cannot_do_the_task_is_told_so(tiny_folder: Path, tmp_path: Path) -> None:
    done = run_lesson(LESSON, "--model", str(tiny_folder), "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    assert "The model cannot do the task" in done.stdout
    assert "knocked out" not in done.stdout
    assert '"knockout"' not in (tmp_path / "found.json").read_text()


@pytest.mark.parametrize("number", ["0", "3", "-2", "many"])
def test_a_wrong_number_of_prompts_is_one_line_and_status_2(number: str) -> None:
    assert number in refusal(LESSON, f"--prompts={number}")


@pytest.fixture(scope="module")
def found(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("05"))


@pytest.fixture(scope="module")
def heads(found: dict[str, Any]) -> dict[tuple[int, int], dict[str, Any]]:
    return {(entry["layer"], entry["head"]): entry for entry in found["heads"]}


def test_the_task(found: dict[str, Any], default_model: Model) -> None:
    assert found["baseline"]["mean_logit_diff"] > 3
    assert found["baseline"]["accuracy"] > 0.9
    for order in ("ABBA", "BABA"):
        assert found["baseline"][order]["interval"][0] > 2
    assert len(found["prompts"]) == 16
    for entry in found["prompts"]:
        assert entry["prompt"].count(entry["s"]) == 2
        assert entry["prompt"].count(entry["io"]) == 1
        logits = default_model(default_model.to_tokens(entry["prompt"]), positions=-1)[0, 0]
        ids = [default_model.to_single_token(entry[name]) for name in ("io", "s")]
        assert entry["logit_diff"] == pytest.approx(float(logits[ids[0]] - logits[ids[1]]), abs=1e-3)


@pytest.mark.parametrize(("layer", "head"), [(23, 3), (16, 0), (0, 0)])
def test_the_sweep_is_hugging_faces(
    found: dict[str, Any], default_model: Model, default_model_folder: Path, layer: int, head: int
) -> None:
    reference = hugging_face(default_model_folder)
    prompts = found["prompts"]
    theirs = [knocked_out_by_hugging_face(reference, default_model, entry, layer, head) for entry in prompts]
    plain = [knocked_out_plainly(default_model, entry, layer, head) for entry in prompts]
    assert found["knockout"][layer][head] == pytest.approx(np.mean(theirs), abs=1e-3)
    assert found["knockout"][layer][head] == pytest.approx(np.mean(plain), abs=1e-3)


def test_the_circuit(heads: dict[tuple[int, int], dict[str, Any]]) -> None:
    roles = {
        (16, 0): "previous-token",
        (17, 4): "induction",
        (20, 0): "S-inhibition",
        (23, 0): "name mover",
        (23, 1): "name mover",
        (23, 2): "name mover",
        (23, 3): "S-suppressor",  # not in the paper
        (24, 4): "negative name mover",
    }
    assert {head: heads[head]["role"] for head in roles} == roles
    assert all(heads[head]["held_out"]["again"] for head in [(16, 0), (17, 4), (20, 0), (23, 3)])
    suppressor, mover = heads[23, 3]["evidence"], heads[23, 0]["evidence"]
    assert suppressor["direct"] > 1.5
    assert suppressor["END->S2"] > 0.4
    assert suppressor["S"] < -1
    assert mover["END->IO"] > 0.2
    assert mover["copy"] > 0.5
    assert heads[16, 0]["evidence"]["S1+1->S1"] > 0.4
    assert heads[17, 4]["evidence"]["S2->S1+1"] > 0.3
    assert heads[20, 0]["evidence"]["IO read"] < -0.15


def test_controls_and_faithfulness(found: dict[str, Any]) -> None:
    controls, faithfulness = found["controls"], found["faithfulness"]
    assert max(controls["moved_places"]) <= 6
    assert controls["together"][0] > 4
    assert max(np.abs(controls["random_together"])) < 1
    assert 0.4 < faithfulness["share"] < 0.9
    assert max(controls["random_alone"]) < 1
    assert faithfulness["by_effect"]["80"] > 0.9 * faithfulness["model"]
    drawing = next(item["text"] for item in found["report"] if "logits\nlayer" in item.get("text", ""))
    assert drawing.index("23.3 S-suppressor") < drawing.index("16.0 previous-token")  # the logits are above
