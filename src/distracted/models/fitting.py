"""Fits the tensors of a weights file to a network: finds their prefix, checks their names and shapes."""

import logging
from collections.abc import Iterable

import torch
from torch import nn

from distracted.errors import WeightsError, first_line
from distracted.models.auxiliary import AuxiliaryHead
from distracted.models.backbone import current_name
from distracted.models.renaming import renamings
from distracted.models.state_dicts import StateDict, StateFile, prefixes

_log = logging.getLogger(__name__)

_TOKENS = ("cls_token", "dist_token", "reg_token")  # that a transformer computes with
_NUM_SHOWN = 3  # tensors that an error names


def load_state_file(
    trunk: nn.Module,
    file: StateFile,
    backbone: str,
    *,
    in_order: bool = False,
    auxiliary: Iterable[AuxiliaryHead] = (),
) -> str:
    """Load a file's tensors into a trunk and its auxiliary heads; the file's classifiers are ignored.

    Args:
        in_order: The file has the trunk's tensors in its order, under other names.
        auxiliary: Heads to load where the file has their tensors; their last layer starts at zero.

    Returns:
        The prefix of the names in the file.

    Raises:
        WeightsError: a tensor of the trunk is missing in the file, has another shape or holds no numbers; or
            the file is of a network that has more in the same places.
    """
    if any("/" in name for name in file.tensors) and hasattr(trunk, "load_pretrained"):
        _load_jax(trunk, file, backbone)
        return ""
    values, expected = file.read(), trunk.state_dict()
    closest: tuple[int, str] | None = None
    for prefix in prefixes(values, expected):
        state = {name.removeprefix(prefix): t for name, t in values.items() if name.startswith(prefix)}
        for renamed, problem in renamings(state, trunk, backbone, in_order=in_order):
            distance, difference = _mismatch(renamed, expected, trunk)
            if not difference:
                taken = {n: renamed[n] for n in expected if n in renamed and _fits(renamed[n], expected[n])}
                if unfit := _not_numbers(taken, expected):
                    raise _misfit(file, backbone, unfit)
                _warn_of_another_network(file, backbone, state, taken)
                for head in auxiliary:
                    _load_auxiliary(head, state)
                trunk.load_state_dict(taken, strict=False)
                return prefix
            if closest is None or distance < closest[0]:
                closest = distance, "; ".join(filter(None, (difference, problem)))
    raise _misfit(file, backbone, closest[1] if closest else "it is empty")


def _warn_of_another_network(file: StateFile, backbone: str, state: StateDict, taken: StateDict) -> None:
    """Warn where the tensors fit, but are of a network with other patches, padding or activations."""
    networks = {current_name(name).partition(".")[0] for name in file.networks}
    if networks and backbone.partition(".")[0] not in networks:
        _log.warning("%s: it names the network %s; loaded as %s", file.path, ", ".join(networks), backbone)
    for name, tensor in taken.items():
        theirs = state.get(name, tensor).shape
        resized = len(theirs) == 4 and theirs[:2] == tensor.shape[:2] and theirs != tensor.shape
        if resized and "pos" not in name:  # by timm's conversion: a kernel of patches
            shapes = f"{name} {tuple(theirs)} is resized to {tuple(tensor.shape)}"
            _log.warning("%s: weights of another network than %s: %s", file.path, backbone, shapes)


def _misfit(file: StateFile, backbone: str, problem: str) -> WeightsError:
    names = ", ".join(list(file.tensors)[:_NUM_SHOWN])
    own = f"the {len(file.tensors)} names in the file begin with {names}"
    hints = [f"it names the network {name}" for name in file.networks] + list(file.hints)
    others = [f"it also holds {other}" for other in file.others]
    about = "; ".join([own, *hints[:_NUM_SHOWN], *others[:_NUM_SHOWN]])
    return WeightsError(
        f"{file.path}: not the weights of {backbone}: {problem}; {about}; give weights of {backbone}, "
        "or SET='model.weights=none'"
    )


