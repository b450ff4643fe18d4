"""Weight files that people have load by their structure; the others are refused by what they are."""

import argparse
import builtins
import contextlib
import datetime
import enum
import functools
import json
import logging
import os
import pickle
import sys
import types
import zipfile
import zoneinfo
from collections import defaultdict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from distracted.errors import DistractedError, WeightsError
from distracted.models.inert import InertUnpickler
from distracted.models.state_dicts import open_state_dict
from distracted.models.weights import Weights, find_weights, load_weights, trained_on

State = dict[str, torch.Tensor]


@functools.cache
def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=10)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    return network, optimizer


class Case:
    """One trained network, and the files that its trainers would write.

    Attributes:
        state: The last weights.
        ema: Their average, which is 1 more everywhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network, self.optimizer = trained()
        self.state: State = dict(self.network.state_dict())
        self.ema: State = {name: tensor + 1 for name, tensor in self.state.items()}

    def save(self, content: Any, **settings: Any) -> Path:
        path = self.folder / "file.xyz"  # the ending does not count
        torch.save(content, path, **settings)
        return path

    def load(self, path: Path) -> tuple[State, Weights]:
        trunk = timm.create_model("test_resnet", num_classes=0)
        weights = find_weights("test_resnet", str(path), source=None)
        load_weights(trunk, weights, "test_resnet")
        return dict(trunk.state_dict()), weights


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def class_of(full_name: str, base: type) -> Any:
    """A class of a package that is not installed here: pickles name it, reading must not import it."""
    module, _, name = full_name.rpartition(".")
    made = type(name, (base,), {"__module__": module})
    parts = module.split(".")
    for number in range(len(parts)):
        sys.modules.setdefault(".".join(parts[: number + 1]), types.ModuleType(module))
    setattr(sys.modules[module], name, made)
    return made


@pytest.fixture(autouse=True)
def no_such_packages() -> Any:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("pytorch_lightning", "yacs", "ultralytics"):
            del sys.modules[name]


class Options:
    """torch.save writes classes within a class as calls of getattr."""

    class Schedule:
        def __init__(self) -> None:
            self.rate = 0.1

    class Kind(enum.Enum):
        FAST = 1


def timm_train(case: Case) -> Any:
    options = argparse.Namespace(model="test_resnet", lr=1e-3, output=Path("out"))
    return {
        "epoch": 3,
        "arch": "test_resnet",
        "state_dict": case.state,
        "optimizer": case.optimizer.state_dict(),
        "args": options,
        "state_dict_ema": case.ema,
        "metric": np.float64(71.2),
    }


def torchvision_reference(case: Case) -> Any:
    averaged = AveragedModel(case.network, avg_fn=lambda *args: args[0])
    for parameter in (*averaged.parameters(), *list(averaged.buffers())[1:]):
        parameter.data = parameter.data + 1
    return {
        "model": case.state,
        "optimizer": case.optimizer.state_dict(),
        "lr_scheduler": {"base_lrs": [0.1], "warmup": len},
        "epoch": 1,
        "args": argparse.Namespace(model="resnet50", workers=16),
        "model_ema": averaged.state_dict(),
    }


def lightning(case: Case, prefix: str, **more: torch.Tensor) -> Any:
    attributes = class_of("pytorch_lightning.utilities.parsing.AttributeDict", dict)
    hyper = attributes(lr=0.1, config=OmegaConf.create({"sizes": [1, 2], "name": "x"}))
    return {
        "state_dict": under(prefix, case.state) | more,
        "hyper_parameters": hyper,
        "callbacks": {"ModelCheckpoint": defaultdict(list, best=[np.float32(0.4)])},
        "optimizer_states": [case.optimizer.state_dict()],
        "pytorch-lightning_version": "2.4.0",
    }


def fastai(case: Case) -> Any:
    children = [name for name, _ in case.network.named_children()]
    body = {}
    for name, tensor in case.state.items():
        first, _, rest = name.partition(".")
        if first != "fc":
            body[f"0.{children.index(first)}.{rest}"] = tensor
    return {"model": body | {"1.2.weight": torch.ones(3)}, "opt": case.optimizer.state_dict()}


#: Content by kind; whether the average of weights is expected; and what the origin adds to the file's name.
LOADED: dict[str, tuple[Callable[[Case], Any], bool, str]] = {
    "timm's train.py": (timm_train, True, "[state_dict_ema]"),
    "torchvision's reference": (torchvision_reference, True, "[model_ema]"),
    **{
        key: (lambda c, key=key: {key: c.state, "epoch": 1, "best": np.float32(0.4)}, False, f"[{key}]")
        for key in ("model_state_dict", "net", "network", "weights", "params", "ema", "teacher", "model_sd")
    },
    "plain": (lambda c: c.state, False, ""),
    "state_dict": (lambda c: {"state_dict": c.state}, False, ""),
    "model": (lambda c: {"model": c.state, "config": {"a": 1}}, False, ""),
    "DDP": (lambda c: under("module.", c.state), False, ""),
    "compiled": (lambda c: under("_orig_mod.", c.state), False, ""),
    "compiled DDP": (lambda c: {"model": under("module._orig_mod.", c.state)}, False, ""),
    "FSDP": (lambda c: under("_fsdp_wrapped_module.", c.state), False, ""),
    "activation checkpoints": (
        lambda c: {name.replace("1.0.", "1.0._checkpoint_wrapped_module."): t for name, t in c.state.items()},
        False,
        "",
    ),
    "Lightning's model.": (lambda c: lightning(c, "model.", **{"loss.weight": torch.ones(3)}), False, ""),
    "Lightning's backbone.": (lambda c: lightning(c, "backbone."), False, ""),
    "Lightning's net.model.": (lambda c: lightning(c, "net.model."), False, ""),
    "Lightning with an average": (
        lambda c: lightning(c, "model.", **under("ema_model.", c.ema)),
        True,
        "[state_dict.ema_model]",
    ),
    "an encoder": (lambda c: {"state_dict": under("encoder.", c.state)}, False, ""),
    "mmpretrain": (
        lambda c: {
            "meta": {"CLASSES": ("a",), "seed": 1},
            "state_dict": under("backbone.", c.state) | {"head.fc.weight": torch.ones(2, 2)},
        },
        False,
        "",
    ),
    "DINO": (
        lambda c: {
            "student": under("module.backbone.", c.state) | {"module.head.mlp.weight": torch.ones(2)},
            "teacher": under("backbone.", c.ema) | {"head.mlp.weight": torch.ones(2)},
            "dino_loss": {"center": torch.ones(1, 3)},
            "args": argparse.Namespace(arch="vit_small"),
        },
        True,
        "[teacher]",
    ),
    "MoCo": (
        lambda c: {
            "state_dict": under("module.encoder_q.", c.state)
            | under("module.encoder_k.", c.ema)
            | {"module.queue": torch.ones(3, 3)}
        },
        False,
        "",
    ),
    "fastai's Learner.save": (fastai, False, ""),
    "SWA": (lambda c: {"n_averaged": torch.tensor(5), **under("module.", c.state)}, False, ""),
    "a config of its own class": (
        lambda c: {"model": c.state, "config": class_of("yacs.config.CfgNode", dict)(a=1)},
        False,
        "",
    ),
    "timm's wrapper in transformers": (lambda c: under("timm_model.", c.state), False, ""),
    "parameters": (
        lambda c: dict(c.network.named_parameters()) | dict(c.network.named_buffers()),
        False,
        "",
    ),
    "NumPy arrays": (lambda c: {name: tensor.numpy() for name, tensor in c.state.items()}, False, ""),
    "texts beside the weights": (
        lambda c: {**c.state, "names": np.array(["a", "b"]), "any": np.array(["a", None], dtype=object)},
        False,
        "",
    ),
    "an optimizer's state by names": (
        lambda c: {
            "optimizer": {f"state.{n}.{kind}": t for n, t in c.state.items() for kind in ("exp_avg", "step")},
            "model": c.state,
        },
        False,
        "",
    ),
    "distillation from a smaller network": (
        lambda c: {
            "state_dict": under("student.", c.state)
            | under("teacher.", {n: t + 1 for n, t in c.state.items() if not n.startswith("layer4")})
        },
        False,
        "",
    ),
    "anything beside the weights": (
        lambda c: {
            "state_dict": c.state,
            "functions": [os.path.join, functools.partial(print, 1), nn.ReLU()],
            "options": [Options.Schedule(), Options.Kind.FAST, Options.Kind],
            "time": datetime.datetime.now(zoneinfo.ZoneInfo("UTC")),
            "values": ({1, 2}, frozenset([1]), slice(1), torch.device("cpu"), torch.float16, torch.Size([1])),
        },
        False,
        "",
    ),
}  # fmt: skip
#: How torch.save is told to write; by default as a zip, with protocol 2.
LAYOUTS: tuple[dict[str, Any], ...] = ({}, {"pickle_protocol": 5, "_use_new_zipfile_serialization": False})
OTHER_LAYOUTS: tuple[dict[str, Any], ...] = (
    {"_use_new_zipfile_serialization": False},
    {"pickle_protocol": 4},
)


@pytest.mark.parametrize("kind", LOADED)
def test_a_file_of_any_trainer_loads(kind: str, case: Case, caplog: pytest.LogCaptureFixture) -> None:
    """In torch's layouts, and with the last weights or their average as recorded in the origin."""
    make, averaged, where = LOADED[kind]
    expected = case.ema if averaged else case.state
    layouts = LAYOUTS + (OTHER_LAYOUTS if kind in ("timm's train.py", "anything beside the weights") else ())
    for layout in layouts:
        with caplog.at_level(logging.INFO):
            loaded, weights = case.load(case.save(make(case), **layout))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items()), layout
        assert weights.origin == f"file:file.xyz{where}"
    if averaged:
        assert f"takes {where.strip('[]')}; it also holds" in caplog.text


