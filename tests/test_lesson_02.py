"""Lesson 2: its activations against Hugging Face, its hypotheses tested again, its findings with margins."""

from pathlib import Path
from typing import Any

from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Model
from tinymi.arrays import Array

import numpy as np
import pytest
import torch

LESSON = "02_neuron_activations"


class Reference:
    """What transformers gives at each layer's down_proj (input: neurons; output: mlp_out) for a list of prompts."""

    def __init__(self, folder: Path, model: Model, prompts: list[str], site: str = "post") -> None:
        reference = hugging_face(folder)
        kept: list[list[Array]] = [[] for _ in reference.model.layers]
        for i, layer in enumerate(reference.model.layers):

            def keep(module: Any, args: Any, output: Any, i: int = i) -> None:
                kept[i].append((args[0] if site == "post" else output)[0].numpy())

            layer.mlp.down_proj.register_forward_hook(keep)
        tokens = [model.to_tokens(prompt) for prompt in prompts]
        with torch.no_grad():
            for row in tokens:
                reference(torch.from_numpy(row))
        self.acts = [np.concatenate(rows) for rows in kept]  # per layer [token, neuron]
        self.prompt = np.repeat(np.arange(len(tokens)), [row.shape[1] for row in tokens])
        self.position = np.concatenate([np.arange(row.shape[1]) for row in tokens])
        self.pieces = [piece for row in tokens for piece in model.to_str_tokens(row[0])]

    def counts(self, left_out: list[dict[str, Any]]) -> Any:
        """Which tokens count: no first one, and none that the lesson says is like one."""
        out = {(entry["prompt"], entry["position"]) for entry in left_out}
        return np.array([i > 0 and (p, i) not in out for p, i in zip(self.prompt, self.position, strict=True)])


def prompts_of(found: dict[str, Any], name: str) -> list[str]:
    return [entry["prompt"] for entry in found["prompts"] if entry["set"] == name]


def left_out(found: dict[str, Any], held_out: bool) -> list[dict[str, Any]]:
    return [entry for entry in found["like_a_start"] if entry["held_out"] == held_out]


def check_ranking(found: dict[str, Any], reference: Reference) -> None:
    counted = reference.counts(left_out(found, held_out=False))
    for row in found["layers"]:
        acts = np.where(counted[:, None], reference.acts[row["layer"]], 0)
        peaks = np.abs(acts).max(axis=0)
        expected = np.sort(peaks)[::-1][:5]
        for entry, peak in zip(row["neurons"], expected, strict=True):
            assert abs(entry["activation"]) == pytest.approx(float(peak), rel=1e-3, abs=1e-4)
            assert peaks[entry["neuron"]] == pytest.approx(float(peak), rel=1e-3, abs=1e-4)
            for token in (*entry["highest"], *entry["lowest"]):
                at = (reference.prompt == token["prompt"]) & (reference.position == token["position"])
                assert float(acts[at][0, entry["neuron"]]) == pytest.approx(token["activation"], rel=1e-3, abs=1e-3)
                assert reference.pieces[int(np.flatnonzero(at)[0])] == token["token"]
            assert entry["highest"][0]["activation"] == pytest.approx(
                float(acts[counted][:, entry["neuron"]].max()), rel=1e-3, abs=1e-4
            )


@pytest.mark.parametrize("site", ["post", "mlp_out"])
def test_a_tiny_random_model(site: str, tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    found = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), "--site", site, "--layer", "1")
    assert [row["layer"] for row in found["layers"]] == [0, 1]
    reference = Reference(tiny_folder, tiny_model, prompts_of(found, "first"), site)
    check_ranking(found, reference)
    assert "Layer 1 in full" in found["stdout"]


