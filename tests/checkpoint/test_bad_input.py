"""The table of broken checkpoints: one row per case, each loaded in Python and each given to a lesson.

Every row ends in an error of the family, in one line that says what is wrong; the lesson prints that line alone and
exits with 2. What a row calls broken was a good checkpoint before, and is loaded as such below the table.
The hub's and the default model's cases are tables in their own tests (test_hub.py, test_default_model.py),
those of wrong use (tokens, prompts, hooks, settings) in test_bad_use.py.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tinymi
from tests.checkpoint.gguf_files import contents, save_pair, write
from tests.checkpoint.test_config_json import RAW, REFUSED
from tests.running import run_lesson_often
from tests.variants import edit_json, save_variant
from tinymi.checkpoint.safetensors_file import INDEX

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

Header = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One way in which a checkpoint can be broken."""

    name: str
    damage: Callable[[Path], object]  # of a good folder
    words: str  # what the error must say: a regular expression
    kind: str = "single"  # or "sharded"


# --- how to damage a safetensors file --------------------------------------------------------------------------

NORM = "model.norm.weight"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def parts(path: Path) -> tuple[Header, bytes]:
    """Header and data of a file."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def put(path: Path, header: bytes | Header, data: bytes, size: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + data)


def cut(keep: Callable[[int, int], int]) -> Callable[[Path], None]:
    """Keep only the first bytes; `keep` maps (end of the header, size of the file) to how many."""

    def damage(folder: Path) -> None:
        raw = weights(folder).read_bytes()
        weights(folder).write_bytes(raw[: keep(8 + int.from_bytes(raw[:8], "little"), len(raw))])

    return damage


def length(size: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        put(weights(folder), *parts(weights(folder)), size=size)

    return damage


def grown(by: int | None) -> Callable[[Path], None]:
    """State a longer header: by so many bytes, or up to the file's end."""

    def damage(folder: Path) -> None:
        found, data = parts(weights(folder))
        text = json.dumps(found).encode()
        put(weights(folder), text, data, size=len(text) + (len(data) if by is None else by))

    return damage


def header(change: Callable[[Header], object]) -> Callable[[Path], None]:
    """Change the header and leave the data."""

    def damage(folder: Path) -> None:
        found, data = parts(weights(folder))
        change(found)
        put(weights(folder), found, data)

    return damage


def entry(tensor: str = NORM, **fields: Any) -> Callable[[Path], None]:
    return header(lambda found: found[tensor].update(fields))


