"""A Kaggle on this machine: a server for Kaggle's own client, which reaches it through `http_proxy`.

It takes uploads and submissions, lists them page by page, and sends an archive in ranges. Each step can be
made to fail, always or once. A proxy in front of it cuts a connection after any number of bytes.
"""

import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import strategies as st

from distracted import kaggle_requests
from distracted.data import fetch
from distracted.submission import deliver, send

#: The client talks to http://localhost with this variable, and requests takes the proxy for it.
ENVIRONMENT = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "no_proxy": "", "NO_PROXY": ""}
TOKEN, KEY = "KGAT_secret0123", "0123456789abcdefsecret"
REF = 77  # of the first submission
#: The steps of sending and of downloading, as they follow each other.
SENDING = ("IntrospectToken", "StartSubmissionUpload", "upload", "CreateSubmission", "ListSubmissions")
DOWNLOADING = ("IntrospectToken", "DownloadDataFiles", "all.zip")


@dataclass
class Answer:
    """A response: JSON or bytes, with a status and headers.

    Attributes:
        drop: Close the connection instead.
        acts: Carry out the request first, as if only its answer were lost.
        cut: Close the connection after this many bytes of the body.
        wait: Seconds before the answer, and `between` between its bytes.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    acts: bool = False
    cut: int | None = None
    wait: float = 0.0
    between: float = 0.0


def odd_answers() -> st.SearchStrategy[Answer]:
    """Answers of any status, type and content, the keys of Kaggle's own among them."""
    keys = [
        "active",
        "username",
        "token",
        "createUrl",
        "ref",
        "message",
        "code",
        "submissions",
        "nextPageToken",
    ]
    values = (
        st.none() | st.booleans() | st.integers(-1, 600) | st.floats(allow_nan=False) | st.text(max_size=5)
    )
    trees = st.recursive(
        values,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(keys), inner, max_size=3),
        max_leaves=6,
    )
    kinds = ["application/json", "text/html", "application/zip", "application/json; charset=nonsense", ""]
    headers = st.fixed_dictionaries(
        {"Content_Type": st.sampled_from(kinds)},
        optional={
            "Retry_After": st.sampled_from(["0", "-1", "1e9", "soon", "Mon, 99 Foo 2026 99:99:99", "0.01"]),
            "Content_Encoding": st.sampled_from(["gzip", "identity", "br"]),
            "Content_Range": st.sampled_from(
                ["bytes 0-9/10", "bytes 5-9/10", "bytes */0", "bytes 9-0/-1", ""]
            ),
            "ETag": st.sampled_from(['"', "W/", '"first"']),
            "Location": st.sampled_from(["/upload", "http://[", "ftp://x", "", "//"]),
        },
    )
    statuses = [200, 201, 204, 206, 301, 302, 304, 308, 400, 404, 416, 418, 429, 499, 500, 503, 599]
    return st.builds(
        Answer,
        body=trees | st.binary(max_size=20),
        status=st.sampled_from(statuses),
        headers=headers,
        acts=st.booleans(),
        cut=st.none() | st.integers(0, 10),
    )


@dataclass(frozen=True)
class Request:
    name: str
    authorization: str
    content: bytes
    headers: dict[str, str]


