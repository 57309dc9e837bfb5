"""Lesson 22: its sweep and its control against transformers; the features of part 3 against transformers' hooks."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoint.test_dictionaries import cross_layer
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Model, load
from tinymi.teaching import prompts

import numpy as np
import pytest
import torch

LESSON, DEEPER = "22_planning_in_poems", "deeper/22_planning_in_poems"
LINE = "There is so much we cannot"


def words_and_poems() -> tuple[list[list[str]], list[str]]:
    rows = prompts("poems")
    return [row[0].split() for row in rows], ["\n".join(row[i : i + 3]) for row in rows for i in (1, 4)]


def test_every_poem_ends_its_lines_in_its_rhyme() -> None:
    words, poems = words_and_poems()
    each = [word for group in words for word in group]
    assert len(set(each)) == len(each)
    for i, poem in enumerate(poems):
        ends = [re.split(r"\W+", line)[-2] for line in poem.split("\n")]
        assert set(ends) <= set(words[i // 2]), ends


@pytest.fixture(scope="module")
def reference(default_model_folder: Path) -> Any:
    return hugging_face(default_model_folder)


def test_the_numbers_are_transformers(default_model: Model, reference: Any, tmp_path: Path) -> None:
    lesson = default_lesson_json(LESSON, tmp_path)
    words, poems = words_and_poems()
    ids = [[default_model.to_single_token(f" {word}") for word in group] for group in words]
    flat = [token for group in ids for token in group]
    prompt = [torch.from_numpy(default_model.to_tokens(f"{poem}\n{LINE}")) for poem in poems]
    with torch.no_grad():
        after = [reference(tokens).logits[0, -1].log_softmax(-1)[flat].double().numpy() for tokens in prompt]
        rhyming: list[float] = []
        repeated: list[float] = []
        for column, (group, word) in enumerate((g, w) for g, words_of in enumerate(words) for w in words_of):
            usual = np.mean([row[column] for i, row in enumerate(after) if i // 2 != group])
            for i, poem in enumerate(poems):
                inside = re.search(rf" {word}[,.]", poem) is not None
                (repeated if inside else rhyming if i // 2 == group else []).append(after[i][column] - usual)
        assert lesson["gain"] == pytest.approx([np.mean(rhyming), np.mean(repeated)], abs=2e-3)

        layer, n = lesson["layer"], len(lesson["patched"])
        streams = [
            reference(tokens, output_hidden_states=True).hidden_states[layer] for tokens in (prompt[0], prompt[2])
        ]
        for place in (-n, -2, -1):

            def put(module: Any, args: Any, place: int = place) -> Any:
                stream = args[0].clone()
                stream[0, place] = streams[1][0, place]
                return (stream, *args[1:])

            handle = reference.model.layers[layer].register_forward_pre_hook(put)
            patched = reference(prompt[0]).logits[0, -1].log_softmax(-1)[ids[1]].logsumexp(-1)
            handle.remove()
            plain = reference(prompt[0]).logits[0, -1].log_softmax(-1)[ids[1]].logsumexp(-1)
            assert lesson["patched"][place] == pytest.approx(float(patched - plain), abs=2e-3)


def test_a_direct_write_is_the_largest_effect(tmp_path: Path) -> None:
    lesson = default_lesson_json(LESSON, tmp_path)
    assert lesson["by_write"][-1] > 5 * max(lesson["by_write"][:-1])
    assert max(lesson["patched"][:-1]) < 0.1


def test_deeper_no_stream_before_the_last_word_brings_the_rhyme(tmp_path: Path) -> None:
    deeper = default_lesson_json(DEEPER, tmp_path)
    moves = np.array(deeper["moves"])
    assert moves.shape[1:] == (48, 7)
    assert moves[:, :, :-1].mean(axis=1).max() < 0.1


@pytest.fixture
def features(tmp_path: Path) -> Callable[..., Any]:
    folder = tmp_path / "clt"
    tensors = [cross_layer(folder, layer, n_layers=2) for layer in range(2)]
    arguments = ["--dictionary", str(folder), "--suppress", "1:3,0:5", "--inject", "0:7", "--strength", "3"]
    return lambda: (tensors, arguments)


def test_deeper_features_are_added_where_they_write(
    features: Callable[..., Any], small_folder: Path, tmp_path: Path
) -> None:
    tensors, arguments = features()
    lesson = lesson_json(DEEPER, tmp_path, "--model", str(small_folder), *arguments)
    reference = hugging_face(small_folder)
    text = (
        "The birds were singing in the tree,\nAnd everything was wild and free.\nThe river ran down to the sea,\n"
        "There is so much we cannot "
    )
    model = load(small_folder)
    tokens, word = torch.from_numpy(model.to_tokens(text)), model.to_single_token(" that")
    place = 5
    W = [tensors[i][f"W_dec_{i}"] for i in range(2)]
    pushes = [W[0][7][target] - W[0][5][target] - (W[1][3][0] if target else 0) for target in range(2)]

    def push(target: int) -> Any:
        def hook(module: Any, args: Any, out: Any) -> Any:
            out = out.clone()
            out[0, place] += 3 * pushes[target]
            return out

        return reference.model.layers[target].mlp.register_forward_hook(hook)

    with torch.no_grad():
        usual = reference(tokens).logits[0, -1].log_softmax(-1)[word]
        for target in range(2):
            push(target)
        moved = reference(tokens).logits[0, -1].log_softmax(-1)[word]
    assert lesson["features_moved"][place] == pytest.approx(float(moved - usual), abs=1e-3)


@pytest.mark.parametrize(("flag", "value"), [("--inject", "14-3"), ("--suppress", "1:2,,"), ("--inject", "0:999")])
def test_deeper_refuses_features_that_are_not_there(
    flag: str, value: str, features: Callable[..., Any], small_folder: Path
) -> None:
    _, arguments = features()
    message = refusal(DEEPER, "--model", str(small_folder), *arguments, flag, value)
    assert "layer:feature" in message or "has features 0 to 69" in message
