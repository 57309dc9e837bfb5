"""Lesson 8: its patches against Hugging Face with forward hooks, its findings with margins."""

from pathlib import Path
from typing import Any

from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Model

import numpy as np
import pytest
import torch

LESSON = "08_activation_patching"


class Patcher:
    """Activation patching in a transformers model, by forward hooks on its modules."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.reference, self.model = hugging_face(folder), model

    def module(self, site: str, layer: int) -> Any:
        block = self.reference.model.layers[layer]
        return {"resid_pre": block, "attn_out": block.self_attn, "mlp_out": block.mlp, "heads": block.self_attn.o_proj}[
            site
        ]

    def difference(self, prompt: str, pair: dict[str, Any]) -> float:
        with torch.no_grad():
            logits = self.reference(torch.from_numpy(self.model.to_tokens(prompt))).logits[0, -1].double()
        return float(
            logits[self.model.to_single_token(pair["answer"])] - logits[self.model.to_single_token(pair["wrong"])]
        )

    def share(self, pair: dict[str, Any], way: str, site: str, layer: int, index: int) -> float:
        """index: a position, or a head."""
        base, source = (pair["corrupted"], pair["clean"]) if way == "denoising" else (pair["clean"], pair["corrupted"])
        before, after = self.difference(base, pair), self.difference(source, pair)
        kept: list[Any] = []
        module, d_head = self.module(site, layer), self.model.config.d_head
        where = (
            (slice(None), slice(None), slice(index * d_head, (index + 1) * d_head))
            if site == "heads"
            else (slice(None), index)
        )

        def edit(value: Any) -> Any:
            if not kept:
                kept.append(value.clone())
                return value
            value = value.clone()
            value[where] = kept[0][where]
            return value

        if site in ("resid_pre", "heads"):
            handle = module.register_forward_pre_hook(lambda module, args: (edit(args[0]), *args[1:]))
        else:
            handle = module.register_forward_hook(
                lambda module, args, out: (edit(out[0]), *out[1:]) if isinstance(out, tuple) else edit(out)
            )
        self.difference(source, pair)  # keeps
        patched = self.difference(base, pair)
        handle.remove()
        return (patched - before) / (after - before)


def check_cells(found: dict[str, Any], patcher: Patcher, cells: list[tuple[str, int, int]], tolerance: float) -> None:
    begin = found["positions"]["first_patched"]
    for way in ("denoising", "noising"):
        for site, layer, index in cells:
            row = index if site == "heads" else index - begin
            for i, pair in enumerate(found["pairs"][:2]):
                expected = patcher.share(pair, way, site, layer, index)
                assert found[way][site][layer][row][i] == pytest.approx(expected, abs=tolerance), (
                    way,
                    site,
                    layer,
                    index,
                )


def test_a_tiny_random_model(tiny_folder: Path, tiny_model: Model, tmp_path: Path) -> None:
    own = ["--clean", "abcdef", "--corrupted", "abXdYf", "--answer", "q", "--wrong", "w"]
    found = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), *own)
    assert found["positions"]["differs"] == [2, 4]
    assert np.shape(found["denoising"]["resid_pre"]) == (2, 4, 1)
    assert np.shape(found["noising"]["heads"]) == (2, 4, 1)
    sites = [
        (site, layer, index) for site in ("resid_pre", "attn_out", "mlp_out") for layer in (0, 1) for index in (2, 3, 5)
    ]
    check_cells(found, Patcher(tiny_folder, tiny_model), [*sites, ("heads", 0, 1), ("heads", 1, 3)], 2e-3)


def test_prompts_are_found_for_any_tokenizer(tiny_folder: Path, tmp_path: Path) -> None:
    found = lesson_json(LESSON, tmp_path, "--model", str(tiny_folder), "--prompts", "4")
    assert len(found["pairs"]) == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--clean", "abc"], "belong together"),
        (["--clean", "abc", "--corrupted", "ab", "--answer", "x", "--wrong", "y"], "equal length"),
        (["--clean", "abc", "--corrupted", "abc", "--answer", "x", "--wrong", "y"], "nothing to patch"),
        (["--clean", "abc", "--corrupted", "abd", "--answer", "x", "--wrong", "x"], "the answer itself"),
        (["--clean", "abc", "--corrupted", "abd", "--answer", "xx", "--wrong", "y"], "xx"),
        (["--prompts", "7"], "even number"),
        (["--prompts", "200"], "capitals make"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(options: list[str], problem: str, tiny_folder: Path) -> None:
    assert problem in refusal(LESSON, "--model", str(tiny_folder), *options)


@pytest.fixture(scope="module")
def found(default_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("08"))


def test_the_patches_are_hugging_faces(found: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    cells = [("resid_pre", 23, 3), ("resid_pre", 24, 4), ("attn_out", 23, 4), ("mlp_out", 0, 3), ("heads", 23, 4)]
    check_cells(found, Patcher(default_model_folder, default_model), cells, 1e-3)


def test_where_the_answer_is(found: dict[str, Any]) -> None:
    assert [pair["handover"] for pair in found["pairs"]] == [24, 24, 24]
    assert all(pair["clean_diff"] > 3 > -3 > pair["corrupted_diff"] for pair in found["pairs"])
    for way in ("denoising", "noising"):
        stream = np.array(found[way]["resid_pre"])  # [layer, position, pair]
        assert stream[:23, 0].min() > 0.8
        assert stream[25:, 0].max() < 0.1
        assert stream[25:, 1].min() > 0.9
        heads = np.array(found[way]["heads"])
        assert heads[23, 4].min() > 0.7  # one head fetches nearly all of it
        assert np.abs(np.delete(heads.mean(axis=-1).ravel(), 23 * 9 + 4)).max() < 0.35
        # The first MLP's write at the word stands for the word: nothing else of the word is needed.
        assert np.array(found[way]["mlp_out"])[0, 0].min() > 0.9


def test_half_of_a_recovery_is_removal(found: dict[str, Any]) -> None:
    removal = np.array(found["unrelated"]["resid_pre"])  # [layer, position, pair]
    assert 0.35 < removal[:10, 0].mean() < 0.75
    assert [finding["established"] for finding in found["findings"]] == [True] * 3
