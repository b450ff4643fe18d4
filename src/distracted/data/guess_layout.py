"""A guess at the layout of a competition's folder, as settings of configs/data/<data>.yaml.

What a folder cannot say is assumed, and the assumption is named, so that it can be asked or set.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from distracted.data.folder_contents import FolderContents
from distracted.data.guess_columns import NO_AMOUNTS, GuessedColumns
from distracted.data.guess_labels import has_fractions
from distracted.data.guess_lists import listed
from distracted.data.train_list import sort_classes

_NEGATIVE = {
    *("0", "0.0", "no", "false", "negative", "normal", "healthy", "benign", "none", "background", "control"),
}


class Guess(GuessedColumns):
    """Settings of the data section, guessed one after another.

    Attributes:
        settings: Keys and values of the data section.

    Arguments and errors as those of `GuessedLists`.
    """

    def __init__(self, contents: FolderContents, answers: Mapping[str, Any]) -> None:
        super().__init__(contents, answers)
        labels, label = self._labels, self._columns["label"]
        in_order = list(sort_classes(labels)) if isinstance(label, str) else list(label)
        lists = [path for path in (self._sample_path, *listed(self._train_list)) if path is not None]
        classes = self._take("classes", lambda: self._find_class_names(in_order, lists))
        names = list(classes.values()) if isinstance(classes, dict) else list(classes or in_order)
        if not {"classes", "submission"} & set(answers):
            self._refuse_amounts(in_order)
        metric = self._take("metric", self._assume_metric)
        submission = self._take("submission", lambda: self._find_submission(names, metric))
        if submission == "probability" and classes is None:
            classes = self._order_two(names)
        are_names = submission == "label" and classes is None and not _are_numbers(names)
        if metric == "quadratic_kappa" and are_names:
            self.assumed["classes"] = "the classes in order: the quadratic kappa counts its steps"
            classes = names
        others = {
            key: value
            for key, value in answers.items()
            if key in ("kaggle", "num_test_subjects", "public_share")
        }
        self.settings: dict[str, Any] = {
            **others,
            "train_list": self._train_list,
            "train_images": self._train_images,
            "test_images": self._test_images,
            "sample_submission": self._sample_path,
            "columns": self._columns,
            "subject_pattern": self._pattern,
            "label_pattern": self._label_pattern,
            "classes": classes,
            "submission": submission,
            "metric": metric,
        }

    def _find_class_names(
        self, labels: Sequence[str], lists: Sequence[str]
    ) -> dict[str, str] | list[str] | None:
        """Names of numbered classes, where a table of the folder has them; numbers as 10.0 in order."""
        if all(label.isdecimal() for label in labels):
            return self._contents.class_names(labels, lists) or None
        numbers = pd.to_numeric(pd.Series(labels), errors="coerce")
        if numbers.isna().any() or numbers.is_monotonic_increasing:
            return None
        return [labels[place] for place in numbers.argsort()]

    def _refuse_amounts(self, labels: Sequence[str]) -> None:
        """Refuse numbers that are no classes: those with fractions, or with fractions in the sample."""
        values = pd.Series(labels)
        if has_fractions(values):
            raise self._error(f"labels such as {labels[0]} have fractions: {NO_AMOUNTS}")
        if self._sample is None or len(self._header()) > 1 or len(labels) == 2 or not _are_numbers(labels):
            return
        if has_fractions(shown := self._sample[self._header()[0]]):
            raise self._error(
                f"labels are numbers, and the sample submission shows {shown.iloc[0]}: {NO_AMOUNTS}. "
                'SET="data.submission=label" says that the numbers are classes'
            )

    def _assume_metric(self) -> str:
        self.assumed["metric"] = (
            "the score by which the competition ranks: log_loss, accuracy, balanced_accuracy, macro_f1, auc "
            "or quadratic_kappa"
        )
        if self._sample is None or len(self._header()) > 1:
            return "log_loss"
        return "auc" if _has_points(self._sample[self._header()[0]]) else "accuracy"

    def _find_submission(self, classes: Sequence[str], metric: str) -> str:
        if self._sample is None or len(self._header()) > 1:
            return "probabilities"
        values = self._sample[self._header()[0]]
        if len(classes) != 2:
            return "label"
        if _has_points(values) and not set(values) <= set(classes):
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


def _are_numbers(labels: Sequence[str]) -> bool:
    return bool(pd.to_numeric(pd.Series(labels), errors="coerce").notna().all())


def _has_points(values: "pd.Series[str]") -> bool:
    """Whether the values are numbers written with a point, such as 0.5."""
    numbers = pd.to_numeric(values, errors="coerce")
    return bool(numbers.notna().all() and values.str.contains(".", regex=False).any())
