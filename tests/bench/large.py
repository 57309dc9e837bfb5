"""What larger models take, in time and memory: `python -m tests.bench.large FOLDER`.

    --only load,lessons,mapped    some of the rows: one model each

Makes checkpoints of their shapes with random BF16 weights in FOLDER (2.5 + 6.2 + 16 GB), which a second run finds
there; delete them afterwards. `own` is the memory at most without mapped files, which the system takes back at need.
"""

import json
import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.timing import Process, processes_side_by_side, run_process, run_script
from tests.running import ROOT
from tinymi.checkpoint.config_json import read_config
from tinymi.checkpoint.find import folder_for
from tinymi.checkpoint.mapped_weights import tensor_shapes

import numpy as np
from tabulate import tabulate

LLAMA3_ROPE = {
    "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192,
        "vocab_size": 128256, "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": LLAMA3_ROPE | {"factor": 32.0}, "max_position_embeddings": 131072,
    },
    "Qwen2.5-Coder-3B": {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "intermediate_size": 11008, "vocab_size": 151936,
        "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 32768,
    },
    "Llama-3.1-8B": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": LLAMA3_ROPE | {"factor": 8.0}, "max_position_embeddings": 131072,
    },
}  # fmt: skip
SHARD = 5 * 10**9  # bytes in a shard, at most about so many


def random_checkpoint(folder: Path, name: str, tokenizer: Path) -> Path:
    """A checkpoint of the model's shape in `folder`, sharded above 5 GB, with another model's tokenizer.json."""
    if (folder / "complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name] | {"torch_dtype": "bfloat16"}))
    shutil.copy(tokenizer, folder / "tokenizer.json")
    shards = list(_shards(dict(tensor_shapes(read_config(folder)))))
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        where = {tensor: file for file, shard in zip(names, shards, strict=True) for tensor in shard}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    for file, shard in zip(names, shards, strict=True):
        _write(folder / file, shard)
    (folder / "complete").touch()
    return folder


def _shards(shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    shard: dict[str, tuple[int, ...]] = {}
    size = 0
    for name, shape in shapes.items():
        if shard and size + 2 * int(np.prod(shape)) > SHARD:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += 2 * int(np.prod(shape))
    yield shard


def _write(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Normal numbers of standard deviation 0.02, ones for the norms, as safetensors in BF16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    normal = (0.02 * rng.standard_normal(2**24, dtype=np.float32)).view(np.uint32) >> 16
    values = normal.astype(np.uint16)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            left = int(np.prod(shape))
            if "norm" in name:
                file.write(np.full(left, 0x3F80, np.uint16).tobytes())  # 1.0
                continue
            while left:
                start = int(rng.integers(len(values) // 2))
                part = values[start : start + left]
                file.write(part.tobytes())
                left -= len(part)


HF_LOGITS = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    print(model(torch.tensor([[504, 3575, 282, 4649, 314, 260]])).logits.argmax())
"""
TINYMI_LOGITS = """
import sys, tinymi
model = tinymi.load(sys.argv[1], weights=sys.argv[2])
print(model([[504, 3575, 282, 4649, 314, 260]]).argmax())
"""
LESSONS = ("02_inspect_weights", "06_logit_attribution", "04_token_prediction_sweep")


def load(make: Callable[[str], Path]) -> Iterator[list[object]]:
    name = "Llama-3.2-1B"
    processes = processes_side_by_side([HF_LOGITS, TINYMI_LOGITS], 3, str(make(name)), "loaded")
    for who, process in zip(("Hugging Face", "tinymi"), processes, strict=True):
        yield cells(f"{name}: start to first logits, {who}", process)


def lessons(make: Callable[[str], Path]) -> Iterator[list[object]]:
    name = "Qwen2.5-Coder-3B"
    folder = make(name)
    for lesson in LESSONS:
        yield cells(f"{name}: lesson {lesson}", run_script(ROOT / "lessons" / f"{lesson}.py", "--model", str(folder)))


def mapped(make: Callable[[str], Path]) -> Iterator[list[object]]:
    name = "Llama-3.1-8B"
    yield cells(f"{name}: start to first logits, weights mapped", run_process(TINYMI_LOGITS, str(make(name)), "mapped"))


def cells(work: str, process: Process) -> list[object]:
    return [work, f"{process.seconds:,.1f}", f"{process.own_mib:,.0f}", f"{process.peak_mib:,.0f}"]


ROWS = {"load": load, "lessons": lessons, "mapped": mapped}


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the checkpoints are made")
    parser.add_argument("--only", default=",".join(ROWS), help="some of the rows")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(ROWS):
        parser.error(f"--only takes {', '.join(ROWS)}, not {', '.join(unknown)}")

    def make(name: str) -> Path:
        return random_checkpoint(options.folder / name, name, folder_for() / "tokenizer.json")

    rows = [row for name in options.only.split(",") for row in ROWS[name](make)]
    headers = ["work", "seconds", "own, MiB", "with mapped files"]
    print(tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 3)))


if __name__ == "__main__":
    main()
