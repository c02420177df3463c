"""A network without numbers, which shows what a file should hold before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["sketch"]

_Network = TypeVar("_Network", bound=nn.Module)

_CALLS_FOR_EACH = 50  # of torch, to make a tensor and to fill it: 7 as a rule, more for networks that compute tables


class _Blueprint(TorchFunctionMode):
    """Stops the making of a network that has more parts than a file has tensors for."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.left = _CALLS_FOR_EACH * tensors

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it describes a network of more tensors than there are in it.")
        return func(*args, **(kwargs or {}))


def sketch(build: Callable[[], _Network], tensors: int, source: str) -> _Network:
    """The network that a file describes, on the device "meta": with shapes, and without numbers.

    Args:
        build: makes it.
        tensors: how many the file holds.
        source: the file, for the message.

    Raises:
        ValueError: if it cannot be made, or has far more tensors than the file.
    """
    try:
        with torch.device("meta"), _Blueprint(tensors):
            return build()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the network that {source} describes cannot be made: {error}") from error
