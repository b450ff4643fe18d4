"""Fuzzes the readers of files: a damaged file may raise only the project's own errors.

    PYTHONPATH=scripts python bench/fuzz.py --minutes 10

Takes valid files of a tiny competition and its store (lists, folds, drop list, configs, manifests, parquet
files, checkpoints, networks, locks, job states, submissions, pictures, W&B's recordings), changes their
bytes, fields or values as hypothesis proposes, and reads them as the commands do. Other errors are printed
with the smallest example and counted; a second run with the same folder starts with the examples that failed.
"""

import json
import logging
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
import wandb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

import console
from damaged_files import GOOD, encode, photograph, tiled_tiff
from distracted.audit.damage import examine
from distracted.audit.findings import Check, as_findings, read_audit, write_audit
from distracted.config import load_config, load_data_config, load_runtime_config
from distracted.data.competition import load_competition
from distracted.data.drops import read_drops
from distracted.data.folds import read_folds
from distracted.data.images import check_bytes, decode, decode_rgb, decoded_bytes, read_bytes
from distracted.errors import DistractedError
from distracted.files import sha256_file, write_json, write_text
from distracted.locks import holder, this_process
from distracted.paths import CONFIGS, Workspace
from distracted.postprocess.people import read_test_people
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.job_state import read_job_state
from distracted.predictions.store import Store, open_store
from distracted.report.board import read_submissions
from distracted.report.curves import read_curves
from distracted.report.inputs import stale_pages
from distracted.report.status import run_statuses
from distracted.sample import render_sample
from distracted.submission.answers import answer_to
from distracted.submission.doctor import check_submission
from distracted.submission.photograph_files import find_photographs
from distracted.submission.submit import is_submitted, write_submission
from distracted.tracking.client import WandbRun, is_refused, run_id
from distracted.tracking.client_log import find_losses
from distracted.tracking.recordings import find_recordings
from distracted.tracking.transaction_log import find_damage
from distracted.training.checkpoints import newest_state, write_state
from fuzzed_weights import load_weights, write_weights

_EXAMPLES = 150  # a round
#: Texts that readers are likely to mishandle.
_PIECES = [
    "\0",
    "\n",
    ",",
    '"',
    "\ufeff",
    "nan",
    "inf",
    "-1",
    "1e999",
    "null",
    "[]",
    "{}",
    "../x",
    "/etc/passwd",
]
_PIECES += ["9" * 30, "${x}", "&a *a", "!!python/object:os.system", "\xe9", "True", "&a [*a]", "- " * 50]


@dataclass(frozen=True)
class Target:
    """A file and its reader; the lines of a `text` file are also removed, repeated and reordered."""

    name: str
    path: Path
    read: Callable[[], object]
    text: bool = True


def changed(valid: bytes, *, text: bool) -> st.SearchStrategy[bytes]:
    """The bytes with some removed, replaced or inserted; or arbitrary bytes."""
    where = st.integers(0, max(0, len(valid) - 1))
    pieces = st.one_of(st.binary(max_size=12), st.sampled_from([piece.encode() for piece in _PIECES]))

    @st.composite
    def edited(draw: st.DrawFn) -> bytes:
        data = bytearray(valid)
        for _ in range(draw(st.integers(1, 4))):
            start, length = draw(where), draw(st.sampled_from([0, 0, 1, 1, 2, 8, 64, len(valid)]))
            data[start : start + length] = draw(pieces)
        return bytes(data)

    @st.composite
    def lines(draw: st.DrawFn) -> bytes:
        rows = valid.split(b"\n")
        return b"\n".join(draw(st.lists(st.sampled_from(rows), max_size=len(rows) + 2)))

    ways = [edited(), st.binary(max_size=64)]
    return st.one_of([*ways, lines()] if text else ways)


def json_like() -> st.SearchStrategy[Any]:
    leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))

    def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)

    return st.recursive(leaves, grow, max_leaves=6)