@pytest.mark.parametrize("name", ["mein Modell [1] é.pth", os.fsdecode(b"\xff.pth")])
def test_any_name_of_a_file_will_do(name: str, case: Case) -> None:
    loaded, weights = case.load(case.save(case.state).rename(case.folder / name))
    assert all(torch.equal(tensor, case.state[key]) for key, tensor in loaded.items())
    assert weights.origin.encode().decode() == f"file:{name}".replace("\udcff", "\\udcff")


def test_another_state_dict_of_a_file_can_be_named(case: Case) -> None:
    path = case.save(timm_train(case))
    for part, expected, origin in (
        ("state_dict", case.state, "file:file.xyz"),
        ("state_dict_ema", case.ema, "file:file.xyz[state_dict_ema]"),
    ):
        loaded, weights = case.load(Path(f"{path}[{part}]"))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
        assert weights.origin == origin
    within = under("model.", case.state) | under("ema_model.", case.ema)
    for content, part, expected, origin in (
        ({"state_dict": within}, "state_dict", case.state, "file:file.xyz"),
        ({"state_dict": within}, "state_dict.ema_model", case.ema, "file:file.xyz[state_dict.ema_model]"),
        (within, "top", case.state, "file:file.xyz"),
        (within, "ema_model", case.ema, "file:file.xyz[ema_model]"),
    ):
        loaded, weights = case.load(Path(f"{case.save(content)}[{part}]"))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
        assert weights.origin == origin
    case.save(timm_train(case))
    with pytest.raises(WeightsError, match=r"no state_dict 'ema'; there are: state_dict, state_dict_ema"):
        case.load(Path(f"{path}[ema]"))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_plain_pickles_load(protocol: int, case: Case) -> None:
    path = case.folder / "weights.pkl"
    arrays = {name: tensor.numpy() for name, tensor in case.state.items()}
    for content in (case.state, {"model": arrays}):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        loaded, _ = case.load(path)
        assert all(torch.equal(tensor, case.state[name]) for name, tensor in loaded.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2])
