"""Checks of single pictures: unreadable, empty, oddly lit, of another size."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from distracted.audit.findings import Check, as_findings, describe_image
from distracted.predictions.store import Store

#: Standard deviation of grey below which a picture shows nothing: sensor noise has 1 to 3, fog more than 10.
FLAT = 5.0
_FAR = 6.0  # robust standard deviations
_COMMON = 0.8  # share of the images that has to have one size for the others to be odd
_LIGHT = {"brightness": "bright", "contrast": "contrast", "colour": "colourful"}


def shows_something(scanned: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each picture can be read and has more than one shade; `scanned` as of `scan_images`."""
    return (scanned["error"] == "") & (scanned["contrast"] >= FLAT)


def check_pictures(store: Store, train: pd.DataFrame, test: pd.DataFrame) -> list[Check]:
    """Look for single pictures that are not like the others.

    Args:
        train, test: As `scan_images`, in the competition's order.
    """
    both = pd.concat([train, test], ignore_index=True)
    num_train = len(train)

    def describe(row: int) -> dict[str, str]:
        return describe_image(store, row if row < num_train else row - num_train, test=row >= num_train)

    unreadable = both["error"] != ""
    seen = shows_something(both)
    flat = ~unreadable & ~seen
    rows = [{**describe(row), "note": both["error"].iloc[row]} for row in np.flatnonzero(unreadable).tolist()]
    checks = [
        Check(
            "unreadable",
            "Unreadable pictures",
            "OpenCV cannot decode them, and training stops at the first. Fetch them again.",
            "error",
            as_findings(rows),
        ),
        Check(
            "empty",
            "Pictures that show nothing",
            "One shade all over, black mostly: nothing can be learned from them but noise. Candidates for "
            "the drop list.",
            "error",
            as_findings(
                [
                    {**describe(row), "value": both["contrast"].iloc[row], "note": _shade(both.iloc[row])}
                    for row in np.flatnonzero(flat).tolist()
                ]
            ),
            value="contrast",
        ),
    ]
    found = []
    for key, word in _LIGHT.items():
        values = both.loc[seen, key]
        centre = values.median()
        spread = 1.4826 * (values - centre).abs().median()
        if not spread:
            continue
        far = (values - centre) / spread
        found += [
            {**describe(row), "value": far[row], "note": f"{'more' if far[row] > 0 else 'less'} {word}"}
            for row in far.index[far.abs() > _FAR]
        ]
    checks.append(
        Check(
            "odd_light",
            "Oddly lit pictures",
            f"More than {_FAR:g} robust standard deviations from the median. Often right all the same: "
            "night, glare, another camera. Look at them.",
            "note",
            as_findings(sorted(found, key=lambda row: -abs(float(row["value"])))),
            value="robust standard deviations",
        )
    )
    checks.append(_sizes(both, seen, describe))
    return checks


def _shade(row: "pd.Series[float]") -> str:
    brightness = float(row["brightness"])
    return "black" if brightness < 32 else "white" if brightness > 223 else "grey"


def _sizes(both: pd.DataFrame, seen: "pd.Series[bool]", describe: Callable[[int], dict[str, str]]) -> Check:
    sizes = (
        both.loc[seen, "width"].astype(int).astype(str)
        + " x "
        + both.loc[seen, "height"].astype(int).astype(str)
    )
    common = sizes.value_counts(normalize=True)
    rows = []
    if len(common) and common.iloc[0] >= _COMMON:
        odd = sizes[sizes != common.index[0]]
        rows = [
            {**describe(row), "note": f"{size} pixels"}
            for row, size in zip(odd.index.tolist(), odd, strict=True)
        ]
        about = f"{common.iloc[0]:.1%} of the pictures have {common.index[0]} pixels; these do not."
    else:
        about = f"The pictures have {len(common)} sizes, none of which is the usual one."
    return Check("odd_size", "Pictures of another size", about, "note", as_findings(rows))
