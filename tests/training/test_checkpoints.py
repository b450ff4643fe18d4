"""A training that was stopped anywhere goes on from its checkpoint, and nothing shows it was stopped."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import torch

from conftest import write_owner
from distracted.errors import CheckpointError, LockError
from distracted.locks import hold, this_process
from distracted.predictions.store import Store
from distracted.schema import RunConfig
from distracted.stopping import Stop, Stopped
from distracted.training.checkpoints import (
    LAST,
    PREVIOUS,
    Checkpoints,
    State,
    differences,
    read_state,
    write_state,
)
from distracted.training.context import FoldContext
from distracted.training.loop import FoldResult, train_fold
from distracted.training.metrics_log import FileTracker
from distracted.training.resolve import resolve

Configure = Callable[..., RunConfig]


class StopsAfter(Checkpoints):
    """Asks to stop after so many moments at which it could; counts them."""

    def __init__(self, folder: Path, moments: int, made_for: dict[str, Any] | None = None) -> None:
        self._asks = Stop()
        super().__init__(folder, made_for or {}, stop=self._asks, every=10_000)
        self._moments = moments
        self.passed = 0

    def after_step(self, state_dict: Callable[[], State], *, boundary: bool = False) -> None:
        self.passed += 1
        if self.passed == self._moments:
            with self._asks.waiting():
                self._asks.ask("the test")
        super().after_step(state_dict, boundary=boundary)


@pytest.fixture
def sitting(store: Store, tmp_path: Path) -> Callable[..., tuple[FoldResult, int]]:
    """One sitting of fold 0's training; raises Stopped after so many moments."""

    def sit(config: RunConfig, folder: str, moments: int) -> tuple[FoldResult, int]:
        checkpoints = StopsAfter(tmp_path / folder, moments)
        with FileTracker(tmp_path / folder) as tracker:
            context = FoldContext(
                resolve(config, num_folds=3),
                0,
                competition=store.competition,
                folds=store.folds,
                cache=tmp_path / "cache",
                tracker=tracker,
                checkpoints=checkpoints,
            )
            result = train_fold(context)
        return result, checkpoints.passed

    return sit


