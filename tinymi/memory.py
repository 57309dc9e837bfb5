"""How much memory there is, and a refusal with numbers before a model asks for more."""

import os
from pathlib import Path

from tinymi.errors import MemoryShortageError

VARIABLE = "TINYMI_SKIP_MEMORY_CHECK"


def require(what: str, needed_bytes: int, instead: str) -> None:
    """Raise MemoryShortageError unless so many bytes are available. instead: what else the user can do.

    Set TINYMI_SKIP_MEMORY_CHECK=1 to try all the same.
    """
    if not needed_bytes or os.environ.get(VARIABLE, "0") not in ("", "0"):
        return
    free = available_bytes()
    if needed_bytes > free:
        raise MemoryShortageError(
            f"{what}: needs {_mib(needed_bytes)} of memory, and {_mib(free)} are available; close other programs, "
            f"{instead}, or set {VARIABLE}=1 to try it all the same"
        )


def available_bytes(root: Path = Path("/")) -> int:
    """Bytes that this process can have without swapping: the machine's, or less where a control group allows less."""
    import psutil

    return min([psutil.virtual_memory().available, *_group_limits(root)])


def _group_limits(root: Path) -> list[int]:
    """What is left of the limits of this process's control groups (containers, batch systems). Linux; else empty."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root / "sys/fs/cgroup" / controllers
            group = top / place.lstrip("/")
            names = ("memory.max", "memory.current") if not controllers else _VERSION_1
            # Inside a container the path may be the host's, which is not there; its own limit lies at the top.
            left += [_left(folder, *names) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return [number for number in left if number is not None]


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _left(group: Path, limit: str, used: str) -> int | None:
    """A group's limit less what it uses, files that can be dropped at need left aside."""
    try:
        most, now = int((group / limit).read_text()), int((group / used).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None
    return max(most - now + int(stat.get("total_inactive_file", stat.get("inactive_file", 0))), 0)


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
