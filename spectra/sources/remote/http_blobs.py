"""Byte ranges over HTTP, with every answer checked: a wrong byte here is a wrong number later.

What a server may do wrong is refused or asked for again: ignore the range, send other bytes than were
asked for, send too few, compress them, change the file between two answers, redirect without end.
"""

import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import NoReturn, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import numpy as np

from spectra.errors import CheckpointError
from spectra.sources.base import Array
from spectra.sources.blobs import HEAD, RemoteBlob, changed, shown
from spectra.sources.remote.http_connections import HttpClient, basic, origin

MAX_REDIRECTS = 10
MAX_WHOLE = 2**20  # a server without ranges may still give files as small as this
CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
REDIRECTS = frozenset({301, 302, 303, 307, 308})
BUSY = frozenset({408, 429, 500, 502, 503, 504})
EXPIRED = frozenset({400, 401, 403, 404, 410})  # how stores answer to a signature of yesterday

T = TypeVar("T")


class _TryAgainError(Exception):
    """A fault that may pass: what to say if it does not, and how long the server wants to rest."""

    def __init__(self, error: CheckpointError, pause: float | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.pause = pause


class HttpBlob(RemoteBlob):
    """A file on a web server that honours byte ranges.

    Parameters
    ----------
    url : str
        Where it is; ``http`` or ``https``.
    headers : mapping of str, optional
        Sent to the server of `url` alone, never to one it redirects to.
    address : str, optional
        What to call it in reports; the URL without its secrets, if not given.
    client : HttpClient, optional
        Whose connections to use.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        address: str | None = None,
        client: HttpClient | None = None,
    ) -> None:
        self.address = address or shown(url)
        self._url, login = self._checked(url)
        self._secrets = {**login, **(headers or {})}
        self._client = client or HttpClient()
        self._place = self._url  # where the last answer came from; asked first the next time
        self._tags: dict[str, str] = {}
        self._size: int | None = None
        size, head = self._patiently(0, HEAD, self._receive_first)
        super().__init__(self.address, size, head)
        self._size = size

    def _fetch(self, offset: int, into: Array) -> None:
        self._patiently(offset, offset + into.size, lambda r: self._receive(r, offset, into))

    def _patiently(self, begin: int, end: int, receive: Callable[[HTTPResponse], T]) -> T:
        """Ask until there is an answer, or until it is enough."""
        patience = self._client.patience
        attempt = 0
        while True:
            try:
                return self._exchange(begin, end, receive)
            except _TryAgainError as fault:
                attempt += 1
                if attempt >= patience.attempts:
                    raise fault.error from fault
                patience.wait(attempt - 1, fault.pause)

    def _exchange(self, begin: int, end: int, receive: Callable[[HTTPResponse], T]) -> T:
        """Ask once, wherever redirects lead, and let the answer be received."""
        url, vouched = self._place, False
        for _ in range(MAX_REDIRECTS + 1):
            try:
                with self._client.get(url, self._headers(url, begin, end)) as response:
                    if response.status in REDIRECTS:
                        vouched |= self._vouched(response)
                        url = self._redirected(url, response)
                        response.read(HEAD)
                    elif response.status in EXPIRED and url == self._place != self._url:
                        url = self._place = self._url
                        response.read(HEAD)
                    else:
                        self._require_answer(response)
                        self._compare(response, vouched=vouched)
                        received = receive(response)
                        self._place = url
                        return received
            except ssl.SSLCertVerificationError as error:
                raise self._error("E_NETWORK", f"has no valid certificate ({error})") from error
            except (http.client.InvalidURL, ValueError) as error:  # a name no host can have
                raise self._error("E_URL", f"is no URL ({error})") from error
            except socket.gaierror as error:
                fault = self._error("E_NETWORK", f"is on an unknown host ({error.strerror})")
                if error.errno == socket.EAI_AGAIN:
                    raise _TryAgainError(fault) from error
                raise fault from error
            except (OSError, HTTPException) as error:
                reason = f"cannot be reached ({type(error).__name__}: {error})"
                refusal = self._error("E_NETWORK", reason)
                if isinstance(error, ConnectionRefusedError) and self._size is None:
                    raise refusal from error  # nobody has ever listened there
                raise _TryAgainError(refusal) from error
        raise self._error("E_SERVER", f"redirects more than {MAX_REDIRECTS} times")

    def _headers(self, url: str, begin: int, end: int) -> dict[str, str]:
        headers = {
            "Range": f"bytes={begin}-{end - 1}",
            "Accept-Encoding": "identity",
            "User-Agent": "spectra-diagnostics",
        }
        if origin(urlsplit(url)) == origin(urlsplit(self._url)):
            headers |= self._secrets
        tag = self._tags.get("ETag") or self._tags.get("Last-Modified")
        # A mirror has tags of its own, and weak ones promise no equal bytes.
        if tag and url == self._place and not tag.startswith("W/"):
            headers["If-Range"] = tag
        return headers

    def _redirected(self, url: str, response: HTTPResponse) -> str:
        location = response.headers.get("Location", "")
        try:
            joined = urljoin(url, location)
        except ValueError:
            joined = location
        target, _ = self._checked(joined)
        if url.startswith("https:") and not target.startswith("https:"):
            raise self._error("E_SERVER", "redirects from https to http")
        return target

    def _vouched(self, response: HTTPResponse) -> bool:
        """Whether the hub, redirecting to a mirror, names the same content as before."""
        tag = response.headers.get("X-Linked-ETag")
        if tag is None:
            return False
        if self._tags.setdefault("X-Linked-ETag", tag) != tag:
            raise changed(self.address)
        return True

    def _require_answer(self, response: HTTPResponse) -> None:
        """Raise for whatever is no part of the file."""
        status = response.status
        said = f"{status} {response.reason}".strip()
        if status in BUSY:
            error = self._error("E_SERVER", f"cannot be served now ({said})", "try again later")
            raise _TryAgainError(error, _retry_after(response.headers.get("Retry-After")))
        if status in (401, 403):
            advice = "log in, ask for access, or check the address"
            raise self._error("E_ACCESS", f"is not for everyone ({said})", advice)
        if status in (404, 410):
            raise self._error("E_NOT_FOUND", f"does not exist ({said})", "check the address")
        if status == 416 and self._size is None:
            raise self._error("E_EMPTY", f"is empty ({said})")
        if status == 416:
            raise self._error("E_TRUNCATED", f"is shorter than it was ({said})")
        if status not in (200, 206):
            raise self._error("E_SERVER", f"is answered with {said}")
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise self._error("E_RANGES", f"comes compressed ({encoding}), unasked")

    def _compare(self, response: HTTPResponse, *, vouched: bool) -> None:
        """Raise if this is not the file of the first answer."""
        for key in ("ETag", "Last-Modified"):
            tag = response.headers.get(key)
            if tag is None:
                continue
            known = self._tags.get(key)
            if known is None or vouched:
                self._tags[key] = tag
            elif known.removeprefix("W/") != tag.removeprefix("W/"):
                raise changed(self.address)

    def _receive_first(self, response: HTTPResponse) -> tuple[int, Array]:
        """Return the size of the file and its first bytes."""
        if response.status == 200:
            whole = self._whole(response)
            return whole.size, whole
        begin, end, size = self._content_range(response)
        if begin != 0 or end != min(HEAD, size):
            self._refuse_range(response)
        head = np.empty(end, np.uint8)
        self._fill(response, head)
        return size, head

    def _receive(self, response: HTTPResponse, offset: int, into: Array) -> None:
        """Fill an array with the bytes asked for."""
        if response.status == 200:
            # What If-Range is answered with when the file is another one.
            same = response.headers.get("Content-Length") == str(self._size)
            if not same and not any(key in response.headers for key in self._tags):
                raise changed(self.address)
            self._refuse_whole()
        begin, end, size = self._content_range(response)
        if size != self._size:
            raise changed(self.address)
        if (begin, end) != (offset, offset + into.size):
            self._refuse_range(response)
        self._fill(response, into)

    def _content_range(self, response: HTTPResponse) -> tuple[int, int, int]:
        match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if match is None:
            self._refuse_range(response)
        first, last, size = (int(number) for number in match.groups())
        length = response.headers.get("Content-Length", str(last + 1 - first))
        if not first <= last < size or length.strip() != str(last + 1 - first):
            self._refuse_range(response)
        return first, last + 1, size

    def _fill(self, response: HTTPResponse, into: Array) -> None:
        have = self._read_into(response, into)
        if have != into.size:
            reason = f"breaks off: {have:,} of {into.size:,} bytes came"
            raise _TryAgainError(self._error("E_TRUNCATED", reason))
        if response.read(1):
            raise self._error("E_RANGES", "sends more bytes than asked for")

    def _read_into(self, response: HTTPResponse, into: Array) -> int:
        view = into.data
        have = 0
        while have < into.size:
            try:
                got = response.readinto(view[have:])
            except http.client.IncompleteRead:
                break
            if got == 0:
                break
            have += got
        return have

    def _whole(self, response: HTTPResponse) -> Array:
        """Return a small file from a server that knows no ranges."""
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length[:20]) > MAX_WHOLE:
            self._refuse_whole()
        room = np.empty(MAX_WHOLE + 1, np.uint8)
        have = self._read_into(response, room)
        if have > MAX_WHOLE:
            self._refuse_whole()
        if length.isdecimal() and have != int(length[:20]):
            reason = f"breaks off: {have:,} of {length} bytes came"
            raise _TryAgainError(self._error("E_TRUNCATED", reason))
        return room[:have].copy()

    def _refuse_whole(self) -> NoReturn:
        reason = "is on a server that ignores byte ranges"
        raise self._error("E_RANGES", reason, "download it and give the file")

    def _refuse_range(self, response: HTTPResponse) -> NoReturn:
        said = response.headers.get("Content-Range", "no Content-Range")
        raise self._error("E_RANGES", f"is answered with other bytes than asked for ({said})")

    def _checked(self, url: str) -> tuple[str, dict[str, str]]:
        """Return a URL fit to be sent, and the login it held."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(origin(parts)[1])
        except ValueError:
            usable = False
        if not usable:
            raise self._error("E_URL", f"is, or leads to, no web address ({shown(url)})")
        host = parts.netloc.rpartition("@")[2]
        path, query = (quote(p, safe="%/:@!$&'()*+,;=?~") for p in (parts.path, parts.query))
        clean = f"{parts.scheme}://{host}{path or '/'}" + (f"?{query}" if query else "")
        login = {"Authorization": basic(parts)} if parts.username is not None else {}
        return clean, login

    def _error(
        self, code: str, reason: str, advice: str = "download it and give the file"
    ) -> CheckpointError:
        return CheckpointError(code, self.address, reason, advice)


def _retry_after(text: str | None) -> float | None:
    """Return the seconds a server wants to rest: it gives a number, or a date."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
