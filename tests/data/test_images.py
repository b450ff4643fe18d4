"""Images of every format are decoded correctly, and damaged ones raise an error."""

import io
import struct
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageOps

from damaged_files import encode, png_chunk, tiled_tiff
from distracted.data import images
from distracted.data.images import (
    check_bytes,
    decode_rgb,
    decoded_bytes,
    read_bytes,
    read_rgb,
    used_bits,
)
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.data.pixel_limit import limit_pixels, pixel_limit
from distracted.errors import DataError, ImageError

PATH = Path("imgs/train/c0/img_1.jpg")
ORIENTATION = 0x112  # the EXIF tag


@pytest.fixture
def picture() -> PillowImage.Image:
    """A smooth image without symmetry, 60 pixels wide and 40 high."""
    rng = np.random.default_rng(0)
    coarse = PillowImage.fromarray(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8))
    return coarse.resize((60, 40), PillowImage.Resampling.BICUBIC)


def by_pillow(data: bytes) -> np.ndarray:
    """Pillow's result: rotated by EXIF, as RGB."""
    return np.asarray(ImageOps.exif_transpose(PillowImage.open(io.BytesIO(data))).convert("RGB"))


def largest_difference(first: np.ndarray, second: np.ndarray) -> int:
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def with_thumbnail(picture: PillowImage.Image) -> tuple[bytes, int]:
    """A JPEG with a complete JPEG, including its end marker, in its EXIF segment; and the segment's end."""
    data = encode(picture, quality=90)
    content = b"Exif\0\0MM\0*" + bytes(8) + encode(picture.resize((16, 12)))
    segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    return data[:2] + segment + data[2:], 2 + len(segment)


def tiff_of(*tags: tuple[int, int, int, int]) -> bytes:
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<4sIH", b"II*\0", 8, len(tags)) + directory + bytes(4)


class TestFormats:
    @pytest.mark.parametrize("progressive", [False, True])
    def test_colour_jpeg(self, picture: PillowImage.Image, progressive: bool) -> None:
        data = encode(picture, quality=95, progressive=progressive)
        rgb = decode_rgb(data, PATH)
        assert (rgb.shape, rgb.dtype) == ((40, 60, 3), np.uint8)
        assert largest_difference(rgb, by_pillow(data)) <= 2  # the decoders round differently

    def test_channels_are_red_green_blue(self) -> None:
        red = decode_rgb(encode(PillowImage.new("RGB", (8, 8), (255, 0, 0)), "PNG"), PATH)
        assert (red == (255, 0, 0)).all()

    def test_grayscale_jpeg_has_three_equal_channels(self, picture: PillowImage.Image) -> None:
        data = encode(picture.convert("L"))
        rgb = decode_rgb(data, PATH)
        assert (rgb == rgb[..., :1]).all()
        assert largest_difference(rgb, by_pillow(data)) <= 1

    def test_cmyk_jpeg_is_not_inverted(self, picture: PillowImage.Image) -> None:
        data = encode(picture.convert("CMYK"), quality=95)
        assert largest_difference(decode_rgb(data, PATH), by_pillow(data)) <= 3

    @pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
    def test_16_bit_png_gives_its_high_bytes(self, shape: tuple[int, ...]) -> None:
        deep = np.random.default_rng(1).integers(0, 2**16, shape, dtype=np.uint16)
        ok, data = cv2.imencode(".png", deep)
        assert ok
        high = np.broadcast_to((deep >> 8).reshape(20, 30, -1), (20, 30, 3))[..., ::-1]  # cv2 writes BGR
        assert (decode_rgb(data.tobytes(), PATH) == high).all()

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
    def test_alpha_is_ignored(self, picture: PillowImage.Image, kind: str) -> None:
        """OpenCV would multiply a TIFF by it, and make this one black."""
        transparent = picture.copy()
        transparent.putalpha(0)
        data = encode(transparent, kind, lossless=True, exact=True)
        assert (decode_rgb(data, PATH) == np.asarray(picture)).all()

    @pytest.mark.parametrize("dtype", ["u1", "<u2"])
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    @pytest.mark.parametrize("side", [16, 64])
    def test_a_tiff_whose_last_tiles_are_cut(
        self, picture: PillowImage.Image, dtype: str, mode: str, side: int
    ) -> None:
        """60 x 40 pixels. OpenCV would shear those of 16-bit grey."""
        picture.putalpha(7)
        pixels = np.asarray(picture.convert(mode)).reshape(40, 60, -1)
        deep = pixels.astype(dtype) * (257 if dtype == "<u2" else 1)
        expected = np.broadcast_to(pixels[..., :3], (40, 60, 3))
        assert (decode_rgb(tiled_tiff(deep, side), PATH) == expected).all()

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
    def test_lossless_formats(self, picture: PillowImage.Image, kind: str) -> None:
        assert (decode_rgb(encode(picture, kind), PATH) == np.asarray(picture)).all()

    def test_webp(self, picture: PillowImage.Image) -> None:
        assert (decode_rgb(encode(picture, "WEBP", lossless=True), PATH) == np.asarray(picture)).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, picture: PillowImage.Image, orientation: int) -> None:
        """6 is a phone held upright: the image is stored on its side."""
        exif = PillowImage.Exif()
        exif[ORIENTATION] = orientation
        data = encode(picture, quality=95, exif=exif)
        rgb = decode_rgb(data, PATH)
        assert rgb.shape == ((60, 40, 3) if orientation >= 5 else (40, 60, 3))
        assert largest_difference(rgb, by_pillow(data)) <= 2

    def test_a_large_photograph(self, picture: PillowImage.Image, tmp_path: Path) -> None:
        path = tmp_path / "large.jpg"
        path.write_bytes(encode(picture.resize((3000, 2000)), quality=80))
        assert read_rgb(path).shape == (2000, 3000, 3)

    def test_one_pixel(self) -> None:
        assert decode_rgb(encode(PillowImage.new("RGB", (1, 1))), PATH).shape == (1, 1, 3)

    def test_an_exif_thumbnail_is_ignored(self, picture: PillowImage.Image) -> None:
        data, _ = with_thumbnail(picture)
        assert decode_rgb(data, PATH).shape == (40, 60, 3)


