"""Times that can be trusted on a busy machine: theirs and ours in turn, medians, and the machine's own limits."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def seconds_after_pause(work: Callable[[], object]) -> float:
    time.sleep(0.1)
    return seconds(work)


def side_by_side(theirs: Callable[[], object], ours: Callable[[], object], repeat: int) -> tuple[float, float]:
    """The median seconds of both, run in turn, so that both are disturbed alike; round 1 is not counted.

    A pause stands before each: the threads of the other's matrix library go on looking for work for a while, and
    would take half of the processors from the first milliseconds.
    """
    rounds = [(seconds_after_pause(theirs), seconds_after_pause(ours)) for _ in range(repeat + 1)][1:]
    their_time, our_time = np.median(rounds, axis=0)
    return float(their_time), float(our_time)


@dataclass(frozen=True)
class Process:
    """What a whole process took."""

    seconds: float
    peak_mib: float  # resident at most, mapped files included
    own_mib: float  # resident at most, mapped files left aside; looked at often


def run_process(code: str, *arguments: str) -> Process:
    """Run Python code in a process of its own, from its start to its end."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=errors)
        peak, own = 0.0, 0.0
        while child.poll() is None:
            now = memory(child.pid)
            peak, own = max(peak, now.get("VmHWM", 0)), max(own, now.get("RssAnon", 0))
            time.sleep(0.005)
        elapsed = time.perf_counter() - start
        if child.returncode:
            errors.seek(0)
            raise RuntimeError(errors.read().decode(errors="replace")[-2000:])
    return Process(elapsed, peak, own)


def run_script(path: Path, *arguments: str) -> Process:
    """Run a script with its arguments, in the same way."""
    code = 'import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")'
    return run_process(code, str(path), *arguments)


def memory(pid: int) -> dict[str, float]:
    """MiB of a process as Linux tells them (VmHWM: resident at most, RssAnon: now, without mapped files).

    Not the usage that wait4 gives: that begins with what the parent held when it started the child.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended, or this is no Linux
        return {}
    words = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(number) / 1024 for name, number, _ in words}


def processes_side_by_side(codes: Sequence[str], repeat: int, *arguments: str) -> list[Process]:
    """The medians of several processes, run in turn; the first round only warms the disk's cache."""
    rounds = [[run_process(code, *arguments) for code in codes] for _ in range(repeat + 1)][1:]
    medians = np.median([[astuple(process) for process in one] for one in rounds], axis=0)  # [codes, fields]
    return [Process(*map(float, row)) for row in medians]


@dataclass(frozen=True)
class Machine:
    """What this machine can do at best: float32 operations and bytes read per second, with NumPy."""

    flops: float
    bandwidth: float

    def limit(self, multiply_adds: float, read_bytes: float) -> float:
        """No run that does so much arithmetic and reads so many bytes can take fewer seconds."""
        return max(2 * multiply_adds / self.flops, read_bytes / self.bandwidth)


def measure_machine() -> Machine:
    a = np.ones((2048, 2048), np.float32)
    matmul = min(seconds(lambda: a @ a) for _ in range(5))
    wide = np.ones((2 * 2048, 32 * 2048), np.float32)  # 1 GiB: more than any cache holds
    row = np.ones(32 * 2048, np.float32)
    read = min(seconds(lambda: wide @ row) for _ in range(5))
    return Machine(flops=2 * 2048**3 / matmul, bandwidth=wide.nbytes / read)
