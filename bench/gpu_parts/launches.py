"""Part `launches`: what CUDA graphs and torch.compile would gain in a training step; only a measurement.

The product's step is compared with a bare one (forward, loss, backward, AdamW) that is run as it comes,
captured as a CUDA graph, and compiled. The product uses neither: a graph needs fixed shapes and addresses, a
compiled network other bytes.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from distracted.inference.device import Precision, autocast
from distracted.models.network import Network
from gpu_parts.clock import rate
from gpu_parts.place import Place
from gpu_parts.rows import Row, measured, skipped

_WARM_UP = 3  # steps before a capture: cuDNN and the allocator settle


def check_launches(place: Place) -> Iterator[Row]:
    """Bare steps of two networks, with a small and a large batch."""
    if not place.is_cuda:
        yield skipped("CUDA graphs and torch.compile for the step", "needs an NVIDIA card")
        return
    precision = place.precisions()[1] if len(place.precisions()) > 1 else "fp32"
    for model, size in {"efficientnet_lite0": 128, "resnet50": 224}.items():
        for batch_size in (16, 128):
            network = place.phase(model, f"model.image_size={size}").network
            step = BareStep(network, batch_size, size, precision)
            eager = rate(step, "cuda", seconds=1.0)
            graph = rate(step.captured(), "cuda", seconds=1.0)
            value = f"CUDA graph {graph / eager:.2f} times as fast ({eager:.4g} img/s as it comes)"
            yield measured(f"{model}, {precision}, {batch_size} images", value, eager=eager, graph=graph)
    yield _compiled(place, precision)


def _compiled(place: Place, precision: Precision) -> Row:
    """Measure torch.compile on the small network only, since compiling takes a minute or more."""
    size, batch_size = 128, 16
    network = place.phase("efficientnet_lite0", f"model.image_size={size}").network
    eager = rate(BareStep(network, batch_size, size, precision), "cuda", seconds=1.0)
    try:
        network.trunk.compile()
        fast = rate(BareStep(network, batch_size, size, precision), "cuda", seconds=1.0, warm_up=5)
    except Exception as error:  # no C compiler, no Triton for this card, ...
        return skipped("torch.compile", f"{type(error).__name__}: {str(error).splitlines()[0]}")
    what = f"efficientnet_lite0, {precision}, {batch_size} images"
    return measured(what, f"torch.compile {fast / eager:.2f} times as fast", compiled=fast)


class BareStep:
    """A training step with fixed shapes: called, it does one and returns its number of images."""

    def __init__(self, network: Network, batch_size: int, size: int, precision: Precision) -> None:
        device = network.mean.device
        self._network, self._precision, self._batch_size = network, precision, batch_size
        self._images = torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8).to(device)
        self._targets = (torch.arange(batch_size) % 10).to(device)
        on_cuda = device.type == "cuda"
        parameters = network.parameters()
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=on_cuda, capturable=on_cuda)

    def __call__(self) -> int:
        self._optimizer.zero_grad(set_to_none=True)
        self._step()
        return self._batch_size

    def _step(self) -> None:
        with autocast(self._images.device, self._precision):
            loss = nn.functional.cross_entropy(self._network(self._images), self._targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def captured(self) -> Callable[[], int]:
        """The step as a CUDA graph."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._step()

        def replay() -> int:
            graph.replay()
            return self._batch_size

        return replay
