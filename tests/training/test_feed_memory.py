"""Where memory is scarce fewer processes load images, which changes no result."""

import pytest

from conftest import Train
from distracted.training import feed as feed_module
from distracted.training.feed import Feed


@pytest.mark.slow
@pytest.mark.parametrize(("megabytes", "num_workers"), [(1e6, 3), (270, 2), (10, 0)])
def test_fewer_processes_where_memory_is_scarce(
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    megabytes: float,
    num_workers: int,
) -> None:
    expected = train("runtime.num_workers=0", "runtime.cache_gb=0")
    counts: list[int] = []
    settings_of = Feed._workers

    def record(feed: Feed, batch_bytes: int) -> dict[str, object]:
        settings = settings_of(feed, batch_bytes)
        counts.append(settings["num_workers"])
        return settings

    monkeypatch.setattr(Feed, "_workers", record)
    monkeypatch.setattr(feed_module, "free_memory", lambda: megabytes * 1e6)
    result = train("runtime.num_workers=3", "runtime.cache_gb=0")
    assert set(counts) == {num_workers}
    assert (f"{num_workers} processes load images instead of 3" in caplog.text) == (num_workers < 3)
    assert result.test.tobytes() == expected.test.tobytes()
    assert result.valid.tobytes() == expected.valid.tobytes()
