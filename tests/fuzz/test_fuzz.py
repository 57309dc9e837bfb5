"""Some seconds of fuzzing: thousands of broken versions of real files, each read or refused in one line.

tests/fuzz.py has the same for millions.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import tinymi
from tests.engine import mutations
from tests.fuzz.fuzz import Target, targets
from tinymi.checkpoint.config_json import read_config
from tinymi.checkpoint.gguf import reader
from tinymi.checkpoint.mapped_weights import map_weights
from tinymi.checkpoint.tokenizer_json import read_tokenizer

import pytest

# The share of inputs that is still read differs: most changes to weights or texts are harmless, few to an index are.
N_INPUTS = {"safetensors": 1500, "index": 1500, "config": 3000, "tokenizer": 1500, "gguf": 600}
N_INPUTS |= {"gguf-sentencepiece": 600, "gguf-split": 600, "tokenizer-config": 1500, "tokenizer-in-python": 1500}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return targets(tmp_path_factory.mktemp("fuzz"))


def test_every_target_is_fuzzed(made: dict[str, Target]) -> None:
    assert made.keys() == N_INPUTS.keys()


@pytest.mark.parametrize("name", N_INPUTS)
def test_a_broken_file_is_read_or_refused(name: str, made: dict[str, Target]) -> None:
    target, random = made[name], Random(name)
    assert target.run(target.seed) == "read"
    outcomes = Counter(target.run(target.mutate(target.seed, random)) for _ in range(N_INPUTS[name]))
    assert min(outcomes["read"], outcomes["refused"]) > 10, outcomes


def headed(head: bytes, size: int, path: Path) -> None:
    """A file with this beginning and zeros up to its size, which take no room on the disk."""
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(size)


def outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except tinymi.TinymiError:
        return "refused"
    return "read"


def test_the_default_models_own_header_broken(default_model_folder: Path, tmp_path: Path) -> None:
    config = read_config(default_model_folder)
    source = default_model_folder / "model.safetensors"
    with source.open("rb") as stream:
        head = stream.read(8)
        head += stream.read(int.from_bytes(head, "little"))
    assert len(head) > 20_000
    random, outcomes = Random(0), Counter[str]()
    for _ in range(300):
        headed(mutations.safetensors(head, random), source.stat().st_size, tmp_path / "model.safetensors")
        outcomes[outcome(lambda: map_weights(tmp_path, config))] += 1
    assert outcomes["refused"] > 200, outcomes


@pytest.mark.filterwarnings("ignore::tinymi.errors.ConfigWarning")
def test_the_default_models_own_config_and_tokenizer_broken(default_model_folder: Path, tmp_path: Path) -> None:
    random = Random(0)
    for name, n_inputs, read in (
        ("config.json", 500, lambda: read_config(tmp_path)),
        ("tokenizer.json", 20, lambda: read_tokenizer(tmp_path, 49152)),
    ):
        good = (default_model_folder / name).read_bytes()
        for _ in range(n_inputs):
            (tmp_path / name).write_bytes(mutations.json_text(good, random))
            assert outcome(read) in ("read", "refused")


def test_the_default_models_own_gguf_header_broken(pinned_gguf: Path, tmp_path: Path) -> None:
    size = pinned_gguf.stat().st_size
    with pinned_gguf.open("rb") as stream:
        head = stream.read(3_000_000)
    assert b"blk.29.ffn_up.weight" in head
    random, outcomes = Random(0), Counter[str]()
    for _ in range(60):
        headed(mutations.some_bytes(head, random), size, tmp_path / "broken.gguf")
        outcomes[outcome(lambda: reader.read(tmp_path / "broken.gguf"))] += 1
    assert outcomes["refused"] > 20, outcomes
