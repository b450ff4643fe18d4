"""Damage of recordings, told from recordings that W&B's client made."""

from collections.abc import Callable
from pathlib import Path

import pytest
from wandb_files import offline, read_runs

from distracted.config import load_runtime_config
from distracted.tracking.client import WandbRun
from distracted.tracking.transaction_log import find_damage

BLOCK = 32768


def record(folder: Path, num_steps: int, text: str = "x") -> Path:
    """The file of an offline recording by the client."""
    arguments = {"runtime": load_runtime_config(), "group": "g", "name": "n", "job_type": "train"}
    with offline(folder), WandbRun(folder, config={}, **arguments) as run:  # type: ignore[arg-type]
        for step in range(num_steps):
            run.log({"train/step": step, "text": text})
    [path] = folder.glob("wandb/offline-run-*/*.wandb")
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded"), 3)


@pytest.fixture
def damaged(recorded: Path, tmp_path: Path) -> Callable[[bytes], tuple[int, str]]:
    """A function that examines other contents under the recording's name."""

    def examine(content: bytes) -> tuple[int, str]:
        path = tmp_path / recorded.name
        path.write_bytes(content)
        return find_damage(path)

    return examine


@pytest.mark.slow
def test_a_whole_recording_is_not_damaged(recorded: Path) -> None:
    [run] = read_runs(recorded.parents[1])
    assert find_damage(recorded) == (len(run.records), "")


def test_records_over_several_blocks_are_read(tmp_path: Path) -> None:
    path = record(tmp_path, 5, text="x" * BLOCK)
    [run] = read_runs(tmp_path)
    assert path.stat().st_size > 5 * BLOCK and find_damage(path) == (len(run.records), "")


@pytest.mark.slow
def test_a_cut_is_noticed_wherever_it_is(recorded: Path, damaged: Callable[[bytes], tuple[int, str]]) -> None:
    """Only a cut between two records leaves a recording that is whole, though its process did not end it."""
    content = recorded.read_bytes()
    whole, num_records = [], [0]
    for length in range(len(content)):
        num, damage = damaged(content[:length])
        num_records.append(num)
        if not damage:
            whole.append(num)
    assert num_records == sorted(num_records) and whole == list(range(whole[0], find_damage(recorded)[0]))
    assert damaged(content[:7]) == (0, "it holds no run: its process ended before it was written")
    assert damaged(b"") == (0, "the file is empty")


@pytest.mark.slow
def test_every_flipped_bit_is_noticed(recorded: Path, damaged: Callable[[bytes], tuple[int, str]]) -> None:
    content = recorded.read_bytes()
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        assert damaged(bytes(flipped))[1], position


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:6] + b"\x01" + content[7:], "version 1 of the format"),
        (lambda content: b"\x89PNG" + content[4:], "does not begin as a recording does"),
        (lambda content: content + bytes(BLOCK), "wrong checksum"),  # a disk that was full
        (lambda content: content * 2, ""),
        (lambda content: content[:7] + content[:6:-1], ""),
    ],
)
def test_other_damage(
    change: Callable[[bytes], bytes],
    message: str,
    recorded: Path,
    damaged: Callable[[bytes], tuple[int, str]],
) -> None:
    damage = damaged(change(recorded.read_bytes()))[1]
    assert damage and message in damage


def test_what_cannot_be_opened_is_damaged(tmp_path: Path) -> None:
    assert find_damage(tmp_path) == (0, "Is a directory")
    assert find_damage(tmp_path / "missing") == (0, "No such file or directory")


def test_a_huge_file_takes_neither_time_nor_memory(recorded: Path, tmp_path: Path) -> None:
    path = tmp_path / recorded.name
    path.write_bytes(recorded.read_bytes())
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    num_records, damage = find_damage(path)
    assert num_records == find_damage(recorded)[0] and "wrong checksum" in damage
