"""Damaged files are found, odd ones are read with the right pixels, and stderr stays clean."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

import damaged_files
from damaged_files import DAMAGED, GOOD, files
from distracted.audit.damage import examine
from distracted.data import images, jpeg
from distracted.data.images import check_bytes, decode, decode_rgb, read_rgb
from distracted.errors import ImageError

PATH = Path("imgs/train/c0/img_1.jpg")


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_warned", set())


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Decoders print to file descriptor 2, and nothing may arrive there."""
    yield
    assert capfd.readouterr().err == ""


def verdict(data: bytes) -> str:
    """Why a file is refused, or its damage; "" for a whole one."""
    try:
        check_bytes(data, PATH)
        return examine(decode(data, PATH)).damage
    except ImageError as error:
        return str(error)


@pytest.mark.usefixtures("quiet")
class TestRecallAndPrecision:
    @pytest.mark.slow
    def test_damaged_files_are_refused_or_named(self) -> None:
        """200 files of 20 kinds; damage that leaves a valid file of the right length cannot be noticed."""
        missed = [kind for kind, data in files(DAMAGED, each=10) if not verdict(data)]
        assert len(missed) <= 2, missed

    @pytest.mark.slow
    def test_good_files_are_neither(self) -> None:
        """200 odd files of 20 kinds."""
        assert not [(kind, verdict(data)) for kind, data in files(GOOD, each=10) if verdict(data)]

    @pytest.mark.parametrize("kind", GOOD)
    def test_their_pixels_are_pillows(self, kind: str, rng: np.random.Generator) -> None:
        data = GOOD[kind](rng)
        data = data.removeprefix(b"\r\n")
        pillow_reads = data if kind != "JPEG, no end marker" else data + b"\xff\xd9"
        if kind == "PNG, odd chunks":  # Pillow refuses the wrong checksum of a text
            pillow_reads = data[:33] + data[49:]
        opened = PillowImage.open(io.BytesIO(pillow_reads))
        if opened.mode == "I;16":
            expected = np.dstack([np.asarray(opened) >> 8] * 3)
        else:
            expected = np.asarray(opened.convert("RGB"))
        assert np.abs(decode_rgb(data, PATH).astype(int) - expected).max() <= 3