def test_other_precisions_load(dtype: torch.dtype, case: Case) -> None:
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in case.state.items()}
    loaded, _ = case.load(case.save(state))
    assert all(torch.equal(t, state[n].to(case.state[n].dtype)) for n, t in loaded.items())


def test_views_and_shared_values_load(case: Case) -> None:
    """A tensor may be a transposed slice of another one's values."""
    name = max(case.state, key=lambda name: case.state[name].numel())
    wide = torch.cat([case.state[name].transpose(0, 1)] * 2)
    view = wide[: len(wide) // 2].transpose(0, 1)
    assert not view.is_contiguous()
    repeated = torch.zeros(1).expand(5)
    loaded, _ = case.load(case.save({**case.state, name: view, "all": wide, "repeated": repeated}))
    assert torch.equal(loaded[name], case.state[name])


def test_other_formats_load(case: Case) -> None:
    """safetensors under another ending, in parts with an index, and NumPy's archives."""
    state = {name: tensor.contiguous() for name, tensor in case.state.items()}
    save_file(state, case.folder / "pytorch_model.bin")
    names, parts = list(state), ("model-1-of-2.safetensors", "model-2-of-2.safetensors")
    index = case.folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: parts[n % 2] for n, name in enumerate(names)}}))
    for number, part in enumerate(parts):
        save_file({name: state[name] for name in names[number::2]}, case.folder / part)
    texts = {"classes": np.array(["c0", "c1"]), "notes": np.array(["x", None], dtype=object)}
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    np.savez_compressed(case.folder / "a.npz", **arrays, **texts)
    digests = set()
    for path in (case.folder / "pytorch_model.bin", index, case.folder / "a.npz"):
        loaded, weights = case.load(path)
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
        digests.add(weights.sha256)
    save_file({name: state[name] + 1 for name in names[1::2]}, case.folder / parts[1])
    assert find_weights("test_resnet", str(index), source=None).sha256 not in digests
    (case.folder / parts[1]).unlink()
    with pytest.raises(WeightsError, match=rf"it names {parts[1]}, which is not beside it"):
        case.load(index)