class TestTruncated:
    """OpenCV would decode a truncated JPEG with a grey rest."""

    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_jpeg_cut_at_any_length(self, picture: PillowImage.Image, progressive: bool) -> None:
        data = encode(picture, quality=90, progressive=progressive)
        for length in range(1, len(data) - 2):
            with pytest.raises(ImageError, match=r"^imgs/train/c0/img_1\.jpg: "):
                check_bytes(data[:length], PATH)
        for length in range(len(data) - 2, len(data) + 1):  # only the end marker is missing
            assert (decode_rgb(data[:length], PATH) == decode_rgb(data, PATH)).all()

    def test_a_jpeg_cut_after_its_thumbnails_end_marker(self, picture: PillowImage.Image) -> None:
        data, end_of_segment = with_thumbnail(picture)
        assert b"\xff\xd9" in data[:end_of_segment]
        for length in range(end_of_segment - 4, len(data) - 2):
            with pytest.raises(ImageError, match="truncated"):
                decode_rgb(data[:length], PATH)

    def test_bytes_after_the_end_are_ignored(self, picture: PillowImage.Image) -> None:
        """Phones append videos and depth maps."""
        data = encode(picture)
        assert (decode_rgb(data + bytes(100), PATH) == decode_rgb(data, PATH)).all()

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
    def test_other_formats(self, picture: PillowImage.Image, kind: str) -> None:
        data = encode(picture, kind)
        for part in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            with pytest.raises(ImageError, match=r"^imgs/train/c0/img_1\.jpg: "):
                decode_rgb(data[: int(len(data) * part)], PATH)

    def test_the_message_gives_the_length(self, picture: PillowImage.Image) -> None:
        data = encode(picture.resize((600, 400)), quality=95)[:4321]
        with pytest.raises(ImageError, match=r"truncated \(4,321 bytes, no end marker\); fetch it again"):
            check_bytes(data, PATH)


