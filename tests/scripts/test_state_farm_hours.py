"""docs/state_farm.md shows what its script computes, and names the source of each figure."""

import csv

import pytest

import state_farm_hours as script
from distracted.paths import CONFIGS

PAGE = CONFIGS.parent / "docs/state_farm.md"


@pytest.mark.parametrize("table", [script.hours_table, script.disk_table])
def test_the_pages_tables_are_the_scripts(table: object) -> None:
    lines = table()  # type: ignore[operator]
    assert "\n".join(lines) in PAGE.read_text(), "run bench/state_farm_hours.py and copy its tables"


def test_each_figure_has_a_source_and_is_used() -> None:
    with script.TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["origin"] for row in rows} == {"measured", "published"}
    assert all(row["source"] for row in rows)
    used = set[str]()

    class Watched(dict[str, float]):
        def __getitem__(self, key: str) -> float:
            used.add(key)
            return super().__getitem__(key)

        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
            used.add(key)
            return super().get(key, default)

    for machine in script.MACHINES:
        script.stage_hours(machine, Watched(script.read_figures()))
    assert {row["key"] for row in rows} <= used


def test_a_network_without_a_figure_is_scaled_from_resnet50() -> None:
    figures = {"x_resnet50_predict": 100.0, "v100_resnet50_train": 1.0, "v100_resnet50_predict": 4.0}
    figures |= {"rtx3090_resnet50_predict": 10.0, "rtx3090_vgg16_predict": 5.0}
    assert script.rate("x", "vgg16", "predict", figures) == 50.0
    assert script.rate("x", "resnet50", "train", figures) == 25.0
