"""What a model's numbers are: whose weights, in which type they were stored, and whether it was trained to chat."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from tinymi.checkpoint import default_model, downloads
from tinymi.checkpoint.safetensors_file import open_folder

_QUANTISED = re.compile(r"\D*(\d)\w*_\w+|(?:MX|NV)FP(\d)")  # Q4_1, IQ3_XXS: the first digit is the number of bits
_CHAT_NAMES = re.compile(r"instruct|chat", re.IGNORECASE)


@dataclass(frozen=True)
class Provenance:
    """Where a model's weights come from."""

    source: str  # a name, a hub id or a path
    stored_as: str  # the type of most of its weights in their file, such as BF16 or Q4_1
    chat: bool  # whether it was trained to answer in a chat

    def __str__(self) -> str:
        """SmolLM2-135M-Instruct, weights rounded to 4 bits (Q4_1), run on raw text without its chat template."""
        bits = _QUANTISED.fullmatch(self.stored_as)
        stored = f"rounded to {bits[1] or bits[2]} bits ({self.stored_as})" if bits else f"stored as {self.stored_as}"
        raw = ", run on raw text without its chat template" if self.chat else ""
        return f"{self.source}, weights {stored}{raw}"


def provenance(source: str | None, folder: Path) -> Provenance:
    """Of the model that `source` names; `folder` is what `find.folder_for` gives for it. Raises a TinymiError."""
    if source is None or folder.resolve() == (downloads.home() / default_model.NAME).resolve():
        quantisation = PurePath(default_model.GGUF_IN_WHEEL).stem.rpartition(".")[2]
        return Provenance(default_model.NAME, quantisation, chat=True)
    tensors = _gguf_tensors(Path(source)) if source.lower().endswith(".gguf") else _safetensors(folder)
    return described(source, tensors, _has_chat_template(folder))


def described(source: str, tensors: Iterable[tuple[str, tuple[int, ...]]], has_chat_template: bool) -> Provenance:
    """Of a model whose tensors have these types and shapes."""
    sizes: Counter[str] = Counter()
    for name, shape in tensors:
        sizes[name] += math.prod(shape)
    chat = has_chat_template or _CHAT_NAMES.search(PurePath(source).name) is not None
    return Provenance(source, sizes.most_common(1)[0][0], chat)


def _gguf_tensors(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    from tinymi.checkpoint.gguf.reader import read

    return [(tensor.kind.name, tensor.shape) for tensor in read(path.expanduser()).tensors.values()]


def _safetensors(folder: Path) -> list[tuple[str, tuple[int, ...]]]:
    return [(tensor.dtype, tensor.shape) for tensor in open_folder(folder).values()]


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return "chat_template" in json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False
