"""TEMPORARY of the lead; the networks helper's file replaces it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def log_odds(logits: Tensor) -> Tensor:
    return logits[:, 1:] - logits[:, :1] if logits.shape[1] == 2 else logits


class PromptableNetwork(nn.Module):
    spatial_dims = 3
    in_channels = 1
    takes = frozenset({"points", "mask"})

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Any] = {}
        self.register_load_state_dict_pre_hook(lambda *_: self.kept.clear())

    def train(self, mode: bool = True) -> Any:
        if mode:
            self.kept.clear()
        return super().train(mode)

    def decode(self, features: Any, image: Tensor, prompts: Any = None) -> Tensor:
        return log_odds(self.logits(features, image, prompts))

    def forward(self, image: Tensor, prompts: Any = None) -> Tensor:
        return self.logits(self.encode(image), image, prompts)
