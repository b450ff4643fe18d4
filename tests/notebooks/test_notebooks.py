"""The notebooks as a hosted session runs them: stopped, continued from the attached output, then offline."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from execution import NOTEBOOKS, can_shut_in, execute, make_host, printed

from distracted.bundle.contents import code_files
from distracted.bundle.manifest import read_bundle
from distracted.locks import holder
from distracted.paths import CONFIGS
from distracted.sample import render_sample
from distracted.submission.doctor import check_submission

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
ROOT = CONFIGS.parent
#: Small enough for CI; the two networks start from a package's weights and from random ones.
SHORT = {
    "MODELS": "efficientnet_lite0 mobilenet_v2",
    "NUM_FOLDS": 2,
    "IMAGE_SIZE": 48,
    "SETTINGS": "phases.features.max_iter=20 phases.finetune.epochs=2 phases.scratch.epochs=2 "
    "training.batch_size=8 runtime.checkpoint_steps=1 model.weights=auto_or_none",
    "TIME_LIMIT": "30m",
    "WHEELS": False,  # they come from a package index
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_paths(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            compile(cell.source, path.name, "exec")  # no magics: it runs in any kernel
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    text = path.read_text()
    assert set(re.findall(r"/(?:root|home|Users|mnt|work)/\w*", text)) == set()
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_scripts_options_and_targets_of_a_notebook_exist(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for cell in notebook.cells:
        assert set(re.findall(r"`make ([a-z-]+)", cell.source)) <= set(targets)
        for script, options in re.findall(r'run\("(\w+)"([^\n]*)', cell.source):
            source = (ROOT / f"scripts/{script}.py").read_text()
            for option in re.findall(r'"--([a-z-]+)"', options):
                declared = f'"--{option}"' in source or f"{option.replace('-', '_')}: " in source
                assert declared, f"{script} --{option}"


def test_both_notebooks_share_their_functions() -> None:
    def functions(path: Path) -> str:
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]
        (cell,) = [text for text in cells if "def run(" in text]
        return cell[cell.index("def attached") :]

    assert len({functions(path) for path in PATHS}) == 1 and len(PATHS) == 2


def test_progress_is_lines_although_a_notebook_asks_for_colours() -> None:
    code = "import terminal\nwith terminal.progress('x', total=3, unit='img') as step:\n    step(3)"
    command = [sys.executable, "-c", code]
    colours = {"FORCE_COLOR": "1", "TERM": "xterm-color", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'scripts'}"}
    done = subprocess.run(command, env=colours, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def stop_when_begun(work: Path) -> None:
    """Ask the grid to stop, as the time limit does, once a fold has a checkpoint."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        for path in work.glob("distracted/runs/*/*/fold*/last.ckpt"):
            owner = holder(path.with_name("lock.json"))
            if owner is not None:
                forking = psutil.Process(owner.pid).parent()
                forking.parent().send_signal(signal.SIGTERM)
                return
        time.sleep(0.02)


@dataclass(frozen=True)
class Sessions:
    """Two sessions of kaggle.ipynb and one of kaggle_inference.ipynb, each with its own input and output."""

    folder: Path

    @cached_property
    def host(self) -> Path:
        return make_host(self.folder / "host")

    def given(self, session: str) -> Path:
        return self.folder / session / "in put"

    def work(self, session: str) -> Path:
        return self.folder / session / "work"

    def run(self, name: str, session: str, **more: object) -> str:
        """Execute a notebook; returns what it printed, without colours."""
        given, cache = self.given(session), self.folder / session / "scratch/cache"
        places = {"INPUT": str(given), "WORK": str(self.work(session)), "CACHE": str(cache)}
        before = listing(given)
        notebook = execute(name, self.host, self.work(session), given, places | more)
        assert listing(given) == before
        nbformat.write(notebook, self.folder / f"{session}.ipynb")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed(notebook))

    def attach_output(self, session: str, to: str, place: str) -> None:
        shutil.copytree(self.work(session) / "bundle", self.given(to) / place / "bundle")