def test_googles_own_files_load(tmp_path: Path) -> None:
    """The .npz files of ViT, whose names and layouts are those of JAX."""
    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=1)
    state = {name: tensor.numpy() for name, tensor in source.state_dict().items()}
    block, heads, width = "Transformer/encoderblock_0/", 3, 192
    attention = f"{block}MultiHeadDotProductAttention_1/"
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        f"{attention}out/kernel": state["blocks.0.attn.proj.weight"].T.reshape(heads, width // heads, width),
        f"{attention}out/bias": state["blocks.0.attn.proj.bias"],
    }
    for number, part in enumerate(("query", "key", "value")):
        rows = slice(number * width, (number + 1) * width)
        kernel = state["blocks.0.attn.qkv.weight"][rows].T.reshape(width, heads, -1)
        arrays[f"{attention}{part}/kernel"] = kernel
        arrays[f"{attention}{part}/bias"] = state["blocks.0.attn.qkv.bias"][rows].reshape(heads, -1)
    for number in range(2):
        dense, norm = f"{block}MlpBlock_3/Dense_{number}/", f"{block}LayerNorm_{2 * number}/"
        arrays[f"{dense}kernel"] = state[f"blocks.0.mlp.fc{number + 1}.weight"].T
        arrays[f"{dense}bias"] = state[f"blocks.0.mlp.fc{number + 1}.bias"]
        arrays[f"{norm}scale"] = state[f"blocks.0.norm{number + 1}.weight"]
        arrays[f"{norm}bias"] = state[f"blocks.0.norm{number + 1}.bias"]
    path = tmp_path / "Ti_16.npz"
    np.savez(path, **arrays)
    weights = find_weights("vit_tiny_patch16_224", str(path), source=None)
    trunk = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=1)
    load_weights(trunk, weights, "vit_tiny_patch16_224")
    assert all(torch.equal(t, source.state_dict()[name]) for name, t in trunk.state_dict().items())
    deeper = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=2)
    with pytest.raises(WeightsError, match="not the weights of vit_tiny_patch16_224: timm's reader stops"):
        load_weights(deeper, weights, "vit_tiny_patch16_224")


# Refused ---------------------------------------------------------------------------------------------------


