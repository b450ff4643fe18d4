"""Checks of single images: unreadable, damaged, blank, unusual light, unusual size."""

import numpy as np
import pandas as pd

from distracted.audit.findings import Check, image_findings
from distracted.data.images import FEW_BITS
from distracted.predictions.store import Store

#: An image is blank if its grey values' standard deviation is lower: sensor noise has 1 to 3, fog above 10.
FLAT = 5.0
_FAR = 6.0  # robust standard deviations from the median
_COMMON = 0.8  # share of the images that must have one size for other sizes to be unusual
_LIGHT = {"brightness": "bright", "contrast": "contrast", "colour": "colourful"}


def shows_something(scanned: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each image is readable and not blank; `scanned` is the table of `scan_images`."""
    return (scanned["error"] == "") & (scanned["contrast"] >= FLAT)


def check_pictures(store: Store, scanned: pd.DataFrame) -> list[Check]:
    """Look for images that cannot be used or are unlike the others.

    Args:
        scanned: The table of `scan_images` for the training set followed by the test set.
    """
    usable = scanned[shows_something(scanned)]
    return [
        _unreadable(store, scanned),
        _damaged(store, scanned),
        _odd_files(store, scanned),
        _few_bits(store, scanned),
        _blank(store, scanned),
        _odd_light(store, usable),
        _odd_size(store, usable),
    ]


def _unreadable(store: Store, scanned: pd.DataFrame) -> Check:
    about = "These cannot be decoded, and training stops at the first. Fetch or convert them."
    return Check("unreadable", "Unreadable images", about, "error", _with_text(store, scanned["error"]))


def _damaged(store: Store, scanned: pd.DataFrame) -> Check:
    about = (
        "Readable, but pixels are missing or wrong, as the decoder says; training takes them as they are. "
        "Fetch them again. Those that stay damaged are candidates for the drop list."
    )
    return Check("damaged", "Damaged images", about, "error", _with_text(store, scanned["damage"]))


def _odd_files(store: Store, scanned: pd.DataFrame) -> Check:
    about = "The decoder remarks on these, but reads all of their pixels: nothing to do."
    return Check("odd_files", "Oddly written files", about, "note", _with_text(store, scanned["remark"]))


def _with_text(store: Store, texts: "pd.Series[str]") -> pd.DataFrame:
    rows = np.flatnonzero(texts != "").tolist()
    return image_findings(store.competition, rows, note=texts[rows].tolist())


def _few_bits(store: Store, scanned: pd.DataFrame) -> Check:
    bits = scanned["bits"].astype(int)
    rows = np.flatnonzero(bits.between(9, FEW_BITS)).tolist()
    findings = image_findings(store.competition, rows, note=[f"{bits[row]} of 16 bits" for row in rows])
    about = (
        "16-bit files whose values need fewer bits, as cameras of 12 bits write them: at 8 bits they are "
        "nearly black. If they should not be so dark, convert them (docs/troubleshooting.md says how)."
    )
    return Check("few_bits", "Images that use few of 16 bits", about, "warning", findings)


def _blank(store: Store, scanned: pd.DataFrame) -> Check:
    rows = np.flatnonzero((scanned["error"] == "") & ~shows_something(scanned)).tolist()
    brightness, contrast = (scanned[key].iloc[rows].tolist() for key in ("brightness", "contrast"))
    shades = ["black" if value < 32 else "white" if value > 223 else "grey" for value in brightness]
    findings = image_findings(store.competition, rows, value=contrast, note=shades)
    about = (
        "A single shade, mostly black: there is nothing to learn from them but noise. Candidates for the "
        "drop list."
    )
    return Check("empty", "Images that show nothing", about, "error", findings, value="contrast")


def _odd_light(store: Store, usable: pd.DataFrame) -> Check:
    odd: list[tuple[float, int, str]] = []
    for key, word in _LIGHT.items():
        centre = usable[key].median()
        spread = 1.4826 * (usable[key] - centre).abs().median()
        if not spread:
            continue
        distances = (usable[key] - centre) / spread
        for row in distances.index[distances.abs() > _FAR]:
            odd.append((float(distances[row]), row, f"{'more' if distances[row] > 0 else 'less'} {word}"))
    about = (
        f"More than {_FAR:g} robust standard deviations from the median. Many of these are fine (night, "
        "glare, another camera): look at them."
    )
    odd.sort(key=lambda item: -abs(item[0]))
    values, notes = [value for value, _, _ in odd], [note for _, _, note in odd]
    findings = image_findings(store.competition, [row for _, row, _ in odd], value=values, note=notes)
    unit = "robust standard deviations"
    return Check("odd_light", "Images in unusual light", about, "note", findings, value=unit)


def _odd_size(store: Store, usable: pd.DataFrame) -> Check:
    width, height = (usable[side].astype(int).astype(str) for side in ("width", "height"))
    sizes = width + " x " + height
    shares = sizes.value_counts(normalize=True)
    odd = sizes[:0]
    if len(shares) and shares.iloc[0] >= _COMMON:
        odd = sizes[sizes != shares.index[0]]
        about = f"{shares.iloc[0]:.1%} of the images have {shares.index[0]} pixels; these do not."
    else:
        about = f"The images have {len(shares)} sizes, none of them common to most."
    notes = [f"{size} pixels" for size in odd]
    findings = image_findings(store.competition, odd.index.tolist(), note=notes)
    return Check("odd_size", "Images of unusual size", about, "note", findings)
