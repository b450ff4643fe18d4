"""Results of an audit: one table per check, stored as CSV for people and for the report."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from distracted.errors import StoreError
from distracted.files import write_json, write_text
from distracted.paths import Workspace
from distracted.predictions.store import Store

_log = logging.getLogger(__name__)

_IMAGE = ("img", "part", "subject", "classname")
#: Columns of a finding: an image (`part` is train or test), perhaps a second one, a number and a remark.
COLUMNS = (*_IMAGE, "other", "other_part", "other_subject", "other_classname", "value", "note")
_SUMMARY = "findings.json"


@dataclass(frozen=True, eq=False)
class Check:
    """One check and its findings.

    Attributes:
        key: Name of its CSV file.
        title, about: For readers: what the check looks for, and what to do about it.
        level: `error` costs runs or scores, `warning` is worth a look, `note` is worth knowing.
        findings: Columns `COLUMNS`, the most serious first; "" in columns that do not apply.
        value: What the number in the column `value` measures, or "".
    """

    key: str
    title: str
    about: str
    level: Literal["error", "warning", "note"]
    findings: pd.DataFrame
    value: str = ""


def as_findings(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Make a table of all `COLUMNS` from rows that have some of them."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    table = table.astype(object).where(table.notna(), "")
    table["value"] = [f"{value:.6g}" if isinstance(value, float) else value for value in table["value"]]
    return table


def describe_image(store: Store, row: int) -> dict[str, str]:
    """The columns that identify an image, by its row in the training set followed by the test set."""
    train, test = store.competition.train, store.competition.test
    if row < len(train):
        img, subject, classname = train[["img", "subject", "classname"]].iloc[row]
        return {"img": img, "part": "train", "subject": subject, "classname": classname}
    return {"img": test["img"].iloc[row - len(train)], "part": "test", "subject": "", "classname": ""}


@dataclass(frozen=True)
class Audit:
    """All checks of a competition.

    Attributes:
        run: The run whose out-of-fold predictions were judged, or "".
        made: UTC, ISO 8601.
        how: Digest of the settings: the network whose features were compared, the options.
        is_current: Whether the data and the run's predictions are unchanged since.
    """

    checks: list[Check]
    run: str
    made: str
    how: str = ""
    is_current: bool = True


def write_audit(store: Store, checks: Sequence[Check], run: str, how: str) -> Audit:
    """Write a CSV for each check to runs/<data>/audit, then findings.json."""
    folder = store.workspace.audit(store.competition.name)
    for check in checks:
        write_text(folder / f"{check.key}.csv", check.findings.to_csv(index=False, lineterminator="\n"))
    made = datetime.now(UTC).isoformat(timespec="seconds")
    described = [{key: value for key, value in vars(check).items() if key != "findings"} for check in checks]
    summary = {"checks": described, "made": made, "run": run, "how": how, **_inputs(store, run)}
    write_json(folder / _SUMMARY, summary)
    return Audit(list(checks), run, made, how)


def write_unreadable(workspace: Workspace, data: str, problems: Sequence[str]) -> Path:
    """Write the unreadable images to a CSV. The audit cannot run before they are repaired."""
    path = workspace.audit(data) / "unreadable.csv"
    rows = [{"img": Path(problem.partition(": ")[0]).name, "note": problem} for problem in problems]
    write_text(path, as_findings(rows).to_csv(index=False, lineterminator="\n"))
    return path


def read_audit(store: Store) -> Audit | None:
    """Read the last audit; None if there was none or its files are damaged."""
    folder = store.workspace.audit(store.competition.name)
    try:
        summary = json.loads((folder / _SUMMARY).read_text())
        checks = [Check(**about, findings=_read(folder, about["key"])) for about in summary["checks"]]
        run = str(summary["run"])
        is_current = all(summary.get(key) == value for key, value in _inputs(store, run).items())
        return Audit(checks, run, str(summary["made"]), str(summary.get("how", "")), is_current)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: damaged (%s); make audit rewrites it", folder, type(error).__name__)
        return None


def _read(folder: Path, key: str) -> pd.DataFrame:
    table = pd.read_csv(folder / f"{key}.csv", dtype=str, keep_default_na=False)
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"{key}.csv: expected the columns {', '.join(COLUMNS)}")
    return table


def _inputs(store: Store, run: str) -> dict[str, Any]:
    """Digests of the data, the folds and the run's predictions."""
    try:
        is_there = run and store.finished_folds(run)
        hashes = [manifest.valid_sha256 for manifest in store.manifests(run)] if is_there else []
    except StoreError:
        hashes = ["its manifests cannot be read"]
    data = {"index_hash": store.competition.index_hash, "folds_hash": store.folds.hash}
    return {**data, "predictions": hashes}
