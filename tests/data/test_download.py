"""A competition is downloaded completely or not at all, goes on where it ended, and writes nowhere else."""

import errno
import io
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import RecordedProgress
from distracted import kaggle_requests
from distracted.config import load_data_config
from distracted.data import fetch
from distracted.data.download import download_competition, unpack
from distracted.errors import CredentialsError, DataError, LockError
from distracted.locks import hold
from distracted.paths import CONFIGS
from distracted.schema import DataConfig
from kaggle_stand_in import (
    DOWNLOADING,
    TOKEN,
    Answer,
    KaggleServer,
    Request,
    cutting_proxy,
    hurry,
    odd_answers,
    signed_in,
)

LINK = 0o120777 << 16  # a symbolic link's mode in a member's attributes


def write_zip(path: Path, members: dict[str, bytes], links: tuple[str, ...] = ()) -> Path:
    """Write a zip archive; zipfile does not clean names that are set after construction."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo()
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = LINK if name in links else 0o644 << 16
            file.writestr(info, content)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "data.zip"


class TestUnpack:
    def test_a_valid_archive(self, tmp_path: Path, archive: Path) -> None:
        members = {
            "driver_imgs_list.csv": b"subject\n",
            "imgs/train/c0/img_1.jpg": bytes(range(256)),
            "empty": b"",
        }
        unpack(write_zip(archive, members), tmp_path / "out")
        assert tree(tmp_path / "out") == members

    @pytest.mark.parametrize(
        "name",
        [
            "../evil",
            "imgs/../../evil",
            "..",
            "imgs/..",
            "/evil",
            "//host/share/evil",
            "\\evil",
            "..\\evil",
            "imgs\\..\\..\\evil",
            "C:\\evil",
            "C:evil",
            "c:/evil",
            "\\\\host\\share\\evil",
        ],
    )
    def test_a_member_that_leads_outside(self, tmp_path: Path, archive: Path, name: str) -> None:
        """Nothing is unpacked, although it is the last member; zipfile would silently clean the name."""
        write_zip(archive, {"first.txt": b"x", name: b"evil"})
        before = tree(tmp_path)
        with pytest.raises(DataError, match=r"data\.zip: member .*; nothing was unpacked") as info:
            unpack(archive, tmp_path / "out")
        assert repr(name) in str(info.value)
        assert tree(tmp_path) == before
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("target", [b"/etc", b"..", b"first.txt"])
    def test_a_link(self, tmp_path: Path, archive: Path, target: bytes) -> None:
        write_zip(archive, {"first.txt": b"x", "imgs": target}, links=("imgs",))
        with pytest.raises(DataError, match="member 'imgs' leads outside"):
            unpack(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["a..b.txt", "..a", "a/...", "C/x"])
    def test_dots_within_a_name_are_allowed(self, tmp_path: Path, archive: Path, name: str) -> None:
        unpack(write_zip(archive, {name: b"x"}), tmp_path / "out")
        assert tree(tmp_path / "out") == {name: b"x"}

    @pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9, 0.999])
    def test_a_truncated_archive(self, tmp_path: Path, archive: Path, part: float) -> None:
        data = write_zip(archive, {"a": b"x" * 1000, "b": random.Random(0).randbytes(3000)}).read_bytes()
        archive.write_bytes(data[: int(part * len(data))])
        with pytest.raises(DataError, match=r"data\.zip: damaged archive .*; download it again"):
            unpack(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_bit_flipped_anywhere_in_the_contents(self, tmp_path: Path, archive: Path) -> None:
        """In stored and in compressed blocks; zipfile and zlib raise various errors."""
        text = " ".join(map(str, range(1500))).encode()
        data = write_zip(
            archive, {"first": b"x", "a": text, "b": random.Random(0).randbytes(500)}
        ).read_bytes()
        starts = [data.index(b"PK\3\4", 10), data.index(b"PK\1\2")]  # of the second member, of the directory
        for position in range(starts[0] + 40, starts[1], 97):
            damaged = bytearray(data)
            damaged[position] ^= 0x55
            archive.write_bytes(damaged)
            with pytest.raises(DataError, match="damaged archive"):
                unpack(archive, tmp_path / "out")
            assert not (tmp_path / "out").exists()

    def test_an_error_page_instead_of_an_archive(self, tmp_path: Path, archive: Path) -> None:
        archive.write_text("<html>Please log in</html>")
        with pytest.raises(DataError, match="damaged archive"):
            unpack(archive, tmp_path / "out")

    def test_an_encrypted_archive(self, tmp_path: Path, archive: Path) -> None:
        data = bytearray(write_zip(archive, {"a": b"secret"}).read_bytes())
        for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = data.index(signature) + offset
            data[at : at + 2] = struct.pack("<H", struct.unpack("<H", data[at : at + 2])[0] | 1)
        archive.write_bytes(data)
        with pytest.raises(DataError, match=r"damaged archive .*encrypted"):
            unpack(archive, tmp_path / "out")

    def test_a_disk_that_refuses_a_file(self, tmp_path: Path, archive: Path) -> None:
        """A name that is too long; a full disk raises the same error."""
        write_zip(archive, {"first": b"x", "n" * 300: b"y"})
        with pytest.raises(DataError, match=r"data\.zip: cannot be unpacked to .*out \(File name too long\)"):
            unpack(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


#: Archives in the archive, as competitions of 2016 have them.
MEMBERS = {
    "imgs/train/c0/img_1.jpg": random.Random(0).randbytes(90_000),
    "imgs/test/img_2.jpg": random.Random(1).randbytes(60_000),
    "sample_submission.csv": b"img,c0\nimg_2.jpg,1\n",
}
ARCHIVE = zipped(
    {
        "imgs.zip": zipped({name: content for name, content in MEMBERS.items() if name.startswith("imgs")}),
        "sample_submission.csv.zip": zipped({"sample_submission.csv": MEMBERS["sample_submission.csv"]}),
    }
)


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KaggleServer]:
    with signed_in(monkeypatch, tmp_path / "home", ARCHIVE) as server:
        yield server


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return load_data_config("state_farm", root=tmp_path)


def part(data: DataConfig) -> Path:
    return data.folder.with_name(".state_farm.part")


def assert_all_is_there(data: DataConfig) -> None:
    assert tree(data.folder) == MEMBERS
    assert [path.name for path in data.folder.parent.iterdir()] == ["state_farm"]


def ranges(kaggle: KaggleServer) -> list[str | None]:
    return [request.headers.get("Range") for request in kaggle.asked if request.name == "all.zip"]


class TestDownload:
    @pytest.mark.parametrize("netrc", ["", "default login me password mine"])
    def test_the_folder_appears(
        self,
        data: DataConfig,
        kaggle: KaggleServer,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        netrc: str,
    ) -> None:
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        (tmp_path / "netrc").write_text(netrc)
        download_competition(data)
        assert_all_is_there(data)
        assert kaggle.names() == list(DOWNLOADING)
        tokens = [request.authorization for request in kaggle.asked]
        assert tokens[1:] == [f"Bearer {TOKEN}", ""]  # the storage gets none
        assert "secret" not in "".join(capfd.readouterr())

    def test_an_existing_folder_is_not_touched(self, data: DataConfig, kaggle: KaggleServer) -> None:
        data.folder.mkdir(parents=True)
        (data.folder / "mine.txt").write_text("x")
        with pytest.raises(DataError, match="state_farm exists already; remove it"):
            download_competition(data)
        assert tree(data.folder) == {"mine.txt": b"x"}
        assert not kaggle.asked

    def test_a_link_to_where_nothing_lies_yet(
        self, data: DataConfig, kaggle: KaggleServer, tmp_path: Path
    ) -> None:
        """The data on another disk; everything is written there."""
        data.folder.parent.mkdir(parents=True)
        data.folder.symlink_to(tmp_path / "disk/data")
        download_competition(data)
        assert_all_is_there(data)
        assert data.folder.is_symlink() and [path.name for path in (tmp_path / "disk").iterdir()] == ["data"]

    def test_data_without_a_name_on_kaggle(self, tmp_path: Path, kaggle: KaggleServer) -> None:
        with pytest.raises(DataError, match=r"data sample: data\.kaggle is not set"):
            download_competition(load_data_config("sample", root=tmp_path))
        assert not kaggle.asked

    def test_without_credentials(
        self, data: DataConfig, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("KAGGLE_API_TOKEN")
        with pytest.raises(CredentialsError, match="no Kaggle credentials found"):
            download_competition(data)
        assert not data.folder.parent.exists()

    def test_two_processes_do_not_download_at_once(self, data: DataConfig, kaggle: KaggleServer) -> None:
        with (
            hold(part(data) / "lock.json", "test"),
            pytest.raises(LockError, match="downloading state_farm: locked by process"),
        ):
            download_competition(data)
        download_competition(data)
        assert_all_is_there(data)

    def test_progress_counts_what_is_missing(self, data: DataConfig, kaggle: KaggleServer) -> None:
        kaggle.archive = zipped({"a": random.Random(0).randbytes(2_500_000)})
        kaggle.once("all.zip", Answer(drop=True))
        progress = RecordedProgress()
        download_competition(data, progress=progress)
        assert progress.tasks == [(3, 2), (1, 1)]  # megabytes, then files

    def test_folders_of_earlier_versions_are_named(
        self, data: DataConfig, kaggle: KaggleServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        old = data.folder.with_name(".state_farm.abc_1234")
        old.mkdir(parents=True)
        download_competition(data)
        assert f"{old}: left by a download that was killed; it may be removed" in caplog.text

    @pytest.mark.parametrize(
        ("archive", "message"),
        [
            (b"PK", r"archive\.zip: damaged archive .*; download it again"),
            (zipped({"../evil": b"x"}), "leads outside of"),
            (zipped({"in.zip": b"PK"}), r"in\.zip: damaged archive"),
            (zipped({"in.zip": zipped({"../../evil": b"x"})}), r"in\.zip: member .* leads outside of"),
            (zipped({}), "Kaggle sent an empty archive"),
            (b"no archive", r"cannot be read \(not a zip archive\)"),
        ],
    )
    def test_a_bad_archive_leaves_nothing(
        self,
        data: DataConfig,
        kaggle: KaggleServer,
        monkeypatch: pytest.MonkeyPatch,
        archive: bytes,
        message: str,
    ) -> None:
        hurry(monkeypatch, patience=0.1)
        kaggle.archive = archive
        with pytest.raises(DataError, match=message):
            download_competition(data)
        assert list(data.folder.parent.iterdir()) == []

    @pytest.mark.slow
    def test_the_command(self, tmp_path: Path, kaggle: KaggleServer) -> None:
        """As a process of its own: first the rules are not accepted, then they are."""
        command = [sys.executable, "scripts/download.py", "--root", str(tmp_path)]
        page = "https://www.kaggle.com/competitions/state-farm-distracted-driver-detection/rules"
        kaggle.refuse("DownloadDataFiles", 403, "You must accept this competition's rules")
        done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
        assert done.returncode == 1 and page in done.stderr.replace("\n", "")
        assert "Traceback" not in done.stderr and "secret" not in done.stdout + done.stderr
        kaggle.answers.clear()
        done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert tree(tmp_path / "input/state_farm") == MEMBERS


class TestRefusals:
    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (Answer({"code": 400, "message": "No"}, 400), r"Kaggle refuses \(400: No\)"),
            (Answer(b"", 401), "KAGGLE_API_TOKEN is wrong, expired or revoked; create a new token"),
            (
                Answer({"code": 403, "message": "You must accept this competition's rules"}, 403),
                r"denies access .*accept this competition's.*\) *; accept the rules on .*state-farm-.*/rules",
            ),
            (Answer(b"", 404), r"no competition state-farm-.* \(404\); data\.kaggle"),
            (Answer(b"", 409), r"Kaggle refuses \(409"),
            (
                Answer(b"", 429, {"Retry_After": "90"}),
                r"too many requests .* repeat the command in 90 seconds",
            ),
            (
                Answer(b"", 500),
                r"Kaggle itself fails \(500: 500 Server Error: .*\); repeat the command later",
            ),
            (Answer(drop=True), "connection was cut .*check the network"),
            (Answer(b"", wait=30), "does not answer in time"),
            (
                Answer(b"<html>", headers={"Content_Type": "text/html"}),
                r"cannot be read \(text/html, status 200\); a proxy or the network's login page",
            ),
            (Answer({}), r"cannot be read \(application/json, status 200\)"),
            (
                Answer(b"\x1f\x8b", headers={"Content_Encoding": "gzip"}),
                r"cannot be read \(compressed with gzip, application/zip, status 200\); a proxy",
            ),
        ],
        ids=str,
    )
    def test_each_answer_is_called_what_it_is(
        self,
        data: DataConfig,
        kaggle: KaggleServer,
        monkeypatch: pytest.MonkeyPatch,
        answer: Answer,
        problem: str,
    ) -> None:
        hurry(monkeypatch, patience=0.1)
        if answer.wait:
            monkeypatch.setattr(kaggle_requests, "LIMIT", 0.3)
        kaggle.answers["DownloadDataFiles"] = answer
        with pytest.raises(DataError, match=f"state-farm-.* cannot be downloaded: .*{problem}") as info:
            download_competition(data)
        assert len(str(info.value).splitlines()) <= 2
        assert "localhost" not in str(info.value) and TOKEN not in str(info.value)
        assert list(data.folder.parent.iterdir()) == []

    def test_the_storage_refuses(self, data: DataConfig, kaggle: KaggleServer) -> None:
        """The archive's address holds a signature."""
        kaggle.refuse("all.zip", 403)
        with pytest.raises(
            DataError, match=r"Kaggle's storage denies access \(403.*allow 127\.0\.0\.1"
        ) as info:
            download_competition(data)
        assert "secret" not in str(info.value)


