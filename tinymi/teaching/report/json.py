"""A lesson as JSON: everything that was printed, as strict JSON in UTF-8, written in one step."""

import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinymi.errors import InputError
from tinymi.teaching.report.items import Attention, Check, Document, Finding, Headline, Item, Step

import numpy as np

RESERVED = ("lesson", "tinymi_version", "command", "options", "model", "checks", "findings", "report")
# Never raw in the file: what could drive the terminal of someone who prints it. JSON has its own spelling for each.
_CONTROLS = re.compile(
    r"[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_DIGITS = 5


def to_json(document: Document, fields: Mapping[str, Any]) -> str:
    """The whole document as JSON text: the frame's own fields, the lesson's `fields`, and every item as `report`."""
    if taken := set(fields) & set(RESERVED):
        raise ValueError(f"lesson.json may not set {sorted(taken)}: the frame writes {list(RESERVED)}")
    items = document.items
    whole = {
        "lesson": document.title,
        "tinymi_version": document.version,
        "command": document.command,
        "options": document.options,
        "model": document.model,
        **fields,
        "checks": [_item(item) for item in items if isinstance(item, Check)],
        "findings": [_item(item) for item in items if isinstance(item, Finding)],
        "report": [{"kind": item.kind, **_item(item), **_picture(item, items)} for item in items],
    }
    text = json.dumps(plain_data(whole), ensure_ascii=False, allow_nan=False, indent=1)
    return _CONTROLS.sub(_escape, text) + "\n"


def plain_data(value: Any) -> Any:
    """`value` with NumPy's types, tuples, sets and paths turned into JSON's own; what is no finite number is None."""
    if isinstance(value, np.ndarray):
        return plain_data(value.tolist())
    if isinstance(value, np.generic):
        return plain_data(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_data(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [plain_data(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value)


def _item(item: Item) -> dict[str, Any]:
    entry = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if isinstance(item, Check):
        entry["passed"] = item.passed
    if isinstance(item, Attention):
        entry["patterns"] = {
            layer: np.round(pattern.astype(float), _DIGITS) for layer, pattern in item.patterns.items()
        }
    if isinstance(item, Step):
        entry["numbers"] = np.round(item.numbers.astype(float), _DIGITS)
    return entry


def _picture(item: Item, items: Sequence[Item]) -> dict[str, Any]:
    """A headline's picture is an item of the report, too: its number there."""
    if not isinstance(item, Headline):
        return {}
    return {"picture": next((number for number, other in enumerate(items) if other is item.picture), None)}


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match.group())[1:-1]


def require_writable(path: str, option: str) -> None:
    """Refuse a file that could not be written at the end, before the work begins."""
    target = Path(path)
    folder = target.parent
    try:
        if target.is_dir():
            raise InputError(f"{option} {path}: this is a folder; give the name of a file in it")
        if not folder.is_dir():
            raise InputError(f"{option} {path}: there is no folder {folder}; create it first")
        if target.exists() and not target.is_file():
            target.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written ({error.strerror}); choose another file") from None


def write_text(path: str, text: str) -> None:
    """Write `text` so that a reader sees the old file or the whole new one, never a part. Raises InputError."""
    try:
        _write(Path(path), text)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); make room or name another file"
        ) from None


def _write(target: Path, text: str) -> None:
    payload = text.encode("utf-8")
    if target.exists() and not target.is_file():  # a pipe or a device is written, not replaced
        target.write_bytes(payload)
        return
    target = target.resolve()  # a link stays a link
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
        os.chmod(part, target.stat().st_mode if target.exists() else 0o666 & ~_umask())
        os.replace(part, target)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