def raw_header(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        found, data = parts(weights(folder))
        put(weights(folder), change(json.dumps(found).encode()), data)

    return damage


def tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Write other tensors."""

    def damage(folder: Path) -> None:
        found = load_file(weights(folder))
        change(found)
        save_file(found, weights(folder))

    return damage


def shift(found: Header) -> None:
    """Let one tensor begin in another."""
    begin, end = found[NORM]["data_offsets"]
    found[NORM]["data_offsets"] = [begin - 4, end - 4]


def twice(text: bytes) -> bytes:
    """Name a tensor twice, with the same entry."""
    name = json.dumps(NORM).encode()
    return text[:-1] + b", " + name + b": " + json.dumps(json.loads(text)[NORM]).encode() + b"}"


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else in the place of the file `name`."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content, encoding="latin-1")


def gone(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def renamed(name: str, other: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).rename(folder / other)


SAFETENSORS = [
    Case("an empty file", cut(lambda start, size: 0), "damaged or incomplete"),
    Case("cut in its length", cut(lambda start, size: 5), "damaged or incomplete"),
    Case("cut behind its length", cut(lambda start, size: 8), "damaged or incomplete"),
    Case("cut in its header", cut(lambda start, size: start // 2), "damaged or incomplete"),
    Case("cut behind its header", cut(lambda start, size: start), "damaged or incomplete"),
    Case("cut in its data", cut(lambda start, size: (start + size) // 2), "damaged or incomplete"),
    Case("cut by one byte", cut(lambda start, size: size - 1), "damaged or incomplete"),
    Case("more data than it says", lambda folder: weights(folder).open("ab").write(b"more"), "damaged or incomplete"),
    Case("a header of no length", length(0), "damaged or incomplete"),
    Case("a header of one byte", length(1), "damaged or incomplete"),
    Case("a header longer than the file", length(10**7), "damaged or incomplete"),
    Case("a header of a length that looks negative", length(2**64 - 1), "damaged or incomplete"),
    Case("a header of 2**63 bytes", length(2**63), "damaged or incomplete"),
    Case("a header of no UTF-8", raw_header(lambda text: text.replace(b"norm", b"\xff\xfe\xfd\xfc", 1)), "damaged"),
    Case("a header of no JSON", raw_header(lambda text: text[:-2]), "damaged or incomplete"),
    Case("a header that is a list", raw_header(lambda text: b"[" + text + b"]"), "damaged or incomplete"),
    Case("a header nested deeply", raw_header(lambda text: b"[" * 100_000), "damaged or incomplete"),
    *(
        Case(f"a header of {size:,} bytes", length(size), "damaged or incomplete")
        for size in (2**31, 2**40, 2**63 - 9, 2**63 - 1, 2**64 - 8, 10**8, 10**8 + 1)
    ),
    Case("a header that reaches into the data", grown(1), "damaged or incomplete"),
    Case("a header that ends where the file does", grown(None), "damaged or incomplete"),
    Case("a name with half a character", raw_header(lambda t: t.replace(b"norm.w", b"norm.\\ud800w")), "damaged or"),
    Case("a type twice", raw_header(lambda t: t.replace(b'{"dtype"', b'{"dtype": "F64", "dtype"', 1)), "damaged or"),
    Case("a name twice", raw_header(twice), f"names '{re.escape(NORM)}' twice"),
    Case("overlapping tensors", header(shift), "damaged or incomplete"),
    Case("a tensor behind the end", entry(data_offsets=[10**9, 10**9 + 128]), "damaged or incomplete"),
    Case("a tensor that ends before it begins", entry(data_offsets=[128, 0]), "damaged or incomplete"),
    Case("negative offsets", entry(data_offsets=[-128, 0]), "damaged or incomplete"),
    Case("offsets of 2**64", entry(data_offsets=[2**64, 2**64 + 128]), "damaged or incomplete"),
    Case("offsets that are no numbers", entry(data_offsets=["0", "128"]), "damaged or incomplete"),
    Case("offsets missing", header(lambda found: found[NORM].pop("data_offsets")), "damaged or incomplete"),
    Case("a shape that overflows", entry(shape=[2**40, 2**40]), "damaged or incomplete"),
    *(
        Case(f"a shape like {shape}", entry(shape=shape), "damaged or incomplete")
        for shape in ([2**63, 2], [2**64], [2**32, 2**32, 0], [], "32", None, [True] * 32)
    ),
    Case("a shape of too many axes", entry(shape=[1] * 40 + [32]), r"has shape \[1, 1, 1.*asks for \[32\]"),
    Case("a shape larger than its data", entry(shape=[33]), "damaged or incomplete"),
    Case("a shape below zero", entry(shape=[-32]), "damaged or incomplete"),
    Case("a shape of fractions", entry(shape=[32.5]), "damaged or incomplete"),
    *(
        Case(f"offsets like {at}", entry(data_offsets=at), "damaged or incomplete")
        for at in ([0], [0, 1, 2], None, [0.0, 128.0], [1e300, 1e301])
    ),
    *(
        Case(f"a type like {kind!r}", entry(dtype=kind), "damaged or incomplete")
        for kind in (5, None, "f32", "F8_E5M2")
    ),
    Case("a type that does not exist", entry(dtype="F31"), "damaged or incomplete"),
    Case("another type of the same size", entry(dtype="I32"), f"tensor {re.escape(NORM)}: has type I32.*F32"),
    Case("eight bits", tensors(lambda found: found.update({NORM: np.ones(32, np.int8)})), "type I8.*not quantised"),
    Case("a tensor missing", tensors(lambda found: found.pop(NORM)), f"tensor {re.escape(NORM)}: missing"),
    Case(
        "a matrix transposed",
        tensors(lambda found: found.update({Q_PROJ: np.ascontiguousarray(found[Q_PROJ].T)})),
        rf"tensor {re.escape(Q_PROJ)}: has shape \[32, 96\], but the config asks for \[96, 32\]",
    ),
    Case(
        "a tensor without numbers",
        tensors(lambda found: found.update({NORM: np.zeros(0, np.float32)})),
        r"has shape \[0\]",
    ),
    Case("no tensors at all", lambda folder: save_file({}, weights(folder)), "embed_tokens.weight: missing"),
    Case("a folder for a file", replaced("model.safetensors", Path.mkdir), "not a regular file"),
    Case("a pipe for a file", replaced("model.safetensors", os.mkfifo), "not a regular file"),
    Case("a link to nothing", replaced("model.safetensors", lambda at: at.symlink_to("x")), "no such file"),
    Case("no weights", gone("model.safetensors"), "no \\*.safetensors"),
    Case("a pickle", renamed("model.safetensors", "pytorch_model.bin"), "pytorch_model.bin, a pickle.*never opened"),
    Case("a pickle of old", renamed("model.safetensors", "model.pt"), "model.pt, a pickle.*never opened"),
]


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def places(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the index's weight_map."""
    return lambda folder: edit_json(folder / INDEX, lambda index: change(index["weight_map"]))


def place(file: Any) -> Callable[[Path], None]:
    return places(lambda where: where.update({NORM: file}))


def in_another_shard(folder: Path) -> None:
    where = json.loads((folder / INDEX).read_text())["weight_map"]
    place(next(file.name for file in shards(folder) if file.name != where[NORM]))(folder)


def linked(target: str) -> Callable[[Path], None]:
    """A shard that is a link to something else."""

    def damage(folder: Path) -> None:
        (folder / "evil.safetensors").symlink_to(target)
        place("evil.safetensors")(folder)

    return damage


def index_twice(folder: Path) -> None:
    content = (folder / INDEX).read_text().rstrip().removesuffix("}")
    (folder / INDEX).write_text(content + ', "weight_map": {}}')


OUTSIDE = "places tensor 'model.norm.weight' in .*a shard is a .safetensors file beside"
SHARDED = [
    Case("a shard missing", lambda folder: shards(folder)[1].unlink(), "model-00002.*no such file", "sharded"),
    Case("a shard cut", lambda folder: os.truncate(shards(folder)[1], 1000), "model-00002.*damaged", "sharded"),
    Case("a pipe for a shard", lambda f: replaced(shards(f)[1].name, os.mkfifo)(f), "not a regular file", "sharded"),
    Case("a tensor in another shard", in_another_shard, "tensor model.norm.weight: the index says", "sharded"),
    Case("a tensor forgotten", places(lambda where: where.pop(NORM)), "tensor model.norm.weight: missing", "sharded"),
    Case("an empty map", places(dict.clear), "embed_tokens.weight: missing", "sharded"),
    Case("shards without an index", gone(INDEX), "no model.safetensors.index.json", "sharded"),
    *(
        Case(f"a place like {file!r}", place(file), OUTSIDE, "sharded")
        for file in ("../model.safetensors", "/etc/x.safetensors", "..", "", "a/b.safetensors", "a\\b.safetensors")
    ),
    *(
        Case(f"a place that is {file!r}", place(file), OUTSIDE, "sharded")
        for file in ("a.bin", "C:x.safetensors", "a\0b.safetensors", 5, None, ["a.safetensors"])
    ),
    *(
        Case(f"an index that is {content[:20]!r}", text(INDEX, content), "index.json: cannot be read", "sharded")
        for content in ("", "[]", "{}", '{"weight_map": 3}', "[" * 100_000, "\xff", '{"weight_map": NaN')
    ),
    Case("a place with a long name", place("x" * 300 + ".safetensors"), "xx.*File name too long", "sharded"),
    Case("a place with half a character", place("\ud800.safetensors"), r"\\ud800.safetensors: there is no", "sharded"),
    Case("a place with an escape", place("\x1b[2J\n.safetensors"), r"\\x1b\[2J .safetensors: there is no", "sharded"),
    Case("a place that is config.json", place("config.json"), OUTSIDE, "sharded"),
    Case("a link to another file", linked("/etc/passwd"), "evil.safetensors: cannot be read as safetensors", "sharded"),
    Case("a link to a device", linked("/dev/zero"), "evil.safetensors: is not a regular file", "sharded"),
    Case("an index with two maps", index_twice, "names 'weight_map' twice", "sharded"),
    Case("a pipe for an index", replaced(INDEX, os.mkfifo), "not a regular file|no \\*.safetensors", "sharded"),
    Case("a folder for an index", replaced(INDEX, Path.mkdir), "not a regular file", "sharded"),
]


def config_with(fields: dict[str, Any]) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(RAW | fields))


