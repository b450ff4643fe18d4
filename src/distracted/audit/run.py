"""`make audit`: checks pictures, subjects and folds before training, labels once a run is complete."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distracted.audit.alike import check_alike
from distracted.audit.copies import check_exact
from distracted.audit.duplicates import check_near
from distracted.audit.findings import Audit, Check, as_findings, describe_image, read_audit, write_audit
from distracted.audit.labels import MIN_FOLDS, blind_label_issues, can_judge, check_labels
from distracted.audit.mistakes import RowScores, confused_pairs, losses_by, score_rows
from distracted.audit.odd_images import check_pictures, shows_something
from distracted.audit.scan import scan_images
from distracted.data.audit import audit_folds
from distracted.data.drops import COLUMNS as DROP_COLUMNS
from distracted.data.picture_sets import Images
from distracted.errors import ConfigError
from distracted.files import sha256_json, write_text
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.training.feed import pretrained_features
from distracted.training.resolve import Resolved

_log = logging.getLogger(__name__)

_VERSION = 3  # raised when the checks change
_BAD = 3.0  # a subject is reported from this multiple of the pooled log loss on
_MOST = 20  # subjects that are reported


def audit_competition(
    store: Store,
    resolved: Resolved,
    *,
    run: str = "",
    drops: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Audit:
    """Look for problems in the pictures, the subjects and, with a run's predictions, the labels; write them.

    An audit that is up to date is read back.

    Args:
        resolved: A pretrained network, in whose features subjects are compared.
        run: The run whose out-of-fold predictions judge the labels; by default
            `Catalogue.meant_run`.
        drops: Also judge the labels of each fold's training side by networks blind to the fold.
        force: Repeat the audit, even if it is up to date.

    Raises:
        ConfigError: the network has no pretrained weights.
        StoreError: `run` is missing or incomplete.
    """
    if not resolved.weights.pretrained:
        raise ConfigError(
            f"MODEL: {resolved.config.model.backbone} has no pretrained weights here, and random features do "
            "not show who looks alike; expected a pretrained network, such as efficientnet_lite0"
        )
    competition = store.competition
    judge, judges = _judge(store, run), can_judge()
    name = judge.name if judge is not None else ""
    how = sha256_json([_VERSION, resolved.config.hash, resolved.weights.sha256, drops, judges])
    kept = None if force or not candidates_of(store).is_file() else read_audit(store)
    if kept is not None and kept.is_current and (kept.run, kept.how) == (name, how):
        _log.info("audit: done already (FORCE=1 redoes it)")
        return kept
    cache = store.workspace.cache(competition.name)
    paths = competition.train_paths() + competition.test_paths()
    contents = [*competition.train["content"], *competition.test["content"]]
    scanned = scan_images(paths, contents, cache=cache / "scan.parquet", progress=progress)
    checks = [*check_pictures(store, scanned), *check_exact(store)]
    checks += check_near(store, scanned, progress=progress)
    features, train = None, scanned.iloc[: len(competition.train)]
    if (train["error"] == "").all():  # features of unreadable pictures cannot be computed
        [features] = pretrained_features(resolved, [Images.to_train(competition)], cache, progress)
        checks.append(check_alike(store, features, shows_something(train).to_numpy()))
    checks.append(_split(store))
    if judge is not None:
        scored = score_rows(store, judge)
        checks += [check_labels(store, scored)] if judges else []
        checks += [_confused(scored), _failed_subjects(store, scored)]
    else:
        _log.info("no complete run yet: labels are checked once there is one")
    write_candidates(store, checks, features if drops and judges else None, progress)
    return write_audit(store, checks, name, how)  # last: it marks the audit as complete


def _judge(store: Store, name: str) -> Run | None:
    """The run whose predictions judge the labels; None while there is none."""
    if name:
        return store.read_run(name)
    meant = Catalogue(store).meant_run
    if meant is None:
        return None
    meant.log("RUN")
    return meant.predictions


def _split(store: Store) -> Check:
    rows = [{"note": finding.text} for finding in audit_folds(store.competition, store.folds.table)]
    about = "The warnings of the folds' audit, which `make folds` and every training show, too."
    return Check("folds", "Folds", about, "warning", as_findings(rows))


def _confused(scored: RowScores) -> Check:
    names = scored.classes
    rows = []
    for pair in confused_pairs(scored).to_dict("records"):
        images = f"{pair['images']} image{'s' * (pair['images'] != 1)}"
        row = {"classname": names[pair["label"]], "other_classname": names[pair["predicted"]]}
        rows.append({**row, "value": pair["loss"], "note": f"{images}, {pair['share']:.1%} of the class"})
    about = f"Pairs of classes by what they cost {scored.run}: the first is true, the second was predicted."
    findings = as_findings(rows)
    return Check("confused_classes", "Classes confused", about, "note", findings, value="summed log loss")


def _failed_subjects(store: Store, scored: RowScores) -> Check:
    subjects = losses_by(scored, "subject").sort_values("loss", ascending=False)
    pooled = float(scored.table["loss"].mean())
    bad = subjects[subjects["loss"] > _BAD * pooled].head(_MOST)
    if not store.competition.config.has_subjects:
        bad = bad[:0]
    rows = []
    for subject in bad.to_dict("records"):
        worst = scored.table.loc[scored.table["subject"] == subject["subject"], "loss"].idxmax()
        wrong = f"{1 - subject['accuracy']:.1%} of {subject['images']} images wrong"
        note = f"{subject['share']:.1%} of the whole loss, {wrong}"
        rows.append({**describe_image(store, int(worst)), "value": subject["loss"], "note": note})
    about = (
        f"Their log loss is more than {_BAD:g} times that of all ({pooled:.4f}), with the worst image of "
        "each. Is it the person, the car, the light, or the labels?"
    )
    title, findings = "Subjects that the models fail on", as_findings(rows)
    return Check("failed_subjects", title, about, "warning", findings, value="log loss")


def _apart(folds: "pd.Series[int]", pair: Mapping[str, str], key: str) -> list[tuple[str, str, str]]:
    """Drops that keep one of two similar pictures out of training where the other is scored.

    Args:
        folds: Each training image's fold, by `img`.

    Returns:
        Rows of the drop list: img, reason and fold, "" for all folds.
    """
    same = "the same picture as" if key == "exact_duplicates" else "nearly the same picture as"
    drops = []
    for one, other, part, whose in (
        (pair["img"], pair["other"], pair["other_part"], pair["other_subject"]),
        (pair["other"], pair["img"], pair["part"], pair["subject"]),
    ):
        if {pair["part"], pair["other_part"]} == {"train"} and folds[one] != folds[other] >= 0:
            drops.append((one, f"{same} {other} of {whose}, which is scored there", str(folds[other])))
        elif part == "test":
            drops.append((one, f"{same} {other} of the test set", ""))
    return drops


def candidates_of(store: Store) -> Path:
    """The file of images to choose a drop list from."""
    return store.workspace.audit(store.competition.name) / "drop_candidates.csv"


def write_candidates(
    store: Store, checks: list[Check], features: NDArray[np.float32] | None, progress: Progress
) -> None:
    """Write drop_candidates.csv in the drop list's format, for a person to choose from.

    Args:
        features: Features of the training images, to judge labels blind to each fold; None leaves it out.
    """
    rows: list[tuple[str, str, str]] = []
    folds = store.folds.table.set_index("img")["fold"]
    for check in checks:
        for finding in check.findings.to_dict("records"):
            if check.key == "empty" and finding["part"] == "train":
                rows.append((str(finding["img"]), f"shows nothing ({finding['note']})", ""))
            elif check.key == "damaged" and finding["part"] == "train":
                rows.append((str(finding["img"]), f"damaged ({finding['note']})", ""))
            elif check.key in ("exact_duplicates", "near_duplicates"):
                rows += _apart(folds, {str(key): str(value) for key, value in finding.items()}, check.key)
    if features is not None:
        imgs = store.competition.train["img"]
        for fold, issues in blind_label_issues(features, store.folds, progress=progress):
            reason = f"label probably wrong, as judged blind to fold {fold}"
            rows += [(str(imgs.iloc[row]), reason, str(fold)) for row in issues]
        if store.folds.num_folds < MIN_FOLDS:
            _log.warning("fewer than %d folds leave no list of suspicious labels blind to one", MIN_FOLDS)
    table = pd.DataFrame(rows, columns=list(DROP_COLUMNS)).drop_duplicates(["img", "fold"])
    write_text(candidates_of(store), table.to_csv(index=False, lineterminator="\n"))
