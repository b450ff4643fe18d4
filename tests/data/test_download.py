"""A competition is downloaded completely or not at all, and no archive writes outside of its folder."""

import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distracted.config import load_data_config
from distracted.data import download
from distracted.data.download import download_competition, unpack
from distracted.errors import CredentialsError, DataError
from distracted.paths import CONFIGS
from distracted.schema import DataConfig
from kaggle_stand_in import TOKEN, Answer, KaggleServer, isolate, kaggle_server

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


class StandIn:
    """Stands in for Kaggle's client: `deliver` puts the download into a folder."""

    def __init__(self, deliver: Callable[[Path], None]) -> None:
        self._deliver = deliver
        self.asked: list[str] = []

    def competition_download_files(self, competition: str, path: str, quiet: bool) -> None:
        self.asked.append(competition)
        self._deliver(Path(path))


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return load_data_config("state_farm", root=tmp_path)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], StandIn]:
    def make(deliver: Callable[[Path], None]) -> StandIn:
        client = StandIn(deliver)
        monkeypatch.setattr(download, "sign_in", lambda: client)
        return client

    return make


MakeStandIn = Callable[[Callable[[Path], None]], StandIn]


class TestDownload:
    def test_the_folder_appears(self, data: DataConfig, stand_in: MakeStandIn) -> None:
        members = {"driver_imgs_list.csv": b"subject\n", "imgs/test/img_1.jpg": b"x"}
        client = stand_in(lambda folder: write_zip(folder / "state-farm.zip", members) and None)
        download_competition(data)
        assert client.asked == ["state-farm-distracted-driver-detection"]
        assert tree(data.folder) == members
        assert [path.name for path in data.folder.parent.iterdir()] == ["state_farm"]

    def test_archives_in_the_archive_are_unpacked(
        self, tmp_path: Path, data: DataConfig, stand_in: MakeStandIn
    ) -> None:
        """Competitions of 2016 have such archives."""
        inner = write_zip(tmp_path / "imgs.zip", {"imgs/test/img_1.jpg": b"x"}).read_bytes()
        outer = {"imgs.zip": inner, "sample_submission.csv": b"img\n"}
        stand_in(lambda folder: write_zip(folder / "all.zip", outer) and None)
        download_competition(data)
        assert tree(data.folder) == {"imgs/test/img_1.jpg": b"x", "sample_submission.csv": b"img\n"}

    def interrupt(self, folder: Path) -> None:
        (folder / "state-farm.zip").write_bytes(b"PK\3\4 half")
        raise KeyboardInterrupt

    def test_an_interrupted_download_leaves_nothing(self, data: DataConfig, stand_in: MakeStandIn) -> None:
        stand_in(self.interrupt)
        with pytest.raises(KeyboardInterrupt):
            download_competition(data)
        assert list(data.folder.parent.iterdir()) == []

    def test_interrupted_unpacking_leaves_nothing(
        self, data: DataConfig, stand_in: MakeStandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in(lambda folder: write_zip(folder / "all.zip", {"a": b"x", "b": b"y"}) and None)
        extract, extracted = zipfile.ZipFile.extract, []

        def interrupted(self: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> str:
            if extracted:
                raise KeyboardInterrupt
            extracted.append(extract(self, member, path))
            return extracted[0]

        monkeypatch.setattr(zipfile.ZipFile, "extract", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download_competition(data)
        assert len(extracted) == 1
        assert list(data.folder.parent.iterdir()) == []

    @pytest.mark.parametrize(
        ("deliver", "message"),
        [
            (lambda folder: (folder / "all.zip").write_bytes(b"PK"), r"all\.zip: damaged archive"),
            (lambda folder: write_zip(folder / "all.zip", {"../evil": b"x"}), "leads outside of"),
            (lambda folder: write_zip(folder / "all.zip", {"in.zip": b"PK"}), r"in\.zip: damaged archive"),
            (lambda folder: None, "Kaggle sent no zip archive"),
        ],
    )
    def test_a_bad_archive_leaves_nothing(
        self, data: DataConfig, stand_in: MakeStandIn, deliver: Callable[[Path], None], message: str
    ) -> None:
        stand_in(deliver)
        with pytest.raises(DataError, match=message):
            download_competition(data)
        assert list(data.folder.parent.iterdir()) == []

    def test_an_existing_folder_is_not_touched(self, data: DataConfig, stand_in: MakeStandIn) -> None:
        client = stand_in(lambda folder: None)
        data.folder.mkdir(parents=True)
        (data.folder / "mine.txt").write_text("x")
        with pytest.raises(DataError, match="state_farm exists already; remove it"):
            download_competition(data)
        assert tree(data.folder) == {"mine.txt": b"x"}
        assert not client.asked

    def test_data_without_a_name_on_kaggle(self, tmp_path: Path, stand_in: MakeStandIn) -> None:
        client = stand_in(lambda folder: None)
        with pytest.raises(DataError, match=r"data sample: data\.kaggle is not set"):
            download_competition(load_data_config("sample", root=tmp_path))
        assert not client.asked


class TestKaggle:
    """With Kaggle's own client and a local server."""

    @pytest.fixture(autouse=True)
    def kaggle(
        self, archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> Iterator[KaggleServer]:
        content = write_zip(archive, {"imgs/test/img_1.jpg": b"x"}).read_bytes()
        with kaggle_server(content) as server:
            isolate(monkeypatch, tmp_path / "home", server.url)
            monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
            yield server

    def test_a_download(
        self, data: DataConfig, kaggle: KaggleServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        download_competition(data)
        assert tree(data.folder) == {"imgs/test/img_1.jpg": b"x"}
        assert kaggle.names()[-2:] == ["DownloadDataFiles", "all.zip"]
        assert kaggle.asked[-2][1] == f"Bearer {TOKEN}"
        assert "secret" not in "".join(capfd.readouterr())

    @pytest.mark.parametrize(
        ("status", "message", "problem"),
        [
            (401, "Unauthenticated", "KAGGLE_API_TOKEN is wrong, expired or revoked; create a new token"),
            (403, "You must accept this competition's rules", r"denies access .*accept this competition's"),
            (403, "Permission 'competitions.participate' was denied", r"competitions/state-farm-.*/rules"),
            (404, "", r"no competition state-farm-.* \(404\); data\.kaggle"),
            (429, "Too many", r"too many requests \(429: Too many\); repeat the command in 90 seconds"),
            (500, "", r"Kaggle itself fails \(500: 500 Server Error: .*\); repeat the command later"),
        ],
    )
    def test_kaggle_refuses(
        self, data: DataConfig, kaggle: KaggleServer, status: int, message: str, problem: str
    ) -> None:
        kaggle.refuse("DownloadDataFiles", status, message, Retry_After="90")
        with pytest.raises(DataError, match=problem) as info:
            download_competition(data)
        assert len(str(info.value).splitlines()) <= 2
        assert "localhost" not in str(info.value) and TOKEN not in str(info.value)
        assert list(data.folder.parent.iterdir()) == []

    def test_the_storage_refuses(self, data: DataConfig, kaggle: KaggleServer) -> None:
        """The archive's address holds a signature."""
        kaggle.refuse("all.zip", 403)
        with pytest.raises(DataError, match="denies access") as info:
            download_competition(data)
        assert "secret" not in str(info.value)

    def test_the_network_fails(self, data: DataConfig, kaggle: KaggleServer) -> None:
        kaggle.answers["DownloadDataFiles"] = Answer(drop=True)
        with pytest.raises(DataError, match="Kaggle cannot be reached; check the network"):
            download_competition(data)

    def test_without_credentials(self, data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KAGGLE_API_TOKEN")
        with pytest.raises(CredentialsError, match="no Kaggle credentials found"):
            download_competition(data)
        assert not data.folder.parent.exists()

    @pytest.mark.slow
    def test_the_command(self, tmp_path: Path, kaggle: KaggleServer) -> None:
        """As a process of its own: first the rules are not accepted, then they are."""
        command = [sys.executable, "scripts/download.py", "--root", str(tmp_path)]
        page = "https://www.kaggle.com/competitions/state-farm-distracted-driver-detection/rules"
        accepted = kaggle.answers["DownloadDataFiles"]
        kaggle.refuse("DownloadDataFiles", 403, "You must accept this competition's rules")
        done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
        assert done.returncode == 1 and page in done.stderr.replace("\n", "")
        assert "Traceback" not in done.stderr and "secret" not in done.stdout + done.stderr
        kaggle.answers["DownloadDataFiles"] = accepted
        done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert tree(tmp_path / "input/state_farm") == {"imgs/test/img_1.jpg": b"x"}