CONFIG = [
    Case("no config.json", gone("config.json"), "no config.json"),
    Case("a pipe for config.json", replaced("config.json", os.mkfifo), "no config.json"),
    Case("a folder for config.json", replaced("config.json", Path.mkdir), "no config.json"),
    *(
        Case(f"a config.json that is {content[:20]!r}", text("config.json", content), r"config\.json: cannot be read")
        for content in ("", "{", "[" * 100_000, "[1]", "3", '"x"', "\xff", '{"a": 1, "a": 2}', "null", "1" * 10_000)
    ),
    *(
        Case(f"config.json with {json.dumps(fields)[:90]}", config_with(fields), rf"config\.json: .*{words}")
        for fields, words in REFUSED
    ),
    Case(
        "a config.json of UTF-16", lambda f: (f / "config.json").write_bytes(json.dumps(RAW).encode("utf-16")), "UTF-8"
    ),
    Case(
        "a config.json with a byte order mark", text("config.json", "\xef\xbb\xbf{}"), r"config\.json: cannot be read"
    ),
    *(
        Case(
            f"config.json nested {depth} deep",
            text("config.json", f'{{"layer_types": {"[" * depth}{"]" * depth}}}'),
            "config",
        )
        for depth in (900, 950, 990, 3000)
    ),
    Case(
        "config.json is a link to itself", replaced("config.json", lambda at: at.symlink_to("config.json")), "no config"
    ),
    Case("config.json with an escape", config_with({"hidden_act": "x\x1b[2J\u202e"}), r'is "x\\u001b\[2J\\u202e"'),
    Case("layers without end", config_with({"num_hidden_layers": 2**31 - 1, "head_dim": 24}), "layers.3.*missing"),
]


