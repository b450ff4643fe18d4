"""`make export`: a fold's network as an ONNX model that describes its input, checked against torch."""

import io
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax

from distracted.data.picture_sets import Images
from distracted.errors import ConfigError, WeightsError
from distracted.files import write_bytes
from distracted.models.network import Network
from distracted.postprocess.networks import Trained, load_trained
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import Progress, silent
from distracted.schema import RuntimeConfig

_NUM_CHECKED = 64  # held-out images that both predict
_TOLERANCE = 1e-4  # in log-probabilities


@dataclass(frozen=True)
class Exported:
    """An ONNX model that was written.

    Attributes:
        off: Largest difference of a log-probability from torch's.
        num_images: Number of images compared.
    """

    path: Path
    off: float
    num_images: int


def export_network(
    store: Store, run: Run, fold: int, *, runtime: RuntimeConfig, progress: Progress = silent
) -> Exported:
    """Write runs/<data>/<run>/fold<k>/model.onnx.

    Input: `images`, uint8 RGB of shape (B, H, W, 3), or (B, 1 + num_regions, H, W, 3) with regions. Output:
    `logits`, (B, num_classes). Normalisation is part of the model. Its metadata holds JSON under
    `preprocessing`, which says how a photograph becomes an input, and `classes`, `run`, `fold` and
    `config_hash`.

    Raises:
        ConfigError: the extra is not installed, or an operator of the network cannot be exported.
        WeightsError: the network is gone, damaged or another, or the ONNX model's predictions differ.
    """
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        raise ConfigError("ONNX is not installed; make setup EXTRAS=onnx installs it")
    on_cpu = runtime.model_copy(update={"device": "cpu"})
    trained = load_trained(store, run, fold, runtime=on_cpu, in_fp32=True, progress=progress)
    rows = store.folds.valid(fold)[:_NUM_CHECKED]
    batches = list(trained.feed.loader(Images.to_train(store.competition), rows).epoch())
    try:
        model = _described(to_onnx(trained.network, batches[0].images[:2]), store, run, fold, trained)
    except Exception as error:  # in a dozen ways
        name = trained.network.backbone.name
        raise ConfigError(f"{name} has no export to ONNX: {' '.join(str(error).split())[:200]}") from error
    forward = run_onnx(model)
    logits = np.concatenate([forward(batch.images).numpy() for batch in batches])
    train = Images.to_train(store.competition)
    expected = trained.feed.log_probs(trained.network, train, rows, "checking the model")
    off = float(np.abs(log_softmax(logits.astype(np.float64), axis=1) - expected).max())
    if not off <= _TOLERANCE:
        raise WeightsError(
            f"{run.name}, fold {fold}: the ONNX model is {off:.2g} off torch in a log-probability, expected "
            f"at most {_TOLERANCE:g}; nothing was written"
        )
    path = store.workspace.onnx(store.competition.name, run.name, fold)
    write_bytes(path, model)
    return Exported(path, off, len(rows))


def _described(model: bytes, store: Store, run: Run, fold: int, trained: Trained) -> bytes:
    import onnx  # an extra

    config = trained.feed.resolved.config
    boxes = {name: config.data.regions[name] for name in config.model.regions}
    preprocessing = {
        "colours": "RGB",
        "crop": config.model.crop,
        "resize": "the central share of both sides, squeezed to a square: by area means where it shrinks",
        "size": config.model.image_size,
        "regions": boxes,
        "normalisation": "in the model",
    }
    facts = {
        "preprocessing": json.dumps(preprocessing),
        "classes": json.dumps(list(store.competition.classes)),
        "run": run.name,
        "fold": str(fold),
        "config_hash": run.manifests[run.folds.index(fold)].config_hash,
    }
    described = onnx.load_from_string(model)
    onnx.helper.set_model_props(described, facts)
    onnx.checker.check_model(described)
    content: bytes = described.SerializeToString()
    return content


@torch.no_grad()
def to_onnx(network: Network, images: torch.Tensor) -> bytes:
    """A network as an ONNX model: input `images`, uint8 RGB (B, H, W, 3), output `logits`.

    Normalisation is part of the model. With regions the input has one more dimension, after the first.

    Args:
        images: A few images, for their shape; only the first dimension may differ later.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing turns the sizes of an image into constants, as intended
        torch.onnx.export(
            network.eval(),
            (images,),
            buffer,  # type: ignore[arg-type]
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            dynamo=False,  # the other exporter takes ten times as long and needs another package
        )
    return buffer.getvalue()


def run_onnx(model: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward pass of an ONNX model by ONNX Runtime on the CPU."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it leaves files in the home folder
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to others
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
