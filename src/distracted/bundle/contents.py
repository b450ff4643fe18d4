"""What a bundle holds: for each of its paths the file that is copied there."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from distracted.bundle.manifest import BundledRun
from distracted.errors import StoreError
from distracted.paths import JOB, METRICS, NETWORK, REDO, Workspace
from distracted.predictions.lineage import ancestors
from distracted.predictions.manifest import MANIFEST
from distracted.predictions.store import Store
from distracted.training.checkpoints import LAST, PREVIOUS

#: Files of a store besides its runs; the manifests' folders come after them.
STORE_FILES = ("data.json", "folds.csv", "index.parquet")
PREDICTIONS = ("valid.parquet", "test.parquet", MANIFEST)
#: The code, as far as commands need it; a bundle has no hidden files.
_CODE = ("src", "scripts", "configs", "notebooks", "docs")
_CODE_FILES = ("Makefile", "pyproject.toml", "requirements*", "README.md", "CHANGELOG.md", "LICENSE")


def choose_runs(store: Store, names: Sequence[str] = ()) -> list[BundledRun]:
    """The runs of a bundle: all, or the named ones with everything that they were made from.

    Raises:
        StoreError: a named run does not exist, or a file of one is damaged.
    """
    begun = {name: tuple(folds) for name, folds in _begun(store).items()}
    chosen = set(names) if names else {*store.runs(), *begun}
    for name in names:
        if name not in begun:
            store.manifests(name)  # says which runs there are
    for name in [name for name in chosen if store.finished_folds(name)]:
        chosen |= ancestors(store, name)
    runs = []
    for name in sorted(chosen):
        finished = tuple(store.finished_folds(name))
        manifests = [store.manifest(name, fold) for fold in finished]
        store.check_files(*manifests)
        kind = manifests[0].kind if manifests else "model"
        runs.append(BundledRun(name=name, kind=kind, finished=finished, begun=begun.get(name, ())))
    if not runs:
        raise StoreError(
            f"{store.workspace.oof(store.competition.name)}: no run to bundle; make cv makes one"
        )
    return runs


def store_files(store: Store, runs: Sequence[BundledRun]) -> dict[str, Path]:
    """The store's files, its runs' predictions, networks and checkpoints."""
    workspace, data = store.workspace, store.competition.name
    files = {f"oof/{data}/{name}": workspace.oof(data) / name for name in STORE_FILES}
    files[people_path(data)] = workspace.test_people(data)
    for run in runs:
        for fold in {*run.finished, *run.begun}:
            scratch, below = workspace.scratch(data, run.name, fold), f"runs/{data}/{run.name}/fold{fold}"
            files |= {f"{below}/{name}": scratch / name for name in _scratch_files(scratch, run, fold)}
            if fold in run.finished:
                folder = workspace.fold(data, run.name, fold)
                files |= {f"oof/{data}/{run.name}/fold{fold}/{name}": folder / name for name in PREDICTIONS}
    return {path: source for path, source in files.items() if source.is_file()}


def people_path(data: str) -> str:
    """The estimate of the people in the test set, which is hidden in a workspace."""
    return f"runs/{data}/test_people.json"


def without_networks(store: Store, runs: Sequence[BundledRun]) -> list[str]:
    """Finished folds of trained runs whose network is gone, in words."""
    data, workspace = store.competition.name, store.workspace
    return [
        f"{run.name}, fold {fold}"
        for run in runs
        for fold in run.finished
        if run.kind == "model" and not workspace.network(data, run.name, fold).is_file()
    ]


def code_files(project: Path) -> dict[str, Path]:
    """The project's own files below `code/`, without hidden and generated ones."""
    found = [path for pattern in _CODE_FILES for path in project.glob(pattern)]
    found += [path for folder in _CODE for path in (project / folder).rglob("*")]
    names = {path: path.relative_to(project) for path in found if path.is_file()}
    return {f"code/{name.as_posix()}": path for path, name in names.items() if _is_own(name)}


def config_files(configs: Path) -> dict[str, Path]:
    """The files in configs/, which resolve the runs' configs again."""
    paths = (path for path in configs.rglob("*") if path.suffix in (".yaml", ".csv") and path.is_file())
    names = {path: path.relative_to(configs) for path in paths}
    return {f"configs/{name.as_posix()}": path for path, name in names.items() if _is_own(name)}


def _is_own(name: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" or "egg-info" in part for part in name.parts)


def _begun(store: Store) -> dict[str, list[int]]:
    """Folds with a checkpoint, by run."""
    workspace, data = store.workspace, store.competition.name
    begun: dict[str, list[int]] = {}
    for name in (LAST, PREVIOUS):
        for path in workspace.in_each_fold(data, name):
            fold = int(path.parent.name.removeprefix("fold"))
            if fold < store.folds.num_folds and fold not in begun.setdefault(path.parents[1].name, []):
                begun[path.parents[1].name].append(fold)
    return begun


def _scratch_files(scratch: Path, run: BundledRun, fold: int) -> Iterator[str]:
    if run.kind == "model":
        yield from (NETWORK, METRICS, JOB, REDO)
    if fold in run.begun:
        yield LAST if (scratch / LAST).is_file() else PREVIOUS


def place_of(path: str, workspace: Workspace, configs: Path, data: str) -> Path | None:
    """Where a file of a bundle belongs in a workspace; None: it is used where it is."""
    if path == people_path(data):
        return workspace.test_people(data)
    kind, _, rest = path.partition("/")
    if kind == "configs":
        return configs / rest
    return workspace.root / path if path.startswith((f"oof/{data}/", f"runs/{data}/")) else None
