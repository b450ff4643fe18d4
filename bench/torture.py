"""make torture: kills one fold's training again and again; the result must be the same as without kills.

    PYTHONPATH=scripts python bench/torture.py --folder <folder> [--model MODEL --data DATA --kills 30]

Trains fold 0 once without interruption and once with `--kills` SIGKILLs: at random moments of its work, every
third while a checkpoint is being written, the last tenth while it predicts. After each kill the same command
runs again; if the training ends before all kills were made, another training takes the rest. In the end the
predictions must be the same bytes and the metrics the same except for times, and no half-written file may be
left. All trainings are kept in the folder, and the measurements in its torture.json.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import console
from distracted.config import load_data_config
from distracted.errors import TrainingError
from distracted.files import sha256_file, write_json
from distracted.locks import holder
from distracted.paths import CONFIGS, Workspace
from distracted.predictions.job_state import read_job_state
from distracted.predictions.store import open_store
from distracted.progress import Advance
from distracted.training.checkpoints import LAST, newest_state

_SCRIPTS = CONFIGS.parent / "scripts"
_LOOK = 0.002  # seconds between checks whether the moment of a kill has come
_LOST = 900.0  # seconds within which a training must begin


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        where: The current phase by the newest checkpoint, or predicting.
        wrote: Whether a checkpoint was being written.
        begins: Seconds from the command until the fold's lock is held: Python, torch, the index.
        works: Seconds from there to the kill.
        kept: Seconds of work, since the beginning of the fold, in the newest checkpoint after the kill.
    """

    where: str
    wrote: bool
    begins: float
    works: float
    kept: float


class Victim:
    """Fold 0 of a run in a workspace of its own, trained by the command that users type."""

    def __init__(self, root: Path, model: str, data: str, settings: str) -> None:
        self._arguments = ["--model", model, "--fold", "0", "--data", data, "--set", settings]
        self._arguments += ["--root", str(root)]
        self._run, self._workspace = model, Workspace(root)
        self.name = load_data_config(data, root=root).name
        self.root, self._data = root, data
        root.mkdir(parents=True)
        self._trained_at = 0.0

    @property
    def scratch(self) -> Path:
        return self._workspace.scratch(self.name, self._run, 0)

    def check(self) -> None:
        """Read the predictions as later stages do."""
        store = open_store(self._workspace, load_data_config(self._data, root=self.root))
        store.read_run(self._run, partial=True)

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(_SCRIPTS / "train.py"), *self._arguments]
        with (self.root / "log.txt").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, text=True)

    def holds(self, process: subprocess.Popen[str]) -> bool:
        owner = holder(self._workspace.lock(self.name, self._run, 0))
        state = read_job_state(self.scratch)
        return owner is not None and owner.pid == process.pid and state is not None and state.is_alive

    @property
    def is_writing(self) -> bool:
        return any(self.scratch.glob(f".{LAST}.*.tmp"))

    def wait_until_trained(self, process: subprocess.Popen[str]) -> None:
        while process.poll() is None and not self.is_trained:
            time.sleep(_LOOK)
        self._trained_at = time.time()

    @property
    def is_trained(self) -> bool:
        """Whether the last epoch is done, and the fold is being predicted."""
        state, path = read_job_state(self.scratch), self._workspace.metrics(self.name, self._run, 0)
        if state is None or not path.is_file():
            return False
        return any(line.get("epoch") == state.epochs for line in map(json.loads, _whole_lines(path)))

    def predicting(self) -> float:
        """Seconds of prediction in a finished training: from the last epoch to the end."""
        done = self._workspace.fold(self.name, self._run, 0) / "manifest.json"
        return done.stat().st_mtime - self._trained_at

    def behind(self) -> tuple[str, float]:
        """The current phase by the newest checkpoint, and the seconds of work in it."""
        newest = newest_state(self.scratch)
        if newest is None:
            return "before the first checkpoint", 0.0
        _, _, state = newest
        doing = "predicting" if self.is_trained else f"phase {state['num_phases'] + 1}"
        return doing, float(state["seconds"])

    def predictions(self) -> dict[str, str]:
        folder = self._workspace.fold(self.name, self._run, 0)
        return {part: sha256_file(folder / f"{part}.parquet") for part in ("valid", "test")}

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics without times."""
        lines = self._workspace.metrics(self.name, self._run, 0).read_text().splitlines()
        return [_without_times(json.loads(line)) for line in lines]

    def leftovers(self) -> list[str]:
        """Half-written files and checkpoints that a finished fold must not leave."""
        paths = [*self.root.rglob(".*.tmp"), *self.scratch.glob("*.ckpt"), *self.scratch.glob("lock.json*")]
        return [str(path.relative_to(self.root)) for path in paths]


def main(
    folder: Annotated[Path, typer.Option(help="For both trainings; its contents are removed.")],
    model: str = "efficientnet_lite0",
    data: console.Data = "sample",
    set: console.Set = "",
    kills: int = 30,
    seed: int = 0,
) -> None:
    """Kill and compare; print a table of the kills."""
    settings = f"runtime.tracking=none {set}"
    if "/" not in data:
        data = str(load_data_config(data).folder.absolute())
    torture(folder, model, data, settings, kills=kills, seed=seed)


def torture(
    folder: Path, model: str, data: str, settings: str, *, kills: int, seed: int
) -> tuple[list[Kill], float]:
    """Kill a fold so many times, and make sure that nothing shows it; returns the kills and the time lost.

    Raises:
        TrainingError: something shows it; says what.
    """
    shutil.rmtree(folder, ignore_errors=True)
    whole = Victim(folder / "whole", model, data, settings)
    start = time.perf_counter()
    process = whole.start()
    begins = _wait_until_held(whole, process)
    whole.wait_until_trained(process)
    _finish(whole, process)
    took = time.perf_counter() - start
    console.say(f"without interruption: {took:.0f} s, {begins:.0f} s of it until the training begins")
    rng = random.Random(seed)
    sittings: list[list[Kill]] = []
    start = time.perf_counter()
    with console.progress("kills", total=kills, unit="kills") as step:
        while (left := kills - sum(map(len, sittings))) > 0:
            killed = Victim(folder / f"killed{len(sittings) + 1}", model, data, settings)
            sittings.append(_kill_until_done(killed, whole, rng, kills=left, work=took - begins, step=step))
            _compare(whole, killed)
    lost = time.perf_counter() - start - len(sittings) * took
    _show(folder, sittings, lost)
    return [kill for done in sittings for kill in done], lost


def _kill_until_done(
    victim: Victim, whole: Victim, rng: random.Random, *, kills: int, work: float, step: Advance
) -> list[Kill]:
    """Kill a training so many times, or as often as its seconds of work allow, and have it end."""
    done: list[Kill] = []
    while len(done) < kills:
        left = max(0.0, work - done[-1].kept) if done else work
        if late := len(done) >= kills - max(1, kills // 10):
            share = whole.predicting()
        else:
            share = 2 * left / (kills - len(done) + 1)
        write = len(done) % 3 == 2 and not late
        process = victim.start()
        kill = _kill(victim, process, delay=rng.uniform(0, share), write=write, late=late)
        if kill is None:
            _finish(victim, process)
            return done
        done.append(kill)
        step()
    _finish(victim, victim.start())
    return done


def _kill(
    victim: Victim, process: subprocess.Popen[str], *, delay: float, write: bool, late: bool
) -> Kill | None:
    """Kill a training after so many seconds of its work (late: of its predicting), or in a write after them;
    None where it ends before."""
    begins = _wait_until_held(victim, process)
    start = counts = time.perf_counter()
    while time.perf_counter() - counts < delay or (write and not victim.is_writing):
        if late and not victim.is_trained:
            counts = time.perf_counter()
        if process.poll() is not None:
            return None
        time.sleep(_LOOK)
    wrote = victim.is_writing
    os.kill(process.pid, signal.SIGKILL)
    works = time.perf_counter() - start
    if process.wait() == 0:  # the training ended first
        return None
    where, kept = victim.behind()
    return Kill(where, wrote, begins, works, kept)


def _wait_until_held(victim: Victim, process: subprocess.Popen[str]) -> float:
    start = time.perf_counter()
    while not victim.holds(process) and process.poll() != 0:  # 0: it was killed at its very end, and is done
        if process.poll() is not None or time.perf_counter() - start > _LOST:
            raise TrainingError(f"{victim.root}/log.txt: the training did not begin")
        time.sleep(_LOOK)
    return time.perf_counter() - start


def _finish(victim: Victim, process: subprocess.Popen[str]) -> None:
    if process.wait() != 0:
        raise TrainingError(f"{victim.root}/log.txt: the training ended with exit code {process.returncode}")


def _compare(whole: Victim, killed: Victim) -> None:
    if killed.predictions() != whole.predictions():
        raise TrainingError(f"{killed.root}: its predictions are not those of {whole.root}")
    if killed.metrics() != whole.metrics():
        raise TrainingError(f"{killed.root}: its metrics are not those of {whole.root}")
    if left := killed.leftovers():
        raise TrainingError(f"{killed.root}: left behind: {', '.join(left)}")
    killed.check()


def _whole_lines(path: Path) -> list[str]:
    """But for one that is being written."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _without_times(line: dict[str, Any]) -> dict[str, Any]:
    line = {key: value for key, value in line.items() if "second" not in key}
    return line | {"summary": _without_times(line["summary"])} if "summary" in line else line


