"""Which requests are answered: those of the reader's own browser, from pages of this server, and of a sane size.

Any program and any web page on this machine can send requests to a server on 127.0.0.1. So each request must name this
server as its Host (a name that an attacker's DNS points here does not), must not come from another site's page (Origin,
Sec-Fetch-Site), and must bring the random token, which is in the address that is opened first and then in a cookie.
"""

import hmac
import secrets
from dataclasses import dataclass, field
from email.message import Message
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlsplit

MOST_QUERY = 16_000  # characters of an address, still encoded
MOST_FIELDS = 40
MOST_VALUE = 4_000  # characters of one value

Query = dict[str, str]


class RefusedError(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Guard:
    """What is known of this server: its port and its token."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def address(self) -> str:
        """Where the browser begins."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """A name of its own for each server: cookies do not tell ports apart."""
        return f"tinymi_{self.port}"

    @property
    def set_cookie(self) -> str:
        return f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"

    def read(self, target: str, headers: Message) -> tuple[str, Query]:
        """The path and the query of a request that may be answered. Raises RefusedError."""
        hosts = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost")}
        if headers.get_all("Host", []) not in [[host] for host in hosts]:
            raise RefusedError(403, "Host: not this server; open the address that tinymi serve printed")
        origins = headers.get_all("Origin", [])
        if any(origin not in {f"http://{host}" for host in hosts} for origin in origins):
            raise RefusedError(403, "Origin: another site's page; open the address that tinymi serve printed")
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise RefusedError(403, "another site's link leads here; paste the address into the address bar")
        if headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers:
            raise RefusedError(413, "the request has a body; send none")
        path, query = read_target(target)
        given = query.pop("token", "") if path == "/" else ""
        if not self._is_token(given) and not any(self._is_token(one) for one in self._cookies(headers)):
            raise RefusedError(403, "no token, or a wrong one; open the address that tinymi serve printed")
        return path, query | ({"token": given} if given else {})

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())

    def _cookies(self, headers: Message) -> list[str]:
        try:
            morsel = SimpleCookie(headers.get("Cookie", "")).get(self.cookie)
        except CookieError:
            return []
        return [] if morsel is None else [morsel.value]


def read_target(target: str) -> tuple[str, Query]:
    """Path and query of a request line's address. Raises RefusedError."""
    if not target.startswith("/") or target.startswith("//"):
        raise RefusedError(400, "the address is no path of this server")
    if len(target) > MOST_QUERY:
        raise RefusedError(414, f"the address has {len(target):,} characters; at most {MOST_QUERY:,} are taken")
    url = urlsplit(target)
    try:
        pairs = parse_qsl(url.query, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise RefusedError(400, f"the query is no UTF-8, or has more than {MOST_FIELDS} fields") from None
    query = dict(pairs)
    if len(query) < len(pairs):
        raise RefusedError(400, "a field is given twice")
    for name, value in pairs:
        if len(value) > MOST_VALUE:
            raise RefusedError(413, f"{name[:40]}: {len(value):,} characters; at most {MOST_VALUE:,} are taken")
    return url.path, query


def headers(script_hash: str, framed: bool = False) -> dict[str, str]:
    """What every answer says: the policy of the static pages, and that this server may be asked, and nobody else.

    framed: for pages that a page of their own shows in a frame.
    """
    ancestors = "'self'" if framed else "'none'"
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'sha256-{script_hash}'; img-src data:; "
        f"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors {ancestors}"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN" if framed else "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