def other_vocabulary(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zz"] = 300
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "tokenizer.json", change)


def step(part: str, **fields: Any) -> Callable[[Path], None]:
    """One part of the tokenizer replaced."""
    return tokenizer(lambda found: found.update({part: fields}))


def replacing(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in pairs]


def first_token(*ids: int) -> Callable[[Path], None]:
    """A token before every text, whose ids the file states."""
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    special = {"<s>": {"id": "<s>", "ids": ids, "tokens": ["<s>"] * len(ids)}}
    return step("post_processor", type="TemplateProcessing", single=single, pair=pair, special_tokens=special)


def doubled_at_the_end(times: int) -> Callable[[Path], None]:
    once = {"Sequence": {"id": "A", "type_id": 0}}
    pair = [once, {"Sequence": {"id": "B", "type_id": 0}}]
    twice = {"type": "TemplateProcessing", "single": [once, once], "pair": pair, "special_tokens": {}}
    return step("post_processor", type="Sequence", processors=[twice] * times)


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LONGER = r"may make a text 1,\d+,\d+.* times as long, and 100 times is the most"
TOKENIZER = [
    Case(
        "a text doubled again and again",
        step("normalizer", type="Sequence", normalizers=replacing(("a", "aa")) * 40),
        LONGER,
    ),
    Case("a text as bytes of bytes", step("pre_tokenizer", type="Sequence", pretokenizers=[BYTES] * 40), LONGER),
    Case("tokens doubled again and again", doubled_at_the_end(40), LONGER),
    Case(
        "pieces doubled again and again", step("decoder", type="Sequence", decoders=replacing(("a", "aa")) * 40), LONGER
    ),
    Case(
        "a table of gigabytes",
        step("normalizer", type="Precompiled", precompiled_charsmap="/////w=="),
        "charsmap that is cut",
    ),
    Case(
        "a table that is none",
        step("normalizer", type="Precompiled", precompiled_charsmap="?"),
        "charsmap that is cut short",
    ),
    Case("nothing replaced by something", step("normalizer", **replacing(("", "xx"))[0]), "json: cannot be read"),
    Case("pieces of no length", step("pre_tokenizer", type="FixedLength", length=0), "chunk size must be non-zero"),
    Case(
        "more letters stripped than there are",
        step("decoder", type="Strip", content="a", start=9, stop=9),
        "cannot be read",
    ),
    Case(
        "a broken expression", step("normalizer", type="Replace", pattern={"Regex": "("}, content=""), "cannot be read"
    ),
    Case("a first token of another model", first_token(99999), "ids up to 99999.*ends at 299.*another model"),
    Case("tokens by chance", tokenizer(lambda found: found["model"].update(dropout=0.5)), "dropout of 0.5"),
    Case("an id below zero", tokenizer(lambda found: found["model"]["vocab"].update(zz=-1)), "cannot be read"),
    Case("an id of 64 bits", tokenizer(lambda found: found["model"]["vocab"].update(zz=2**64)), "cannot be read"),
    Case(
        "no vocabulary in tokenizer.json",
        tokenizer(lambda found: found["model"].update(vocab={}, merges=[])),
        "ids up to -1",
    ),
    Case("a pipe for tokenizer.json", replaced("tokenizer.json", os.mkfifo), "tokenizer.json: .*not a regular file"),
    Case("a pipe beside it", lambda f: os.mkfifo(f / "tokenizer_config.json"), "_config.json: .*not a regular file"),
    Case("another model's tokenizer.json", other_vocabulary, "ids up to 300.*ends at 299.*another model"),
    *(
        Case(f"a tokenizer.json that is {content[:20]!r}", text("tokenizer.json", content), "tokenizer.json: cannot be")
        for content in ("", "{}", "[]", "\xff", "[" * 100_000, '{"version": "1.0", "model": {"type": "BPE"}}')
    ),
]