def half(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def scripted(case: Case) -> Path:
    torch.jit.script(nn.Sequential(nn.Linear(2, 2))).save(case.folder / "file.xyz")
    return case.folder / "file.xyz"


def exported(case: Case) -> Path:
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, case.folder / "file.pt2")
    return case.folder / "file.pt2"


def zipped(case: Case) -> Path:
    with zipfile.ZipFile(case.folder / "file.xyz", "w") as archive:
        archive.writestr("readme.txt", "x")
    return case.folder / "file.xyz"


def ultralytics(case: Case) -> Path:
    model = class_of("ultralytics.nn.tasks.ClassificationModel", nn.Sequential)(nn.Linear(2, 2))
    return case.save({"epoch": 1, "model": model, "ema": None, "train_args": {"lr": 0.1}})


SAVE = "torch.save(network.state_dict(), <file>)"
BYTES = {
    "an empty file": (b"", "it is empty"),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "`git lfs pull`",
    ),
    "a web page": (b"\n<!DOCTYPE html><html>", "a web page"),
    "Keras's HDF5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a", "an ONNX graph"),
    "one array": (b"\x93NUMPY\x01\x00", "one array (.npy); np.savez"),
    "a bzip2 archive": (b"BZh91AY&", "bzip2 archive; unpack it"),
    "a Zstandard archive": (b"\x28\xb5\x2f\xfd\x04", "Zstandard archive; unpack it"),
    "a gzip archive": (b"\x1f\x8b\x08", "gzip archive; unpack it"),
    "TFLite": (b"\x1c\0\0\0TFL3", "a file of TensorFlow"),
    "JSON": (b'{"architecture": "resnet50"}', "JSON without tensors"),
    "text": (b"hello", "it begins with b'hello'"),
}
REFUSED: dict[str, tuple[Callable[[Case], Path], tuple[str, ...]]] = {
    "a whole network": (lambda c: c.save(c.network), ("an object of timm.models.resnet.ResNet", SAVE)),
    "a whole network, older": (
        lambda c: c.save(c.network, _use_new_zipfile_serialization=False),
        ("an object of timm.models.resnet.ResNet", SAVE),
    ),
    "Ultralytics": (ultralytics, ("model (an object of ultralytics.nn.tasks.ClassificationModel", SAVE)),
    "TorchScript": (scripted, ("a TorchScript archive", "torch.jit.load")),
    "torch.export": (exported, ("a program of torch.export", "torch.export.load(<file>).state_dict")),
    "another archive": (zipped, ("a zip archive; unpack it", "readme.txt")),
    "an optimizer": (
        lambda c: c.save({"optimizer": c.optimizer.state_dict()}),
        ("but optimizer (dict)", SAVE),
    ),
    "a list": (lambda c: c.save([c.state]), ("it holds list", SAVE)),
    "networks by number": (
        lambda c: c.save({0: c.state, b"1": 1}),
        ("but 0 (dict), <_codecs.encode> (int)", SAVE),
    ),
    "a dictionary of networks": (
        lambda c: c.save(nn.ModuleDict({"a": c.network})),
        ("an object of torch.nn.modules.container.ModuleDict", SAVE),
    ),
    "one tensor": (lambda c: c.save(torch.ones(3)), ("it holds a tensor", SAVE)),
    "cut short": (lambda c: half(c.save(c.state)), ("cut short", "download it again")),
    "cut short, older": (
        lambda c: half(c.save(c.state, _use_new_zipfile_serialization=False)),
        ("cut short", "download it again"),
    ),
    "without values": (
        lambda c: c.save({n: t.to("meta") for n, t in c.state.items()}),
        ("conv1.0.weight has no values",),
    ),
    "sparse": (lambda c: c.save({"w": torch.eye(3).to_sparse()}), ("w is sparse",)),
    "a part of the network": (
        lambda c: c.save({n: t for n, t in c.state.items() if not n.startswith("layer4")}),
        ("15 of 90 tensors are missing (layer4.0.conv1.weight",),
    ),
    "DeepSpeed's parts": (
        lambda c: c.save({"module": {n: torch.empty(0) for n in c.state}}),
        ("conv1.0.weight (0,) for (", "zero_to_fp32.py"),
    ),
    "another network": (
        lambda c: c.save({"arch": "test_vit", "state_dict": timm.create_model("test_vit").state_dict()}),
        ("it names the network test_vit", "begin with cls_token, pos_embed", "give weights of test_resnet"),
    ),
    "a whole network beside a tensor": (
        lambda c: c.save({"model": c.network, "class_weights": torch.ones(3)}),
        ("it holds a whole network, of timm.models.resnet.ResNet",),
    ),
    "diverged": (
        lambda c: c.save({n: t * torch.nan if t.is_floating_point() else t for n, t in c.state.items()}),
        ("75 of 90 tensors hold NaN or infinity",),
    ),
    "whole numbers": (
        lambda c: c.save({n: t.to(torch.int8) for n, t in c.state.items()}),
        ("75 of 90 tensors hold no fractions (conv1.0.weight torch.int8",),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theirs", "problem"),
    [
        ("resnet34", r"80 more, of a deeper network or another variant \(layer1\.2\.conv1\.weight"),
        ("seresnet18", r"32 more, .* another variant \(layer1\.0\.se\.fc1\.weight"),
    ],
)
def test_a_network_that_contains_the_right_tensors_is_refused(
    theirs: str, problem: str, tmp_path: Path
) -> None:
    """All tensors of a ResNet-18 are in a ResNet-34, with the same names and shapes."""
    torch.save(timm.create_model(theirs).state_dict(), tmp_path / "file.pth")
    weights = find_weights("resnet18", str(tmp_path / "file.pth"), source=None)
    with pytest.raises(WeightsError, match=problem):
        load_weights(timm.create_model("resnet18", num_classes=0), weights, "resnet18")


def test_a_transformer_with_more_tokens_is_refused(tmp_path: Path) -> None:
    """DINOv2's with registers have the tensors of those without."""
    settings: dict[str, Any] = {"img_size": 32, "depth": 1, "no_embed_class": True}
    theirs = timm.create_model("vit_tiny_patch16_224", reg_tokens=4, **settings)
    torch.save(theirs.state_dict(), tmp_path / "file.pth")
    weights = find_weights("vit_tiny_patch16_224", str(tmp_path / "file.pth"), source=None)
    trunk = timm.create_model("vit_tiny_patch16_224", num_classes=0, **settings)
    with pytest.raises(WeightsError, match=r"1 more, of a deeper network or another variant \(reg_token"):
        load_weights(trunk, weights, "vit_tiny_patch16_224")


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_of_a_networks_own_file_only_the_classifier_is_left_out(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name)
    torch.save(network.state_dict(), tmp_path / "file.pth")
    trunk = timm.create_model(name, num_classes=0)
    load_weights(trunk, find_weights(name, str(tmp_path / "file.pth"), source=None), name)
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in trunk.state_dict().items())


