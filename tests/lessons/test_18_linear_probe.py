"""Lesson 18: probes from SciPy on transformers' hidden states, ablation, steering and heads by forward hooks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.running import ROOT, default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Model
from tinymi.teaching import prompts
from tinymi.teaching.cells import cells

import numpy as np
import pytest
import scipy.linalg
import torch

LESSON, DEEPER = "18_linear_probe", "deeper/18_linear_probe"
NOUN, OF, FRANCE = 1, 2, 3


def least_squares(x: Any, y: Any, penalty: float = 0.1) -> Any:
    """Ridge regression as ordinary least squares: one more row for each weight, which asks it to be 0."""
    rows = np.vstack([x, np.sqrt(penalty) * np.eye(x.shape[1])])
    return scipy.linalg.lstsq(rows, np.concatenate([y, np.zeros(x.shape[1])]))[0]


def probe(stream: Any, y: Any, penalty: float = 0.1) -> tuple[Any, Any]:
    """Its direction, of length 1, and the mean of the rows that it learned from."""
    mean = stream.mean(axis=0)
    w = least_squares((stream - mean) / np.linalg.norm(stream, axis=1).mean(), y, penalty)
    return w / np.linalg.norm(w), mean


@pytest.mark.parametrize(("name", "function"), [(LESSON, "ridge"), (DEEPER, "fit")])
def test_the_closed_form_is_the_least_squares_solution(name: str, function: str) -> None:
    source = (ROOT / "lessons" / f"{name}.py").read_text("utf-8")
    (cell,) = [cell for cell in cells(source) if f"def {function}(" in cell.text]
    start = cell.text.index(f"def {function}(")
    space: dict[str, Any] = {"np": np, "Array": Any}
    exec(cell.text[start:].split("\n\n\n")[0], space)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 20)) + 1, rng.choice([-1.0, 1.0], 9)
    if function == "ridge":
        np.testing.assert_allclose(space["ridge"](x, y), least_squares(x, y), atol=1e-12)
    else:
        for penalty in (0.1, 3.0):
            for actual, expected in zip(space["fit"](x, y, penalty), probe(x, y, penalty), strict=True):
                np.testing.assert_allclose(actual, expected, atol=1e-12)


class Peer:
    """The sentences of one prompt with all forms, in transformers."""

    def __init__(self, folder: Path, model: Model, nouns: list[list[str]], n_learned: int) -> None:
        self.reference, self.model = hugging_face(folder), model
        texts = [f"The {pair[form]} of France" for form in (0, 1) for pair in nouns]
        self.tokens = torch.from_numpy(np.concatenate([model.to_tokens(text) for text in texts]))
        self.number = np.repeat([-1.0, 1.0], len(nouns))
        self.new = np.tile(np.arange(len(nouns)) >= n_learned, 2)
        with torch.no_grad():
            out = self.reference(self.tokens, output_hidden_states=True)
        self.hidden = [state.double().numpy() for state in out.hidden_states]
        self.before = self.wants(out.logits[:, -1])

    def wants(self, logits: Any) -> Any:
        one, many = (self.model.to_single_token(verb) for verb in (" is", " are"))
        return (logits[:, many] - logits[:, one]).numpy()

    def logits(self, module: Any, edit: Callable[[Any], Any], forms: Any) -> Any:
        """At the last position of these forms, when edit changes what enters a module, [form, pos, d]."""
        handle = module.register_forward_pre_hook(lambda module, args: (edit(args[0].clone()), *args[1:]))
        with torch.no_grad():
            logits = self.reference(self.tokens[forms]).logits[:, -1]
        handle.remove()
        return logits

    def with_stream(self, layer: int, pos: Any, there: Any, forms: Any) -> Any:
        def put(stream: Any) -> Any:
            stream[:, pos] = torch.tensor(there[forms], dtype=stream.dtype)
            return stream

        return self.logits(self.reference.model.layers[layer], put, forms)

    def left(self, logits: Any) -> Any:
        """The share of the gap, for each new noun."""
        after, before = (np.subtract(*np.split(x, 2)[::-1]) for x in (self.wants(logits), self.before[self.new]))
        return after / before.mean()

    def ablated(self, layer: int, pos: int, w: Any, mean: Any) -> Any:
        stream = self.hidden[layer][:, pos]
        there = stream - np.outer((stream - mean) @ w, w)
        np.testing.assert_allclose((there - mean) @ w, 0, atol=1e-9 * np.abs(there).max())
        return self.left(self.with_stream(layer, pos, there, self.new))

    def fit(self, layer: int, pos: int, labels: Any, penalty: float = 0.1) -> tuple[Any, Any]:
        return probe(self.hidden[layer][~self.new, pos], labels[~self.new], penalty)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("18"))


@pytest.fixture(scope="module")
def peer(default_model_folder: Path, default_model: Model) -> Peer:
    return Peer(default_model_folder, default_model, prompts("nouns"), 45)


def shown(report: dict[str, Any], kind: str, index: int = 0) -> dict[str, Any]:
    item: dict[str, Any] = [item for item in report["report"] if item["kind"] == kind][index]
    return item


def test_nouns_are_single_tokens_and_each_once(default_model: Model) -> None:
    forms = [form for pair in prompts("nouns") for form in pair]
    assert len(set(forms)) == len(forms) == 120
    for form in forms:
        default_model.to_single_token(f" {form}")


def test_what_the_probes_read(lesson: dict[str, Any], peer: Peer) -> None:
    curves = shown(lesson, "lines")
    control = np.tile([-1.0, 1.0], 60)
    for name, layer, pos, labels, forms in (
        ("noun", 16, NOUN, peer.number, peer.new),
        ("␣of", 16, OF, peer.number, peer.new),
        ("␣France", 8, FRANCE, peer.number, peer.new),
        ("␣France", 28, FRANCE, peer.number, peer.new),
        ("control", 16, NOUN, control, peer.new),
        ("control, seen nouns", 16, NOUN, control, ~peer.new),
    ):
        w, mean = peer.fit(layer, pos, labels)
        right = ((peer.hidden[layer][forms, pos] - mean) @ w > 0) == (labels[forms] > 0)
        assert curves["series"][name][curves["x"].index(layer)] == pytest.approx(right.mean())


def test_what_is_left_without_it(lesson: dict[str, Any], peer: Peer) -> None:
    grid, whole = (np.array(shown(lesson, "heatmap", i)["values"]) for i in (0, 1))  # [layer / 4, place]
    for layer, pos in ((16, NOUN), (12, OF), (28, FRANCE)):
        expected = peer.ablated(layer, pos, *peer.fit(layer, pos, peer.number)).mean()
        assert grid[layer // 4, pos - 1] == pytest.approx(expected, abs=1e-3)
        twins = np.tile(peer.hidden[layer][:, pos].reshape(2, 60, -1).mean(axis=0), (2, 1))
        expected = peer.left(peer.with_stream(layer, pos, twins, peer.new)).mean()
        assert whole[layer // 4, pos - 1] == pytest.approx(expected, abs=1e-3)
    assert grid[:7, 0].max() < 0.5
    assert min(grid[:, 1].min(), whole[:, 1].min(), grid[7, 0], whole[7, 0]) > 0.9
    assert grid[7, 2] < 0.1 < 0.9 < grid[:7, 2].min()
    assert grid[:, 3].min() > 0.99
    later = slice(2, None)
    twins = np.tile(peer.hidden[16][:, later].reshape(2, 60, 2, -1).mean(axis=0), (2, 1, 1))
    expected = peer.left(peer.with_stream(16, later, twins, peer.new)).mean()
    assert shown(lesson, "exercise")["value"] == pytest.approx(expected, abs=1e-3)


def test_the_verb_turns(lesson: dict[str, Any], peer: Peer) -> None:
    rows = shown(lesson, "table")["rows"]
    assert [row[2] for row in rows] == [" are", " is", " is", " is"]
    stream, singular = peer.hidden[16][:, NOUN], peer.new & (peer.number < 0)
    apart = stream[peer.number > 0].mean(axis=0) - stream[peer.number < 0].mean(axis=0)
    there = stream + np.linalg.norm(apart) * peer.fit(16, NOUN, peer.number)[0]
    logits = peer.with_stream(16, NOUN, there, singular)
    gap = 2 * (peer.number * peer.before)[peer.new].mean()
    assert rows[0][1] == pytest.approx((peer.wants(logits) - peer.before[singular]).mean() / gap, abs=1e-3)
    assert int(logits[-1].argmax()) == peer.model.to_single_token(" are")


def test_what_the_headline_says(lesson: dict[str, Any]) -> None:
    curves, grid = shown(lesson, "lines")["series"], np.array(shown(lesson, "heatmap")["values"])
    accuracy = np.array([curves[name] for name in ("noun", "␣of", "␣France")]).T
    readable, needed = accuracy >= 0.9, grid[:, :3] < 0.5
    text = shown(lesson, "headline")["text"]
    assert f"at {readable.sum()} of {readable.size} places" in text
    assert f"needs what they read at {(readable & needed).sum()} of them" in text
    assert readable.sum() > 2 * (readable & needed).sum()


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(DEEPER, tmp_path_factory.mktemp("deeper18"))


def test_what_holds(deeper: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    peer = Peer(default_model_folder, default_model, prompts("nouns")[20:], 25)
    means = peer.hidden[4][~peer.new & (peer.number > 0), NOUN].mean(axis=0)
    means -= peer.hidden[4][~peer.new & (peer.number < 0), NOUN].mean(axis=0)
    for row, (w, mean) in (
        (0, peer.fit(4, NOUN, peer.number, 0.001)),
        (2, peer.fit(4, NOUN, peer.number)),
        (4, (means / np.linalg.norm(means), peer.hidden[4][~peer.new, NOUN].mean(axis=0))),
    ):
        np.testing.assert_allclose(deeper["remain"][row], peer.ablated(4, NOUN, w, mean), atol=2e-3)
    eight = np.array(deeper["stays"])  # [place, layer, noun]: the same ablation, as a share of the eight nouns' gap
    gaps = np.subtract(*np.split(peer.before[peer.new], 2)[::-1])
    for layer, pos in ((13, OF), (26, FRANCE)):
        left = peer.ablated(layer, pos, *peer.fit(layer, pos, peer.number)) * gaps.mean() / gaps[:8].mean()
        np.testing.assert_allclose(eight[pos - 1, layer], left[:8], atol=2e-3)

    def average(z: Any, head: int = 0) -> Any:
        part = z[:, -1, 64 * head : 64 * head + 64]
        part[:] = part.reshape(2, -1, 64).mean(dim=0).repeat(2, 1)
        return z

    assert deeper["heads"][0] == [26, 0]
    o_proj = peer.reference.model.layers[26].self_attn.o_proj
    brought = gaps / gaps.mean() - peer.left(peer.logits(o_proj, average, peer.new))
    np.testing.assert_allclose(deeper["brought"][0], brought, atol=2e-3)
    assert [finding["established"] for finding in deeper["findings"]] == [True] * 7
    kept = np.array(deeper["kept"])  # [sentence, what, verbs]
    assert kept.shape == (6, 3, 3)
    assert kept[:, 0].max() < 0.6 < 0.9 < kept[:, 1:].min()


def test_a_tiny_random_model(small_folder: Path, tmp_path: Path) -> None:
    for name in (LESSON, DEEPER):
        lesson_json(name, tmp_path, "--model", str(small_folder))


@pytest.mark.parametrize("prompt", ["The key of France", "{}", "Some{} are"])
def test_a_prompt_without_a_place_for_the_noun(prompt: str, small_folder: Path) -> None:
    assert "where the noun goes" in refusal(LESSON, "--model", str(small_folder), "--prompt", prompt)
