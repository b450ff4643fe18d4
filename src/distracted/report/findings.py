"""What the audit found, with pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distracted.audit.findings import Audit, Check
from distracted.data.images import read_rgb
from distracted.errors import ImageError
from distracted.predictions.store import Store
from distracted.report.sheets import as_uri, shrink

_WIDTH = 120  # pixels
_MOST = 24  # findings of a check that are shown; its CSV holds all


@dataclass(frozen=True)
class ShownFinding:
    """One finding: its columns, and a data: URI for each image it names that can be read."""

    told: Mapping[str, str]
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """A check with as many of its findings as the page shows, of `num` in all."""

    check: Check
    findings: list[ShownFinding]
    num: int


def show_audit(store: Store, audit: Audit) -> list[Shown]:
    """The checks of an audit with the pictures of what they found, those that found something first."""
    competition = store.competition
    paths = {
        ("train", img): path
        for img, path in zip(competition.train["img"], competition.train_paths(), strict=True)
    } | {
        ("test", img): path
        for img, path in zip(competition.test["img"], competition.test_paths(), strict=True)
    }
    shown = []
    for check in audit.checks:
        rows = check.findings.head(_MOST).to_dict("records")
        told = [{str(key): str(value) for key, value in row.items()} for row in rows]
        found = [ShownFinding(row, _pictures(row, paths)) for row in told]
        shown.append(Shown(check, found, len(check.findings)))
    return sorted(shown, key=lambda one: not one.num)


def _pictures(told: Mapping[str, str], paths: Mapping[tuple[str, str], Path]) -> tuple[str, ...]:
    found = []
    for img, part in ((told["img"], told["part"]), (told["other"], told["other_part"])):
        path = paths.get((part, img))
        if path is None:
            continue
        try:
            found.append(as_uri(shrink(read_rgb(path), width=_WIDTH)))
        except ImageError:
            continue
    return tuple(found)
