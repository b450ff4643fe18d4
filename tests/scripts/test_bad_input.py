"""Each user error ends in a message of one or two lines with the fault and the remedy, and changes no file.

The commands get their arguments as from a shell but run in this process, since importing torch takes seconds.
"""

import io
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

import advise
import calibrate
import compete
import console
import ensemble
import export
import folds
import freeze
import grid
import ladder
import predict
import search
import smooth
import status
import submit
import train
import tta
from distracted.config import load_config
from distracted.errors import ConfigError
from distracted.paths import CONFIGS

pytestmark = pytest.mark.slow

TRAIN, SAMPLE = "driver_imgs_list.csv", "sample_submission.csv"
TINY = (
    "model.backbone=test_resnet model.weights=none model.image_size=32 phases.scratch.epochs=1 "
    "training.num_folds=3 runtime.tracking=none runtime.num_workers=0 runtime.device=cpu"
)
#: Files that a failing command may leave: all are complete, and written only after the data was checked.
BINDING = {"oof/tiny/data.json", "oof/tiny/folds.csv", "oof/tiny/index.parquet"}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@contextmanager
def restored_logging() -> Iterator[None]:
    """Restore the root logger's handlers and levels, which commands replace."""
    root, ours = logging.getLogger(), logging.getLogger("distracted")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])