def test_prompts_of_ones_own(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    lines = [f"kind {i % 2}\tThis is a line with number {i}, \\n and a tab \\t, and \\\\ too." for i in range(8)]
    path.write_text(
        "\n".join([*lines, "", "no kind is given here, but there is text", "nor is one here, for the test"])
    )
    found = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), "--prompts", str(path))
    assert {entry["kind"] for entry in found["prompts"]} == {"kind 0", "kind 1", "own"}
    assert len(prompts_of(found, "first")) == len(prompts_of(found, "held out")) == 5
    assert prompts_of(found, "first")[0] == "This is a line with number 0, \n and a tab \t, and \\ too."


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\xff", "not UTF-8"),
        (b"one line\n", "has 1 prompts"),
        (b"a\nb\nc\nd\n", "too little"),
    ],
    ids=["missing", "no text", "one line", "too short"],
)
def test_a_wrong_file_is_one_line_and_status_2(
    content: bytes | None, problem: str, tiny_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    assert problem in refusal(LESSON, "--model", str(tiny_folder), "--prompts", str(path))


def test_a_wrong_layer_is_one_line_and_status_2(tiny_folder: Path) -> None:
    assert "0 to 1" in refusal(LESSON, "--model", str(tiny_folder), "--layer", "2")


@pytest.fixture(scope="module")
def found(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("02"))


def test_the_prompts(found: dict[str, Any]) -> None:
    for name in ("first", "held out"):
        kinds = [entry["kind"] for entry in found["prompts"] if entry["set"] == name]
        assert {kind: kinds.count(kind) >= 6 for kind in kinds} == dict.fromkeys(
            ("code", "math", "poetry", "factual", "conversational"), True
        )


def test_the_ranking_is_hugging_faces(found: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    check_ranking(found, Reference(default_model_folder, default_model, prompts_of(found, "first")))


def test_hypotheses_hold_again(found: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    """Precision and lift of the simplest hypotheses, from Hugging Face's activations and categories made anew."""
    first = Reference(default_model_folder, default_model, prompts_of(found, "first"))
    held = Reference(default_model_folder, default_model, prompts_of(found, "held out"))
    counted, held_counted = (
        reference.counts(left_out(found, held_out)) for reference, held_out in ((first, False), (held, True))
    )
    n_fire = round(0.025 * int(counted.sum()))
    kinds = [entry["kind"] for entry in found["prompts"] if entry["set"] == "held out"]
    tested = 0
    for row in found["layers"]:
        for entry in row["neurons"]:
            name = entry["hypothesis"]
            if name == "comma":
                member = [piece.strip().endswith(",") for piece in held.pieces]
            elif name == "digit":
                member = [piece.strip().isdigit() for piece in held.pieces]
            elif name.startswith("in "):
                member = [kinds[prompt] == name.removeprefix("in ") for prompt in held.prompt]
            elif name == "the token ␣":
                member = [piece == " " for piece in held.pieces]
            else:
                continue
            side = np.sign(entry["activation"])
            acts = side * first.acts[row["layer"]][counted, entry["neuron"]]
            fires = side * held.acts[row["layer"]][:, entry["neuron"]] >= np.sort(acts)[-n_fire]
            fires &= held_counted
            precision = float(np.mean(np.array(member)[fires]))
            base = float(np.mean(np.array(member)[held_counted]))
            assert entry["precision"] == pytest.approx(precision, abs=0.06)  # one token at the threshold
            assert entry["lift"] == pytest.approx(precision / base, rel=0.1)
            assert precision > 0.45
            tested += 1
    assert tested > 20


def test_findings(found: dict[str, Any]) -> None:
    assert [finding["established"] for finding in found["findings"]] == [True] * 4
    positions = {row["layer"]: row for row in found["position_0"]}
    assert positions[11]["position_0"] > 500 * positions[11]["others"]
    assert positions[11]["position_1"] < 5 * positions[11]["others"]
    assert found["mlp_out"]["dimensions"][0]["layers"] >= 25  # one residual dimension, nearly everywhere
    assert found["mlp_out"]["by_chance_largest"] <= 7
    assert found["mlp_out"]["neurons_shared"] <= 4
    told = found["hypotheses"]
    assert told["units"] == 150
    assert told["survive"] > 60
    assert told["survive_random_units"] < 55
    assert max(told["shuffled"]) <= 3
    first = found["layers"][0]["neurons"][1]
    assert first["hypothesis"] == "comma"
    assert first["precision"] > 0.9
    assert all(token["token"] == "," for token in first["top_tokens"])
