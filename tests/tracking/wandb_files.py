"""Makes and reads W&B's offline files."""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

_BLOCK = 32768


@contextmanager
def offline(staging: Path) -> Iterator[None]:
    """The client records; its copies of artifacts go to a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DATA_DIR", str(staging))
        wandb.teardown()
        yield
        wandb.teardown()


@dataclass(frozen=True)
class Recorded:
    """The records of one offline run."""

    folder: Path
    records: tuple[Record, ...]

    def of(self, kind: str) -> list[Any]:
        return [getattr(r, kind) for r in self.records if r.WhichOneof("record_type") == kind]

    @property
    def run(self) -> Any:
        return self.of("run")[0]

    @property
    def config(self) -> dict[str, Any]:
        return {item.key: json.loads(item.value_json) for item in self.run.config.update}

    @property
    def history(self) -> list[dict[str, Any]]:
        return [_items(history.item) for history in self.of("history")]

    @property
    def summary(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for summary in self.of("summary"):
            merged |= _items(summary.update)
        return merged

    @property
    def artifacts(self) -> list[Any]:
        return self.of("artifact")

    def table(self, key: str) -> dict[str, Any]:
        """Columns and data of the table that was logged under a key."""
        [path] = [line[f"{key}.path"] for line in self.history if f"{key}.path" in line]
        content: dict[str, Any] = json.loads((self.folder / "files" / path).read_text())
        return content


def read_runs(folder: Path) -> list[Recorded]:
    """All offline runs below a folder, by start time."""
    wandb.teardown()  # waits for W&B's service, which writes its last records after finish() has returned
    paths = sorted(folder.rglob("offline-run-*/run-*.wandb"))
    return [Recorded(path.parent, tuple(_records(path))) for path in paths]


def _records(path: Path) -> Iterator[Record]:
    """Parse a LevelDB log of protocol buffers after a header of 7 bytes."""
    data, position, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        if left < 7:  # a record's header is never split between blocks
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def _items(items: Any) -> dict[str, Any]:
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for item in items
        if item.value_json
    }
