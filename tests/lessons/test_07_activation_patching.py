"""Activation patching: its patches against Hugging Face with forward hooks, its findings on the default model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tinymi
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face, save_variant
from tinymi import Model

import numpy as np
import pytest
import torch

LESSON, DEEPER = "07_activation_patching", "deeper/07_activation_patching"
CLEAN, CORRUPTED = "The capital of France is", "The capital of Italy is"


class Patcher:
    """Activation patching in a transformers model, by forward hooks on its modules."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.reference, self.model = hugging_face(folder), model

    def logits(self, prompt: str) -> Any:
        with torch.no_grad():
            return self.reference(torch.from_numpy(self.model.to_tokens(prompt))).logits[0, -1].double()

    @contextmanager
    def edited(self, site: str, layer: int, edit: Any) -> Iterator[None]:
        """edit: from the value of a site [1, pos, ...] to another; for "z" [1, pos, n_heads, d_head]."""
        block = self.reference.model.layers[layer]

        def on_input(module: Any, args: Any) -> Any:
            if site != "z":
                return (edit(args[0].clone()), *args[1:])
            return (edit(args[0].unflatten(-1, (-1, self.model.config.d_head)).clone()).flatten(-2),)

        def on_output(module: Any, args: Any, out: Any) -> Any:
            return (edit(out[0].clone()), *out[1:]) if isinstance(out, tuple) else edit(out.clone())

        if site in ("resid_pre", "z"):
            module = block if site == "resid_pre" else block.self_attn.o_proj
            handle = module.register_forward_pre_hook(on_input)
        else:
            module = block.self_attn if site == "attn_out" else block.mlp
            handle = module.register_forward_hook(on_output)
        try:
            yield
        finally:
            handle.remove()

    def value(self, prompt: str, site: str, layer: int) -> Any:
        """What a site is in the run of a prompt."""
        values: list[Any] = []

        def keep(value: Any) -> Any:
            values.append(value)
            return value

        with self.edited(site, layer, keep):
            self.logits(prompt)
        return values[0]

    def moved(self, prompts: tuple[str, str], answers: tuple[str, str], site: str, layer: int, where: Any) -> float:
        """How far one patch moves the difference of the answers' logits, from the corrupted run to the clean one."""
        source = self.value(prompts[0], site, layer)

        def put(value: Any) -> Any:
            value[where] = source[where]
            return value

        with self.edited(site, layer, put):
            patched = self.logits(prompts[1])
        first, second = (self.model.to_single_token(answer) for answer in answers)
        after, high, low = (x[first] - x[second] for x in (patched, *map(self.logits, prompts)))
        return float((after - low) / (high - low))