class TestDecodedBytes:
    """Read from the header, and the size of what the decoder gives."""

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "1", "RGBA"])
    def test_every_format(
        self, picture: PillowImage.Image, kind: str, mode: str, tmp_path: Path, decoded: Counter[Path]
    ) -> None:
        path = tmp_path / "img_1.jpg"
        try:
            path.write_bytes(encode(picture.convert(mode), kind))
        except OSError as error:
            assert "cannot write mode" in str(error)
            return
        assert decoded_bytes(path) == 3 * 40 * 60
        assert not decoded
        assert read_rgb(path).nbytes == 3 * 40 * 60

    def test_16_bit_and_rotated_and_several_frames(self, picture: PillowImage.Image, tmp_path: Path) -> None:
        exif = PillowImage.Exif()
        exif[ORIENTATION] = 6
        _, deep = cv2.imencode(".png", np.zeros((40, 60, 3), dtype=np.uint16))
        second = {"save_all": True, "append_images": [picture.resize((200, 100))]}
        files = [encode(picture, exif=exif), deep.tobytes(), encode(picture, "TIFF", **second)]
        for data in [*files, encode(picture, "MPO", **second)]:
            (tmp_path / "img_1.jpg").write_bytes(data)
            assert decoded_bytes(tmp_path / "img_1.jpg") == read_rgb(tmp_path / "img_1.jpg").nbytes == 7200

    @pytest.mark.parametrize(("limit", "by_decoding"), [(1500, False), (1000, True)])
    def test_pillows_limits_are_none(
        self,
        picture: PillowImage.Image,
        tmp_path: Path,
        decoded: Counter[Path],
        monkeypatch: pytest.MonkeyPatch,
        limit: int,
        by_decoding: bool,
    ) -> None:
        """Above its limit of 89 megapixels it warns, and above twice that it opens no image."""
        path = tmp_path / "img_1.jpg"
        path.write_bytes(encode(picture))
        monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", limit)
        assert decoded_bytes(path) == 3 * 40 * 60
        assert decoded[path] == by_decoding

    def test_damaged_files_count_as_nothing(self, picture: PillowImage.Image, tmp_path: Path) -> None:
        path = tmp_path / "img_1.jpg"
        assert decoded_bytes(path) == 0  # missing
        for kind in ("JPEG", "PNG", "BMP", "WEBP", "TIFF"):
            data = encode(picture, kind)
            for damaged in (b"", data[:4], data[:20], data[:2] + bytes(60), data[:10] + b"\xff" * 60):
                path.write_bytes(damaged)
                assert decoded_bytes(path) in (0, 7200)


