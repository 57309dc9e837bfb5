"""Models that many tests share: the default model, and a tiny random one."""

from pathlib import Path

import pytest

import tinymi
from tests.checkpoints import save_tiny
from tinymi.sources import folder_for


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
