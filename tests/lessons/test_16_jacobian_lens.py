"""Lesson 16: rows of its average Jacobians against torch's autograd; what its deeper file holds up."""

from pathlib import Path
from typing import Any

from tests.running import default_lesson_json, lesson_json
from tests.variants import hugging_face
from tinymi import Model
from tinymi.teaching import prompts

import numpy as np
import pytest
import torch

LESSON, DEEPER = "16_jacobian_lens", "deeper/16_jacobian_lens"


@pytest.fixture(scope="module")
def reference(default_model_folder: Path) -> Any:
    return hugging_face(default_model_folder)


def average_rows(reference: Any, model: Model, texts: list[str], layer: int) -> Any:
    """By autograd: the first three rows of the Jacobian at the twelfth token, averaged over texts: [3, d_model]."""
    last: list[Any] = []
    handle = reference.model.norm.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    rows = []
    for text in texts:
        tokens = torch.from_numpy(model.to_tokens(text)[:, :12])
        early = reference(tokens, output_hidden_states=True).hidden_states[layer]
        for i in range(3):
            (d_early,) = torch.autograd.grad(last[-1][0, -1, i], early, retain_graph=True)
            rows.append(d_early[0, -1].numpy())
    handle.remove()
    return np.reshape(rows, (len(texts), 3, -1)).mean(axis=0)


def texts() -> list[str]:
    return [line[0].replace(r"\n", "\n") for line in prompts("lens_train")]


def test_a_tiny_random_model(small_folder: Path, tmp_path: Path) -> None:
    lesson_json(LESSON, tmp_path, "--model", str(small_folder))


def test_the_lens(reference: Any, default_model: Model, tmp_path: Path) -> None:
    lesson = default_lesson_json(LESSON, tmp_path)
    expected = average_rows(reference, default_model, texts()[::4][:4], lesson["layers"][0])
    np.testing.assert_allclose(lesson["jacobian"], expected, atol=3e-3 * np.abs(expected).max())
    states: list[Any] = []
    with torch.no_grad():
        tokens = torch.from_numpy(default_model.to_tokens("The capital of France is"))
        states.extend(reference(tokens, output_hidden_states=True).hidden_states)
        for layer, row in zip(lesson["layers"], lesson["words"], strict=True):
            best = int(reference.lm_head(reference.model.norm(states[layer][0, -1])).argmax())
            assert row["logit lens"] == default_model.to_str_tokens([best])[0]
    assert [row["Jacobian"] == " Paris" for row in lesson["words"]] == [False] + 6 * [
        True
    ]  # once head 23.4 has written
    assert all(row["logit lens"] != " Paris" for row in lesson["words"])
    shares = lesson["shares"]
    assert max(shares["shuffled"]) < 0.1 < shares["Jacobian"][0] < 0.5 < shares["Jacobian"][-1]


def test_what_holds(reference: Any, default_model: Model, tmp_path: Path) -> None:
    deeper = default_lesson_json(DEEPER, tmp_path)
    assert all(finding["established"] for finding in deeper["findings"])
    assert len(deeper["findings"]) == 5
    expected = average_rows(reference, default_model, texts()[::5][:6], deeper["rows"][0])
    np.testing.assert_allclose(deeper["jacobian"], expected, atol=1e-2 * np.abs(expected).max())
    before, after = (deeper["rows"].index(layer) for layer in (23, 24))
    logit_lens, _, jacobian, _, translator = (np.median(ranks, axis=-1) for ranks in deeper["ranks"])
    assert jacobian[after] < 5 < 10 < translator[after] < 100 < jacobian[before]
    with torch.no_grad():
        ranks = []
        for country, capital in prompts("capitals"):
            tokens = torch.from_numpy(default_model.to_tokens(f"The capital of {country} is"))
            out = reference(tokens, output_hidden_states=True)
            if int(out.logits[0, -1].argmax()) in deeper["capitals"]:
                logits = reference.lm_head(reference.model.norm(out.hidden_states[24][0, -1]))
                own = int(out.logits[0, -1].argmax())
                if default_model.to_str_tokens([own]) == [capital]:
                    ranks.append(1 + int((logits > logits[own]).sum()))
    assert len(ranks) == len(deeper["capitals"])
    assert logit_lens[after] == pytest.approx(np.median(ranks), rel=0.01)