def gguf(
    change: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    bytes_: Callable[[bytes], bytes] = lambda raw: raw,
) -> Callable[[Path], None]:
    """A GGUF file in place of the folder's weights, with other metadata, tensors or bytes."""

    def damage(folder: Path) -> None:
        original, path = save_pair(folder / "made", num_hidden_layers=1)
        metadata, stored = contents(original, "llama", _tokenizer_of(path))
        metadata = {key: value for key, value in (metadata | (change or {})).items() if value is not None}
        stored = {name: value for name, value in (stored | (tensors or {})).items() if value is not None}
        write(path, metadata, stored)
        (folder / "model.gguf").write_bytes(bytes_(path.read_bytes()))
        shutil.rmtree(folder / "made")

    return damage


def _tokenizer_of(path: Path) -> dict[str, Any]:
    from tinymi.checkpoint.gguf.reader import Numbers, read

    found = {key: value for key, value in read(path).metadata.items() if key.startswith("tokenizer")}
    return {
        key: value.values.tolist() if isinstance(value, Numbers) else list(value) if isinstance(value, tuple) else value
        for key, value in found.items()
    }


def no_size(raw: bytes) -> bytes:
    """The last norm's one dimension set to 0."""
    at = raw.index(b"output_norm.weight") + len("output_norm.weight") + 4  # behind the number of dimensions
    return raw[:at] + bytes(8) + raw[at + 8 :]


