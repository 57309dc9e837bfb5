"""Lesson 11 on the default model and on tiny ones: the tour tells what the run did."""

import re
from pathlib import Path
from typing import Any

from tests.running import lesson_json, refusal
from tests.variants import save_variant

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

NAME = "11_tour"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return lesson_json(NAME, tmp_path_factory.mktemp("tour"), "The Eiffel Tower is in", "--layer", "3")


def test_it_ends_where_hugging_face_ends(told: dict[str, Any], default_model_folder: Path, default_model: Any) -> None:
    peer = AutoModelForCausalLM.from_pretrained(default_model_folder, dtype=torch.float32)
    tokens = default_model.to_tokens("The Eiffel Tower is in")
    with torch.no_grad():
        expected = peer(torch.from_numpy(tokens)).logits[0, -1].softmax(dim=-1).numpy()
    best = np.argsort(-expected)[:5]
    assert [entry["token_id"] for entry in told["top"]] == best.tolist()
    np.testing.assert_allclose([entry["probability"] for entry in told["top"]], expected[best], rtol=1e-4)


def test_multiply_adds_are_what_torch_counts(told: dict[str, Any], default_model_folder: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    peer = AutoModelForCausalLM.from_pretrained(default_model_folder, dtype=torch.float32, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        peer(torch.zeros((1, 6), dtype=torch.long))
    assert counter.get_total_flops() == 2 * told["multiply_adds"]["all"]


def test_every_step_of_the_layer_is_told_with_its_line(told: dict[str, Any]) -> None:
    text = told["stdout"]
    for name in ("ln1.hook_scale", "attn.hook_q", "attn.hook_pattern", "hook_mlp_out", "hook_resid_post"):
        assert f"blocks.3.{name}\n" in text
    assert "blocks.2." not in text.split("6. What it cost")[0]
    assert "pattern = tap('pattern', softmax(scores))" in text
    assert "[pos 6, d_model 576] @ [d_model 576, n_heads*d_head 576]" in text
    assert "[query_pos 6, d_head 64] @ [d_head 64, key_pos 6], for each of 9 heads" in text
    assert len(told["steps"]) == 1 + 30 * 20 + 3
    assert len(told["layers"]) == 30


@pytest.mark.parametrize("variant", ["llama-free-head", "llama-mqa", "qwen2-gqa2", "qwen3-free-head", "llama-bf16"])
@pytest.mark.parametrize("weights", ["loaded", "mapped"])
def test_every_kind_of_model_can_be_toured(variant: str, weights: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", variant)
    found = lesson_json(NAME, tmp_path, "--model", str(folder), "--weights", weights, "--layer", "2", "abcdefg")
    assert max(len(line) for line in found["stdout"].splitlines()) <= 100
    assert re.search(r"Check passed: watching changes no logit: error 0", found["stdout"])


def test_a_long_prompt_and_one_token(tiny_folder: Path, tmp_path: Path) -> None:
    for prompt, position in (("x", "0"), ("word " * 60, "17")):
        lesson_json(NAME, tmp_path, "--model", str(tiny_folder), prompt, "--position", position)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layer", "30"], "layers 0 to 29"),
        (["--layer", "-1"], "layers 0 to 29"),
        (["--position", "6"], "positions 0 to 5"),
        (["--position", "-7"], "positions 0 to 5"),
        ([""], "no tokens"),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], words: str) -> None:
    assert words in refusal(NAME, *options)