def tracked(folder: Path) -> list[dict[str, Any]]:
    """The metrics but for those that depend on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        of_time = [key for key in line if "second" in key]
        for key in of_time:
            del line[key]
        line.pop("summary", None)
    return lines


SCRATCH = "phases.scratch"
BATCHES = ("training.batch_size=12", "inference.batch_size=4", "model.head.dropout=0.5")
CONFIGS: dict[str, Sequence[str]] = {
    "averages": (f"{SCRATCH}.epochs=3", f"{SCRATCH}.soup=2", "training.ema=0.9", "mixing.mixup.prob=0.5"),
    "watching": (
        f"{SCRATCH}.epochs=4",
        f"{SCRATCH}.keep=best",
        f"{SCRATCH}.schedule=plateau",
        f"{SCRATCH}.reduce_after=1",
        f"{SCRATCH}.patience=2",
        "training.holdout=0.3",
    ),
    "phases": (
        "phases.fit={kind: features, when: always, c: 1, max_iter: 20}",
        "phases.head={kind: head, when: always, epochs: 2, batch_size: 8, optimizer: adam, lr: 0.01}",
        "phases.more={kind: train, when: always, epochs: 1, unfreeze: all, lr: 0.01, optimizer: rmsprop}",
        "training.sampling=subjects",
    ),
    "bf16": ("training.precision=bf16", f"{SCRATCH}.optimizer=sgd", f"{SCRATCH}.batchnorm=train"),
}


def test_a_stop_while_pictures_are_decoded_anew_keeps_the_phase_that_was_under_way(
    configure: Configure, sitting: Callable[..., tuple[FoldResult, int]], tmp_path: Path
) -> None:
    config = configure(*BATCHES, f"{SCRATCH}.epochs=2")
    whole, _ = sitting(config, "whole", 10_000)
    for moments in (6, 1):  # in the second epoch; after a chunk of the pictures
        with pytest.raises(Stopped):
            sitting(config, "cut", moments)
        rmtree(tmp_path / "cache/pictures")
    again, _ = sitting(config, "cut", 10_000)
    assert again.num_resumed == 2
    assert again.test.tobytes() == whole.test.tobytes()


def test_who_has_lost_the_fold_takes_no_further_step(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    with hold(path, "a fold") as lock:
        write_owner(path, replace(this_process(), host="elsewhere"))
        checkpoints = Checkpoints(tmp_path, {}, every=1000, lock=lock)
        checkpoints.after_step(dict)  # found out when the lock is next renewed
        lock.beat()
        with pytest.raises(LockError, match=r"taken over by process .* on elsewhere"):
            checkpoints.after_step(dict)
    assert not checkpoints.exist


@pytest.mark.parametrize("name", CONFIGS)
def test_stopped_anywhere_and_gone_on_gives_the_same_bytes(
    name: str, configure: Configure, sitting: Callable[..., tuple[FoldResult, int]], tmp_path: Path
) -> None:
    config = configure(*BATCHES, *CONFIGS[name])
    whole, num_moments = sitting(config, "whole", 10_000)
    assert num_moments > 10
    for first in (1, 2, 3):
        folder, result, moments = f"stopped{first}", None, first
        while result is None:  # longer each time, since a look at the scores is begun anew
            try:
                result, _ = sitting(config, folder, moments)
            except Stopped:
                moments += 1
        assert result.num_resumed == moments - first > 3
        assert result.valid.tobytes() == whole.valid.tobytes()
        assert result.test.tobytes() == whole.test.tobytes()
        assert tracked(tmp_path / folder) == tracked(tmp_path / "whole")
        assert all(
            tensor.equal(whole.network.state_dict()[key])
            for key, tensor in result.network.state_dict().items()
        )


@pytest.mark.slow
def test_every_single_moment_will_do(
    configure: Configure, sitting: Callable[..., tuple[FoldResult, int]]
) -> None:
    """With a head that is trained on its own after the base has learned, and looked at, too."""
    config = configure(*BATCHES, *CONFIGS["phases"])
    whole, num_moments = sitting(config, "whole", 10_000)
    for moments in range(1, num_moments + 1):
        try:
            sitting(config, f"stopped{moments}", moments)
        except Stopped:
            pass
        else:
            break  # the first one had features to compute, too, which are kept
        result, _ = sitting(config, f"stopped{moments}", 10_000)
        assert result.test.tobytes() == whole.test.tobytes(), moments
    assert moments > 15


@pytest.fixture
def stopped(
    configure: Configure, sitting: Callable[..., tuple[FoldResult, int]], tmp_path: Path
) -> tuple[RunConfig, Path, FoldResult]:
    """A training with two checkpoints, and what it gives without interruption."""
    config = configure(*BATCHES)
    whole, _ = sitting(config, "whole", 10_000)
    for moments in (2, 1):
        with pytest.raises(Stopped):
            sitting(config, "stopped", moments)
    return config, tmp_path / "stopped", whole


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "a bit":
        data[-100] ^= 1
    elif how == "cut off":
        del data[len(data) // 2 :]
    else:
        data = bytearray(b"")
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["a bit", "cut off", "empty"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_taken(
    how: str,
    stopped: tuple[RunConfig, Path, FoldResult],
    sitting: Callable[..., tuple[FoldResult, int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, folder, whole = stopped
    damage(folder / LAST, how)
    with caplog.at_level(logging.INFO):
        result, _ = sitting(config, "stopped", 10_000)
    assert f"{folder / LAST}: damaged" in caplog.text
    assert f"going on from the checkpoint before it, {folder / PREVIOUS}" in caplog.text
    assert "goes on from step 2" in caplog.text
    assert result.test.tobytes() == whole.test.tobytes() and result.num_resumed == 1


def test_where_both_are_damaged_it_is_said_and_training_begins_anew(
    stopped: tuple[RunConfig, Path, FoldResult],
    sitting: Callable[..., tuple[FoldResult, int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, folder, whole = stopped
    damage(folder / LAST, "empty")
    damage(folder / PREVIOUS, "a bit")
    result, _ = sitting(config, "stopped", 10_000)
    assert "beginning again" in caplog.text and result.num_resumed == 0
    assert result.test.tobytes() == whole.test.tobytes()
    assert tracked(folder) == tracked(folder.with_name("whole"))


def test_killed_between_the_two_renamings_it_goes_on_from_the_one_before(
    stopped: tuple[RunConfig, Path, FoldResult], sitting: Callable[..., tuple[FoldResult, int]]
) -> None:
    config, folder, whole = stopped
    (folder / LAST).unlink()
    result, _ = sitting(config, "stopped", 10_000)
    assert result.num_resumed == 1 and result.test.tobytes() == whole.test.tobytes()


def test_a_checkpoint_of_something_else_is_refused_with_what_differs(tmp_path: Path) -> None:
    config = {"training": {"seed": 0, "ema": 0.0}, "phases": {"a": {"lr": 0.1}, "b": {"lr": 0.2}}}
    checkpoints = Checkpoints(tmp_path, {"fold": 0, "config": config})
    checkpoints.save({"step": 1})
    assert checkpoints.load() == {"step": 1}
    other = {"training": {"seed": 7, "ema": 0.0}, "phases": {"b": {"lr": 0.2}, "a": {"lr": 0.1}}}
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(tmp_path, {"fold": 1, "config": other}).load()
    for part in (f"{tmp_path / LAST}", "fold 0, now 1", "config.training.seed 0, now 7", "NAME=", "FORCE=1"):
        assert part in str(caught.value)
    assert "config.phases a, b, now b, a" in str(caught.value) and "ema" not in str(caught.value)


def test_differences_names_leaves_and_shortens_values() -> None:
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert differences({"a": 1}, {"b": 2}) == ["a 1, now null", "b null, now 2"]
    assert differences({"a": ["x" * 60]}, {"a": []}) == ['a ["' + "x" * 35 + "..., now []"]


def test_a_state_comes_back_as_it_was_whatever_is_in_it(tmp_path: Path) -> None:
    state: State = {
        "tensors": [torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last), torch.tensor(3.5)],
        "kinds": {
            n: torch.ones(2).to(kind) for n, kind in enumerate((torch.bfloat16, torch.uint8, torch.bool))
        },
        "numbers": [0.1, float("inf"), -7, None, True, "text"],
        "nothing": {},
        "tensor": {"tensor": "0", "items": []},
        "empty": torch.empty(0, 3),
    }
    write_state(tmp_path / "state", {"fold": 0}, state)
    made_for, found = read_state(tmp_path / "state")
    assert made_for == {"fold": 0}
    for ours, theirs in zip(state["tensors"], found["tensors"], strict=True):
        assert ours.equal(theirs)
    assert [tensor.dtype for tensor in found["kinds"].values()] == [torch.bfloat16, torch.uint8, torch.bool]
    assert list(found["kinds"]) == [0, 1, 2] and found["empty"].shape == (0, 3)
    for key in ("numbers", "nothing", "tensor"):
        assert found[key] == state[key]


def test_a_full_disk_costs_no_work_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, {}, every=1)
    checkpoints.after_step(lambda: {"step": 1})
    with monkeypatch.context() as patch:

        def full(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("distracted.models.saved.save_file", full)
        checkpoints.after_step(lambda: {"step": 2})
    assert "cannot be written (No space left on device); the one before it is kept" in caplog.text
    assert checkpoints.load() == {"step": 1} and not list(tmp_path.glob(".*.tmp"))
    checkpoints.after_step(lambda: {"step": 3})
    assert checkpoints.load() == {"step": 3}


def test_steps_between_checkpoints_and_each_boundary(tmp_path: Path) -> None:
    checkpoints, saved = Checkpoints(tmp_path, {}, every=3), []

    def make(number: int) -> State:
        saved.append(number)
        return {"number": number}

    for number in range(1, 9):
        checkpoints.after_step(lambda number=number: make(number), boundary=number == 4)
    assert saved == [3, 4, 7]


def test_another_number_of_threads_is_said(
    stopped: tuple[RunConfig, Path, FoldResult],
    sitting: Callable[..., tuple[FoldResult, int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, _, _ = stopped
    torch.set_num_threads(2)
    sitting(config, "stopped", 10_000)
    assert "begun with threads 1, now 2: predictions may differ in rounding" in caplog.text