def listing(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    return Sessions(tmp_path_factory.mktemp("a host"))


@pytest.fixture(scope="module")
def first(sessions: Sessions) -> str:
    """The project and the competition are attached; training is stopped."""
    given = sessions.given("first")
    competition = given / "some drivers (2016)"
    render_sample(competition, num_subjects=4, num_test_subjects=2, num_frames=2, width=96, seed=0)
    for path, source in code_files(ROOT).items():
        target = given / "datasets/somebody/my copy" / path.removeprefix("code/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    stopping = threading.Thread(target=stop_when_begun, args=[sessions.work("first")], daemon=True)
    stopping.start()
    return sessions.run("kaggle", "first", **SHORT)


@pytest.fixture(scope="module")
def second(sessions: Sessions, first: str) -> str:
    """The output of the first is attached, and the competition under another name."""
    here, there = sessions.given("first"), sessions.given("second")
    shutil.copytree(here / "some drivers (2016)", there / "competitions/other-name")
    sessions.attach_output("first", "second", "notebooks/somebody/training")
    return sessions.run("kaggle", "second", **SHORT)


@pytest.fixture(scope="module")
def third(sessions: Sessions, second: str) -> str:
    """The output of the second is attached, and photographs; no training data."""
    given = sessions.given("third")
    sessions.attach_output("second", "third", "training")
    shutil.copytree(sessions.given("first") / "some drivers (2016)/imgs/test", given / "new photos")
    (given / "training/bundle/wheels").mkdir()  # WHEELS=False: all packages are there
    return sessions.run("kaggle_inference", "third", IMAGES=str(given / "new photos"))


@pytest.mark.slow
class TestSessions:
    def test_a_stopped_session_saves_what_was_begun(self, sessions: Sessions, first: str) -> None:
        assert "installing into" in first and "no bundle attached: a new start" in first
        assert "4 subjects" in first and "attach this version's output to the notebook" in first
        bundle = read_bundle(sessions.work("first") / "bundle")
        assert bundle.complete and any(run.begun for run in bundle.runs)
        assert not (sessions.work("first") / "submission.csv").exists()

    def test_the_next_session_continues_to_a_valid_submission(self, sessions: Sessions, second: str) -> None:
        assert "files restored" in second and "begun; the command that began it goes on" in second
        assert "which is used" in second  # the same data under another name
        assert "stopped" not in second and "Traceback" not in second
        assert "error" not in second.replace("standard error", "")
        work, given = sessions.work("second"), sessions.given("second")
        assert {path.name for path in work.iterdir()} == {"distracted", "bundle", "submission.csv"}
        check_submission(work / "submission.csv", given / "competitions/other-name/sample_submission.csv")
        bundle = read_bundle(work / "bundle")
        names = ("efficientnet_lite0", "ensemble", "mobilenet_v2")
        assert bundle.complete
        assert {run.name: run.finished for run in bundle.runs} == dict.fromkeys(names, (0, 1))

    def test_the_output_holds_no_cache_and_no_photographs(self, sessions: Sessions, second: str) -> None:
        work = sessions.work("second")
        assert [path.name for path in (work / "distracted/cache").rglob("*")] == ["setup.log"]
        assert (work.parent / "scratch/cache").is_dir()
        assert not list(work.rglob("img_*")) and not [path for path in work.rglob("*") if path.is_symlink()]

    def test_lines_are_few(self, first: str, second: str, third: str) -> None:
        """A notebook cannot redraw: progress is a line now and then."""
        for text in (first, second, third):
            assert "\r" not in text and len(text.splitlines()) < 90

    def test_without_internet_the_submission_is_the_same(self, sessions: Sessions, third: str) -> None:
        work = sessions.work("third")
        assert "error" not in third.replace("standard error", "") and "Traceback" not in third
        submission = work / "submission.csv"
        assert submission.read_bytes() == (sessions.work("second") / "submission.csv").read_bytes()
        expected = pd.read_csv(submission, index_col="img")
        predicted = pd.read_csv(work / "photographs.csv", index_col="img").loc[expected.index]
        np.testing.assert_allclose(predicted.to_numpy(), expected.to_numpy(), atol=1e-5)


@pytest.mark.slow
def test_the_notebooks_ran_without_a_network() -> None:
    if not can_shut_in():
        pytest.skip("no namespaces here: the notebooks ran with a network and a writable input")
