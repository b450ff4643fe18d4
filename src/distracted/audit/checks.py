"""All checks of an audit: of the data, and of a run's predictions."""

import numpy as np
from numpy.typing import NDArray

from distracted.audit.alike import check_alike
from distracted.audit.copies import check_exact
from distracted.audit.duplicates import check_near
from distracted.audit.findings import Check, as_findings, image_findings
from distracted.audit.labels import check_labels
from distracted.audit.mistakes import RowScores, confused_pairs, losses_by, score_rows
from distracted.audit.odd_images import check_pictures, shows_something
from distracted.audit.scan import scan_images
from distracted.data.audit import audit_folds
from distracted.data.picture_sets import Images
from distracted.errors import ConfigError
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Progress
from distracted.schema import RunConfig
from distracted.training.feed import pretrained_features
from distracted.training.resolve import resolve

_BAD = 3.0  # a subject is reported from this multiple of the pooled log loss on
_MOST = 20  # subjects that are reported


def check_data(
    store: Store, config: RunConfig, progress: Progress
) -> tuple[list[Check], NDArray[np.float32] | None]:
    """Check images, subjects and folds.

    Returns:
        The checks, and features of the training images by a pretrained network, shape (num_images,
        num_features); None if an image is unreadable.

    Raises:
        ConfigError: the network has no pretrained weights.
    """
    resolved = resolve(config, num_folds=store.folds.num_folds)
    if not resolved.weights.pretrained:
        raise ConfigError(
            f"MODEL: {resolved.config.model.backbone} has no pretrained weights here, and random features do "
            "not show who looks alike; expected a pretrained network, such as efficientnet_lite0"
        )
    competition = store.competition
    cache = store.workspace.cache(competition.name)
    paths = competition.train_paths() + competition.test_paths()
    contents = [*competition.train["content"], *competition.test["content"]]
    scanned = scan_images(paths, contents, cache=cache / "scan.parquet", progress=progress)
    checks = [*check_pictures(store, scanned), *check_exact(store)]
    checks += check_near(store, scanned, progress=progress)
    features, train = None, scanned.iloc[: len(competition.train)]
    if (train["error"] == "").all():
        [features] = pretrained_features(resolved, [Images.to_train(competition)], cache, progress)
        checks.append(check_alike(store, features, shows_something(train).to_numpy()))
    return [*checks, _split(store)], features


def check_run(store: Store, run: Run, *, judges: bool) -> list[Check]:
    """Check a run's out-of-fold predictions: where it fails, and labels that are probably wrong.

    Args:
        judges: Whether labels are judged.
    """
    scored = score_rows(store, run)
    labels = [check_labels(store, scored)] if judges else []
    return [*labels, _confused(scored), _failed_subjects(store, scored)]


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
    worst = [
        int(scored.table.loc[scored.table["subject"] == name, "loss"].idxmax()) for name in bad["subject"]
    ]
    notes = [
        f"{share:.1%} of the whole loss, {1 - accuracy:.1%} of {images} images wrong"
        for share, accuracy, images in zip(bad["share"], bad["accuracy"], bad["images"], strict=True)
    ]
    findings = image_findings(store.competition, worst, value=bad["loss"].tolist(), note=notes)
    about = (
        f"Their log loss is more than {_BAD:g} times that of all ({pooled:.4f}), with the worst image of "
        "each. Is it the person, the car, the light, or the labels?"
    )
    title = "Subjects that the models fail on"
    return Check("failed_subjects", title, about, "warning", findings, value="log loss")
