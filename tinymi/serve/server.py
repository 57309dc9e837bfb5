"""The server: the standard library's, on 127.0.0.1, with a fixed table of pages. No request names a file."""

import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tinymi.errors import InputError, TinymiError
from tinymi.serve import explorer, guard, pages, panels
from tinymi.serve.guard import Guard, Query, RefusedError
from tinymi.serve.lessons import Runs, arguments_of, askable, fields_of
from tinymi.teaching.catalogue import all_lessons, read
from tinymi.teaching.report import html
from tinymi.teaching.report.items import Document
from tinymi.teaching.report.site import Built, glossary

if TYPE_CHECKING:
    from tinymi.run import Model

MOST_CONNECTIONS = 32
PATIENCE = 10.0  # seconds for a request to arrive, or for a browser to take what is sent
STATIC = {"serve.js": "text/javascript", "explore.js": "text/javascript"}

Page = Callable[["Handler", Query], None]


class Server(ThreadingHTTPServer):
    """One model, the lessons, and the guard."""

    daemon_threads = True

    def __init__(self, model: "Model", source: str | None = None, port: int = 0, patience: float = PATIENCE) -> None:
        """port: 0 for any that is free."""
        super().__init__(("127.0.0.1", port), Handler)
        self.patience = patience
        self.guard = Guard(self.server_port)
        self.headers = guard.headers(html.script_hash())
        self.runs = Runs(model, source)
        self.exploring = threading.Lock()  # one run at a time
        lessons = all_lessons()
        files = [file for one in lessons for file in (one, *([read(one.deeper)] if one.deeper else []))]
        self.lessons = [Built(file, None) for file in files]
        self.pages = routes(self.lessons)
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request. Only GET is known, and no request has a body."""

    server: Server
    server_version, sys_version = "tinymi", ""

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.patience)

    def do_GET(self) -> None:
        try:
            path, query = self.server.guard.read(self.path, self.headers)
            page = self.server.pages.get(path)
            if page is None:
                raise RefusedError(404, "no such page; begin at the front page")
            page(self, query)
        except RefusedError as error:
            self.send_error(error.status, str(error))
        except TinymiError as error:
            self.send(pages.problem("That cannot be asked", str(error)), status=400)

    def send(self, body: str, kind: str = "text/html", status: int = 200, **more: str) -> None:
        """A whole answer. more: further headers, with _ for -."""
        data = body.encode("utf-8", "replace")
        self.begin(status, kind, {"Content-Length": str(len(data))} | {k.replace("_", "-"): v for k, v in more.items()})
        self.wfile.write(data)

    def begin(self, status: int, kind: str, more: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": f"{kind}; charset=utf-8", **self.server.headers, **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refusals are one line of plain text; nothing of the request is in it."""
        self.close_connection = True
        self.send(f"{message or self.responses[code][0]}\n", "text/plain", code)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: prompts are the reader's own."""


# --- the pages ---------------------------------------------------------------------------------------------------


def routes(lessons: list[Built]) -> dict[str, Page]:
    """Every path that is answered."""
    table: dict[str, Page] = {"/": front, "/index.html": front, "/glossary.html": words}
    table |= {"/explore": explore, "/save/explore": explore_saved}
    for name, kind in STATIC.items():
        table[f"/static/{name}"] = static(name, kind)
    for one in lessons:
        options = askable(one.lesson.path)
        table[f"/{one.name}.html"] = lesson_page(one, options)
        table[f"/events/{one.name}"] = lesson_events(one, options)
        table[f"/save/{one.name}"] = lesson_saved(one, options)
    return table


def front(handler: Handler, query: Query) -> None:
    """With the token: the cookie, and the same page without the token in its address."""
    if "token" in query:
        handler.begin(303, "text/plain", {"Location": "/", "Set-Cookie": handler.server.guard.set_cookie})
    else:
        _only(query, ())
        handler.send(pages.front(handler.server.lessons))


def words(handler: Handler, query: Query) -> None:
    _only(query, ())
    handler.send(glossary(handler.server.lessons))


def explore(handler: Handler, query: Query) -> None:
    """The explorer. What cannot be asked leaves the form as it was filled in."""
    runs = handler.server.runs
    fields, given = fields_of(explorer.options(runs.model.config), query), urlencode(query)
    try:
        asked = explorer.read(runs.model.config, query)
        with handler.server.exploring:
            shown = [
                (prompt, panels.panels(runs.model, asked, prompt, runs.source)) for prompt in panels.prompts(asked)
            ]
            change = panels.change_code(runs.model, asked, asked.prompt, panels.begin(runs.source))
        handler.send(pages.explorer(fields, shown, change, handler.server.lessons, given))
    except TinymiError as error:
        handler.send(pages.explorer(fields, [], "", handler.server.lessons, given, str(error)), status=400)


def explore_saved(handler: Handler, query: Query) -> None:
    """What the explorer shows as a page on its own, as `tinymi explore --html` writes it."""
    runs = handler.server.runs
    asked = explorer.read(runs.model.config, query)
    with handler.server.exploring:
        document = panels.document(runs.model, asked, runs.source)
    handler.send(html.page(document), Content_Disposition='attachment; filename="explore.html"')


def static(name: str, kind: str) -> Page:
    text = (Path(__file__).parent / "static" / name).read_text("utf-8")
    return lambda handler, query: handler.send(text, kind)


def lesson_page(one: Built, options: list[Any]) -> Page:
    def page(handler: Handler, query: Query) -> None:
        document = None
        if "run" in query:
            document = _result(handler, one, options, query)
        handler.send(pages.lesson(one, handler.server.lessons, options, query, document))

    return page


def lesson_events(one: Built, options: list[Any]) -> Page:
    """Runs the lesson. The run ends with the connection, whichever side ends it."""

    def page(handler: Handler, query: Query) -> None:
        events = handler.server.runs.follow(one.lesson.path, arguments_of(options, query))
        handler.begin(200, "text/event-stream", {})
        try:
            for event, text in events:
                handler.wfile.write(f"event: {event}\ndata: {text}\n\n".encode())
        except InputError as error:
            handler.wfile.write(f"event: problem\ndata: {error}\n\n".encode())
        finally:
            events.close()

    return page


def lesson_saved(one: Built, options: list[Any]) -> Page:
    """The page on its own, as --html writes it."""

    def page(handler: Handler, query: Query) -> None:
        document = _result(handler, one, options, query)
        if document is None:
            raise InputError(f"{one.name}: has not run with these options; run it, then save it")
        handler.send(html.page(document), Content_Disposition=f'attachment; filename="{one.name}.html"')

    return page


def _result(handler: Handler, one: Built, options: list[Any], query: Query) -> Document | None:
    given = {name: value for name, value in query.items() if name != "run"}
    return handler.server.runs.result(one.lesson.path, arguments_of(options, given))


def _only(query: Query, names: tuple[str, ...]) -> None:
    for name in query:
        if name not in names:
            raise InputError(f"{name}: this page has no such option; leave it out")


def serve(source: str | None, port: int, browser: bool) -> int:
    """Serve until Ctrl-C. browser: open one there."""
    import webbrowser

    import tinymi

    try:
        server = Server(tinymi.load(source), source, port)
    except OSError as error:
        raise InputError(f"--port: {port} cannot be used ({error.strerror}); give another, or 0 for any") from None
    print(f"The course is at {server.guard.address}\nCtrl-C ends it.", flush=True)
    if browser:
        webbrowser.open(server.guard.address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0
