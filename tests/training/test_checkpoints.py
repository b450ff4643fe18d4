"""A training that was stopped at any step resumes from its checkpoint and gives the same bytes."""

import json
import logging
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from distracted.schema import RunConfig, list_differences
from distracted.stopping import Stop, Stopped
from distracted.training import checkpoints as checkpoints_module
from distracted.training.checkpoints import (
    LAST,
    PREVIOUS,
    Checkpoints,
    State,
    read_state,
    write_state,
)
from distracted.training.context import FoldContext
from distracted.training.loop import FoldResult, train_fold
from distracted.training.metrics_log import FileTracker
from distracted.training.resolve import resolve

Configure = Callable[..., RunConfig]
TrainUntil = Callable[..., tuple[FoldResult, int]]
NEVER = 10_000  # more calls of `after_step` than any training here makes


class StopsAfter(Checkpoints):
    """Requests a stop at the n-th call of `after_step`; counts the calls."""

    def __init__(self, folder: Path, stop_at: int, made_for: dict[str, Any] | None = None) -> None:
        self._request = Stop()
        super().__init__(folder, made_for or {}, stop=self._request, every=10_000)
        self._stop_at = stop_at
        self.num_calls = 0

    def after_step(self, state_dict: Callable[[], State], *, boundary: bool = False) -> None:
        self.num_calls += 1
        if self.num_calls == self._stop_at:
            with self._request.waiting():
                self._request.ask("the test")
        super().after_step(state_dict, boundary=boundary)


@pytest.fixture
def train_until(store: Store, tmp_path: Path) -> TrainUntil:
    """Train fold 0, or resume it, until the given call of `after_step`, which raises Stopped."""

    def train(config: RunConfig, folder: str, stop_at: int = NEVER) -> tuple[FoldResult, int]:
        checkpoints = StopsAfter(tmp_path / folder, stop_at)
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
        return result, checkpoints.num_calls

    return train