def run(main: Callable[..., None], *arguments: str) -> Outcome:
    """Run a command with arguments as from a shell; exceptions other than SystemExit propagate."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        restored_logging(),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", [f"{main.__module__}.py", *arguments])
        patch.setattr(sys, "excepthook", sys.excepthook)  # typer replaces it
        with pytest.raises(SystemExit) as info:
            console.run(main)
    return Outcome(int(info.value.code or 0), out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Project:
    """A user's competition folder and workspace."""

    folder: Path
    root: Path

    def train(self, *arguments: str, settings: str = "", model: str = "resnet50") -> Outcome:
        return run(train.main, "--model", model, "--set", f"{TINY} {settings}", *self.where, *arguments)

    def folds(self) -> Outcome:
        return run(folds.main, "--set", TINY, *self.where)

    def ensemble(self, *arguments: str) -> Outcome:
        return run(ensemble.main, *self.where, *arguments)

    def tta(self, *arguments: str) -> Outcome:
        given = ("--run", "resnet50", "--views", "centre", "--set", "runtime.device=cpu")
        return run(tta.main, *given, *self.where, *arguments)

    def calibrate(self, *arguments: str) -> Outcome:
        return run(calibrate.main, "--runs", "resnet50", *self.where, *arguments)

    def smooth(self, *arguments: str) -> Outcome:
        return run(smooth.main, "--runs", "resnet50", *self.where, *arguments)

    def ladder(self, *arguments: str) -> Outcome:
        return run(ladder.main, "--models", "resnet50", "--set", TINY, *self.where, *arguments)

    def submit(self, *arguments: str) -> Outcome:
        return run(submit.main, *self.where, *arguments)

    def status(self) -> Outcome:
        return run(status.main, *self.where)

    @property
    def where(self) -> tuple[str, ...]:
        return ("--data", str(self.folder), "--root", str(self.root))

    def files(self) -> dict[str, str]:
        """Hash of every file in oof/ and submissions/, including hidden and temporary files."""
        return {
            path.relative_to(self.root).as_posix(): sha256(path.read_bytes()).hexdigest()
            for name in ("oof", "submissions")
            for path in (self.root / name).rglob("*")
            if path.is_file()
        }

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / name, dtype=str)

    def edit(self, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        change(self.table(name)).to_csv(self.folder / name, index=False)

    @property
    def first_image(self) -> Path:
        row = self.table(TRAIN).iloc[0]
        return self.folder / "imgs/train" / row["classname"] / row["img"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a competition and a trained workspace: made by the first test that needs them, copied by all."""
    return tmp_path_factory.mktemp("originals")


@pytest.fixture
def project(request: pytest.FixtureRequest, originals: Path, tmp_path: Path) -> Project:
    """A project in which no command has run yet."""
    if not (originals / "tiny").exists():
        shutil.copytree(request.getfixturevalue("folder"), originals / "tiny")
    else:
        shutil.copytree(originals / "tiny", tmp_path / "tiny")
    return Project(tmp_path / "tiny", tmp_path / "work")


@pytest.fixture
def trained(project: Project, originals: Path) -> Project:
    """A project with one complete run; a copy, which a test may damage."""
    if not (originals / "work").exists():
        outcome = Project(originals / "tiny", originals / "work").train()
        assert outcome.code == 0, outcome.err
        assert outcome.out.count("resnet50, fold ") == 3
    shutil.copytree(originals / "work", project.root)
    return project


def check(
    project: Project, command: Callable[[], Outcome], *parts: str, may_leave: frozenset[str] = frozenset()
) -> None:
    """Check that a command fails in one or two lines that contain all the parts, and changes no file."""
    before = project.files()
    outcome = command()
    after = project.files()
    assert outcome.code == 1
    message = outcome.err[outcome.err.index("error: ") :].rstrip("\n")
    for part in parts:
        assert part in message, message
    assert message.count("\n") <= 1
    assert "Traceback" not in outcome.err
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) <= may_leave


# Faults in the competition's folder ------------------------------------------------------------------------

Fault = tuple[Callable[[Project], object], Callable[[Project], list[str]]]

#: By name: how to plant the fault, and parts of the expected message (file, row or image; remedy).
FAULTS: dict[str, Fault] = {
    "missing folder": (
        lambda p: shutil.rmtree(p.folder),
        lambda p: [f"{p.folder}: no such folder", "DATA= takes a folder"],
    ),
    "missing training list": (
        lambda p: (p.folder / TRAIN).unlink(),
        lambda p: [f"{p.folder / TRAIN}: no such file", "is this a competition's folder?"],
    ),
    "missing sample submission": (
        lambda p: (p.folder / SAMPLE).unlink(),
        lambda p: [f"{p.folder / SAMPLE}: no such file", "is this a competition's folder?"],
    ),
    "renamed column": (
        lambda p: p.edit(TRAIN, lambda t: t.rename(columns={"subject": "driver"})),
        lambda p: [f"{p.folder / TRAIN}: expected the column 'subject', got driver", "rename it"],
    ),
    "image not on disk": (
        lambda p: p.first_image.unlink(),
        lambda p: [p.table(TRAIN)["img"][0], "listed but not on disk", "fetch the data again"],
    ),
    "truncated image": (
        lambda p: p.first_image.write_bytes(p.first_image.read_bytes()[:-200]),
        lambda p: [f"{p.first_image}: the image is truncated", "fetch it again"],
    ),
    "text named .jpg": (
        lambda p: p.first_image.write_text("404 Not Found"),
        lambda p: [f"{p.first_image}: not an image (it starts with b'404 Not '", "fetch it again"],
    ),
    "zero bytes": (
        lambda p: p.first_image.write_bytes(b""),
        lambda p: [f"{p.first_image}: the file is empty (zero bytes)", "fetch it again"],
    ),
    "duplicate names": (
        lambda p: p.edit(TRAIN, lambda t: pd.concat([t, t.iloc[:1]])),
        lambda p: [f"{p.folder / TRAIN}: ", p.table(TRAIN)["img"][0], "(rows 2, 56)", "keep one of them"],
    ),
    "../ in a name": (
        lambda p: p.edit(TRAIN, lambda t: t.assign(img=[f"../{t['img'][0]}", *t["img"][1:]])),
        lambda p: [f"{p.folder / TRAIN}, row 2: ", "column 'img'", "expected a plain name"],
    ),
    "other columns in the sample submission": (
        lambda p: p.edit(SAMPLE, lambda t: t.rename(columns={"img": "image"})),
        lambda p: [f"{p.folder / SAMPLE}: expected the columns 'img'", "use the competition's own file"],
    ),
    "a class that the sample submission lacks": (
        lambda p: p.edit(SAMPLE, lambda t: t.rename(columns={"c1": "c7"})),
        lambda p: [f"{p.folder / TRAIN}, row ", "class 'c1' is not in sample_submission.csv", "c0, c7, c2"],
    ),
    "a comma too many in each row": (
        lambda p: (p.folder / TRAIN).write_text((p.folder / TRAIN).read_text().replace(".jpg", ".jpg,")),
        lambda p: [f"{p.folder / TRAIN}: its rows have more fields than its header"],
    ),
    "a folder in place of the training list": (
        lambda p: ((p.folder / TRAIN).unlink(), (p.folder / TRAIN).mkdir()),
        lambda p: [f"{p.folder / TRAIN}: not a readable CSV file"],
    ),
}
ALONE = {"p001c0", "p003c1", "p001c2", "p003c2", "p004c2"}
SPLIT_FAULTS: dict[str, Fault] = {
    "two of three subjects that alone show a class": (
        lambda p: p.edit(TRAIN, lambda t: t[(t["subject"] + t["classname"]).isin(ALONE)]),
        lambda p: [
            f"{p.folder / TRAIN}: ",
            "always trained on (c0: p001; c1: p003), which leaves 1 of 3 subjects",
            "add images",
        ],
    ),
    "two subjects": (
        lambda p: p.edit(TRAIN, lambda t: t[t["subject"].isin(["p001", "p004"])]),
        lambda p: [f"{p.folder / TRAIN}: ", "at least 3 subjects", "got 2 (p001, p004)", "add subjects"],
    ),
}


@pytest.mark.parametrize("fault", [*FAULTS, *SPLIT_FAULTS])
def test_a_bad_folder(project: Project, fault: str) -> None:
    """No name is bound to unusable data, so the data can be repaired under the same name."""
    plant, expected = (FAULTS | SPLIT_FAULTS)[fault]
    plant(project)
    check(project, project.train, *expected(project))


@pytest.mark.parametrize("fault", ["missing training list", "truncated image"])
def test_a_folder_that_is_damaged_after_training(trained: Project, fault: str) -> None:
    """Every command reports it, and earlier results stay unchanged."""
    plant, expected = FAULTS[fault]
    plant(trained)
    for command in (trained.folds, trained.train, trained.ensemble, trained.submit, trained.status):
        check(trained, command, *expected(trained))


def test_other_data_under_the_same_name(trained: Project) -> None:
    other = Project(shutil.copytree(trained.folder, trained.folder.parent / "elsewhere/tiny"), trained.root)
    other.first_image.rename(other.first_image.with_name("renamed.jpg"))
    other.edit(TRAIN, lambda t: t.assign(img=["renamed.jpg", *t["img"][1:]]))
    oof = trained.root / "oof/tiny"
    for command in (other.folds, other.train):
        belongs = f"{oof / 'data.json'}: the name 'tiny' belongs to other data than {other.folder}"
        check(other, command, belongs, "rename the folder")
    for command in (other.ensemble, other.submit, other.status):  # the folds are read first
        its_images = f"{oof / 'folds.csv'}: its images are not those of {other.folder}"
        check(other, command, its_images, f"remove {oof}")


def test_an_image_that_changed_after_training(trained: Project) -> None:
    """Names and labels are unchanged, but the runs were trained on other data."""
    trained.first_image.write_bytes(trained.first_image.read_bytes() + b"\0")
    for command in (trained.folds, trained.train, trained.ensemble, trained.submit, trained.status):
        check(trained, command, "oof/tiny/data.json: the name 'tiny' belongs to other data")


def test_a_damaged_binding(trained: Project) -> None:
    path = trained.root / "oof/tiny/data.json"
    path.write_text("{")
    for command in (trained.train, trained.status):
        check(trained, command, f"{path}: damaged; remove this file only")
    path.unlink()
    assert trained.status().code == 0 and path.is_file()


def test_before_anything_is_trained(project: Project) -> None:
    for command in (project.ensemble, project.submit, project.status):
        check(project, command, "no folds yet", "`make folds`")


# Faults on the command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ("training.sede=1", ["unknown key training.sede", "training.seed"]),
        ("phases.finetun.epochs=1", ["unknown phase phases.finetun", "scratch, features, finetune"]),
        ("training.batch_size=many", ["training.batch_size", "integer", "'many'"]),
        ("augment.policy=hevy", ["augment.policy", "'hevy'", "none, light, heavy"]),
        ("recipe=fine", ["unknown recipe 'fine'", "features_dense, fine_tune"]),
        ("training.seed", ["SET: expected key=value such as training.seed=1, got 'training.seed'"]),
        ("training.seed=-1", ["training.seed", "greater than or equal to 0"]),
        ("training.seed='1", ["SET=", "No closing quotation"]),
    ],
)
def test_wrong_settings(project: Project, settings: str, parts: list[str]) -> None:
    check(project, lambda: project.train(settings=settings), *parts)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ("model.backbone=test_resnt", ["model.backbone: timm has no network 'test_resnt'", "test_resnet"]),
        ("model.backbone=resnet50.a9_in1k", ["no weights 'a9_in1k' of resnet50; there are: a1_in1k, a1h"]),
        ("model.weights=lost.pth", ["model.weights=lost.pth: no such file", "expected imagenet, none, auto"]),
        (
            "model.weights=auto",
            ["ImageNet weights timm/test_resnet.r160_in1k", "cannot be reached", "SET='model.weights=none'"],
        ),
        (
            "augment.policies.heavy=[{Blurr: {}}]",
            ["augment.policies: albumentations has no transform 'Blurr'"],
        ),
        (
            "augment.policies.heavy=[{RandomCrop: {height: 500, width: 500}}]",
            ["augment.policies: a transform fails on an image of", "CropSizeError"],
        ),
        ("phases.scratch=null", ["phases: none of features, finetune applies to random weights"]),
    ],
)
def test_settings_that_fail_only_in_training(project: Project, settings: str, parts: list[str]) -> None:
    check(project, lambda: project.train(settings=f"'{settings}'"), *parts, may_leave=frozenset(BINDING))


def test_an_unknown_model(project: Project) -> None:
    parts = ["unknown model 'resnet51'", "efficientnet_lite0, ", "model.backbone="]
    check(project, lambda: project.train(model="resnet51"), *parts)


def test_no_model(project: Project) -> None:
    check(project, lambda: project.train(model=" "), "MODEL= is missing: a name in configs/models")


@pytest.mark.parametrize("name", ["../mine", "a b", ".hidden"])
def test_a_name_that_is_no_valid_folder_name(project: Project, name: str) -> None:
    parts = [f"NAME {name!r}", "expected letters, digits"]
    check(project, lambda: project.train("--name", name), *parts, may_leave=frozenset(BINDING))


def test_a_name_that_collides_with_a_file_of_the_store(trained: Project) -> None:
    parts = ["NAME=folds.csv: ", "is a file of the store", "choose another name"]
    check(trained, lambda: trained.train("--name", "folds.csv"), *parts)
    check(trained, lambda: trained.submit("--name", "../tiny/resnet50"), "NAME '../tiny/resnet50'")


def test_a_missing_run(trained: Project) -> None:
    for command in (lambda: trained.ensemble("--runs", "resnet"), lambda: trained.submit("--name", "resnet")):
        check(trained, command, "there is no run 'resnet' on tiny; there are: resnet50")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--run", ""], ["RUN= is missing: a trained run"]),
        (["--run", "resnet"], ["there is no run 'resnet' on tiny; there are: resnet50"]),
        (["--views", " "], ["VIEWS= is empty", "centre (1), five_crops (5)"]),
        (["--views", "centre flips"], ["VIEWS: unknown group 'flips'; there are centre (1), five_crops (5)"]),
        (["--average", "median"], ["AVERAGE=median: expected probs or log_probs"]),
        (["--name", "resnet50"], ["NAME=resnet50: there is a run of that name", "choose another name"]),
        (["--set", "training.seed=1"], ["SET: training is as the run was trained", "runtime.device=cpu"]),
        (["--set", "runtime.devise=cpu"], ["unknown key runtime.devise", "runtime.device"]),
    ],
)
def test_invalid_views(trained: Project, arguments: list[str], parts: list[str]) -> None:
    check(trained, lambda: trained.tta(*arguments), *parts)


@pytest.mark.parametrize(
    ("images", "arguments", "parts"),
    [
        ("", [], ["IMAGES= is missing: a folder of photographs"]),
        ("nowhere", [], ["nowhere: no such folder"]),
        ("imgs/test", ["--name", "vgg16"], ["there is no run 'vgg16' on tiny; there are: resnet50"]),
        ("imgs/test", ["--name", ""], ["there is no blend yet", "NAME=<run> takes another run"]),
        ("imgs/test", ["--set", "training.seed=1"], ["training is as the run was trained"]),
        ("imgs/test", ["--set", "runtime.tracking=x"], ["runtime.tracking: input should be"]),
    ],
)
def test_invalid_arguments_for_predicting_photographs(
    trained: Project, images: str, arguments: list[str], parts: list[str]
) -> None:
    given = [str(trained.folder / images) if images else "", "--name", "resnet50", *arguments]
    check(trained, lambda: run(predict.main, "--images", *given, *trained.where), *parts)
    assert not trained.folder.with_name("test.csv").exists()


def test_predictions_that_cannot_be_written_are_not_made(
    trained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's input is read-only, and the default is a file beside the photographs."""
    monkeypatch.setattr(predict.os, "access", lambda path, mode: mode != os.W_OK)
    monkeypatch.chdir(trained.folder / "imgs/test")
    message = f"{trained.folder / 'imgs/test.csv'}: {trained.folder / 'imgs'} is not writable"
    check(trained, lambda: run(predict.main, "--images", ".", *trained.where), message, "OUT=")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--run", ""], ["MODEL= is missing"]),
        (["--run", "vgg16"], ["vgg16/fold0/manifest.json: no such prediction", "makes it"]),
        (["--run", "resnet50", "--fold", "7"], ["FOLD=7: there are 3 folds, 0 to 2"]),
    ],
)
def test_invalid_exports(trained: Project, arguments: list[str], parts: list[str]) -> None:
    check(trained, lambda: run(export.main, *arguments, *trained.where), *parts)


