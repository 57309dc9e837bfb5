"""Threads of a test process, the order of the tests, and models that many of them share."""

import os
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is loaded: the processes that run the tests share the cores

import tinymi
from tests.checkpoints import save_tiny
from tests.variants import save_variant
from tinymi.checkpoint import default_model as pinned
from tinymi.checkpoint.find import folder_for

import pytest

SLOW = ("test_sweep",)  # of tests/engine
LONGEST = ("test_sweep", "test_10_ioi_circuit", "test_lesson_options", "test_bad_input", "test_default_model")
CONVERTING = ("test_bad_input", "test_gguf", "test_reports", "test_sentencepiece", "test_worker")  # GGUF files


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the fast tests. The files that take longest come first, so that no process works on one of them alone."""
    for item in items:
        if (item.path.parent.name == "engine" and item.path.stem not in SLOW) or item.path.stem == "test_config_json":
            item.add_marker(pytest.mark.fast)
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests convert stays out of the user's cache. Fixtures of the session come first and use that."""
    if request.path.stem in CONVERTING:
        monkeypatch.setenv("TINYMI_HOME", str(request.getfixturevalue("tmp_path") / "home"))


@pytest.fixture(scope="session")
def default_model_folder() -> Path:
    """The converted default model; fetched the first time."""
    return folder_for()


@pytest.fixture(scope="session")
def default_model(default_model_folder: Path) -> tinymi.Model:
    return tinymi.load(default_model_folder)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of two layers with random weights and a byte-level tokenizer: every text works, none makes sense."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> tinymi.Model:
    return tinymi.load(tiny_folder)


@pytest.fixture(scope="session")
def free_head_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of three layers, with grouped heads that are wider than d_model / n_heads."""
    return save_variant(tmp_path_factory.mktemp("free_head"), "llama-free-head")


@pytest.fixture(scope="session")
def tiny(free_head_folder: Path) -> tinymi.Model:
    return tinymi.load(free_head_folder)


@pytest.fixture(scope="session")
def pinned_gguf() -> Path:
    """The pinned file; fetched the first time."""
    return pinned.gguf()


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory, default_model_folder: Path) -> Path:
    """A LLaMA of two layers with random weights and the default model's tokenizer: lessons find their words in it."""
    tokenizer = default_model_folder / "tokenizer.json"
    folder = save_tiny(tmp_path_factory.mktemp("small"), vocab_size=49152)
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return folder
