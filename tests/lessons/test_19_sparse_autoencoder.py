"""Lesson 19: its gradient against torch's own; what it trains, keeps and finds; the default model by transformers."""

import json
import sys
from pathlib import Path
from typing import Any

import tinymi
from tests.running import ROOT, default_lesson_json, lesson_json
from tests.variants import hugging_face
from tinymi.arrays import Array
from tinymi.checkpoint import downloads
from tinymi.teaching.cells import cells

import numpy as np
import pytest
import scipy.linalg
import torch

sys.path.append(str(ROOT / "lessons"))
import features

NAME, DEEPER = "19_sparse_autoencoder", "deeper/19_sparse_autoencoder"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("TINYMI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def torch_topk(pre: Any, k: int) -> Any:
    values, places = pre.topk(k)
    return torch.zeros_like(pre).scatter(-1, places, values.relu())


def rebuilt(d: tinymi.Dictionary, x: Array) -> Any:
    """What an SAE makes of rows, in torch."""
    W_enc, b_enc, W_dec, b_dec = (torch.tensor(a) for a in (d.W_enc, d.b_enc, d.W_dec, d.b_dec))
    assert d.k is not None
    return torch_topk((torch.tensor(x) - b_dec) @ W_enc + b_enc, d.k) @ W_dec + b_dec


def shares(lesson: dict[str, Any]) -> list[list[Any]]:
    """How often cards of features and of random directions are right."""
    rows: list[list[Any]] = next(item for item in lesson["report"] if item["kind"] == "table")["rows"]
    return rows


def test_the_gradient_is_torchs() -> None:
    (cell,) = [cell for cell in cells((ROOT / "lessons" / f"{NAME}.py").read_text("utf-8")) if "def topk" in cell.text]
    space: dict[str, Any] = {"np": np, "Array": Any, "k": 7}
    exec(cell.text, space)
    rng = np.random.default_rng(0)
    x, *weights = (rng.normal(size=size) for size in ((40, 6), (6, 30), 30, (30, 6)))
    f, error, slopes = space["gradients"](x, *weights)
    W_enc, b_enc, W_dec = (torch.from_numpy(a).requires_grad_() for a in weights)
    features_of = torch_topk(torch.from_numpy(x) @ W_enc + b_enc, 7)
    difference = features_of @ W_dec - torch.from_numpy(x)
    (difference**2).sum(dim=1).mean().backward()
    np.testing.assert_allclose(f, features_of.detach(), rtol=1e-12)
    np.testing.assert_allclose(error, difference.detach(), rtol=1e-10, atol=1e-12)
    for slope, expected in zip(slopes, (W_enc.grad, b_enc.grad, W_dec.grad), strict=True):
        np.testing.assert_allclose(slope, expected, rtol=1e-10, atol=1e-12)


def test_it_trains_once_and_the_same_again(small_folder: Path, home: Path, tmp_path: Path) -> None:
    options = ("--model", str(small_folder), "--features", "64", "--active", "5", "--steps", "60")
    first = lesson_json(NAME, tmp_path, *options)
    (folder,) = [path for path in (home / "dictionaries").iterdir() if path.is_dir()]
    written = (folder / "cfg.json").stat()
    again = lesson_json(NAME, tmp_path, *options)
    assert (folder / "cfg.json").stat() == written
    assert shares(first) == shares(again)

    model = tinymi.load(small_folder)
    settings = features.Settings(1, 64, 5, 60)
    assert folder == home / features.place(model, settings)
    sae = features.dictionary(model, settings)
    rows = features.streams(model, features.windows(model)[2][:5], [sae.reads], lambda batches, what: batches)[0]
    np.testing.assert_allclose(sae.reconstruct(rows), rebuilt(sae, rows), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-5)
    assert sae.reads == "blocks.1.hook_resid_post"
    config = json.loads((folder / "cfg.json").read_text())
    assert (config["architecture"], config["k"], config["d_sae"]) == ("topk", 5, 64)

    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    same = features.dictionary(model, features.Settings(9, 64, 5, 60))  # it trains: nothing is there
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        np.testing.assert_array_equal(getattr(same, name), getattr(sae, name))


def test_other_code_trains_again(tiny_model: tinymi.Model, home: Path) -> None:
    settings, rng = features.Settings(1, 70, 3, 1), np.random.default_rng(0)
    runs: list[str] = []

    def made(name: str) -> tinymi.Dictionary:
        runs.append(name)
        W, b, mean = (rng.normal(size=size).astype(np.float32) for size in ((70, 32), 70, 32))
        return tinymi.Dictionary("blocks.1.hook_resid_post", ("blocks.1.hook_resid_post",), W, b, W, mean, mean, k=3)

    def train() -> tinymi.Dictionary:
        return made("train")

    def another_train() -> tinymi.Dictionary:
        return made("another")

    kept = [features.kept(tiny_model, settings, function) for function in (train, train, another_train, train)]
    assert runs == ["train", "another", "train"]
    assert downloads.home() == home
    x = rng.normal(size=(9, 32)).astype(np.float32)
    np.testing.assert_allclose(kept[-1].reconstruct(x), rebuilt(kept[-1], x), rtol=1e-4, atol=1e-4)


def test_components_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)) + 5
    pca = features.components("blocks.0.hook_resid_post", rows, 4)
    mean = rows.mean(axis=0)
    V = scipy.linalg.svd(rows - mean, full_matrices=False)[2][:4]
    np.testing.assert_allclose(pca.reconstruct(rows), mean + (rows - mean) @ V.T @ V)
    assert ((pca.encode(rows) > 0).sum(axis=1) == 4).all()


