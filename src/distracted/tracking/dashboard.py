"""`make dashboard`: W&B's workspace for a competition as code: leaderboard, curves, errors, blend weights."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distracted.errors import TrackingError, first_line
from distracted.files import write_text
from distracted.schema import RuntimeConfig
from distracted.tracking.client import MAX_TAG, STEP
from distracted.tracking.online import client_settings, project_of, require_server


def build_dashboard(data: str, *, entity: str, project: str) -> Any:
    """Build the workspace of a competition: all runs with its tag, folds grouped by their run.

    Raises:
        TrackingError: wandb-workspaces is not installed.
    """
    if find_spec("wandb_workspaces") is None:
        raise TrackingError("wandb-workspaces is not installed; make setup EXTRAS=dashboard installs it")
    import wandb_workspaces.workspaces as ws  # slow to import, and an extra

    sections = _make_panels().items()
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{data}: leaderboard and folds",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections],
        runset_settings=ws.RunsetSettings(
            filters=[ws.Tags().isin([data[:MAX_TAG]])],
            groupby=[ws.Metric("Group")],
            order=[ws.Ordering(ws.Summary("oof/log_loss"), ascending=True)],
            pinned_columns=["summary:oof/log_loss", "summary:expected/log_loss", "run:jobType"],
        ),
    )


def _make_panels() -> dict[str, list[Any]]:
    """The panels of each section."""
    import wandb_workspaces.reports.v2 as wr

    def bars(title: str, metric: str) -> Any:
        return wr.BarPlot(title=title, metrics=[metric], groupby_aggfunc="min")

    def folds_as_band(title: str, metric: str, *, log: bool = False) -> Any:
        """A line per run: the mean over its folds, with a band from the lowest to the highest."""
        band = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax", "smoothing_type": "none"}
        return wr.LinePlot(title=title, x=STEP, y=[metric], log_y=log, **band)

    def table_chart(preset: str, title: str, table: str, **fields: str) -> Any:
        """One of W&B's own charts, drawn from a logged table."""
        chart = wr.CustomChart.from_table(table, chart_fields=fields, chart_strings={"title": title})
        chart.chart_name = preset
        return chart

    confusion = {name: name for name in ("Actual", "Predicted", "nPredictions")}
    weights = {"label": "member", "value": "all folds"}
    return {
        "Leaderboard": [
            bars("pooled OOF log loss", "oof/log_loss"),
            bars("expected log loss on the test set", "expected/log_loss"),
            bars("pooled OOF accuracy", "oof/accuracy"),
            wr.ScalarChart(title="best OOF log loss", metric="oof/log_loss", groupby_aggfunc="min"),
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
            table_chart("wandb/confusion_matrix/v1", "confusion", "confusion_table", **confusion),
            wr.WeavePanelSummaryTable(table_name="worst_images"),
        ],
        "Blend weights": [
            table_chart("wandb/bar/v0", "blend weights, all folds", "blend_weights_table", **weights),
            wr.WeavePanelSummaryTable(table_name="weights"),
        ],
    }


def save_dashboard(data: str, runtime: RuntimeConfig, url_file: Path) -> str:
    """Write the workspace to W&B, replacing the last one if it still exists; returns its URL.

    Args:
        url_file: File with the URL of the last workspace; may be missing.

    Raises:
        TrackingError: W&B is unavailable, or rejects the workspace.
    """
    require_server(runtime, "a dashboard lives on its server")
    try:
        import wandb

        entity = client_settings().entity or wandb.Api().default_entity
        workspace = build_dashboard(data, entity=str(entity), project=project_of(runtime))
        last, place = _last_workspace(url_file), (workspace.entity, workspace.project)
        if last is not None and (last.entity, last.project) == place:
            last.name, last.sections = workspace.name, workspace.sections
            last.runset_settings = workspace.runset_settings
            workspace = last
        workspace.save()
        write_text(url_file, workspace.url)
        return str(workspace.url)
    except TrackingError:
        raise
    except Exception as error:  # the client raises many types
        raise TrackingError(f"W&B rejects the dashboard: {first_line(error)}") from error


def _last_workspace(url_file: Path) -> Any:
    """The workspace of the last call; None if there was none or it was removed."""
    import wandb_workspaces.workspaces as ws

    try:
        return ws.Workspace.from_url(url_file.read_text().strip())
    except Exception:  # the client raises many types; a new workspace will do
        return None
