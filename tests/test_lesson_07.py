"""Lesson 7: its shares against Hugging Face's attentions and a plain loop, its findings with margins."""

from pathlib import Path
from typing import Any

from tests.analyses import without_heads
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Model

import numpy as np
import pytest
import torch

LESSON = "07_attention_patterns"


def attentions(reference: Any, tokens: list[int]) -> Any:
    """By transformers: [n_layers, n_heads, query, key]."""
    with torch.no_grad():
        out = reference(torch.tensor([tokens]), output_attentions=True)
    return torch.stack([layer[0] for layer in out.attentions]).double().numpy()


def share(pattern: Any, tokens: list[int], kind: str, first_row: int = 1) -> Any:
    """The share of one kind of key, row by row, [n_layers, n_heads]; where two kinds fit, the plainer one counts."""
    rows, total = 0, np.zeros(pattern.shape[:2])
    for query in range(first_row, len(tokens)):
        plainer = {0, query, query - 1}
        copies = [key for key in range(query) if tokens[key] == tokens[query]]
        keys = {
            "sink": [0],
            "itself": [query],
            "previous": [query - 1] if query > 1 else [],
            "duplicate": [key for key in copies if key not in plainer],
            "induction": [key + 1 for key in copies if key + 1 not in plainer and key + 1 not in copies],
        }[kind]
        if keys:
            rows += 1
            total += pattern[:, :, query, keys].sum(axis=-1)
    return total / max(rows, 1)


def check_shares(found: dict[str, Any], reference: Any, n_layers: int, n_heads: int) -> None:
    tokens = found["prompt"]["tokens"]
    pattern = attentions(reference, tokens)
    repeated = found["random_tokens"]["repeated"]
    first = found["random_tokens"]["first_scored"]
    on_random = [attentions(reference, row) for row in repeated]
    for kind in ("sink", "itself", "previous", "duplicate", "induction"):
        expected = share(pattern, tokens, kind)
        mine = [share(p, row, kind, first) for p, row in zip(on_random, repeated, strict=True)]
        for entry in found["heads"]:
            at = entry["layer"], entry["head"]
            if found["prompt"]["rows"][kind]:
                assert entry["prompt"][kind] == pytest.approx(expected[at], abs=1e-4)
            assert entry["random"][kind] == pytest.approx(np.mean([m[at] for m in mine]), abs=1e-3)
    assert len(found["heads"]) == n_layers * n_heads


def test_a_tiny_random_model(tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    found = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), "--prompt", "abracadabra abracadabra")
    check_shares(found, hugging_face(tiny_folder), 2, 4)
    assert found["passing"].keys() == {"sink", "itself", "previous", "duplicate", "induction", "sham"}


@pytest.mark.parametrize("prompt", ["", "abc"])
def test_a_prompt_that_is_too_short_is_one_line_and_status_2(prompt: str, tiny_folder: Path) -> None:
    refusal(LESSON, "--model", str(tiny_folder), "--prompt", prompt)


@pytest.fixture(scope="module")
def found(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("07"))


def test_the_shares_are_hugging_faces(found: dict[str, Any], default_model_folder: Path) -> None:
    check_shares(found, hugging_face(default_model_folder), 30, 9)


def test_the_sink(found: dict[str, Any]) -> None:
    sink = found["sink"]
    assert min(word["at_0"] for word in sink["words"]) > 4 * sink["even_at_0"]
    assert max(word["at_1"] for word in sink["words"]) < 0.5 * sink["even_at_1"]
    assert sink["head_correlation"] > 0.95
    assert sum(row["mean_top_position"] == 0 for row in found["last_token"]) >= 20


def test_heads_with_a_label(found: dict[str, Any]) -> None:
    labels = {entry["name"]: entry["labels"] for entry in found["heads"]}
    assert labels["16.0"] == ["previous"]
    assert all(labels[head] == ["induction"] for head in ("17.3", "17.4", "17.5", "18.6"))
    assert all(labels[head] == ["duplicate"] for head in ("5.6", "8.0", "14.3"))
    heads = {entry["name"]: entry for entry in found["heads"]}
    for head in ("17.4", "18.6"):
        assert heads[head]["random"]["induction"] > 0.8
        assert heads[head]["control"]["induction"] < 0.05
    assert heads["16.0"]["control"]["previous"] > 0.8  # needs no repetition
    assert found["passing"]["sham"] == 0


def test_without_induction_heads_the_model_copies_no_more(
    found: dict[str, Any], default_model_folder: Path, default_model: Model
) -> None:
    ablation = found["ablation"]
    assert ablation["together"]["interval"][0] > 3
    assert abs(np.mean(ablation["together"]["first"])) < 0.5
    assert max(draw["second"] for draw in ablation["random"]) < 1
    assert all(finding["established"] for finding in found["findings"])
    # The same heads taken out of transformers' model: their slices of o_proj's input at zero.
    reference = hugging_face(default_model_folder)
    heads: dict[int, list[int]] = {}
    for name in ablation["heads"]:
        layer, head = map(int, name.split("."))
        heads.setdefault(layer, []).append(head)
    tokens = torch.tensor(found["random_tokens"]["repeated"])
    half = tokens.shape[1] // 2

    def loss() -> Any:
        with torch.no_grad():
            log_p = torch.log_softmax(reference(tokens).logits[:, half + 1 : -1].double(), dim=-1)
        return -log_p.gather(-1, tokens[:, half + 2 :, None])[..., 0].mean(dim=1)

    before = loss()
    with without_heads(reference, heads, default_model.config.d_head):
        np.testing.assert_allclose(loss() - before, ablation["together"]["second"], atol=2e-3)
