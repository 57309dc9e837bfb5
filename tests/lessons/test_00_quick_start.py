"""Lesson 0: what it guesses and what a cut does, recomputed through Hugging Face; prompts of a reader's own."""

from pathlib import Path
from typing import Any

from tests.running import default_lesson_json, lesson_json, refusal, run_lesson
from tests.variants import hugging_face, save_variant
from tinymi import Model

import numpy as np
import pytest
import torch

LESSON = "00_quick_start"


def after_cut(reference: Any, tokens: torch.Tensor, layer: int, head: int, word: int, n_kv_heads: int) -> Any:
    """Probabilities of the next token when o_proj's input lacks what this head took from this word."""
    attention = reference.model.layers[layer].self_attn
    values: list[Any] = []
    keep = attention.v_proj.register_forward_hook(lambda module, args, out: values.append(out))
    with torch.no_grad():
        weight = reference(tokens, output_attentions=True).attentions[layer][0, head, -1, word]
    keep.remove()
    d_head = attention.head_dim
    group = head // (reference.config.num_attention_heads // n_kv_heads)
    taken = weight * values[0][0, word, group * d_head : (group + 1) * d_head]

    def remove(module: Any, args: Any) -> Any:
        z = args[0].clone()
        z[0, -1, head * d_head : (head + 1) * d_head] -= taken
        return (z,)

    handle = attention.o_proj.register_forward_pre_hook(remove)
    with torch.no_grad():
        logits = reference(tokens).logits[0, -1].double()
    handle.remove()
    return torch.softmax(logits, dim=-1)


def test_the_capital_of_france(default_model_folder: Path, default_model: Model, tmp_path: Path) -> None:
    lesson = default_lesson_json(LESSON, tmp_path)
    reference = hugging_face(default_model_folder)
    tokens = torch.from_numpy(default_model.to_tokens("The capital of France is"))
    with torch.no_grad():
        out = reference(tokens, output_attentions=True)
    probability = torch.softmax(out.logits[0, -1].double(), dim=-1)
    assert lesson["likeliest"] == probability.topk(5).indices.tolist()
    assert default_model.to_str_tokens(lesson["likeliest"][:1]) == [" Paris"]
    assert lesson["probability"] == pytest.approx(probability.topk(5).values.tolist(), abs=1e-4)
    looks = np.array([pattern[0, :, -1, 1:-1].numpy() for pattern in out.attentions])  # [layer, head, to]
    hardest = [np.unravel_index(i, looks.shape) for i in np.argsort(-looks, axis=None)[:5]]
    assert lesson["head"] == [f"{layer}.{head}" for layer, head, _ in hardest]
    paris = lesson["likeliest"][0]
    cuts = [float(after_cut(reference, tokens, la, h, 1 + i, 3)[paris]) for la, h, i in hardest]
    assert lesson["after_the_cut"] == pytest.approx(cuts, abs=1e-3)
    # What the lesson tells: head 23.4 reads France, the answer needs it, and the other hard looks matter far less.
    assert lesson["head"][0] == "23.4"
    assert hardest[0][2] == 2
    assert cuts[0] < 0.2
    assert min(cuts[1:]) > 0.45


@pytest.mark.parametrize("prompt", ["abc abd", "\x1b[31m\u202e \n\u200b|", "x" * 40])
def test_prompts_of_a_readers_own(prompt: str, tiny_folder: Path, tmp_path: Path) -> None:
    lesson = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), "--prompt", prompt)
    assert len(lesson["likeliest"]) == 5
    assert "\x1b" not in lesson["stdout"]


def test_another_family(tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "qwen", "qwen3-free-head")
    assert run_lesson(LESSON, "--model", str(folder)).returncode == 0


@pytest.mark.parametrize(("prompt", "problem"), [("ab", "give 3 or more"), ("a" * 1000, "512")])
def test_prompts_that_do_not_fit_are_one_line_and_status_2(prompt: str, problem: str, tiny_folder: Path) -> None:
    assert problem in refusal(LESSON, "--model", str(tiny_folder), prompt)
