"""Automatic mode: a sliding window over the scan, no clicks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.utils import BlendMode

from adapters.inferers.geometry import Grid
from adapters.inferers.inputs import as_sizes, as_spacing, check_scan, item_affines, like_inputs, network_device


class AutomaticInferer(Inferer):
    """MONAI's sliding window over the scan resampled to the network's spacing; logits on the scan's own grid.

    With ``spacing`` None or the scan's own the result is that of `monai.inferers.SlidingWindowInferer`. A scan that
    is smaller than the window is padded, half on each side.

    Args:
        roi_size: voxels of the window, one number or (D, H, W). The published automatic mode: 256.
        spacing: mm of the voxels that the network sees, one number or three in tensor axis order (D, H, W). None:
            the scan's own.
        overlap: share of the window that neighbours overlap (published: 0.5).
        mode: weights of overlapping windows, ``gaussian`` (published) or ``constant``.
        sw_batch_size: windows predicted at a time.
        pad_value: value of the padding. None: the scan's minimum.
        **kwargs: other arguments of `monai.inferers.SlidingWindowInferer`.

    Raises:
        ValueError: a size or spacing is not positive.

    Example:
        >>> inferer = AutomaticInferer(32, spacing=2.0)
        >>> with torch.no_grad():
        ...     logits = inferer(torch.zeros(1, 1, 40, 50, 60), lambda crop: torch.cat([-crop, crop], dim=1))
        >>> logits.shape
        torch.Size([1, 2, 40, 50, 60])
    """

    def __init__(
        self,
        roi_size: int | Sequence[int],
        spacing: float | Sequence[float] | None = None,
        *,
        overlap: float | Sequence[float] = 0.5,
        mode: BlendMode | str = "gaussian",
        sw_batch_size: int = 1,
        pad_value: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.roi_size = as_sizes(roi_size, "roi_size")
        self.spacing = as_spacing(spacing)
        self.pad_value = pad_value
        self.arguments = {"overlap": overlap, "mode": mode, "sw_batch_size": sw_batch_size, **kwargs}
        SlidingWindowInferer(self.roi_size, **self.arguments)  # a wrong argument shows here, not in the middle of work

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Predict the whole scan.

        Args:
            inputs: (B, 1, D, H, W); a MetaTensor with its affine, or a plain tensor with voxels of 1 mm.
            network: called with one tensor (b, 1, *roi_size); returns logits (b, channels, *roi_size).
            *args: passed to the network.
            **kwargs: passed to the network.

        Returns:
            (B, channels, D, H, W) logits on the grid and the device of the inputs.

        Raises:
            ValueError: the inputs are not (B, 1, D, H, W) or the affine is singular.
        """
        scans = check_scan(inputs)
        items = [
            self.infer_scan(scan, affine, network, *args, **kwargs)
            for scan, affine in zip(scans, item_affines(inputs), strict=True)
        ]
        return like_inputs(torch.stack(items), inputs)

    def infer_scan(
        self, scan: torch.Tensor, affine: np.ndarray, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """One scan (1, D, H, W) with its affine (4, 4) to logits (channels, D, H, W) on its own grid."""
        pad_value = float(scan.min()) if self.pad_value is None else self.pad_value
        device = network_device(network, scan)
        arguments = {"cval": pad_value, "sw_device": device, "device": scan.device, **self.arguments}
        inferer = SlidingWindowInferer(self.roi_size, **arguments)
        grid = Grid.of(scan.shape[1:], affine, self.spacing)
        return infer_resampled(scan, grid, lambda resampled: inferer(resampled, network, *args, **kwargs))


def infer_resampled(scan: torch.Tensor, grid: Grid, infer: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    """Resample a whole scan to the grid, infer there, and bring the logits back.

    Args:
        scan: (1, D, H, W).
        grid: the scan's grid.
        infer: (1, 1, *grid.size) to logits (1, channels, *grid.size).

    Returns:
        (channels, D, H, W) logits.

    Raises:
        ValueError: the logits are on another grid.
    """
    logits = infer(grid.read(scan, grid.whole)[None])
    if not isinstance(logits, torch.Tensor) or logits.shape[2:] != grid.size:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"automatic inference returned {got}: expected one tensor (1, channels, {grid.size})")
    return grid.to_scan(logits[0].to(device=scan.device, dtype=torch.float32), grid.whole)[0]
