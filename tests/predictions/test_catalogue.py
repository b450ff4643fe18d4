"""The catalogue answers "which run?" once, and every command that asks gets the same answer."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import ensemble
import status
import submit
from distracted.audit.run import audit_competition
from distracted.ensemble.blend import blend_runs
from distracted.errors import SubmissionError
from distracted.metrics import log_loss
from distracted.predictions import _hashed_files
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.store import Store
from distracted.report.page import collect
from distracted.report.status import next_steps, run_statuses
from distracted.schema import RunConfig
from distracted.submission.submit import find_run, write_submission

WriteRun = Callable[..., None]


@pytest.fixture
def two_blends(store: Store, write_run: WriteRun) -> Store:
    """An older blend of a good run, and a newer one of a bad run."""
    write_run("good", skill=4.0, seed=0)
    write_run("bad", skill=0.2, seed=1)
    blend_runs(store, runs=["good"], name="older")
    blend_runs(store, runs=["bad"], name="newer")
    for fold in range(3):
        for name, day in (("older", 1), ("newer", 2)):
            path = store.workspace.fold("tiny", name, fold) / "manifest.json"
            manifest = store.manifest(name, fold).model_copy(update={"written": f"2026-01-0{day}"})
            path.write_text(manifest.model_dump_json())
    return store


def test_every_command_takes_the_better_of_two_blends_and_says_why(
    two_blends: Store, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    store = two_blends
    meant = Catalogue(store).meant_blend
    assert meant is not None and meant.run == "older"
    losses = [Catalogue(store).entry(name).pooled["log_loss"] for name in ("older", "newer")]
    why = f"the best of 2 current blends by cross-fitted log loss ({losses[0]:.4f}; newer {losses[1]:.4f})"
    assert why in meant.why and not meant.passed_over
    caplog.set_level("INFO")
    assert write_submission(store).run == "older"
    assert f"{meant.why}; NAME= takes another run" in caplog.messages
    status.main(data=str(store.competition.config.folder), root=store.workspace.root)
    assert meant.why in capsys.readouterr().out.splitlines()
    page = collect(store, policies={"none": ()})
    assert page.head is not None and page.head.entry.name == "older"
    assert page.why == f"{meant.why}; RUN= takes another run" and page.why in caplog.messages


@pytest.mark.slow
def test_the_audit_takes_the_best_current_blend_and_says_why(
    two_blends: Store,
    write_run: WriteRun,
    configure: Callable[..., RunConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    package = ("model.image_size=32", "runtime.tracking=none")
    config = configure(model="efficientnet_lite0", tiny=package)
    assert audit_competition(two_blends, config).run == "older"
    assert any(text.startswith("older: the best of 2 current blends") for text in caplog.messages)
    write_run("good", skill=4.0, seed=5)
    assert audit_competition(two_blends, config).run == "newer"
    assert any(text.startswith("passed over: older: its member good has changed") for text in caplog.messages)


def test_a_stale_blend_is_passed_over_with_the_reason(
    two_blends: Store, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    store = two_blends
    write_run("good", skill=4.0, seed=5)
    meant = Catalogue(store).meant_blend
    assert meant is not None and meant.run == "newer"
    assert "the only current blend" in meant.why
    assert [reason.split(";")[0] for reason in meant.passed_over] == [
        "older: its member good has changed since it was made"
    ]
    assert find_run(store).name == "newer"
    assert any("passed over: older: its member good has changed" in text for text in caplog.messages)
    catalogue = Catalogue(store)
    assert "make submit NAME=newer" in next_steps(catalogue, run_statuses(catalogue))[-1]
    page = collect(store, policies={"none": ()})
    assert page.head is not None and page.head.entry.name == "newer"
    assert "passed over: older: its member good has changed" in page.why


def test_with_partial_a_complete_blend_still_goes_before_a_partial_one(
    two_blends: Store,
) -> None:
    for name, then in (("bad", "older"), ("good", "older")):  # newer, then both lose a fold of their member
        two_blends.workspace.fold("tiny", name, 2).joinpath("manifest.json").unlink()
        assert find_run(two_blends, partial=True).name == then
    with pytest.raises(SubmissionError, match="fold 2 of its member bad is missing"):
        find_run(two_blends)


def test_no_command_takes_a_leaky_blend_unless_it_is_named(store: Store, write_run: WriteRun) -> None:
    write_run("honest", skill=0.5)
    folds = range(3)
    for fold in folds:  # one that watched what it is scored on
        rows = store.folds.valid(fold)
        sure = np.log(0.98 * np.eye(3)[store.folds.labels[rows]] + 0.02 / 3)
        test = np.full((len(store.competition.test), 3), -np.log(3))
        store.write_fold("watched", fold, kind="model", config={"leaky": True}, valid=sure, test=test)
    blend_runs(store, runs=["watched"], name="leaky", leaky=True)
    assert Catalogue(store).meant_blend is None
    with pytest.raises(SubmissionError, match=r"leaky: leaky \(LEAKY=1\); NAME=<run> takes another run"):
        find_run(store)
    assert find_run(store, "leaky").leaky
    run = Catalogue(store).meant_run
    assert run is not None and run.run == "honest"
    assert collect(store, policies={"none": ()}).why.endswith("passed over: leaky: leaky (LEAKY=1)")
    blend_runs(store, runs=["honest"])
    meant = Catalogue(store).meant_blend
    assert meant is not None and meant.run == "ensemble"
    assert meant.passed_over == ("leaky: leaky (LEAKY=1)",)


def test_without_a_blend_the_best_run_is_shown_and_nothing_is_submitted(
    store: Store, write_run: WriteRun
) -> None:
    assert Catalogue(store).meant_run is None
    write_run("poor", skill=0.5)
    write_run("rich", skill=3.0)
    write_run("part", skill=9.0, folds=(0, 1))
    run = Catalogue(store).meant_run
    assert run is not None and run.run == "rich" and "the best of 2 current runs" in run.why
    assert Catalogue(store).meant_blend is None
    with pytest.raises(SubmissionError, match="there is no blend yet"):
        find_run(store)


def test_an_entry_summarises_its_manifests(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    write_run("part", folds=(2,))
    blend_runs(store, runs=["a"])
    catalogue = Catalogue(store)
    assert [entry.name for entry in catalogue.entries()] == ["a", "ensemble", "part"]
    a, blend, part = catalogue.entries()
    assert (a.kind, blend.kind, blend.parents) == ("model", "blend", ("a",))
    assert a.is_current and blend.is_current and not part.is_complete and not part.problem
    assert part.not_usable == "part: fold 0, 1 of 3 is missing (make submit takes PARTIAL=1)"
    assert a.pooled["log_loss"] == log_loss(store.read_run("a").oof, store.folds.labels)
    assert (catalogue.depth("a"), catalogue.depth("ensemble")) == (1, 2)
    assert blend.holds_a_blend and not a.holds_a_blend


def test_a_new_catalogue_sees_later_writes(store: Store, write_run: WriteRun) -> None:
    write_run("a", seed=0)
    before = Catalogue(store).entry("a").pooled
    write_run("a", seed=1)
    assert Catalogue(store).entry("a").pooled != before
    path = store.workspace.fold("tiny", "a", 1) / "test.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    assert "not the file that its manifest describes" in Catalogue(store).entry("a").problem


@contextmanager
def counting(files: Counter[Path]) -> Iterator[None]:
    """Count how often files are opened for reading."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and active and isinstance(arguments[0], str) and arguments[1] in ("r", "rb"):
            files[Path(arguments[0])] += 1

    active = [True]
    sys.addaudithook(hook)
    try:
        yield
    finally:
        active.clear()