def logged(folder: Path) -> list[dict[str, Any]]:
    """The logged metrics, without those that depend on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if "second" not in key and key != "summary"}
        for line in lines
    ]


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


@pytest.mark.slow
def test_a_stop_while_the_picture_cache_is_rebuilt_keeps_the_interrupted_phase(
    configure: Configure, train_until: TrainUntil, tmp_path: Path
) -> None:
    config = configure(*BATCHES, f"{SCRATCH}.epochs=2")
    whole, _ = train_until(config, "whole")
    for stop_at in (6, 1):  # in the second epoch; after a chunk of pictures
        with pytest.raises(Stopped):
            train_until(config, "cut", stop_at)
        rmtree(tmp_path / "cache/pictures")
    again, _ = train_until(config, "cut")
    assert again.num_resumed == 2
    assert again.test.tobytes() == whole.test.tobytes()


def test_a_process_that_lost_the_folds_lock_takes_no_further_step(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    with hold(path, "a fold") as lock:
        write_owner(path, replace(this_process(), host="elsewhere"))
        checkpoints = Checkpoints(tmp_path, {}, every=1000, lock=lock)
        checkpoints.after_step(dict)  # noticed only when the lock is next renewed
        lock.beat()
        with pytest.raises(LockError, match=r"taken over by process .* on elsewhere"):
            checkpoints.after_step(dict)
    assert not checkpoints.exist


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_that_is_stopped_repeatedly_gives_the_same_bytes(
    name: str, configure: Configure, train_until: TrainUntil, tmp_path: Path
) -> None:
    config = configure(*BATCHES, *CONFIGS[name])
    whole, num_calls = train_until(config, "whole")
    assert num_calls > 10
    for first in (1, 2, 3):
        folder, result, stop_at = f"stopped{first}", None, first
        while result is None:  # later each time: an interrupted evaluation starts over
            try:
                result, _ = train_until(config, folder, stop_at)
            except Stopped:
                stop_at += 1
        assert result.num_resumed == stop_at - first > 3
        assert result.valid.tobytes() == whole.valid.tobytes()
        assert result.test.tobytes() == whole.test.tobytes()
        assert logged(tmp_path / folder) == logged(tmp_path / "whole")
        assert all(
            tensor.equal(whole.network.state_dict()[key])
            for key, tensor in result.network.state_dict().items()
        )


@pytest.mark.slow
def test_a_stop_at_any_step_gives_the_same_bytes(configure: Configure, train_until: TrainUntil) -> None:
    """In a run whose head is also trained alone, with evaluation, after the base has learned."""
    config = configure(*BATCHES, *CONFIGS["phases"])
    whole, num_calls = train_until(config, "whole")
    for stop_at in range(1, num_calls + 1):
        try:
            train_until(config, f"stopped{stop_at}", stop_at)
        except Stopped:
            pass
        else:
            break  # the uninterrupted run also computed features, which are cached by now
        result, _ = train_until(config, f"stopped{stop_at}")
        assert result.test.tobytes() == whole.test.tobytes(), stop_at
    assert stop_at > 15


@pytest.fixture
def stopped(
    configure: Configure, train_until: TrainUntil, tmp_path: Path
) -> tuple[RunConfig, Path, FoldResult]:
    """A stopped training with two checkpoints, and the result of an uninterrupted one."""
    config = configure(*BATCHES)
    whole, _ = train_until(config, "whole")
    for stop_at in (2, 1):
        with pytest.raises(Stopped):
            train_until(config, "stopped", stop_at)
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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a bit", "cut off", "empty"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(
    how: str,
    stopped: tuple[RunConfig, Path, FoldResult],
    train_until: TrainUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, folder, whole = stopped
    damage(folder / LAST, how)
    with caplog.at_level(logging.INFO):
        result, _ = train_until(config, "stopped")
    assert f"{folder / LAST}: damaged" in caplog.text
    assert f"going on from the checkpoint before it, {folder / PREVIOUS}" in caplog.text
    assert "goes on from step 2" in caplog.text
    assert result.test.tobytes() == whole.test.tobytes() and result.num_resumed == 1


@pytest.mark.slow
def test_with_both_checkpoints_damaged_training_begins_again(
    stopped: tuple[RunConfig, Path, FoldResult],
    train_until: TrainUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, folder, whole = stopped
    damage(folder / LAST, "empty")
    damage(folder / PREVIOUS, "a bit")
    result, _ = train_until(config, "stopped")
    assert "beginning again" in caplog.text and result.num_resumed == 0
    assert result.test.tobytes() == whole.test.tobytes()
    assert logged(folder) == logged(folder.with_name("whole"))


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    """A limit on what this process may use."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def test_a_checkpoint_that_cannot_be_opened_is_not_taken_for_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may belong to another user, or too many files are open: training must not begin again."""
    checkpoints = Checkpoints(tmp_path, {})
    for step in (1, 2):
        checkpoints.save({"step": step})
    with (
        limited(resource.RLIMIT_NOFILE, 3),
        pytest.raises(OSError, match=f"Too many open files: '{tmp_path / LAST}'"),
    ):
        checkpoints.load()
    assert caplog.text == "" and checkpoints.load() == {"step": 2}


def test_a_checkpoint_without_memory_for_it_is_not_taken_for_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save({"step": 1})
    checkpoints.save({"step": torch.arange(2**24)})
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    with limited(resource.RLIMIT_AS, pages * resource.getpagesize() + 2**25), pytest.raises(MemoryError):
        checkpoints.load()
    state = checkpoints.load()
    assert caplog.text == "" and state is not None and state["step"].equal(torch.arange(2**24))


def test_a_save_that_cannot_be_read_back_for_now_is_a_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, {}, every=1)
    checkpoints.after_step(lambda: {"step": 1})

    def read_with_too_many_files(path: Path) -> object:
        with limited(resource.RLIMIT_NOFILE, 3):
            return read_state(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "read_state", read_with_too_many_files)
        checkpoints.after_step(lambda: {"step": 2})
    assert "cannot be written (Too many open files); the one before it is kept" in caplog.text
    assert checkpoints.load() == {"step": 1}


