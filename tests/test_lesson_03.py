"""Lesson 3: its shares and effects against Hugging Face, its findings on the default model with margins."""

from pathlib import Path
from typing import Any

from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Model
from tinymi.arrays import Tokens

import numpy as np
import pytest
import torch

EIFFEL = "The Eiffel Tower is in"


def written(folder: Path, ids: Tokens, removed: str | None = None) -> tuple[dict[str, Any], Any, Any]:
    """By transformers: what every component writes at the last position, the logits there, and the final norm's input.

    removed: a component whose write at the last position is set to zero.
    """
    model = hugging_face(folder)
    parts: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            value = (output[0] if isinstance(output, tuple) else output).clone()
            if name == removed:
                value[:, -1] = 0
            parts[name] = value[0, -1].double()
            return (value, *output[1:]) if isinstance(output, tuple) else value

        return hook

    model.model.embed_tokens.register_forward_hook(keep("embed"))
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.register_forward_hook(keep(f"{i}.attn_out"))
        layer.mlp.register_forward_hook(keep(f"{i}.mlp_out"))
    with torch.no_grad():
        logits = model(torch.from_numpy(ids)).logits[0, -1].double()
    return parts, logits, model.requires_grad_(False)


def shares_by_hugging_face(folder: Path, ids: Tokens, answer: int, foil: int) -> tuple[dict[str, float], float]:
    parts, logits, model = written(folder, ids)
    final = torch.stack(list(parts.values())).sum(dim=0)
    scale = torch.sqrt((final**2).mean() + model.config.rms_norm_eps)
    rows = model.lm_head.weight.double()
    direction = model.model.norm.weight.double() * (rows[answer] - rows[foil]) / scale
    return {name: float(part @ direction) for name, part in parts.items()}, float(logits[answer] - logits[foil])


def check_prompt(entry: dict[str, Any], folder: Path, model: Model) -> None:
    """One entry of prompts[] against Hugging Face."""
    answer, foil = model.to_single_token(entry["answer"]), model.to_single_token(entry["foil"])
    expected, difference = shares_by_hugging_face(folder, model.to_tokens(entry["prompt"]), answer, foil)
    found = {c["name"]: c["contribution"] for c in entry["components"] if "head" not in c["name"]}
    assert found.keys() == expected.keys()
    scale = sum(map(abs, expected.values()))
    assert max(abs(found[name] - expected[name]) for name in expected) < 1e-5 * scale
    assert entry["logit_diff"] == pytest.approx(difference, abs=1e-5 * scale)
    assert entry["sum"] == pytest.approx(difference, abs=1e-5 * scale)
    sizes = sorted(map(abs, expected.values()), reverse=True)
    k = entry["localisation"]
    assert sum(sizes[:k]) >= 0.8 * scale * (1 - 1e-5)
    assert sum(sizes[: k - 1]) <= 0.8 * scale * (1 + 1e-5)


def heads_of(entry: dict[str, Any]) -> dict[str, float]:
    return {c["name"]: c["contribution"] for c in entry["components"] if ".head." in c["name"]}


def test_a_tiny_random_model(tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    options = ["--prompt", "abcabc", "--answer", "a", "--foil", "z"]
    found = lesson_json("03_logit_attribution", tmp_path, "--model", str(tiny_folder), *options)
    entry = found["prompts"][0]
    assert (entry["prompt"], entry["answer"], entry["foil"]) == ("abcabc", "a", "z")
    for shown in found["prompts"][:4]:
        check_prompt(shown, tiny_folder, tiny_model)
    parts = {c["name"]: c["contribution"] for c in entry["components"]}
    for layer in range(2):
        heads = sum(parts[f"{layer}.head.{head}"] for head in range(4))
        assert heads == pytest.approx(parts[f"{layer}.attn_out"], abs=1e-5)
    tokens = tiny_model.to_tokens("abcabc")
    answer, foil = tiny_model.to_single_token("a"), tiny_model.to_single_token("z")
    for effect in found["effects"]:
        _, logits, _ = written(tiny_folder, tokens, removed=effect["name"])
        total = entry["logit_diff"] - float(logits[answer] - logits[foil])
        assert effect["total"] == pytest.approx(total, abs=1e-4)
        assert effect["direct"] + effect["later layers"] + effect["norm"] == pytest.approx(effect["total"], abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [["--answer", "two words"], ["--foil", "abc"], ["--answer", "x", "--foil", "x"], ["--prompt", ""]],
    ids=["two tokens", "foil of three", "the same", "no prompt"],
)
def test_wrong_options_are_one_line_and_status_2(tiny_folder: Path, options: list[str]) -> None:
    refusal("03_logit_attribution", "--model", str(tiny_folder), *options)


@pytest.fixture(scope="module")
def found(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json("03_logit_attribution", tmp_path_factory.mktemp("03"))


def test_the_shares_are_hugging_faces(found: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    for entry in found["prompts"][:4]:
        check_prompt(entry, default_model_folder, default_model)


def test_the_eiffel_tower(found: dict[str, Any]) -> None:
    entry = found["prompts"][0]
    assert (entry["prompt"], entry["answer"], entry["foil"]) == (EIFFEL, " Paris", " London")
    assert entry["logit_diff"] == pytest.approx(3.54, abs=0.05)
    parts = {c["name"]: c["contribution"] for c in entry["components"]}
    assert parts["23.attn_out"] > 1
    assert max(heads_of(entry).items(), key=lambda item: item[1])[0] == "23.head.4"
    read = {row["head"]: row for row in found["heads_read"]}["23.4"]
    assert "iffel" in read["token"]
    assert read["weight"] > 0.3


def test_what_a_removal_does(found: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    effects = {row["name"]: row for row in found["effects"]}
    tokens = default_model.to_tokens(EIFFEL)
    answer, foil = default_model.to_single_token(" Paris"), default_model.to_single_token(" London")
    for name in ("0.mlp_out", "23.attn_out", "26.mlp_out"):
        _, logits, _ = written(default_model_folder, tokens, removed=name)
        total = found["prompts"][0]["logit_diff"] - float(logits[answer] - logits[foil])
        assert effects[name]["total"] == pytest.approx(total, abs=1e-3)
    # Surprising: the first MLP writes next to nothing along the direction, and is needed most of all.
    assert abs(effects["0.mlp_out"]["direct"]) < 0.3
    assert effects["0.mlp_out"]["total"] > 3
    assert effects["26.mlp_out"]["direct"] < -0.5
    assert abs(effects["26.mlp_out"]["total"]) < 0.2  # the layers above make up for it


def test_findings(found: dict[str, Any]) -> None:
    assert [finding["established"] for finding in found["findings"]] == [True, True, True]
    figures = found["localisation"]
    assert np.mean(figures["phrases"]) - np.mean(figures["facts"]) > 1
    assert min(len(figures["phrases"]), len(figures["facts"])) >= 8
    assert max(found["direct_and_total"]["rho"].values()) < 0.45
    assert found["direct_and_total"]["zero_and_mean"] > 0.55
