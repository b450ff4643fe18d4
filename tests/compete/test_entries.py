"""The plan as a file: it is read as it was written, an edit is noticed, and a faulty one is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from distracted.compete.entries import Entry, Plan, read_plan, write_plan
from distracted.errors import ConfigError

MODELS = ("resnet50", "vgg16")
GROUPS = ((0, 2), (1,))


def read(path: Path) -> Plan:
    return read_plan(path, num_folds=3, models=MODELS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A written plan."""
    entries = [
        Entry("a", "resnet50", "recipe=full", (0, 1, 2), "done", 1.5, 0.25, 0.25, "why: this"),
        Entry("b", "vgg16", "recipe=features model.image_size=64", (1,), "planned"),
    ]
    write_plan(
        tmp_path / "plan.yaml", Plan(entries, {1: {"a": [0, 1]}, 2: {}}, (["a"], ["a", "b"]), extend=False)
    )
    return tmp_path / "plan.yaml"


def test_a_plan_is_read_as_it_was_written(path: Path) -> None:
    plan = read(path)
    assert [entry.run for entry in plan.entries] == ["a", "b"]
    assert plan.entries[0] == Entry(
        "a", "resnet50", "recipe=full", (0, 1, 2), "done", 1.5, 0.25, 0.25, "why: this"
    )
    assert plan.trials == {1: {"a": [0, 1]}, 2: {}} and plan.choices == (["a"], ["a", "b"])
    assert not plan.extend and not plan.is_edited


def test_a_plan_goes_on_with_the_settings_and_folds_that_it_was_begun_with(path: Path) -> None:
    plan = read(path).bound_to(
        ["training.batch_size=8", "model.image_size=64"], "1234"
    )  # of an earlier version
    write_plan(path, plan)
    again = read(path)
    assert again.settings == "model.image_size=64 training.batch_size=8" and again.folds == "1234"
    assert not again.is_edited
    assert again.bound_to(["model.image_size=64", "training.batch_size=8"], "1234") == again
    with pytest.raises(
        ConfigError, match=r"SET='model\.image_size=96': the runs of the plan have SET='model"
    ):
        again.bound_to(["model.image_size=96"], "1234")
    with pytest.raises(ConfigError, match="SET='': the runs of the plan have SET='model"):
        again.bound_to([], "1234")
    with pytest.raises(ConfigError, match="the data or their folds are others"):
        again.bound_to(["model.image_size=64", "training.batch_size=8"], "5678")
    assert Plan(settings="training.seed=1", folds="1234").bound_to([], "5678") == Plan(
        settings="", folds="5678"
    )


@pytest.mark.parametrize("text", ["runs: [\xe9]", "runs: []\nextend: 2026-13-45", "runs: ["])
def test_what_is_no_yaml_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"plan\.yaml: not readable YAML"):
        read(tmp_path / "plan.yaml")


def test_no_file_is_an_empty_plan(tmp_path: Path) -> None:
    assert read(tmp_path / "plan.yaml") == Plan()


def test_an_edit_is_noticed_and_a_comment_is_none(path: Path) -> None:
    path.write_text("# mine\n" + path.read_text())
    assert not read(path).is_edited
    path.write_text(path.read_text().replace("run: b", "run: c"))
    plan = read(path)
    assert plan.is_edited and plan.entries[1].run == "c"


def test_a_person_need_not_write_all_keys(path: Path) -> None:
    path.write_text("runs:\n- run: resnet50\n- {run: mine, model: vgg16, set: training.seed=1}\n")
    plan = read(path)
    assert plan.is_edited and plan.extend
    assert plan.entries[0] == Entry("resnet50", "resnet50", "", (0, 1, 2))
    assert plan.entries[1] == Entry("mine", "vgg16", "training.seed=1", (0, 1, 2))


def test_runs_that_were_not_chosen_are_planned_again(path: Path) -> None:
    plan = read(path)
    assert [entry.run for entry in plan.without_outlook(GROUPS).entries] == ["a", "b"]
    write_plan(path, replace(plan, choices=(["a"], ["a"])))
    assert [entry.run for entry in read(path).without_outlook(GROUPS).entries] == ["a"]


def test_in_an_edited_plan_a_group_has_chosen_what_its_folds_take_and_what_is_still_there(path: Path) -> None:
    """Else a group would learn the score of a run that only the other group's labels speak for."""
    plan = replace(read(path), choices=(["a", "gone"], ["gone", "a"]), is_edited=True)
    assert plan.without_outlook(GROUPS).choices == (["a"], ["a", "b"])


def test_a_persons_runs_stay_when_the_plan_is_written_again(path: Path) -> None:
    path.write_text("runs:\n- run: resnet50\n- {run: mine, model: vgg16}\n")
    plan = read(path).without_outlook(GROUPS)
    assert plan.choices == (["resnet50", "mine"], ["resnet50", "mine"])
    write_plan(path, plan)  # as when the first run begins; then it is killed
    again = read(path)
    assert not again.is_edited
    assert [entry.run for entry in again.without_outlook(GROUPS).entries] == ["resnet50", "mine"]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"runs": None}, ["expected `runs`"]),
        ({"more": 1}, ["unknown key 'more'"]),
        ({"set": ["training.seed=1"]}, ["set", "as SET= takes it"]),
        ({"folds": [1]}, ["folds", "the hash that was there"]),
        ({"extend": "perhaps"}, ["extend", "perhaps"]),
        ({"trials": [1]}, ["trials"]),
        ({"choices": [["a"]]}, ["choices", "two lists"]),
        ({"runs": [{"model": "vgg16"}]}, ["runs[0]", "`run`"]),
        ({"runs": [{"run": "x", "model": "resnet51"}]}, ["runs[0] (x)", "'resnet51'", "configs/models"]),
        ({"runs": [{"run": "x"}]}, ["runs[0] (x)", "'x'"]),
        ({"runs": [{"run": "vgg16", "epochs": 3}]}, ["runs[0] (vgg16)", "'epochs'"]),
        ({"runs": [{"run": "vgg16", "by": [3]}]}, ["by", "0 to 2", "[3]"]),
        ({"runs": [{"run": "vgg16", "by": []}]}, ["by"]),
        ({"runs": [{"run": "vgg16", "state": "soon"}]}, ["state", "'soon'"]),
        ({"runs": [{"run": "vgg16", "minutes": "long"}]}, ["minutes", "'long'"]),
        ({"runs": [{"run": "vgg16"}, {"run": "vgg16"}]}, ["vgg16 is there twice"]),
    ],
)
def test_faulty_plans_are_refused(path: Path, change: dict[str, object], parts: list[str]) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(ConfigError) as error:
        read(path)
    assert all(part in str(error.value) for part in [str(path), *parts])


def test_a_file_that_is_no_yaml_is_refused(path: Path) -> None:
    path.write_text("runs: [\n")
    with pytest.raises(ConfigError, match=r"plan\.yaml: not readable YAML.*remove the file"):
        read(path)
