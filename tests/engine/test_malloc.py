"""glibc is asked to keep freed memory, and what the user has set stays."""

import os
import subprocess
import sys
from types import SimpleNamespace

from tinymi.machine.malloc import MMAP_THRESHOLD, SET_BY_USER, TRIM_THRESHOLD, keep_freed_memory

import pytest

ARRAYS = """
import resource, sys
{before}
import numpy as np
def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        a, b = np.ones(700_000, np.float32), np.ones(700_000, np.float32)  # 2.8 MB each
        del a, b
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
faults()
print(faults())
"""


def page_faults(before: str) -> int:
    """In a process whose user has set nothing. Here Dask may have: other tests start it."""
    env = {name: value for name, value in os.environ.items() if name not in SET_BY_USER}
    command = [sys.executable, "-c", ARRAYS.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return int(done.stdout)


@pytest.mark.skipif(not keep_freed_memory({}), reason="not glibc")
def test_arrays_of_a_forward_pass_are_made_without_new_pages() -> None:
    assert page_faults("") > 5000  # the control: without tinymi
    assert page_faults("import tinymi") < 100


@pytest.mark.parametrize("name", SET_BY_USER)
def test_what_the_user_has_set_stays(name: str) -> None:
    calls: list[tuple[int, int]] = []
    assert not keep_freed_memory({name: ""}, SimpleNamespace(mallopt=lambda *call: calls.append(call)))
    assert calls == []


def test_both_thresholds_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    options: dict[int, int] = {}
    glibc = SimpleNamespace(mallopt=lambda name, value: options.update({name: value}) or 1)
    assert keep_freed_memory({}, glibc)
    assert options == {-1: TRIM_THRESHOLD, -3: MMAP_THRESHOLD}


@pytest.mark.parametrize("libc", [SimpleNamespace(), SimpleNamespace(mallopt=lambda name, value: 0)])
def test_a_library_that_cannot_or_will_not_is_no_error(libc: object) -> None:
    assert not keep_freed_memory({}, libc)


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory({}, SimpleNamespace(mallopt=lambda name, value: 1))
