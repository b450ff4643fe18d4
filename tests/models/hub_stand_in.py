"""A local stand-in for timm's hub and its mirrors, for proxies, and for servers that fail in one way each."""

import hashlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """The server's state.

    Attributes:
        files: Contents by path, such as "timm/test_resnet.r160_in1k/model.safetensors" or any other.
        statuses: Answers of the next requests in place of the true ones; 0 is the true one.
        headers: Sent with each answer of `statuses`.
        cut_after: Bytes of a file after which each of the next connections is cut, one after another.
        delay: Waited for before each of the next answers, one event a request.
        xet: Pretend that files lie in Xet storage, which is not there.
        is_hub: Send a hub's headers.
        connect_status: The answer to a client that asks for a tunnel, as of a proxy; 200 opens it.
        requests: Method, path, and range or "" of each request.
        tokens: Authorization of each request, or "".
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    delay: list[threading.Event] = field(default_factory=list)
    xet: bool = False
    is_hub: bool = True
    knows_ranges: bool = True
    connect_status: int = 502
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def sent(self, method: str) -> list[str]:
        """The ranges, or "", of the requests with a method."""
        return [one[2] for one in self.requests if one[0] == method]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_CONNECT(self) -> None:
        if self.hub.connect_status != 200:
            self.send_error(self.hub.connect_status)
            return
        host, _, port = self.path.partition(":")
        self.hub.requests.append((self.command, self.path, ""))
        self.close_connection = True
        with socket.create_connection((host, int(port))) as server:
            self.send_response(200)
            self.end_headers()
            other = {self.connection: server, server: self.connection}
            while ready := select.select(list(other), [], [], 20)[0]:
                for one in ready:
                    if not (data := one.recv(1 << 16)):
                        return
                    other[one].sendall(data)

    def _answer(self, *, body: bool) -> None:
        hub, wanted = self.hub, self.headers.get("Range", "")
        hub.requests.append((self.command, urlsplit(self.path).path, wanted))
        hub.tokens.append(self.headers.get("Authorization", ""))
        if hub.delay:
            hub.delay.pop(0).wait(20)
        if hub.statuses and (status := hub.statuses.pop(0)):
            self._send(status, b"", hub.headers, body=body)
            return
        path = urlsplit(self.path).path.lstrip("/").replace("/resolve/main/", "/")
        path = path.replace(f"/resolve/{COMMIT}/", "/")
        content = hub.files.get(path)
        if content is None:
            missing = (
                "EntryNotFound"
                if any(p.startswith(path.rpartition("/")[0]) for p in hub.files)
                else "RepoNotFound"
            )
            self._send(404, b"", {"X-Error-Code": missing} if hub.is_hub else {}, body=body)
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if hub.xet:
            headers |= {"X-Xet-Hash": "0" * 64, "X-Xet-Refresh-Route": "/nowhere"}
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and hub.knows_ranges else 0
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self._send(206 if first else 200, content[first:], headers if hub.is_hub else {}, body=body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        if self.hub.cut_after and content:
            self.wfile.write(content[: self.hub.cut_after.pop(0)])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(content)


@contextmanager
def serve(certificate: tuple[Path, Path] | None = None) -> Iterator[Hub]:
    """Run a stand-in on a free port of this machine; over TLS with a certificate and its key."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *args: None  # type: ignore[method-assign]  # a client that trusts it not
        hub.url = hub.url.replace("http:", "https:").replace("127.0.0.1", "localhost")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
