"""Connections to web servers: used again, through proxies where the environment names one, patient.

Python's own client, because a range must be checked by its raw answer: nothing may follow a redirect,
inflate a body or repeat a request behind the reader's back.
"""

import base64
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

TIMEOUT = 30.0  # seconds of silence after which a server is given up
MAX_IDLE = 8  # connections kept for the next request

Origin = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a failed request is repeated, and after how many seconds."""

    attempts: int = 6
    first: float = 0.5
    longest: float = 60.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def wait(self, attempt: int, asked: float | None) -> None:
        """Sleep as long as the server asked, else twice as long each time, with a random part."""
        doubled = self.first * 2**attempt * (0.5 + random.random() / 2)
        self.sleep(min(self.longest, doubled if asked is None else asked))


class HttpClient:
    """Connections that are used again; safe to share between threads."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self._idle: list[tuple[Origin, HTTPConnection]] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[HTTPResponse]:
        """Send one request, follow nothing; the connection is kept if the body is read to its end."""
        parts = urlsplit(url)
        connection, response = self._send(parts, headers)
        try:
            yield response
            reusable = response.isclosed() and not response.will_close
        except BaseException:
            reusable = False
            raise
        finally:
            response.close()
            with self._lock:
                if reusable and len(self._idle) < MAX_IDLE:
                    self._idle.append((origin(parts), connection))
                else:
                    connection.close()

    def _send(
        self, parts: SplitResult, headers: Mapping[str, str]
    ) -> tuple[HTTPConnection, HTTPResponse]:
        kept = self._take(origin(parts))
        if kept is not None:
            try:
                return kept, _ask(kept, parts, headers)
            except (OSError, HTTPException):
                kept.close()  # hung up by the server since: no fault, a new one is made
        fresh, extra = _connection(parts)
        try:
            return fresh, _ask(fresh, parts, {**headers, **extra})
        except BaseException:
            fresh.close()
            raise

    def _take(self, where: Origin) -> HTTPConnection | None:
        with self._lock:
            for position, (there, connection) in enumerate(self._idle):
                if there == where:
                    del self._idle[position]
                    return connection
        return None


def origin(parts: SplitResult) -> Origin:
    """Return what a credential is good for: scheme, host and port."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port


def _connection(parts: SplitResult) -> tuple[HTTPConnection, dict[str, str]]:
    """Return a connection to a server, through the proxy the environment names, and its login."""
    scheme, host, port = origin(parts)
    kind = HTTPSConnection if scheme == "https" else HTTPConnection
    proxy = urlsplit(getproxies().get(scheme, ""))
    if proxy.scheme not in ("http", "https") or not proxy.hostname or proxy_bypass(host):
        return kind(host, port, timeout=TIMEOUT), {}
    login = {"Proxy-Authorization": basic(proxy)} if proxy.username is not None else {}
    connection = kind(proxy.hostname, origin(proxy)[2], timeout=TIMEOUT)
    if scheme == "http":
        return connection, login
    connection.set_tunnel(host, port, login)
    return connection, {}


def _ask(
    connection: HTTPConnection, parts: SplitResult, headers: Mapping[str, str]
) -> HTTPResponse:
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    direct = (connection.host, connection.port) == origin(parts)[1:] or parts.scheme == "https"
    target = path if direct else f"{parts.scheme}://{parts.netloc}{path}"
    connection.request("GET", target, headers={"Host": parts.netloc, **headers})
    return connection.getresponse()


def basic(parts: SplitResult) -> str:
    """Return the value of the header that carries the name and password of a URL."""
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _close_all(idle: list[tuple[Origin, HTTPConnection]]) -> None:
    for _, connection in idle:
        connection.close()