def with_bytes(at: int, value: int, width: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + value.to_bytes(width, "little") + raw[at + width :]


def offset_of(raw: bytes, tensor: str) -> int:
    """Where the file says at which offset a matrix begins: behind its name, number of axes, two sizes and type."""
    return raw.index(tensor.encode()) + len(tensor) + 4 + 16 + 4


def on_another(raw: bytes) -> bytes:
    """Two tensors in one place."""
    to, of = (offset_of(raw, f"blk.0.attn_{part}.weight") for part in "vk")
    return raw[:to] + raw[of : of + 8] + raw[to + 8 :]


def between(raw: bytes) -> bytes:
    """A tensor four bytes behind its place."""
    at = offset_of(raw, "blk.0.attn_v.weight")
    return raw[:at] + (int.from_bytes(raw[at : at + 8], "little") + 4).to_bytes(8, "little") + raw[at + 8 :]


def frequencies(*values: float) -> dict[str, Any]:
    return {"rope_freqs.weight": np.resize(np.array(values, np.float32), 16)}


BROKEN_METADATA: list[tuple[dict[str, Any], str]] = [
    ({"llama.attention.head_count": 0}, "head_count is 0"),
    ({"llama.attention.head_count_kv": 3}, "head_count 4 is not a multiple of head_count_kv 3"),
    ({"llama.attention.key_length": 31}, "key_length is 31: RoPE needs an even"),
    ({"llama.rope.dimension_count": 16}, "dimension_count is 16"),
    ({"llama.embedding_length": 2**31 - 1}, r"has shape \[484, 64\], expected"),
    ({"llama.block_count": 2**31 - 1}, "blk.1.attn_norm.weight' is missing"),
    ({"llama.context_length": "x"}, "context_length is x"),
    ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_epsilon is nan"),
    ({"llama.rope.freq_base": 1e-38}, "freq_base is .*1e-30 to 1e30"),
    ({"llama.rope.scaling.type": "x"}, "rope.scaling.type is 'x'"),
    ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 1e38}, "scaling.factor is .*1e-30 to 1e30"),
    ({"llama.attention.sliding_window": 4096}, "sliding_window is 4096"),
    ({"llama.logit_softcap": 30.0}, "llama.logit_softcap is set to 30.0"),
    ({"llama.x\x1b[2J\n": 1}, r"llama.x\\x1b\[2J"),
    ({"llama.vocab_size": 7}, "vocab_size is 7, but the file lists 484"),
    ({"general.alignment": 3}, "alignment is 3"),
    ({"general.type": "adapter"}, "general.type is 'adapter'"),
    ({"split.count": 2}, "split.no is 0 and split.count 2, but by its name 0 and 1"),
    ({"split.count": "2", "split.no": [1, 2]}, "split.no is an array of 2 numbers"),
    ({"split.tensors.count": 2}, "split.tensors.count is 2, but its parts have 12"),
    ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model is 'bert'"),
    ({"tokenizer.ggml.pre": "unheard-of"}, "tokenizer.ggml.pre is 'unheard-of'"),
    ({"tokenizer.ggml.merges": ["zz qq"]}, "the merge 'zz qq'"),
    ({"tokenizer.ggml.token_type": [1, 2]}, "token_type is missing or broken"),
    ({"tokenizer.ggml.bos_token_id": 10**9}, "bos_token_id is 1000000000"),
    ({"tokenizer.ggml.add_bos_token": "yes"}, "add_bos_token is 'yes': true or false"),
]
OTHER_TYPE = {"blk.0.ffn_gate.weight": np.ones((96, 64), np.int32)}
GGUF = [
    Case("an empty GGUF file", gguf(bytes_=lambda raw: b""), "not a GGUF file", "gguf"),
    Case("another magic", gguf(bytes_=lambda raw: b"GGML" + raw[4:]), "begins with b'GGML'", "gguf"),
    Case("cut in the metadata", gguf(bytes_=lambda raw: raw[:200]), "truncated", "gguf"),
    Case("cut in the tensors", gguf(bytes_=lambda raw: raw[:-100]), "truncated", "gguf"),
    *(
        Case(f"a {what} of {value:,}", gguf(bytes_=with_bytes(at, value, width)), words, "gguf")
        for what, at, width, values, words in (
            ("GGUF version", 4, 4, (0, 1, 4, 3 << 24), "GGUF version .* is not supported"),
            ("number of tensors", 8, 8, (2**63, 2**64 - 1, 10**9), "truncated"),
            ("number of fields", 16, 8, (2**63, 2**64 - 1, 10**9), "truncated"),
        )
        for value in values
    ),
    *(
        Case(f"RoPE factors of {values}", gguf(tensors=frequencies(*values)), "rope_freqs.weight", "gguf")
        for values in ((0.0,), (-1.0,), (np.nan,), (np.inf,), (1e38, 1.0), (5.0,))
    ),
    *(Case(f"GGUF with {fields}"[:60], gguf(fields), words, "gguf") for fields, words in BROKEN_METADATA),
    Case("two tensors in one place", gguf(bytes_=on_another), "begins at .* inside the one before it", "gguf"),
    Case("a tensor out of line", gguf(bytes_=between), "not at a multiple of 32", "gguf"),
    Case("a tensor too many", gguf(tensors={"evil.weight": np.ones((32, 32))}), "'evil.weight' is not part", "gguf"),
    Case("another architecture", gguf({"general.architecture": "gemma3"}), "gemma3.*llama, qwen2, qwen3", "gguf"),
    Case("experts", gguf({"llama.expert_count": 8}), "expert_count is 8", "gguf"),
    Case("a type without numbers", gguf(tensors=OTHER_TYPE), "'blk.0.ffn_gate.weight' is of type I32", "gguf"),
    Case("a tensor of no size", gguf(bytes_=no_size), "'output_norm.weight' has shape \\[0\\]: sizes of 1", "gguf"),
    Case("no vocabulary", gguf({"tokenizer.ggml.tokens": None}), "tokenizer.ggml.tokens is missing", "gguf"),
    Case("a tensor missing in GGUF", gguf(tensors={"output_norm.weight": None}), "output_norm.weight' is mis", "gguf"),
]

