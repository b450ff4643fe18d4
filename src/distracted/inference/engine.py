"""A network that learns no more, made ready to see many images: the fastest way to its logits or features.

Each BatchNorm is folded into the convolution before it, or on a CPU ONNX Runtime does the work, where that is
asked for. What the first images give has to agree with what the network itself gives, else that does it.
"""

import io
import logging
import os
import warnings
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from distracted.errors import ConfigError, first_line
from distracted.inference.device import Precision, autocast
from distracted.models.network import Network

_log = logging.getLogger(__name__)

#: Uint8 images, as the network takes them, to float32 rows on the same device.
Forward = Callable[[torch.Tensor], torch.Tensor]
Part = Literal["logits", "features"]
Engine = Literal["torch", "onnx"]

_WORTH_IT = 500  # images: for a few hundred the folding would take as long as it saves
_TOLERANCE = 1e-4  # of log-probabilities; of features, relative to the largest
_PROBED = 4  # images that both see


class Ready:
    """A network's forward pass over a set of images, settled on the first of them.

    Args:
        part: What is asked of it: logits (B, num_classes), or what its head takes (B, num_features).
        num_images: That it will see.
        engine: As `find_way` takes it.
    """

    def __init__(
        self,
        network: Network,
        part: Part,
        *,
        num_images: int,
        device: torch.device,
        precision: Precision,
        engine: Engine = "torch",
    ) -> None:
        self._network, self._part, self._precision = network.eval(), part, precision
        self._way = find_way(num_images, device=device, precision=precision, engine=engine)
        self._forward: Forward | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if self._forward is None:
            self._forward = self._settle(images[:_PROBED])
        return self._forward(images)

    def _settle(self, images: torch.Tensor) -> Forward:
        plain = self._by_torch(self._network)
        expected = plain(images)
        if self._way == "onnx":
            try:
                forward = by_onnx_runtime(self._network, self._part, images)
            except Exception as error:  # operators that have no export fail in a dozen ways
                _log.info("ONNX Runtime cannot take %s: %s", self._network.backbone.name, first_line(error))
            else:
                if self._agree(forward(images), expected):
                    return forward
                _log.warning("ONNX Runtime disagrees on %s; torch predicts", self._network.backbone.name)
        if self._way != "plain":
            folded = fold_batchnorm(self._network, images)
            if folded is not None and self._agree(self._by_torch(folded)(images), expected):
                return self._by_torch(folded)
        return plain

    def _by_torch(self, network: Network) -> Forward:
        def forward(images: torch.Tensor) -> torch.Tensor:
            with autocast(images.device, self._precision):
                rows = network(images) if self._part == "logits" else network.features(images)
            return rows.float()

        return forward

    def _agree(self, found: torch.Tensor, expected: torch.Tensor) -> bool:
        if found.shape != expected.shape:
            return False
        if self._part == "logits":
            found, expected = found.log_softmax(1), expected.log_softmax(1)
            return bool((found - expected).abs().max() <= self._tolerance)
        return bool((found - expected).abs().max() <= self._tolerance * expected.abs().max())

    @property
    def _tolerance(self) -> float:
        """Half precision rounds by itself, and in another order otherwise."""
        return _TOLERANCE if self._precision == "fp32" else 0.1


def find_way(
    num_images: int, *, device: torch.device, precision: Precision, engine: Engine = "torch"
) -> Literal["plain", "folded", "onnx"]:
    """How a network sees so many images: as it is, with its BatchNorms folded, or by ONNX Runtime.

    Raises:
        ConfigError: ONNX Runtime is asked for and not installed, or cannot work there.
    """
    fits = device.type == "cpu" and precision == "fp32"
    if engine == "torch":
        return "folded" if num_images >= _WORTH_IT else "plain"
    if not (fits and has_onnx()):
        got = "no onnxruntime" if fits else f"{precision} on {device.type}"
        raise ConfigError(
            "runtime.engine=onnx: expected the extra (pip install -e '.[onnx]' -c requirements.lock), a CPU "
            f"and training.precision=fp32, got {got}"
        )
    return "onnx"


def has_onnx() -> bool:
    """Whether the extra is installed."""
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


@torch.no_grad()
def fold_batchnorm(network: Network, images: torch.Tensor) -> Network | None:
    """A copy of a network in eval mode whose BatchNorms, where they follow a convolution, are part of it.

    Args:
        images: Some, to see what follows what.

    Returns:
        None where there is nothing to fold.
    """
    folded = deepcopy(network).eval()
    made: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}  # outputs are kept: a number may come again
    pairs: list[tuple[nn.Conv2d, _BatchNorm]] = []

    def after_conv(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = module, output

    def after_norm(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, _BatchNorm)
        if found := made.get(id(inputs[0])):
            pairs.append((found[0], module))

    modules = dict(folded.trunk.named_modules())
    hooks = [m.register_forward_hook(after_conv) for m in modules.values() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_hook(after_norm) for m in modules.values() if isinstance(m, _BatchNorm)]
    folded.features(images)
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in modules.items()}
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        parent, _, name = names[norm].rpartition(".")
        # timm's BatchNorm holds the activation that follows it
        setattr(modules[parent], name, getattr(norm, "act", nn.Identity()))
    return folded.to(memory_format=torch.channels_last) if pairs else None


class _Part(nn.Module):
    def __init__(self, network: Network, part: Part) -> None:
        super().__init__()
        self.network, self._part = network, part

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.network(images) if self._part == "logits" else self.network.features(images)
        return rows


@torch.no_grad()
def to_onnx(network: Network, part: Part, images: torch.Tensor) -> bytes:
    """A network as an ONNX model: input `images`, uint8 (B, H, W, 3) in RGB, output `logits` or `features`.

    Normalisation is in it. Of regions, the input has one more dimension, after the first.

    Args:
        images: Some, for their shape; the first dimension may be another later.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # traced: sizes of an image become constants, as they are
        torch.onnx.export(
            _Part(network, part).eval(),  # else the export leaves all of it in training mode
            (images,),
            buffer,  # type: ignore[arg-type]
            input_names=["images"],
            output_names=[part],
            dynamic_axes={"images": {0: "batch"}, part: {0: "batch"}},
            dynamo=False,  # the other exporter takes ten times as long, and another package
        )
    return buffer.getvalue()


def by_onnx_runtime(network: Network, part: Part, images: torch.Tensor) -> Forward:
    """A network's forward pass by ONNX Runtime, on as many threads as torch has."""
    return run_onnx(to_onnx(network, part, images))


def run_onnx(model: bytes) -> Forward:
    """The forward pass of an ONNX model by ONNX Runtime."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it leaves files in the home folder
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others want the cores, too
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return forward