@pytest.mark.slow
def test_after_a_kill_between_the_two_renames_the_previous_checkpoint_is_used(
    stopped: tuple[RunConfig, Path, FoldResult], train_until: TrainUntil
) -> None:
    config, folder, whole = stopped
    (folder / LAST).unlink()
    result, _ = train_until(config, "stopped")
    assert result.num_resumed == 1 and result.test.tobytes() == whole.test.tobytes()


def test_a_checkpoint_of_another_training_is_refused_with_the_differences(tmp_path: Path) -> None:
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


def test_differences_name_leaves_and_shorten_values() -> None:
    assert list_differences({"a": {"b": 1}}, {"a": {"b": 1}}) == ""
    assert list_differences({"a": 1}, {"b": 2}) == "a 1, now null; b null, now 2"
    assert list_differences({"a": ["x" * 60]}, {"a": []}) == 'a ["' + "x" * 35 + "..., now []"
    assert list_differences({"a": 1, "b": None}, {"b": None, "a": 1}) == ""
    assert list_differences({"ä": "ö"}, {"ä": "ü"}) == 'ä "ö", now "ü"'


def test_of_two_long_values_the_part_that_differs_is_shown() -> None:
    was, now = (f"file:fold0_of_a_run_with_a_long_name_epoch_{number}_last.pth" for number in (10, 11))
    text = list_differences({"weights": was}, {"weights": now})
    before, _, after = text.partition(", now ")
    assert "epoch_10_last" in before and "epoch_11_last" in after and len(text) < 100
    much = [*range(100)]
    assert (
        "41, 42" in list_differences({"a": much}, {"a": [*much[:41], 0, *much[42:]]}).partition(", now ")[0]
    )


def test_a_state_of_any_content_reads_back_unchanged(tmp_path: Path) -> None:
    state: State = {
        "tensors": [torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last), torch.tensor(3.5)],
        "kinds": {
            n: torch.ones(2).to(kind) for n, kind in enumerate((torch.bfloat16, torch.uint8, torch.bool))
        },
        "numbers": [0.1, float("inf"), -7, None, True, "text"],
        "no items": {},
        "tensor": {"tensor": "0", "items": []},
        "empty": torch.empty(0, 3),
    }
    write_state(tmp_path / "state", {"fold": 0}, state)
    made_for, loaded = read_state(tmp_path / "state")
    assert made_for == {"fold": 0}
    for written, read in zip(state["tensors"], loaded["tensors"], strict=True):
        assert written.equal(read)
    assert [tensor.dtype for tensor in loaded["kinds"].values()] == [torch.bfloat16, torch.uint8, torch.bool]
    assert list(loaded["kinds"]) == [0, 1, 2] and loaded["empty"].shape == (0, 3)
    for key in ("numbers", "no items", "tensor"):
        assert loaded[key] == state[key]


def test_a_full_disk_keeps_the_checkpoint_and_training_goes_on(
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


def test_checkpoints_are_saved_every_few_steps_and_at_boundaries(tmp_path: Path) -> None:
    checkpoints, saved = Checkpoints(tmp_path, {}, every=3), []

    def state_dict(number: int) -> State:
        saved.append(number)
        return {"number": number}

    for number in range(1, 9):
        checkpoints.after_step(lambda number=number: state_dict(number), boundary=number == 4)
    assert saved == [3, 4, 7]


@pytest.mark.slow
def test_another_number_of_threads_is_reported(
    stopped: tuple[RunConfig, Path, FoldResult],
    train_until: TrainUntil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, _, _ = stopped
    torch.set_num_threads(2)
    train_until(config, "stopped")
    assert "begun with threads 1, now 2: predictions may differ in rounding" in caplog.text
