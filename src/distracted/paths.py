"""The only place that knows the names of the project's folders."""

from dataclasses import dataclass
from pathlib import Path

#: The project's configs/, next to src/ (the project is installed in editable mode).
CONFIGS = Path(__file__).resolve().parents[2] / "configs"

#: Metrics of a fold's training, in its scratch folder.
METRICS = "metrics.jsonl"

#: The network that made a fold's predictions.
NETWORK = "model.safetensors"

#: State of a fold's training.
JOB = "job.json"

#: The process that works on a fold.
LOCK = "lock.json"


#: Marks a finished fold that is to be retrained.
REDO = "redo"

#: Other names in runs/<data>/, which no run may have.
AUDIT, REPORT = "audit", "report.html"


@dataclass(frozen=True)
class Workspace:
    """The folders of a competitor's files; `root` is the project's folder, or any other for a trial."""

    root: Path

    def input(self, data: str) -> Path:
        """The competition's own files; never changed."""
        return self.root / "input" / data

    def oof(self, data: str) -> Path:
        """The store of one data set: data.json, folds.csv and a folder for each run."""
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
        """By-products of the runs on one data set."""
        return self.root / "runs" / data

    def scratch(self, data: str, run: str, fold: int) -> Path:
        """A fold's by-products: model.safetensors, metrics.jsonl, the W&B files."""
        return self.runs(data) / run / f"fold{fold}"

    def jobs(self, data: str) -> list[Path]:
        """The job.json of every fold on one data set."""
        return sorted(self.runs(data).glob(f"*/fold*/{JOB}"))

    def all_metrics(self, data: str) -> list[Path]:
        """The metrics.jsonl of every fold on one data set."""
        return sorted(self.runs(data).glob(f"*/fold*/{METRICS}"))

    def log(self, data: str, run: str, fold: int) -> Path:
        """Output of the process that trained a fold in a grid."""
        return self.scratch(data, run, fold) / "log.txt"

    def lock(self, data: str, run: str, fold: int) -> Path:
        """The lock of a fold: only its holder writes the fold's predictions and by-products."""
        return self.scratch(data, run, fold) / LOCK

    def redo(self, data: str, run: str, fold: int) -> Path:
        """Exists while a finished fold is to be retrained."""
        return self.scratch(data, run, fold) / REDO

    def redos(self, data: str) -> list[Path]:
        """Those marks of every fold on one data set."""
        return sorted(self.runs(data).glob(f"*/fold*/{REDO}"))

    def network(self, data: str, run: str, fold: int) -> Path:
        """The network that made a fold's predictions."""
        return self.scratch(data, run, fold) / NETWORK

    def onnx(self, data: str, run: str, fold: int) -> Path:
        """The same network as an ONNX model, if it was exported."""
        return self.network(data, run, fold).with_suffix(".onnx")

    def networks(self, data: str) -> list[Path]:
        """The networks of every fold on one data set."""
        return sorted(self.runs(data).glob(f"*/fold*/{NETWORK}"))

    def run_scratch(self, data: str, run: str) -> Path:
        """By-products of a run over all its folds: its W&B files."""
        return self.runs(data) / run

    def submission_scratch(self, data: str, name: str) -> Path:
        """A submission's W&B files."""
        return self.runs(data) / ".submissions" / name

    def metrics(self, data: str, run: str, fold: int) -> Path:
        """Metrics of a fold's training, one JSON object a line."""
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
        """Holds a file for each trial of a sweep, named by its run."""
        return self.runs(data) / ".sweeps" / sweep

    def ladders(self, data: str) -> Path:
        """Ladders (`make ladder`), one file for each model."""
        return self.runs(data) / ".ladders"

    def audit(self, data: str) -> Path:
        """Findings of `make audit`."""
        return self.runs(data) / AUDIT

    def report(self, data: str) -> Path:
        """The report."""
        return self.runs(data) / REPORT

    def test_people(self, data: str) -> Path:
        """Estimated number of people in the test set."""
        return self.runs(data) / ".test_people.json"

    def submissions(self, data: str) -> Path:
        return self.root / "submissions" / data
