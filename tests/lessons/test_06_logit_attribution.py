"""Logit attribution: its shares and removals against Hugging Face, its findings on the default model."""

from pathlib import Path
from typing import Any

import tinymi
from tests.lessons.analyses import Writes
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face, save_variant
from tinymi import Model

import pytest
import torch

LESSON, DEEPER = "06_logit_attribution", "deeper/06_logit_attribution"
EIFFEL = "The Eiffel Tower is in"


class Reference:
    """The same in a transformers model: what each component writes at the last position, and its removal."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.model, self.reference = model, hugging_face(folder).requires_grad_(False)
        self.writes = Writes(self.reference)

    def difference(self, prompt: str, answers: tuple[str, str], removed: str | None = None) -> float:
        self.writes.removed = removed
        logits = self.reference(torch.from_numpy(self.model.to_tokens(prompt))).logits[0, -1].double()
        first, second = (self.model.to_single_token(text) for text in answers)
        return float(logits[first] - logits[second])

    def shares(self, prompt: str, answers: tuple[str, str]) -> dict[str, float]:
        self.difference(prompt, answers)
        final = torch.stack(list(self.writes.values.values())).sum(dim=0)
        scale = torch.sqrt((final**2).mean() + self.reference.config.rms_norm_eps)
        first, second = (self.reference.lm_head.weight[self.model.to_single_token(text)].double() for text in answers)
        direction = self.reference.model.norm.weight.double() * (first - second) / scale
        return {name: float(part @ direction) for name, part in self.writes.values.items()}

    def check(self, report: dict[str, Any], prompt: str, answers: tuple[str, str]) -> None:
        """The bars of the layers, and the table of shares and total effects."""
        expected = self.shares(prompt, answers)
        scale = sum(map(abs, expected.values()))
        series = shown(report, "bars")[0]["series"]
        for part, name in (("attn", "attention"), ("mlp", "MLP")):
            by_layer = [expected[f"blocks.{i}.hook_{part}_out"] for i in range(self.model.config.n_layers)]
            assert series[name] == pytest.approx(by_layer, abs=1e-5 * scale)
        whole = self.difference(prompt, answers)
        for component, share, total in shown(report, "table")[-1]["rows"]:
            assert share == pytest.approx(expected[component], abs=1e-5 * scale)
            assert total == pytest.approx(whole - self.difference(prompt, answers, component), abs=1e-4 * scale)


def shown(report: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [item for item in report["report"] if item["kind"] == kind]


@pytest.mark.parametrize("family", ["llama-free-head", "llama-biases", "qwen2-gqa2", "qwen3-tied-mha"])
def test_any_model(family: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", family)
    options = ["--prompt", "abcabc", "--answer", "a", "--wrong", "z"]
    report = lesson_json(LESSON, tmp_path, "--model", str(folder), *options)
    Reference(folder, tinymi.load(folder)).check(report, "abcabc", ("a", "z"))


@pytest.mark.parametrize("prompt", ["x", "{}%\u202e\n"], ids=["one token", "odd"])
def test_odd_prompts(prompt: str, tiny_folder: Path, tmp_path: Path) -> None:
    options = ["--prompt", prompt, "--answer", "{", "--wrong", "}"]
    lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), *options)


@pytest.mark.parametrize(
    "options",
    [
        ["--answer", "two words"],
        ["--answer", "x", "--wrong", "abc"],
        ["--answer", "x", "--wrong", "x"],
        ["--prompt", ""],
    ],
    ids=["two tokens", "three tokens", "the same", "no prompt"],
)
def test_wrong_options_are_one_line_and_status_2(tiny_folder: Path, options: list[str]) -> None:
    refusal(LESSON, "--model", str(tiny_folder), *options)


def test_a_model_without_these_facts_is_told_so(tiny_folder: Path) -> None:
    assert "facts: the model answers none" in refusal(DEEPER, "--model", str(tiny_folder))


@pytest.fixture(scope="module")
def reference(default_model_folder: Path, default_model: Model) -> Reference:
    return Reference(default_model_folder, default_model)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("06"))


def test_the_shares_are_hugging_faces(report: dict[str, Any], reference: Reference) -> None:
    reference.check(report, EIFFEL, (" Paris", " Rome"))
    control = reference.shares("It was a dark and stormy", (" night", " evening"))
    both = [control[f"blocks.{i}.hook_attn_out"] + control[f"blocks.{i}.hook_mlp_out"] for i in range(30)]
    assert shown(report, "bars")[0]["series"]["control: both"] == pytest.approx(both, abs=1e-4)


def test_the_head_that_writes_paris(report: dict[str, Any]) -> None:
    heads, elsewhere, effects = (item["rows"] for item in shown(report, "table"))
    assert heads[0][0] == "23.4"
    assert heads[0][1] > 1 > 0.8 > abs(heads[1][1])
    (_, _, _, reads, _, writes), (_, _, share, country, weight, words), (_, difference, nothing, *_) = elsewhere
    assert (reads, country) == ("iffel", " France")
    assert "␣Paris" in writes
    assert "␣France" in words
    assert share > 2.5
    assert weight > 0.85
    assert difference > 2.5 > 0.5 > nothing  # Paris leads Rome where nobody asks, and not by this head
    totals = {component: (share, total) for component, share, total in effects}
    share, total = totals["blocks.28.hook_mlp_out"]
    assert share > 0.7 > 0 > total  # it writes much, and its removal does not cost the answer anything
    share, total = totals["blocks.0.hook_mlp_out"]
    assert abs(share) < 0.2 < 2 < total


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(DEEPER, tmp_path_factory.mktemp("deeper06"))


def test_the_deeper_shares_are_hugging_faces(deeper: dict[str, Any], reference: Reference) -> None:
    for fact in (0, len(deeper["facts"]) // 2, -1):
        prompt, answers = deeper["facts"][fact], deeper["answers"][fact]
        expected = reference.shares(prompt, answers)
        assert deeper["shares"][fact] == pytest.approx(list(expected.values()), abs=1e-4)
        whole = reference.difference(prompt, answers)
        assert deeper["differences"][fact] == pytest.approx(whole, abs=1e-4)
        for component in (0, 2, 47, 53):
            left = reference.difference(prompt, answers, list(expected)[component])
            assert deeper["zeroed"][fact][component] == pytest.approx(whole - left, abs=2e-3)


def test_findings(deeper: dict[str, Any]) -> None:
    assert [finding["established"] for finding in deeper["findings"]] == [True] * 4
    assert "Head 23.4 writes" in deeper["findings"][1]["text"]
    assert len(set(deeper["forms"])) >= 9
    assert len(deeper["facts"]) >= 20
