"""Lesson 5: its grid and its translators against Hugging Face and torch's least squares; what its deeper file holds."""

from pathlib import Path
from typing import Any

from tests.lessons.analyses import kl_bits, logit_lens
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face, save_variant
from tinymi import Model
from tinymi.teaching import prompts

import numpy as np
import pytest
import torch

LESSON, DEEPER = "05_logit_lens", "deeper/05_logit_lens"
PROMPT = "The capital of France is"


def item(lesson: dict[str, Any], kind: str, number: int = 0) -> dict[str, Any]:
    return [dict(entry) for entry in lesson["report"] if entry["kind"] == kind][number]


def check_grid(lesson: dict[str, Any], text: str, folder: Path, model: Model) -> None:
    """Each cell's token and its probability, at the last eight positions."""
    p = torch.softmax(logit_lens(hugging_face(folder), model.to_tokens(text)), dim=-1)[:, -8:]
    grid = item(lesson, "heatmap")
    np.testing.assert_allclose(grid["values"], p.max(dim=-1).values, atol=1e-4)
    two = p.topk(2, dim=-1)
    for texts, best, values in zip(grid["texts"], two.indices, two.values, strict=True):
        for piece, first, value in zip(texts, best, values, strict=True):
            if float(value[0] - value[1]) > 1e-4:  # no tie
                assert piece == model.to_str_tokens([int(first[0])])[0]


@pytest.mark.parametrize("prompt", ["abc abd", "a", "x" * 20, "\x1b[31m\u202e<b>"])
def test_any_prompt_on_a_tiny_random_model(prompt: str, tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    lesson = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), "--prompt", prompt)
    check_grid(lesson, prompt, tiny_folder, tiny_model)
    assert "\x1b" not in lesson["stdout"]


@pytest.mark.parametrize("prompt", ["", "x" * 600])
def test_a_prompt_of_the_wrong_length_is_one_line_and_status_2(prompt: str, tiny_folder: Path) -> None:
    refusal(LESSON, "--model", str(tiny_folder), "--prompt", prompt)


def test_another_family(tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", "qwen3-tied-mha", max_position_embeddings=512)
    for name in (LESSON, DEEPER):
        lesson_json(name, tmp_path, "--model", str(folder))


@pytest.fixture(scope="module")
def lesson(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("05"))


@pytest.fixture(scope="module")
def deeper(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(DEEPER, tmp_path_factory.mktemp("05_deeper"))


def test_every_layer_and_position(lesson: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    check_grid(lesson, PROMPT, default_model_folder, default_model)
    debris = item(lesson, "table")["rows"]
    assert debris[0][0] == "<filename>"
    length = np.linalg.norm(default_model.weights.W_E.astype(np.float64), axis=1)  # tied: the columns of W_U
    token = default_model.to_single_token("<filename>")
    assert debris[0][1] == pytest.approx(length[token], rel=1e-5)
    assert debris[0][2] == (length > length[token]).sum() < 10


class Translator:
    """One row's translator, fitted by torch on transformers' states: least squares with one more row per penalty."""

    def __init__(self, folder: Path, model: Model, row: int) -> None:
        self.reference, self.model, self.row = hugging_face(folder).requires_grad_(False), model, row
        self.last: list[Any] = []
        self.reference.model.norm.register_forward_pre_hook(lambda module, args: self.last.append(args[0][0].double()))
        pairs = [self.states(line[0].replace(r"\n", "\n")) for line in prompts("lens_train")[::2]]
        x, y = (torch.cat([pair[i][1:] for pair in pairs]) for i in (0, 1))
        self.mean_x, self.mean_y, size = x.mean(dim=0), y.mean(dim=0), x.shape[1]
        rows = torch.cat([x - self.mean_x, (0.1 * len(x)) ** 0.5 * torch.eye(size, dtype=x.dtype)])
        target = torch.cat([y - self.mean_y, torch.zeros(size, size, dtype=x.dtype)])
        self.matrix = torch.linalg.lstsq(rows, target).solution

    def states(self, text: str) -> tuple[Any, Any]:
        """Normed streams after `row` blocks and after the last one: [pos, d_model] each."""
        with torch.no_grad():
            out = self.reference(torch.from_numpy(self.model.to_tokens(text)), output_hidden_states=True)
        return self.normed(out.hidden_states[self.row][0].double()), self.normed(self.last[-1])

    def normed(self, x: Any) -> Any:
        return x / torch.sqrt((x**2).mean(dim=-1, keepdim=True) + self.reference.config.rms_norm_eps)

    def read(self, x: Any) -> Any:
        return (x * self.reference.model.norm.weight.double()) @ self.reference.lm_head.weight.double().T


def test_the_translator_is_ridge_regression(
    lesson: dict[str, Any], default_model_folder: Path, default_model: Model
) -> None:
    """The rows of layer 17: ranks at the prompt, and bits from the prediction on held-out text."""
    translator = Translator(default_model_folder, default_model, 18)
    x, y = translator.states(PROMPT)
    paris = default_model.to_single_token(" Paris")
    shift = x - translator.mean_x + translator.mean_y
    tuned = translator.mean_y + (x - translator.mean_x) @ translator.matrix
    readings = [translator.read(state[-1]) for state in (x, shift, tuned)]
    (row,) = [row for row in item(lesson, "table", 1)["rows"] if row[0] == 17]
    for rank, reading in zip(row[1:4], readings, strict=True):
        near = [int((reading > reading[paris] + edge).sum()) for edge in (2e-3, -2e-3)]
        assert 1 + near[0] <= rank <= near[1]
    curves = item(lesson, "lines")
    at = curves["x"].index(17)
    distances = []
    for line in prompts("lens_test"):
        x, y = (state[1::8] for state in translator.states(line[0].replace(r"\n", "\n")))
        tuned = translator.mean_y + (x - translator.mean_x) @ translator.matrix
        distances += [kl_bits(*map(translator.read, pair)) for pair in zip(y, tuned, strict=True)]
    assert curves["series"]["translated"][at] == pytest.approx(np.mean(distances), abs=1e-2)
    assert curves["series"]["raw lens"][at] > 20


def test_what_holds(deeper: dict[str, Any]) -> None:
    assert all(finding["established"] for finding in deeper["findings"])
    assert deeper["penalty"] == 0.1  # what the lesson takes
    middle = len(deeper["rows"]) // 2
    assert deeper["raw"][middle] > 15
    assert deeper["tuned"][middle] < deeper["token"] - 0.5 < deeper["constant"] - 1
    assert all(deeper["by_heart"][i] < deeper["tuned"][i] for i in range(len(deeper["rows"])))  # over-fitting shows
