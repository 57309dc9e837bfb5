"""The methods of the lessons, on a model whose parts are known: each finds what was built in, and nothing else."""

import runpy
from pathlib import Path

import tinymi
from tests.running import ROOT
from tests.variants import error, hugging_face
from tinymi.arrays import Array, Tokens
from tinymi.hooks import HookPoint

import numpy as np
import pytest
import torch

HEADS = [(layer, head) for layer in range(2) for head in range(2)]
BUILT = [(0, 0), (1, 0)]  # previous token, induction


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    runpy.run_path(str(ROOT / "lessons" / "toy.py"))["save"](folder)
    return folder


@pytest.fixture(scope="module")
def toy(toy_folder: Path) -> tinymi.Model:
    return tinymi.load(toy_folder)


@pytest.fixture(scope="module")
def runs(toy: tinymi.Model) -> tuple[Tokens, Tokens]:
    """Clean: A is followed by B, so B comes next. Corrupted: no A before, so nothing does."""
    return toy.to_tokens("ABCDA"), toy.to_tokens("EBCDA")


def difference(toy: tinymi.Model, logits: Array) -> float:
    return float(logits[0, -1, toy.to_single_token("B")] - logits[0, -1, toy.to_single_token("C")])


def test_it_is_the_same_model_in_transformers(toy: tinymi.Model, toy_folder: Path) -> None:
    tokens = toy.to_tokens("ABCDACBDAGHGHKLMK")
    with torch.no_grad():
        expected = hugging_face(toy_folder)(torch.from_numpy(tokens)).logits.numpy()
    assert error(toy(tokens), expected) < 1e-5


def test_it_copies_whatever_came_before(toy: tinymi.Model) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        letters = 1 + rng.permutation(15)
        tokens = np.concatenate([[0], letters, letters])[None]
        assert (toy(tokens)[0, 16:-1].argmax(axis=-1) == letters[1:]).all()


def test_patterns(toy: tinymi.Model) -> None:
    _, cache = toy.run_with_cache(toy.to_tokens("ABCDEABCDEABCDE"[:10] + "FGHIJKLMNO"))
    before, induction = cache["pattern", 0][0, 0], cache["pattern", 1][0, 0]
    queries = np.arange(1, len(before))
    assert before[queries, queries - 1].min() > 0.999
    assert [induction[query, query - 4] > 0.999 for query in range(6, 11)] == [True] * 5  # the token after the copy
    assert induction[[*range(1, 6), *range(11, 21)], 0].min() > 0.999  # nothing to copy: the sink
    for layer in range(2):
        idle = cache["pattern", layer][0, 1]
        np.testing.assert_allclose(idle, np.tril(np.ones_like(idle)) / np.arange(1, len(idle) + 1)[:, None], rtol=1e-5)


def test_attribution(toy: tinymi.Model, runs: tuple[Tokens, Tokens]) -> None:
    logits, cache = toy.run_with_cache(runs[0])
    b, c = toy.to_single_token("B"), toy.to_single_token("C")
    towards = (toy.weights.W_U[:, b] - toy.weights.W_U[:, c]) / cache["ln_final.hook_scale"][0, -1]
    shares = [float(cache["result", layer][0, -1, head] @ towards) for layer, head in HEADS]
    assert shares == pytest.approx([0, 0, difference(toy, logits), 0], abs=1e-5)
    assert difference(toy, logits) > 10


def test_patching_the_stream_follows_the_note(toy: tinymi.Model, runs: tuple[Tokens, Tokens]) -> None:
    clean, corrupted = (toy.run_with_cache(tokens) for tokens in runs)
    high, low = difference(toy, clean[0]), difference(toy, corrupted[0])
    grid = np.zeros((2, 6))
    for layer in range(2):
        for pos in range(6):
            stream = corrupted[1]["resid_pre", layer].copy()
            stream[0, pos] = clean[1]["resid_pre", layer][0, pos]
            grid[layer, pos] = (difference(toy, toy(stream, start_at_layer=layer)) - low) / (high - low)
    expected = np.zeros((2, 6))
    expected[0, 1] = expected[1, 2] = 1  # A stands at position 1; from layer 1 on, position 2 has the note
    np.testing.assert_allclose(grid, expected, atol=1e-3)


def test_knockout_of_an_edge(toy: tinymi.Model, runs: tuple[Tokens, Tokens]) -> None:
    whole = difference(toy, toy(runs[0]))
    for layer, head in HEADS:
        for query in range(1, 6):
            for key in range(query):

                def cut(scores: Array, hook: HookPoint, at: tuple[int, ...] = (0, head, query, key)) -> Array:
                    scores = scores.copy()
                    scores[at] = -np.inf
                    return scores

                hooks = [(f"blocks.{layer}.attn.hook_attn_scores", cut)]
                lost = 1 - difference(toy, toy.run_with_hooks(runs[0], hooks)) / whole
                if (layer, head, query, key) in [(0, 0, 2, 1), (1, 0, 5, 2)]:
                    assert lost > 0.9
                elif (layer, head, query, key) == (0, 0, 1, 0):  # A cannot see ^, so it notes itself, and fits, too
                    assert 0.1 < lost < 0.9
                else:  # a note on another token makes the stream a little longer or shorter
                    assert abs(lost) < 0.02, (layer, head, query, key)


def test_knockout_of_heads(toy: tinymi.Model, runs: tuple[Tokens, Tokens]) -> None:
    whole = difference(toy, toy(runs[0]))
    for layer, head in HEADS:

        def take_out(z: Array, hook: HookPoint, head: int = head) -> Array:
            z = z.copy()
            z[:, :, head] = 0
            return z

        left = difference(toy, toy.run_with_hooks(runs[0], [(f"blocks.{layer}.attn.hook_z", take_out)]))
        assert left / whole == pytest.approx(0 if (layer, head) in BUILT else 1, abs=1e-3)


def test_path_patching_finds_composition_through_keys(toy: tinymi.Model, runs: tuple[Tokens, Tokens]) -> None:
    """Head 1.0 gets one of its inputs from the corrupted run."""
    whole = difference(toy, toy(runs[0]))
    _, other = toy.run_with_cache(runs[1])
    for name in "qkv":
        swap = [(f"blocks.1.attn.hook_{name}", lambda value, hook: other[hook.name])]
        left = difference(toy, toy.run_with_hooks(runs[0], swap)) / whole
        assert left == pytest.approx(0 if name == "k" else 1, abs=1e-3)


def test_attribution_patching(toy: tinymi.Model, runs: tuple[Tokens, Tokens]) -> None:
    """The idle heads get exactly 0. Head 0.0 gets far too little: a saturated softmax has no slope to follow."""
    b, c = toy.to_single_token("B"), toy.to_single_token("C")
    clean = toy.run_with_cache(runs[0])[1]
    logits, cache, grads = toy.run_with_gradients(
        runs[1], lambda logits: tinymi.logit_difference(logits, b, c)[1], freeze=["scale"]
    )
    guess = np.zeros((2, 2))
    for layer, head in HEADS:
        change = clean["z", layer][0, :, head] - cache["z", layer][0, :, head]  # [pos, d_head]
        guess[layer, head] = (change * grads["z", layer][0, :, head]).sum()
    assert (guess[:, 1] == 0).all()
    with_scale = cache["ln_final.hook_scale"][0, -1, 0] / clean["ln_final.hook_scale"][0, -1, 0]
    moved = difference(toy, toy(runs[0])) - difference(toy, logits)
    assert guess[1, 0] * with_scale == pytest.approx(moved, rel=1e-3)
    assert 0 < guess[0, 0] < 0.1 * moved
