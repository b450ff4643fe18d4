"""A local HTTP server that answers Kaggle's own client, which reaches it through the variable http_proxy."""

import gc
import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

#: The client talks to http://localhost with this variable, and requests takes the proxy for it.
ENVIRONMENT = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "no_proxy": "", "NO_PROXY": ""}
TOKEN, KEY = "KGAT_secret0123", "0123456789abcdefsecret"
REF = 77


@dataclass
class Answer:
    """A response: JSON or bytes, with a status and headers; `drop` closes the connection instead."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


@dataclass
class KaggleServer:
    """What the server answers, by the last part of the address, and what it was asked."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)

    def names(self) -> list[str]:
        return [name for name, _, _ in self.asked]

    def refuse(self, name: str, status: int, message: str = "", **headers: str) -> None:
        """Refuse as Kaggle does: an HTTP status, and JSON if there is a message."""
        body = {"code": status, "message": message} if message else b"<html>"
        self.answers[name] = Answer(body, status, headers)


def default_answers(url: str, archive: bytes) -> dict[str, Answer]:
    """A server that accepts everything."""
    scored = {"ref": REF, "status": "COMPLETE", "publicScore": "0.25", "privateScore": "0.5"}
    return {
        "IntrospectToken": Answer({"active": True, "username": "driver"}),
        "GenerateAccessToken": Answer({"token": "KGAT_fresh_secret", "expiresIn": 3600}),
        "DownloadDataFiles": Answer(status=302, headers={"Location": f"{url}/all.zip?signature=secret"}),
        "all.zip": Answer(archive),
        "StartSubmissionUpload": Answer({"token": "blob", "createUrl": f"{url}/upload?signature=secret"}),
        "upload": Answer({}),
        "CreateSubmission": Answer({"message": "Successfully submitted", "ref": REF}),
        "ListSubmissions": Answer({"submissions": [scored]}),
    }


@contextmanager
def kaggle_server(archive: bytes = b"") -> Iterator[KaggleServer]:
    server = KaggleServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            name = urlsplit(self.path).path.rpartition("/")[2]
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
            server.asked.append((name, self.headers.get("Authorization", ""), content))
            answer = server.answers.get(name, Answer(b"not found", 404))
            if answer.drop:
                self.close_connection = True
                return
            is_bytes = isinstance(answer.body, bytes)
            body = answer.body if is_bytes else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/zip" if is_bytes else "application/json")
            self.send_header("Content-Length", str(len(body)))
            for key, value in answer.headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        server.answers = default_answers(server.url, archive)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
            _forget_client()


def _forget_client() -> None:
    """Kaggle's client leaves its connections to the garbage collector, which would warn in a later test."""
    for name in _client_modules():
        del sys.modules[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _client_modules() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "kaggle"]


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path, url: str) -> None:
    """An empty home folder, no credentials, the stand-in as Kaggle, and the client imported again."""
    for name in os.environ:
        if name.startswith(("KAGGLE", "XDG", "VERBOSE")) or name.lower() in ("http_proxy", "all_proxy"):
            monkeypatch.delenv(name)
    home.mkdir(parents=True, exist_ok=True)
    for name, value in (ENVIRONMENT | {"HOME": str(home), "http_proxy": url}).items():
        monkeypatch.setenv(name, value)
    for name in _client_modules():
        monkeypatch.delitem(sys.modules, name)
