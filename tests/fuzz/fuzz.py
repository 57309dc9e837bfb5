"""The readers of foreign files under millions of broken inputs: `python -m tests.fuzz`.

    python -m tests.fuzz                          which targets there are
    python -m tests.fuzz gguf -runs=1000000       libFuzzer's options: -max_total_time=SECONDS, -seed=N, a corpus folder

Needs atheris (`pip install atheris`, on Linux), which watches which lines of tinymi an input reaches and keeps mutating
the inputs that reach new ones. It starts from real files: checkpoints that transformers and the gguf package wrote. An
input must be read or refused in one line; whatever else happens (another exception, a hang, a crash, a wrong result)
stops the run, which writes the input down. The test suite does the same for some seconds (test_fuzz.py).
"""

import contextlib
import gc
import io
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FunctionType
from typing import Any
from unittest import mock

import tinymi
from tests.checkpoint.gguf_files import bpe_metadata, contents, save_pair, sentencepiece_metadata, write
from tests.checkpoints import byte_tokenizer, save_tiny
from tests.engine import mutations
from tinymi.checkpoint import byte_level_bpe, tokenizer_config, tokenizer_json
from tinymi.checkpoint.config_json import read_config
from tinymi.checkpoint.gguf import convert, reader
from tinymi.checkpoint.mapped_weights import map_weights
from tinymi.checkpoint.safetensors_file import INDEX
from tinymi.checkpoint.tokenizer_json import read_tokenizer
from tinymi.checkpoint.words import LLAMA3
from tinymi.ops import rope_angles

import numpy as np
from safetensors.numpy import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SMALL: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 4,
}
SMALL |= {"num_key_value_heads": 1, "vocab_size": 258, "tie_word_embeddings": True}
ROPE = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32}
SETTINGS: dict[str, Any] = {
    "add_bos_token": True,
    "add_eos_token": True,
    "bos_token": {"content": "<s>", "lstrip": False},
    "eos_token": "<e>",
    "added_tokens_decoder": {"257": {"content": "<e>", "special": True, "normalized": False, "rstrip": True}},
}


@dataclass(frozen=True)
class Target:
    """A reader: the file that is replaced by an input, and what is done with it then."""

    file: Path
    read: Callable[[], object]
    mutate: Callable[[bytes, Random], bytes] = mutations.json_text

    @property
    def seed(self) -> bytes:
        """The good file."""
        return self.file.with_name(self.file.name + ".good").read_bytes()

    def run(self, data: bytes) -> str:
        """ "read" or "refused". Anything else that a reader does comes out as an exception."""
        self.file.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # NumPy's: a second line on the user's terminal
                warnings.simplefilter("ignore", tinymi.TinymiWarning)
                self.read()
        except tinymi.TinymiError as error:
            message = str(error)
            assert 20 < len(message) < 2000, message
            assert "\n" not in message, message
            return "refused"
        return "read"


def targets(folder: Path) -> dict[str, Target]:
    """Every target, around files that are made in `folder`."""
    weights, tokenizer, settings = (save_tiny(folder / name, **SMALL) for name in ("weights", "tokenizer", "settings"))
    config = save_tiny(folder / "config", rope_parameters=ROPE, dual_chunk_attention_config={"chunk_size": 64}, **SMALL)
    sharded = save_tiny(folder / "sharded", save={"max_shard_size": "1KB"}, **SMALL)
    python = save_tiny(folder / "python", **SMALL)
    (python / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    python_tokenizer().save(str(python / "tokenizer.json"))
    for place in (tokenizer, settings):
        rich_tokenizer().save(str(place / "tokenizer.json"))
    (settings / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    sizes = {name: SMALL[name] for name in SMALL if name not in ("head_dim", "vocab_size")}
    _, bpe = save_pair(folder / "gguf", **sizes)
    _, pieces = save_pair(folder / "pieces", tokenizer=sentencepiece_metadata(), **sizes)
    original, split = save_pair(folder / "split", attention_bias=True, mlp_bias=True, rope_parameters=ROPE, **sizes)
    write(split, *contents(original, "llama", bpe_metadata("llama-bpe")), split_max_tensors=8)
    first = sorted(split.parent.glob("*-00001-of-*"))[0]
    made = {
        "safetensors": Target(weights / "model.safetensors", lambda: read_safetensors(weights), mutations.safetensors),
        "index": Target(sharded / INDEX, lambda: map_weights(sharded, read_config(sharded)).loaded()),
        "config": Target(config / "config.json", lambda: config_fits(config)),
        "tokenizer": Target(tokenizer / "tokenizer.json", lambda: tokenizer_fits(tokenizer)),
        "tokenizer-in-python": Target(python / "tokenizer.json", lambda: tokenizer_in_python_fits(python)),
        "tokenizer-config": Target(settings / "tokenizer_config.json", lambda: tokenizer_fits(settings)),
        "gguf": Target(bpe, lambda: read_gguf(bpe), mutations.some_bytes),
        "gguf-sentencepiece": Target(pieces, lambda: read_gguf(pieces), mutations.some_bytes),
        "gguf-split": Target(first, lambda: read_gguf(first), mutations.some_bytes),
    }
    for target in made.values():
        shutil.copy(target.file, target.file.with_name(target.file.name + ".good"))
    return made


def rich_tokenizer() -> Any:
    """One with every kind of step that LLaMA's and Qwen's have."""
    made = byte_tokenizer()
    made.normalizer = normalizers.Sequence([normalizers.Replace("\u00a0", " "), normalizers.NFC()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{N}|\s+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.add_special_tokens(["<s>"])
    first = ("<s>", made.token_to_id("<s>"))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[first])
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return made


def python_tokenizer() -> Any:
    """One with every kind of step that byte_level_bpe.py has."""
    vocab = byte_tokenizer().get_vocab()
    merges = [("e", "r"), ("d", "er")]
    made = Tokenizer(models.BPE(vocab=vocab | {"er": len(vocab), "der": len(vocab) + 1}, merges=merges))
    made.decoder = decoders.ByteLevel()
    made.normalizer = normalizers.Sequence([normalizers.NFC()])
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split(Regex(LLAMA3), "isolated")]
    made.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_only])
    made.add_special_tokens(["<s>", AddedToken(" 4", lstrip=True, rstrip=True, normalized=True)])
    first = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
    made.post_processor = processors.Sequence([processors.ByteLevel(), first])
    return made


