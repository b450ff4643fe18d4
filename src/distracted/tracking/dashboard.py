"""`make dashboard`: W&B's workspace for a competition, as code: board, curves, errors, blend weights."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import wandb

from distracted.errors import TrackingError, first_line
from distracted.files import write_text
from distracted.schema import RuntimeConfig
from distracted.tracking.client import STEP, find_wandb_mode


def build_dashboard(data: str, *, entity: str, project: str) -> Any:
    """The workspace of a competition: all runs that carry its tag, folds grouped by their model run.

    Raises:
        TrackingError: wandb-workspaces is not installed.
    """
    if find_spec("wandb_workspaces") is None:
        raise TrackingError(
            "wandb-workspaces is not installed: pip install -e '.[dashboard]' -c requirements.lock adds it"
        )
    import wandb_workspaces.reports.v2 as panels  # slow to import, and an extra
    import wandb_workspaces.workspaces as ws

    def folds_as_band(title: str, *metrics: str, log: bool = False) -> Any:
        """A line a model run: the mean over its folds, with a band from the lowest to the highest."""
        return panels.LinePlot(
            title=title,
            x=STEP,
            y=list(metrics),
            log_y=log,
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            smoothing_type="none",
        )

    def bars(title: str, metric: str) -> Any:
        return panels.BarPlot(title=title, metrics=[metric], groupby_aggfunc="min")

    sections = {
        "Leaderboard": [
            bars("pooled OOF log loss", "oof/log_loss"),
            bars("expected log loss on the test set", "expected/log_loss"),
            bars("pooled OOF accuracy", "oof/accuracy"),
            panels.ScalarChart(title="best OOF log loss", metric="oof/log_loss", groupby_aggfunc="min"),
        ],
        "Learning curves, folds as a band": [
            folds_as_band("held-out fold", "valid/log_loss", log=True),
            folds_as_band("training", "train/loss", log=True),
            folds_as_band("training, mean of each epoch", "train/epoch_loss", log=True),
            folds_as_band("inner holdout", "holdout/log_loss", log=True),
            folds_as_band("phase, from 0 on", "train/phase"),
        ],
        "Training": [
            folds_as_band("learning rate", "train/lr"),
            folds_as_band("gradient norm before clipping", "train/grad_norm", log=True),
            folds_as_band("images per second", "train/images_per_second"),
        ],
        "Errors": [
            panels.CustomChart.from_table(
                "confusion_table",
                chart_fields={"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
                chart_strings={"title": "confusion"},
            ),
            panels.WeavePanelSummaryTable(table_name="worst_images"),
        ],
        "Blend weights": [
            panels.CustomChart.from_table(
                "blend_weights_table",
                chart_fields={"label": "member", "value": "all folds"},
                chart_strings={"title": "blend weights, all folds"},
            ),
            panels.WeavePanelSummaryTable(table_name="weights"),
        ],
    }
    for chart, name in (("Errors", "wandb/confusion_matrix/v1"), ("Blend weights", "wandb/bar/v0")):
        sections[chart][0].chart_name = name
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{data}: leaderboard and folds",
        sections=[ws.Section(name=name, panels=made, is_open=True) for name, made in sections.items()],
        runset_settings=ws.RunsetSettings(
            filters=[ws.Tags().isin([data])],
            groupby=[ws.Metric("Group")],
            order=[ws.Ordering(ws.Summary("oof/log_loss"), ascending=True)],
            pinned_columns=["summary:oof/log_loss", "summary:expected/log_loss", "run:jobType"],
        ),
    )


def save_dashboard(data: str, runtime: RuntimeConfig, kept: Path) -> str:
    """Write the workspace to W&B, over the one of last time where it is still there; returns its address.

    Args:
        kept: A file with the address of last time; may be missing.

    Raises:
        TrackingError: no key, no answer, or the server refuses.
    """
    if find_wandb_mode() != "online":
        raise TrackingError(
            "W&B is not to be had: a dashboard lives on its server, and there is no key (`wandb login`), "
            "WANDB_MODE=offline, or no answer"
        )
    try:
        entity = wandb.setup().settings.entity or wandb.Api().default_entity
        workspace = build_dashboard(data, entity=str(entity), project=runtime.project)
        earlier = _earlier(kept)
        if earlier is not None:
            earlier.name, earlier.sections = workspace.name, workspace.sections
            earlier.runset_settings = workspace.runset_settings
            workspace = earlier
        workspace.save()
        write_text(kept, workspace.url)
        return str(workspace.url)
    except TrackingError:
        raise
    except Exception as error:  # the client has many kinds
        raise TrackingError(f"W&B did not take the dashboard: {first_line(error)}") from error


def _earlier(kept: Path) -> Any:
    """The workspace of last time; None where there was none, or somebody removed it."""
    import wandb_workspaces.workspaces as ws

    try:
        return ws.Workspace.from_url(kept.read_text().strip())
    except Exception:  # the client has many kinds; a new one will do
        return None
