"""A web server in this process that counts requests and fails in the ways a test asks for.

It serves a folder, or stands before another server and passes everything on (S3 signatures
stay valid: the host a client signs is the one in front).
"""

import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

Failure: TypeAlias = Literal["drop", "short", "cut", "stall", "silent", "html"] | int
"""How an answer goes wrong.

``drop``
    The connection is reset after half of the body.
``short``
    It is closed in good order after half of the body.
``cut``
    The body is half of what it should be, and the headers say so: nothing but the size tells.
``stall``
    Half of the body, then silence.
``silent``
    Not a byte.
``html``
    Status 200 and a web page, as a login portal gives for every address.
int
    This status.
"""

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class Request(NamedTuple):
    """One request as it arrived."""

    method: str
    path: str
    range: str | None
    """The ``Range`` header."""


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class _Fault:
    failure: Failure
    times: float
    where: re.Pattern[str]
    method: str | None
    is_done: bool


@dataclass
class FaultyServer:
    """A running server; see `serve_folder` and `stand_before`."""

    url: str = ""
    """Without a slash at its end."""

    requests: list[Request] = field(default_factory=list)
    """Every request since the start or since a test emptied the list."""

    _faults: list[_Fault] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def fail(
        self,
        failure: Failure,
        *,
        times: float = float("inf"),
        where: str = "",
        method: str | None = None,
        is_done: bool = True,
    ) -> None:
        """Let the next ``times`` answers to paths that match ``where`` go wrong.

        ``is_done``: the server does what it was asked, and only its answer goes wrong.
        """
        with self._lock:
            self._faults.append(_Fault(failure, times, re.compile(where), method, is_done))

    def heal(self) -> None:
        """Answer everything as it should be."""
        with self._lock:
            self._faults.clear()

    def note(self, request: Request) -> _Fault | None:
        """Write a request down and say how its answer is to go wrong."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                is_meant = fault.method in {None, request.method}
                if is_meant and fault.times > 0 and fault.where.search(request.path):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def serve_folder(folder: Path, *, has_tag: bool = True) -> Iterator[FaultyServer]:
    """Serve the files below ``folder``, with ranges, without listings, with ``ETag`` or not."""

    class Handler(_Handler):
        def find(self) -> _Answer:
            path = folder / unquote(urlsplit(self.path).path).lstrip("/")
            if not path.is_file():
                return _Answer(404, {}, b"nothing here")
            return _slice(path.read_bytes(), self.headers["Range"], has_tag=has_tag)

    with _serve(Handler) as server:
        yield server


@contextmanager
def stand_before(endpoint: str) -> Iterator[FaultyServer]:
    """Pass every request on to the server at ``endpoint``, as ``http://127.0.0.1:8333``."""
    host = urlsplit(endpoint).netloc

    class Handler(_Handler):
        def find(self) -> _Answer:
            length = int(self.headers["Content-Length"] or 0)
            connection = HTTPConnection(host, timeout=60)
            try:
                connection.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(self.rfile.read(length) if length else None)
                response = connection.getresponse()
                return _Answer(response.status, dict(response.getheaders()), response.read())
            finally:
                connection.close()

    with _serve(Handler) as server:
        yield server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    faulty: ClassVar[FaultyServer]

    def find(self) -> _Answer:
        """Find the right answer."""
        raise NotImplementedError

    def do_GET(self) -> None:
        fault = self.faulty.note(Request(self.command, self.path, self.headers["Range"]))
        failure = None if fault is None else fault.failure
        if fault is None or fault.is_done:
            answer = self.find()
        else:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            answer = _Answer(503, {}, b"out of order")
        if failure == "silent":
            self.close_connection = True
            self.faulty._stopped.wait()
            return
        if failure == "html":
            answer = _Answer(200, {"Content-Type": "text/html"}, PAGE)
        elif failure == "cut":
            answer = answer._replace(body=answer.body[: len(answer.body) // 2])
        elif isinstance(failure, int):
            answer = _Answer(failure, {}, b"out of order")
        self._send(answer, half=failure in {"drop", "short", "stall"})
        if failure == "stall":
            self.faulty._stopped.wait()
        elif failure == "drop":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _send(self, answer: _Answer, *, half: bool) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", self._length(answer))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if half else answer.body)
            self.wfile.flush()
        if half:
            self.close_connection = True

    def _length(self, answer: _Answer) -> str:
        if self.command == "HEAD":
            stated = {name.lower(): value for name, value in answer.headers.items()}
            return stated.get("content-length", str(len(answer.body)))
        return str(len(answer.body))

    def log_message(self, *_: object) -> None:
        """Say nothing: tests look at ``requests``."""


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that went away: some tests kill them."""


@contextmanager
def _serve(handler: type[_Handler]) -> Iterator[FaultyServer]:
    handler.faulty = FaultyServer()
    with _QuietServer(("127.0.0.1", 0), handler) as server:
        handler.faulty.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield handler.faulty
        finally:
            handler.faulty._stopped.set()
            server.shutdown()
            thread.join()


def _slice(body: bytes, wanted: str | None, *, has_tag: bool) -> _Answer:
    headers = {"Accept-Ranges": "bytes", "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    if has_tag:
        headers["ETag"] = f'"{zlib.crc32(body):08x}"'
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if match is None:
        return _Answer(200, headers, body)
    first, last = match.groups()
    start = int(first) if first else max(0, len(body) - int(last))
    stop = min(len(body), int(last) + 1) if first and last else len(body)
    if start >= len(body):
        return _Answer(416, {"Content-Range": f"bytes */{len(body)}"}, b"")
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
    return _Answer(206, headers, body[start:stop])
