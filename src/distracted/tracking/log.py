"""Logs folds, finished runs and submissions to W&B, each with its files and the files it was made from."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import wandb

from distracted.audit.mistakes import RowScores, score_rows
from distracted.metrics import log_losses, prior_log_loss, scores, subject_bootstrap
from distracted.paths import Workspace
from distracted.predictions.lineage import parents_of
from distracted.predictions.manifest import Manifest, Parent, as_parent
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.schema import RunConfig, RuntimeConfig
from distracted.submission.expect import expect_run
from distracted.tracking.client import STEP, JobType, WandbRun
from distracted.tracking.panels import confusion_chart, weights_table, worst_table
from distracted.training.metrics_log import FileTracker, Tracker

_JOB_TYPES: dict[str, JobType] = {"model": "summary", "derived": "derived", "blend": "ensemble"}


def open_fold(
    workspace: Workspace,
    config: Mapping[str, Any],
    *,
    run: str,
    fold: int,
    runtime: RuntimeConfig,
    online: bool = False,
) -> WandbRun:
    """The W&B run of one fold's training; `config` is the run's resolved config, `online` as in `WandbRun`.

    The data's name is part of the group, since a model may be trained on several data sets.
    """
    data = config["data"]["name"]
    return WandbRun(
        workspace.scratch(data, run, fold),
        runtime=runtime,
        group=f"{data}/{run}",
        name=f"{run}-fold{fold}",
        job_type="train",
        config={**config, "run": run, "fold": fold},
        tags=[data, config["model"]["backbone"], config["recipe"], *["leaky"] * config["training"]["leaky"]],
        online=online,
    )


class FoldTracker(Tracker):
    """Tracks one fold's training in metrics.jsonl and on W&B."""

    def __init__(self, workspace: Workspace, config: RunConfig, *, run: str, fold: int) -> None:
        self._file = FileTracker(workspace.scratch(config.data.name, run, fold))
        self._phases = list(config.phases)
        self._run = open_fold(workspace, config.resolved(), run=run, fold=fold, runtime=config.runtime)

    def log(self, metrics: Mapping[str, float | str], *, step: int) -> None:
        self._file.log(metrics, step=step)
        values = {STEP: step, **metrics}
        if metrics.get("phase") in self._phases:
            values["train/phase"] = self._phases.index(str(metrics["phase"]))
        self._run.log(values)

    def summarise(self, values: Mapping[str, Any]) -> None:
        self._file.summarise(values)
        self._run.summarise(lambda: values)

    def tell(self) -> int:
        return self._file.tell()

    def rewind(self, position: int) -> None:
        """Rewind the file; on W&B the old points stay, and new ones are logged at the same steps."""
        self._file.rewind(position)

    def show_fold(self, store: Store, manifest: Manifest) -> None:
        """Log the fold's confusion matrix, its worst pictures and its OOF file to W&B."""

        def panels() -> dict[str, Any]:
            run = store.read_run(manifest.run, partial=True)
            return _error_panels(store, score_rows(store, run, store.folds.valid(manifest.fold)))

        self._run.show(panels)
        log_predictions(self._run, store, manifest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)
        self._run.finish(failed=error[0] is not None)


def open_run(
    store: Store, name: str, runtime: RuntimeConfig, *, config: Mapping[str, Any], online: bool = False
) -> WandbRun:
    """The W&B run of a finished run over all its folds."""
    first = store.manifests(name)[0]
    return WandbRun(
        store.workspace.run_scratch(first.data, name),
        runtime=runtime,
        group=f"{first.data}/{name}",
        name=name,
        job_type=_JOB_TYPES[first.kind],
        config=config,
        tags=[first.data, first.kind, *["leaky"] * first.leaky],
        online=online,
    )


def open_submission(
    store: Store,
    csv: Path,
    run: str,
    runtime: RuntimeConfig,
    *,
    config: Mapping[str, Any],
    online: bool = False,
) -> WandbRun:
    """The W&B run of a submission."""
    data = store.competition.name
    return WandbRun(
        store.workspace.submission_scratch(data, csv.stem),
        runtime=runtime,
        group=f"{data}/{run}",
        name=f"submission {csv.stem}",
        job_type="submission",
        config=config,
        tags=[data, "submission"],
        online=online,
    )


def track_run(store: Store, name: str, runtime: RuntimeConfig) -> None:
    """Log a finished run's pooled scores and its lineage to W&B, and the files of a derived run or a blend.

    Raises:
        StoreError: the run is missing or incomplete.
    """

    @cache
    def run() -> Run:
        return store.read_run(name)

    manifests = store.manifests(name)
    kind = manifests[0].kind
    members = [parent.run for parent in parents_of(store, name)]
    config = {**manifests[0].config, "run": name, "kind": kind, "members": members}
    with open_run(store, name, runtime, config=config) as wandb_run:
        wandb_run.show(lambda: _error_panels(store, score_rows(store, run())))
        if kind == "blend":
            wandb_run.show(lambda: _weight_panels(name, manifests))
        wandb_run.summarise(lambda: pooled_summary(store, run()))
        log_lineage(wandb_run, store, name)


def _error_panels(store: Store, scored: RowScores) -> dict[str, Any]:
    return {"confusion": confusion_chart(scored), "worst_images": worst_table(store, scored)}


