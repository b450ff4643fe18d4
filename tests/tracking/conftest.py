"""W&B in tests: a stand-in for its server, and the client told where it is."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb
from stand_in import StandIn, serve

from distracted.reach import answers

KEY = "1234567890abcdef" * 2 + "12345678"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in for the server; commands run in the project's folder, tmp_path/work."""
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    with serve() as told:
        monkeypatch.setenv("WANDB_BASE_URL", told.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_DATA_DIR", str(folder / "runs/.wandb"))
        monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
        yield told
        wandb.teardown()


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Switch W&B's mode: the client reads it once."""

    def switch(mode: str) -> None:
        monkeypatch.setenv("WANDB_MODE", mode)
        answers.cache_clear()
        wandb.teardown()

    return switch
