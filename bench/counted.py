"""Runs a command of scripts/ and counts how often it decodes each image file.

    PYTHONPATH=scripts python bench/counted.py <counts file> scripts/train.py --model mlp ...

The file holds one number for each image, by the number in its name (`img_<number>.jpg`), and is shared with
the command's loader processes, which are forked. Counts of an interrupted command are added to.
"""

import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np

from distracted.data import images

SIZE = 2**20  # numbers that the file has room for


def count_decodes(path: Path) -> None:
    """Count in a file, from now on and in processes that are forked."""
    if not path.exists():
        np.zeros(SIZE, dtype=np.uint32).tofile(path)
    counts = np.memmap(path, dtype=np.uint32, mode="r+")
    decode = images.decode_rgb

    def counting(data: bytes, path: Path, *, short_side: int | None = None) -> images.Image:
        match = re.search(r"(\d+)\.\w+$", path.name)
        assert match is not None, path
        counts[int(match[1])] += 1
        return decode(data, path, short_side=short_side)

    images.decode_rgb = counting


if __name__ == "__main__":
    where, script, *arguments = sys.argv[1:]
    count_decodes(Path(where))
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))  # noqa: PTH100, PTH120  as for a script
    runpy.run_path(script, run_name="__main__")
