"""The Python of the Web Worker, run here: it answers as the server does, and takes changes of a lesson's code."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import tinymi
from tests.checkpoint.gguf_files import bpe_metadata, save_pair
from tests.serve.test_server import ask
from tests.serving import serving
from tinymi.browser import models, worker
from tinymi.checkpoint.provenance import Provenance, provenance
from tinymi.errors import TinymiError
from tinymi.serve.server import Server
from tinymi.teaching import catalogue

import numpy as np
import pytest

PROMPT = 'a <b> "c" \u202e\u05d0 \U0001f600'
LESSON = "00_quick_start"
SLOW = "10_ioi_circuit"
DEEPER = "deeper_04_token_prediction_sweep"


class Posted(list[tuple[Any, ...]]):
    """What Python said to the page."""

    def __call__(self, *said: Any) -> None:
        self.append(said)

    @property
    def head(self) -> tuple[int, dict[str, str]]:
        ((_, status, headers),) = [said for said in self if said[0] == "head"]
        return status, headers

    @property
    def text(self) -> str:
        return b"".join(said[1] for said in self if said[0] == "body").decode()


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the lessons, which may be changed."""
    folder = tmp_path / "lessons"
    shutil.copytree(catalogue.folder(), folder)
    monkeypatch.setattr(catalogue, "folder", lambda: folder)
    return folder


def site_of(
    model: tinymi.Model,
    changed: dict[str, str] | None = None,
    post: Posted | None = None,
    pages: tuple[str, ...] = (),
) -> worker.Site:
    runs = worker.Runs(model, "tiny.gguf", Provenance("tiny.gguf", "F32", chat=False))
    return worker.Site(runs, pages, changed or {}, Posted() if post is None else post)


@pytest.fixture
def site(tiny_model: tinymi.Model, lessons: Path) -> worker.Site:
    return site_of(tiny_model, pages=(LESSON, SLOW, DEEPER))


def answer(site: worker.Site, target: str, **fields: str) -> Posted:
    """fields: the body."""
    posted = Posted()
    worker.answer(site, target, urlencode(fields), posted)
    return posted


@pytest.fixture(scope="module")
def server(tiny_model: tinymi.Model) -> Iterator[Server]:
    with serving(Server(tiny_model, "tiny.gguf")) as server:
        yield server


@pytest.mark.parametrize(
    "target",
    [
        "/index.html",
        "/glossary.html",
        f"/explore?{urlencode({'prompt': PROMPT, 'cut': '1.0'})}",
        f"/save/explore?{urlencode({'prompt': PROMPT})}",
        "/explore?cut=x",
        "/07_activation_patching.html?nonsense=1",
        "/save/00_quick_start",
        "/static/explore.js",
        "/nowhere",
        "/explore?a=1&a=2",
    ],
)
def test_answers_are_the_servers(site: worker.Site, server: Server, target: str) -> None:
    status, headers, text = ask(server, target)
    posted = answer(site, target)
    assert posted.head[0] == status
    assert posted.text == text
    own = {name.lower(): value for name, value in posted.head[1].items()}
    policy = headers["content-security-policy"].replace("frame-ancestors 'none'", "frame-ancestors 'self'")
    assert own["content-security-policy"] == policy
    assert own["x-frame-options"] == "SAMEORIGIN"
    for name in ("content-type", "content-disposition"):
        assert own.get(name) == headers.get(name)


def test_a_lesson_runs(site: worker.Site) -> None:
    query = urlencode({"prompt": PROMPT})
    told = answer(site, f"/events/{LESSON}?{query}").text
    assert told == "event: done\ndata: \n\n"
    page = answer(site, f"/{LESSON}.html?run=1&{query}").text
    assert 'class="check passed"' in page
    assert "data-events" not in page
    assert "tiny.gguf, weights stored as F32" in page
    told = answer(site, f"/events/{LESSON}?prompt=x").text
    assert told.startswith("event: problem\ndata: --prompt: cut into 1 tokens")


def test_progress_is_told(site: worker.Site) -> None:
    events = answer(site, "/events/09_neuron_activations").text.split("\n\n")
    assert any(" of " in event for event in events if event.startswith("event: running"))


def test_a_lesson_that_takes_long_says_so_and_offers_its_page(site: worker.Site) -> None:
    page = answer(site, f"/{SLOW}.html").text
    assert worker.SLOW[SLOW] in page
    assert f'href="../../{SLOW}.html"' in page
    assert "Its page" not in answer(site, f"/{LESSON}.html").text
    assert "Its page" in answer(site, f"/{DEEPER}.html").text
    assert worker.SLOW.keys() <= {one.name for one in site.lessons}
    site = site_of(site.runs.model)  # a site that was made of a few lessons
    assert "Its page" not in answer(site, f"/{SLOW}.html").text


# --- changes -----------------------------------------------------------------------------------------------------


OLD = "logits = model(tokens)  # [1, pos, d_vocab]"
PRINTS = f"{OLD}\nprint('shape', logits.shape)\nprint(6 * 7)"