def test_a_file_that_names_another_network_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tensors of both have the same names and shapes; one pads as TensorFlow does."""
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    for arch, warned in (("tf_efficientnet_lite0.in1k", True), ("efficientnet_lite0", False)):
        torch.save({"arch": arch, "state_dict": state}, tmp_path / "file.pth")
        weights = find_weights("efficientnet_lite0", str(tmp_path / "file.pth"), source=None)
        load_weights(timm.create_model("efficientnet_lite0", num_classes=0), weights, "efficientnet_lite0.x")
        assert ("it names the network tf_efficientnet_lite0; loaded as efficient" in caplog.text) == warned
        caplog.clear()


def test_other_patches_are_warned_of_and_other_image_sizes_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """timm's conversion resizes both."""
    settings: dict[str, Any] = {"depth": 1, "num_classes": 0}
    torch.save(timm.create_model("vit_tiny_patch16_224", **settings).state_dict(), tmp_path / "file.pth")
    weights = find_weights("vit_tiny_patch16_224", str(tmp_path / "file.pth"), source=None)
    for size, patch, warnings in ((64, 16, 0), (64, 8, 1)):
        trunk = timm.create_model("vit_tiny_patch16_224", img_size=size, patch_size=patch, **settings)
        load_weights(trunk, weights, "vit_tiny_patch16_224")
        messages = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
        assert len(messages) == warnings
    assert "patch_embed.proj.weight (192, 3, 16, 16) is resized to (192, 3, 8, 8)" in messages[0]


