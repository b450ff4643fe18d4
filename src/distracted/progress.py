"""Progress callbacks: the library reports through them and prints nothing itself."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Advance a task by `count` units; `fields` such as loss=0.31 are shown next to it."""

    def __call__(self, count: int = 1, /, **fields: float) -> None: ...


class Progress(Protocol):
    """Open a task: `with progress("fold 0, finetune", total=1240, unit="img") as step`; tasks may nest."""

    def __call__(self, label: str, /, *, total: int, unit: str) -> AbstractContextManager[Advance]: ...


@contextmanager
def silent(label: str, /, *, total: int, unit: str) -> Iterator[Advance]:
    """A `Progress` that shows nothing."""

    def step(count: int = 1, /, **fields: float) -> None:
        return None

    yield step
