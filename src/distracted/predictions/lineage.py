"""What a run was made of, and whether that is still there."""

from collections.abc import Sequence

from distracted.errors import StoreError
from distracted.predictions.manifest import Parent, as_parent
from distracted.predictions.store import Store


def is_current(store: Store, run: str, fold: int, *, config_hash: str, parents: Sequence[Parent]) -> bool:
    """Whether a fold is there, undamaged, and made of what it would be made of now."""
    try:
        manifest = store.manifest(run, fold)
        store.check_files(manifest)
    except StoreError:
        return False
    return manifest.config_hash == config_hash and manifest.parents == tuple(parents)


def check_parents(store: Store, run: str, *, partial: bool = False) -> None:
    """Refuse a run whose parents, or theirs in turn, are not as they were when it was made.

    A trained run stands by itself, whatever became of the teachers that it learned from.

    Args:
        partial: Folds of them may be missing.

    Raises:
        StoreError: says which has changed, or is gone.
    """
    manifests = store.manifests(run)
    kind = manifests[0].kind
    if kind == "model":
        return
    member, anew = "parent", "make it again (`make status` names the command)"
    if kind == "blend":
        member, anew = "member", "blend anew (`make ensemble`)"
    for parent in parents_of(store, run):
        if not store.finished_folds(parent.run):
            raise StoreError(f"{run}: its {member} {parent.run} is gone; restore it, or {anew}")
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
            raise StoreError(f"{run}: its {member} {parent.run} has changed since it was made; {anew}")
        check_parents(store, parent.run, partial=partial)


def parents_of(store: Store, run: str) -> list[Parent]:
    """What a run was made of, as it was then; folds may have been made of different states of one run."""
    parents = [parent for manifest in store.manifests(run) for parent in manifest.parents]
    return [parent for number, parent in enumerate(parents) if parent not in parents[:number]]


def ancestors(store: Store, run: str) -> set[str]:
    """Names of all that a run was made of, itself included, as far as it is still there."""
    found = {run}
    for parent in parents_of(store, run):
        if store.finished_folds(parent.run):
            found |= ancestors(store, parent.run)
    return found
