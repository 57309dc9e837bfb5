"""Broken versions of good files: a few random changes, to the bytes or to what the format says."""

import json
from random import Random
from typing import Any

NUMBERS = [0, 1, -1, 2, 3, 7, 8, 31, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        "",
        "x",
        "\0",
        "\x1b[2J\n",
        "\u202e",
        "../../etc/passwd",
        "F32",
        "BF16",
        "I8",
        "llama",
        "Qwen2",
    ),
    *(0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), 10**30, [], {}, [[]], [1] * 50, {"a": {"b": {}}}),
    *NUMBERS,
]


def some_bytes(data: bytes, random: Random) -> bytes:
    """One to four changes: bytes set, a number written over, a range cut out, doubled or moved, the end cut off."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        _change(changed, random)
    return bytes(changed)


def _change(data: bytearray, random: Random) -> None:
    if not data:
        data += random.randbytes(random.randint(1, 64))
        return
    at = random.randrange(min(len(data), random.choice((64, 2000, 10**9))))
    size = random.choice((1, 2, 4, 8, random.randint(1, 200)))
    match random.randrange(6):
        case 0:
            data[at : at + 1] = random.randbytes(1)
        case 1:
            width = random.choice((1, 2, 4, 8))
            value = random.choice(NUMBERS) % 256**width
            data[at : at + width] = value.to_bytes(width, random.choice(("little", "big")))
        case 2:
            del data[at : at + size]
        case 3:
            data[at:at] = data[at : at + size]
        case 4:
            to = random.randrange(len(data))
            data[to : to + size] = data[at : at + size]
        case _:
            if random.random() < 0.3:
                del data[at:]


def json_text(data: bytes, random: Random) -> bytes:
    """One to three values of a JSON text replaced, removed, renamed or exchanged; sometimes only its bytes changed."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return some_bytes(data, random)
    if random.random() < 0.1:
        return some_bytes(data, random)
    for _ in range(random.randint(1, 3)):
        value = _changed(value, random)
    return json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


def safetensors(data: bytes, random: Random) -> bytes:
    """A file whose header says something else, mostly under the right length."""
    size = int.from_bytes(data[:8], "little")
    if random.random() < 0.3 or size > len(data) - 8:
        return some_bytes(data, random)
    header = json_text(data[8 : 8 + size], random)
    stated = len(header) if random.random() < 0.95 else random.choice(NUMBERS) % 2**64
    return stated.to_bytes(8, "little") + header + data[8 + size :]


def _changed(value: Any, random: Random) -> Any:
    """One place anywhere in `value` changed."""
    inner = [value] if isinstance(value, dict | list) and value else []
    for container in inner:  # grows while it is walked: all that are below, too
        below = container.values() if isinstance(container, dict) else container
        inner += [part for part in below if isinstance(part, dict | list) and part]
    if not inner:
        return random.choice(VALUES)
    place = random.choice(inner)
    key: Any = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
    _change_entry(place, key, random)
    return value


def _change_entry(place: Any, key: Any, random: Random) -> None:
    match random.randrange(5):
        case 0:
            del place[key]
        case 1 if isinstance(place, dict):
            place[str(random.choice(VALUES))] = place.pop(key)
        case 2:
            other = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
            place[key], place[other] = place[other], place[key]
        case 3 if isinstance(place[key], int | float):
            place[key] = place[key] + random.choice((1, -1, 0.5)) if random.random() < 0.7 else place[key] * 2
        case _:
            place[key] = random.choice(VALUES)
