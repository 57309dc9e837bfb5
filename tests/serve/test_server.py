"""`tinymi serve`: hostile requests, forms, and runs of lessons; over a real socket, on a tiny model."""

import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlencode

import tinymi
from tests.serving import serving
from tinymi.errors import InputError
from tinymi.serve import lessons
from tinymi.serve.guard import MOST_FIELDS, MOST_QUERY, MOST_VALUE
from tinymi.serve.lessons import arguments_of, askable, fields_of
from tinymi.serve.server import MOST_CONNECTIONS, Server
from tinymi.teaching.catalogue import all_lessons, find
from tinymi.teaching.options import Option
from tinymi.teaching.report.html import page
from tinymi.teaching.running import Run, run_lesson

import pytest

Answer = tuple[int, dict[str, str], str]


@pytest.fixture(scope="module")
def server(tiny_model: tinymi.Model, tiny_folder: Path) -> Iterator[Server]:
    with serving(Server(tiny_model, str(tiny_folder), patience=1.0)) as server:
        yield server


def own(server: Server) -> dict[str, str]:
    """The headers of the reader's own browser."""
    return {"Host": f"127.0.0.1:{server.server_port}", "Cookie": f"{server.guard.cookie}={server.guard.token}"}


def ask(
    server: Server, target: str, changes: Mapping[str, str | None] = MappingProxyType({}), method: str = "GET"
) -> Answer:
    """Send a request. changes: headers other than one's own; None for none."""
    headers = own(server) | dict(changes)
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, text


