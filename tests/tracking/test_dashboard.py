"""The workspace as code: its panels name what is logged, and it is written over itself."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stand_in import StandIn

from distracted.config import load_runtime_config
from distracted.errors import TrackingError
from distracted.tracking.dashboard import build_dashboard, save_dashboard

RUNTIME = load_runtime_config()
# Of wandb-workspaces, which is written in an older style of pydantic.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def panels(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    sections = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


@pytest.mark.slow
def test_it_is_written_and_written_over(server: StandIn, go: Callable[[str], None], tmp_path: Path) -> None:
    go("online")
    kept = tmp_path / "runs/.dashboard"
    first = save_dashboard("tiny", RUNTIME, kept)
    assert first.startswith(f"{server.url}/somebody/distracted?nw=") and kept.read_text() == first
    assert save_dashboard("tiny", RUNTIME, kept) == first
    [view] = server.views
    assert view["displayName"] == "tiny: leaderboard and folds"
    server.views.clear()  # somebody removed it
    assert save_dashboard("tiny", RUNTIME, kept) != first and len(server.views) == 1
    found = panels(view["spec"])
    assert list(found) == [
        "Leaderboard",
        "Learning curves, folds as a band",
        "Training",
        "Errors",
        "Blend weights",
    ]
    curve = found["Learning curves, folds as a band"][0]["config"]
    assert curve["metrics"] == ["valid/log_loss"] and curve["xAxis"] == "train/step"
    assert (curve["groupAgg"], curve["groupArea"]) == ("mean", "minmax")


def test_its_panels_name_what_is_logged() -> None:
    """Each key that a panel asks for is one that the library tells W&B."""
    spec = build_dashboard("tiny", entity="somebody", project="p")._to_model().model_dump(by_alias=True)
    text = re.sub(r"\s", "", str(spec["spec"]))
    asked = set(re.findall(r"'((?:train|valid|holdout|oof|expected)/\w+)'", text))
    library = Path(__file__).resolve().parents[2] / "src/distracted"
    told = "".join(path.read_text() for path in library.rglob("*.py") if path.name != "dashboard.py")
    for key in asked:
        prefix, name = key.split("/")
        assert f'"{key}"' in told or (f'"{prefix}/"' in told and f'"{name}"' in told), key
    assert {"valid/log_loss", "train/lr", "oof/log_loss"} <= asked
    for table in ("confusion_table", "blend_weights_table", "worst_images", "weights"):
        assert f"'{table}'" in text or table in text
        assert f'"{table.removesuffix("_table")}"' in told


def test_without_a_server_it_says_so(
    go: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    go("online")
    with pytest.raises(TrackingError, match="lives on its server"):
        save_dashboard("tiny", RUNTIME, tmp_path / "kept")