class TestLimit:
    """Larger images are refused by their header."""

    @pytest.fixture(autouse=True)
    def _small_limit(self) -> Iterator[None]:
        before = pixel_limit()
        limit_pixels(0.002)  # 2,000 pixels
        yield
        limit_pixels(before)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
    @pytest.mark.parametrize("options", [{}, {"lossless": True}, {"progressive": True}, {"big_tiff": True}])
    def test_every_format(self, picture: PillowImage.Image, kind: str, options: dict[str, bool]) -> None:
        data = encode(picture, kind, **options)
        for read in (check_bytes, decode_rgb):
            with pytest.raises(
                ImageError, match=r"60 x 40 pixels .*, more than runtime.max_megapixels=0.002; "
            ):
                read(data, PATH)
        assert decode_rgb(encode(picture.resize((50, 40)), kind, **options), PATH).shape == (40, 50, 3)

    def test_nothing_is_decoded(self) -> None:
        """The pixels of this PNG would be an error, too."""
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"none") + png_chunk(b"IEND", b"")
        with pytest.raises(ImageError, match="12,000 x 12,000 pixels are 144 megapixels"):
            check_bytes(data, PATH)

    @pytest.mark.slow
    def test_a_loaders_process_that_was_not_forked_has_it(
        self, picture: PillowImage.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("multiprocessing.Process", get_context("spawn").Process)
        path = tmp_path / "img_1.png"
        path.write_bytes(encode(picture, "PNG"))
        loader = Loader(Files([path]), np.arange(1), None, batch_size=1, num_workers=1)
        with pytest.raises(ImageError, match=r"img_1\.png: 60 x 40 pixels .*max_megapixels=0.002"):
            next(loader.epoch(0))


class TestDepth:
    def test_few_of_16_bits_stay_dark_and_are_said(
        self, picture: PillowImage.Image, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(images, "_warned", set())
        wide = np.asarray(picture).astype(np.uint16)[..., ::-1] * 257
        for bits, kind in ((12, ".png"), (12, ".tiff"), (10, ".png")):
            data = cv2.imencode(kind, wide >> (16 - bits))[1].tobytes()
            assert used_bits(data) == bits
            dark = decode_rgb(data, Path(f"{bits}{kind}"))
            assert largest_difference(dark, np.asarray(picture) >> (16 - bits)) <= 1  # TIFFs are rounded
        full = cv2.imencode(".png", wide)[1].tobytes()
        assert (decode_rgb(full, PATH) == np.asarray(picture)).all()
        [first, second, third] = caplog.messages
        assert first.startswith("12.png: uses 12 of its 16 bits, and is nearly black")
        assert second.startswith("12.tiff: ") and third.startswith("10.png: uses 10")

    @pytest.mark.parametrize("marker", [0xC1, 0xC3, 0xF7])
    def test_unsupported_kinds_of_jpeg_are_named(self, picture: PillowImage.Image, marker: int) -> None:
        """With 12 bits, lossless, JPEG-LS: the header says so, and decoding fails."""
        data = bytearray(encode(picture))
        at = data.find(b"\xff\xc0")
        data[at + 1], data[at + 4] = marker, 12
        with pytest.raises(ImageError, match=r"a JPEG of 12 bits \(.*\), which is not supported; convert it"):
            check_bytes(bytes(data), PATH)

    @pytest.mark.parametrize(
        ("kind", "named"), [(np.float32, "32 bits, floating point"), (np.int32, "32 bits")]
    )
    def test_tiffs_of_32_bits_are_named(self, kind: type, named: str) -> None:
        data = encode(PillowImage.fromarray(np.ones((8, 9), dtype=kind)), "TIFF")
        with pytest.raises(ImageError, match=f"a TIFF of {named}, which is not supported; convert it"):
            check_bytes(data, PATH)

    def test_tiffs_of_other_samples_are_named(self) -> None:
        """Fetching them again would not help."""
        data = tiled_tiff(np.zeros((16, 16, 5), dtype=np.uint8), 16)
        with pytest.raises(ImageError, match="a TIFF of 5 channels, which is not supported; convert it"):
            check_bytes(data, PATH)
        wide = tiled_tiff(np.zeros((16, 16, 1), dtype="<u2"), 16)
        half = wide.replace(struct.pack("<HHII", 259, 4, 1, 1), struct.pack("<HHII", 339, 4, 1, 3))
        with pytest.raises(ImageError, match="a TIFF of 16 bits, floating point, which is not supported"):
            check_bytes(half, PATH)


class TestOtherFiles:
    """Errors say what a file is, and what to do."""

    @pytest.mark.parametrize(
        ("kind", "named"),
        [("GIF", "GIF"), ("AVIF", "AVIF"), ("JPEG2000", "JPEG 2000"), ("PPM", "PPM"), ("ICO", "icon"),
         ("PDF", "PDF"), ("DDS", "DDS"), ("EPS", "PostScript")],
    )  # fmt: skip
    def test_formats_that_pillow_writes(self, picture: PillowImage.Image, kind: str, named: str) -> None:
        message = f"^{PATH}: {named}.*, which is not supported; convert it to JPEG or PNG$"
        with pytest.raises(ImageError, match=message):
            check_bytes(encode(picture, kind), PATH)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC image, which is not supported; convert it"),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF image, which is not supported; convert it"),
            (
                b"\0\0\0\x20ftypisom\0\0\2\0isomiso2mp41",
                "video or sound, which is not supported; save its fr",
            ),
            (b"RIFF\x10\0\0\0AVI LIST", "video or sound, which is not supported; save its frames"),
            (b"\xff\x0a\xfa\x1f", "JPEG XL image, which is not supported; convert it"),
            (b"II*\0\x10\0\0\0CR\2\0", "camera's raw image, which is not supported; convert it"),
            (tiff_of((50706, 1, 4, 1), (256, 4, 1, 160)), "camera's raw image, which is not supported"),
            (tiff_of((254, 4, 1, 1), (256, 4, 1, 160), (330, 4, 1, 8)), "camera's raw image, which is not"),
            (b"8BPS\0\1", "Photoshop image, which is not supported; convert it"),
            (b"FUJIFILMCCD-RAW 0201" + b"\xff\xd8\xff", "camera's raw image, which is not supported; conv"),
            (b"<?xml version='1.0'?><svg>", "SVG drawing, which is not supported; convert it"),
            (b"<?xml version='1.0'?><Error><Code>AccessDenied", "but an XML file; often a server's error"),
            (
                b"version https://git-lfs.github.com/spec/v1",
                "a Git LFS pointer; .* `git lfs pull` fetches it",
            ),
            (b"PK\3\4" + bytes(30), "a zip archive; extract it first"),
            (b"\0\5\x16\7" + bytes(80), "a macOS resource file; .* delete it"),
            (b"\0" * 4096, "a file of zeros; a copy was interrupted; fetch it again"),
            (b"hello, world", r"not an image \(it starts with b'hello, w'\); fetch it again"),
        ],
    )
    def test_other_formats_and_no_images(self, data: bytes, message: str) -> None:
        with pytest.raises(ImageError, match=f"^{PATH}: .*{message}"):
            check_bytes(data, PATH)


