"""The only place that knows the names of the project's folders."""

from dataclasses import dataclass
from pathlib import Path

#: The project's own configs/, beside src/ (the project is installed in editable mode).
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


#: The local truth of every metric, in a fold's scratch folder.
METRICS = "metrics.jsonl"


#: The weights that made a fold's predictions.
NETWORK = "model.safetensors"


#: How a fold's training stands, beside its metrics.
JOB = "job.json"

#: Who works on a fold, in its scratch folder.
LOCK = "lock.json"


#: Says that a fold which is done is to be made anew.
REDO = "redo"


#: What lies beside the runs' folders of by-products: no run's names.
AUDIT, REPORT = "audit", "report.html"


@dataclass(frozen=True)
class Workspace:
    """Where a competitor's files live: `root` is the project's folder, or any other for a trial."""

    root: Path

    def input(self, data: str) -> Path:
        """The competition's own files; never changed."""
        return self.root / "input" / data

    def oof(self, data: str) -> Path:
        """What all runs on one data set share: data.json, folds.csv and a folder for each run."""
        return self.root / "oof" / data

    def data_binding(self, data: str) -> Path:
        return self.oof(data) / "data.json"

    def folds(self, data: str) -> Path:
        return self.oof(data) / "folds.csv"

    def run(self, data: str, run: str) -> Path:
        return self.oof(data) / run

    def fold(self, data: str, run: str, fold: int) -> Path:
        """A fold's predictions: valid.parquet, test.parquet, manifest.json."""
        return self.run(data, run) / f"fold{fold}"

    def runs(self, data: str) -> Path:
        """By-products of all runs on one data set."""
        return self.root / "runs" / data

    def scratch(self, data: str, run: str, fold: int) -> Path:
        """A fold's by-products: model.safetensors, metrics.jsonl, the W&B files."""
        return self.runs(data) / run / f"fold{fold}"

    def jobs(self, data: str) -> list[Path]:
        """What each fold's training says of itself, of all runs on one data set."""
        return sorted(self.runs(data).glob(f"*/fold*/{JOB}"))

    def all_metrics(self, data: str) -> list[Path]:
        """What was measured in each fold's training, of all runs on one data set."""
        return sorted(self.runs(data).glob(f"*/fold*/{METRICS}"))

    def log(self, data: str, run: str, fold: int) -> Path:
        """What the process printed that trained a fold in a grid."""
        return self.scratch(data, run, fold) / "log.txt"

    def lock(self, data: str, run: str, fold: int) -> Path:
        """The lock of a fold: who holds it alone writes its predictions and by-products."""
        return self.scratch(data, run, fold) / LOCK

    def redo(self, data: str, run: str, fold: int) -> Path:
        """There while a fold is to be made anew."""
        return self.scratch(data, run, fold) / REDO

    def redos(self, data: str) -> list[Path]:
        """Those marks, of all runs on one data set."""
        return sorted(self.runs(data).glob(f"*/fold*/{REDO}"))

    def network(self, data: str, run: str, fold: int) -> Path:
        """The weights that made a fold's predictions."""
        return self.scratch(data, run, fold) / NETWORK

    def onnx(self, data: str, run: str, fold: int) -> Path:
        """The same network as an ONNX model, where it was exported."""
        return self.network(data, run, fold).with_suffix(".onnx")

    def networks(self, data: str) -> list[Path]:
        """Those of all runs on one data set."""
        return sorted(self.runs(data).glob(f"*/fold*/{NETWORK}"))

    def run_scratch(self, data: str, run: str) -> Path:
        """By-products of a run over all its folds: its W&B files."""
        return self.runs(data) / run

    def submission_scratch(self, data: str, name: str) -> Path:
        """A submission's W&B files."""
        return self.runs(data) / ".submissions" / name

    def metrics(self, data: str, run: str, fold: int) -> Path:
        """What was measured while a fold was trained, one JSON object a line."""
        return self.scratch(data, run, fold) / METRICS

    def cache(self, data: str) -> Path:
        """May be deleted at any time."""
        return self.root / "cache" / data

    def spaces(self, data: str) -> Path:
        """Neighbours and clusters of images in feature spaces; no run's name begins with a dot."""
        return self.runs(data) / ".spaces"

    def dashboard(self, data: str) -> Path:
        """The address of W&B's workspace."""
        return self.runs(data) / ".dashboard"

    def sweep(self, data: str, sweep: str) -> Path:
        """A file for each trial of a sweep, by its run's name."""
        return self.runs(data) / ".sweeps" / sweep

    def ladders(self, data: str) -> Path:
        """The ladders that were climbed, one file a model."""
        return self.runs(data) / ".ladders"

    def audit(self, data: str) -> Path:
        """What `make audit` found."""
        return self.runs(data) / AUDIT

    def report(self, data: str) -> Path:
        """The report's one page."""
        return self.runs(data) / REPORT

    def test_people(self, data: str) -> Path:
        """How many people the test set shows, as estimated."""
        return self.runs(data) / ".test_people.json"

    def submissions(self, data: str) -> Path:
        return self.root / "submissions" / data
