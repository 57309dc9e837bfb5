"""What a browser has: NumPy, and packages of Python alone. Models load there, lessons run, and what cannot says so.

Each test is a process of its own, which calls itself a browser and finds no other packages and no threads.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import tinymi
from tests.checkpoint.gguf_files import bpe_metadata, save_pair, sentencepiece_metadata
from tests.running import ROOT
from tinymi.teaching.catalogue import all_lessons

import pytest

PACKAGES = ("numpy", "gguf", "yaml", "jinja2", "markupsafe", "tabulate", "wcwidth")  # gguf imports yaml
SHARED = tuple(path.stem for path in (ROOT / "lessons").glob("[a-z]*.py"))
# From the standard library, by Pyodide.
REMOVED = ("curses", "dbm", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "sqlite3", "tkinter", "turtle", "venv")
HIDDEN = f"""
import ctypes, importlib.machinery, importlib.util, json, subprocess, sys, tempfile, threading, numpy
sys.platform = "emscripten"
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {{*sys.stdlib_module_names, "tinymi", *{PACKAGES + SHARED}}} - {{*{REMOVED}}}:
            return super().find_spec(name, path, target)
sys.meta_path = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, Finder]
def refuse(*arguments, **options):
    raise RuntimeError("can't start")
threading.Thread.start = subprocess.Popen.__init__ = refuse
import tinymi
from tinymi.teaching.running import run_lesson
def problem(call, *arguments):
    try:
        call(*arguments)
    except tinymi.TinymiError as error:
        return str(error)
"""


def in_browser(code: str, cache: Path, *arguments: str) -> Any:
    """What the code writes as JSON. cache: for what it converts."""
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN + code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "TINYMI_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_only_these_packages_are_there(tmp_path: Path) -> None:
    names = ("tokenizers", "safetensors", "huggingface_hub", "psutil", "tqdm", "filelock", "loky", "distributed")
    code = "print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name)]))"
    assert in_browser(code, tmp_path, *names, *PACKAGES) == [*PACKAGES]


IMPORTS = """
import importlib, pkgutil
def fails(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return True
names = [module.name for module in pkgutil.walk_packages(tinymi.__path__, "tinymi.") if "__main__" not in module.name]
print(json.dumps([len(names), [name for name in names if fails(name)]]))
"""


def test_every_module_can_be_imported_but_the_hubs(tmp_path: Path) -> None:
    n_modules, missing = in_browser(IMPORTS, tmp_path)
    assert n_modules > 80
    assert missing == ["tinymi.checkpoint.hub"]


MODEL = """
model = tinymi.load(sys.argv[1])
tokens = model.to_tokens(sys.argv[2])
print(json.dumps([tokens.tolist(), model(tokens)[0, -1].tolist(), model.to_string(tokens[0])]))
"""


@pytest.mark.parametrize("kind", ["folder", "the default model", "gguf"])
def test_a_model_gives_the_same_logits(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    fixtures = {"folder": "tiny_folder", "the default model": "default_model_folder"}
    path = request.getfixturevalue(fixtures[kind]) if kind in fixtures else None
    source = path or save_pair(tmp_path, tokenizer=bpe_metadata("qwen2"), family="qwen2")[1]
    text = "Ünder the sea. 42 \u0301e\u0301\n"
    model = tinymi.load(source)
    tokens = model.to_tokens(text)
    ids, logits, back = in_browser(MODEL, tmp_path, str(source), text)
    assert ids == tokens.tolist()
    assert back == model.to_string(tokens[0])
    assert logits == pytest.approx(model(tokens)[0, -1].tolist(), abs=1e-4)


LESSONS = """
from tinymi.serve import explorer, panels
from tinymi.teaching.report import html
model = tinymi.load(sys.argv[1])
run = run_lesson(__import__("pathlib").Path(sys.argv[2]), ["--model", sys.argv[1], "--html", sys.argv[3]], model)
asked = explorer.read(model.config, {})
page = html.page(panels.document(model, asked, sys.argv[1]))
print(json.dumps([html.page(run.document), page]))
"""


def test_a_lesson_runs_and_the_explorer_answers(small_folder: Path, tmp_path: Path) -> None:
    lesson, file = ROOT / "lessons" / "00_quick_start.py", tmp_path / "lesson.html"
    pages = in_browser(LESSONS, tmp_path, str(small_folder), str(lesson), str(file))
    assert all("</html>" in page and "<table" in page for page in [*pages, file.read_text("utf-8")])


TAB = """
from tinymi.browser import worker
said = []
site = worker.start(sys.argv[1], "tiny", (), {}, lambda *what: None)
worker.answer(site, "/events/19_sparse_autoencoder", "", lambda kind, *what: said.append(what[0]))
print(json.dumps([len(site.lessons), b"".join(said[1:]).decode()]))
"""


def test_a_tab_lists_every_lesson_and_says_which_it_cannot_run(tiny_folder: Path, tmp_path: Path) -> None:
    n_lessons, told = in_browser(TAB, tmp_path, str(tiny_folder))
    assert n_lessons == sum(1 if lesson.deeper is None else 2 for lesson in all_lessons())
    assert "event: problem\ndata: Python's documentation, the text of lesson 19: a browser's Python has none\n" in told


REFUSALS = """
from tinymi.sweep import dask_cluster, process_pool
calls = [(tinymi.load, None), (tinymi.load, "owner/name"), (tinymi.load, sys.argv[1])]
calls += [(process_pool, 2), (dask_cluster, "tcp://127.0.0.1:8786")]
print(json.dumps([problem(*call) for call in calls]))
"""


def test_what_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    _, pieces = save_pair(tmp_path, tokenizer=sentencepiece_metadata())
    found = in_browser(REFUSALS, tmp_path, str(pieces))
    words = ["cannot be fetched from a browser", "the hub's client is not installed", "byte_fallback True, which only"]
    words += ["has one process", "reaches no cluster"]
    for line, expected in zip(found, words, strict=True):
        assert expected in line
        assert "\n" not in line
