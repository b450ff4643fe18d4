"""Checks of single images: unreadable, blank, unusual light, unusual size."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from distracted.audit.findings import Check, as_findings, describe_image
from distracted.predictions.store import Store

#: An image is blank if its grey values' standard deviation is lower: sensor noise has 1 to 3, fog above 10.
FLAT = 5.0
_FAR = 6.0  # robust standard deviations from the median
_COMMON = 0.8  # share of the images that must have one size for other sizes to be unusual
_LIGHT = {"brightness": "bright", "contrast": "contrast", "colour": "colourful"}


def shows_something(scanned: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each image is readable and not blank; `scanned` is the table of `scan_images`."""
    return (scanned["error"] == "") & (scanned["contrast"] >= FLAT)


def check_pictures(store: Store, train: pd.DataFrame, test: pd.DataFrame) -> list[Check]:
    """Look for images that cannot be used or are unlike the others.

    Args:
        train, test: Tables of `scan_images`, in the competition's order.
    """
    both = pd.concat([train, test], ignore_index=True)
    num_train = len(train)

    def describe(row: int) -> dict[str, str]:
        return describe_image(store, row if row < num_train else row - num_train, test=row >= num_train)

    usable = both[shows_something(both)]
    return [
        _unreadable(both, describe),
        _blank(both, describe),
        _odd_light(usable, describe),
        _odd_size(usable, describe),
    ]


def _unreadable(scanned: pd.DataFrame, describe: Callable[[int], dict[str, str]]) -> Check:
    rows = np.flatnonzero(scanned["error"] != "").tolist()
    findings = as_findings([{**describe(row), "note": scanned["error"].iloc[row]} for row in rows])
    about = "OpenCV cannot decode these, and training stops at the first. Fetch them again."
    return Check("unreadable", "Unreadable images", about, "error", findings)


def _blank(scanned: pd.DataFrame, describe: Callable[[int], dict[str, str]]) -> Check:
    rows = np.flatnonzero((scanned["error"] == "") & ~shows_something(scanned)).tolist()
    findings = as_findings(
        [
            {**describe(row), "value": scanned["contrast"].iloc[row], "note": _shade(scanned.iloc[row])}
            for row in rows
        ]
    )
    about = (
        "A single shade, mostly black: there is nothing to learn from them but noise. Candidates for the "
        "drop list."
    )
    return Check("empty", "Images that show nothing", about, "error", findings, value="contrast")


def _shade(row: "pd.Series[float]") -> str:
    brightness = float(row["brightness"])
    return "black" if brightness < 32 else "white" if brightness > 223 else "grey"


def _odd_light(usable: pd.DataFrame, describe: Callable[[int], dict[str, str]]) -> Check:
    rows = []
    for key, word in _LIGHT.items():
        values = usable[key]
        centre = values.median()
        spread = 1.4826 * (values - centre).abs().median()
        if not spread:
            continue
        distance = (values - centre) / spread
        rows += [
            {
                **describe(row),
                "value": distance[row],
                "note": f"{'more' if distance[row] > 0 else 'less'} {word}",
            }
            for row in distance.index[distance.abs() > _FAR]
        ]
    about = (
        f"More than {_FAR:g} robust standard deviations from the median. Many of these are fine (night, "
        "glare, another camera): look at them."
    )
    findings = as_findings(sorted(rows, key=lambda row: -abs(float(row["value"]))))
    unit = "robust standard deviations"
    return Check("odd_light", "Images in unusual light", about, "note", findings, value=unit)


def _odd_size(usable: pd.DataFrame, describe: Callable[[int], dict[str, str]]) -> Check:
    width, height = (usable[side].astype(int).astype(str) for side in ("width", "height"))
    sizes = width + " x " + height
    shares = sizes.value_counts(normalize=True)
    rows = []
    if len(shares) and shares.iloc[0] >= _COMMON:
        common = shares.index[0]
        odd = sizes[sizes != common]
        rows = [
            {**describe(row), "note": f"{size} pixels"}
            for row, size in zip(odd.index.tolist(), odd, strict=True)
        ]
        about = f"{shares.iloc[0]:.1%} of the images have {common} pixels; these do not."
    else:
        about = f"The images have {len(shares)} sizes, none of them common to most."
    return Check("odd_size", "Images of unusual size", about, "note", as_findings(rows))
