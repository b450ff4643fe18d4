"""What an audit found: one table a check, kept as CSV for people and read back for the report."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from distracted.errors import StoreError
from distracted.files import atomic_path, write_json
from distracted.paths import Workspace
from distracted.predictions.store import Store

_log = logging.getLogger(__name__)

#: Of each finding: an image (part: train or test), perhaps another one or another subject, a number, a word.
COLUMNS = (
    "img",
    "part",
    "subject",
    "classname",
    "other",
    "other_part",
    "other_subject",
    "other_classname",
    "value",
    "note",
)
_SUMMARY = "findings.json"


@dataclass(frozen=True, eq=False)
class Check:
    """One thing that was looked for.

    Attributes:
        key: Names its file; title, about: for readers: what it is, and what to do.
        level: `error` costs runs or scores, `warning` is worth a look, `note` is worth knowing.
        value: What the findings' numbers are, or "".
        findings: Columns `COLUMNS`, the gravest first; "" where there is nothing to say.
    """

    key: str
    title: str
    about: str
    level: Literal["error", "warning", "note"]
    findings: pd.DataFrame
    value: str = ""


def as_findings(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows that name some of the columns as a table of all of them."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    table = table.astype(object).where(table.notna(), "")
    table["value"] = [f"{value:.6g}" if isinstance(value, float) else value for value in table["value"]]
    return table


def describe_image(store: Store, row: int, *, test: bool = False, prefix: str = "") -> dict[str, str]:
    """The columns that say which image it is, and whose; with a prefix, the other image's."""
    competition = store.competition
    if test:
        found = {"img": competition.test["img"].iloc[row], "part": "test", "subject": "", "classname": ""}
    else:
        img, subject, classname = competition.train[["img", "subject", "classname"]].iloc[row]
        found = {"img": img, "part": "train", "subject": subject, "classname": classname}
    if not prefix:
        return found
    return {("other" if key == "img" else f"other_{key}"): value for key, value in found.items()}


@dataclass(frozen=True)
class Audit:
    """All checks of a competition.

    Attributes:
        run: Whose out-of-fold predictions were looked at, or ""; made: UTC, ISO 8601.
        how: Digest of what else it depends on: the network, what was asked for.
        is_current: Whether the data, and the run's predictions, are still those that were looked at.
    """

    checks: list[Check]
    run: str
    made: str
    how: str = ""
    is_current: bool = True


def keep_audit(store: Store, checks: Sequence[Check], run: str, how: str) -> Audit:
    """Write runs/<data>/audit: a CSV for each check, and findings.json, which is written last."""
    folder = store.workspace.audit(store.competition.name)
    for check in checks:
        with atomic_path(folder / f"{check.key}.csv") as temporary:
            check.findings.to_csv(temporary, index=False, lineterminator="\n")
    made = datetime.now(UTC).isoformat(timespec="seconds")
    told = [{key: value for key, value in vars(check).items() if key != "findings"} for check in checks]
    summary = {"checks": told, "made": made, "run": run, "how": how, **_looked_at(store, run)}
    write_json(folder / _SUMMARY, summary)
    return Audit(list(checks), run, made, how)


def keep_unreadable(workspace: Workspace, data: str, problems: Sequence[str]) -> Path:
    """Write the pictures that cannot be read to a CSV; no check can be made before they are mended."""
    path = workspace.audit(data) / "unreadable.csv"
    rows = [{"img": Path(problem.partition(": ")[0]).name, "note": problem} for problem in problems]
    with atomic_path(path) as temporary:
        as_findings(rows).to_csv(temporary, index=False, lineterminator="\n")
    return path


def kept_audit(store: Store) -> Audit | None:
    """What was found last; None where there was no audit, or its files are damaged."""
    folder = store.workspace.audit(store.competition.name)
    try:
        told = json.loads((folder / _SUMMARY).read_text())
        checks = [Check(**check, findings=_read(folder / f"{check['key']}.csv")) for check in told["checks"]]
        run = str(told["run"])
        looked_at = _looked_at(store, run)
        same = all(told.get(key) == looked_at[key] for key in looked_at)
        return Audit(checks, run, str(told["made"]), str(told.get("how", "")), same)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: damaged (%s); make audit writes it anew", folder, type(error).__name__)
        return None


def _read(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}")
    return table


def _looked_at(store: Store, run: str) -> dict[str, Any]:
    """Digests of what an audit depends on."""
    try:
        there = run and store.finished_folds(run)
        hashes = [manifest.valid_sha256 for manifest in store.manifests(run)] if there else []
    except StoreError:
        hashes = ["its manifests cannot be read"]
    data = {"index_hash": store.competition.index_hash, "folds_hash": store.folds.hash}
    return {**data, "predictions": hashes}
