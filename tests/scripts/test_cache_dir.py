"""runtime.cache_dir: nothing is cached anywhere else, whatever the command."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_bad_input import Outcome, Project, check, originals, project, run, trained

import audit
import folds
import pictures
import predict
import report
import smooth
import status
import submit
import tta
from distracted.config import load_config

pytestmark = pytest.mark.slow

__all__ = ["originals", "project", "trained"]  # fixtures

#: A command's main function, and its arguments besides DATA= and SET=.
COMMANDS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "folds": (folds.main, ()),
    "status": (status.main, ()),
    "submit": (submit.main, ("--name", "resnet50")),
    "tta": (tta.main, ("--run", "resnet50", "--views", "centre")),
    "smooth": (smooth.main, ("--runs", "resnet50", "--methods", "neighbours")),
    "audit": (audit.main, ("--model", "efficientnet_lite0", "--run", "resnet50")),
    "report": (report.main, ("--no-heat",)),
    "pictures": (pictures.main, ()),
}
TINY = "model.backbone=test_resnet model.weights=none model.image_size=32 training.num_folds=3"


def settings(command: str, cache: str) -> str:
    model = {"folds": TINY, "audit": "model.image_size=32 training.num_folds=3"}.get(command, "")
    return (
        f"{model} runtime.tracking=none runtime.device=cpu runtime.num_workers=0 runtime.cache_dir='{cache}'"
    )


def run_with_cache(project: Project, command: str, cache: str) -> Outcome:
    main, arguments = COMMANDS[command]
    return run(main, *arguments, *project.where, "--set", settings(command, cache))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_caches_in_the_named_folder_alone(trained: Project, tmp_path: Path, command: str) -> None:
    shutil.rmtree(trained.root / "cache")
    outcome = run_with_cache(trained, command, f"{tmp_path}/my cache")
    assert outcome.code == 0, outcome.err
    assert not (trained.root / "cache").exists()
    assert list((tmp_path / "my cache/.digests").rglob("contents.parquet"))


def test_training_caches_its_images_there(project: Project) -> None:
    outcome = project.train("--fold", "0", settings="runtime.cache_dir=elsewhere")
    assert outcome.code == 0, outcome.err
    assert not (project.root / "cache").exists()
    assert list((project.root / "elsewhere/tiny/pictures").iterdir())  # a relative one: below the workspace


def test_predicting_photographs_caches_there(trained: Project, tmp_path: Path) -> None:
    shutil.rmtree(trained.root / "cache")
    given = (
        "--images",
        str(trained.folder / "imgs/test"),
        "--out",
        str(tmp_path / "x.csv"),
        "--name",
        "resnet50",
    )
    cache = ("--set", f"runtime.device=cpu runtime.num_workers=0 runtime.cache_dir={tmp_path}/c")
    outcome = run(predict.main, *given, *trained.where, *cache)
    assert outcome.code == 0, outcome.err
    assert not (trained.root / "cache").exists()


@pytest.mark.parametrize("inside", ["/proc/cache", "a file"])
def test_a_folder_that_cannot_be_written_is_named(trained: Project, tmp_path: Path, inside: str) -> None:
    (tmp_path / "a file").write_text("")
    cache = str(tmp_path / inside / "cache")
    named = f"runtime.cache_dir={cache}: "
    check(trained, lambda: run_with_cache(trained, "status", cache), named, "name another folder")


def test_home_is_expanded(trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run_with_cache(trained, "status", "~/cache").code == 0
    assert (tmp_path / "home/cache/.digests").is_dir()


def test_it_enters_no_hash() -> None:
    plain = load_config(model="resnet50", data="sample")
    moved = load_config(model="resnet50", data="sample", overrides=["runtime.cache_dir=/tmp/x"])
    assert moved.hash == plain.hash and moved.runtime.cache_dir == "/tmp/x"