def raw(server: Server, data: bytes) -> bytes:
    """What comes back for these bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


# --- what is refused ---------------------------------------------------------------------------------------------

HOSTILE = [
    ("/", {"Cookie": None}, 403, "no token"),
    ("/", {"Cookie": "tinymi_1=x"}, 403, "no token"),
    ("/?token=", {"Cookie": None}, 403, "no token"),
    ("/?token=wrong", {"Cookie": None}, 403, "no token"),
    ("/?token=%C3%A9", {"Cookie": None}, 403, "no token"),
    ("/05_logit_lens.html?token=TOKEN", {"Cookie": None}, 403, "no token"),  # only the front page hands out cookies
    ("/", {"Host": "evil.example"}, 403, "Host"),
    ("/", {"Host": "evil.example:PORT"}, 403, "Host"),
    ("/", {"Host": "127.0.0.1"}, 403, "Host"),
    ("/", {"Host": "127.0.0.1.evil.example:PORT"}, 403, "Host"),
    ("/", {"Host": None}, 403, "Host"),
    ("/?token=TOKEN", {"Host": "evil.example"}, 403, "Host"),
    ("/", {"Origin": "http://evil.example"}, 403, "Origin"),
    ("/", {"Origin": "null"}, 403, "Origin"),
    ("/", {"Origin": "http://127.0.0.1:1"}, 403, "Origin"),
    ("/", {"Sec-Fetch-Site": "cross-site"}, 403, "another site"),
    ("/", {"Sec-Fetch-Site": "same-site"}, 403, "another site"),  # a page of another port of this machine
    ("/", {"Content-Length": "5"}, 413, "body"),
    ("/", {"Content-Length": "99999999999999"}, 413, "body"),
    ("/", {"Content-Length": "-1"}, 413, "body"),
    ("/", {"Transfer-Encoding": "chunked"}, 413, "body"),
    ("/../../etc/passwd", {}, 404, "no such page"),
    ("/static/../server.py", {}, 404, "no such page"),
    ("/static/%2e%2e/server.py", {}, 404, "no such page"),
    ("/static/", {}, 404, "no such page"),
    ("/static/serve.js/", {}, 404, "no such page"),
    ("/deeper/05_logit_lens.py", {}, 404, "no such page"),
    ("/events/../05_logit_lens", {}, 404, "no such page"),
    ("/save//etc/passwd", {}, 404, "no such page"),
    ("//evil.example/", {}, 404, "no such page"),
    ("http://evil.example/", {}, 400, "no path"),
    ("*", {}, 400, "no path"),
    ("/?a=%ff", {}, 400, "UTF-8"),
    ("/?a=1&a=2", {}, 400, "twice"),
    ("/?" + "&".join(f"a{i}=" for i in range(MOST_FIELDS + 1)), {}, 400, "fields"),
    ("/?a=" + "x" * MOST_QUERY, {}, 414, "characters"),
    ("/?a=" + "x" * (MOST_VALUE + 1), {}, 413, "characters"),
    ("/?a=1", {}, 400, "no such option"),
    ("/glossary.html?a=1", {}, 400, "no such option"),
    ("/05_logit_lens.html?run=1&model=/etc/passwd", {}, 400, "no such option"),
    ("/05_logit_lens.html?json=/tmp/x", {}, 400, "no such option"),
    ("/events/05_logit_lens?html=/tmp/x", {}, 400, "no such option"),
    ("/events/05_logit_lens?weights=mapped", {}, 400, "no such option"),
    ("/events/05_logit_lens?prompt=a&--json=/tmp/x", {}, 400, "no such option"),
    ("/events/deeper_04_token_prediction_sweep?resume=/tmp/x", {}, 400, "no such option"),
    ("/events/deeper_04_token_prediction_sweep?dask=tcp://evil.example:1", {}, 400, "no such option"),
    ("/events/deeper_04_token_prediction_sweep?jobs=99", {}, 400, "no such option"),
    ("/save/05_logit_lens?prompt=never+run", {}, 400, "has not run"),
    ("/explore?html=/tmp/x", {}, 400, "no such option"),
    ("/explore?model=/etc/passwd", {}, 400, "no such option"),
    ("/explore?prompt=<script>alert(1)</script>&layer=x", {}, 400, "&lt;script&gt;alert"),
    ("/explore?prompt=" + "+x" * 100, {}, 400, "tokens, but the"),
    ("/explore?cut=" + "0.0+" * 40, {}, 400, "at most"),
    ("/explore?dose=inf", {}, 400, "valid is"),
    ("/save/explore?html=/tmp/x", {}, 400, "no such option"),
    ("/05_logit_lens.html?<script>alert(1)</script>=1", {}, 400, "&lt;script&gt;"),
]


@pytest.mark.parametrize(("target", "changes", "status", "says"), HOSTILE, ids=lambda value: str(value)[:50])
def test_a_hostile_request(server: Server, target: str, changes: dict[str, str | None], status: int, says: str) -> None:
    def fill(text: str) -> str:
        return text.replace("TOKEN", server.guard.token).replace("PORT", str(server.server_port))

    filled = {name: None if value is None else fill(value) for name, value in changes.items()}
    got, headers, text = ask(server, fill(target), filled)
    assert got == status
    assert says in text
    assert "set-cookie" not in headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "<script>alert" not in text
    assert server.guard.token not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT"])
def test_only_get_is_known(server: Server, method: str) -> None:
    assert ask(server, "/", method=method)[0] == 501


def test_two_hosts(server: Server) -> None:
    host = own(server)["Host"]
    cookie = own(server)["Cookie"]
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\nCookie: {cookie}\r\n\r\n"
    assert b" 403 " in raw(server, request.encode()).splitlines()[0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost",
        b"GET /\r\n",
    ],
)
def test_a_request_that_is_none_or_does_not_end(server: Server, data: bytes) -> None:
    """The connection is closed, within the server's patience, and the next request is answered."""
    assert b" 200 " not in raw(server, data)
    assert ask(server, "/")[0] == 200


def test_connections_that_only_wait_are_bounded(server: Server) -> None:
    """More than the server takes are closed at once; when those that wait have been closed, all is as before."""
    address = ("127.0.0.1", server.server_port)
    idle = [socket.create_connection(address, timeout=10) for _ in range(MOST_CONNECTIONS + 3)]
    assert [connection.recv(1) for connection in idle[-3:]] == [b""] * 3
    for connection in idle:
        assert connection.recv(1) == b""
        connection.close()
    assert ask(server, "/")[0] == 200


