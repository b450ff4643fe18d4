"""Everything about a competition that its report shows."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from distracted.audit.findings import Audit, read_audit
from distracted.audit.mistakes import (
    Reliability,
    RowScores,
    confused_pairs,
    confusion,
    losses_by,
    reliability,
    score_rows,
)
from distracted.data.audit import never_scored
from distracted.data.transforms import Policy
from distracted.errors import DistractedError, first_line
from distracted.metrics import prior_log_loss, scores
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.report.board import BoardRow, Sent, headline, make_board, read_submissions
from distracted.report.competition import Competition, read_competition
from distracted.report.curves import curves_of_run
from distracted.report.figures import blend_chart, curve_chart, reliability_chart, score_chart
from distracted.report.findings import Shown, show_audit
from distracted.report.gallery import Mistake, make_gallery
from distracted.report.ladder import Rung, measure_ladder, read_ladders
from distracted.report.sheets import Grid, augmentation_grid, data_grid, region_grid
from distracted.report.status import RunStatus, next_steps, run_statuses
from distracted.schema import RuntimeConfig

_log = logging.getLogger(__name__)

_MOST_CURVES = 24  # runs whose learning curves are drawn, the best first
_MOST_BARS = 40


@dataclass(frozen=True)
class Errors:
    """Where the headline run errs.

    Attributes:
        counts: Images by true class (rows) and predicted class.
        by_class, by_subject, by_fold: As `mistakes.losses_by`, the worst first (folds in order).
    """

    scored: RowScores
    pooled: Mapping[str, float]
    counts: np.ndarray
    pairs: list[dict[Hashable, Any]]
    reliability: Reliability
    reliability_chart: str
    by_class: list[dict[Hashable, Any]]
    by_subject: list[dict[Hashable, Any]]
    by_fold: list[dict[Hashable, Any]]


@dataclass(frozen=True)
class Ladder:
    """A ladder as it stands now, or why it no longer does."""

    model: str
    rungs: list[Rung]
    problem: str = ""


@dataclass(frozen=True)
class Page:
    """All that the report shows."""

    made: str
    statuses: list[RunStatus]
    board: list[BoardRow]
    head: BoardRow | None
    why: str
    prior: float
    unscored: str
    steps: list[str]
    score_chart: str
    curves: list[tuple[str, str]]
    num_undrawn: int
    errors: Errors | None
    gallery: list[Mistake]
    seen_by: str
    data: Grid
    regions: Grid | None
    augmentation: Grid
    subjects: list[dict[str, Any]]
    audit: Audit | None
    findings: list[Shown]
    ladders: list[Ladder]
    competition: Competition | None
    blend_chart: str
    submissions: list[Sent]


def collect(
    store: Store,
    *,
    policies: Mapping[str, Policy],
    runtime: RuntimeConfig | None = None,
    run: str = "",
    progress: Progress = silent,
) -> Page:
    """Collect everything that the page shows; arguments as in `write.write_report`."""
    competition = store.competition
    catalogue = Catalogue(store)
    if run:
        store.read_run(run)  # raises if it cannot be used
    meant = None if run else catalogue.meant_run
    statuses = run_statuses(catalogue)
    board = make_board(catalogue, progress=progress)
    head = headline(board, run if meant is None else meant.run)
    why = ""
    if meant is not None:
        meant.log("RUN")
        why = "; passed over: ".join([f"{meant.why}; RUN= takes another run", *meant.passed_over])
    errors: Errors | None = None
    gallery: list[Mistake] = []
    seen_by = ""
    if head is not None:
        scored = score_rows(store, store.read_run(head.entry.name))
        errors = _errors(scored)
        gallery, seen_by = make_gallery(store, scored, runtime=runtime, progress=progress)
    trained = [row.entry.name for row in board if row.entry.kind == "model"]
    models = [status.entry.name for status in statuses if status.entry.kind == "model"]
    trained += [name for name in models if name not in trained]
    curves = {name: curves_of_run(store, name, range(store.folds.num_folds)) for name in trained}
    drawn = [(name, by_fold) for name, by_fold in curves.items() if by_fold]
    shown = [(name, curve_chart(by_fold, n)) for n, (name, by_fold) in enumerate(drawn[:_MOST_CURVES])]
    regions = competition.config.regions
    audit, held = read_audit(store), read_competition(store)
    return Page(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        statuses=[status for status in statuses if not status.left_by],
        board=board,
        head=head,
        why=why,
        prior=prior_log_loss(store.folds.labels, store.folds.ids, competition.num_classes),
        unscored=never_scored(competition, store.folds.table),
        steps=next_steps(catalogue, statuses),
        score_chart=score_chart(board[:_MOST_BARS]) if board else "",
        curves=shown,
        num_undrawn=len(drawn) - len(shown),
        errors=errors,
        gallery=gallery,
        seen_by=seen_by,
        data=data_grid(competition, size=104),
        regions=region_grid(competition, regions, size=160) if regions else None,
        augmentation=augmentation_grid(competition, policies, size=112),
        subjects=_subjects(store),
        audit=audit,
        findings=show_audit(store, audit) if audit is not None else [],
        ladders=[_ladder(store, model, rungs) for model, rungs in read_ladders(store).items()],
        competition=held,
        blend_chart=blend_chart(held.content["blends"])
        if held is not None and held.content["blends"]
        else "",
        submissions=read_submissions(store),
    )


def _errors(scored: RowScores) -> Errors:
    calibration = reliability(scored)
    names = dict(enumerate(scored.classes))
    counts = confusion(scored)
    by_class = losses_by(scored, "label").sort_values("loss", ascending=False)
    predicted = counts.sum(axis=0)
    by_class = by_class.assign(
        name=by_class["label"].map(names),
        recall=[counts[i, i] / max(1, counts[i].sum()) for i in by_class["label"]],
        precision=[counts[i, i] / max(1, predicted[i]) for i in by_class["label"]],
    )
    subjects = losses_by(scored, "subject").sort_values("loss", ascending=False)
    subjects["fold"] = subjects["subject"].map(scored.table.groupby("subject")["fold"].first())
    pairs = confused_pairs(scored)
    pairs = pairs.assign(label=pairs["label"].map(names), predicted=pairs["predicted"].map(names))
    return Errors(
        scored=scored,
        pooled=scores(scored.log_probs, scored.table["label"].to_numpy()),
        counts=counts,
        pairs=pairs.to_dict("records"),
        reliability=calibration,
        reliability_chart=reliability_chart(calibration),
        by_class=by_class.to_dict("records"),
        by_subject=subjects.to_dict("records"),
        by_fold=losses_by(scored, "fold").to_dict("records"),
    )


def _subjects(store: Store) -> list[dict[str, Any]]:
    """Images of each subject: fold, images, and of each class."""
    table, names = store.folds.table, store.folds.subject_names
    counts = pd.crosstab(names, table["label"])
    counts = counts.reindex(columns=range(store.competition.num_classes), fill_value=0)
    folds = table["fold"].groupby(names).first()
    return [
        {"subject": subject, "fold": int(folds[subject]), "counts": row, "images": int(row.sum())}
        for subject, row in zip(counts.index, counts.to_numpy(), strict=True)
    ]


def _ladder(store: Store, model: str, rungs: Sequence[tuple[str, str]]) -> Ladder:
    try:
        return Ladder(model, measure_ladder(store, rungs))
    except DistractedError as error:
        return Ladder(model, [], first_line(error))
