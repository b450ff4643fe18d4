"""A run's parents, and whether they have changed since it was made."""

from distracted.errors import StoreError
from distracted.predictions.manifest import Parent, as_parent
from distracted.predictions.store import Store


def check_parents(store: Store, run: str, *, partial: bool = False) -> None:
    """Refuse a run whose parents, or their parents, have changed since it was made.

    A trained run stays valid, whatever has become of its teachers.

    Args:
        partial: Folds of them may be missing.

    Raises:
        StoreError: says which has changed, or is gone.
    """
    manifests = store.manifests(run)
    kind = manifests[0].kind
    if kind == "model":
        return
    member, again = "parent", "make it again (`make status` names the command)"
    if kind == "blend":
        member, again = "member", "blend again (`make ensemble`)"
    for parent in parents_of(store, run):
        if not store.finished_folds(parent.run):
            raise StoreError(f"{run}: its {member} {parent.run} is gone; restore it, or {again}")
        manifests = store.manifests(parent.run)
        store.check_files(*manifests)
        now = as_parent(manifests).predictions
        missing = sorted(set(parent.predictions) - set(now))
        if missing and not partial:
            raise StoreError(
                f"{run}: fold {', '.join(missing)} of its {member} {parent.run} is missing (PARTIAL=1 "
                "submits all the same)"
            )
        if any(parent.predictions.get(fold, value) != value for fold, value in now.items()):
            raise StoreError(f"{run}: its {member} {parent.run} has changed since it was made; {again}")
        check_parents(store, parent.run, partial=partial)


def parents_of(store: Store, run: str) -> list[Parent]:
    """The parents of a run when it was made; its folds may come from different states of one parent."""
    parents = [parent for manifest in store.manifests(run) for parent in manifest.parents]
    return [parent for number, parent in enumerate(parents) if parent not in parents[:number]]


def ancestors(store: Store, run: str) -> set[str]:
    """Names of a run, its parents, their parents and so on, as far as they are still stored."""
    names = {run}
    for parent in parents_of(store, run):
        if store.finished_folds(parent.run):
            names |= ancestors(store, parent.run)
    return names
