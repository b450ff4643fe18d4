"""What a run was made of, and whether that is still there."""

from distracted.errors import StoreError
from distracted.predictions.store import Run, Store


def check_parents(store: Store, run: Run, *, partial: bool = False) -> None:
    """Refuse a run whose parents, or theirs in turn, are not as they were when it was made.

    A trained run stands by itself, whatever became of the teachers that it learned from.

    Args:
        partial: Folds of them may be missing.

    Raises:
        StoreError: says which has changed, or is gone.
    """
    if run.kind == "model":
        return
    member, anew = (
        ("member", "blend anew (`make ensemble`)") if run.kind == "blend" else ("parent", "make it anew")
    )
    parents = [parent for manifest in run.manifests for parent in manifest.parents]
    for number, parent in enumerate(parents):
        if parent in parents[:number]:
            continue
        if parent.run not in store.runs():
            raise StoreError(f"{run.name}: its {member} {parent.run} is gone; restore it, or {anew}")
        found = store.read_run(parent.run, partial=True)
        now = found.as_parent().predictions
        missing = sorted(set(parent.predictions) - set(now))
        if missing and not partial:
            raise StoreError(
                f"{run.name}: fold {', '.join(missing)} of its {member} {parent.run} is missing (PARTIAL=1 "
                "submits all the same)"
            )
        if any(parent.predictions.get(fold, value) != value for fold, value in now.items()):
            raise StoreError(f"{run.name}: its {member} {parent.run} has changed since it was made; {anew}")
        check_parents(store, found, partial=partial)
