"""A training that was stopped goes on elsewhere from a bundle, to the same bytes; all by processes."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trainings import SCRIPTS, Training, wait_for

from distracted.stopping import RESUMABLE

pytestmark = pytest.mark.slow

SETTINGS = "phases.scratch.epochs=60 model.head.dropout=0.5 training.num_folds=2 runtime.checkpoint_steps=1"


def command(script: str, *arguments: object) -> str:
    """The output of a command that succeeds."""
    line = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_stopped_training_goes_on_elsewhere(folder: Path, tmp_path: Path) -> None:
    """Fold 0 is stopped by SIGTERM; the other machine has the data under a name with spaces."""
    here = Training(folder, tmp_path / "here", SETTINGS)
    process = here.start()
    here.wait_for_work(process)
    wait_for(process, lambda: any(here.workspace.scratch("tiny", "net", 0).glob("last.ckpt")))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == RESUMABLE, output
    assert not here.workspace.fold("tiny", "net", 0).exists()
    step = here.step()
    bundle = tmp_path / "out put"
    made = command("bundle.py", "--out", bundle, "--data", f"{folder}/", "--root", here.root)
    assert "1 folds that go on from their checkpoints" in made and f"BUNDLE='{bundle}'" in made
    shutil.rmtree(here.root)

    attached = tmp_path / "input/my bundle (1)"
    attached.parent.mkdir()
    bundle.rename(attached)
    renamed = folder.rename(tmp_path / "input/state farm's")
    there = Training(renamed, tmp_path / "another place/work", SETTINGS)
    restored = command("restore.py", "--bundle", attached, "--root", there.root)
    assert "net, fold 0: begun" in restored and "next: make status DATA=tiny" in restored
    assert "stopped" in command("status.py", "--data", f"{renamed}/", "--root", there.root)
    assert there.step() == step > 0
    code, output = there.run()
    assert code == 0 and f"goes on from step {step}" in output, output
    assert f"{renamed}: its data is that of {there.workspace.oof('tiny')}, which is used" in output
    assert there.leftovers() == []
    assert "all of it is here already" in command("restore.py", "--bundle", attached, "--root", there.root)

    undisturbed = Training(shutil.copytree(renamed, tmp_path / "tiny"), tmp_path / "undisturbed", SETTINGS)
    code, output = undisturbed.run()
    assert code == 0, output
    assert there.predictions(0, 1) == undisturbed.predictions(0, 1)


def test_an_inference_machine_has_the_bundle_alone(folder: Path, tmp_path: Path) -> None:
    """No data and no project: the code comes from the bundle."""
    here = Training(folder, tmp_path / "here", "training.num_folds=2")
    code, output = here.run()
    assert code == 0, output
    photographs = shutil.copytree(folder / "imgs/test", tmp_path / "photographs")
    given = ("--images", photographs, "--name", "net", "--set", "runtime.device=cpu")
    command("predict.py", *given, "--out", tmp_path / "here.csv", "--data", folder, "--root", here.root)
    command("bundle.py", "--out", tmp_path / "b", "--data", folder, "--root", here.root)
    shutil.rmtree(here.root)
    shutil.rmtree(folder)
    project = shutil.copytree(tmp_path / "b/code", tmp_path / "no git")
    for script, arguments in {
        "restore.py": ("--bundle", tmp_path / "b"),
        "predict.py": (*given, "--out", tmp_path / "there.csv", "--data", "tiny"),
    }.items():
        line = [sys.executable, str(project / "scripts" / script), *map(str, arguments)]
        environment = {"PYTHONPATH": f"{project}/src", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(line, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
