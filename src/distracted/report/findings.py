"""The audit's findings with thumbnails, for the report."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distracted.audit.findings import Audit, Check
from distracted.data.images import read_rgb
from distracted.errors import ImageError
from distracted.predictions.store import Store
from distracted.report.sheets import as_uri, shrink

_WIDTH = 120  # pixels
_MAX_SHOWN = 24  # findings per check; its CSV has all


@dataclass(frozen=True)
class ShownFinding:
    """One finding: its columns, and a data: URI for each of its readable images."""

    columns: Mapping[str, str]
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """A check with its first findings; `num` is the number of all."""

    check: Check
    findings: list[ShownFinding]
    num: int


def show_audit(store: Store, audit: Audit) -> list[Shown]:
    """Add thumbnails to an audit's findings; checks without findings come last."""
    competition = store.competition
    train = zip(competition.train["img"], competition.train_paths(), strict=True)
    test = zip(competition.test["img"], competition.test_paths(), strict=True)
    paths = {("train", img): path for img, path in train} | {("test", img): path for img, path in test}
    shown = []
    for check in audit.checks:
        rows = check.findings.head(_MAX_SHOWN).to_dict("records")
        columns = [{str(key): str(value) for key, value in row.items()} for row in rows]
        findings = [ShownFinding(row, _thumbnails(row, paths)) for row in columns]
        shown.append(Shown(check, findings, len(check.findings)))
    return sorted(shown, key=lambda item: not item.num)


def _thumbnails(columns: Mapping[str, str], paths: Mapping[tuple[str, str], Path]) -> tuple[str, ...]:
    uris = []
    for part, img in ((columns["part"], columns["img"]), (columns["other_part"], columns["other"])):
        path = paths.get((part, img))
        if path is None:
            continue
        with suppress(ImageError):
            uris.append(as_uri(shrink(read_rgb(path), width=_WIDTH)))
    return tuple(uris)
