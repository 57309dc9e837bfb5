"""Lesson 12: each claim and each control again through Hugging Face, and that the control empties the claim."""

from pathlib import Path
from typing import Any

from tests.checkpoints import save_tiny
from tests.running import default_lesson_json, refusal, run_lesson
from tests.variants import hugging_face
from tinymi import Model
from tinymi.teaching import prompts

import numpy as np
import pytest
import torch

LESSON = "12_fooling_yourself"


@pytest.fixture(scope="module")
def lesson(default_model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("12"))


@pytest.fixture(scope="module")
def reference(default_model_folder: Path) -> Any:
    return hugging_face(default_model_folder)


def bars(lesson: dict[str, Any], caption: str) -> list[float]:
    (item,) = [item for item in lesson["report"] if item["kind"] == "bars" and item["caption"].startswith(caption)]
    return list(item["series"][""])


def components(reference: Any, tokens: Any) -> Any:
    """Embedding, attention and MLP of each layer at the last position, as the head reads them: [component, d_model]."""
    parts: list[Any] = []
    handles = [reference.model.embed_tokens.register_forward_hook(lambda module, args, out: parts.append(out))]
    for layer in reference.model.layers:
        handles.append(layer.self_attn.register_forward_hook(lambda module, args, out: parts.append(out[0])))
        handles.append(layer.mlp.register_forward_hook(lambda module, args, out: parts.append(out)))
    with torch.no_grad():
        reference(torch.from_numpy(tokens))
    for handle in handles:
        handle.remove()
    stacked = torch.stack([part[0, -1] for part in parts]).double()
    scale = (stacked.sum(0) ** 2).mean().add(reference.config.rms_norm_eps).sqrt()
    return (stacked / scale * reference.model.norm.weight.double()).detach()


def test_components_and_late_writing(lesson: dict[str, Any], reference: Any, default_model: Model) -> None:
    counts: dict[str, list[int]] = {}
    late = []
    unembed = reference.lm_head.weight.double().detach()
    for kind, prompt, answer, foil in prompts("fooling_yourself"):
        parts = components(reference, default_model.to_tokens(prompt))
        direction = unembed[default_model.to_single_token(answer)] - unembed[default_model.to_single_token(foil)]
        shares = parts @ direction
        if shares.sum() > 0:
            sizes = shares.abs().sort(descending=True).values.cumsum(0)
            counts.setdefault(kind, []).append(int((sizes < 0.8 * sizes[-1]).sum()) + 1)
            late.append(float(shares[-20:].abs().sum() / shares.abs().sum()))
    needed = bars(lesson, "components")
    assert needed == pytest.approx([np.mean(values) for values in counts.values()], abs=0.2)  # a tie may fall
    places, phrases, others = needed
    assert places < phrases - 1.5  # the claim
    assert others > phrases - 0.5  # the control
    answer_late, random_late = bars(lesson, "written by")
    assert answer_late == pytest.approx(np.mean(late), abs=1e-3)
    assert abs(answer_late - random_late) < 0.1 < random_late - 1 / 3


def test_keys(lesson: dict[str, Any]) -> None:
    alone, weighted = bars(lesson, "last third")
    assert alone < 0.65  # the values are tested with lesson 2
    assert abs(weighted - 1) < 0.05


def test_attention_and_lens(lesson: dict[str, Any], reference: Any, default_model: Model) -> None:
    attention, lens = [item["rows"] for item in lesson["report"] if item["kind"] == "table"]
    for (prompt, to_country, to_first, paris), country in zip(attention, (0, 2), strict=True):
        with torch.no_grad():
            out = reference(torch.from_numpy(default_model.to_tokens(prompt)), output_attentions=True)
        looks = torch.stack(out.attentions)[:, 0, :, -1].mean((0, 1))
        assert [to_country, to_first] == pytest.approx([float(looks[country]), float(looks[0])], abs=1e-4)
        expected = torch.softmax(out.logits[0, -1], dim=-1)[default_model.to_single_token(" Paris")]
        assert paris == pytest.approx(float(expected), abs=1e-3)
    assert attention[0][1] > 0.5 > 0.1 > attention[1][1]
    assert attention[0][3] < 0.1 < 0.4 < attention[1][3]
    with torch.no_grad():
        states = reference(
            torch.from_numpy(default_model.to_tokens("The Eiffel Tower is in")), output_hidden_states=True
        ).hidden_states
        for layer, says, sure, _, noise in lens:
            best = torch.softmax(reference.lm_head(reference.model.norm(states[layer + 1][0, -1])), dim=-1).max(0)
            assert sure == pytest.approx(float(best.values), abs=1e-3)
            assert default_model.to_str_tokens([int(best.indices)]) == [says]
            assert 0.3 < noise < 0.7


def test_the_first_mlp(lesson: dict[str, Any], reference: Any, default_model: Model) -> None:
    kept: dict[str, Any] = {}
    paris, rome = (default_model.to_single_token(word) for word in (" Paris", " Rome"))

    def run(prompt: str, write: Any = None) -> float:
        def hook(module: Any, args: Any, out: Any) -> Any:
            kept[prompt] = out.clone()
            if write is not None:
                out[0, -2] = write
            return out

        handle = reference.model.layers[0].mlp.register_forward_hook(hook)
        with torch.no_grad():
            logits = reference(torch.from_numpy(default_model.to_tokens(prompt))).logits[0, -1]
        handle.remove()
        return float(logits[paris] - logits[rome])

    clean, aunt, italy = "The capital of France is", "My aunt lives in France", "The capital of Italy is"
    run(clean)
    run(aunt)
    expected = [run(italy), run(italy, kept[clean][0, -2]), run(italy, kept[aunt][0, -1])]
    assert bars(lesson, "Paris") == pytest.approx(expected, abs=1e-2)
    assert expected[0] < -5 < 5 < expected[2]


@pytest.mark.parametrize("name", [LESSON, "deeper/02_inspect_weights"])
def test_another_family_that_knows_the_words(name: str, default_model_folder: Path, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "qwen", "qwen3", vocab_size=49152, num_hidden_layers=3)
    (folder / "tokenizer.json").write_bytes((default_model_folder / "tokenizer.json").read_bytes())
    done = run_lesson(name, "--model", str(folder))
    assert done.returncode == 0, done.stderr


def test_a_tokenizer_without_the_words_is_one_line_and_status_2(tiny_folder: Path) -> None:
    assert "choose a text that is a single token" in refusal(LESSON, "--model", str(tiny_folder))
