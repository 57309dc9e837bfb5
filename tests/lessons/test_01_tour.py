"""Lesson 1 on the default model and on tiny ones: the tour tells what the run did."""

from pathlib import Path
from typing import Any

import tinymi
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import random_tokens, save_variant
from tinymi.teaching.watch import FACTORS, sized, watch

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

NAME = "01_tour"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return list(default_lesson_json(NAME, tmp_path_factory.mktemp("tour"))["report"])


def tables(report: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in report if item["kind"] == "table"]


def test_it_ends_where_hugging_face_ends(
    report: list[dict[str, Any]], default_model_folder: Path, default_model: tinymi.Model
) -> None:
    peer = AutoModelForCausalLM.from_pretrained(default_model_folder, dtype=torch.float32)
    with torch.no_grad():
        logits = peer(torch.from_numpy(default_model.to_tokens("The capital of France is"))).logits[0, -1]
    _, _, word, probability = tables(report)[1]["rows"][-1]
    assert word == default_model.to_str_tokens([int(logits.argmax())])[0] == " Paris"
    assert probability == pytest.approx(float(logits.softmax(dim=-1).max()), rel=1e-4)


def test_multiply_adds_are_what_torch_counts(report: list[dict[str, Any]], default_model_folder: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    peer = AutoModelForCausalLM.from_pretrained(default_model_folder, dtype=torch.float32, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        peer(torch.zeros((1, 5), dtype=torch.long))
    counted = sum(int(count.replace(",", "")) for _, count, _ in tables(report)[2]["rows"])
    assert counter.get_total_flops() == 2 * counted


def test_every_step_names_its_line_and_its_numbers(report: list[dict[str, Any]], default_model: tinymi.Model) -> None:
    steps = {item["name"]: item for item in report if item["kind"] == "step"}
    pattern = steps["blocks.23.attn.hook_pattern"]
    assert pattern["code"] == "pattern = tap('pattern', softmax(scores))"
    _, cache = default_model.run_with_cache(default_model.to_tokens("The capital of France is"))
    expected = cache["pattern", 23][0].swapaxes(0, 1)  # [query_pos, n_heads, key_pos]
    np.testing.assert_allclose(pattern["numbers"], expected, atol=1e-3)
    assert "linear(x, w.W_Q, w.b_Q)" in steps["blocks.23.attn.hook_q"]["code"]


@pytest.mark.parametrize("name", ["llama-free-head", "llama-mqa", "qwen2-gqa2", "qwen3-free-head", "llama-bf16"])
@pytest.mark.parametrize("weights", ["loaded", "mapped"])
def test_watching_changes_nothing_and_misses_no_matmul(name: str, weights: Any, tmp_path: Path) -> None:
    model, tokens = tinymi.load(save_variant(tmp_path, name), weights=weights), random_tokens(1, 7)
    logits, cache = model.run_with_cache(tokens)
    steps = watch(model, tokens)
    assert list(steps) == [point for point in cache if not point.endswith("hook_result")]
    assert np.array_equal(steps["unembed.hook_out"].value, logits)
    assert sum(len(step.matmuls) for step in steps.values()) == 9 * model.config.n_layers + 1
    for step in steps.values():
        for left, right in step.matmuls:
            (_, n), (_, m), (_, k) = sized(FACTORS[step.hook.point.short], model, 7)
            assert {left[-2:], right[-2:]} <= {(n, m), (m, k), (m, n), (k, m)}


def test_other_models_and_prompts(tiny_folder: Path, tmp_path: Path) -> None:
    for prompt in ("x", "word " * 60):
        lesson_json(NAME, tmp_path, "--model", str(tiny_folder), prompt, "--layer", "1")
    lesson_json(NAME, tmp_path, "--model", str(save_variant(tmp_path / "model", "qwen3-free-head")), "abcdefg")


def test_what_cannot_be_is_refused(tiny_folder: Path) -> None:
    assert "0 or more" in refusal(NAME, "--model", str(tiny_folder), "--layer", "-1")
    assert "no tokens" in refusal(NAME, "--model", str(tiny_folder), "")
