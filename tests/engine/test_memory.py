"""Memory: what is available, and the refusal in numbers before a model or a prompt asks for more."""

import sys
from collections.abc import Callable
from pathlib import Path

import tinymi
from tests.running import run_lesson_often
from tests.variants import save_variant
from tinymi.checkpoint.mapped_weights import tensor_shapes
from tinymi.machine import memory

import numpy as np
import pytest

MIB = 2**20
Available = Callable[[int], None]


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> Available:
    """Let so many bytes be available."""

    def be(n_bytes: int) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: n_bytes)

    return be


def converted_bytes(folder: Path, itemsize: int) -> int:
    return itemsize * sum(int(np.prod(shape)) for _, shape in tensor_shapes(tinymi.load(folder).config))


def test_weights_that_are_converted_must_fit(tmp_path: Path, available: Available) -> None:
    folder = save_variant(tmp_path, "llama-bf16")
    needed = converted_bytes(folder, 4)
    available(needed)
    tinymi.load(folder)
    available(needed - 1)
    with pytest.raises(tinymi.MemoryShortageError) as caught:
        tinymi.load(folder)
    message = str(caught.value)
    for words in (str(folder), "0 MiB of memory, and 0 MiB are available", '"mapped"', "TINYMI_SKIP_MEMORY_CHECK=1"):
        assert words in message
    assert isinstance(caught.value, MemoryError)
    assert tinymi.load(folder, weights="mapped").config.n_layers == 3


def test_the_check_can_be_skipped(tmp_path: Path, available: Available, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_variant(tmp_path, "llama-f16")
    available(0)
    for value, skipped in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv(memory.VARIABLE, value)
        if skipped:
            tinymi.load(folder)
        else:
            with pytest.raises(tinymi.MemoryShortageError):
                tinymi.load(folder)


def test_what_stays_in_its_file_needs_nothing(tmp_path: Path, available: Available) -> None:
    folder = save_variant(tmp_path, "llama-free-head")
    available(0)
    tinymi.load(folder)
    with pytest.raises(tinymi.MemoryShortageError, match="float64"):
        tinymi.load(folder, dtype=np.float64)


def test_numbers_at_odd_addresses_are_copied_and_counted(tmp_path: Path, available: Available) -> None:
    path = save_variant(tmp_path, "llama-free-head") / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    path.write_bytes((size + 1).to_bytes(8, "little") + raw[8 : 8 + size] + b" " + raw[8 + size :])
    available(0)
    with pytest.raises(tinymi.MemoryShortageError, match="float32"):
        tinymi.load(tmp_path)


def test_a_prompt_whose_attention_does_not_fit_is_refused(tmp_path: Path, available: Available) -> None:
    model = tinymi.load(save_variant(tmp_path, "llama-gqa2", max_position_embeddings=131072))
    available(4000 * MIB)
    with pytest.raises(
        tinymi.MemoryShortageError, match=r"a run of 1 x 50,000 tokens: needs 114,\d\d\d MiB.*4,000 MiB"
    ):
        model(np.zeros((1, 50_000), np.int64))
    with pytest.raises(tinymi.MemoryShortageError, match="a run of 1000000 x 9 tokens"):
        model(np.zeros((1_000_000, 9), np.int64))
    assert model(np.zeros((1, 500), np.int64)).shape == (1, 500, 300)


def test_a_lesson_says_it_in_one_line(tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", "llama-bf16")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("from tinymi.machine import memory\nmemory.available_bytes = lambda: 1000\n")
    options = ["--model", str(folder)]
    root = Path(__file__).parents[2]
    refused, mapped = run_lesson_often(
        "00_quick_start", [options, [*options, "--weights", "mapped"]], site, PYTHONPATH=f"{site}:{root}"
    )
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "--weights mapped" in refused.stderr
    assert mapped.returncode == 0, mapped.stderr


# --- what is available -----------------------------------------------------------------------------------------


def group(root: Path, place: str, **files: object) -> None:
    folder = root / "sys/fs/cgroup" / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".", 1)).write_text(f"{content}\n")


def belongs(root: Path, line: str) -> Path:
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text(f"{line}\n")
    return root


def meminfo(root: Path, available: int) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(
        f"MemTotal:  999999999 kB\nMemAvailable: {available // 1024} kB\nHugePages_Free: 0\n"
    )
    return root


def test_on_linux_the_standard_library_answers_as_psutil_does(monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    monkeypatch.setattr(memory, "_psutil", lambda: pytest.fail("it was not needed"))
    if not Path("/proc/meminfo").exists():
        pytest.skip("not Linux")
    ours, theirs = memory._meminfo(Path("/")), psutil.virtual_memory().available
    assert ours is not None
    assert abs(ours - theirs) < 500 * MIB
    assert memory.available_bytes() is not None


def test_elsewhere_psutil_answers(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    available = memory.available_bytes(tmp_path)
    assert available is not None
    assert abs(available - psutil.virtual_memory().available) < 500 * MIB


def test_without_either_it_is_unknown_and_the_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)  # importing it raises ImportError
    assert memory.available_bytes(tmp_path) is None
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    folder = save_variant(tmp_path, "llama-bf16")
    with pytest.warns(tinymi.MemoryWarning, match="unknown without psutil"):
        tinymi.load(folder)


def test_the_strictest_group_counts(tmp_path: Path) -> None:
    root = belongs(meminfo(tmp_path, 2**40), "0::/user/job")
    group(root, "user", memory__max=300 * MIB, memory__current=100 * MIB, memory__stat="inactive_file 0")
    group(root, "user/job", memory__max="max", memory__current=0, memory__stat="inactive_file 0")
    assert memory.available_bytes(root) == 200 * MIB
    group(root, "user/job", memory__max=90 * MIB, memory__current=80 * MIB, memory__stat=f"inactive_file {5 * MIB}")
    assert memory.available_bytes(root) == 15 * MIB
    group(root, "user/job", memory__current=99 * MIB)
    assert memory.available_bytes(root) == 0


def test_a_container_sees_its_own_limit_at_the_top(tmp_path: Path) -> None:
    root = belongs(meminfo(tmp_path, 2**40), "0::/docker/abc")
    group(root, "", memory__max=64 * MIB, memory__current=4 * MIB, memory__stat="anon 1\ninactive_file 0")
    assert memory.available_bytes(root) == 60 * MIB


def test_groups_of_version_1(tmp_path: Path) -> None:
    root = belongs(meminfo(tmp_path, 2**40), "5:cpu:/x\n4:memory:/job")
    stat = f"inactive_file 7\ntotal_inactive_file {MIB}"
    group(root, "memory/job", memory__limit_in_bytes=50 * MIB, memory__usage_in_bytes=10 * MIB, memory__stat=stat)
    group(root, "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=9, memory__stat=stat)
    assert memory.available_bytes(root) == 41 * MIB