def shown(report: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [item for item in report["report"] if item["kind"] == kind]


@pytest.mark.parametrize("family", ["llama-gqa3", "qwen2-gqa2", "qwen3-free-head"])
def test_any_model_and_prompts_that_differ_in_two_places(family: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", family)
    patcher = Patcher(folder, tinymi.load(folder))
    own = ["--clean", "abcdef", "--corrupted", "abXdYf", "--answer", "q", "--wrong", "w"]
    report = lesson_json(LESSON, tmp_path, "--model", str(folder), *own)
    grid = np.array(shown(report, "heatmap")[0]["values"])
    assert grid.shape == (3, 4)
    for layer, pos in ((0, 2), (1, 4), (2, 5)):
        expected = patcher.moved(("abcdef", "abXdYf"), ("q", "w"), "resid_pre", layer, (0, pos))
        assert grid[layer, pos - 2] == pytest.approx(expected, abs=2e-3)


def test_odd_prompts(tiny_folder: Path, tmp_path: Path) -> None:
    own = ["--clean", "é{}%\u202e", "--corrupted", "é{|%\u202e", "--answer", "{", "--wrong", "\n"]
    assert "\\u202e" in lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), *own)["stdout"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--clean", "abc", "--corrupted", "ab", "--answer", "x", "--wrong", "y"], "3 tokens and --corrupted 2"),
        (["--clean", "abc", "--corrupted", "abc", "--answer", "x", "--wrong", "y"], "two different prompts"),
        (["--clean", "abc", "--corrupted", "abd", "--answer", "x", "--wrong", "x"], "two different answers"),
        (["--clean", "abc", "--corrupted", "abd", "--answer", "xx", "--wrong", "y"], "xx"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(options: list[str], problem: str, tiny_folder: Path) -> None:
    assert problem in refusal(LESSON, "--model", str(tiny_folder), *options)


@pytest.mark.parametrize(("options", "problem"), [("7", "even number"), ("2000", "capitals make")])
def test_wrong_numbers_of_prompts(options: str, problem: str, tiny_folder: Path) -> None:
    assert problem in refusal(DEEPER, "--model", str(tiny_folder), "--prompts", options)


@pytest.fixture(scope="module")
def patcher(default_model_folder: Path, default_model: Model) -> Patcher:
    return Patcher(default_model_folder, default_model)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("07"))


def test_the_lessons_patches_are_hugging_faces(report: dict[str, Any], patcher: Patcher) -> None:
    prompts, answers = (CLEAN, CORRUPTED), (" Paris", " Rome")
    grid = np.array(shown(report, "heatmap")[0]["values"])  # [layer, country and last position]
    for layer, pos in ((12, 3), (23, 3), (24, 3), (23, 4), (24, 4)):
        expected = patcher.moved(prompts, answers, "resid_pre", layer, (0, pos))
        assert grid[layer, pos - 3] == pytest.approx(expected, abs=1e-3)
    by_head = shown(report, "bars")[0]["series"][""]
    for head in (3, 4):
        expected = patcher.moved(prompts, answers, "z", 23, (0, -1, head))
        assert by_head[head] == pytest.approx(expected, abs=1e-3)
    mlp = patcher.moved(prompts, answers, "mlp_out", 0, (0, 3))
    assert shown(report, "exercise")[0]["value"] == pytest.approx(mlp, abs=1e-3)


def test_one_head_carries_the_answer(report: dict[str, Any]) -> None:
    grid = np.array(shown(report, "heatmap")[0]["values"])
    assert grid[:24, 0].min() > 0.95
    assert grid[:24, 1].max() < 0.05
    assert grid[24:, 1].min() > 0.95
    by_head = shown(report, "bars")[0]["series"][""]
    assert np.argmax(by_head) == 4
    assert by_head[4] > 0.9 > 0.2 > np.delete(by_head, 4).max()
    reads, says = (item["rows"] for item in shown(report, "table"))
    assert dict(reads)[" France"] > 0.85
    assert [row[2] for row in says] == [" Rome", " Paris", " London"]
    assert 0.4 < says[2][1] < 0.6  # neither answer is left, and the difference is half of the way
    assert any("␣Breton" in item["text"] for item in shown(report, "prose"))


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(DEEPER, tmp_path_factory.mktemp("deeper07"))


def test_the_fast_patches_are_hugging_faces(deeper: dict[str, Any], patcher: Patcher) -> None:
    for pair in (0, -1):
        prompts, answers = deeper["pairs"][pair], deeper["answers"][pair]
        for layer, pos in ((12, 3), (24, 3), (23, 4), (24, 4)):
            expected = patcher.moved(prompts, answers, "resid_pre", layer, (0, pos))
            assert deeper["moved"][layer][pos - 3][pair] == pytest.approx(expected, abs=1e-3)
        expected = patcher.moved(prompts, answers, "z", 23, (0, -1, 4))
        assert deeper["heads"][23][4][pair] == pytest.approx(expected, abs=1e-3)


def test_the_head_is_needed(deeper: dict[str, Any], patcher: Patcher, default_model: Model) -> None:
    ids = [default_model.to_single_token(text) for text in deeper["capitals"]]
    seen = [prompt for pair in deeper["pairs"][: len(deeper["pairs"]) // 3] for prompt in pair]
    average = torch.stack([patcher.value(prompt, "z", 23)[0, -1, 4] for prompt in seen]).mean(dim=0)

    def put(value: Any) -> Any:
        value[0, -1, 4] = average
        return value

    def lead(logits: Any, answer: str) -> float:
        mine = default_model.to_single_token(answer)
        return float(logits[mine] - logits[[other for other in ids if other != mine]].mean())

    held_out = [(pair[0], answers[0]) for pair, answers in zip(deeper["pairs"], deeper["answers"])]
    held_out = held_out[len(held_out) // 3 :]
    leads = [lead(patcher.logits(prompt), answer) for prompt, answer in held_out]
    prompt, answer = held_out[0]
    with patcher.edited("z", 23, put):
        left = lead(patcher.logits(prompt), answer)
    assert deeper["needed"][23][4][0] == pytest.approx((leads[0] - left) / np.mean(leads), abs=2e-3)
    needed = np.mean(deeper["needed"], axis=-1)
    assert needed[23, 4] > 0.5 > 0.25 > np.delete(needed.ravel(), 23 * 9 + 4).max()


def test_findings(deeper: dict[str, Any]) -> None:
    assert [finding["established"] for finding in deeper["findings"]] == [True] * 6
    assert len(deeper["pairs"]) >= 8
    assert len({prompt for pair in deeper["pairs"] for prompt in pair}) == 2 * len(deeper["pairs"])
    assert len(deeper["forms"]) >= 8
