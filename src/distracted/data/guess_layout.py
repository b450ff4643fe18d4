"""A guess at the layout of a competition's folder, as settings of configs/data/<data>.yaml.

What a folder cannot say is assumed, and the assumption is named, so that it can be asked or set.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from distracted.data.folder_contents import FolderContents
from distracted.data.train_list import sort_classes
from distracted.errors import DataError

Table = pd.DataFrame
_LABELS = (
    *("label", "labels", "class", "classname", "class_name", "class_id", "classes", "category", "target"),
    *("diagnosis", "dx", "species", "breed", "variety", "disease", "type", "kind", "y"),
)
#: What subjects are called in lists and in file names, the widest first.
_SUBJECTS = (
    *("patient", "subject", "person", "driver", "participant", "individual", "user", "owner", "animal"),
    *("lesion", "case", "study", "session", "slide", "specimen", "plant", "tree", "video", "clip", "scene"),
)
_NEGATIVE = {"0", "no", "false", "negative", "normal", "healthy", "benign", "none", "background", "control"}


class Guess:
    """Settings of the data section, guessed one after another.

    Attributes:
        settings: Keys and values of the data section.
        assumed: For each key that the folder does not say, such as "columns.group", a question for it.

    Args:
        answers: Settings by dotted key, such as {"columns.label": "target"}: they are taken as they are.

    Raises:
        DataError: the folder does not say where the classes or the test images are; says what to answer.
    """

    def __init__(self, contents: FolderContents, answers: Mapping[str, Any]) -> None:
        self.assumed: dict[str, str] = {}
        self._contents, self._answers = contents, dict(answers)
        sample_path = self._take("sample_submission", self._find_sample)
        self._sample = self._read(sample_path)
        train_images = self._take("train_images", self._find_train_images)
        self._places = _listed(train_images)
        test_images = self._take("test_images", self._find_test_images)
        train_list = self._take("train_list", lambda: self._find_train_list(sample_path))
        self._table = self._read(train_list)
        columns = self._guess_columns()
        pattern = self._take("subject_pattern", lambda: self._find_pattern(columns))
        labels = self._find_labels(columns["label"])
        lists = [path for path in (sample_path, train_list) if path is not None]
        classes = self._take("classes", lambda: self._find_class_names(labels, lists))
        names = list(classes.values()) if isinstance(classes, dict) else list(classes or labels)
        metric = self._take("metric", self._assume_metric)
        submission = self._take("submission", lambda: self._find_submission(names, metric))
        if submission == "probability" and classes is None:
            classes = self._order_two(names)
        others = {key: value for key, value in answers.items() if key in ("kaggle", "num_test_subjects")}
        self.settings: dict[str, Any] = {
            **others,
            "train_list": train_list,
            "train_images": train_images,
            "test_images": test_images,
            "sample_submission": sample_path,
            "columns": columns,
            "subject_pattern": pattern,
            "classes": classes,
            "submission": submission,
            "metric": metric,
        }

    def _take(self, key: str, guess: Callable[[], Any]) -> Any:
        return self._answers[key] if key in self._answers else guess()

    def _read(self, path: str | None) -> Table | None:
        if path is None:
            return None
        if path not in self._contents.tables:
            known = ", ".join(self._contents.tables) or "none"
            raise self._error(f"{path}: not a list with rows and columns; there are: {known}")
        return self._contents.tables[path]

    def _error(self, text: str) -> DataError:
        return DataError(f"FOLDER={self._contents.folder}: {text}")

    def _find_sample(self) -> str | None:
        named = [path for path in self._contents.tables if re.search("sample|submi", path.casefold())]
        return max(named, key=lambda path: ("sample" in path.casefold(), -path.count("/")), default=None)

    def _find_train_images(self) -> str | list[str]:
        parts = self._contents.parts
        places = [place for part in ("train", "valid") for place in parts.get(part, [])] or parts.get("", [])
        if not places:
            raise self._error(
                f"all images are in {', '.join(parts['test'])}; which are for training? "
                'SET="data.train_images=<folder>"'
            )
        return _short(places)

    def _find_test_images(self) -> str | list[str]:
        """The folder of that name; without one, the folder whose images the sample submission names."""
        parts = self._contents.parts
        if "test" in parts:
            return _short(parts["test"])
        for places in (*(places for places in parts.values() if places != self._places), self._places):
            if self._sample is not None and self._contents.naming_column(self._sample, places):
                return _short(places)
        raise self._error(
            "no test images: no folder is called test, and no sample submission names images; "
            'SET="data.test_images=<folder>" says which to predict'
        )

    def _find_train_list(self, sample: str | None) -> str | None:
        """The list that names training images and their classes; None if folders are the classes."""
        has_folders = len(self._contents.class_folders(self._places)) > 1
        lists = []
        for path, table in self._contents.tables.items():
            if path != sample and (img := self._contents.naming_column(table, self._places)):
                says_classes = self._find_label_columns(table, img) is not None
                name = path.casefold()
                rank = (says_classes, "test" not in name, "train" in name, "label" in name, len(table))
                lists.append((rank, path))
        if lists and (max(lists)[0][0] or not has_folders):
            return max(lists)[1]
        if has_folders:
            return None
        raise self._error(
            f"no list names the images in {', '.join(self._places)} and their classes, and there is no "
            'folder for each class; SET="data.train_list=<file> data.columns.img=<column> '
            f'data.columns.label=<column>" (lists: {", ".join(self._contents.tables) or "none"})'
        )

    def _guess_columns(self) -> dict[str, Any]:
        img = self._take("columns.img", self._find_img)
        label = self._take("columns.label", lambda: self._find_label(img))
        group = self._take("columns.group", lambda: self._find_group(img, label))
        first = img if self._sample is None else str(self._sample.columns[0])
        key = self._take("columns.id", lambda: None if first == img else first)
        return {"img": img, "label": label, "group": group, "id": key}

    def _find_img(self) -> str:
        if self._table is None:
            return "img" if self._sample is None else str(self._sample.columns[0])
        if column := self._contents.naming_column(self._table, self._places):
            return column
        raise self._error(
            f"no column of the list names images in {', '.join(self._places)}: {_names(self._table)}; "
            'SET="data.columns.img=<column>", or data.train_images=<folder>'
        )

    def _find_label(self, img: str) -> str | list[str]:
        if self._table is None:
            return "classname"
        if (found := self._find_label_columns(self._table, img)) is not None:
            return found
        most = min(1000, len(self._table) // 2)
        likely = [name for name in self._table.columns if 1 < self._table[name].nunique() <= most]
        likely = [name for name in likely if name != img and not _subject_words(name)]
        if len(likely) == 1:
            return str(likely[0])
        raise self._error(
            f"which column of the list holds the classes? {', '.join(likely) or _names(self._table)}; "
            'SET="data.columns.label=<column>", or =[one, for, each, class]'
        )

    def _find_label_columns(self, table: Table, img: str) -> str | list[str] | None:
        """The column of the classes, or one for each class, if the sample or a name says it."""
        others = [name for name in table.columns if name != img]
        header = [] if self._sample is None else list(self._sample.columns[1:])
        if len(header) > 1 and set(header) <= set(others):
            return header
        for name in others if len(header) > 1 else ():
            if len(values := set(table[name])) > 1 and values <= set(header):
                return str(name)
        if len(header) == 1 and header[0] in others:
            return str(header[0])
        if named := [name for known in _LABELS for name in others if name.casefold() == known]:
            return str(named[0])
        marks = [name for name in others if set(table[name]) <= {"0", "1", "0.0", "1.0"}]
        if len(marks) > 1 and (table[marks].astype(float).sum(axis=1) == 1).all():
            return marks
        return None

    def _find_group(self, img: str, label: str | Sequence[str]) -> str | None:
        """The column whose name says that it holds subjects, the widest of several."""
        if self._table is None or self._answers.get("subject_pattern") is not None:
            return None
        others = [name for name in self._table.columns if name not in (img, *_listed(label))]
        counts = {name: self._table[name].nunique() for name in others}
        if others:
            columns = ", ".join(f"{name} ({count} values)" for name, count in counts.items())
            self.assumed["columns.group"] = (
                "the column that says whose picture it is (patient, person, recording), so that nobody is on "
                f"both sides of a split; null: none. There are {columns}"
            )
        likely = [name for name in others if _subject_words(name) and 2 < counts[name] < len(self._table)]
        return min(likely, key=lambda name: _SUBJECTS.index(_subject_words(name)[0]), default=None)

    def _find_pattern(self, columns: Mapping[str, Any]) -> str | None:
        """A pattern for subjects in file names such as patient_12_3.jpg, if all names fit it."""
        if columns["group"] is not None:
            return None
        files = self._contents.files(self._places)
        names = list(files.images) if self._table is None else list(self._table[columns["img"]])
        for word in _SUBJECTS:
            pattern = rf"(?i){word}[_-]?(\d+)"
            found = [match[1] for match in (re.search(pattern, name) for name in names) if match]
            if len(found) == len(names) and 2 < len(set(found)) < len(names):
                self.assumed["subject_pattern"] = (
                    f"the pattern that finds the subject in names such as {names[0]}; null: none"
                )
                self.assumed.pop("columns.group", None)
                return pattern
        return None

    def _find_labels(self, label: str | Sequence[str]) -> list[str]:
        """All labels, in order."""
        if self._table is None:
            return list(sort_classes(self._contents.class_folders(self._places)))
        if missing := [name for name in _listed(label) if name not in self._table.columns]:
            raise self._error(f"data.columns.label={missing[0]}: the list has {_names(self._table)}")
        return list(sort_classes(self._table[label].tolist())) if isinstance(label, str) else list(label)

    def _find_class_names(self, labels: Sequence[str], lists: Sequence[str]) -> dict[str, str] | None:
        """Names of numbered classes, where a table of the folder has them."""
        numbered = all(label.isdecimal() for label in labels)
        return (self._contents.class_names(labels, lists) or None) if numbered else None

    def _assume_metric(self) -> str:
        self.assumed["metric"] = (
            "the score by which the competition ranks: log_loss, accuracy, balanced_accuracy, macro_f1, auc "
            "or quadratic_kappa"
        )
        if self._sample is None or len(self._sample.columns) > 2:
            return "log_loss"
        return "auc" if _has_fractions(self._sample.iloc[:, 1]) else "accuracy"

    def _find_submission(self, classes: Sequence[str], metric: str) -> str:
        if self._sample is None or len(self._sample.columns) > 2:
            return "probabilities"
        values = self._sample.iloc[:, 1]
        if len(classes) != 2:
            return "label"
        if _has_fractions(values) and not set(values) <= set(classes):
            return "probability"
        if set(values) <= {"0", "1"}:
            self.assumed["submission"] = "what the one column wants: label, or probability"
            return "probability" if metric in ("auc", "log_loss") else "label"
        return "label"

    def _order_two(self, names: Sequence[str]) -> list[str]:
        """Two classes; a probability is that of the second."""
        if not {name.casefold() for name in names} & _NEGATIVE:
            self.assumed["classes"] = "the two classes, second the one whose probability is asked for"
        return sorted(names, key=lambda name: (name.casefold() not in _NEGATIVE, name))


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _short(values: Sequence[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)


def _names(table: Table) -> str:
    return ", ".join(map(str, table.columns))


def _subject_words(column: str) -> list[str]:
    """The words for subjects in a column's name such as patient_id or PatientID."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).casefold())
    return [word for word in _SUBJECTS if word in words]


def _has_fractions(values: "pd.Series[str]") -> bool:
    """Whether the values are numbers written with a point, such as 0.5."""
    numbers = pd.to_numeric(values, errors="coerce")
    return bool(numbers.notna().all() and values.str.contains(".", regex=False).any())
