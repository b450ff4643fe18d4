"""Kills one `make compete` again and again at random moments, SIGKILL included, and looks at what is left.

    PYTHONPATH=scripts python bench/compete_kills.py --data <folder> --root <workspace> --hours 40m --kills 20

After each kill: the submission, once there was one, is whole; the plan file can be read, and the choices in
it are those from before and perhaps more; no finished run has lost a fold. At last it may run to its end.
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

import console
from distracted.compete.entries import read_plan
from distracted.paths import CONFIGS
from distracted.predictions.store import Store
from distracted.stopping import RESUMABLE

_SCRIPT = CONFIGS.parent / "scripts/compete.py"
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def main(
    data: console.Data,
    root: console.Root = console.HERE,
    hours: Annotated[str, typer.Option(help="As of make compete.")] = "40m",
    models: Annotated[str, typer.Option(help="As of make compete.")] = "efficientnet_lite0",
    set: console.Set = "",
    kills: Annotated[int, typer.Option(help="How often it is killed.")] = 20,
    longest: Annotated[float, typer.Option(help="Most seconds until a kill.")] = 90.0,
    seed: int = 0,
) -> None:
    """Kill a competition, check what is left each time, and let it end."""
    rng, command = random.Random(seed), [sys.executable, str(_SCRIPT)]
    command += ["--hours", hours, "--models", models, "--data", data, "--root", str(root), "--set", set]
    log = root / "compete_kills.txt"
    root.mkdir(parents=True, exist_ok=True)
    choices: tuple[list[str], list[str]] = ([], [])
    finished: dict[str, list[int]] = {}
    for number in range(1, kills + 1):
        with log.open("a") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        time.sleep(rng.uniform(1, longest))
        sent = rng.choice(_SIGNALS)
        ended_before = process.poll() is not None
        process.send_signal(sent)
        code = process.wait()
        if sent == signal.SIGTERM and not ended_before and code not in (RESUMABLE, -sent):
            raise AssertionError(f"kill {number}: exit code {code} after SIGTERM; see {log}")
        store = console.open_store(data, root, console.runtime(""))
        choices = _check_choices(store, choices)
        finished = _check_folds(store, finished)
        images = _check_submission(store)
        chosen = len({*choices[0], *choices[1]})
        console.say(f"kill {number} by {sent.name}: {chosen} runs chosen, {len(finished)} begun, {images}")
    with log.open("a") as file:
        subprocess.run(command, stdout=file, stderr=file, check=True)
    store = console.open_store(data, root, console.runtime(""))
    choices = _check_choices(store, choices)
    _check_folds(store, finished)
    console.say(
        f"at its end: {len({*choices[0], *choices[1]})} runs chosen, {_check_submission(store)}; {log}"
    )


def _check_choices(store: Store, before: tuple[list[str], list[str]]) -> tuple[list[str], list[str]]:
    """The choices in the plan file go on from those before."""
    path = store.workspace.plan(store.competition.name)
    known = [path.stem for path in (CONFIGS / "models").glob("*.yaml")]
    plan = read_plan(path, num_folds=store.folds.num_folds, models=known)
    assert not plan.is_edited
    for old, new in zip(before, plan.choices, strict=True):
        assert new[: len(old)] == old, (old, new)
    return plan.choices


def _check_folds(store: Store, before: dict[str, list[int]]) -> dict[str, list[int]]:
    """Finished folds stay finished and undamaged."""
    now = {run: store.finished_folds(run) for run in store.runs()}
    for run, folds in before.items():
        if store.kinds(run) == {"model"}:
            assert {*folds} <= {*now.get(run, [])}, run
            store.check_files(*store.manifests(run))
    return now


def _check_submission(store: Store) -> str:
    """The submission is whole, if there is one."""
    path: Path = store.workspace.submissions(store.competition.name) / "compete.csv"
    if not path.exists():
        return "no submission yet"
    table = pd.read_csv(path)
    assert table.iloc[:, 0].tolist() == store.competition.test["img"].tolist()
    assert (table.iloc[:, 1:].sum(axis=1) - 1).abs().max() < 1e-5
    return f"a submission of {len(table)} images"


if __name__ == "__main__":
    console.run(main)
