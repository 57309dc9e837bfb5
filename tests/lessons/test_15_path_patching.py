"""Lesson 15: its patches of keys and of paths, each recomputed with transformers; what its deeper file holds up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Model

import numpy as np
import pytest
import torch

LESSON, DEEPER = "15_path_patching", "deeper/15_path_patching"
CLEAN = " Alice Cooper met Peter Smith. Alice Cooper met Peter"
CORRUPTED = " Peter Cooper met Alice Smith. Alice Cooper met Peter"


class Run:
    """A prompt through transformers: what enters each layer and its heads' z, and what it says of two answers."""

    def __init__(self, reference: Any, tokens: Any, answers: list[int]) -> None:
        self.reference, self.tokens, self.answers = reference, torch.from_numpy(tokens), answers
        self.z: list[Any] = []
        handles = [
            layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: self.z.append(args[0]))
            for layer in reference.model.layers
        ]
        with torch.no_grad():
            out = reference(self.tokens, output_hidden_states=True)
        for handle in handles:
            handle.remove()
        self.streams = out.hidden_states
        self.difference = self.of(out.logits)

    def of(self, logits: Any) -> float:
        return float(logits[0, -1, self.answers[0]] - logits[0, -1, self.answers[1]])

    def with_projection(self, letter: str, layer: int, heads: Any, other: Any) -> float:
        """The difference when some heads' part of one projection, 64 numbers each, comes from another array."""

        def put(module: Any, args: Any, out: Any) -> Any:
            out = out.unflatten(-1, (-1, 64)).clone()
            out[:, :, heads] = other.unflatten(-1, (-1, 64))[:, :, heads]
            return out.flatten(2)

        projection = getattr(self.reference.model.layers[layer].self_attn, f"{letter}_proj")
        handle = projection.register_forward_hook(put)
        with torch.no_grad():
            logits = self.reference(self.tokens).logits
        handle.remove()
        return self.of(logits)

    def project(self, letter: str, layer: int, stream: Any) -> Any:
        block = self.reference.model.layers[layer]
        with torch.no_grad():
            return getattr(block.self_attn, f"{letter}_proj")(block.input_layernorm(stream))


def path(clean: Run, corrupted: Run, sender: tuple[int, int], reader: tuple[str, int, Any]) -> float:
    """How far one path moves the answer: 0 is the clean run, 1 the corrupted one."""
    (i, head), (letter, layer, heads) = sender, reader
    part = slice(64 * head, 64 * (head + 1))
    W_O = clean.reference.model.layers[i].self_attn.o_proj.weight[:, part].detach()
    stream = clean.streams[layer] + (corrupted.z[i] - clean.z[i])[:, :, part] @ W_O.T
    patched = clean.with_projection(letter, layer, heads, clean.project(letter, layer, stream))
    return (clean.difference - patched) / (clean.difference - corrupted.difference)


@pytest.fixture(scope="module")
def make_run(default_model_folder: Path) -> Callable[..., Run]:
    reference = hugging_face(default_model_folder)
    return lambda tokens, answers: Run(reference, tokens, answers)


def test_a_tiny_random_model(small_folder: Path, tmp_path: Path) -> None:
    lesson = lesson_json(LESSON, tmp_path, "--model", str(small_folder))
    assert lesson["reader"][0] == 1


@pytest.mark.parametrize("options", [["--clean", " Peter"], ["--corrupted", CLEAN], ["--wrong", " Smith"]])
def test_prompts_that_make_no_pair_are_one_line_and_status_2(options: list[str], small_folder: Path) -> None:
    assert "two different prompts of equal length" in refusal(LESSON, "--model", str(small_folder), *options)


def test_the_paths(make_run: Callable[..., Run], default_model: Model, tmp_path: Path) -> None:
    lesson = default_lesson_json(LESSON, tmp_path)
    answers = [default_model.to_single_token(name) for name in (" Smith", " Cooper")]
    clean, corrupted = (make_run(default_model.to_tokens(prompt), answers) for prompt in (CLEAN, CORRUPTED))
    whole, scale = lesson["whole"], clean.difference - corrupted.difference
    for layer, key_head in ((1, 1), (17, 1), (18, 2), (29, 0)):
        keys = corrupted.project("k", layer, corrupted.streams[layer])
        patched = clean.with_projection("k", layer, key_head, keys)
        assert whole[layer][key_head] == pytest.approx((clean.difference - patched) / scale, abs=2e-3)
    assert (lesson["reader"], lesson["sender"]) == ([18, 2], [16, 0])
    for sender in ((16, 0), (10, 5), (0, 3), (17, 8)):
        value = path(clean, corrupted, sender, ("k", 18, 2))
        assert lesson["paths"][sender[0]][sender[1]] == pytest.approx(value, abs=2e-3)
    readers: list[tuple[str, int, Any]] = [
        ("k", 18, 2),
        ("v", 18, 2),
        ("q", 18, slice(6, 9)),
        ("k", 18, 0),
        ("k", 18, 1),
    ]
    by = [path(clean, corrupted, (16, 0), reader) for reader in readers]
    assert lesson["by"] == pytest.approx(by, abs=2e-3)
    others = [value for row in lesson["paths"] for value in row if value != lesson["paths"][16][0]]
    assert by[0] > 0.4 > 0.1 > max(others)
    assert max(by[1:]) < 0.05


def test_what_holds(make_run: Callable[..., Run], tmp_path: Path) -> None:
    deeper = default_lesson_json(DEEPER, tmp_path)
    assert [finding["established"] for finding in deeper["findings"]] == [True] * 5
    assert deeper["top"] == [16, 0, 18, 2]
    moves = []
    for tokens in np.array(deeper["new"]):
        corrupted, answers = tokens.copy(), [int(tokens[8]), int(tokens[4])]
        corrupted[[3, 7]] = tokens[[7, 3]]
        clean, other = (make_run(prompt[None], answers) for prompt in (tokens, corrupted))
        way = clean.difference - other.difference
        moves.append([way * path(clean, other, (16, 0), (letter, 18, 2)) for letter in "kv"] + [way])
    by_k, by_v, ways = np.transpose(moves)
    assert deeper["on_new"][0] == pytest.approx(by_k / ways.mean(), abs=3e-3)
    assert deeper["by_v"] == pytest.approx(by_v / ways.mean(), abs=3e-3)
    assert np.mean(deeper["on_new"][0]) > 0.2 > 0.05 > abs(np.mean(deeper["sham"]))
    assert deeper["paths_q"][0] == [23, 3, 24, 4]
    assert np.mean(deeper["moves_q"][0]) < -0.2
    assert np.abs(np.mean(deeper["random_q"], axis=1)).max() < 0.02
