"""Weights come through the hub's own client and its settings, from servers that fail in every way once."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.request import getproxies

import pytest
import timm
import torch
from hub_stand_in import Hub, serve
from huggingface_hub import constants
from huggingface_hub.utils._http import close_session
from safetensors.torch import save

from distracted.errors import WeightsError
from distracted.models import hub
from distracted.models.failed_requests import explain
from distracted.models.hub import hub_weights

REPOSITORY = "timm/test_resnet.r160_in1k"
FILE = f"{REPOSITORY}/model.safetensors"
#: Variables of the environment that the clients read.
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
Use = Callable[[str], None]


@pytest.fixture(scope="module")
def content() -> bytes:
    torch.manual_seed(0)
    return save(timm.create_model("test_resnet", num_classes=10).state_dict())


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """A function that points the hub's client at a server; its cache is empty, and pauses take no time."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert not getproxies()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(hub, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(hub, "_unreachable", {})

    def point(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        close_session()  # the client reads the environment once

    yield point
    close_session()


@pytest.fixture
def mirror(use: Use, content: bytes) -> Iterator[Hub]:
    with serve() as server:
        server.files[FILE] = content
        use(server.url)
        yield server


def fails(source: str, *parts: str) -> None:
    with pytest.raises(WeightsError) as caught:
        hub_weights(source)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def downloaded(source: str, content: bytes) -> None:
    path, sha256 = hub_weights(source)
    assert path.read_bytes() == content and len(sha256) == 64


# The hub ---------------------------------------------------------------------------------------------------


def test_a_mirror_serves_weights_and_the_cache_is_asked_first(mirror: Hub, content: bytes) -> None:
    downloaded(REPOSITORY, content)
    num = len(mirror.requests)
    downloaded(REPOSITORY, content)
    assert len(mirror.requests) == num


def test_a_repository_with_the_older_file_serves_that(mirror: Hub, content: bytes) -> None:
    mirror.files = {f"{REPOSITORY}/pytorch_model.bin": content}
    downloaded(REPOSITORY, content)
    num = len(mirror.requests)
    downloaded(REPOSITORY, content)
    assert len(mirror.requests) == num


def test_a_damaged_file_of_the_cache_is_downloaded_again(
    mirror: Hub, content: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = hub_weights(REPOSITORY)
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        path.resolve().write_bytes(damaged)
        downloaded(REPOSITORY, content)
        assert f"{path}: damaged: its SHA-256" in caplog.text
        caplog.clear()
    path.resolve().write_bytes(damaged)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails(REPOSITORY, "HF_HUB_OFFLINE is set", f"{path} is damaged", "remove it")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_of_the_cache_that_may_not_be_read_is_replaced(mirror: Hub, content: bytes) -> None:
    """As in a cache that several people share."""
    path, _ = hub_weights(REPOSITORY)
    path.resolve().chmod(0)
    downloaded(REPOSITORY, content)


def test_a_damaged_file_in_place_of_a_link_is_downloaded_again(mirror: Hub, content: bytes) -> None:
    """A cache that was copied without its links: unpacked from a zip, or on Windows."""
    path, _ = hub_weights(REPOSITORY)
    for damaged in (b"", content[:1000], b"../../blobs/0"):
        path.unlink()
        path.write_bytes(damaged)
        downloaded(REPOSITORY, content)


def test_a_file_that_repositories_share_is_whole(mirror: Hub, content: bytes, tmp_path: Path) -> None:
    """The client may keep files of Xet storage once for all repositories, named after another digest."""
    path, _ = hub_weights(REPOSITORY)
    shared = tmp_path / "hub/blobs/ab" / f"ab{'0' * 62}"
    shared.parent.mkdir(parents=True)
    blob = path.resolve().replace(shared)
    (path.parent / path.readlink()).symlink_to(blob)
    num = len(mirror.requests)
    downloaded(REPOSITORY, content)
    assert len(mirror.requests) == num


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 100_000])
def test_a_download_that_is_cut_goes_on(
    first: int, mirror: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client keeps whole chunks of what it has: of 10 MB, here of 1,000 bytes."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    mirror.cut_after = [first, 1000]
    downloaded(REPOSITORY, content)
    kept = first // 1000 * 1000
    assert mirror.sent("GET")[-3:] == ["", f"bytes={kept}-" if kept else "", f"bytes={kept + 1000}-"]


@pytest.mark.parametrize(
    ("status", "at"),  # 0: the question, 1: the client's own question, 2: the file
    [*((status, 0) for status in (408, 429, 500, 502, 503, 504)), (503, 1), (429, 2), (503, 2)],
)
def test_a_busy_server_is_asked_again(status: int, at: int, mirror: Hub, content: bytes) -> None:
    mirror.statuses = [0] * at + [status]
    mirror.headers = {"Retry-After": "0"}
    downloaded(REPOSITORY, content)


@pytest.mark.parametrize(
    ("status", "meaning", "asked"),
    [
        (401, "needs a token that may read it (`hf auth login`, or HF_TOKEN=<token>)", 1),
        (403, "accept the terms on its page", 1),
        (404, "no such repository", 1),
        (407, "HTTPS_PROXY=http://<name>:<password>@<proxy>:<port>", 1),
        (429, "too many requests", 3),
        (500, "out of order; try again later", 3),
        (503, "out of order; try again later", 3),
    ],
)
def test_an_answer_is_told_as_what_it_is(status: int, meaning: str, asked: int, mirror: Hub) -> None:
    """One that concerns the server is remembered; one that concerns the repository is not."""
    mirror.statuses = [status] * 9
    fails(REPOSITORY, f"{REPOSITORY}: {mirror.url[7:]} answers {status}", meaning, "not in the cache")
    assert len(mirror.sent("HEAD")) == asked
    fails("timm/other", f"answers {status}")
    assert len(mirror.sent("HEAD")) == asked + (status in (401, 403, 404))


def test_a_long_wait_is_said_and_not_waited_for(mirror: Hub) -> None:
    mirror.statuses, mirror.headers = [429], {"Retry-After": "3600"}
    fails(REPOSITORY, "answers 429", "in 3600 s")
    assert len(mirror.sent("HEAD")) == 1


@pytest.mark.slow
def test_a_slow_server_gets_more_time(mirror: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six seconds are no reason to give up; after the client's own patience it is asked again with more."""
    assert constants.HF_HUB_ETAG_TIMEOUT > 6
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    mirror.delay = [threading.Event()]
    downloaded(REPOSITORY, content)
    monkeypatch.setattr(hub, "_SLOW", 1)
    mirror.delay = [threading.Event() for _ in range(9)]
    fails("timm/other", "does not answer in time", "HF_HUB_ETAG_TIMEOUT")
    num = len(mirror.requests)
    fails("timm/third", "does not answer in time")
    assert len(mirror.requests) == num


def test_where_xet_fails_the_file_comes_over_http(mirror: Hub, content: bytes) -> None:
    mirror.xet = True
    downloaded(REPOSITORY, content)


def test_a_login_page_is_no_hub(mirror: Hub) -> None:
    mirror.is_hub = False
    fails(REPOSITORY, "a login page of the network, or a wrong HF_ENDPOINT")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9", "the connection is refused"),
        ("http://nowhere.invalid", "its name cannot be resolved"),
    ],
)
def test_without_a_network_it_gives_up_at_once_and_remembers(
    url: str, reason: str, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(url)
    monkeypatch.setattr(hub, "_PAUSES", (100.0, 100.0))
    fails(REPOSITORY, reason)
    fails("timm/other", reason)
    assert list(hub._unreachable) == [url]


def test_a_server_that_is_back_is_asked_again(
    mirror: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook or a sweep lives longer than an outage."""
    mirror.statuses = [503] * 3
    fails(REPOSITORY, "answers 503")
    fails(REPOSITORY, "answers 503")
    assert len(mirror.requests) == 3
    later = time.monotonic() + 61
    monkeypatch.setattr(hub, "time", SimpleNamespace(monotonic=lambda: later, sleep=time.sleep))
    downloaded(REPOSITORY, content)


# Companies' networks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a private authority, ca.pem, and a certificate for localhost that it signed."""
    folder = tmp_path_factory.mktemp("authority")
    new = "openssl req -newkey rsa:2048 -nodes -sha256 -days 30"
    for command in (
        f"{new} -x509 -subj /CN=Company -keyout ca.key -out ca.pem",
        f"{new} -subj /CN=localhost -keyout server.key -out server.csr",
        "openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -sha256 "
        "-extfile names.txt -out server.pem",
    ):
        (folder / "names.txt").write_text("subjectAltName=DNS:localhost\n")
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


def test_a_companys_certificates_count_as_the_client_counts_them(
    authority: Path, content: bytes, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve((authority / "server.pem", authority / "server.key")) as server:
        server.files[FILE] = content
        use(server.url)
        fails(REPOSITORY, "certificate is not trusted", "SSL_CERT_FILE=<file.pem>")
        hub._unreachable.clear()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
        use(server.url)
        downloaded(REPOSITORY, content)
        url = f"{server.url}/files/weights.pth"
        server.files["files/weights.pth"] = content
        downloaded(url, content)
        monkeypatch.delenv("SSL_CERT_FILE")
        fails(url.replace("weights", "others"), "certificate is not trusted")


@pytest.mark.parametrize("exists", [False, True])
def test_a_wrong_file_of_certificates_is_named(
    exists: bool, mirror: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    if exists:
        (tmp_path / "ca.pem").write_text("no certificate")
    mirror.requests.clear()
    fails(REPOSITORY, "the file that SSL_CERT_FILE names holds no certificates")
    assert not mirror.requests


def test_a_proxy_is_used_and_its_refusal_said(
    content: bytes, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        proxy.files |= {FILE: content, "files/weights.pth": content}
        use("http://hub.invalid")
        downloaded(REPOSITORY, content)
        downloaded("http://files.invalid/files/weights.pth", content)
        use("https://hub.invalid")
        fails("timm/other", "hub.invalid")  # the proxy tunnels nothing
        proxy.connect_status = 407
        hub._unreachable.clear()
        fails("timm/other", "answers 407", "HTTPS_PROXY=http://<name>:<password>@<proxy>:<port>")
        fails("https://files.invalid/files/others.pth", "answers 407")


def test_a_companys_proxy_and_certificates_together(
    authority: Path, content: bytes, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve((authority / "server.pem", authority / "server.key")) as server, serve() as proxy:
        server.files |= {FILE: content, "files/weights.pth": content}
        proxy.connect_status = 200
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
        use(server.url)
        downloaded(REPOSITORY, content)
        assert {path for _, path, _ in proxy.requests} == {server.url.removeprefix("https://")}
        num = len(proxy.requests)
        downloaded(f"{server.url}/files/weights.pth", content)
        assert len(proxy.requests) == num + 1


@pytest.mark.slow
def test_the_environment_alone_settles_all(authority: Path, content: bytes, tmp_path: Path) -> None:
    """A new process, as a user starts it: a mirror behind a private authority, with a token."""
    code = (
        "from distracted.models.weights import find_weights\n"
        f"print(find_weights('test_resnet', 'auto', source={REPOSITORY!r}).origin)"
    )
    with serve((authority / "server.pem", authority / "server.key")) as server:
        server.files[FILE] = content
        env = {name: value for name, value in os.environ.items() if name.lower() not in VARIABLES}
        env |= {"HF_ENDPOINT": server.url, "SSL_CERT_FILE": str(authority / "ca.pem"), "HF_TOKEN": "hf_xyz"}
        env |= {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == f"imagenet:{REPOSITORY}"
        asked = [
            t for t, (_, path, _) in zip(server.tokens, server.requests, strict=True) if "resnet" in path
        ]
        assert asked and set(asked) == {"Bearer hf_xyz"}


# Files by URL ----------------------------------------------------------------------------------------------


def test_a_url_is_resumed_where_it_was_cut(mirror: Hub, content: bytes) -> None:
    mirror.files["files/weights.pth"] = content
    mirror.cut_after = [1, 1000, 500_000]
    downloaded(f"{mirror.url}/files/weights.pth", content)
    assert mirror.sent("GET") == ["", "bytes=1-", "bytes=1001-", "bytes=501001-"]


def test_a_url_whose_server_knows_no_ranges_is_begun_again(
    mirror: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.files["files/weights.pth"] = content
    mirror.knows_ranges = False
    mirror.cut_after = [500_000]
    downloaded(f"{mirror.url}/files/weights.pth", content)


def test_a_url_that_never_arrives_whole_leaves_nothing(mirror: Hub, content: bytes, tmp_path: Path) -> None:
    mirror.files["files/weights.pth"] = content
    mirror.cut_after = [1000] + [0] * 9
    fails(f"{mirror.url}/files/weights.pth", "the connection was cut after 1000 bytes", "not in the cache")
    assert not [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_urls_refusal_is_told_as_what_it_is(status: int, mirror: Hub) -> None:
    mirror.statuses = [status] * 9
    fails(f"{mirror.url}/files/weights.pth", f"answers {status}")
    assert len(mirror.requests) == (3 if status == 503 else 1)


def test_a_damaged_file_by_url_is_downloaded_again(mirror: Hub, content: bytes, tmp_path: Path) -> None:
    name = f"weights-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    mirror.files[f"files/{name}"] = content
    path = tmp_path / "torch/checkpoints" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content[:-1])
    downloaded(f"{mirror.url}/files/{name}", content)


def test_a_folder_that_cannot_be_made_is_named(
    mirror: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file/hub"))
    fails(REPOSITORY, "cannot be written", f"{tmp_path}/file", "Not a directory", "HF_HOME")
    assert len(mirror.sent("HEAD")) == 2 and not mirror.sent("GET")  # no second try


def test_a_full_or_forbidden_folder_is_named() -> None:
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES):
        failure = explain(OSError(number, os.strerror(number), "/cache/x"), "http://hub")
        assert "/cache/x" in failure.reason and os.strerror(number) in failure.reason
        assert "HF_HOME" in failure.reason and not failure.may_pass and not failure.of_server
    with pytest.raises(OSError) as full, open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
        file.write(b"x")
    assert "No space left" in explain(full.value, "http://hub").reason
