"""Results of an audit: one table per check, stored as CSV for people and for the report."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from distracted.data.competition import Competition
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


def as_findings(rows: Sequence[Mapping[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Make a table of all `COLUMNS` from rows that have some of them."""
    table = pd.DataFrame(rows if isinstance(rows, pd.DataFrame) else list(rows)).reindex(
        columns=list(COLUMNS)
    )
    table = table.astype(object).where(table.notna(), "")
    table["value"] = [f"{value:.6g}" if isinstance(value, float) else value for value in table["value"]]
    return table


def image_findings(
    competition: Competition, rows: Sequence[int], **columns: Sequence[str | float]
) -> pd.DataFrame:
    """Findings about images.

    Args:
        rows: Their rows in the training set followed by the test set.
        columns: Other columns of the findings, with an entry for each.
    """
    return as_findings(_identify(competition, rows).assign(**columns))


def pair_findings(
    competition: Competition, pairs: Sequence[tuple[int, int]], **columns: Sequence[str | float]
) -> pd.DataFrame:
    """Findings about pairs of images; as in `image_findings`."""
    first, second = (_identify(competition, [pair[place] for pair in pairs]) for place in (0, 1))
    second.columns = pd.Index(["other", "other_part", "other_subject", "other_classname"])
    return as_findings(pd.concat([first, second], axis=1).assign(**columns))


def _identify(competition: Competition, rows: Sequence[int]) -> pd.DataFrame:
    """The columns that identify images, by their rows in the training set followed by the test set."""
    train = competition.train[["img", "subject", "classname"]].assign(part="train")
    test = competition.test[["img"]].assign(subject="", classname="", part="test")
    listed = pd.concat([train, test], ignore_index=True)[list(_IMAGE)]
    return listed.iloc[list(rows)].reset_index(drop=True)


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


def discard_audit(store: Store) -> None:
    """Mark the last audit as incomplete, before its files are replaced one by one."""
    (store.workspace.audit(store.competition.name) / _SUMMARY).unlink(missing_ok=True)


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


def write_unreadable(workspace: Workspace, competition: Competition, problems: Mapping[Path, str]) -> Path:
    """Write the unreadable images to a CSV. The audit cannot run before they are repaired.

    Args:
        problems: What is wrong with each, by its path.
    """
    paths = competition.train_paths() + competition.test_paths()
    rows = [row for row, path in enumerate(paths) if path in problems]
    findings = image_findings(competition, rows, note=[problems[paths[row]] for row in rows])
    path = workspace.audit(competition.name) / "unreadable.csv"
    write_text(path, findings.to_csv(index=False, lineterminator="\n"))
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
