"""What a report follows from, as two digests: while they are the same, so is the page."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from distracted.audit.findings import kept_audit
from distracted.files import sha256_file, sha256_json
from distracted.predictions.job_state import read_job_state
from distracted.predictions.store import MANIFEST, Store

if TYPE_CHECKING:
    from distracted.data.transforms import Policy

_CODE = Path(__file__).resolve().parents[1]
_HEAD = 4096  # bytes, among which the page says what it was made from


def made_from(store: Store, *, policies: Mapping[str, "Policy"], heat: bool, run: str) -> str:
    """The digest of what is stored, and that of what was asked for and of the code that shows it."""
    code = {
        str(path.relative_to(_CODE)): sha256_file(path)
        for path in sorted(_CODE.rglob("*"))
        if path.suffix in (".py", ".html", ".css", ".js")
    }
    return f"{_stored(store)} {sha256_json([policies, heat, run, code])}"


def page_is_of(path: Path, digests: str) -> bool:
    """Whether a page that is there, whole, was made from that."""
    return _told(path) == digests


def stale_pages(store: Store) -> list[str]:
    """What to make anew for reading, each with why."""
    found = []
    audit, told = kept_audit(store), _told(store.workspace.report(store.competition.name))
    if audit is not None and not audit.is_current:
        found.append("make audit: the data, or the predictions that it looked at, have changed since")
    if store.workspace.report(store.competition.name).is_file() and told.partition(" ")[0] != _stored(store):
        found.append("make report: what it shows has changed since")
    return found


def _told(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(-min(_HEAD, len(head)), os.SEEK_END)
            whole = file.read().rstrip().endswith(b"</html>")
    except OSError:
        return ""
    found = re.search(rb'<meta name="made-from" content="([0-9a-f ]*)">', head)
    return found[1].decode() if found and whole else ""


def _stored(store: Store) -> str:
    """The digest of all files that a page is made from; hashes in them stand for the rest."""
    competition, workspace = store.competition, store.workspace
    files = {str(path.relative_to(workspace.root)): _digest(path) for path in sorted(_files(store))}
    states = [read_job_state(path.parent) for path in workspace.jobs(competition.name)]  # alive or killed
    jobs = [asdict(state) for state in states if state is not None]
    paths = workspace.networks(competition.name)
    networks = [[str(path), *_stamp(path)] for path in paths]  # too large to read
    data = [competition.index_hash, store.folds.hash, competition.config.model_dump(mode="json")]
    return sha256_json([data, files, jobs, networks])


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except FileNotFoundError:  # just now
        return ""


def _stamp(path: Path) -> list[int]:
    try:
        found = path.stat()
        return [found.st_size, found.st_mtime_ns]
    except FileNotFoundError:
        return []


def _files(store: Store) -> Iterator[Path]:
    workspace, name = store.workspace, store.competition.name
    for run in store.runs():
        yield from (workspace.fold(name, run, fold) / MANIFEST for fold in store.finished_folds(run))
    yield from workspace.all_metrics(name)
    yield from workspace.ladders(name).glob("*.json")
    yield from workspace.audit(name).glob("[!.]*.*")
    yield from workspace.submissions(name).glob("[!.]*.*")
    yield from workspace.redos(name)
    yield from (path for path in [workspace.test_people(name)] if path.is_file())