def test_a_change_is_run_and_reset(tiny_model: tinymi.Model, lessons: Path) -> None:
    post = Posted()
    site = site_of(tiny_model, post=post)
    before = (lessons / f"{LESSON}.py").read_text("utf-8")
    answer(site, f"/events/{LESSON}")
    assert answer(site, f"/cells/{LESSON}", old=OLD, new=PRINTS).head[0] == 200
    changed = before.replace(OLD, PRINTS)
    assert post == [("changed", LESSON, changed)]
    page = answer(site, f"/{LESSON}.html?run=1").text
    assert "data-events" in page  # what it said before the change is not shown for it
    assert 'id="reset"' in page
    answer(site, f"/events/{LESSON}")
    page = answer(site, f"/{LESSON}.html?run=1").text
    shown = f"shape {tiny_model(tiny_model.to_tokens('The capital of France is')).shape}\n42"
    assert shown in page
    titles = [page.rindex(f"{title}</h2>") for title in ("The model guesses the next token", "Who looks where?")]
    assert titles[0] < page.index(shown) < titles[1]
    answer(site, f"/cells/{LESSON}", reset="1")
    assert (lessons / f"{LESSON}.py").read_text("utf-8") == before
    page = answer(site, f"/{LESSON}.html?run=1").text
    assert 'id="reset"' not in page
    assert 'class="check passed"' in page  # of the first run


def test_a_change_outlives_its_worker(tiny_model: tinymi.Model, lessons: Path) -> None:
    changed = (lessons / f"{LESSON}.py").read_text("utf-8").replace(OLD, "raise ValueError('mine')")
    site = site_of(tiny_model, {LESSON: changed, "no_lesson": "x"})
    assert "ValueError(&#39;mine&#39;)" in answer(site, f"/{LESSON}.html").text.replace("</i>", "").replace(
        '<i class="s">', ""
    )
    told = answer(site, f"/events/{LESSON}").text
    assert told == "event: problem\ndata: ValueError in `raise ValueError('mine')`: mine\n\n"
    answer(site, f"/cells/{LESSON}", reset="1")
    assert answer(site, f"/events/{LESSON}").text == "event: done\ndata: \n\n"


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ("print(tokens", "SyntaxError in `print(tokens`: '(' was never closed"),
        ("tokens.nothing()", "AttributeError in `tokens.nothing()`: "),
        ("raise SystemExit(3)", "SystemExit in `raise SystemExit(3)`: 3"),
        ("import nothing", "ModuleNotFoundError in `import nothing`: No module named 'nothing'"),
        ("model.to_tokens('')", "prompt '': has no tokens; give at least one character"),
    ],
)
def test_a_mistake_is_named_with_its_line(site: worker.Site, new: str, says: str) -> None:
    answer(site, f"/cells/{LESSON}", old=OLD, new=new)
    assert answer(site, f"/events/{LESSON}").text.startswith(f"event: problem\ndata: {says}")


def test_a_file_may_end_too_early(site: worker.Site, lessons: Path) -> None:
    path = lessons / f"{LESSON}.py"
    path.write_text("for x in y:")
    assert answer(site, f"/events/{LESSON}").text.startswith("event: problem\ndata: IndentationError")


@pytest.mark.parametrize("old", ["no such code", "model", ""])
def test_code_that_is_not_there_once_is_not_changed(site: worker.Site, lessons: Path, old: str) -> None:
    before = (lessons / f"{LESSON}.py").read_text("utf-8")
    posted = answer(site, f"/cells/{LESSON}", old=old, new="x")
    assert posted.head[0] == 400
    assert "load the page again" in posted.text
    assert (lessons / f"{LESSON}.py").read_text("utf-8") == before


def test_no_link_brings_code(site: worker.Site, lessons: Path) -> None:
    """A link is a GET: it has no body."""
    before = (lessons / f"{LESSON}.py").read_text("utf-8")
    posted = answer(site, f"/cells/{LESSON}?{urlencode({'old': OLD, 'new': 'x'})}")
    assert posted.head[0] == 404
    assert answer(site, "/cells/nothing", old="x", new="y").head[0] == 404
    assert (lessons / f"{LESSON}.py").read_text("utf-8") == before


def test_the_server_takes_no_changes(server: Server) -> None:
    text = ask(server, f"/{LESSON}.html")[2]
    assert "cells.js" not in text
    assert "data-cells" not in text
    assert ask(server, f"/cells/{LESSON}?old=x&new=y")[0] == 404


# --- models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kind"), [("llama", "Q8_0"), ("qwen2", "F16"), ("qwen3", "Q4_1")])
def test_a_gguf_file_is_read_as_it_is_converted(tmp_path: Path, family: str, kind: str) -> None:
    rule = {"llama": "smollm"}.get(family, "qwen2")
    path = save_pair(tmp_path, family, kind, tokenizer=bpe_metadata(rule))[1]
    steps: list[tuple[int, int]] = []
    model, where = models.load(path, lambda done, total: steps.append((done, total)))
    converted = tinymi.load(path)
    text = "The capital of France is 1234, isn't it?"
    tokens = converted.to_tokens(text)
    assert np.array_equal(model.to_tokens(text), tokens)
    assert np.array_equal(model(tokens), converted(tokens))
    assert model.config == converted.config
    assert where.stored_as == kind
    assert [done for done, _ in steps] == list(range(steps[0][1]))


def test_a_folder_is_read(tiny_folder: Path, tiny_model: tinymi.Model) -> None:
    model, where = models.load(tiny_folder, lambda done, total: None)
    tokens = tiny_model.to_tokens("a b")
    assert np.array_equal(model(tokens), tiny_model(tokens))
    assert where.stored_as == provenance(str(tiny_folder), tiny_folder).stored_as


def test_the_default_model_has_its_name(pinned_gguf: Path) -> None:
    assert models.load(pinned_gguf, lambda done, total: None)[1] == provenance(None, Path())


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_text("x")
    for path in (tmp_path / "x.gguf", tmp_path):
        with pytest.raises(TinymiError):
            models.load(path, lambda done, total: None)
