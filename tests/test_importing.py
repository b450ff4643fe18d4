"""Python looks for no garbage while a command imports its packages."""

import gc
import sys
from types import ModuleType
from typing import Any

import pytest

from distracted.imports import importing


class Node:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def unfrozen() -> None:
    """The collector looks at nothing but what the test makes."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes as if a module were imported."""
    return lambda: monkeypatch.setitem(sys.modules, "imported_by_a_test", ModuleType("imported_by_a_test"))


def test_nothing_is_looked_at_in_between_nor_what_is_imported_ever_again(unfrozen: None, module: Any) -> None:
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        module()
        Node()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    assert not any(isinstance(one, Node) for one in gc.get_objects())  # of those that it looks at


def test_where_nothing_was_imported_garbage_is_still_found(unfrozen: None) -> None:
    before = gc.get_freeze_count()
    with importing():
        Node()
    assert gc.get_freeze_count() == before
    assert gc.collect() >= 1


def test_a_failed_import_is_that_error_and_the_collector_is_as_before(unfrozen: None) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), importing():
        import no_such_package  # type: ignore[import-not-found] # noqa: F401
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
