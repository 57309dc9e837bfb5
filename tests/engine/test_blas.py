"""BLAS kernels and threads: when tinymi sets them, and that what the user has set and a loaded NumPy stay."""

import os
import subprocess
import sys
from pathlib import Path

from tinymi.machine import blas

import pytest

AVX512 = "fpu sse4_2 avx2 fma avx512f avx512dq avx512cd avx512bw avx512vl"


def cpuinfo(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: Made Up 9000\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    return path


@pytest.fixture(autouse=True)
def nothing_chosen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_chosen", {})
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "", "", "", "x86_64")), raising=False)


def test_avx512_is_used(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    assert blas.request_avx512_kernels(environ, (), cpuinfo(tmp_path, AVX512)) == "SkylakeX"
    assert environ == {"OPENBLAS_CORETYPE": "SkylakeX"}
    assert "AVX-512" in blas.chosen()["OPENBLAS_CORETYPE"]


@pytest.mark.parametrize("missing", ["avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"])
def test_a_processor_without_all_of_it_is_left_alone(missing: str, tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    assert blas.request_avx512_kernels(environ, (), cpuinfo(tmp_path, AVX512.replace(missing, ""))) is None
    assert environ == {}
    assert blas.chosen() == {}


@pytest.mark.parametrize("own", ["", "Haswell"])
def test_kernels_that_the_user_chose_stay(own: str, tmp_path: Path) -> None:
    environ = {"OPENBLAS_CORETYPE": own}
    assert blas.request_avx512_kernels(environ, (), cpuinfo(tmp_path, AVX512)) is None
    assert environ == {"OPENBLAS_CORETYPE": own}


def test_a_loaded_numpy_keeps_its_kernels(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    assert blas.request_avx512_kernels(environ, ("os", "numpy"), cpuinfo(tmp_path, AVX512)) is None
    assert environ == {}


@pytest.mark.parametrize(("platform", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_other_machines_are_left_alone(
    platform: str, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", machine)), raising=False)
    assert blas.request_avx512_kernels({}, (), cpuinfo(tmp_path, AVX512)) is None


def test_no_cpuinfo_is_no_error(tmp_path: Path) -> None:
    assert blas.request_avx512_kernels({}, (), tmp_path / "none") is None


def run_python(code: str, **environment: str) -> str:
    """What the code prints in a new process, in which the user has set nothing but `environment`."""
    user = {name: value for name, value in os.environ.items() if name not in (blas.CORETYPE, *blas.THREADS)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=user | environment
    )
    return done.stdout.strip()


# --- threads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "load", "n_threads"),
    [(2, 0.0, 2), (2, 0.4, 2), (2, 0.6, 1), (2, 7.8, 1), (8, 0.0, 8), (8, 3.2, 5), (8, 20.0, 1), (1, 0.0, 1)],
)
def test_as_many_threads_as_idle_cores(cores: int, load: float, n_threads: int) -> None:
    environ: dict[str, str] = {}
    assert blas.choose_threads(environ, (), cores, load) == n_threads
    assert environ == {"OPENBLAS_NUM_THREADS": str(n_threads)}
    assert f"{cores} cores with a load of {load:.1f}" in blas.chosen()["OPENBLAS_NUM_THREADS"]


@pytest.mark.parametrize("variable", ["OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"])
def test_threads_that_the_user_chose_stay(variable: str) -> None:
    environ = {variable: "7"}
    assert blas.choose_threads(environ, (), 4, 0.0) is None
    assert environ == {variable: "7"}
    assert blas.chosen() == {}


def test_a_loaded_numpy_keeps_its_threads() -> None:
    environ: dict[str, str] = {}
    assert blas.choose_threads(environ, ("numpy",), 4, 0.0) is None
    assert environ == {}


def test_a_system_without_a_load_average_counts_as_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert blas.load_average() == 0.0
    assert blas.choose_threads({}, (), cores=4) == 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not tie processes to cores")
def test_only_cores_that_this_process_may_use_count() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from tinymi.machine import blas; print(blas.usable_cores())"
    assert run_python(code) == "1"


@pytest.mark.parametrize(("load", "n_threads"), [(0.0, blas.usable_cores()), (99.0, 1)])
def test_openblas_takes_the_number(load: float, n_threads: int) -> None:
    code = f"import os; os.getloadavg = lambda: ({load}, 0.0, 0.0)\n"
    code += "import threadpoolctl, tinymi\n"
    code += "print({library['num_threads'] for library in threadpoolctl.threadpool_info()})"
    assert run_python(code) == f"{{{n_threads}}}"


# --- both ------------------------------------------------------------------------------------------------------


def test_the_package_sets_both_before_it_loads_numpy() -> None:
    code = """
import sys
from types import SimpleNamespace
seen = []
note = lambda: seen.append("numpy" in sys.modules)
sys.modules["tinymi.machine.blas"] = SimpleNamespace(request_avx512_kernels=note, choose_threads=note)
import tinymi
print(seen, "numpy" in sys.modules)
"""
    assert run_python(code) == "[False, False] True"


def test_every_lesson_imports_tinymi_before_numpy() -> None:
    for path in (Path(__file__).parents[2] / "lessons").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert source.index("from tinymi") < source.index("import numpy"), path.name