class TestContinuing:
    def test_a_cut_connection_is_continued(
        self, data: DataConfig, kaggle: KaggleServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        kaggle.once("all.zip", Answer(ARCHIVE, headers={"ETag": kaggle.etag}, cut=100_000))
        download_competition(data)
        assert_all_is_there(data)
        assert ranges(kaggle) == [None, "bytes=100000-"]
        assert kaggle.names().count("DownloadDataFiles") == 2  # the first address may have expired
        assert [request.authorization for request in kaggle.asked if request.name == "all.zip"] == ["", ""]
        assert "the connection was cut and Kaggle cannot be reached; trying again in 1 s" in caplog.text

    def test_the_next_call_continues_too(self, data: DataConfig, kaggle: KaggleServer) -> None:
        kaggle.once("all.zip", Answer(ARCHIVE, headers={"ETag": kaggle.etag}, cut=100_000))
        kaggle.refuse("all.zip", 403)
        with pytest.raises(DataError, match=r"0\.1 MB are kept, the same command goes on"):
            download_competition(data)
        assert [path.name for path in data.folder.parent.iterdir()] == [".state_farm.part"]
        kaggle.answers.clear()
        kaggle.asked.clear()
        download_competition(data)
        assert_all_is_there(data)
        assert ranges(kaggle) == ["bytes=100000-"]

    @pytest.mark.parametrize("etag", ['"second"', 'W/"second"', ""])
    def test_another_file_on_the_server_begins_again(
        self, data: DataConfig, kaggle: KaggleServer, etag: str
    ) -> None:
        kaggle.once("all.zip", Answer(b"PK old" * 20_000, headers={"ETag": '"first"'}, cut=100_000))
        kaggle.etag = etag
        download_competition(data)
        assert_all_is_there(data)

    @pytest.mark.parametrize("archive", [b"PK old" * 20_000, b"PK old" * 100_000], ids=["short", "long"])
    def test_another_file_without_any_etag_begins_again(
        self, data: DataConfig, kaggle: KaggleServer, archive: bytes
    ) -> None:
        """The sizes differ, or the server has nothing from that byte on."""
        kaggle.etag = ""
        kaggle.once("all.zip", Answer(archive, cut=len(archive) - 1))
        download_competition(data)
        assert_all_is_there(data)

    def test_a_server_without_ranges_begins_again(
        self, data: DataConfig, kaggle: KaggleServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        kaggle.has_ranges = False
        kaggle.once("all.zip", Answer(ARCHIVE, headers={"ETag": kaggle.etag}, cut=100_000))
        download_competition(data)
        assert_all_is_there(data)
        assert "Kaggle's storage sends the whole archive again: 0.1 MB are of no use" in caplog.text

    @pytest.mark.parametrize("cut", [None, 100_000])
    def test_a_server_that_does_not_say_how_long_the_archive_is(
        self, data: DataConfig, kaggle: KaggleServer, cut: int | None
    ) -> None:
        """It says so in ranges."""
        kaggle.has_length = False
        kaggle.once("all.zip", Answer(ARCHIVE, headers={"ETag": kaggle.etag}, cut=cut))
        download_competition(data)
        assert_all_is_there(data)
        assert ranges(kaggle) == [None] if cut is None else [None, f"bytes={cut}-"]

    def test_a_folder_made_in_between_does_not_remove_what_was_downloaded(
        self, data: DataConfig, kaggle: KaggleServer
    ) -> None:
        kaggle.once("all.zip", Answer(ARCHIVE, headers={"ETag": kaggle.etag}, cut=100_000))
        kaggle.refuse("all.zip", 403)
        with pytest.raises(DataError, match="are kept"):
            download_competition(data)
        data.folder.mkdir()
        with pytest.raises(DataError, match="exists already"):
            download_competition(data)
        data.folder.rmdir()
        kaggle.answers.clear()
        kaggle.asked.clear()
        download_competition(data)
        assert_all_is_there(data)
        assert ranges(kaggle) == ["bytes=100000-"]

    def test_a_part_of_another_competition_is_of_no_use(self, data: DataConfig, kaggle: KaggleServer) -> None:
        kaggle.once("all.zip", Answer(b"PK old" * 30_000, headers={"ETag": '"first"'}, cut=100_000))
        kaggle.refuse("all.zip", 403)
        with pytest.raises(DataError):
            download_competition(data.model_copy(update={"kaggle": "another"}))
        kaggle.answers.clear()
        download_competition(data)
        assert_all_is_there(data)

    def test_more_bytes_than_announced(self, data: DataConfig, kaggle: KaggleServer) -> None:
        """A stored beginning that is too long, as after a file system's repair."""
        kaggle.once("all.zip", Answer(ARCHIVE, headers={"ETag": kaggle.etag}, cut=100_000))
        kaggle.refuse("all.zip", 403)
        with pytest.raises(DataError):
            download_competition(data)
        with (part(data) / "archive.zip").open("ab") as file:
            file.write(bytes(len(ARCHIVE)))
        kaggle.answers.clear()
        download_competition(data)
        assert_all_is_there(data)

    def test_a_connection_that_hardly_moves_is_given_up(
        self, data: DataConfig, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetch, "STALL_SECONDS", 0.2)
        kaggle.once("all.zip", Answer(ARCHIVE, headers={"ETag": kaggle.etag}, between=0.05))
        start = time.monotonic()
        download_competition(data)
        assert time.monotonic() - start < 20
        assert_all_is_there(data)

    def test_a_full_disk_keeps_what_is_there(
        self, data: DataConfig, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A limit on the size of files raises an error where a full disk would."""
        self.limited(data, len(ARCHIVE) // 2, "archive.zip: cannot be written .* are kept; make room")
        assert (part(data) / "archive.zip").stat().st_size == len(ARCHIVE) // 2
        kaggle.asked.clear()
        download_competition(data)
        assert_all_is_there(data)
        assert ranges(kaggle) == [f"bytes={len(ARCHIVE) // 2}-"]

    def limited(self, data: DataConfig, size: int, message: str) -> None:
        import resource

        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(DataError, match=message):
                download_competition(data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)

    @pytest.mark.parametrize("member", ["imgs.zip", "img_1.jpg"])
    def test_a_disk_that_is_full_while_unpacking(
        self, data: DataConfig, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, member: str
    ) -> None:
        """The outer archive, or one within it; nothing is fetched again."""
        extract = zipfile.ZipFile.extract

        def full(self: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> str:
            if info.filename.endswith(member):
                raise OSError(errno.ENOSPC, "No space left on device")
            return extract(self, info, path)

        with monkeypatch.context() as patch:
            patch.setattr(zipfile.ZipFile, "extract", full)
            with pytest.raises(DataError, match=r"\(No space left on device\); make room, the same command"):
                download_competition(data)
        kaggle.asked.clear()
        download_competition(data)
        assert_all_is_there(data)
        assert not kaggle.asked

    def test_too_little_room_is_said_at_first(
        self,
        data: DataConfig,
        kaggle: KaggleServer,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        usage = fetch.shutil.disk_usage("/")
        monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage._replace(free=100_000))
        download_competition(data)
        assert "0.1 MB are free, about 0.3 MB are needed" in caplog.text


class TestStops:
    @pytest.mark.parametrize("step", DOWNLOADING)
    def test_a_signal_ends_a_request_at_once(self, data: DataConfig, kaggle: KaggleServer, step: str) -> None:
        stopped = []

        def stop(request: Request) -> None:
            if request.name == step and not stopped:
                stopped.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)

        kaggle.on_request = stop
        kaggle.once(step, Answer({}, wait=30))
        with pytest.raises(KeyboardInterrupt):
            download_competition(data)
        assert time.monotonic() - stopped[0] < 10
        download_competition(data)
        assert_all_is_there(data)

    @pytest.mark.parametrize("extracted", range(5))
    def test_interrupted_unpacking_goes_on(
        self, data: DataConfig, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, extracted: int
    ) -> None:
        """After any member, of the outer archive or of those within it."""
        extract, done = zipfile.ZipFile.extract, []

        def interrupted(self: zipfile.ZipFile, *arguments: Any) -> str:
            if len(done) == extracted:
                raise KeyboardInterrupt
            done.append(extract(self, *arguments))
            return done[-1]

        with monkeypatch.context() as patch:
            patch.setattr(zipfile.ZipFile, "extract", interrupted)
            with pytest.raises(KeyboardInterrupt):
                download_competition(data)
        assert len(done) == extracted
        kaggle.asked.clear()
        download_competition(data)
        assert_all_is_there(data)
        assert not kaggle.asked

    @pytest.mark.slow
    @pytest.mark.parametrize("at", [0, 1, 100_000, len(ARCHIVE) - 1, len(ARCHIVE)])
    def test_a_killed_process(self, data: DataConfig, kaggle: KaggleServer, at: int) -> None:
        """Killed when it has so many bytes; the next call asks for the others."""
        kaggle.once("all.zip", Answer(ARCHIVE, headers={"ETag": kaggle.etag}, cut=at))
        kaggle.once("DownloadDataFiles", Answer(status=302, headers={"Location": f"{kaggle.url}/all.zip"}))
        kaggle.once("DownloadDataFiles", Answer(b"", wait=30))
        command = [sys.executable, "scripts/download.py", "--root", str(data.folder.parents[1])]
        process = subprocess.Popen(command, cwd=CONFIGS.parent, stderr=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 60
            while kaggle.names().count("DownloadDataFiles") < (2 if at < len(ARCHIVE) else 1):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()
            process.communicate()
        kaggle.asked.clear()
        kaggle._once.clear()
        if data.folder.exists():
            with pytest.raises(DataError, match="exists already"):
                download_competition(data)
        else:
            download_competition(data)
        assert_all_is_there(data)
        if at < len(ARCHIVE):
            assert ranges(kaggle) == [f"bytes={at}-" if at else None]


FAILURES = {
    "503": Answer(b"", 503),
    "429 in a second": Answer(b"", 429, {"Retry_After": "1"}),
    "cut": Answer(drop=True),
    "cut within the answer": Answer(ARCHIVE, headers={"ETag": '"first"'}, cut=77),
    "a login page": Answer(b"<html>", headers={"Content_Type": "text/html"}),
    "JSON": Answer({"message": "soon"}),
    "silence": Answer(b"", wait=30),
    "compressed": Answer(b"", headers={"Content_Encoding": "gzip"}),
    "a range that was not asked for": Answer(ARCHIVE[5:], 206, {"Content_Range": "bytes 5-9/10"}),
    "a range without numbers": Answer(ARCHIVE, 206),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("step", DOWNLOADING)
def test_a_step_that_fails_once(
    data: DataConfig, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, step: str, name: str
) -> None:
    if (step, name) == ("IntrospectToken", "JSON"):
        pytest.skip("says that the token is not valid")
    monkeypatch.setattr(kaggle_requests, "LIMIT", 1.0)
    kaggle.once(step, FAILURES[name])
    start = time.monotonic()
    download_competition(data)
    assert time.monotonic() - start < 25
    assert_all_is_there(data)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(DOWNLOADING), st.sampled_from([0, 77, 100_000]), odd_answers())
def test_any_answer_ends_in_a_folder_or_a_message(
    data: DataConfig,
    kaggle: KaggleServer,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    at: int,
    answer: Answer,
) -> None:
    """At the first request, or when some bytes are here."""
    hurry(monkeypatch, patience=0.05)
    shutil.rmtree(data.folder.parent, ignore_errors=True)
    kaggle._once.clear()
    kaggle.answers = {step: answer}
    if at and step == "all.zip":
        kaggle.once("all.zip", Answer(ARCHIVE, headers={"ETag": kaggle.etag}, cut=at))
    start = time.monotonic()
    with suppress(DataError, CredentialsError):
        download_competition(data)
    kaggle.answers.clear()
    if not data.folder.exists():
        download_competition(data)
    assert time.monotonic() - start < 25
    assert_all_is_there(data)


@pytest.mark.slow
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("direction", ["requests", "answers"])
def test_a_connection_that_is_cut_after_any_number_of_bytes(
    data: DataConfig, kaggle: KaggleServer, monkeypatch: pytest.MonkeyPatch, direction: str, reset: bool
) -> None:
    """One cut anywhere in the conversation; no byte of the archive comes twice.

    But for those on their way: a reset takes away what the client has not read yet.
    """
    with cutting_proxy(kaggle) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        kaggle.url = proxy.url
        download_competition(data)
        length = proxy.passed[direction]
        for cut in [*range(0, min(length, 1500), 50), *range(1500, length, max(1, length // 40))]:
            shutil.rmtree(data.folder)
            proxy.arm(cut, direction, reset=reset)
            start = time.monotonic()
            download_competition(data)
            assert time.monotonic() - start < 25
            assert_all_is_there(data)
            assert reset or proxy.passed["answers"] < len(ARCHIVE) + 5_000