def _load_auxiliary(head: AuxiliaryHead, state: StateDict) -> None:
    for name, tensor in head.body.state_dict().items():
        loaded = state.get(head.prefix + name)
        if name.startswith(head.classifier):
            nn.init.zeros_(tensor)  # other classes; a random layer's gradients would damage the trunk
        elif loaded is not None and loaded.shape == tensor.shape:
            tensor.copy_(loaded)


def _load_jax(trunk: nn.Module, file: StateFile, backbone: str) -> None:
    """Load one of Google's .npz files by timm's own reader of them."""
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.fill_(torch.nan)  # so that one that the reader leaves out is noticed
    try:
        trunk.load_pretrained(str(file.path))  # type: ignore[operator]
    except Exception as error:  # it looks for names and shapes that other files lack
        problem = f"timm's reader stops at {type(error).__name__}: {first_line(error)}"
        raise _misfit(file, backbone, problem) from error
    if problem := _not_numbers(trunk.state_dict(), trunk.state_dict()):
        raise _misfit(file, backbone, problem)


def _not_numbers(state: StateDict, expected: StateDict) -> str:
    """The tensors that hold no finite numbers of the kind expected, or ""."""
    wrong = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if wrong:
        names = ", ".join(wrong[:_NUM_SHOWN])
        return f"{len(wrong)} of {len(state)} tensors hold NaN or infinity ({names} ...)"
    whole = [n for n, t in state.items() if expected[n].is_floating_point() and not t.is_floating_point()]
    names = ", ".join(f"{name} {state[name].dtype}" for name in whole[:_NUM_SHOWN])
    return f"{len(whole)} of {len(state)} tensors hold no fractions ({names} ...)" if whole else ""


def _fits(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    return tensor.shape == expected.shape


def _mismatch(state: StateDict, expected: StateDict, trunk: nn.Module) -> tuple[int, str]:
    """How far a file's tensors are from the expected ones, and how they differ: "" if they fit."""
    needed = {name: tensor for name, tensor in expected.items() if not name.endswith("num_batches_tracked")}
    missing = [name for name in needed if name not in state]
    wrong = [name for name in needed if name in state and not _fits(state[name], needed[name])]
    shapes = [f"{name} {tuple(state[name].shape)} for {tuple(needed[name].shape)}" for name in wrong]
    extra = _extra(state, expected, trunk)
    problems = []
    if missing:
        names = ", ".join(missing[:_NUM_SHOWN])
        problems.append(f"{len(missing)} of {len(expected)} tensors are missing ({names} ...)")
    if shapes:
        problems.append(f"{len(shapes)} have another shape ({'; '.join(shapes[:_NUM_SHOWN])} ...)")
    if any(state[name].numel() == 0 for name in wrong):
        problems.append("some are empty, as in a part of DeepSpeed's checkpoint: zero_to_fp32.py joins them")
    if extra:
        names = ", ".join(extra[:_NUM_SHOWN])
        problems.append(f"it holds {len(extra)} more, of a deeper network or another variant ({names} ...)")
    return 2 * len(missing) + len(wrong), " and ".join(problems)


def _extra(state: StateDict, expected: StateDict, trunk: nn.Module) -> list[str]:
    """Tensors that a file has within the trunk's modules and the trunk has not; a classifier's do not count.

    Without its further blocks or layers the file's network computes something else.
    """
    classifiers = getattr(trunk, "pretrained_cfg", {}).get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    modules = {name.partition(".")[0] for name in expected if "." in name}
    inside = modules - {name.partition(".")[0] for name in classifiers}
    return [
        name
        for name, tensor in state.items()
        if name not in expected
        and (name in _TOKENS or ("." in name and name.partition(".")[0] in inside))
        and (tensor.is_floating_point() and tensor.numel() > 1)  # no counters and indices
    ]
