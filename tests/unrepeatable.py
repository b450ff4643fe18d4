"""An operation that no device can repeat, and torch's switch that refuses such operations."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Unrepeatable(torch.autograd.Function):
    """Returns its input; its gradient needs `put_`, which has no deterministic implementation anywhere."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
        return gradient


@contextmanager
def only_deterministic() -> Iterator[None]:
    """Refuse such operations, as the product does on CUDA."""
    with warnings.catch_warnings():
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