def test_views_need_the_networks_and_all_folds(trained: Project) -> None:
    path = trained.root / "runs/tiny/resnet50/fold0/model.safetensors"
    path.unlink()
    check(trained, trained.tta, f"{path}: no such file", "FORCE=1 trains the fold again")
    (trained.root / "oof/tiny/resnet50/fold1/manifest.json").unlink()
    check(trained, trained.tta, "resnet50: fold 1 of 3 is missing; `make cv` finishes a run")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--runs", ""], ["RUNS= is missing: one or more complete runs"]),
        (["--runs", "resnet"], ["there is no run 'resnet' on tiny; there are: resnet50"]),
        (["--runs", "a b", "--name", "c"], ["NAME=c: one name for 2 runs"]),
        (["--parts", "bias"], ["PARTS: expected some of prior, temperature, clip; got 'bias'"]),
        (["--name", "resnet50"], ["NAME=resnet50: there is a run of that name", "choose another name"]),
    ],
)
def test_invalid_calibrations(trained: Project, arguments: list[str], parts: list[str]) -> None:
    check(trained, lambda: trained.calibrate(*arguments), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--spaces", " "], ["SPACES=' ': expected at least one"]),
        (["--spaces", "resnet51"], ["unknown model 'resnet51'; configs/models/ holds: "]),
        (["--spaces", "mlp"], ["SPACES: mlp has no pretrained weights here", "expected a network that has"]),
        (["--methods", "median"], ["METHODS: there is no 'median'; expected some of neighbours"]),
        (["--methods", "neighbours clusters", "--how", "k=3"], ["HOW='k=3' is a setting of one method"]),
        (["--how", "k=3"], ["neighbours takes mean, bandwidth, k; expected e.g. HOW='mean=arithmetic"]),
        (
            ["--how", "k=60 bandwidth=0.3 mean=arithmetic"],
            ["HOW='k=60 bandwidth=0.3 mean=arithmetic': expected k at most 6 here", "smallest fold or test"],
        ),
        (["--runs", "resnet"], ["there is no run 'resnet' on tiny; there are: resnet50"]),
        (["--methods", "clusters"], ["too few images for METHODS='clusters'", "at most k=6 and size=3"]),
        (["--set", "model.image_size=64"], ["SET: model is as the run was trained", "only runtime.*"]),
    ],
)
def test_invalid_smoothing(trained: Project, arguments: list[str], parts: list[str]) -> None:
    check(trained, lambda: trained.smooth(*arguments), *parts)


