"""Weight files by their content, not their name: a tree of mappings whose leaves are tensors read on demand.

torch's files are read without running anything in them.
"""

import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from distracted.errors import WeightsError, first_line
from distracted.files import sha256_file, sha256_json
from distracted.models.torch_files import Stored, as_mapping, read_pickle, read_zip, stored_array

_AGAIN = "copy or download it again"
#: What torch.save writes, unpacked by a browser or a file manager.
UNPACKED = "an unpacked file of torch.save; in its folder, `zip -r0 <file.pth> <folder>` packs it again"
_UNPACK = "archive; unpack it and give the weights file in it"
_FORMATS = "only files of torch, safetensors or NumPy fit these networks"
#: How files that hold no weights of these formats begin, what they are, and the way out.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for the file; `git lfs pull` fetches it"),
    (b"\x89HDF", f"an HDF5 file, as Keras writes; {_FORMATS}"),
    (b"\x1f\x8b", f"a gzip {_UNPACK}"),
    (b"\xfd7zXZ", f"an xz {_UNPACK}"),
    (b"7z\xbc\xaf", f"a 7z {_UNPACK}"),
    (b"BZh", f"a bzip2 {_UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"a Zstandard {_UNPACK}"),
    (b"\x93NUMPY", "one array (.npy); np.savez(<file.npz>, **state_dict) keeps the tensors' names"),
    (b"Rar!", f"a RAR {_UNPACK}"),
    (b"GGUF", f"a GGUF file; {_FORMATS}"),
    (b"<", "a web page or XML, not weights: the address led to a page; download the file itself"),
)


def refusal(path: Path, problem: str) -> WeightsError:
    return WeightsError(f"{path}: not a file of plain tensors: {problem}")


def read_tree(path: Path) -> Any:
    """Read a weights file's structure: plain values, mappings, `Stored` tensors, `Inert` records.

    Raises:
        WeightsError: unreadable, damaged, or of another format; names it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
        return _reader(path, head)(path)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from error
    except Exception as error:  # on damaged files the readers raise many types
        why = f"{type(error).__name__}: {first_line(error)}"
        raise refusal(path, f"damaged, or cut short ({why}); {_AGAIN}") from error


def weights_digest(path: Path) -> str:
    """SHA-256 of a weights file; of an index, that of the files it names."""
    shards = _shards(path)
    return sha256_json([sha256_file(shard) for shard in shards]) if shards else sha256_file(path)


def _reader(path: Path, head: bytes) -> Callable[[Path], Any]:
    """The function that reads a file that begins so."""
    if not head:
        raise refusal(path, f"it is empty; {_AGAIN}")
    if head.startswith(b"PK"):
        return _read_zip
    if path.name == "data.pkl":
        raise refusal(path, f"a part of {UNPACKED}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return _read_safetensors
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"{"):
        return _read_index
    for start, what in _OTHERS:
        if text.startswith(start):
            raise refusal(path, what)
    if head[257:262] == b"ustar":
        raise refusal(path, f"a tar {_UNPACK}")
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and b"\x12" in head[2:4]):
        raise refusal(path, f"an ONNX graph; {_FORMATS}: save the state_dict that it was exported from")
    if head[4:8] == b"TFL3" or path.suffix in (".index", ".pb") or ".data-0" in path.name:
        raise refusal(path, f"a file of TensorFlow; {_FORMATS}")
    if head[:1] in b"\x80(}c]":  # pickles of protocol 2 on, and older ones
        return read_pickle
    raise refusal(path, f"it begins with {head[:8]!r}; {_FORMATS}")


def _read_zip(path: Path) -> Any:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        size = path.stat().st_size
        raise refusal(path, f"damaged, or cut short at {size:,} bytes; {_AGAIN}") from error
    names = archive.namelist()
    ends = [name.rpartition("/")[2] for name in names]
    if names and all(name.endswith(".npy") for name in names):
        return _read_npz(path)
    if "constants.pkl" in ends or any("/code/" in name for name in names):
        save = "torch.save(torch.jit.load(<file>, 'cpu').state_dict(), <new file>)"
        raise refusal(path, f"a TorchScript archive, which holds code; save its tensors: {save}")
    if any(end in ("archive_format", "serialized_exported_program.json") for end in ends):
        save = "torch.save(torch.export.load(<file>).state_dict, <new file>)"
        raise refusal(path, f"a program of torch.export; save its tensors: {save}")
    if ends.count("data.pkl") == 1:
        return read_zip(archive, names[ends.index("data.pkl")])
    inside = ", ".join(names[:3]) or "nothing"
    raise refusal(path, f"a zip {_UNPACK} (it holds {inside} ...)")


def _read_npz(path: Path) -> dict[str, Stored]:
    tensors = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            with suppress(ValueError):  # objects, which are pickled
                if (tensor := stored_array(arrays[name])) is not None:
                    tensors[name] = tensor
    return tensors


def _read_safetensors(path: Path) -> dict[str, Stored]:
    with safe_open(path, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def read(name: str) -> torch.Tensor:
        with safe_open(path, "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor

    return {name: Stored(shape, lambda name=name: read(name)) for name, shape in shapes.items()}  # type: ignore[misc]


def _shards(path: Path) -> list[Path]:
    """The files that an index of Hugging Face's names, which spreads tensors over several; else none."""
    if path.suffix != ".json":
        return []
    try:
        files = json.loads(path.read_text())["weight_map"].values()
        return [path.with_name(Path(file).name) for file in sorted(set(files))]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []


def _read_index(path: Path) -> dict[str, Any]:
    shards = _shards(path)
    if not shards:
        raise refusal(path, "JSON without tensors; give the weights file beside it")
    tensors: dict[str, Any] = {}
    for shard in shards:
        if not shard.is_file() or shard.suffix == ".json":
            raise WeightsError(f"{path}: it names {shard.name}, which is not beside it; {_AGAIN}")
        tensors |= as_mapping(read_tree(shard)) or {}
    return tensors
