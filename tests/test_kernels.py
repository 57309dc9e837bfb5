"""Which processors are given other BLAS kernels, and that a choice of one's own and a loaded NumPy are left alone."""

import os
import subprocess
import sys
from pathlib import Path

from tinymi import kernels

import pytest

AVX512 = "fpu sse4_2 avx2 fma avx512f avx512dq avx512cd avx512bw avx512vl"


def cpuinfo(folder: Path, flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: Made Up 9000\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    return path


@pytest.fixture(autouse=True)
def nothing_chosen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_chosen", None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "", "", "", "x86_64")), raising=False)


def test_avx512_is_used(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    assert kernels.choose(environ, (), cpuinfo(tmp_path, AVX512)) == "SkylakeX"
    assert environ == {"OPENBLAS_CORETYPE": "SkylakeX"}
    assert "SkylakeX" in str(kernels.chosen())
    assert "OPENBLAS_CORETYPE=" in str(kernels.chosen())


@pytest.mark.parametrize("missing", ["avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"])
def test_a_processor_without_all_of_it_is_left_alone(missing: str, tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    assert kernels.choose(environ, (), cpuinfo(tmp_path, AVX512.replace(missing, ""))) is None
    assert environ == {}
    assert kernels.chosen() is None


@pytest.mark.parametrize("own", ["", "Haswell"])
def test_ones_own_choice_stays(own: str, tmp_path: Path) -> None:
    environ = {"OPENBLAS_CORETYPE": own}
    assert kernels.choose(environ, (), cpuinfo(tmp_path, AVX512)) is None
    assert environ == {"OPENBLAS_CORETYPE": own}


def test_a_loaded_numpy_chooses_no_more(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    assert kernels.choose(environ, ("os", "numpy"), cpuinfo(tmp_path, AVX512)) is None
    assert environ == {}


@pytest.mark.parametrize(("platform", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_other_machines_are_left_alone(
    platform: str, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", machine)), raising=False)
    assert kernels.choose({}, (), cpuinfo(tmp_path, AVX512)) is None


def test_no_cpuinfo_is_no_error(tmp_path: Path) -> None:
    assert kernels.choose({}, (), tmp_path / "none") is None


def test_the_package_chooses_before_it_loads_numpy() -> None:
    code = (
        "import sys, types\n"
        "seen = []\n"
        "module = types.SimpleNamespace(choose=lambda: seen.append('numpy' in sys.modules))\n"
        "sys.modules['tinymi.kernels'] = module\n"
        "import tinymi\n"
        "print(seen, 'numpy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False] True"


def test_every_lesson_imports_tinymi_before_numpy() -> None:
    for path in (Path(__file__).parent.parent / "lessons").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert source.index("from tinymi") < source.index("import numpy"), path.name