def test_smoothing_a_blend_in_its_own_space(trained: Project) -> None:
    assert trained.ensemble().code == 0
    parts = ["SPACES=own: ensemble has several networks a fold", "SPACES=resnet50"]
    check(trained, lambda: trained.smooth("--runs", "ensemble"), *parts)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ("pseudo.teachers=[resnet]", ["there is no run 'resnet' on tiny; there are: resnet50"]),
        ("pseudo.teachers=[student]", ["student cannot teach itself"]),
        ("pseudo.teachers=[resnet50] pseudo.threshold=0.999", ["keeps none of 7 images in fold 0", "lower"]),
        ("pseudo.teachers=[resnet50] mixing.mixup.prob=1", ["pseudo.teachers and mixing do not go together"]),
        ("pseudo.teachers=[resnet50] pseudo.share=1", ["pseudo.share: ", "less than 1"]),
        ("pseudo.teachers=[resnet50] pseudo.teacher_weights=[1,2]", ["2 teacher_weights for 1 teachers"]),
    ],
)
def test_invalid_teachers(trained: Project, settings: str, parts: list[str]) -> None:
    check(trained, lambda: trained.train("--name", "student", settings=settings), *parts)


def test_a_teacher_fitted_across_folds(trained: Project) -> None:
    assert trained.calibrate().code == 0
    parts = ["resnet50_calibrated was fitted on out-of-fold rows", "expected runs as they were trained"]
    settings = "pseudo.teachers=[resnet50_calibrated]"
    check(trained, lambda: trained.train("--name", "student", settings=settings), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--steps", "stairs"], ["STEPS: there is no 'stairs'; expected some of"]),
        (["--models", " "], ["MODELS= is missing"]),
        (["--views", "sideways"], ["VIEWS: unknown group 'sideways'"]),
        (["--methods", "median"], ["METHODS: there is no 'median'"]),
        (["--methods", "clusters"], ["too few images for METHODS='clusters'"]),
        (["--spaces", " "], ["SPACES=' ': expected at least one"]),
        (["--spaces", "own resnet51"], ["unknown model 'resnet51'"]),
        (["--truth", "gone.csv"], ["gone.csv: no such file"]),
        (["--set", f"{TINY} mixing.mixup.prob=1"], ["pseudo.teachers and mixing do not go together"]),
    ],
)
def test_a_ladder_checks_all_its_steps_before_it_starts(
    trained: Project, arguments: list[str], parts: list[str]
) -> None:
    check(trained, lambda: trained.ladder("--force", *arguments), *parts)


