"""`make audit`: checks pictures, subjects and folds before training, labels once a run is complete."""

import logging
from pathlib import Path

from distracted.audit.candidates import candidates_of, write_candidates
from distracted.audit.findings import Audit, discard_audit, read_audit, write_audit
from distracted.audit.labels import can_judge
from distracted.files import sha256_file, sha256_json
from distracted.predictions.catalogue import Catalogue
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RunConfig

_log = logging.getLogger(__name__)

_VERSION = 3  # raised when the checks change


def audit_competition(
    store: Store,
    config: RunConfig,
    *,
    run: str = "",
    drops: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Audit:
    """Look for problems in the pictures, the subjects and, with a run's predictions, the labels; write them.

    An audit of the same data by the same config is read back.

    Args:
        config: Config of a pretrained network; subjects are compared in that network's features.
        run: The run whose out-of-fold predictions judge the labels; by default
            `Catalogue.meant_run`.
        drops: Also judge the labels of each fold's training side by networks blind to the fold.
        force: Repeat the audit, even if it is up to date.

    Raises:
        ConfigError: the network has no pretrained weights.
        StoreError: `run` is missing or incomplete.
    """
    judge, judges = _judge(store, run), can_judge()
    name = judge.name if judge is not None else ""
    how = sha256_json([_VERSION, config.hash, _digest_of_weights(config.model.weights), drops, judges])
    kept = None if force or not candidates_of(store).is_file() else read_audit(store)
    if kept is not None and kept.is_current and (kept.run, kept.how) == (name, how):
        _log.info("audit: done already (FORCE=1 redoes it)")
        return kept
    from distracted.audit.checks import check_data, check_run  # imports torch and OpenCV

    checks, features = check_data(store, config, progress)
    if judge is not None:
        checks += check_run(store, judge, judges=judges)
    else:
        _log.info("no complete run yet: labels are checked once there is one")
    discard_audit(store)
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


def _digest_of_weights(weights: str) -> str:
    """Digest of the file that `model.weights` names, perhaps with a part; "" if it names none."""
    files = [Path(name).expanduser() for name in (weights, weights.rpartition("[")[0])]
    return next((sha256_file(path) for path in files if path.is_file()), "")
