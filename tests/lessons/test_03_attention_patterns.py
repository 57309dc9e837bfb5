"""Lesson 3: its patterns, the path through the keys and its losses, against Hugging Face; its deeper findings."""

from pathlib import Path
from typing import Any

from tests.lessons.analyses import without_heads
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face, save_variant

import numpy as np
import pytest
import torch

LESSON, DEEPER = "03_attention_patterns", "deeper/03_attention_patterns"
TEXT = " Alice Cooper met Peter Smith Alice Cooper met Peter"


def item(lesson: dict[str, Any], kind: str, number: int = 0) -> dict[str, Any]:
    return [dict(entry) for entry in lesson["report"] if entry["kind"] == kind][number]


@pytest.mark.parametrize("prompt", ["abc", "aaaaaa", "\x1b[31m\u202e \n|<b>", "The capital of France is"])
def test_any_prompt_on_a_tiny_random_model(prompt: str, tiny_folder: Path, tmp_path: Path) -> None:
    lesson = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), prompt)
    assert "\x1b" not in lesson["stdout"]


@pytest.mark.parametrize("prompt", ["", "a", "a" * 101])
def test_a_prompt_of_the_wrong_length_is_one_line_and_status_2(prompt: str, tiny_folder: Path) -> None:
    assert "3 to 100" in refusal(LESSON, "--model", str(tiny_folder), "--prompt", prompt)


@pytest.mark.parametrize("variant", ["qwen2-tied-mqa", "qwen3-free-head"])
def test_other_families(variant: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", variant)
    lesson_json(LESSON, tmp_path, "--model", str(folder))
    deeper = lesson_json(DEEPER, tmp_path, "--model", str(folder))
    assert not any(finding["established"] for finding in deeper["findings"] if "copying" in finding["text"])


@pytest.fixture(scope="module")
def lesson(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("03"))


@pytest.fixture(scope="module")
def deeper(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(DEEPER, tmp_path_factory.mktemp("03_deeper"))


def test_patterns_and_kinds(lesson: dict[str, Any], default_model_folder: Path, default_model: Any) -> None:
    ids = default_model.to_tokens(TEXT)[0]
    with torch.no_grad():
        out = hugging_face(default_model_folder)(torch.from_numpy(ids[None]), output_attentions=True)
    patterns = np.stack([pattern[0].numpy() for pattern in out.attentions])  # [n_layers, n_heads, query, key]
    for layer, pattern in item(lesson, "attention")["patterns"].items():
        np.testing.assert_allclose(pattern, patterns[int(layer)], atol=1e-4)
    places = {
        "first": [(query, 0) for query in range(1, 9)],
        "self": [(query, query) for query in range(1, 9)],
        "prev": [(query, query - 1) for query in range(2, 9)],
        "copy": [(query, query - 5) for query in range(6, 9)],  # the first copy is at position 0, which is "first"
        "next": [(query, query - 4) for query in range(5, 9)],
    }
    for kind, n_main, best in item(lesson, "table")["rows"]:
        share = np.mean([patterns[:, :, query, key] for query, key in places[kind]], axis=0)
        assert n_main == (share > 0.5).sum()
        head, value = best.replace("(", "").replace(")", "").split(",")[0].split()
        assert divmod(int(share.argmax()), 9) == tuple(map(int, head.split(".")))
        assert float(value) == pytest.approx(share.max(), abs=0.006)


def test_the_note_in_the_keys(lesson: dict[str, Any], default_model_folder: Path, default_model: Any) -> None:
    """Head 16.0's write is taken out of the input of layer 17's k_proj, and of nothing else."""
    reference = hugging_face(default_model_folder)
    layers, tokens = reference.model.layers, torch.from_numpy(default_model.to_tokens(TEXT))
    z: list[Any] = []
    handle = layers[16].self_attn.o_proj.register_forward_pre_hook(lambda module, args: z.append(args[0][..., :64]))
    with torch.no_grad():
        resid = reference(tokens, output_hidden_states=True).hidden_states[17]
        write = z[0] @ layers[16].self_attn.o_proj.weight[:, :64].T
        swapped = layers[17].input_layernorm(resid - write)
        handle.remove()
        layers[17].self_attn.k_proj.register_forward_pre_hook(lambda module, args: (swapped,))
        attention = reference(tokens, output_attentions=True).attentions[17][0, 5, -1, 4]
    bars = item(lesson, "bars")
    assert bars["labels"][:2] == ["with all heads", "without 16.0"]
    before, without, *others = bars["series"][""]
    assert without == pytest.approx(float(attention), abs=1e-3)
    assert without < 0.05 < 0.7 < min(others) < before  # no other head holds this note


def halves(reference: Any, rows: Any) -> Any:
    """[sequence, 2]: the mean loss of each half without its first token, through transformers."""
    with torch.no_grad():
        log_p = torch.log_softmax(reference(rows).logits[:, :-1].double(), dim=-1)
    loss = -log_p.gather(-1, rows[:, 1:, None])[..., 0]
    return loss.unflatten(1, (2, -1))[:, :, 1:].mean(dim=2)


def test_silent_heads(lesson: dict[str, Any], default_model_folder: Path, default_model: Any) -> None:
    reference = hugging_face(default_model_folder)
    random = np.random.default_rng(0).choice(49152, 40, replace=False)
    rows = torch.from_numpy(np.concatenate([default_model.to_tokens(TEXT)[0, :1], random, random])[None])
    for _, heads, *loss, _ in item(lesson, "table", 1)["rows"]:
        by_layer: dict[int, list[int]] = {}
        for layer, head in (map(int, name.split(".")) for name in heads.split()):
            by_layer.setdefault(layer, []).append(head)
        with without_heads(reference, by_layer, default_model.config.d_head):
            np.testing.assert_allclose(loss, halves(reference, rows)[0], atol=2e-3)
    lost = [row[-1] for row in item(lesson, "table", 1)["rows"]]
    assert lost[3] > 0.4  # the writer alone
    assert abs(lost[1]) < 0.1  # the reader alone
    answers = [entry["answer"] for entry in lesson["report"] if entry["kind"] == "exercise"]
    assert answers[0] == "23.4"


def test_what_holds(deeper: dict[str, Any], default_model_folder: Path, default_model: Any) -> None:
    assert all(finding["established"] for finding in deeper["findings"])
    assert deeper["writer"] == [16, 0]
    assert sorted(deeper["readers"][:4]) == [[17, 3], [17, 4], [17, 5], [18, 6]]
    share = {n: np.mean(values) for n, values in deeper["lost_by"].items()}
    assert share["1"] < 0.2 < share["4"] < 0.5 < share["8"]
    reference = hugging_face(default_model_folder)
    rows = torch.tensor(deeper["repeated"][6:])
    before = halves(reference, rows)
    for heads, lost in (({17: [3, 4, 5], 18: [6]}, deeper["lost_by"]["4"]), ({16: [0]}, deeper["total"])):
        with without_heads(reference, heads, default_model.config.d_head):
            rise = halves(reference, rows)[:, 1] - before[:, 1]
        np.testing.assert_allclose(rise / (before[:, 0] - before[:, 1]), lost, atol=2e-3)