@pytest.mark.parametrize(
    ("header", "rows", "part"),
    [
        ("subject,class,img", "p1,c0,{img}", "expected the column 'classname', got subject, class, img"),
        ("subject,classname,img", "p1,c7,{img}", "unknown class 'c7'; expected c0, c1, c2"),
        ("subject,classname,img", "p1,c0,x{img}", "its images are not those of the test set"),
    ],
)
def test_true_labels_that_do_not_fit_the_test_set(
    trained: Project, tmp_path: Path, header: str, rows: str, part: str
) -> None:
    imgs = [path.name for path in sorted((trained.folder / "imgs/test").iterdir())]
    path = tmp_path / "truth.csv"
    path.write_text("\n".join([header, *(rows.format(img=img) for img in imgs)]) + "\n")
    check(trained, lambda: trained.ladder("--truth", str(path)), f"{path}: {part}")


def test_an_unknown_blender(trained: Project) -> None:
    check(trained, lambda: trained.ensemble("--blenders", "median"), "BLENDERS: unknown blender 'median'")


def test_weights_that_learned_this_datas_labels(trained: Project) -> None:
    """They were trained on labels of rows that they would be scored on."""
    path = trained.root / "runs/tiny/resnet50/fold0/model.safetensors"
    parts = [f"model.weights={path}: this network learned from labels of tiny", "from elsewhere"]
    check(trained, lambda: trained.train("--name", "again", settings=f"model.weights={path}"), *parts)


