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
    stored_as = _gguf_type(Path(source)) if source.lower().endswith(".gguf") else _safetensors_type(folder)
    return Provenance(source, stored_as, _chats(source, folder))


def _gguf_type(path: Path) -> str:
    from tinymi.checkpoint.gguf.reader import read

    tensors = read(path.expanduser()).tensors.values()
    return _main_type((tensor.kind.name, tensor.shape) for tensor in tensors)


def _safetensors_type(folder: Path) -> str:
    return _main_type((tensor.dtype, tensor.shape) for tensor in open_folder(folder).values())


def _main_type(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """The type in which most numbers are stored. tensors: type and shape of each."""
    sizes: Counter[str] = Counter()
    for name, shape in tensors:
        sizes[name] += math.prod(shape)
    return sizes.most_common(1)[0][0]


def _chats(source: str, folder: Path) -> bool:
    """Whether the folder has a chat template, or the name says that there should be one."""
    if (folder / "chat_template.jinja").is_file() or _CHAT_NAMES.search(PurePath(source).name):
        return True
    try:
        return "chat_template" in json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False