def read_safetensors(folder: Path) -> None:
    """Whatever is read is what the safetensors library reads."""
    weights = map_weights(folder, read_config(folder)).loaded()
    with contextlib.suppress(Exception):  # the library has no BF16 in NumPy
        theirs = load_file(folder / "model.safetensors")
        ours = {"model.norm.weight": weights.ln_final, "model.embed_tokens.weight": weights.W_E}
        ours["model.layers.0.mlp.up_proj.weight"] = weights.blocks[0].W_in.T
        wrong = [n for n, x in ours.items() if not np.array_equal(x, theirs[n].astype(np.float32), equal_nan=True)]
        if wrong:
            raise SystemExit(f"read otherwise than by the library: {wrong}")


def config_fits(folder: Path) -> None:
    """Whatever is read has sizes that fit each other."""
    config = read_config(folder)
    assert min(config.n_layers, config.n_heads, config.n_kv_heads, config.d_model, config.d_mlp, config.d_vocab) > 0
    assert config.n_heads % config.n_kv_heads == config.d_head % 2 == 0
    assert 0 < config.rms_eps < np.inf
    assert 0 < config.rope_base < np.inf
    if config.d_head < 10_000:
        assert all(np.isfinite(angles).all() for angles in rope_angles(config, np.arange(5)[None]))


def tokenizer_fits(folder: Path) -> None:
    """Whatever is read gives ids of the vocabulary and a text for each, or refuses the prompt."""
    tokenizer = read_tokenizer(folder, d_vocab=258)
    assert tokenizer is not None
    ids = tokenizer.to_tokens("Ünder the sea. 42")
    assert ids.min() >= 0
    assert ids.max() < 258
    assert len(tokenizer.to_str_tokens(ids[0])) == ids.size
    tokenizer.to_string(ids[0])


def tokenizer_in_python_fits(folder: Path) -> None:
    """Whatever byte_level_bpe.py reads gives the same ids and texts as the library's."""
    with (
        mock.patch.multiple(tokenizer_json, IN_PYTHON=True, Backend=byte_level_bpe.Tokenizer),
        mock.patch.object(tokenizer_config, "AddedToken", byte_level_bpe.AddedToken),
        mock.patch.object(tokenizer_config, "TemplateProcessing", byte_level_bpe.TemplateProcessing),
    ):
        ours = read_tokenizer(folder, d_vocab=300)
    library = read_tokenizer(folder, d_vocab=300)
    assert ours is not None
    assert library is not None
    for text in ("Ünder the sea. 42\n", "e\u0301<s> <s>4  4\x00 der <e>"):
        ids = ours.to_tokens(text)
        assert ids.tolist() == library.to_tokens(text).tolist()
        assert ours.to_str_tokens(ids[0]) == library.to_str_tokens(ids[0])
        assert ours.to_string(ids[0]) == library.to_string(ids[0])


def read_gguf(file: Path) -> None:
    """Whatever is converted can be loaded; so that the next start is not refused what this one wrote."""
    found = reader.read(file)
    target = file.parent / "converted"
    target.mkdir(exist_ok=True)
    with contextlib.redirect_stderr(io.StringIO()):  # it says that it converts
        convert.convert(found, target)
    config = read_config(target)
    map_weights(target, config).loaded()
    tokenizer = read_tokenizer(target, config.d_vocab)
    assert tokenizer is not None
    tokenizer.to_tokens("Ünder the sea. 42")


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        found = targets(Path(name))
        if not arguments or arguments[0] not in found:
            sys.exit(f"{__doc__}\nTargets: {', '.join(found)}")
        import atheris

        target = found[arguments[0]]
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        (corpus / "good").write_bytes(target.seed)
        counts = {"read": 0, "refused": 0}

        def one(data: bytes) -> None:
            counts[target.run(data)] += 1
            if sum(counts.values()) % 50_000 == 0:
                print(f"{arguments[0]}: {counts}", file=sys.stderr, flush=True)

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            """Half of the inputs by libFuzzer's own ways, half by ours, which know the format."""
            own = target.mutate(data, Random(seed)) if seed % 2 else atheris.Mutate(data, most)
            return bytes(own[:most])

        for thing in gc.get_objects():
            if isinstance(thing, FunctionType) and (thing.__module__ or "").startswith("tinymi."):
                atheris.instrument_func(thing)
        atheris.Setup(
            [sys.argv[0], *arguments[1:], f"-max_len={2 * len(target.seed)}", "-timeout=10", str(corpus)], one
        )
        atheris.Fuzz()