@pytest.mark.parametrize("command", ["blend", "blend again", "submit", "submit again", "status"])
def test_a_command_opens_each_manifest_and_each_prediction_file_once(
    store: Store, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for number in range(4):
        write_run(f"run{number}", seed=number)
    where = {"data": str(store.competition.config.folder), "root": store.workspace.root}
    if command != "blend":
        ensemble.main(blenders="arithmetic_mean", **where)
    if command == "submit again":
        submit.main(**where)
    store.workspace.report("tiny").parent.mkdir(parents=True, exist_ok=True)
    store.workspace.report("tiny").touch()  # status compares a page with the manifests
    hashed: Counter[int] = Counter()
    digest = _hashed_files.sha256_bytes
    monkeypatch.setattr(
        _hashed_files, "sha256_bytes", lambda data: hashed.update([hash(data)]) or digest(data)
    )
    files: Counter[Path] = Counter()
    with counting(files):
        if command.startswith("blend"):
            ensemble.main(blenders="arithmetic_mean", **where)
        else:
            {"submit": submit.main, "status": status.main}[command.split()[0]](**where)
    names = ("manifest.json", "valid.parquet", "test.parquet")
    opened = {path: count for path, count in files.items() if path.name in names}
    twice = set()
    if command == "blend":  # members are checked first; their test sets, which are large, are read last
        twice = {path for path in opened if path.name == "test.parquet" and path.parts[-3] != "ensemble"}
    assert len(opened) == 3 * 15 and all(count == 1 + (path in twice) for path, count in opened.items())
    assert len(hashed) == 3 * 15 and set(hashed.values()) == {1}


def test_a_file_replaced_with_the_same_size_and_time_is_read_again(store: Store, write_run: WriteRun) -> None:
    write_run("a", seed=0)
    path = store.workspace.fold("tiny", "a", 0) / "manifest.json"
    before, stat = store.manifest("a", 0), path.stat()
    text = path.read_text().replace(before.written, "2020-01-01T00:00:00+00:00")
    assert len(text) == stat.st_size
    other = path.with_name("other")
    other.write_text(text)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert store.manifest("a", 0).written == "2020-01-01T00:00:00+00:00"