def test_the_token_becomes_a_cookie(server: Server) -> None:
    status, headers, _ = ask(server, f"/?token={server.guard.token}", {"Cookie": None})
    assert (status, headers["location"]) == (303, "/")
    assert headers["set-cookie"].endswith("; HttpOnly; SameSite=Strict; Path=/")
    cookie = headers["set-cookie"].partition(";")[0]
    assert ask(server, "/", {"Cookie": f"other=1; {cookie}"})[0] == 200
    assert server.guard.token not in ask(server, "/")[2]
    host = f"localhost:{server.server_port}"
    assert ask(server, "/", {"Host": host, "Origin": f"http://{host}"})[0] == 200


# --- pages -------------------------------------------------------------------------------------------------------


def test_every_lesson_has_a_page_with_a_form(server: Server) -> None:
    front = ask(server, "/")[2]
    for lesson in all_lessons():
        assert f'href="{lesson.path.stem}.html"' in front
        for name in [lesson.path.stem, *([f"deeper_{lesson.path.stem}"] if lesson.deeper else [])]:
            status, headers, text = ask(server, f"/{name}.html")
            assert status == 200
            assert '<form class="ask"' in text
            assert "http-equiv" not in text  # the policy is a header
            assert "form-action 'self'" in headers["content-security-policy"]
            assert "unsafe-eval" not in headers["content-security-policy"]
    assert ask(server, "/glossary.html")[0] == 200
    assert ask(server, "/static/serve.js")[1]["content-type"].startswith("text/javascript")


def test_a_form_has_the_lessons_own_options() -> None:
    path = find("6").path
    fields = {field["name"]: field for field in fields_of(askable(path), {"wrong": " Bonn"})}
    assert list(fields) == ["prompt", "answer", "wrong"]
    assert fields["wrong"]["value"] == " Bonn"
    layer = next(field for field in fields_of(askable(find("1").path), {}) if field["name"] == "layer")
    assert (layer["kind"], layer["minimum"], layer["step"]) == ("number", 0, "1")


def test_arguments() -> None:
    options = [
        Option("prompt", str, "a", "x"),
        Option("texts", str, ["b", "c"], "x", many=True),
        Option("n", int, 3, "x"),
        Option("flag", bool, False, "x"),
    ]
    default = {"prompt": "a", "texts": "b\r\nc\r\n", "n": "3"}
    assert arguments_of(options, default) == ()
    assert arguments_of(options, {"prompt": " ", "n": ""}) == ()
    given = {"prompt": "--json=x", "texts": "--model\nd", "n": "4", "flag": "on"}
    assert arguments_of(options, given) == (
        "--prompt=--json=x",
        "--texts=--model",
        "--texts",
        "d",
        "--n",
        "4",
        "--flag",
    )
    assert arguments_of(options, {"n": "four"}) == ("--n", "four")
    with pytest.raises(InputError, match="did you mean prompt"):
        arguments_of(options, {"promt": "a"})
    with pytest.raises(InputError, match="51 lines"):
        arguments_of(options, {"texts": "a\n" * 51})


def test_the_explorer(server: Server) -> None:
    query = urlencode({"prompt": 'a <b> "c"', "second": "d", "cut": "1.0"})
    status, headers, text = ask(server, f"/explore?{query}")
    assert status == 200
    assert text.count("What comes next?") == 2
    assert 'value="a &lt;b&gt; &#34;c&#34;"' in text
    assert "<b>" not in text.replace("<b ", "")
    assert 'action="explore"' in ask(server, "/")[2]
    status, headers, saved = ask(server, f"/save/explore?{query}")
    assert (status, headers["content-disposition"]) == (200, 'attachment; filename="explore.html"')
    assert "tinymi explore --prompt" in saved


# --- runs --------------------------------------------------------------------------------------------------------


def events(server: Server, target: str) -> list[tuple[str, str]]:
    """All events of a run."""
    status, headers, text = ask(server, target)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return [(event.removeprefix("event: "), data.removeprefix("data:").strip()) for event, data in blocks]


