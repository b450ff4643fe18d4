"""Competitions without files, for tests that never open an image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from distracted.data.competition import Competition
from distracted.data.sample_submission import default_format
from distracted.schema import ColumnsConfig, DataConfig


def make_competition(counts: Sequence[Sequence[int]], *, group: str | None = "subject") -> Competition:
    """A competition with `counts` images by subject (rows) and class (columns), all of different content."""
    rows = [
        (f"p{subject:02}", label)
        for subject, row in enumerate(counts)
        for label, count in enumerate(row)
        for _ in range(count)
    ]
    names = [f"img_{number}.jpg" for number in np.random.default_rng(0).permutation(len(rows)) + 1000]
    train = pd.DataFrame(rows, columns=["subject", "label"])
    train.insert(0, "img", names)
    train["classname"] = "c" + train["label"].astype(str)
    train["content"] = [f"content of {name}" for name in names]
    if group is None:
        train["subject"] = train["img"]
    train = train.sort_values("img", ignore_index=True)
    test = pd.DataFrame({"img": ["t1.jpg", "t2.jpg"], "content": ["first", "second"]})
    columns = ColumnsConfig(img="img", label="classname", group=group)
    config = DataConfig(name="tables", folder=Path("/nowhere"), columns=columns)
    classes = tuple(f"c{k}" for k in range(len(counts[0])))
    return Competition(config, train, test, classes, "hash", default_format(config, classes))


@st.composite
def competitions(draw: st.DrawFn) -> Competition:
    """3 to 9 subjects, 2 to 4 classes, up to 6 images of each; every class has at least two subjects."""
    num_subjects, num_classes = draw(st.integers(3, 9)), draw(st.integers(2, 4))
    rows = st.lists(st.integers(0, 6), min_size=num_classes, max_size=num_classes).filter(any)
    counts = draw(st.lists(rows, min_size=num_subjects, max_size=num_subjects))
    for label in range(num_classes):
        lacking = [row for row in counts if not row[label]]
        for row in lacking[: max(0, 2 - (num_subjects - len(lacking)))]:
            row[label] = 1
    return make_competition(counts)
