"""Digests of everything that a report shows: while they are the same, the page is up to date."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from distracted.audit.findings import read_audit
from distracted.files import FileState, sha256_file, sha256_json
from distracted.headline import LOG_LOSS
from distracted.paths import JOB, METRICS, NETWORK, REDO
from distracted.predictions.job_state import read_job_state
from distracted.predictions.manifest import MANIFEST
from distracted.predictions.store import Store

if TYPE_CHECKING:
    from distracted.data.transforms import Policy

_CODE = Path(__file__).resolve().parents[1]
_HEAD = 4096  # bytes, among which the page says what it was made from


def made_from(store: Store, *, policies: Mapping[str, "Policy"], heat: bool, run: str) -> str:
    """Two digests: of the stored files, and of the options and the code that make the page."""
    paths = sorted(path for path in _CODE.rglob("*") if path.suffix in (".py", ".html", ".css", ".js"))
    code = {str(path.relative_to(_CODE)): sha256_file(path) for path in paths}
    return f"{_stored(store)} {sha256_json([policies, heat, run, code])}"


def stale_pages(store: Store) -> list[str]:
    """The commands that renew outdated pages, each with the reason."""
    steps = []
    audit, page = read_audit(store), store.workspace.report(store.competition.name)
    if audit is not None and not audit.is_current:
        steps.append("make audit: the data, or the predictions that it looked at, have changed since")
    if page.is_file() and digests_in(page).partition(" ")[0] != _stored(store):
        steps.append("make report: what it shows has changed since")
    return steps


def digests_in(path: Path) -> str:
    """The digests that a complete page states, or ""."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(-min(_HEAD, len(head)), os.SEEK_END)
            whole = file.read().rstrip().endswith(b"</html>")
    except OSError:
        return ""
    match = re.search(rb'<meta name="made-from" content="([0-9a-f ]*)">', head)
    return match[1].decode() if match and whole else ""


def _stored(store: Store) -> str:
    """The digest of all files that a page is made from; manifests stand for the predictions."""
    competition, workspace = store.competition, store.workspace
    files = {str(path.relative_to(workspace.root)): _digest(path) for path in _files(store)}
    for run in store.runs():
        for fold in store.finished_folds(run):
            path = workspace.fold(competition.name, run, fold) / MANIFEST
            files[str(path.relative_to(workspace.root))] = store.manifest_sha256(run, fold)
    states = [read_job_state(path.parent) for path in workspace.in_each_fold(competition.name, JOB)]
    jobs = [asdict(state) for state in states if state is not None]  # alive or killed
    paths = workspace.in_each_fold(competition.name, NETWORK)
    networks = [[str(path), *_stamp(path)] for path in paths]  # too large to read
    data = [competition.index_hash, store.folds.hash, competition.config.model_dump(mode="json")]
    if competition.metric is not LOG_LOSS:
        data.append(competition.metric.name)
    return sha256_json([data, files, jobs, networks])


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except FileNotFoundError:  # removed just now
        return ""


def _stamp(path: Path) -> list[int]:
    try:
        return list(FileState.of(path))
    except FileNotFoundError:
        return []


def _files(store: Store) -> Iterator[Path]:
    workspace, name = store.workspace, store.competition.name
    yield from workspace.in_each_fold(name, METRICS)
    yield from workspace.ladders(name).glob("*.json")
    yield from workspace.audit(name).glob("[!.]*.*")
    yield from workspace.submissions(name).glob("[!.]*.*")
    yield from workspace.in_each_fold(name, REDO)
    others = workspace.test_people(name), workspace.competition_summary(name)
    yield from (path for path in others if path.is_file())
