"""Read and check a competition's folder: its images, subjects, labels and classes."""

import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import pandas as pd

from distracted.data.contents import digest_images
from distracted.data.image_files import ImageFiles
from distracted.data.matching import (
    check_none_missing,
    match_images,
    match_training_images,
    missing_images,
)
from distracted.data.names import some_of
from distracted.data.sample_submission import Sample, SubmissionFormat, read_sample, submission_format
from distracted.data.subjects import one_spelling
from distracted.data.tables import read_table
from distracted.data.train_list import (
    check_single_labels,
    list_path,
    name_classes,
    place_of,
    read_class_folders,
    read_training_list,
    sort_classes,
    subjects_in_names,
)
from distracted.data.walk import LeftOut
from distracted.errors import DataError
from distracted.headline import METRICS, Metric
from distracted.metrics import Floats, Ints, scores
from distracted.progress import Progress, silent
from distracted.schema import DataConfig


@dataclass(frozen=True, eq=False)
class Competition:
    """The checked index of a competition.

    Attributes:
        train: One row per image, sorted by `img`: img, subject, classname, label (position in `classes`),
            content (digest of the file).
        test: One row per image in the sample submission's order (else by name): img, content.
        classes: Class names in order: the sample submission's, or that of data.classes, or sorted.
        index_hash: Hex SHA-256 of names, subjects, classes and contents; identifies the data set.
        submission: The form in which the competition wants its answers.
        has_images: Whether the images are on this machine; else the index comes from the store.
        train_files, test_files: The images' files in the order of the rows, as paths in the data folder; none
            without images.
        left_out: Files that are no images by their ending, dead links and the like, where no list says which
            files count.
        unlisted: Images on disk that no list names, under "train" and "test"; paths in the data folder.
    """

    config: DataConfig
    train: pd.DataFrame
    test: pd.DataFrame
    classes: tuple[str, ...]
    index_hash: str
    submission: SubmissionFormat
    has_images: bool = True
    train_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    unlisted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def metric(self) -> Metric:
        """The score that runs are judged by."""
        return METRICS[self.config.metric]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def scores(self, log_probs: Floats, labels: Ints) -> dict[str, float]:
        """The scores by which runs are judged and compared, by name: `metrics.scores` and the metric."""
        return {**scores(log_probs, labels), self.metric.name: self.metric.value(log_probs, labels)}

    @property
    def num_subjects(self) -> int:
        return int(one_spelling(self.train).nunique())

    def train_paths(self) -> list[Path]:
        return [self.config.folder / path for path in self.train_files]

    def test_paths(self) -> list[Path]:
        return [self.config.folder / path for path in self.test_files]


def load_competition(
    config: DataConfig, *, cache: Path | None = None, progress: Progress = silent
) -> Competition:
    """Read a competition's folder and check it.

    Args:
        config: The folder and the names of its files and columns.
        cache: Folder for the digests of images; may be missing.

    Raises:
        DataError: the message names the wrong file, row or image and the remedy.
    """
    listed = read_lists(config)
    train, test, classes = listed.train, listed.test, listed.classes
    paths = [f"{config.folder}/{path}" for path in (*listed.train_files, *listed.test_files)]
    cache_file = cache / "contents.parquet" if cache else None
    digests = digest_images(paths, root=config.folder, cache=cache_file, progress=progress)
    train = train.assign(content=digests[: len(train)])
    test = test.assign(content=digests[len(train) :])
    index_hash = hash_index(train, test, classes)
    return replace(listed, train=train, test=test, index_hash=index_hash)


def read_lists(config: DataConfig) -> Competition:
    """Read a competition's lists and find its files, which are not opened: contents and hash are missing.

    Raises:
        DataError: the message names the wrong file, row or image and the remedy.
    """
    folder = config.folder
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {_remedy(config)}")
    for name in (config.sample_submission, *config.train_lists):
        if name is not None and not (folder / name).exists():
            raise DataError(
                f"{folder / name}: no such file; is this a competition's folder? For one in another layout "
                f"`make new-competition FOLDER={shlex.quote(str(folder))}` writes a file in configs/data/"
            )
    sample = read_sample(config)
    files = ImageFiles(folder, config.train_images)
    rows = read_training_list(config) if config.train_lists else read_class_folders(config, files)
    names = name_classes(rows["label"], config)
    classes = _find_classes(config, sample, names)
    _check_classes(config, sample, names, classes)
    missing, hint = list[str](), ""
    if config.train_lists:
        listed, path = rows["img"], list_path(config)
        rows["img"], rows["path"] = match_training_images(listed, rows["label"], names, files, path)
        missing, hint = missing_images(listed, rows["path"], files, key="train_images", labels=rows["label"])
    if "subject" not in rows:
        rows["subject"] = subjects_in_names(rows["img"], config)
    rows["classname"] = names
    rows["label_id"] = names.map({name: number for number, name in enumerate(classes)})
    rows = rows.sort_values("img", ignore_index=True)
    same = config.test_images == config.train_images
    test_files = files if same else ImageFiles(folder, config.test_images)
    train_paths = rows["path"].tolist()
    tests, more, test_hint = _find_test_images(config, sample, test_files, set(train_paths))
    test_paths = tests["path"].tolist()
    left_out = {*(() if config.train_lists else files.others), *(() if sample else test_files.others)}
    check_none_missing(folder, [*missing, *more], hint or test_hint)
    unlisted = _find_unlisted(files, test_files, {*train_paths, *test_paths})
    return Competition(
        config,
        rows[["img", "subject", "classname"]].assign(label=rows["label_id"]),
        tests[["img"]],
        classes,
        "",
        submission_format(config, sample, classes),
        train_files=tuple(train_paths),
        test_files=tuple(test_paths),
        left_out=tuple(sorted(left_out)),
        unlisted=unlisted,
    )


