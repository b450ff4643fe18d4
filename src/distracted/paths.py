"""Names of the project's folders and files; no other module spells them."""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

#: The project's configs/, next to src/ (the project is installed in editable mode).
CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# Files in a fold's scratch folder
METRICS = "metrics.jsonl"  # the measurements of its training, whatever the tracker
NETWORK = "model.safetensors"  # the weights that made its predictions
JOB = "job.json"  # the state of its training
LOCK = "lock.json"  # the process that works on it
REDO = "redo"  # marks a finished fold to be retrained

#: Names in runs/<data>/ that are no runs.
AUDIT, REPORT, PLAN = "audit", "report.html", "plan.yaml"


@dataclass(frozen=True)
class Workspace:
    """Paths of a competitor's files below `root`: the project's folder, or another one for a trial."""

    root: Path
    #: Folder of the cache; None: cache/ below `root`.
    cache_dir: Path | None = None

    @property
    def cache_root(self) -> Path:
        """Holds what may be deleted at any time: the caches of all data sets."""
        return self.root / "cache" if self.cache_dir is None else self.cache_dir

    def input(self, data: str) -> Path:
        """The competition's raw files; never changed."""
        return self.root / "input" / data

    def oof(self, data: str) -> Path:
        """The store of one data set: data.json, folds.csv and one folder per run."""
        return self.root / "oof" / data

    def data_binding(self, data: str) -> Path:
        """The hash of the data that the store belongs to."""
        return self.oof(data) / "data.json"

    def index(self, data: str) -> Path:
        """The index that the store belongs to: names, subjects, classes and digests of the images."""
        return self.oof(data) / "index.parquet"

    def data_bindings(self) -> list[Path]:
        """The bindings of all stores."""
        return sorted((self.root / "oof").glob("*/data.json"))

    def folds(self, data: str) -> Path:
        return self.oof(data) / "folds.csv"

    def run(self, data: str, run: str) -> Path:
        return self.oof(data) / run

    def fold(self, data: str, run: str, fold: int) -> Path:
        """A fold's predictions: valid.parquet, test.parquet, manifest.json."""
        return self.run(data, run) / f"fold{fold}"

    def submissions(self, data: str) -> Path:
        return self.root / "submissions" / data

    def cache(self, data: str) -> Path:
        """Decoded images and features; may be deleted at any time."""
        return self.cache_root / data

    def digests(self, folder: Path) -> Path:
        """Digests of a data folder's images; they depend on the folder alone, not on its store's name."""
        key = sha256(os.fsencode(folder.absolute())).hexdigest()[:12]
        return self.cache_root / ".digests" / key

    def runs(self, data: str) -> Path:
        """By-products of one data set's runs."""
        return self.root / "runs" / data

    def run_scratch(self, data: str, run: str) -> Path:
        """W&B's files of a run over all its folds."""
        return self.runs(data) / run

    def scratch(self, data: str, run: str, fold: int) -> Path:
        """A fold's by-products: checkpoints, network, metrics, lock, log, W&B's files."""
        return self.run_scratch(data, run) / f"fold{fold}"

    def trial(self, data: str, run: str) -> Path:
        """Names the command that tried a run, and may leave it unfinished."""
        return self.run_scratch(data, run) / "trial.txt"

    def metrics(self, data: str, run: str, fold: int) -> Path:
        """Measurements of a fold's training, one JSON object per line."""
        return self.scratch(data, run, fold) / METRICS

    def log(self, data: str, run: str, fold: int) -> Path:
        """Output of the process that trained a fold in a grid."""
        return self.scratch(data, run, fold) / "log.txt"

    def lock(self, data: str, run: str, fold: int) -> Path:
        """A fold's lock: only its holder writes the fold's predictions and by-products."""
        return self.scratch(data, run, fold) / LOCK

    def redo(self, data: str, run: str, fold: int) -> Path:
        """Exists while a finished fold waits to be retrained."""
        return self.scratch(data, run, fold) / REDO

    def network(self, data: str, run: str, fold: int) -> Path:
        """The weights that made a fold's predictions."""
        return self.scratch(data, run, fold) / NETWORK

    def onnx(self, data: str, run: str, fold: int) -> Path:
        """A fold's network exported to ONNX."""
        return self.network(data, run, fold).with_suffix(".onnx")

    def in_each_fold(self, data: str, name: str) -> list[Path]:
        """The files of one name, such as `JOB`, in the scratch folders of all runs."""
        paths = sorted(self.runs(data).glob(f"*/fold*/{name}"))
        return [path for path in paths if path.parent.name.removeprefix("fold").isdecimal()]  # not a copy

    # By-products of no single run: a run's name never begins with a dot and is never AUDIT, REPORT or PLAN.

    def submission_scratch(self, data: str, name: str) -> Path:
        """A submission's W&B files."""
        return self.runs(data) / ".submissions" / name

    def spaces(self, data: str) -> Path:
        """Neighbours and clusters of images in feature spaces."""
        return self.runs(data) / ".spaces"

    def dashboard(self, data: str) -> Path:
        """The address of the W&B workspace."""
        return self.runs(data) / ".dashboard"

    def sweep(self, data: str, sweep: str) -> Path:
        """A sweep's trials: one file per trial, named after its run."""
        return self.runs(data) / ".sweeps" / sweep

    def search(self, data: str, name: str) -> Path:
        """What `make search` keeps besides its runs: the used time, and W&B's files of its trials."""
        return self.runs(data) / ".searches" / name

    def plan(self, data: str) -> Path:
        """The plan of `make compete`."""
        return self.runs(data) / PLAN

    def compete(self, data: str) -> Path:
        """What `make compete` keeps besides its plan: measurements, used time, scores of its blends."""
        return self.runs(data) / ".compete"

    def competition_summary(self, data: str) -> Path:
        """What `make compete` did, for the report."""
        return self.compete(data) / "summary.json"

    def ladders(self, data: str) -> Path:
        """Results of `make ladder`, one file per model."""
        return self.runs(data) / ".ladders"

    def test_people(self, data: str) -> Path:
        """The estimated number of people in the test set."""
        return self.runs(data) / ".test_people.json"

    def audit(self, data: str) -> Path:
        """Findings of `make audit`."""
        return self.runs(data) / AUDIT

    def report(self, data: str) -> Path:
        """The HTML report."""
        return self.runs(data) / REPORT
