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

# of the window, or of that of soft tissues if it is narrower: HU of one organ alone have a wider range
_SLIVER = 0.1
_PADDING = -1500.0  # HU; a smallest value below it fills what the scanner does not see
_SOFT = (-160.0, 240.0)  # HU of soft tissues
_FEW = 0.01  # of the voxels
_SAMPLED = 2**20  # voxels that say how many are few
_PICTURE = 255.0  # the largest value of 8 bits
_DARK = 0.05  # of the largest value: so dark are the darkest voxels of a picture; a part of an organ in HU has none


def not_hounsfield(values: torch.Tensor, window: tuple[float, float]) -> str | None:
    """Why a scan's values cannot be Hounsfield units; None where they may be.

    Only what is certain counts: a range that is a sliver of the window; no value below 0, where HU have fat and air,
    unless all are those of one organ; nearly all of the scan below, or above, all soft tissues.

    Args:
        values: of any shape, finite.
        window: in HU, that a network sees.
    """
    low, high = window
    least, most = (float(end) for end in torch.aminmax(values))
    if most - least < _SLIVER * min(high - low, _SOFT[1] - _SOFT[0]):
        return f"its values lie between {least:.4g} and {most:.4g}, a sliver of the window from {low:g} to {high:g} HU"
    if least < _PADDING:
        least = float(values[values > least].min())
    if least >= 0 and (most > _PICTURE or least <= _DARK * most):
        return f"its values lie between {least:.4g} and {most:.4g}, and HU have fat and air below 0"
    below, above = min(low, _SOFT[0]), max(high, _SOFT[1])
    sample = values.flatten()[:: max(1, values.numel() // _SAMPLED)]
    if float((sample > below).float().mean()) < _FEW:
        return f"nearly all of its values lie below {below:g} HU, as if an offset had been taken off twice"
    if float((sample < above).float().mean()) < _FEW:
        return f"nearly all of its values lie above {above:g} HU, as if an offset had not been taken off"
    return None


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