def read_train_imgs(config: DataConfig) -> set[str]:
    """The names of the training images; only the list is read where its names stand for themselves."""
    if config.train_lists:
        imgs = read_table(list_path(config)).get(config.columns.img)
        if imgs is not None and imgs.is_unique:
            return set(imgs)
    return set(read_lists(config).train["img"])


def _find_test_images(
    config: DataConfig, sample: Sample | None, files: ImageFiles, taken: Set[str]
) -> tuple[pd.DataFrame, list[str], str]:
    """The test images and their files; the missing ones, and a hint.

    Args:
        taken: Files that are training images.
    """
    if sample is not None:
        imgs = pd.Series(sample.imgs, dtype=str)
        paths = match_images(imgs, files, config.folder / str(config.sample_submission))
        missing, hint = missing_images(imgs, paths, files, key="test_images")
        return pd.DataFrame({"img": imgs, "path": paths}), missing, hint
    images = {name: path for name, path in files.images.items() if path not in taken}
    if not images:
        raise DataError(
            f"{config.folder}: no test images in {', '.join(files.places)} (data.test_images), and no sample "
            "submission that lists some"
        )
    return pd.DataFrame({"img": images.keys(), "path": images.values()}, dtype=str), [], ""


def _find_unlisted(files: ImageFiles, test_files: ImageFiles, named: Set[str]) -> dict[str, tuple[str, ...]]:
    """Images that no list names; one in the folders of both parts counts for the part with fewer files."""
    train = files.without(named)
    test = () if test_files is files else test_files.without(named)
    if len(test_files.paths) < len(files.paths):
        train = tuple(path for path in train if path not in test_files.paths)
    else:
        test = tuple(path for path in test if path not in files.paths)
    return {"train": train, "test": test}


def _find_classes(config: DataConfig, sample: Sample | None, names: "pd.Series[str]") -> tuple[str, ...]:
    """The classes in order: the sample submission's columns, those of data.classes, or the labels, sorted."""
    stated = config.classes or {}
    if sample is None or config.submission != "probabilities":
        return tuple(stated.values()) or sort_classes(names.tolist())
    classes = tuple(stated.get(column, column) for column in sample.asked)
    if stated and set(classes) != set(stated.values()):
        raise DataError(
            f"{config.folder / str(config.sample_submission)}: expected a column for each of data.classes "
            f"({some_of(stated)}), got {some_of(sample.asked)}"
        )
    return classes


def _check_classes(
    config: DataConfig, sample: Sample | None, names: "pd.Series[str]", classes: Sequence[str]
) -> None:
    """Check that each image's class is one of the classes, and that each class has an image."""
    in_header = sample is not None and config.submission == "probabilities"
    asked = config.sample_submission if in_header else "data.classes"
    if not in_header and config.classes is None:
        check_single_labels(names, config)
    if len(unknown := names[~names.isin(list(classes))]):
        has = f"is not in {asked}, which has {some_of(classes)}; its rows may be left out of the list"
        raise DataError(f"{place_of(unknown, config)}: class {unknown.iloc[0]!r} {has}")
    present = set(names.tolist())
    if empty := [name for name in classes if name not in present]:
        way_out = "take it out of data.classes"
        if in_header:
            way_out = (
                "name a copy without its column (data.sample_submission), and add a column of zeros to what "
                "`make submit` writes"
            )
        raise DataError(
            f"{list_path(config)}: no training image of class {empty[0]!r}, which {asked} asks for; {way_out}"
        )
    if "img" in classes:
        raise DataError(
            f"{list_path(config)}: a class cannot be called 'img', which names the column of images in oof/; "
            "data.classes gives it another name"
        )
    if len(classes) < 2:
        raise DataError(
            f"{list_path(config)}: all images are of class {classes[0]!r}; expected two classes or more "
            "(data.columns.label, data.train_images)"
        )


def hash_index(train: pd.DataFrame, test: pd.DataFrame, classes: Sequence[str]) -> str:
    """Hex SHA-256 of names, subjects, classes and contents, in the competition's order."""
    digest = sha256("\t".join(classes).encode())
    for table in (train[["img", "subject", "classname", "content"]], test[["img", "content"]]):
        rows = zip(*(table[column].tolist() for column in table), strict=True)
        digest.update("".join("\n" + "\t".join(row) for row in rows).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _remedy(config: DataConfig) -> str:
    if config.name.startswith("sample"):
        return "`make sample` renders it"
    if config.kaggle:
        return "`make data` downloads it, DATA=sample uses the embedded sample (`make sample`)"
    return "DATA= takes a folder in the competition's layout, or a name in configs/data/ or oof/"
