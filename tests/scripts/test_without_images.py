"""On a machine without the images: what needs only predictions and networks works."""

import json
import shutil
from pathlib import Path

import pytest
from test_bad_input import Outcome, Project, check, originals, project, run, trained

import ensemble
import export
import predict
import status
import tta
from distracted.files import sha256_file

pytestmark = pytest.mark.slow

__all__ = ["originals", "project", "trained"]  # fixtures

CPU = ("--set", "runtime.device=cpu runtime.num_workers=0 runtime.tracking=none")


@pytest.fixture
def photographs(trained: Project, tmp_path: Path) -> Path:
    return shutil.copytree(trained.folder / "imgs/test", tmp_path / "photographs")


def predicted(project: Project, photographs: Path, name: str = "") -> tuple[Outcome, bytes]:
    out = photographs.with_suffix(".csv")
    given = ("--images", str(photographs), "--out", str(out), *(("--name", name) if name else ()))
    outcome = run(predict.main, *given, *project.where, *CPU)
    assert outcome.code == 0, outcome.err
    return outcome, out.read_bytes()


def remove_images(project: Project) -> None:
    """What another machine has: oof/ and the networks."""
    shutil.rmtree(project.folder)
    shutil.rmtree(project.root / "cache")


def test_photographs_are_predicted_as_with_the_images(trained: Project, photographs: Path) -> None:
    """By a blend of a calibrated run and one with views."""
    assert run(tta.main, "--run", "resnet50", "--views", "scales", *trained.where, *CPU).code == 0
    assert trained.calibrate("--parts", "temperature", *CPU).code == 0
    members = "resnet50_calibrated resnet50_tta"
    assert run(ensemble.main, "--runs", members, *trained.where, *CPU).code == 0
    _, with_images = predicted(trained, photographs)
    remove_images(trained)
    outcome, without = predicted(trained, photographs)
    assert without == with_images
    assert f"{trained.folder}: no such folder; no images are needed here" in outcome.err
    assert outcome.err.count("its network was checked by its SHA-256") == 6  # two runs, three folds


def test_another_folds_network_is_refused(trained: Project, photographs: Path) -> None:
    networks = [trained.root / f"runs/tiny/resnet50/fold{fold}/model.safetensors" for fold in (0, 1)]
    shutil.copy(networks[1], networks[0])
    remove_images(trained)
    given = ("--images", str(photographs), "--name", "resnet50")
    message = f"{networks[0]}: not the network that predicted resnet50, fold 0: its SHA-256 is not"
    check(trained, lambda: run(predict.main, *given, *trained.where, *CPU), message, "restore it")


def test_a_manifest_of_an_older_version_has_no_hash(trained: Project, photographs: Path) -> None:
    for fold in range(3):
        path = trained.root / f"oof/tiny/resnet50/fold{fold}/manifest.json"
        content = json.loads(path.read_text())
        assert content.pop("network_sha256") == sha256_file(
            trained.root / f"runs/tiny/resnet50/fold{fold}/model.safetensors"
        )
        path.write_text(json.dumps(content))
    remove_images(trained)
    outcome, _ = predicted(trained, photographs, "resnet50")
    assert "only its network's config and classes could be checked" in outcome.err


def test_predictions_are_blended_and_submitted(trained: Project) -> None:
    assert trained.submit("--name", "resnet50", *CPU).code == 0
    csv = trained.root / "submissions/tiny/resnet50.csv"
    before = csv.read_bytes()
    remove_images(trained)
    again = trained.submit("--name", "resnet50", *CPU)
    assert again.code == 0 and "as it was checked" in again.out
    csv.unlink()
    assert trained.submit("--name", "resnet50", *CPU).code == 0 and csv.read_bytes() == before
    assert trained.calibrate(*CPU).code == 0
    assert trained.ensemble("--runs", "resnet50 resnet50_calibrated", *CPU).code == 0
    shown = trained.status()
    assert shown.code == 0 and "nothing is left to do" not in shown.out and "ensemble" in shown.out


def test_commands_that_need_the_images_say_so(trained: Project) -> None:
    remove_images(trained)
    missing = f"{trained.folder}: no such folder"
    for command in (trained.train, trained.folds, trained.tta, trained.smooth):
        check(trained, command, missing, "DATA= takes a folder")
    check(trained, lambda: run(export.main, "--run", "resnet50", *trained.where), missing)


def test_the_stores_name_is_enough(trained: Project) -> None:
    """A restored store has no folder and no file in configs/data."""
    remove_images(trained)
    outcome = run(status.main, "--data", "tiny", "--root", str(trained.root))
    assert outcome.code == 0 and "resnet50" in outcome.out


def test_a_damaged_index_is_named(trained: Project) -> None:
    remove_images(trained)
    path = trained.root / "oof/tiny/index.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    check(trained, trained.status, f"{path}: damaged", "make status")
    path.write_bytes(whole)
    binding = trained.root / "oof/tiny/data.json"
    binding.write_text(binding.read_text().replace('"index_hash": "', '"index_hash": "0'))
    check(trained, trained.status, f"{path}: not the index that data.json names")


def test_a_store_of_an_older_version_has_no_index(trained: Project) -> None:
    (trained.root / "oof/tiny/index.parquet").unlink()
    assert trained.status().code == 0  # with the images: it is written now
    (trained.root / "oof/tiny/index.parquet").unlink()
    remove_images(trained)
    check(trained, trained.status, f"{trained.folder}: no such folder")