def with_other_values(valid: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """The JSON object with one value, at any depth, replaced or removed."""
    paths = list(_paths(valid))

    @st.composite
    def replaced(draw: st.DrawFn) -> bytes:
        tree = json.loads(json.dumps(valid))
        path = draw(st.sampled_from(paths))
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        if draw(st.booleans()):
            inner[path[-1]] = draw(json_like())
        else:
            del inner[path[-1]]
        return json.dumps(tree).encode()

    return replaced()


def _paths(tree: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path for key, inner in items for path in [(*before, key), *_paths(inner, (*before, key))]]


def make_targets(folder: Path) -> list[Target]:
    """Make a tiny competition with a run; returns all its files with their readers."""
    data = folder / "tiny"
    render_sample(data, num_subjects=6, num_test_subjects=1, num_frames=1, width=64)
    config = load_data_config(str(data))
    workspace = Workspace(folder)
    store = open_store(workspace, config, num_folds=3)
    _write_run(store)
    drops = data / "drops.csv"
    drops.write_text(f"img,reason\n{store.competition.train['img'][0]},wrong\n")
    dropping = config.model_copy(update={"drop_list": drops, "drops": sha256_file(drops)})
    scratch = workspace.scratch("tiny", "a", 0)
    _write_scratch(scratch)
    submission, configs = folder / "submission.csv", folder / "configs"
    sample = data / "sample_submission.csv"
    shutil.copy(sample, submission)
    files = write_weights(folder / "weights")
    shutil.copytree(CONFIGS, configs)
    sent = write_submission(store, name="a")
    findings = as_findings([{"img": "x.jpg", "value": 1.0}])
    write_audit(store, [Check("empty", "Pictures that show nothing", "about", "error", findings)], "a", "how")
    people, page = workspace.test_people("tiny"), workspace.report("tiny")
    write_json(
        people, {"people": 3, "ratios": [1.0], "agreement": 1.0, "index_hash": store.competition.index_hash}
    )
    write_text(page, f'<meta name="made-from" content="{"0" * 64}">')
    recording, wandb_id = _record(scratch), scratch / "wandb_id.txt"
    log = recording.parent / "debug-sync.log"
    entry = {"level": "ERROR", "msg": "filestream: fatal error", "sync_path": str(recording)}
    log.write_text(json.dumps(entry) + "\n" + json.dumps(entry | {"level": "INFO"}) + "\n")
    fold0 = workspace.fold("tiny", "a", 0)
    folds, bound = workspace.folds("tiny"), workspace.data_binding("tiny")

    def load() -> object:
        return load_config(model="resnet50", data=str(data), configs=configs)

    def read_statuses() -> object:
        return run_statuses(Catalogue(store))

    def read_all() -> object:
        return store.read_run("a"), read_statuses()

    pictures = _write_pictures(folder / "pictures")
    return [
        *(Target(path.name, path, partial(_read_picture, path), text=False) for path in pictures),
        Target("train list", data / "driver_imgs_list.csv", lambda: load_competition(config)),
        Target("sample submission", sample, lambda: load_competition(config)),
        Target("folds.csv", folds, lambda: read_folds(folds, store.competition)),
        Target("data.json", bound, lambda: Store(workspace, store.competition, store.folds)),
        Target("drop list", drops, lambda: read_drops(load_competition(dropping))),
        Target("train.yaml", configs / "train.yaml", load),
        Target("model yaml", configs / "models/resnet50.yaml", load),
        Target("recipe yaml", configs / "recipes/full.yaml", load),
        Target("manifest", fold0 / "manifest.json", read_all),
        Target("parquet", fold0 / "valid.parquet", read_all, text=False),
        Target(
            "parquet, hash mended", fold0 / "valid.parquet", lambda: _read_mended(store, fold0), text=False
        ),
        Target("checkpoint", scratch / "last.ckpt", lambda: newest_state(scratch), text=False),
        Target("lock", scratch / "lock.json", lambda: holder(scratch / "lock.json")),
        Target("job state", scratch / "job.json", lambda: (read_job_state(scratch), read_statuses())),
        Target("metrics", scratch / "metrics.jsonl", lambda: read_curves(scratch / "metrics.jsonl", 0)),
        Target("submission", submission, lambda: check_submission(submission, sample)),
        Target("provenance", sent.provenance, lambda: (read_submissions(store), is_submitted(store, "a"))),
        Target("answers", sent.provenance, lambda: answer_to(sent.path)),
        Target("audit", workspace.audit("tiny") / "findings.json", lambda: read_audit(store)),
        Target("audit's table", workspace.audit("tiny") / "empty.csv", lambda: read_audit(store)),
        Target("people", people, lambda: read_test_people(store)),
        Target("report", page, lambda: stale_pages(store)),
        Target("recording", recording, lambda: find_damage(recording), text=False),
        Target("W&B's log", log, lambda: find_losses(log)),
        Target("W&B's id", wandb_id, lambda: (run_id(scratch), is_refused(scratch), find_recordings(store))),
        *[
            Target(f"weights, {name}", file, partial(load_weights, file), text=False)
            for name, file in files.items()
        ],
    ]


def _write_pictures(folder: Path) -> list[Path]:
    """A picture of each format and of each kind of JPEG."""
    folder.mkdir()
    picture = photograph(np.random.default_rng(0)).resize((48, 32))
    kinds: dict[str, dict[str, Any]] = {
        "JPEG": {},
        "JPEG, progressive": {"progressive": True},
        "JPEG, restarts": {"restart_marker_blocks": 1},
        "PNG": {},
        "BMP": {},
        "WEBP": {},
        "WEBP, lossless": {"lossless": True},
        "TIFF": {},
        "TIFF, LZW": {"compression": "tiff_lzw"},
        "TIFF, BigTIFF": {"big_tiff": True},
    }
    for name, options in kinds.items():
        (folder / name).write_bytes(encode(picture, name.partition(",")[0], **options))
    (folder / "PNG, 16 bits").write_bytes(GOOD["PNG, 16 bits"](np.random.default_rng(0)))
    (folder / "TIFF, tiles").write_bytes(tiled_tiff(np.asarray(picture.convert("RGBA")), 16))
    return sorted(folder.iterdir())


def _read_picture(path: Path) -> object:
    """As reading, the audit and the loader do; the numbers of pixels agree."""
    data = read_bytes(path)
    check_bytes(data, path)
    decoded = decode(data, path)
    examine(decoded)
    assert decode_rgb(data, path).shape == decoded.rgb.shape
    assert decoded_bytes(path) > 0
    return decode_rgb(data, path, short_side=8), find_photographs(path)


def _write_run(store: Store) -> None:
    rng = np.random.default_rng(0)
    num_classes, num_test = store.competition.num_classes, len(store.competition.test)
    for fold in range(3):
        valid, test = (
            np.log(rng.dirichlet(np.ones(num_classes), rows))
            for rows in (len(store.folds.valid(fold)), num_test)
        )
        config = {"run": "a", "training": {"leaky": False}}
        scores = {"valid/log_loss": 1.0}
        store.write_fold("a", fold, kind="model", config=config, valid=valid, test=test, scores=scores)


def _write_scratch(scratch: Path) -> None:
    scratch.mkdir(parents=True)
    state = {"network": {"w": torch.ones(3)}, "clock": {"epoch": 1}, "none": None, "list": [1, 2.5]}
    write_state(scratch / "last.ckpt", {"fold": 0, "config": {"seed": 0}}, state)
    write_json(scratch / "lock.json", asdict(this_process()))
    write_json(scratch / "job.json", {"state": "running", "started": "", "epochs": 3, "error": ""})
    lines = [{"step": 3, "train/loss": 1.0, "train/epoch": 0.5}, {"step": 3, "epoch": 1}]
    (scratch / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def _record(scratch: Path) -> Path:
    """A recording by W&B's client."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_DATA_DIR": str(scratch)}
    runtime = load_runtime_config()
    with WandbRun(scratch, runtime=runtime, group="g", name="n", job_type="train", config={"seed": 1}) as run:
        run.log({"train/step": 1, "train/loss": 0.5})
    wandb.teardown()  # waits for its last records
    [recording] = scratch.glob("wandb/offline-run-*/*.wandb")
    return recording


def _read_mended(store: Store, fold: Path) -> object:
    """Read predictions after correcting the manifest's hash, which would reject any change."""
    path = fold / "manifest.json"
    before = path.read_text()
    manifest = json.loads(before)
    manifest["valid_sha256"] = sha256_file(fold / "valid.parquet")
    path.write_text(json.dumps(manifest))
    try:
        return store.read_run("a")
    finally:
        path.write_text(before)


def tables_with_other_cells(path: Path) -> st.SearchStrategy[bytes]:
    """A parquet file with cells, rows or columns replaced."""
    valid = pd.read_parquet(path)

    @st.composite
    def edited(draw: st.DrawFn) -> bytes:
        table = valid.copy()
        how = draw(st.sampled_from(["number", "name", "rows", "columns", "type"]))
        if how == "number":
            where = draw(st.integers(0, len(table) - 1)), draw(st.integers(1, table.shape[1] - 1))
            table.iloc[where] = np.float32(draw(st.floats(width=32)))
        elif how == "name":
            table.loc[draw(st.integers(0, len(table) - 1)), "img"] = draw(st.text(max_size=5))
        elif how == "rows":
            table = table.iloc[draw(st.lists(st.integers(0, len(table) - 1), max_size=len(table) + 2))]
        elif how == "columns":
            table = table[draw(st.lists(st.sampled_from(list(table.columns)), unique=True))]
        else:
            column = draw(st.sampled_from(list(table.columns[1:])))
            table[column] = table[column].astype(draw(st.sampled_from(["str", "int8", "bool", "float64"])))
        return bytes(table.to_parquet(index=draw(st.booleans())))

    return edited()


def main(
    minutes: float = 10.0,
    folder: Annotated[Path | None, typer.Option(help="Keeps failing examples for the next run.")] = None,
    only: Annotated[str, typer.Option(help="One target's name.")] = "",
) -> None:
    """Fuzz each reader for its share of the time; exit code 1 if one raised an error that is not the
    project's."""
    logging.getLogger("distracted").setLevel(logging.ERROR)
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    database = DirectoryBasedExampleDatabase((folder or place) / "examples")
    targets = [target for target in make_targets(place) if only in ("", target.name)]
    rows, failed = [], 0
    for target in targets:
        tried, refused, problem = _fuzz(target, 60 * minutes / len(targets), database)
        failed += bool(problem)
        rows.append([target.name, str(tried), str(refused), problem.splitlines()[-1] if problem else "none"])
        if problem:
            console.say(f"{target.name}:\n{problem}")
    console.table("readers against damaged files", ["reader", "files", "refused", "other errors"], rows)
    shutil.rmtree(place)
    if failed:
        raise typer.Exit(1)


def _fuzz(target: Target, seconds: float, database: DirectoryBasedExampleDatabase) -> tuple[int, int, str]:
    valid = target.path.read_bytes()
    ways = [changed(valid, text=target.text)]
    if target.path.suffix == ".json":
        ways.append(with_other_values(json.loads(valid)))
    if "parquet" in target.name:
        ways.append(tables_with_other_cells(target.path))
    counts = {"tried": 0, "refused": 0}

    unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)

    @settings(unhurried, max_examples=_EXAMPLES, database=database)
    @given(st.one_of(ways))
    def attempt(data: bytes) -> None:
        counts["tried"] += 1
        target.path.write_bytes(data)
        try:
            target.read()
        except DistractedError:
            counts["refused"] += 1

    end = time.monotonic() + seconds
    problem = ""
    with console.progress(target.name, total=round(seconds), unit="s") as step:
        while not problem and (left := end - time.monotonic()) > 0:
            before = time.monotonic()
            try:
                attempt()
            except Exception:  # any other error is a finding
                problem = traceback.format_exc(limit=-4)
            step(round(min(left, time.monotonic() - before)))
    target.path.write_bytes(valid)
    return counts["tried"], counts["refused"], problem


if __name__ == "__main__":
    console.run(main)