def test_a_folder_that_cannot_be_written(trained: Project) -> None:
    (trained.root / "submissions").write_text("in the way")
    outcome = trained.submit("--name", "resnet50")
    assert outcome.code == 1
    [line] = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert "submissions" in line and "finished work is kept" in line
    assert "Traceback" not in outcome.err


def test_unknown_data(project: Project) -> None:
    parts = ["unknown data 'state_frm'", "sample, sample_random_split, state_farm"]
    arguments = ("--model", "resnet50", "--data", "state_frm", "--root", str(project.root))
    check(project, lambda: run(train.main, *arguments), *parts)


@pytest.mark.parametrize("fold", ["3", "-1"])
def test_a_fold_out_of_range(project: Project, fold: str) -> None:
    parts = [f"FOLD={fold}: there are 3 folds, 0 to 2"]
    check(project, lambda: project.train("--fold", fold), *parts, may_leave=frozenset(BINDING))


def test_a_fold_that_is_no_number(project: Project) -> None:
    """typer reports this itself, with the usage and exit code 2."""
    outcome = project.train("--fold", "first")
    assert outcome.code == 2
    assert "--fold" in outcome.err
    assert not project.files()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("made_by", "given_to"),
    [("test_resnet", "test_vit"), ("test_vit", "test_resnet"), ("test_vit", "test_convnext")],
)
def test_weights_of_another_architecture(
    project: Project, tmp_path: Path, suffix: str, made_by: str, given_to: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    state = timm.create_model(made_by, pretrained=False).state_dict()
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    settings = f"model.backbone={given_to} model.weights={path} phases.features=null phases.finetune.epochs=1"
    check(
        project,
        lambda: project.train(settings=settings),
        f"{path}: not the weights of {given_to}",
        f"give weights of {given_to}",
        may_leave=frozenset(BINDING),
    )


def test_debug_shows_the_traceback(project: Project) -> None:
    with pytest.raises(ConfigError, match="unknown model"):
        project.train("--debug", model="resnet51")


def test_ctrl_c_prints_one_line() -> None:
    def main() -> None:
        raise KeyboardInterrupt

    outcome = run(main)
    assert outcome.code == 130
    assert outcome.err == "interrupted; finished folds are kept\n"


# Changes between two commands ------------------------------------------------------------------------------


def test_another_number_of_folds(trained: Project) -> None:
    path = trained.root / "oof/tiny/folds.csv"
    parts = [f"{path} has 3 folds, this run asks for 2", "training.num_folds=3", f"remove {path.parent}"]
    check(trained, lambda: trained.train(settings="training.num_folds=2"), *parts)


def test_another_config_under_the_same_name(trained: Project) -> None:
    """FORCE=1 for a single fold is rejected too: the other folds would keep the first config."""
    parts = [str(trained.root / "oof/tiny/resnet50/fold"), "made with another config", "NAME=resnet50_2"]
    parts += ["(training.seed 0, now 5);"]
    check(trained, lambda: trained.train(settings="training.seed=5"), *parts)
    check(trained, lambda: trained.train("--fold", "1", "--force", settings="training.seed=5"), *parts)


def test_predictions_made_with_other_folds(trained: Project) -> None:
    """folds.csv changed after the run was trained; the remedy in the message works."""
    path = trained.root / "oof/tiny/folds.csv"
    table = pd.read_csv(path)
    table.assign(fold=(table["fold"] + 1) % 3).to_csv(path, index=False)
    parts = [str(trained.root / "oof/tiny/resnet50/fold0/manifest.json"), "made with other folds", "FORCE=1"]
    student = "pseudo.teachers=[resnet50]"
    taught = lambda: trained.train("--name", "student", settings=student)  # noqa: E731
    commands = (trained.ensemble, trained.submit, trained.calibrate, trained.smooth, trained.tta, taught)
    for command in (trained.train, *commands):
        check(trained, command, *parts)
    assert trained.train("--force").code == 0
    assert trained.ensemble().code == 0


def edit_parquet(path: Path) -> None:
    """Improve the prediction of one image; its probabilities still sum to 1."""
    table = pd.read_parquet(path)
    table.loc[0, ["c0", "c1", "c2"]] = np.log([0.8, 0.1, 0.1]).astype(np.float32)
    table.to_parquet(path, index=False)


@pytest.mark.parametrize("part", ["valid", "test"])
def test_predictions_edited_by_hand(trained: Project, part: str) -> None:
    path = trained.root / f"oof/tiny/resnet50/fold1/{part}.parquet"
    edit_parquet(path)
    parts = [f"{path}: not the file that its manifest describes", "again with FORCE=1"]
    check(trained, trained.ensemble, *parts)
    check(trained, lambda: trained.submit("--name", "resnet50"), *parts)


def test_folds_edited_by_hand(trained: Project) -> None:
    """With one image in another fold its subject would be on both sides of a split."""
    path = trained.root / "oof/tiny/folds.csv"
    table = pd.read_csv(path)
    table.loc[0, "fold"] = (table["fold"][0] + 1) % 3
    table.to_csv(path, index=False)
    parts = [f"{path}: subject {table['subject'][0]} is in more than one fold", "restore it"]
    for command in (trained.train, trained.ensemble, trained.submit, trained.status):
        check(trained, command, *parts)


def test_a_missing_fold(trained: Project) -> None:
    shutil.rmtree(trained.root / "oof/tiny/resnet50/fold2")
    check(
        trained, lambda: trained.ensemble("--runs", "resnet50"), "resnet50: fold 2 of 3 is missing", "make cv"
    )
    check(trained, lambda: trained.submit("--name", "resnet50"), "resnet50", "2", "make cv")


def test_no_blend_yet(trained: Project) -> None:
    check(trained, trained.submit, "there is no blend yet", "`make ensemble`", "NAME=")


# Through make ----------------------------------------------------------------------------------------------


def test_make_fails_with_the_message_alone() -> None:
    root = CONFIGS.parent
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", str(root), "train", "MODEL=nope", f"VENV={sys.prefix}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "error: unknown model 'nope'; configs/models/ holds: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


BACKBONE = "model.backbone=test_resnet model.image_size=32 training.num_folds=3 runtime.device=cpu"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("phases.finetune.unfreeze={from: layer9}", ["phases.finetune.unfreeze", "'layer9'", "stem, layer1"]),
        ("phases.finetune.freeze={layers: 99}", ["phases.finetune.freeze: 99 layers; this backbone has 15"]),
        ("phases.finetune.unfreeze={blocks: 9}", ["phases.finetune.unfreeze: 9 blocks", "has 5"]),
        ("phases.finetune.patience=3", ["phases.finetune: patience", "SET='training.holdout=0.1'"]),
        ("training.leaky=true", ["training.leaky", "LEAKY=1"]),
        ("model.head.block=layer9", ["model.head.block", "'layer9'", "stem, layer1"]),
        ("model.head.auxiliary=0.3", ["model.head.auxiliary", "inception_v3 and googlenet", "expected 0"]),
        ("phases={features: null, finetune: null, scratch: null}", ["phases: all of them are null"]),
        ("model.head.hidden=8", ["phases.features: a logistic regression", "kind: head"]),
    ],
)
def test_settings_that_the_recipe_or_the_network_does_not_support(
    project: Project, weights: Path, setting: str, parts: list[str]
) -> None:
    settings = f"{setting} model.weights={weights}"
    check(project, lambda: project.train(settings=settings), *parts, may_leave=frozenset(BINDING))
    outcome = run(freeze.main, "--model", "resnet50", "--set", f"{BACKBONE} {settings}")
    assert outcome.code == 1 and all(part in outcome.err for part in parts)