class TestNeighbours:
    """Variants of the damages above."""

    @pytest.mark.parametrize("size", [64, 512, 4096])
    def test_a_hole_of_zeros(self, size: int) -> None:
        """Zeros are valid codes: libjpeg may get through them without a word."""
        hole = damaged_files._overwritten(damaged_files.jpeg, lambda rng, size: bytes(size), size)
        rngs = np.random.default_rng(size).spawn(20)
        assert all(verdict(hole(rng)) for rng in rngs)

    @pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\0\xff"])
    def test_padding_before_the_end_is_no_hole(self, rng: np.random.Generator, fill: bytes) -> None:
        data = damaged_files.jpeg(rng)
        for times in (1, 60, 5000):
            padded = data[:-2] + fill * times + b"\xff\xd9"
            assert verdict(padded) == ""
            assert (decode_rgb(padded, PATH) == decode_rgb(data, PATH)).all()

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
    def test_a_few_bytes_left_over_are_no_rows(
        self, rng: np.random.Generator, options: dict[str, object]
    ) -> None:
        """Some encoders write them; libjpeg's "1 extraneous bytes before marker 0xd9"."""
        data = damaged_files.jpeg(rng, **options)
        for count in (1, 2, 3):
            left_over = data[:-2] + b"\x41" * count + b"\xff\xd9"
            assert verdict(left_over) == ""
            assert (decode_rgb(left_over, PATH) == decode_rgb(data, PATH)).all()
        assert verdict(data[:-2] + b"\x41" * 40 + b"\xff\xd9")

    def test_zeros_instead_of_the_last_rows_are_a_hole(self, rng: np.random.Generator) -> None:
        data = damaged_files.jpeg(rng)
        half = jpeg.start_of_scan(data) + 2000
        assert verdict(data[:half] + bytes(len(data) - half - 2) + b"\xff\xd9")

    def test_harmless_bytes_do_not_hide_damage(self, rng: np.random.Generator) -> None:
        """libjpeg prints its first message only."""
        data = DAMAGED["JPEG, cut, end marker appended"](rng)
        at = data.find(b"\xff\xdb")
        assert "premature end" in verdict(data[:at] + b"\0\0" + data[at:])

    @pytest.mark.parametrize("options", [{"restart_marker_rows": 1}, {"progressive": True}])
    @pytest.mark.parametrize("is_odd", [False, True])
    def test_stray_bytes_in_the_scans_are_damage(
        self, rng: np.random.Generator, options: dict[str, object], is_odd: bool
    ) -> None:
        """Unlike those between segments: what the decoder skips before the next marker belongs to rows."""
        data = damaged_files.jpeg(rng, **options)
        whole, scan = decode_rgb(data, PATH).astype(int), jpeg.start_of_scan(data) + 20
        num_stray = 0
        for _ in range(80):
            length = int(rng.integers(8, 200))
            at = int(rng.integers(scan, len(data) - length))
            damaged = data[:at] + data[scan : scan + length] + data[at + length :]
            if is_odd:
                tables = damaged.find(b"\xff\xdb")
                damaged = damaged[:tables] + b"\0\0" + damaged[tables:]
            said = images.messages_of(jpeg.without_stray_bytes(damaged))
            with suppress(ImageError):  # refused
                is_changed = np.abs(decode(damaged, PATH).rgb - whole).max() > 30
                num_stray += is_changed and "extraneous bytes before marker" in said
            assert verdict(damaged) or not said
        assert num_stray > 3

    def test_only_a_missing_end_marker_is_not_a_missing_row(self, rng: np.random.Generator) -> None:
        for options in ({}, {"progressive": True}, {"restart_marker_blocks": 4}):
            data = damaged_files.jpeg(rng, **options)
            assert (decode_rgb(data[:-2], PATH) == decode_rgb(data, PATH)).all()
            for missing in (3, 10, 200):
                assert "truncated" in verdict(data[:-missing])

    def test_a_progressive_jpeg_cut_between_two_scans(self, rng: np.random.Generator) -> None:
        """Decodes without a warning, but without its details."""
        data = damaged_files.jpeg(rng, progressive=True)
        scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
        assert len(scans) > 5
        for at in scans[1:]:
            assert verdict(data[:at]) != "" != verdict(data[:at] + b"\xff\xd9")

    def test_a_png_with_a_wrong_checksum_is_read_by_pillow_and_named(self, rng: np.random.Generator) -> None:
        data = DAMAGED["PNG, wrong checksum"](rng)
        with PillowImage.open(io.BytesIO(data)) as opened:
            assert (decode_rgb(data, PATH) == np.asarray(opened)).all()
        assert "IDAT: CRC error" in verdict(data)

    @pytest.mark.parametrize("interlaced", [False, True])
    def test_a_png_whose_pixels_end_early_in_good_order(
        self, rng: np.random.Generator, interlaced: bool
    ) -> None:
        """No checksum is wrong, and the decoders leave the last rows, or passes, as they are."""
        data = GOOD["PNG, interlaced"](rng)  # with one IDAT
        header, at = data[16:29], data.find(b"IDAT")
        pixels = zlib.decompress(data[at + 4 : -16])
        if not interlaced:
            picture = np.asarray(damaged_files.photograph(rng))
            header = struct.pack(">IIBBBBB", picture.shape[1], len(picture), 8, 2, 0, 0, 0)
            pixels = b"".join(b"\0" + row.tobytes() for row in picture)
        assert verdict(damaged_files.png_of(header, zlib.compress(pixels))) == ""
        for part in (0.0, 0.5, 0.99):
            short = damaged_files.png_of(header, zlib.compress(pixels[: int(part * len(pixels))]))
            assert verdict(short)

    @pytest.mark.parametrize("in_tiles", [False, True])
    def test_zlibs_checksums_in_a_tiff(self, rng: np.random.Generator, in_tiles: bool) -> None:
        """Bytes that change are no error for libtiff where they decode."""
        picture = damaged_files.photograph(rng)
        strips = damaged_files.encode(picture, "TIFF", compression="tiff_deflate")
        tiles = damaged_files.tiled_tiff(np.asarray(picture), deflate=True)
        whole = tiles if in_tiles else strips
        assert verdict(whole) == ""
        for part in np.linspace(0.1, 0.9, 30):
            data = bytearray(whole)
            data[int(len(data) * part)] ^= 1
            assert verdict(bytes(data))

    @pytest.mark.parametrize("lead", [b"\n", b"\0" * 8, b"x" * 64])
    def test_bytes_before_the_start(self, rng: np.random.Generator, lead: bytes) -> None:
        for data in (damaged_files.jpeg(rng), damaged_files.png(rng)):
            assert (decode_rgb(lead + data, PATH) == decode_rgb(data, PATH)).all()

    def test_the_preview_in_another_file_is_not_the_picture(self, rng: np.random.Generator) -> None:
        for start in (b"FUJIFILMCCD-RAW ", b"PK\3\4", b"x" * 65, b"\0\5\x16\7"):
            assert verdict(start + damaged_files.jpeg(rng))


