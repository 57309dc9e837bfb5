"""The folder that `tinymi site OUT --browser` writes: what is in it, that it is whole, and what is refused."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from tests.checkpoint.gguf_files import bpe_metadata, save_pair
from tinymi.browser import build, packages, pyodide
from tinymi.commands.main import main
from tinymi.errors import InputError, SourceError

import numpy as np
import pytest

ALONE = """
import sys
from tinymi.browser import worker
posts = []
post = lambda *said: posts.append(said)
site = worker.start(sys.argv[1], "x.gguf", [], {}, post)
targets = ("/", "/glossary.html", "/explore", "/save/explore", "/events/00_quick_start", "/00_quick_start.html?run=1")
for target in targets:
    worker.answer(site, target, "", post)
passed = [data for kind, data, *_ in posts if kind == "body" and b"check passed" in data]
print({status for kind, status, *_ in posts if kind == "head"}, len(passed))
print(*{module.partition(".")[0] for module in sys.modules})
"""


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("model"), tokenizer=bpe_metadata("smollm"))[1]


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like Pyodide's, of a few bytes."""
    folder = tmp_path_factory.mktemp("pyodide")
    for name in pyodide.FILES:
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hashes of that folder in the place of Pyodide's."""
    monkeypatch.setattr(pyodide, "FILES", {name: hash_of(name.encode()) for name in pyodide.FILES})


@pytest.fixture
def written(gguf: Path, distribution: Path, hashes: None, tmp_path: Path) -> Path:
    build.edition(str(gguf), str(distribution)).write(tmp_path, ["01_tour", "00_quick_start"])
    return tmp_path / build.FOLDER


def about(folder: Path) -> Any:
    return json.loads((folder / "files.json").read_text("utf-8"))


def test_every_file_that_is_kept_has_its_hash(written: Path, gguf: Path) -> None:
    kept = {one["name"]: one for one in about(written)["kept"]}
    names = {path.relative_to(written).as_posix() for path in written.glob("*/*")}
    assert kept.keys() == names
    for name, one in kept.items():
        data = (written / name).read_bytes()
        assert (one["bytes"], one["sha256"]) == (len(data), hash_of(data))
    assert (written / "model" / gguf.name).read_bytes() == gguf.read_bytes()
    assert about(written)["pages"] == ["00_quick_start", "01_tour"]
    assert not about(written)["is_default"]


def test_pyodides_list_has_each_package_with_its_hash(written: Path) -> None:
    listed = json.loads((written / "pyodide" / pyodide.LOCK).read_text("utf-8"))
    for name, package in listed["packages"].items():
        assert package["sha256"] == hash_of((written / "pyodide" / package["file_name"]).read_bytes())
        assert package["name"] == name
    assert {*listed["packages"]["tinymi"]["depends"], "tinymi"} == listed["packages"].keys()
    assert listed["info"]["version"] == pyodide.VERSION
    assert len(list(written.glob("pyodide/*.whl"))) == len(listed["packages"])


def test_what_is_written_again_is_the_same(written: Path, gguf: Path, distribution: Path, tmp_path: Path) -> None:
    """A visitor's browser keeps what has not changed. And what an older edition left goes."""
    before = about(written)
    (written / "pyodide" / "old.whl").touch()
    build.edition(str(gguf), str(distribution)).write(tmp_path, before["pages"])
    assert about(written) == before
    assert not (written / "pyodide" / "old.whl").exists()


def test_nothing_is_loaded_from_elsewhere(written: Path) -> None:
    for path in [*written.glob("*.js"), *written.glob("*.css"), written / "index.html"]:
        assert not re.search(r"https?:|//\w+\.\w", path.read_text("utf-8").replace("// ", "")), path
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', (written / "index.html").read_text("utf-8"))
    service = (written / "service.js").read_text("utf-8")
    assert policy is not None
    assert f'"{policy[1]}"' in service  # the same for the worker
    assert policy[1].startswith("default-src 'self'; script-src 'self' 'wasm-unsafe-eval';")
    shell = re.search(r"SHELL = \[(.*)\]", service)
    assert shell is not None
    assert set(re.findall(r'"(\S+?)"', shell[1])) == {p.name for p in written.iterdir() if p.is_file()} - {
        "index.html",  # as ""
        "service.js",
        "LICENCES.txt",
    }


def test_licences(written: Path) -> None:
    text = (written / "LICENCES.txt").read_text("utf-8")
    for name in (f"Pyodide {pyodide.VERSION}: MPL-2.0", "NumPy 2.0.2: BSD", *packages.NEEDED):
        assert name in text
    for name, _, licence in packages.licences():
        assert len(licence) > 500, name


def test_what_is_packed_is_enough(gguf: Path, tmp_path: Path) -> None:
    """In a Python that has nothing but NumPy and the wheels."""
    for name, data in packages.wheels().items():
        (tmp_path / name).write_bytes(data)
        with zipfile.ZipFile(tmp_path / name) as wheel:
            wheel.extractall(tmp_path / "site")
    home = Path(np.__file__).parents[1]
    for folder in ("numpy", "numpy.libs"):
        if (home / folder).exists():
            (tmp_path / "site" / folder).symlink_to(home / folder)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-S", "-c", ALONE, str(gguf)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers, modules = done.stdout.splitlines()
    assert answers == "{200} 1"
    assert {"tinymi", "numpy", "gguf", "jinja2", "markupsafe", "yaml"} <= set(modules.split())


@pytest.mark.parametrize("broken", [pyodide.NUMPY, "pyodide.mjs"])
def test_another_pyodide_is_refused(gguf: Path, distribution: Path, hashes: None, tmp_path: Path, broken: str) -> None:
    for name in pyodide.FILES:
        (tmp_path / name).write_bytes((distribution / name).read_bytes())
    (tmp_path / broken).write_text("other")
    with pytest.raises(SourceError, match=rf"{re.escape(broken)} of .* has sha256 .*: it was not used"):
        build.edition(str(gguf), str(tmp_path))
    (tmp_path / broken).unlink()
    with pytest.raises(SourceError, match=f"holds no {re.escape(broken)}"):
        build.edition(str(gguf), str(tmp_path))


def test_a_model_that_is_no_gguf_is_refused_before_a_lesson_runs(
    tiny_folder: Path, distribution: Path, hashes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["site", str(tmp_path / "out"), "--browser", "--pyodide", str(distribution), "--model", str(tiny_folder)]
    with pytest.raises(InputError, match=r"is no \.gguf file, and --browser needs one"):
        main(command)
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().out == ""