def test_a_recipe_with_an_empty_phase_list(project: Project, tmp_path: Path) -> None:
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    (configs / "recipes/empty.yaml").write_text("phases: {}\n")
    with pytest.raises(ConfigError, match=r"empty\.yaml: expected at least one phase under `phases`"):
        load_config(model="resnet50", data="sample", overrides=["recipe=empty"], configs=configs)


@pytest.mark.parametrize("more", ["model.weights=none", ""])
def test_advice_needs_a_pretrained_network(more: str, project: Project) -> None:
    def advised() -> Outcome:
        settings = f"{BACKBONE} {more}"
        return run(advise.main, "--models", "resnet50", "--set", settings, *project.where)

    check(project, advised, "MODELS: none of resnet50 has pretrained", may_leave=frozenset(BINDING))


def test_advice_needs_two_classes(project: Project) -> None:
    project.edit(TRAIN, lambda table: table[table["classname"] == "c0"])
    project.edit(SAMPLE, lambda table: table[["img", "c0"]])

    def advised() -> Outcome:
        return run(advise.main, "--models", "resnet50", "--set", BACKBONE, *project.where)

    check(project, advised, SAMPLE, "one for each of two classes or more, got img, c0")


def test_a_leaky_run_in_a_blend(project: Project) -> None:
    settings = "phases.scratch.keep=best"
    assert project.train("--leaky", "--name", "watched", settings=settings).code == 0
    check(
        project, lambda: project.ensemble("--runs", "watched"), "RUNS: 'watched' watched the folds", "LEAKY=1"
    )
    outcome = project.ensemble("--runs", "watched", "--leaky")
    assert outcome.code == 0 and "macro F1" in outcome.out and "AUC" in outcome.out
    check(project, project.submit, "ensemble: leaky (LEAKY=1)", "NAME=<run> takes another run")
    outcome = project.submit("--name", "ensemble")
    assert outcome.code == 0 and "its expected score is too good" in outcome.err
    assert "blend, leaky" in project.status().out