def test_a_lesson_is_run_and_shown_and_saved(server: Server, tiny_model: tinymi.Model, tiny_folder: Path) -> None:
    query = urlencode({"prompt": 'a <b> "c" \u202e\u05d0 \U0001f600'})
    before = ask(server, f"/00_quick_start.html?run=1&{query}")[2]
    assert "data-events=" in before
    told = events(server, f"/events/00_quick_start?{query}")
    assert told[-1] == ("done", "")
    assert {event for event, _ in told[:-1]} <= {"running"}
    after = ask(server, f"/00_quick_start.html?run=1&{query}")[2]
    assert "data-events=" not in after
    assert "a &lt;b&gt;" in after
    assert "a <b>" not in after
    status, headers, saved = ask(server, f"/save/00_quick_start?{query}")
    assert (status, headers["content-disposition"]) == (200, 'attachment; filename="00_quick_start.html"')
    arguments = ["--prompt", 'a <b> "c" \u202e\u05d0 \U0001f600', "--model", str(tiny_folder)]
    run = run_lesson(find("0").path, arguments, tiny_model)
    assert run.document is not None
    assert saved == page(run.document)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("/events/01_tour?layer=-1", "valid is 0 or more"),
        ("/events/01_tour?layer=x", "--layer"),
        ("/events/06_logit_attribution?answer=two+tokens", "tokens, not one"),
        ("/events/00_quick_start?prompt=" + "x" * 600, "tokens, but the model takes"),
    ],
)
def test_a_problem_is_one_line(server: Server, target: str, says: str) -> None:
    event, text = events(server, target)[-1]
    assert event == "problem"
    assert says in text


LONG = """from tinymi.teaching import Lesson
import time
from pathlib import Path

lesson = Lesson("Long?")
lesson.start()
mark = Path(__file__).with_suffix(".running")
assert not mark.exists()  # one at a time
mark.touch()
try:
    for step in lesson.progress(range(3000), "counting"):
        time.sleep(0.01)
finally:
    mark.unlink()
lesson.finish()
"""


def test_a_reader_who_leaves_ends_the_run_and_the_next_one_begins(tmp_path: Path, tiny_model: tinymi.Model) -> None:
    path = tmp_path / "long.py"
    path.write_text(LONG)
    runs = lessons.Runs(tiny_model)
    first, second = runs.follow(path, ()), runs.follow(path, ())
    running, told = next(first)
    assert running == "running"
    assert next(second) == ("waiting", "one lesson before yours")
    while not told:
        told = next(first)[1]
    assert told.startswith("counting: ")
    assert told.endswith(" of 3,000")
    first.close()
    assert not path.with_suffix(".running").exists()
    assert next(second)[0] == "running"
    second.close()
    assert not path.with_suffix(".running").exists()
    assert runs.result(path, ()) is None


def test_a_queue_that_is_full(tmp_path: Path, tiny_model: tinymi.Model) -> None:
    path = tmp_path / "long.py"
    path.write_text(LONG)
    runs = lessons.Runs(tiny_model)
    waiting = [runs.follow(path, ()) for _ in range(lessons.MOST_WAITING)]
    assert [next(one)[0] for one in waiting] == ["running", *["waiting"] * (lessons.MOST_WAITING - 1)]
    with pytest.raises(InputError, match="8 wait already"):
        next(runs.follow(path, ()))
    for one in reversed(waiting):
        one.close()


def test_a_connection_that_breaks_ends_the_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, but over the socket."""
    ended = threading.Event()
    cancel = Run.cancel

    def watched(run: Run) -> None:
        cancel(run)
        ended.set()

    monkeypatch.setattr(Run, "cancel", watched)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        lines = ["GET /events/deeper_10_ioi_circuit HTTP/1.1", *(f"{k}: {v}" for k, v in own(server).items())]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        while b"event:" not in connection.recv(65536):
            pass
    assert ended.wait(30)
