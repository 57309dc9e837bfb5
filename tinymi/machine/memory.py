"""How much memory there is, and a refusal with numbers before a model asks for more."""

import os
import warnings
from pathlib import Path

from tinymi.errors import MemoryShortageError, MemoryWarning
from tinymi.machine.browser import IN_BROWSER, MOST_MEMORY

VARIABLE = "TINYMI_SKIP_MEMORY_CHECK"


def require(what: str, needed_bytes: int, instead: str) -> None:
    """Raise MemoryShortageError unless so many bytes are available. instead: what else the user can do.

    Warns (MemoryWarning) where the system does not say how much is available. Set TINYMI_SKIP_MEMORY_CHECK=1 to try
    all the same.
    """
    if not needed_bytes or os.environ.get(VARIABLE, "0") not in ("", "0"):
        return
    available = available_bytes()
    if available is None:
        warnings.warn(
            f"{what}: needs {_mib(needed_bytes)} of memory; how much is available is unknown without psutil, which "
            "`pip install psutil` installs",
            MemoryWarning,
            stacklevel=2,
        )
    elif needed_bytes > available:
        raise MemoryShortageError(
            f"{what}: needs {_mib(needed_bytes)} of memory, and {_mib(available)} are available; close other programs, "
            f"{instead}, or set {VARIABLE}=1 to try it all the same"
        )


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process can have without swapping: the machine's, or less where a control group allows less.

    In a browser's tab: what could be had at most. None where neither /proc/meminfo (Linux) nor psutil says it.
    """
    machine = MOST_MEMORY if IN_BROWSER else _meminfo(root)
    if machine is None:
        machine = _psutil()
    return None if machine is None else min([machine, *_group_limits(root)])


def _meminfo(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].removesuffix("kB")) * 1024
    except (OSError, LookupError, ValueError):
        return None


def _psutil() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


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
            # Inside a container the path may be the host's, which does not exist here; its own limit is at the top.
            left += [_left(folder, *names) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return [number for number in left if number is not None]


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _left(group: Path, limit: str, used: str) -> int | None:
    """A group's limit minus what it uses, not counting files that the system can drop."""
    try:
        most, now = int((group / limit).read_text()), int((group / used).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None
    return max(most - now + int(stat.get("total_inactive_file", stat.get("inactive_file", 0))), 0)


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
