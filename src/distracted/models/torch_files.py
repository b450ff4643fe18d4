"""torch's pickled files, read without torch.load: a tree of values whose tensors are read on demand."""

import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from distracted.models.inert import Inert, InertUnpickler

_MAGIC = 0x1950A86A20F9469CFC6C  # begins torch's older files
_STORAGES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
    "QInt8": torch.qint8,
    "QUInt8": torch.quint8,
    "QInt32": torch.qint32,
}
_NUMBERS = "fiub"  # NumPy's kinds that tensors have
#: What rebuilds tensors that hold no plain values.
_UNREADABLE = {
    "_rebuild_qtensor": "is quantised",
    "_rebuild_sparse_tensor": "is sparse",
    "_rebuild_meta_tensor_no_storage": "has no values (it was on the meta device)",
    "_rebuild_nested_tensor": "is nested",
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape, and a function that reads its values."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


class Storage:
    """Where tensors' values lie, read once."""

    def __init__(self, dtype: torch.dtype, numel: int, read: Callable[[int], bytes]) -> None:
        self.dtype, self.numel = dtype, numel
        self._read = read

    @cached_property
    def _data(self) -> bytearray:
        size = self.numel * self.dtype.itemsize
        data = bytearray(self._read(size))
        if len(data) != size:
            raise ValueError(f"{len(data)} bytes of a tensor, expected {size}")
        return data

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        """All values in one dimension."""
        return torch.frombuffer(self._data, dtype=dtype) if self._data else torch.empty(0, dtype=dtype)


class _Storages:
    """Makes storages from the ids that pickles give them.

    Args:
        read: Returns a number of bytes of the storage with a key.
    """

    def __init__(self, read: Callable[[str, int], bytes]) -> None:
        self.by_key: dict[str, Storage] = {}
        self._read = read

    def __call__(self, pid: Any) -> Any:
        if pid[0] == "module":  # a class and its source, in older files of whole networks
            return pid[1]
        kind, storage_type, key, _, numel, *view = pid
        if kind != "storage" or (view and view[0] is not None):
            raise ValueError(f"a persistent id of kind {kind!r}")
        dtype = _STORAGES[storage_type.name.rpartition(".")[2].removesuffix("Storage")]
        if key not in self.by_key:
            self.by_key[key] = Storage(dtype, int(numel), lambda size: self._read(key, size))
        return self.by_key[key]


def read_zip(archive: zipfile.ZipFile, pickled: str) -> Any:
    """The content of a zip archive that torch.save has written.

    Args:
        pickled: Name of its data.pkl.
    """
    prefix = pickled.removesuffix("data.pkl")
    if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
        raise ValueError("it was saved on a big-endian machine")
    storages = _Storages(lambda key, size: archive.read(f"{prefix}data/{key}"))
    return InertUnpickler(BytesIO(archive.read(pickled)), storages).load()


def read_pickle(path: Path) -> Any:
    """The content of a file of torch's older format, or of any other pickle."""
    with path.open("rb") as file:
        return _read_older(file, lambda: path.open("rb"))


def _read_older(file: IO[bytes], reopen: Callable[[], IO[bytes]]) -> Any:
    content = InertUnpickler(file).load()
    if content != _MAGIC:
        return content
    InertUnpickler(file).load()  # the format's version
    if not InertUnpickler(file).load()["little_endian"]:
        raise ValueError("it was saved on a big-endian machine")
    positions: dict[str, int] = {}

    def read(key: str, size: int) -> bytes:
        with reopen() as again:
            again.seek(positions[key])
            return again.read(size)

    storages = _Storages(read)
    content = InertUnpickler(file, storages).load()
    for key in InertUnpickler(file).load():
        [numel] = struct.unpack("<q", file.read(8))
        positions[key] = file.tell()
        file.seek(numel * storages.by_key[key].dtype.itemsize, 1)
    return content


def as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """A dict, or a record of one (OrderedDict, a config's dict); else None."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, Inert):
        return None
    if value.name.endswith("OrderedDict") and value.args:  # pickled as pairs
        return dict(value.args[0])
    is_dict = value.name.endswith("Dict") and not value.name.startswith("torch.nn.")  # those are networks
    return value.items if value.items or is_dict else None


def as_tensor(value: Any) -> Stored | None:
    """A tensor or an array of numbers; else None, as for an array of texts."""
    if isinstance(value, Stored):
        return value
    if not isinstance(value, Inert):
        return None
    function, args = value.name.rpartition(".")[2], value.args
    if function in _UNREADABLE:
        return _unreadable(_UNREADABLE[function])
    if function == "_rebuild_wrapper_subclass":  # DTensor, a part of a tensor on each process, among others
        return _unreadable(f"is a {args[0].name}; save the full state_dict of plain tensors")
    if function in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return _strided(args[0], *args[1:4])
    if function == "_rebuild_tensor_v3":
        return _strided(args[0], *args[1:4], dtype=getattr(torch, args[6].name.rpartition(".")[2]))
    if function == "_rebuild_from_type_v2":  # a subclass of Tensor: (function, class, arguments, state)
        return as_tensor(args[0](*args[2]))
    if function.startswith(("_rebuild_parameter", "_rebuild_device_tensor", "_rebuild_xla")):
        return as_tensor(args[0])
    if function in ("_reconstruct", "_frombuffer") and value.name.startswith("numpy."):
        return _array(value)
    return None


def _unreadable(why: str) -> Stored:
    def read() -> torch.Tensor:
        raise ValueError(why)

    return Stored((), read)


def _strided(
    storage: Any, offset: int, size: Any, stride: Any, *, dtype: torch.dtype | None = None
) -> Stored:
    if isinstance(storage, Inert):  # a plain pickle of tensors holds each storage as a file of torch's own
        data = _as_bytes(storage.args[0])
        storage = _read_older(BytesIO(data), lambda: BytesIO(data))
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor without a storage ({type(storage).__name__})")
    shape = tuple(int(side) for side in (size.args[0] if isinstance(size, Inert) else size))
    kind = dtype or storage.dtype

    def read() -> torch.Tensor:
        values = storage.values(kind)
        if math.prod(side for side, step in zip(shape, stride, strict=True) if step) > len(values):
            raise ValueError(f"a tensor of shape {shape} with {len(values)} values")
        return values.as_strided(shape, stride, offset)

    return Stored(shape, read)


def _array(value: Inert) -> Stored | None:
    if value.name.endswith("_frombuffer"):
        data, dtype, shape, order = value.args
        fortran = order == "F"
    else:
        _, shape, dtype, fortran, data = value.state
    code = str(dtype.args[0]).lstrip("<>|=")
    if code[:1] not in _NUMBERS:
        return None
    array = np.frombuffer(_as_bytes(data), np.dtype(dtype.state[1] + code))
    return stored_array(array.reshape(tuple(shape), order="F" if fortran else "C"))


def stored_array(array: "np.ndarray[Any, Any]") -> Stored | None:
    """An array of numbers as a tensor; None for one of anything else."""
    if array.dtype.kind not in _NUMBERS:
        return None
    native = np.array(array, array.dtype.newbyteorder("="), order="C")
    return Stored(native.shape, lambda: torch.from_numpy(native))


def _as_bytes(value: Any) -> bytes:
    """Bytes, which older pickles hold as text: `_codecs.encode(text, "latin1")`."""
    text = value.args[0] if isinstance(value, Inert) else value
    return text.encode("latin1") if isinstance(text, str) else bytes(text)