def refuse(case: Case, path: Path, *parts: str) -> None:
    with pytest.raises(WeightsError) as caught:
        case.load(path)
    assert str(caught.value).startswith(f"{path}: not ")
    for part in parts:
        assert part in str(caught.value), str(caught.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_such_weights_is_named(kind: str, case: Case) -> None:
    make, parts = REFUSED[kind]
    refuse(case, make(case), *parts)


@pytest.mark.parametrize("kind", BYTES)
def test_a_file_of_another_kind_is_named(kind: str, case: Case) -> None:
    content, part = BYTES[kind]
    path = case.folder / "weights.pth"
    path.write_bytes(content)
    refuse(case, path, part)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_tensors_are_named(case: Case) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    refuse(case, case.save({"w": quantised}), "w is quantised")


def test_networks_of_this_project_are_known_under_any_ending(case: Case) -> None:
    """Whose labels a network learned from is in its file, not in the file's name."""
    path = case.folder / "weights.bin"
    state = {name: tensor.contiguous() for name, tensor in under("trunk.", case.state).items()}
    save_file(state, path, metadata={"trained_on": "somewhere"})
    loaded, weights = case.load(path)
    assert trained_on(weights) == "somewhere" and torch.equal(loaded["bn1.weight"], case.state["bn1.weight"])


# Nothing runs ----------------------------------------------------------------------------------------------

PROBE = b"traps.append(1)"
GADGETS = {
    "reduce": b"cbuiltins\nexec\n(V" + PROBE + b"\ntR.",
    "instance": b"(V" + PROBE + b"\nibuiltins\nexec\n.",
    "object": b"(cbuiltins\nexec\nV" + PROBE + b"\no.",
    "new object": b"\x80\x02cbuiltins\nexec\n(V" + PROBE + b"\nt\x81.",
    "stack global": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x0f" + PROBE + b"\x85R.",
    "state": b"\x80\x02cbuiltins\nobject\n)\x81}(V__setstate__\ncbuiltins\nexec\nub(V" + PROBE + b"\ntb.",
    "attributes": b"\x80\x02cbuiltins\nobject\nN}(V__new__\ncbuiltins\nexec\nu\x86b.",
    "getattr": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\nV__call__\ntR(Vos\ntR.",
    "extension": b"\x80\x02\x82\x01.",
    "storage": b"\x80\x02Vx\nQ.",
}  # fmt: skip


@pytest.mark.parametrize("gadget", GADGETS)
def test_nothing_in_a_pickle_runs(gadget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traps: list[int] = []
    monkeypatch.setattr(builtins, "traps", traps, raising=False)
    path = tmp_path / "trap.pth"
    path.write_bytes(GADGETS[gadget])
    with pytest.raises(WeightsError, match=r"trap\.pth: not a file of plain tensors"):
        open_state_dict(path)
    assert not traps


def test_records_hold_what_was_not_run() -> None:
    content = {"a": argparse.Namespace(b=1), "c": functools.partial(os.system, "true")}
    tree = InertUnpickler(BytesIO(pickle.dumps(content))).load()
    assert (tree["a"].name, tree["a"].state) == ("argparse.Namespace", {"b": 1})
    assert tree["c"].name == "functools.partial" and tree["c"].args[0].name == "posix.system"


@functools.cache
def small_file() -> bytes:
    """A checkpoint in torch's older layout, which has no checksums; made once, for it holds addresses."""
    buffer = BytesIO()
    content = {"state_dict": {"a.weight": torch.ones(2, 2)}, "args": argparse.Namespace(a=1), "n": np.ones(2)}
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever bytes of a file change, it is read or refused."""
    path, raw = tmp_path_factory.getbasetemp() / "damaged.pth", bytearray(small_file())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    with contextlib.suppress(DistractedError):
        open_state_dict(path).read()