def _show(folder: Path, sittings: Sequence[Sequence[Kill]], lost: float) -> None:
    kills = [kill for done in sittings for kill in done]
    redone = [seconds for done in sittings for seconds in _redone(done)]
    where = Counter(kill.where for kill in kills)
    in_writes = sum(kill.wrote for kill in kills)
    console.table("kills", ["killed in", "kills"], [[w, str(n)] for w, n in sorted(where.items())])
    begins = sum(kill.begins for kill in kills) / len(kills)
    figures = {
        "kills": len(kills),
        "trainings": len(sittings),
        "in_a_write": in_writes,
        "seconds_lost_a_kill": lost / len(kills),
        "of_it_until_the_training_begins": begins,
        "work_redone_a_kill": sum(redone) / len(redone),
        "work_redone_at_most": max(redone),
    }
    write_json(folder / "torture.json", {**figures, "all": [asdict(kill) for kill in kills]})
    console.say(
        f"{len(kills)} kills of {len(sittings)} trainings, {in_writes} of them in a write: each time the "
        f"training went on; predictions and metrics are the same, nothing is left behind\n"
        f"lost a kill: {lost / len(kills):.1f} s, {begins:.1f} s of it until Python, torch and the index are "
        f"there; work done again {figures['work_redone_a_kill']:.1f} s, at most {max(redone):.1f} s"
    )


def _redone(kills: Sequence[Kill]) -> Iterator[float]:
    """Seconds of work between kills that no checkpoint held."""
    before = 0.0
    for kill in kills:
        yield max(0.0, kill.works - (kill.kept - before))
        before = kill.kept


if __name__ == "__main__":
    console.run(main)