def test_the_text_is_in_three_parts_without_a_common_window(tiny_model: tinymi.Model) -> None:
    train, first, second = features.windows(tiny_model)
    assert {part.shape[1] for part in (train, first, second)} == {64}
    assert len(train) > 4 * len(first) > 200
    texts = [{row.tobytes() for row in part} for part in (train, first, second)]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]


def test_adam_is_torchs() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(3, 4)), rng.normal(size=5)]
    peers = [torch.tensor(w, requires_grad=True) for w in weights]
    optimizer, move = torch.optim.Adam(peers, lr=0.004), features.adam(weights)
    for _ in range(5):
        slopes = [rng.normal(size=w.shape) for w in weights]
        for peer, slope in zip(peers, slopes, strict=True):
            peer.grad = torch.tensor(slope)
        optimizer.step()
        move(slopes)
    for w, peer in zip(weights, peers, strict=True):
        np.testing.assert_allclose(w, peer.detach(), rtol=1e-9)


def test_the_default_model(tmp_path: Path) -> None:
    lesson = default_lesson_json(NAME, tmp_path)
    sae_left, pca_left = next(item for item in lesson["report"] if item["kind"] == "bars")["series"][""]
    assert sae_left < 0.25 < 0.4 < pca_left
    (_, _, feature), (_, _, random) = shares(lesson)
    assert random > feature + 0.05  # at the strongest places the two are near each other, and Python's version decides


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(DEEPER, tmp_path_factory.mktemp("deeper19"))


def test_losses_are_those_of_transformers(
    deeper: dict[str, Any], default_model_folder: Path, default_model: tinymi.Model
) -> None:
    sae, reference = features.dictionary(default_model), hugging_face(default_model_folder)
    edit = ""

    def replace(module: Any, args: Any, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        if edit == "itself":
            return output
        new = rebuilt(sae, stream[0, 1:].numpy()) if edit == "SAE" else torch.zeros_like(stream[0, 1:])
        changed = torch.cat([stream[:, :1], new[None].to(stream.dtype)], dim=1)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = reference.model.layers[9].register_forward_hook(replace)
    for i, window in enumerate(torch.from_numpy(features.windows(default_model)[2][::3][:5])):
        for edit in ("itself", "SAE", "zero"):
            with torch.no_grad():
                logits = reference(window[None]).logits[0, 1:-1]
            loss = float(torch.nn.functional.cross_entropy(logits, window[2:]))
            assert deeper["loss"][edit][i] == pytest.approx(loss, rel=1e-3)
    handle.remove()


def test_what_holds(deeper: dict[str, Any]) -> None:
    assert [finding["established"] for finding in deeper["findings"]] == [True] * 5 + [False, True]
    right, found = deeper["right"], deeper["found"]
    strongest, everywhere, which = 2, 5, 6
    assert right["feature"][strongest] > right["random direction"][strongest] > right["neuron"][strongest]
    assert right["random direction"][everywhere] > right["feature"][everywhere]
    others = ("random direction", "untrained feature", "neuron")
    assert right["feature"][which] > max(right[kind][which] for kind in others)
    assert found["signs by lot"][0] < 0.01 < found["cosine"][0] < 0.5


def test_a_tiny_random_model(small_folder: Path, home: Path, tmp_path: Path) -> None:
    lesson_json(DEEPER, tmp_path, "--model", str(small_folder))
