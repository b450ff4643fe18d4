"""How many pixels an image may have: looked up in its header, before anything is decoded.

The limit protects this process's memory, like Pillow's MAX_IMAGE_PIXELS, and is one number for the process:
a PNG of 30 KB may decode to gigabytes.
"""

from pathlib import Path

from distracted.errors import ImageError

#: Default of runtime.max_megapixels: 300 MB as RGB.
MAX_MEGAPIXELS = 100.0

_limit = MAX_MEGAPIXELS


def limit_pixels(megapixels: float) -> None:
    """Refuse larger images in this process from now on."""
    global _limit
    _limit = megapixels


def pixel_limit() -> float:
    """This process's limit in megapixels."""
    return _limit


def check_size(path: Path, width: int, height: int) -> None:
    """Raise ImageError for an image with more pixels than the limit."""
    if width * height > _limit * 1e6:
        raise ImageError(
            f"{path}: {width:,} x {height:,} pixels are {width * height / 1e6:,.0f} megapixels, more than "
            f"runtime.max_megapixels={_limit:g}; shrink the image, or raise the limit "
            f'(SET="runtime.max_megapixels=...", or in configs/train.yaml)'
        )
