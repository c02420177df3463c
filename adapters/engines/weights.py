"""The weights that an evaluation starts from."""

from __future__ import annotations

import logging
from pathlib import Path

from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from adapters.checkpoints import load_weights

logger = logging.getLogger(__name__)


class WeightsLoader:
    """Puts the weights of a file into a network when an engine starts.

    In place of MONAI's `CheckpointLoader`, which takes weights with NaN, and hands on what PyTorch says of a file that
    holds no weights: how to read it without its guard against code.

    Args:
        load_path: a plain state dict, such as ``models/model.pt``.
        network: of which it is.

    Raises:
        FileNotFoundError, ValueError: (when the engine starts) as `adapters.checkpoints.load_weights`.
    """

    def __init__(self, load_path: str | Path, network: nn.Module) -> None:
        self.load_path = Path(load_path)
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Listen to an evaluator."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, _: Engine) -> None:
        """Load the weights."""
        network = self.network
        load_weights(self.load_path, network.module if isinstance(network, DistributedDataParallel) else network)
        logger.info("the weights are those of %s", self.load_path)