def _weight_panels(name: str, manifests: Sequence[Manifest]) -> dict[str, Any]:
    details = [manifest.details for manifest in manifests]
    table = weights_table([one["weights"] for one in details], details[0]["on_all_folds"]["weights"])
    bars = wandb.plot.bar(table, "member", "all folds", title=f"{name}: blend weights")
    return {"weights": table, "blend_weights": bars}


def _submission_summary(provenance: Mapping[str, Any]) -> dict[str, float]:
    expected = provenance["expected_log_loss"]
    summary = {"expected/log_loss": expected["mean"], "oof/log_loss": provenance["cross_fitted_log_loss"]}
    summary |= {f"expected/{end}": expected[end] for end in ("low", "high") if expected[end] is not None}
    for answer in provenance["answers"]:
        if answer.get("sha256") == provenance["sha256"]:  # earlier files of that name were sent, too
            summary |= {f"kaggle/{part}": answer[part] for part in ("public", "private") if part in answer}
    return summary


def pooled_summary(store: Store, run: Run) -> dict[str, Any]:
    """A run's headline: pooled OOF scores with the interval over subjects, and its forecast."""
    rows = store.folds.scored
    labels = store.folds.labels[rows]
    metric = store.competition.metric
    summary = scores(run.oof[rows], labels, prefix="oof/")
    summary[f"oof/{metric.name}"] = metric.value(run.oof[rows], labels)
    interval = subject_bootstrap(log_losses(run.oof[rows], labels), store.folds.subjects[rows])
    expected = expect_run(store, run)
    prior = prior_log_loss(store.folds.labels, store.folds.ids, store.competition.num_classes)
    summary |= {"oof/low": interval.low, "oof/high": interval.high, "oof/prior": prior}
    intervals = {"expected/low": expected.low, "expected/high": expected.high}
    summary |= {"expected/log_loss": expected.mean, **{k: v for k, v in intervals.items() if v is not None}}
    return {**summary, "seconds": sum(manifest.seconds for manifest in run.manifests)}


def track_submission(store: Store, csv: Path, runtime: RuntimeConfig) -> None:
    """Log a submission to W&B: the file, its forecast, and which predictions it holds."""
    provenance = json.loads(csv.with_suffix(".json").read_text())
    config = {"run": provenance["run"], "members": [member["run"] for member in provenance["members"]]}
    with open_submission(store, csv, str(provenance["run"]), runtime, config=config) as wandb_run:
        wandb_run.summarise(lambda: _submission_summary(provenance))
        log_submission(wandb_run, store, csv, provenance)


def log_lineage(wandb_run: WandbRun, store: Store, name: str) -> None:
    """Log the files of a finished run, and that it uses those of its parents."""
    manifests = store.manifests(name)
    for parent in parents_of(store, name):
        for artifact in artifacts_of(store, parent):
            wandb_run.use_artifact(artifact)
    if manifests[0].kind == "model":  # the W&B runs of its folds hold its files
        for artifact in artifacts_of(store, as_parent(manifests)):
            wandb_run.use_artifact(artifact)
        return
    for manifest in manifests:
        log_predictions(wandb_run, store, manifest)


def log_submission(wandb_run: WandbRun, store: Store, csv: Path, provenance: Mapping[str, Any]) -> None:
    """Log a submitted file, and that it uses its run's predictions; `provenance` is its JSON file."""
    made_from = Parent(run=str(provenance["run"]), config_hash="", predictions=provenance["predictions"])
    for artifact in artifacts_of(store, made_from):
        wandb_run.use_artifact(artifact)
    sha256 = str(provenance["sha256"])

    def make() -> wandb.Artifact:
        name = _plain(f"submission-{store.competition.name}-{csv.stem}")
        artifact = wandb.Artifact(name, "submission", metadata={"sha256": sha256})
        for path in (csv, csv.with_suffix(".json")):
            artifact.add_file(str(path), policy="immutable")  # no copy in the home folder
        return artifact

    wandb_run.log_artifact(make, [sha256[:16]])


def artifacts_of(store: Store, parent: Parent) -> list[str]:
    """W&B's names of a run's predictions, one per fold, in the state that `parent` describes."""
    name = store.competition.name
    folds = sorted(parent.predictions.items())
    return [f"{_artifact_name(name, parent.run, int(fold))}:{digest[:16]}" for fold, digest in folds]


def log_predictions(wandb_run: WandbRun, store: Store, manifest: Manifest) -> None:
    """Log a fold's OOF file and its manifest; test predictions are far larger, and no score needs them."""

    def make() -> wandb.Artifact:
        folder = store.workspace.fold(manifest.data, manifest.run, manifest.fold)
        hashes = ("config_hash", "index_hash", "folds_hash", "valid_sha256", "test_sha256")
        metadata: dict[str, Any] = {"run": manifest.run, "fold": manifest.fold, "kind": manifest.kind}
        metadata |= manifest.scores | {key: getattr(manifest, key) for key in hashes}
        artifact = wandb.Artifact(
            _artifact_name(manifest.data, manifest.run, manifest.fold), "oof", metadata=metadata
        )
        for name in ("valid.parquet", "manifest.json"):
            artifact.add_file(str(folder / name), policy="immutable")
        return artifact

    [digest] = as_parent([manifest]).predictions.values()
    wandb_run.log_artifact(make, [digest[:16]])


def _artifact_name(data: str, run: str, fold: int) -> str:
    return _plain(f"oof-{data}-{run}-fold{fold}")


def _plain(name: str) -> str:
    """A name with an underscore for each character that W&B rejects, such as a plus."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
