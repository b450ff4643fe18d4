"""A short `make torture`; the long one is run by hand, with its figures in docs/resume.md."""

from pathlib import Path

import pytest

from conftest import TINY, write_competition
from torture import torture


@pytest.mark.slow
def test_a_fold_that_is_killed_four_times_gives_the_same_result(tmp_path: Path) -> None:
    data = write_competition(tmp_path / "tiny", num_frames=8, num_test=40)
    settings = [*TINY, "phases.scratch.epochs=40", "model.head.dropout=0.5", "runtime.checkpoint_steps=3"]
    settings += ["phases.fit={kind: features, when: always, c: 1, max_iter: 20}", "training.ema=0.9"]
    text = " ".join(f"'{item}'" for item in settings)
    kills, _ = torture(tmp_path / "torture", "resnet50", str(data), text, kills=4, seed=0)
    assert len(kills) == 4
