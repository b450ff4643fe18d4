"""Without an extra, a command that needs it says which one to install."""

import logging
import sys
import tomllib
from collections.abc import Callable

import pytest

from distracted.audit.labels import can_judge
from distracted.config import load_runtime_config
from distracted.errors import DistractedError
from distracted.jobs.on_ray import OnRay
from distracted.paths import CONFIGS
from distracted.postprocess.export import export_network
from distracted.predictions.store import Store
from distracted.tracking.dashboard import build_dashboard

EXTRAS = tomllib.loads((CONFIGS.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def build(store: Store) -> None:
    build_dashboard("tiny", entity="somebody", project="p")


def connect(store: Store) -> None:
    OnRay("auto")


def export(store: Store) -> None:
    export_network(store, None, 0, runtime=load_runtime_config())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("extra", "module", "command"),
    [
        ("dashboard", "wandb_workspaces", build),
        ("cluster", "ray", connect),
        ("onnx", "onnx", export),
        ("onnx", "onnxruntime", export),
    ],
)
def test_a_missing_extra_is_named(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    extra: str,
    module: str,
    command: Callable[[Store], None],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DistractedError, match=f"is not installed; make setup EXTRAS={extra} installs it"):
        command(store)
    assert extra in EXTRAS


def test_without_cleanlab_labels_are_not_checked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with caplog.at_level(logging.WARNING):
        assert not can_judge()
    assert "labels are not checked: cleanlab is not installed" in caplog.text
    assert "make setup installs it" in caplog.text


def test_developers_have_all_extras() -> None:
    users = {need for extra, needs in EXTRAS.items() if extra != "dev" for need in needs}
    assert users <= set(EXTRAS["dev"])