@pytest.mark.parametrize("limit", ["8", "h", "8h30", "-1h", "1.5h", "0s"])
def test_invalid_time_limits(trained: Project, limit: str) -> None:
    check(trained, lambda: trained.train(f"--time-limit={limit}"), f"TIME_LIMIT='{limit}'", "such as 8h30m")


@pytest.mark.parametrize(
    ("arguments", "settings", "parts"),
    [
        (["--hours", "0"], "", ["HOURS='0'", "above 0"]),
        (["--hours=-1"], "", ["HOURS='-1'"]),
        (["--hours", "soon"], "", ["HOURS='soon'", "1h30m"]),
        (["--hours", "nan"], "", ["HOURS='nan'"]),
        (["--hours", "5s"], "", ["too short for anything", "would do"]),
        ([], "recipe=full", ["recipes and their phases are chosen by make compete; leave recipe out"]),
        ([], "phases.finetune.epochs=3", ["leave phases.finetune.epochs out"]),
        ([], "model.weights=none", ["no pretrained weights", "resnet50"]),
        ([], "model.weights=gone.pth", ["no pretrained weights", "gone.pth"]),
        (["--models", "resnet51"], "", ["MODELS", "'resnet51'", "configs/models"]),
    ],
)
def test_invalid_competitions(
    trained: Project, tmp_path: Path, arguments: list[str], settings: str, parts: list[str]
) -> None:
    weights = tmp_path / "net.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), weights)
    tiny = TINY.replace("phases.scratch.epochs=1 ", "").replace("weights=none", f"weights={weights}")
    given = ["--models", "resnet50", *arguments, "--set", f"{tiny} {settings}"]
    check(trained, lambda: run(compete.main, *given, *trained.where), *parts)


@pytest.mark.parametrize(
    ("arguments", "settings", "content", "parts"),
    [
        (["--model", ""], "", None, ["MODEL= is missing"]),
        (["--hours", "soon"], "", None, ["HOURS='soon'", "1h30m"]),
        (["--sampler", "tpe"], "", None, ["SAMPLER=tpe", "quasi or random"]),
        (["--file", "gone.yaml"], "", None, ["gone.yaml", "not readable YAML"]),
        ([], "phases.finetune.lr=0.1", None, ["SET: phases.finetune.lr is searched by", "sweep.yaml"]),
        ([], "", "{phases.finetune.lrr: {values: [1, 2]}}", ["lrr"]),
        ([], "", "{training.seed: {distribution: beta}}", ["search.yaml: training.seed", "beta"]),
        ([], "", "{training.seed: {values: [1]}}", ["1 different", "nothing to search"]),
        (["--name", "../x"], "", None, ["NAME '../x'", "letters, digits"]),
        (["--name", "resnet50"], "", None, ["NAME=resnet50", "that is no search's"]),
    ],
)
def test_invalid_searches(
    trained: Project,
    tmp_path: Path,
    arguments: list[str],
    settings: str,
    content: str | None,
    parts: list[str],
) -> None:
    if content is not None:
        path = tmp_path / "search.yaml"
        path.write_text(f"method: random\nparameters: {content}")
        arguments = [*arguments, "--file", str(path)]
    given = ["--model", "resnet50", *arguments, "--set", f"{TINY} {settings}"]
    check(trained, lambda: run(search.main, *given, *trained.where), *parts)


def test_a_plan_with_an_unknown_model(trained: Project) -> None:
    plan = trained.root / "runs/tiny/plan.yaml"
    plan.write_text("runs:\n- run: resnet51\n")
    given = ["--models", "resnet50", "--set", TINY.replace("phases.scratch.epochs=1 ", "")]
    parts = ["plan.yaml", "runs[0] (resnet51)", "configs/models", "remove the file"]
    check(trained, lambda: run(compete.main, *given, *trained.where), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--models", " "], ["MODELS= is missing"]),
        (["--models", "resnet50 vgg16", "--name", "x"], ["NAME= names one run"]),
        (["--models", "resnet50", "--folds", "0 x"], ["FOLDS='0 x': expected numbers"]),
        (["--models", "resnet50", "--folds", "7"], ["FOLD=7: there are 3 folds, 0 to 2"]),
        (["--models", "resnet50", "--seeds", "-1"], ["training.seed"]),
        (["--models", "resnet50 resnet51"], ["unknown model 'resnet51'"]),
        (["--models", "resnet50", "--set", f"{TINY} training.seed=1"], ["made with another config", "NAME="]),
        (
            ["--models", "vgg16", "--set", f"{TINY} runtime.num_cpus=9999"],
            ["vgg16, fold 0: asks for 9999 cores"],
        ),
    ],
)
def test_invalid_grids(trained: Project, arguments: list[str], parts: list[str]) -> None:
    given = arguments if "--set" in arguments else [*arguments, "--set", TINY]
    check(trained, lambda: run(grid.main, *given, *trained.where), *parts)
