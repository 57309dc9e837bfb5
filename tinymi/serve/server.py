"""The server: the standard library's, on 127.0.0.1."""

import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tinymi.errors import InputError
from tinymi.serve import guard, routes
from tinymi.serve.guard import Guard, RefusedError
from tinymi.serve.lessons import Runs
from tinymi.teaching.report import html

if TYPE_CHECKING:
    from tinymi.run import Model

MOST_CONNECTIONS = 32
PATIENCE = 10.0  # seconds for a request to arrive, or for a browser to take what is sent


class Server(ThreadingHTTPServer):
    """The site, and the guard."""

    daemon_threads = True

    def __init__(self, model: "Model", source: str | None = None, port: int = 0, patience: float = PATIENCE) -> None:
        """port: 0 for any that is free."""
        super().__init__(("127.0.0.1", port), Handler)
        self.patience = patience
        self.guard = Guard(self.server_port)
        self.headers = guard.headers(html.script_hash())
        self.site = routes.Site(Runs(model, source))
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


class Handler(BaseHTTPRequestHandler, routes.Handler):
    """One request. Only GET is known, and no request has a body."""

    server: Server
    server_version, sys_version = "tinymi", ""

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.patience)

    @property
    def site(self) -> routes.Site:
        return self.server.site

    def do_GET(self) -> None:
        try:
            path, query = self.server.guard.read(self.path, self.headers)
            if path == "/" and "token" in query:  # it becomes a cookie, and leaves the address
                self.begin(303, "text/plain", {"Location": "/", "Set-Cookie": self.server.guard.set_cookie})
            else:
                self.answer(path, query)
        except RefusedError as error:
            self.send_error(error.status, str(error))

    def begin(self, status: int, kind: str, more: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": f"{kind}; charset=utf-8", **self.server.headers, **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def write(self, data: bytes) -> None:
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refusals are one line of plain text; nothing of the request is in it."""
        self.close_connection = True
        self.send(f"{message or self.responses[code][0]}\n", "text/plain", code)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: prompts are the reader's own."""


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
