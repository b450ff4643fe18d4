"""A network's file is the same bytes whenever the same network is saved."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from distracted.models.network import Network, fingerprint
from distracted.models.saved import load_network, save_network, write_tensors
from distracted.schema import RunConfig
from distracted.training.resolve import resolve

CLASSES = ("c0", "über\t0", 'c"2')


def test_a_saved_network_is_the_same_bytes_each_time(
    network: Network, configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = resolve(configure(), num_folds=3).config
    paths = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for path in paths:
        save_network(path, network, config, CLASSES)
    assert len({path.read_bytes() for path in paths}) == 1
    loaded = load_network(paths[0], config, config_hash=config.hash, classes=CLASSES)
    assert fingerprint(loaded) == fingerprint(network)


def test_a_file_that_cannot_be_opened_is_no_reason_to_train_again(
    network: Network, configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """No right to read it, or as here too many open files."""
    config, path = resolve(configure(), num_folds=3).config, tmp_path / "model.safetensors"
    save_network(path, network, config, CLASSES)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match=f"Too many open files: '{path}'"):
            load_network(path, config, config_hash=config.hash, classes=CLASSES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_metadata_of_any_text_survives(tmp_path: Path) -> None:
    metadata = {"é": '\x01\x1f\x7f\\"\n\b ', "b": "\u2028 😀", "a": "{}", "c": ""}
    path = tmp_path / "tensors.safetensors"
    for tensors in ({"x": torch.arange(5.0)}, {"x": torch.empty(0)}):
        write_tensors(path, tensors, metadata)
        with safe_open(path, "pt") as file:
            assert file.metadata() == metadata and torch.equal(file.get_tensor("x"), tensors["x"])
    write_tensors(path, {"x": torch.zeros(1)}, {})
    with safe_open(path, "pt") as file:
        assert not file.metadata()
