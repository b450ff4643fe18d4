"""What a run was made of, and whether that is still there."""

from distracted.errors import StoreError
from distracted.predictions.store import Run, Store


def check_parents(store: Store, run: Run, *, partial: bool = False) -> None:
    """Refuse a run whose parents, or theirs, are not as they were when it was made of them.

    Args:
        partial: Folds of parents may be missing.

    Raises:
        StoreError: says which has changed, or is gone.
    """
    for parent in run.manifests[0].parents:
        found = store.read_run(parent.run, partial=True) if parent.run in store.runs() else None
        if found is None:
            raise StoreError(
                f"{run.name}: its member {parent.run} is gone; restore it, or make {run.name} anew"
            )
        now = found.as_parent().predictions
        missing = sorted(set(parent.predictions) - set(now))
        if missing and not partial:
            raise StoreError(
                f"{run.name}: fold {', '.join(missing)} of its member {parent.run} is missing (PARTIAL=1 "
                "submits all the same)"
            )
        if any(parent.predictions.get(fold, value) != value for fold, value in now.items()):
            raise StoreError(f"{run.name}: its member {parent.run} has changed since; make {run.name} anew")
        check_parents(store, found, partial=partial)
