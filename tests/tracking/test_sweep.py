"""A sweep: trials over all folds, folds as separate runs, and a cross-fitted choice among the trials."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stand_in import ENTITY, StandIn

import sweep as script
from conftest import TINY
from distracted.config import load_config, load_runtime_config
from distracted.config.search_space import OBJECTIVE, listed_settings, read_space
from distracted.ensemble.derive import derive_run
from distracted.errors import ConfigError, TrackingError
from distracted.metrics import log_loss
from distracted.paths import CONFIGS
from distracted.postprocess.choose import Choose
from distracted.predictions.store import Store
from distracted.tracking.sweep import Trial, run_sweep

WriteRun = Callable[..., None]
SETTINGS = " ".join([*(item for item in TINY if "tracking" not in item), "runtime.num_workers=0"])


def quiet_client(test: Callable[..., None]) -> Callable[..., None]:
    """Ignore warnings of the client, whose agent leaves a file open."""
    for kind in ("DeprecationWarning", "ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
        test = pytest.mark.filterwarnings(f"ignore::{kind}")(test)
    return test


def proposal(run_id: str, **settings: object) -> dict[str, Any]:
    args = {key: {"value": value} for key, value in settings.items()}
    return {"type": "run", "run_id": run_id, "args": args}


@pytest.mark.slow
@quiet_client
def test_trials_are_trained_over_all_folds_and_the_best_is_chosen(
    store: Store, server: StandIn, go: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    go("online")
    monkeypatch.setenv("WANDB_DIR", str(store.workspace.root))
    server.proposals += [
        proposal("first", **{"training.seed": 1}),
        proposal("second", **{"training.seed": 2, "model.head.dropout": 0.5}),
    ]
    script.main(
        model="resnet50",
        trials=2,
        data=str(store.competition.config.folder),
        set=SETTINGS,
        root=store.workspace.root,
    )
    assert {"resnet50_trial_first", "resnet50_trial_second", "resnet50_sweep"} <= set(store.runs())
    [sweep] = server.sweeps.values()
    assert "oof/log_loss" in sweep["config"] and sweep["agents"] == ["agent"]
    assert not any(socket.gethostname() in agent for agent in sweep["agents"])
    for trial in ("first", "second"):
        name = f"resnet50_trial_{trial}"
        run = store.read_run(name)
        expected = log_loss(run.oof, store.folds.labels)
        own = server.runs[trial]
        assert own["jobType"] == "sweep" and own["summary"]["oof/log_loss"] == pytest.approx(expected)
        assert not any("train/loss" in line for line in own["history"])  # only its folds have a training loss
        folds = [run for run in server.runs.values() if run.get("group") == f"tiny/{name}"]
        assert {run["displayName"] for run in folds} == {name, *(f"{name}-fold{fold}" for fold in range(3))}
        assert not any(run.get("sweep") for run in folds)
    assert store.manifest("resnet50_trial_second", 0).config["model"]["head"]["dropout"] == 0.5
    manifest = store.manifest("resnet50_sweep", 0)
    assert manifest.details["num_candidates"] == 2 and len(manifest.parents) == 2


@pytest.mark.slow
@quiet_client
def test_a_sweep_is_joined_by_the_path_that_the_site_shows(
    server: StandIn, go: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its trials are stored under its id alone."""
    go("online")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    spec = {"method": "random", "parameters": {"training.seed": {"values": [1, 2]}}}
    arguments: Any = {"name": "tiny", "trials": 1, "train": lambda trial: {OBJECTIVE: 0.5}}
    for run, sweep in (("first", ""), ("second", f"{ENTITY}/distracted/sweep0")):
        server.proposals.append(proposal(run, **{"training.seed": 1}))
        name, [trial] = run_sweep(spec, load_runtime_config(), sweep=sweep, **arguments)
        assert (name, trial) == ("sweep0", Trial(run, "sweep0", ("training.seed=1",)))


def test_the_choice_for_a_fold_uses_the_other_folds(store: Store, write_run: WriteRun) -> None:
    for seed in range(4):
        write_run(f"trial{seed}", skill=1.0, seed=seed)
    names = [f"trial{seed}" for seed in range(4)]
    made = derive_run(store, Choose(), names, name="best")
    labels = store.folds.labels
    runs = {name: store.read_run(name) for name in names}
    best = store.read_run("best")
    for fold in range(3):
        others, rows = store.folds.train(fold), store.folds.valid(fold)
        expected = min(names, key=lambda name: log_loss(runs[name].oof[others], labels[others]))
        assert names[made.fits[fold]] == expected
        assert best.oof[rows] == pytest.approx(runs[expected].oof[rows], abs=1e-5)
        assert store.manifest("best", fold).details == {"chosen": expected, "num_candidates": 4}
    assert best.fitted and best.kind == "derived"
    with pytest.raises(ConfigError, match="RUNS: choose takes two runs or more; got 1"):
        derive_run(store, Choose(), names[:1], name="best")


def test_the_projects_sweep_goes_with_every_pretrained_model() -> None:
    sweep = read_space(CONFIGS / "sweep.yaml")
    settings = listed_settings(sweep)
    assert {setting.partition("=")[0] for setting in settings} == set(sweep["parameters"])
    for model in ("resnet50", "vgg16", "inception_v3", "efficientnet_lite0"):
        for setting in settings:
            load_config(model=model, data="sample", overrides=[setting])


def test_every_listed_value_is_validated_beforehand() -> None:
    parameters = {
        "a": {"values": [1, None]},
        "b": 3,
        "c": {"distribution": "log_normal", "mu": 0.0, "sigma": 1.0},
        "d": {"min": 0.5, "max": 1.0},
    }
    assert listed_settings({"parameters": parameters}) == ["a=1", "a=null", "b=3", "c=1.0", "d=0.5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "not readable YAML"),
        ("method: random", "expected method and parameters"),
        ("method: random\nparameters: {}", "by dotted names"),
        ("method: random\nparameters: {a: {parameters: {b: 1}}}", "by dotted names"),
        ("method: bayes\nparameters: {a: 1}", "no choice among the trials is honest"),
        ("method: random\nparameters: {a: {value: 1}}\nmetric: {name: x}", "remove metric"),
    ],
)
def test_a_wrong_file_is_rejected(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_space(path)


def test_without_a_server_nothing_is_trained(
    store: Store, go: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    go("online")
    with pytest.raises(TrackingError, match="lives on its server"):
        script.main(
            model="resnet50",
            data=str(store.competition.config.folder),
            set=SETTINGS,
            root=store.workspace.root,
        )
    assert store.runs() == []
