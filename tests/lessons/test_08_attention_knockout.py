"""Lesson 8: its cuts against transformers with masks of the test's own; what its deeper file holds up."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face, save_variant
from tinymi import Model

import numpy as np
import pytest
import torch

LESSON, DEEPER = "08_attention_knockout", "deeper/08_attention_knockout"
FRANCE, ITALY = "The capital of France is", "The capital of Italy is"


def logits_with_cut(
    reference: Any, model: Model, prompt: str, layers: Iterable[int] = (), key: int = 0, head: int | None = None
) -> Any:
    """By transformers: the last logits when the last position does not see a key in these layers and this head."""
    n_heads = model.config.n_heads

    def mask(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        scores = kwargs["attention_mask"].expand(-1, n_heads, -1, -1).clone()
        scores[:, slice(None) if head is None else head, -1, key] = -torch.inf
        return args, kwargs | {"attention_mask": scores}

    blocks = reference.model.layers
    handles = [blocks[i].self_attn.register_forward_pre_hook(mask, with_kwargs=True) for i in layers]
    tokens = torch.from_numpy(model.to_tokens(prompt))
    with torch.no_grad():
        logits = reference(tokens, attention_mask=torch.ones_like(tokens)).logits[0, -1].double()
    for handle in handles:
        handle.remove()
    return logits


def check_cuts(lesson: dict[str, Any], reference: Any, model: Model, prompt: str, cells: Any) -> None:
    layer, word, answer = lesson["layer"], lesson["word"], lesson["answer"]

    def probability(*cut: Any) -> float:
        return float(torch.softmax(logits_with_cut(reference, model, prompt, *cut), dim=-1)[answer])

    assert answer == int(logits_with_cut(reference, model, prompt).argmax())
    for at, key in [*cells, (layer, word)]:
        assert lesson["grid"][at][key] == pytest.approx(probability([at], key), abs=1e-3)
    for head, value in enumerate(lesson["by_head"]):
        assert value == pytest.approx(probability([layer], word, head), abs=1e-3)
    everywhere = [probability(range(model.config.n_layers), key) for key in (word, 0)]
    assert lesson["two_ways"]["shared out"][2:] == pytest.approx(everywhere, abs=1e-3)


def test_a_tiny_random_model(tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    options = ["--model", str(tiny_folder), "--prompt", "abcdef", "--twin", "abc"]
    lesson = lesson_json(LESSON, tmp_path, *options)
    cells = [(layer, key) for layer in range(2) for key in range(5)]
    check_cuts(lesson, hugging_face(tiny_folder), tiny_model, "abcdef", cells)


@pytest.mark.parametrize("options", [["--prompt", "a"], ["--twin", "a"], ["--prompt", "a" * 31]])
def test_a_prompt_of_the_wrong_length_is_one_line_and_status_2(options: list[str], tiny_folder: Path) -> None:
    assert "3 to 30" in refusal(LESSON, "--model", str(tiny_folder), *options)


def test_another_family_and_an_odd_prompt(tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "qwen", "qwen2-gqa2")
    lesson = lesson_json(LESSON, tmp_path, "--model", str(folder), "--prompt", "\x1b[3\u202e \n|<b>", "--twin", "aaaa")
    assert "\x1b" not in lesson["stdout"]


@pytest.fixture(scope="module")
def lesson(default_model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("08"))


def test_the_cuts(lesson: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    reference = hugging_face(default_model_folder)
    check_cuts(lesson, reference, default_model, FRANCE, [(12, 2), (18, 0), (20, 3), (29, 1)])
    assert (lesson["layer"], lesson["word"], int(np.argmin(lesson["by_head"]))) == (23, 3, 4)
    assert min(lesson["by_head"]) < 0.2 < 0.7 < sorted(lesson["by_head"])[1]
    dropped = lesson["two_ways"]["dropped"]
    assert lesson["two_ways"]["shared out"][1] < 0.3 < 0.6 < dropped[1]  # the sink, in layer 18
    paris, rome = (default_model.to_single_token(name) for name in (" Paris", " Rome"))
    cuts: list[Any] = [(), ([23], 3, 4)]
    for cut, row in zip(cuts, lesson["scores"], strict=True):
        by_hf = [logits_with_cut(reference, default_model, prompt, *cut) for prompt in (FRANCE, ITALY)]
        assert row == pytest.approx([float(logits[paris] - logits[rome]) for logits in by_hf], abs=2e-2)
    apart = [prompt - twin for prompt, twin in lesson["scores"]]
    assert 1 - apart[1] / apart[0] > 0.8  # the head that lesson 7 finds, at about its 0.93


def test_the_deeper_file(default_model_folder: Path, default_model: Model, tmp_path: Path) -> None:
    deeper = default_lesson_json(DEEPER, tmp_path)
    assert (deeper["layer"], deeper["head"], deeper["windows"][deeper["best"]]) == (23, [23, 4], [20, 21, 22, 23, 24])
    reference = hugging_face(default_model_folder)
    capitals = [default_model.to_single_token(f" {capital}") for _, capital in deeper["pairs"]]
    for i, row in ((0, 1), (3, 7)):  # of the testing half, of all prompts
        prompt = f"The capital of {deeper['pairs'][row][0]} is"
        runs: list[Any] = [(), ([23], 3, 4), ([23], 3), (range(20, 25), 3)]
        scores = []
        for cut in runs:
            own, others = capitals[row], [token for token in capitals if token != capitals[row]]
            logits = logits_with_cut(reference, default_model, prompt, *cut)
            scores.append(float(logits[own] - logits[others].mean()))
        falls = [deeper["head_fall"][i], deeper["layer_fall"][i], deeper["by_window"][4][i]]
        assert falls == pytest.approx([scores[0] - after for after in scores[1:]], abs=2e-2)
    assert all(finding["established"] for finding in deeper["findings"])
    assert np.mean(deeper["one_cut"]) < 0.5 < np.mean(deeper["by_cut"]) < np.mean(deeper["by_patch"])