class TestErrors:
    """Each message starts with the path."""

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", r"empty \(zero bytes\)"),
            (b"<!DOCTYPE html><html>", r"not an image \(it starts with b'<!DOCTYP'\)"),
            (b"\xff", "not an image"),
            (b"\xff\xd8\xff", "truncated"),
            (b"\xff\xd8\xff\xd9", "truncated"),
            (b"\xff\xd8\xff\xda\0\2 no image \xff\xd9", r"not a readable image \(no frame header\)"),
            (bytes(500), "not an image .*, but a file of zeros"),
            (b"\n<html><body>Sign in", "not an image .*, but a web page"),
            (b"BMxxxxxxxxxxxx", "not a readable image"),
            (b"\x89PNG\r\n\x1a\nIEND", "truncated"),
            (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IEND", b""), "not a readable image"),
        ],
    )
    def test_files_that_are_no_images(self, tmp_path: Path, data: bytes, message: str) -> None:
        path = tmp_path / "img_1.jpg"
        path.write_bytes(data)
        with pytest.raises(ImageError, match=f"{message}.*fetch it again") as info:
            read_rgb(path)
        assert str(info.value).startswith(f"{path}: ")

    def test_bytes_after_the_end_are_ignored(self, picture: PillowImage.Image) -> None:
        data = encode(picture, "PNG")
        assert (decode_rgb(data + bytes(200), PATH) == decode_rgb(data, PATH)).all()

    def test_an_unreasonable_size(self) -> None:
        header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
        data = (
            b"\x89PNG\r\n\x1a\n"
            + png_chunk(b"IHDR", header)
            + png_chunk(b"IDAT", b"")
            + png_chunk(b"IEND", b"")
        )
        message = (
            r"^imgs/train/c0/img_1\.jpg: 200,000 x 200,000 pixels are 40,000 megapixels, more than runtime"
        )
        with pytest.raises(ImageError, match=message):
            decode_rgb(data, PATH)

    def test_a_damaged_png(self, picture: PillowImage.Image) -> None:
        data = bytearray(encode(picture, "PNG"))
        data[len(data) // 2] ^= 0xFF
        with pytest.raises(ImageError, match=r"^imgs/train/c0/img_1\.jpg: not a readable image"):
            decode_rgb(bytes(data), PATH)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"cannot be read \(No such file or directory\)") as info:
            read_bytes(tmp_path / "img_1.jpg")
        assert str(info.value).startswith(str(tmp_path / "img_1.jpg"))

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"cannot be read \(Is a directory\)"):
            read_rgb(tmp_path)

    def test_it_is_a_data_error(self) -> None:
        """So that scripts print it without a traceback."""
        assert issubclass(ImageError, DataError)
