"""`make report`: everything about a competition on one page that works offline."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distracted.files import write_text
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.report.inputs import digests_in, made_from
from distracted.schema import RuntimeConfig

if TYPE_CHECKING:
    from distracted.data.transforms import Policy

_log = logging.getLogger(__name__)


def write_report(
    store: Store,
    *,
    policies: Mapping[str, "Policy"],
    runtime: RuntimeConfig | None,
    run: str = "",
    path: Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write the page of a competition, one HTML file that needs nothing else, unless it is up to date.

    Args:
        policies: Augmentation policies, of which examples are drawn.
        runtime: How to run the networks for Grad-CAM; None leaves it out.
        run: The run whose mistakes are shown; by default `Catalogue.meant_run`.
        path: By default runs/<data>/report.html.
        force: Write it again, even if it is up to date.

    Raises:
        StoreError: `run` is missing or incomplete.
    """
    path = path or store.workspace.report(store.competition.name)
    digests = made_from(store, policies=policies, heat=runtime is not None, run=run)
    if not force and digests_in(path) == digests:
        _log.info("%s: done already (FORCE=1 redoes it)", path)
        return path
    from distracted.report.page import collect  # imports torch, timm and albumentations
    from distracted.report.render import render

    page = collect(store, policies=policies, runtime=runtime, run=run, progress=progress)
    write_text(path, render(page, store, made_from=digests))
    return path
