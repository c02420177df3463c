"""Intensities as the network sees them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type


class WindowIntensityd(MapTransform):
    """Clip intensities to a window, then shift and scale them: ``(clip(x, low, high) - subtrahend) / divisor``.

    The same as MONAI's `ScaleIntensityRanged` (clipping) and `NormalizeIntensityd`, up to rounding. Those go through
    the scan seven times, into new memory each time, which takes a second for a large CT; this needs its result alone.

    Args:
        keys: keys of scans, tensors of any shape and type. Each becomes a float32 tensor of its own.
        low: lower end of the window, HU for a CT.
        high: upper end.
        subtrahend: subtracted after clipping.
        divisor: divided by then.

    Raises:
        ValueError: an empty window, a divisor that is not positive, or a value that is not finite.
    """

    def __init__(
        self,
        keys: KeysCollection,
        low: float,
        high: float,
        *,
        subtrahend: float = 0.0,
        divisor: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not all(map(math.isfinite, (low, high))) or not low < high:
            raise ValueError(f"the window is {low} to {high}: expected finite ends, the lower one first")
        if not math.isfinite(subtrahend) or not (math.isfinite(divisor) and divisor > 0):
            raise ValueError(
                f"subtrahend is {subtrahend}, divisor is {divisor}: expected finite numbers, a positive divisor"
            )
        self.low, self.high, self.subtrahend, self.divisor = low, high, subtrahend, divisor

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert each; see the class."""
        d = dict(data)
        for key in self.key_iterator(d):
            scan = d[key].as_tensor() if isinstance(d[key], MetaTensor) else torch.as_tensor(d[key])
            values = scan.to(torch.float32, copy=True)
            values.clamp_(self.low, self.high).sub_(self.subtrahend).div_(self.divisor)
            d[key] = convert_to_dst_type(values, d[key], dtype=torch.float32)[0]
        return d