class TestReading:
    def test_a_damaged_image_is_read_and_named_once(
        self, tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(DAMAGED["JPEG, cut, end marker appended"](rng))
        assert read_rgb(path).shape == read_rgb(path).shape
        assert caplog.messages == [
            f"{path}: damaged (Corrupt JPEG data: premature end of data segment); it is read as far as "
            "possible"
        ]

    def test_of_many_only_some_are_named(
        self, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = DAMAGED["JPEG, cut, end marker appended"](rng)
        for number in range(20):
            decode_rgb(data, Path(f"{number}.jpg"))
        assert len(caplog.messages) == 4 and "make audit lists" in caplog.messages[-1]

    def test_harmless_messages_are_not_passed_on(
        self, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
    ) -> None:
        for kind in GOOD:
            decode_rgb(GOOD[kind](rng), Path(kind))
        assert not caplog.messages

    @pytest.mark.usefixtures("quiet")
    def test_pillow_is_quiet_too(self, rng: np.random.Generator, caplog: pytest.LogCaptureFixture) -> None:
        data = GOOD["TIFF, 16 bits"](rng)
        samples = struct.pack("<HHI", 277, 3, 1)  # the tag of a sample's number, of which there are 3
        at = data.find(samples)
        assert verdict(data[: at + 8] + struct.pack("<H", 9219) + data[at + 10 :])
        assert not caplog.messages

    @pytest.mark.slow
    @pytest.mark.usefixtures("quiet")
    def test_threads_do_not_take_each_others_messages(self) -> None:
        made = [
            data for pair in zip(files(DAMAGED, each=4), files(GOOD, each=4), strict=True) for _, data in pair
        ]
        alone = [verdict(data) for data in made]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                assert list(pool.map(verdict, made)) == alone

    @pytest.fixture
    def cut(self, tmp_path: Path, rng: np.random.Generator) -> Path:
        path = tmp_path / "cut.jpg"
        path.write_bytes(DAMAGED["JPEG, cut, end marker appended"](rng))
        return path

    def test_a_process_forked_while_others_decode_has_its_own_messages(self, cut: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _FORKING, cut], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no files in memory")
    def test_the_lock_of_tempfile_is_not_asked_for(self, cut: Path) -> None:
        """A process that is forked while a thread of the parent has this lock never gets it."""
        done = subprocess.run(
            [sys.executable, "-c", _LOCKED, cut], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "premature end\n", "")


_LOCKED = """
import sys, tempfile
from pathlib import Path
from distracted.data.images import decode

path = Path(sys.argv[1])
with tempfile._once_lock:
    messages = decode(path.read_bytes(), path).messages
print("premature end" if "premature end" in messages else messages)
"""

# With Python 3.12 a process with threads warns of forks. The first JPEG is decoded before the threads start:
# a child would wait for OpenCV's tables, if a thread of the parent was making them at the moment of the fork.
_FORKING = """
import os, sys, threading, warnings
from pathlib import Path
from distracted.data.images import decode

warnings.simplefilter("ignore")
path = Path(sys.argv[1])
data = path.read_bytes()
decode(data, path)
stop = threading.Event()

def work():
    while not stop.is_set():
        assert "premature end" in decode(data, path).messages

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
failures = 0
for _ in range(30):
    if (child := os.fork()) == 0:
        os._exit(0 if "premature end" in decode(data, path).messages else 1)
    failures += os.waitpid(child, 0)[1] != 0
stop.set()
for thread in threads:
    thread.join()
sys.exit(failures)
"""