class KaggleServer:
    """The server's state: its files and submissions, the requests so far, and the answers to give.

    Attributes:
        answers: Answers by the last part of the address, in place of the server's own.
        submissions: Kaggle's records, the oldest first.
        score: The score that every submission gets; None while it is pending.
    """

    def __init__(self, url: str, archive: bytes) -> None:
        self.url, self.archive, self.etag = url, archive, '"first"'
        self.asked: list[Request] = []
        self.answers: dict[str, Answer] = {}
        self.uploads: dict[str, bytes] = {}
        self.submissions: list[dict[str, Any]] = []
        self.score: str | None = "0.25"
        self.page_size = 20
        self.has_ranges = self.has_length = True
        self.closing = threading.Event()
        self.on_request: Callable[[Request], None] = lambda request: None
        self._once: dict[str, list[Answer]] = {}

    def names(self) -> list[str]:
        return [request.name for request in self.asked]

    def refuse(self, name: str, status: int, message: str = "", **headers: str) -> None:
        """Refuse as Kaggle does: an HTTP status, and JSON if there is a message."""
        body = {"code": status, "message": message} if message else b"<html>"
        self.answers[name] = Answer(body, status, headers)

    def once(self, name: str, *answers: Answer) -> None:
        """Give these answers first."""
        self._once.setdefault(name, []).extend(answers)

    def reply(self, request: Request) -> Answer:
        self.asked.append(request)
        self.on_request(request)
        if queue := self._once.get(request.name):
            answer = queue.pop(0)
        elif request.name in self.answers:
            answer = self.answers[request.name]
        else:
            return self._act(request)
        if answer.acts:
            self._act(request)
        return answer

    def _act(self, request: Request) -> Answer:
        asked: dict[str, Any] = {}
        with suppress(ValueError):
            asked = json.loads(request.content)
        match request.name:
            case "IntrospectToken":
                return Answer({"active": True, "username": "driver"})
            case "GenerateAccessToken":
                return Answer({"token": "KGAT_fresh_secret", "expiresIn": 3600})
            case "DownloadDataFiles":
                return Answer(status=302, headers={"Location": f"{self.url}/all.zip?signature=secret"})
            case "all.zip":
                return self._file(request)
            case "StartSubmissionUpload":
                token = f"blob{len(self.uploads)}"
                self.uploads[token] = b""
                return Answer({"token": token, "createUrl": f"{self.url}/{token}/upload?signature=secret"})
            case "upload":
                self.uploads[[*self.uploads][-1]] = request.content
                return Answer({})
            case "CreateSubmission":
                return self._create(asked)
            case "ListSubmissions":
                return self._list(asked)
        return Answer(b"not found", 404)

    def _file(self, request: Request) -> Answer:
        headers, start = {"ETag": self.etag} if self.etag else {}, 0
        span = request.headers.get("Range", "")
        fits = request.headers.get("If-Range", self.etag) == self.etag
        if not (self.has_ranges and span and fits):
            return Answer(self.archive, 200, headers)
        start = int(span.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.archive):
            return Answer(b"", 416, {"Content-Range": f"bytes */{len(self.archive)}"})
        end = len(self.archive) - 1
        headers["Content-Range"] = f"bytes {start}-{end}/{end + 1}"
        return Answer(self.archive[start:], 206, headers)

    def _create(self, asked: dict[str, Any]) -> Answer:
        token = asked.get("blobFileTokens", "")
        if not self.uploads.get(token):
            return Answer({"code": 400, "message": "Unknown blob"}, 400)
        ref = REF + len(self.submissions)
        record = {"ref": ref, "description": asked.get("submissionDescription", ""), "token": token}
        record["competition"] = asked.get("competitionName")
        date = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
        self.submissions.append({**record, "date": date, "totalBytes": len(self.uploads[token])})
        return Answer({"message": "Successfully submitted", "ref": ref})

    def _list(self, asked: dict[str, Any]) -> Answer:
        start = int(asked.get("pageToken") or 0)
        size = min(asked.get("pageSize", 20), self.page_size)
        scored = {"status": "PENDING"}
        if self.score is not None:
            scored = {"status": "COMPLETE", "publicScore": self.score, "privateScore": "0.5"}
        wanted = {None, asked.get("competitionName")}
        mine = [item for item in self.submissions if item.get("competition") in wanted]
        items = [scored | item for item in reversed(mine)]
        more = {"nextPageToken": str(start + size)} if start + size < len(items) else {}
        return Answer({"submissions": items[start : start + size], **more})


