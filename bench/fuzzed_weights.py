"""Weight files in the layouts that trainers write, for bench/fuzz.py."""

import argparse
import pickle
import zipfile
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from distracted.files import write_json
from distracted.models.fitting import load_state_file
from distracted.models.state_dicts import open_state_dict


def write_weights(folder: Path) -> dict[str, Path]:
    """Files of weights as trainers write them, by layout; data.pkl is a part of a zip archive."""
    folder.mkdir()
    state = nn.Linear(2, 2).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    content = {
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "state_dict_ema": state,
        "args": argparse.Namespace(model="linear", path=Path("x")),
        "metric": np.float64(1.0),
        "time": datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
        "texts": np.array(["a", "b"]),
        "arrays": arrays,
    }
    names = ("pth", "older", "pickle", "data.pkl", "safetensors", "npz", "index.json")
    paths = {name: folder / f"weights.{name}" for name in names}
    torch.save(content, paths["older"], _use_new_zipfile_serialization=False)
    paths["pickle"].write_bytes(pickle.dumps(content, protocol=4))
    torch.save(content, paths["pth"])
    with zipfile.ZipFile(paths["pth"]) as archive:
        paths["data.pkl"].write_bytes(archive.read("weights/data.pkl"))
    save_file(state, paths["safetensors"])
    np.savez(paths["npz"], **arrays)
    write_json(paths["index.json"], {"weight_map": dict.fromkeys(state, "weights.safetensors")})
    return paths


def load_weights(path: Path) -> object:
    """Load a file into a layer; data.pkl within its archive, whose checksums would reject any change."""
    if path.suffix == ".pkl":
        whole = path.with_name("rebuilt.pth")
        with (
            zipfile.ZipFile(path.with_name("weights.pth")) as archive,
            zipfile.ZipFile(whole, "w") as rebuilt,
        ):
            for name in archive.namelist():
                pickled = name.endswith("data.pkl")
                rebuilt.writestr(name, path.read_bytes() if pickled else archive.read(name))
        path = whole
    return load_state_file(nn.Linear(2, 2), open_state_dict(path), "linear")