CASES = [*SAFETENSORS, *SHARDED, *CONFIG, *TOKENIZER, *GGUF]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "single": save_variant(tmp_path_factory.mktemp("single"), "llama-free-head"),
        "sharded": save_variant(tmp_path_factory.mktemp("sharded"), "llama-sharded"),
        "gguf": tmp_path_factory.mktemp("gguf"),
    }


@pytest.fixture(scope="module")
def broken(good: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What each case gives as --model."""
    folders = []
    for number, case in enumerate(CASES):
        folder = tmp_path_factory.mktemp(f"case{number}") / "model"
        shutil.copytree(good[case.kind], folder)
        case.damage(folder)
        folders.append(folder / "model.gguf" if case.kind == "gguf" else folder)
    return folders


def test_the_undamaged_checkpoints_are_good(good: dict[str, Path], tmp_path: Path) -> None:
    gguf()(tmp_path)
    for source in (good["single"], good["sharded"], tmp_path / "model.gguf"):
        model = tinymi.load(source)
        assert np.isfinite(model(model.to_tokens("abc"))).all()


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_a_broken_checkpoint_is_refused(number: int, broken: list[Path]) -> None:
    with pytest.raises(tinymi.TinymiError, match=rf"(?s){CASES[number].words}") as caught:
        tinymi.load(broken[number])
    message = str(caught.value)
    assert "\n" not in message
    assert 40 < len(message) < 700, message


def test_a_lesson_says_so_in_one_line_and_exits_with_2(broken: list[Path], tmp_path: Path) -> None:
    runs = [["--model", str(source)] for source in broken]
    for case, done in zip(CASES, run_lesson_often("00_quick_start", runs, tmp_path), strict=True):
        assert done.returncode == 2, f"{case.name}: {done.stderr}"
        assert len(done.stderr.splitlines()) == 1, f"{case.name}: {done.stderr}"
        assert done.stderr.startswith("error: ")
        assert re.search(case.words, done.stderr), f"{case.name}: {done.stderr}"
        assert "Model:" not in done.stdout


# --- what looks broken and is not ------------------------------------------------------------------------------


def test_a_file_cut_at_any_boundary_is_refused(tmp_path: Path) -> None:
    path = weights(save_variant(tmp_path, "llama-free-head"))
    whole = path.read_bytes()
    found, data = parts(path)
    start = len(whole) - len(data)
    ends = {start + at for name, entry in found.items() if name != "__metadata__" for at in entry["data_offsets"]}
    boundaries = {*range(9), *range(start - 3, start + 1), *ends, *(end - 1 for end in ends)} - {len(whole)}
    assert len(boundaries) > 60
    for boundary in sorted(boundaries):
        path.write_bytes(whole[:boundary])
        with pytest.raises(tinymi.WeightsError, match="damaged or incomplete"):
            tinymi.load(tmp_path)


@pytest.mark.parametrize("kind", ["BOOL", "U8", "I64", "F8_E4M3"])
def test_more_tensors_than_needed_and_odd_addresses_change_nothing(kind: str, tmp_path: Path) -> None:
    tokens = np.arange(6)[None]
    expected = tinymi.load(save_variant(tmp_path, "llama-free-head"))(tokens)
    found, data = parts(weights(tmp_path))
    extra = 8 if kind == "I64" else 3
    for name, entry in found.items():
        if name != "__metadata__":
            entry["data_offsets"] = [at + extra for at in entry["data_offsets"]]
    found["more"] = {"dtype": kind, "shape": [1 if kind == "I64" else 3], "data_offsets": [0, extra]}
    put(weights(tmp_path), found, bytes(extra) + data)
    assert np.array_equal(tinymi.load(tmp_path)(tokens), expected)


def poison(folder: Path, name: str, *values: float) -> None:
    """Put these numbers at the beginning of a tensor."""
    found = load_file(weights(folder))
    changed = found[name].copy()
    changed.reshape(-1)[: len(values)] = values
    save_file(found | {name: changed}, weights(folder))


@pytest.mark.parametrize("kept", ["loaded", "mapped"])
@pytest.mark.parametrize("values", [(np.nan,), (np.inf,), (-np.inf, np.inf, np.nan)])
def test_numbers_that_are_none_are_warned_of_by_name(values: tuple[float, ...], kept: Any, tmp_path: Path) -> None:
    poison(save_variant(tmp_path, "llama-free-head"), Q_PROJ, *values)
    words = rf"tensor {re.escape(Q_PROJ)}: {len(values)} of 3,072 numbers are NaN or infinite"
    with pytest.warns(tinymi.WeightsWarning, match=words), np.errstate(all="ignore"):
        assert not np.isfinite(tinymi.load(tmp_path, weights=kept)([[1, 2]])).all()


def test_numbers_too_large_for_float32_are_warned_of_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    found = load_file(weights(save_variant(tmp_path, "llama-free-head")))
    save_file(found | {Q_PROJ: found[Q_PROJ].astype(np.float64) * 1e300}, weights(tmp_path))
    tinymi.load(tmp_path)
    assert [str(warning.message).split(":")[0] for warning in recwarn.list] == [f"tensor {Q_PROJ}"]


def test_large_numbers_are_numbers(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    poison(save_variant(tmp_path, "llama-free-head"), Q_PROJ, 3e38, -3e38)
    tinymi.load(tmp_path)
    assert not recwarn.list


def test_a_lesson_says_each_warning_in_one_line(tmp_path: Path) -> None:
    poison(save_variant(tmp_path / "model", "llama-free-head"), "model.norm.weight", np.nan)
    edit_json(tmp_path / "model" / "config.json", lambda config: config.update({"shoe\n\x1b[2J": 43}))
    (tmp_path / "out").mkdir()
    (done,) = run_lesson_often("00_quick_start", [["--model", str(tmp_path / "model")]], tmp_path / "out")
    assert done.returncode == 1, "the checks fail"
    lines = done.stderr.splitlines()
    assert lines[0].startswith("warning: config.json: fields that are not known here are passed over: shoe \\x1b[2J 43")
    assert lines[1].startswith("warning: tensor model.norm.weight: 1 of 32 numbers are NaN or infinite")
    assert "Traceback" not in done.stderr