class _Handler(BaseHTTPRequestHandler):
    kaggle: KaggleServer

    def do_POST(self) -> None:
        try:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
            if len(content) < int(self.headers.get("Content-Length") or 0):
                return  # cut on its way
            name = urlsplit(self.path).path.rpartition("/")[2]
            headers = dict(self.headers)
            self._send(self.kaggle.reply(Request(name, headers.get("Authorization", ""), content, headers)))
        except OSError:  # the client has gone
            self.close_connection = True

    do_GET = do_PUT = do_POST

    def _send(self, answer: Answer) -> None:
        self.kaggle.closing.wait(answer.wait)
        if answer.drop or self.kaggle.closing.is_set():
            self.close_connection = True
            return
        is_bytes = isinstance(answer.body, bytes)
        body = answer.body if is_bytes else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        headers = {"Content-Type": "application/zip" if is_bytes else "application/json"}
        headers |= {key.replace("_", "-"): value for key, value in answer.headers.items()}
        if self.kaggle.has_length:
            headers["Content-Length"] = str(len(body))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        body = body[: answer.cut]
        if not answer.between:
            self.wfile.write(body)
        for byte in body if answer.between else b"":
            self.wfile.write(bytes([byte]))
            if self.kaggle.closing.wait(answer.between):
                return

    def log_message(self, *arguments: object) -> None:
        pass


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client has gone


@contextmanager
def kaggle_server(archive: bytes = b"") -> Iterator[KaggleServer]:
    handler = type("Handler", (_Handler,), {})
    with _HTTPServer(("127.0.0.1", 0), handler) as http:
        server = KaggleServer(f"http://127.0.0.1:{http.server_port}", archive)
        handler.kaggle = server
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            http.shutdown()
            thread.join()


class CuttingProxy:
    """Passes bytes on to a server; cuts all connections once, after `cut` bytes in one direction.

    Attributes:
        passed: Bytes in both directions since `arm`: of the client's requests, and of the server's answers.
    """

    def __init__(self, port: int) -> None:
        self._server, self._lock = ("127.0.0.1", port), threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self.arm(None, "answers")
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, cut: int | None, direction: str, *, reset: bool = True) -> None:
        self.passed = {"requests": 0, "answers": 0}
        self._cut, self._direction, self._reset = cut, direction, reset

    def close(self) -> None:
        self._listener.close()
        self._cut_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._open |= {client, server}
                for source, target, direction in (
                    (client, server, "requests"),
                    (server, client, "answers"),
                ):
                    threading.Thread(target=self._pass, args=(source, target, direction), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                with self._lock:
                    left = None
                    if self._cut is not None and direction == self._direction:
                        left = self._cut - self.passed[direction]
                    if left is not None and left < len(data):
                        data, self._cut = data[: max(left, 0)], None
                    else:
                        left = None
                    self.passed[direction] += len(data)
                target.sendall(data)
                if left is not None:
                    self._cut_all()
                    return
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_WR if end is target else socket.SHUT_RD)

    def _cut_all(self) -> None:
        with self._lock:
            sockets, self._open = self._open, set()
        for end in sockets:
            with suppress(OSError):
                if self._reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def cutting_proxy(server: KaggleServer) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(int(server.url.rpartition(":")[2]))
    try:
        yield proxy
    finally:
        proxy.close()


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path, url: str) -> None:
    """An empty home folder, no credentials, and the stand-in as Kaggle."""
    for name in os.environ:
        if name.startswith(("KAGGLE", "XDG", "VERBOSE")) or name.lower() in ("http_proxy", "all_proxy"):
            monkeypatch.delenv(name)
    home.mkdir(parents=True, exist_ok=True)
    for name, value in (ENVIRONMENT | {"HOME": str(home), "http_proxy": url}).items():
        monkeypatch.setenv(name, value)


def hurry(monkeypatch: pytest.MonkeyPatch, patience: float = 10.0) -> None:
    """Waits of hundredths of a second; `patience` 0 tries nothing again."""
    for module, values in {
        kaggle_requests: {"PATIENCE": patience, "FIRST_WAIT": 0.01, "LONGEST_WAIT": 0.05},
        fetch: {"PATIENCE": patience},
        deliver: {"LISTED_SECONDS": 0.1, "LOOK_SECONDS": 0.02},
        send: {"SCORE_SECONDS": 0.4, "POLL_SECONDS": 0.02},
    }.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


@contextmanager
def signed_in(monkeypatch: pytest.MonkeyPatch, home: Path, archive: bytes = b"") -> Iterator[KaggleServer]:
    """A stand-in in Kaggle's place, with a token, and short waits."""
    with kaggle_server(archive) as server:
        isolate(monkeypatch, home, server.url)
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        hurry(monkeypatch)
        yield server
