"""A web server on this machine that honours byte ranges, counts what it serves and misbehaves on request."""

import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class RangeServer:
    """What it serves, what it was asked, and the faults it commits, one a request.

    ``faults`` are statuses (404, 500 ...) or names; ``None`` is a request served well. When the list is
    used up, ``always`` holds for every further request.
    """

    files: dict = field(default_factory=dict)
    redirects: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)
    always: object = None
    etag: str | None = '"one"'
    requests: list = field(default_factory=list)
    nbytes: int = 0
    connections: int = 0
    claimed: int | None = None
    extra: dict = field(default_factory=dict)
    url: str = ""
    lock: object = field(default_factory=threading.Lock)

    def ranges(self):
        return [headers.get("Range") for _, headers in self.requests]

    def paths(self):
        return [path for path, _ in self.requests]

    def __enter__(self):
        state = self

        class Bound(Handler):
            serves = state

        self.http = Quiet(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def shutdown_request(self, request):
        """Close without a farewell, so that a connection told not to linger is reset."""
        self.close_request(request)

    def handle_error(self, request, client_address):
        """A client that hangs up is no error of ours."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    serves: RangeServer

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        with self.serves.lock:
            self.serves.connections += 1

    def do_GET(self):
        state = self.serves
        parts = urlsplit(self.path)
        with state.lock:
            state.requests.append((self.path, dict(self.headers)))
            fault = state.faults.pop(0) if state.faults else state.always
        if fault == "loop":
            return self.plain(302, {"Location": self.path})
        if fault == "hang_up":
            self.close_connection = True
            return None
        if isinstance(fault, int):
            return self.plain(fault, state.extra)
        if parts.path in state.redirects:
            return self.plain(302, state.redirects[parts.path])
        content = state.files.get(parts.path)
        if content is None:
            return self.plain(404, {})
        if callable(content):
            return self.body(200, content(), {"Content-Type": "application/json"})
        return self.ranged(content, fault)

    def plain(self, status, headers):
        return self.body(status, b"no", headers)

    def body(self, status, data, headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def ranged(self, content, fault):
        state = self.serves
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        begin, end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
        if asked and begin >= size:
            return self.plain(416, {"Content-Range": f"bytes */{size}"})
        tag = '"two"' if fault == "changed" else state.etag
        stale = self.headers.get("If-Range", tag) != tag
        whole = fault in ("whole", "whole_chunked") or not asked or (stale and fault != "changed")
        if whole:
            begin, end = 0, size
        if isinstance(content, Path):
            with content.open("rb") as file:
                file.seek(begin)
                data = file.read(end - begin)
        else:
            data = content[begin:end]
        headers = {"Content-Length": str(len(data))}
        if tag:
            headers["ETag"] = tag
        if not whole:
            shift = 1 if fault == "wrong_range" else 0
            total = state.claimed or size
            headers["Content-Range"] = f"bytes {begin + shift}-{end - 1 + shift}/{total}"
        if fault == "no_range":
            del headers["Content-Range"]
        if fault == "less":
            data = data[:-1]
            headers["Content-Length"] = str(len(data))
        if fault == "gzip":
            headers["Content-Encoding"] = "gzip"
        if fault in ("chunked", "chunked_more", "whole_chunked"):
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
            data += b"x" * (fault == "chunked_more")
            data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
        self.send_response(200 if whole else 206)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if fault in ("short", "reset"):
            data = data[: len(data) // 2]
        with state.lock:
            state.nbytes += len(data)
        with contextlib.suppress(OSError):
            self.wfile.write(data)
        if fault == "reset":  # the connection is dropped, not closed
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault in ("short", "reset", "drop"):
            self.close_connection = True
        return None
