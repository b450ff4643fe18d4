"""The workspace as code: its panels use metrics that are logged, and saving replaces the last one."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from stand_in import StandIn

from distracted.config import load_runtime_config
from distracted.errors import TrackingError
from distracted.tracking.dashboard import build_dashboard, save_dashboard

RUNTIME = load_runtime_config()
needs_workspaces = pytest.mark.skipif(not find_spec("wandb_workspaces"), reason="the extra is not installed")
# wandb-workspaces uses deprecated features of pydantic.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def panels(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    sections = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


@needs_workspaces
@pytest.mark.slow
def test_a_workspace_is_saved_and_replaced(
    server: StandIn, go: Callable[[str], None], tmp_path: Path
) -> None:
    go("online")
    url_file = tmp_path / "runs/.dashboard"
    first = save_dashboard("tiny", RUNTIME, url_file)
    assert first.startswith(f"{server.url}/somebody/distracted?nw=") and url_file.read_text() == first
    assert save_dashboard("tiny", RUNTIME, url_file) == first
    [view] = server.views
    assert view["displayName"] == "tiny: leaderboard and folds"
    server.views.clear()  # removed on the server
    assert save_dashboard("tiny", RUNTIME, url_file) != first and len(server.views) == 1
    sections, curves = panels(view["spec"]), "Learning curves, folds as a band"
    assert list(sections) == ["Leaderboard", curves, "Training", "Errors", "Blend weights"]
    curve = sections[curves][0]["config"]
    assert curve["metrics"] == ["valid/log_loss"] and curve["xAxis"] == "train/step"
    assert (curve["groupAgg"], curve["groupArea"]) == ("mean", "minmax")
    moved = save_dashboard("tiny", load_runtime_config(["runtime.project=other"]), url_file)
    assert moved.startswith(f"{server.url}/somebody/other?nw=") and len(server.views) == 2


@needs_workspaces
def test_panels_use_metrics_that_are_logged() -> None:
    """The library's source contains every metric key and table that a panel uses."""
    spec = build_dashboard("tiny", entity="somebody", project="p")._to_model().model_dump(by_alias=True)
    text = re.sub(r"\s", "", str(spec["spec"]))
    used = set(re.findall(r"'((?:train|valid|holdout|oof|expected)/\w+)'", text))
    library = Path(__file__).resolve().parents[2] / "src/distracted"
    source = "".join(path.read_text() for path in library.rglob("*.py") if path.name != "dashboard.py")
    for key in used:
        prefix, name = key.split("/")
        assert f'"{key}"' in source or (f'"{prefix}/"' in source and f'"{name}"' in source), key
    assert {"valid/log_loss", "train/lr", "oof/log_loss"} <= used
    for table in ("confusion_table", "blend_weights_table", "worst_images", "weights"):
        assert f"'{table}'" in text or table in text
        assert f'"{table.removesuffix("_table")}"' in source


def test_without_a_server_there_is_an_error(
    go: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    go("online")
    with pytest.raises(TrackingError, match="lives on its server"):
        save_dashboard("tiny", RUNTIME, tmp_path / "url")
