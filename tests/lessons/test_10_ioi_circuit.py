"""Lesson 10 on the default model, recomputed with transformers, and the data set."""

import sys
from pathlib import Path
from typing import Any

import tinymi
from tests.running import ROOT, default_lesson_json
from tests.variants import hugging_face

import numpy as np
import pytest
import torch

sys.path.append(str(ROOT / "lessons"))
import ioi

NAME = "10_ioi_circuit"


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(NAME, tmp_path_factory.mktemp("ioi"))


@pytest.mark.parametrize("template", [*ioi.TEMPLATES, *ioi.HELD_OUT_TEMPLATES])
def test_the_data_set(template: str, default_model: tinymi.Model) -> None:
    task = ioi.make_task(default_model, template, n_pairs=4)
    assert len(set(task.prompts)) == 8
    for row, (prompt, io, s) in enumerate(zip(task.prompts, task.io, task.s, strict=True)):
        pieces = default_model.to_str_tokens(prompt)
        assert (prompt.count(io), prompt.count(s)) == (1, 2)
        places = {name: int(position[row]) for name, position in task.positions.items()}
        assert (pieces[places["IO"]], pieces[places["S1"]], pieces[places["S2"]]) == (f" {io}", f" {s}", f" {s}")
        assert places["S1"] + 1 == places["S1+1"] < places["S2"] < places["END"] == len(pieces) - 1
    orders = [prompt.index(io) < prompt.index(s) for prompt, io, s in zip(task.prompts, task.io, task.s, strict=True)]
    assert sum(orders) == 4
    assert ioi.unrelated(default_model, template).shape[1] == task.tokens.shape[1]


def test_a_head_taken_out_with_transformers(
    lesson: dict[str, Any], default_model_folder: Path, default_model: tinymi.Model
) -> None:
    task = ioi.make_task(default_model, ioi.TEMPLATES[0])
    peer, rows = hugging_face(default_model_folder), np.arange(4)
    module = peer.model.layers[23].self_attn.o_proj
    seen: list[Any] = []
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    with torch.no_grad():
        peer(torch.from_numpy(ioi.unrelated(default_model, ioi.TEMPLATES[0])))
        clean = peer(torch.from_numpy(task.tokens)).logits[:, -1].numpy()
        handle.remove()
        mean = seen[0].mean(dim=0)[:, 3 * 64 : 4 * 64]

        def take_out(module: Any, args: Any) -> Any:
            z = args[0].clone()
            z[:, :, 3 * 64 : 4 * 64] = mean
            return (z,)

        module.register_forward_pre_hook(take_out)
        without = peer(torch.from_numpy(task.tokens)).logits[:, -1].numpy()
    before, after = ((run[rows, task.io_id] - run[rows, task.s_id]).mean() for run in (clean, without))
    assert lesson["clean"] == pytest.approx(before, rel=1e-4)
    assert lesson["knockout"][23][3] == pytest.approx(before - after, rel=1e-3)


def test_the_roles_of_the_mission_are_there(lesson: dict[str, Any]) -> None:
    roles = {head["role"] for head in lesson["heads"]}
    assert {"name mover", "negative name mover", "S-inhibition", "induction", "previous token"} <= roles
    assert np.shape(lesson["knockout"]) == (30, 9)
    assert [set(prompt) for prompt in lesson["prompts"]] == [{"prompt", "io", "s"}] * 4


def test_the_deeper_lesson(default_model_folder: Path, default_model: tinymi.Model, tmp_path: Path) -> None:
    """Its logit differences with transformers; the circuit holds the head that the short lesson is about."""
    deeper = default_lesson_json(f"deeper/{NAME}", tmp_path)
    peer, rows, expected = hugging_face(default_model_folder), np.arange(2), []
    for seed, template in enumerate(ioi.HELD_OUT_TEMPLATES):
        task = ioi.make_task(default_model, template, n_pairs=1, seed=seed)
        with torch.no_grad():
            last = peer(torch.from_numpy(task.tokens)).logits[:, -1].numpy()
        expected += list(last[rows, task.io_id] - last[rows, task.s_id])
    assert deeper["new_clean"] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert [23, 3] in [place[:2] for place in deeper["circuit"]]
    assert np.mean(deeper["loss"][deeper["strong"].index([23, 3])]) > 1
