"""Automatic mode: a sliding window over the scan, no clicks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import Inferer
from monai.utils import BlendMode, ensure_tuple_rep, look_up_option
from tqdm import tqdm

from adapters.prompts import check_affine
from adapters.inferers.grid import ON_VOXEL, Grid, Window, interpolate, interpolation_size
from adapters.inferers.inputs import (
    as_sizes,
    as_spacing,
    check_scan,
    half_precision,
    item_affines,
    like_inputs,
    network_device,
)

_REFUSED = {
    "cval": "give pad_value",
    "padding_mode": "scans are padded with pad_value alone",
    "device": "the result lies on the device of the inputs",
    "cpu_thresh": "the result lies on the device of the inputs",
    "buffer_steps": "sums are always kept for the rows of one window alone",
    "buffer_dim": "sums are always kept for the rows of one window alone",
    "cache_roi_weight_map": "the weights are computed once for each scan",
    "with_coord": "the network gets its crop alone",
}
_PIECE = 2**21  # values that are brought back to the scan's grid at a time
_VALUE = 4  # bytes of a float32


class AutomaticInferer(Inferer):
    """MONAI's sliding window over the scan at the network's spacing; logits on the scan's own grid.

    The result is that of `monai.inferers.SlidingWindowInferer` on the resampled scan, up to the order of sums: its
    positions, weights and overlap are taken, and a scan that is smaller than the window is padded, half on each side.
    But neither the resampled scan nor its logits are ever there as a whole. Windows are read one by one, and sums are
    kept for the rows that one layer of windows touches, along the axis for which that is least. Rows that no later
    window touches are brought to the scan's grid and forgotten. See `working_bytes`.

    No gradients flow through the result.

    Args:
        roi_size: voxels of the window, one number or (D, H, W). The published automatic mode: 256.
        spacing: mm of the voxels that the network sees, one number or three in tensor axis order (D, H, W). None:
            the scan's own.
        overlap: share of the window that neighbours overlap, one number or (D, H, W), at least 0 and less than 1
            (published: 0.5).
        mode: weights of overlapping windows, ``gaussian`` (published) or ``constant``.
        sigma_scale: standard deviation of gaussian weights as a share of the window, one number or (D, H, W).
        sw_batch_size: windows predicted at a time.
        pad_value: value of the padding. None: the scan's minimum.
        sw_device: where windows are predicted. None: where the network's weights lie.
        progress: whether a bar counts the windows.
        compact: return one channel in float16, the log-odds of the lesion (its logit less the background's), half
            the size of the scan. False: all channels in float32.
        **kwargs: none. Other arguments of `monai.inferers.SlidingWindowInferer` are refused with the reason.

    Raises:
        ValueError: an argument out of its range, or one that is refused.

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
        sigma_scale: float | Sequence[float] = 0.125,
        sw_batch_size: int = 1,
        pad_value: float | None = None,
        sw_device: torch.device | str | None = None,
        progress: bool = False,
        compact: bool = False,
        **kwargs: Any,
    ) -> None:
        for name, value in kwargs.items():
            reason = _REFUSED.get(name, "there is no such argument")
            raise ValueError(f"{name}={value!r} cannot be honoured: {reason}")
        self.roi_size = as_sizes(roi_size, "roi_size")
        self.spacing = as_spacing(spacing)
        self.overlap = ensure_tuple_rep(overlap, 3)
        if not all(0 <= share < 1 for share in self.overlap):
            raise ValueError(f"overlap is {overlap!r}: expected a share of the window, at least 0 and less than 1")
        self.mode = look_up_option(mode, BlendMode)
        self.sigma_scale = ensure_tuple_rep(sigma_scale, 3)
        if not all(scale > 0 for scale in self.sigma_scale):
            raise ValueError(f"sigma_scale is {sigma_scale!r}: expected a positive share of the window")
        if sw_batch_size < 1:
            raise ValueError(f"sw_batch_size is {sw_batch_size}: expected at least 1")
        self.sw_batch_size = sw_batch_size
        self.pad_value = pad_value
        self.sw_device = None if sw_device is None else torch.device(sw_device)
        self.progress = progress
        self.compact = compact

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Predict the whole scan.

        Args:
            inputs: (B, 1, D, H, W); a MetaTensor with its affine, or a plain tensor with voxels of 1 mm.
            network: called with one tensor (b, 1, *roi_size); returns logits (b, channels, *roi_size).
            *args: passed to the network.
            **kwargs: passed to the network.

        Returns:
            (B, channels, D, H, W) float32 logits on the grid and the device of the inputs; with ``compact``
            (B, 1, D, H, W) float16 log-odds of the lesion.

        Raises:
            ValueError: the inputs are not (B, 1, D, H, W), the affine is singular, or the network returns something
                else.
        """
        scans = check_scan(inputs)
        items = [
            self.infer_scan(scan, affine, network, *args, **kwargs)
            for scan, affine in zip(scans, item_affines(inputs), strict=True)
        ]
        return like_inputs(items[0][None] if len(items) == 1 else torch.stack(items), inputs)

    def infer_scan(
        self, scan: torch.Tensor, affine: np.ndarray, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """One scan (1, D, H, W) with its affine (4, 4) to logits (channels, D, H, W) on its own grid."""
        grid = Grid.of(scan.shape[1:], affine, self.spacing)
        axis = self._axis(grid)
        windows = sorted(self._windows(grid), key=lambda window: window.start[axis])
        device = self.sw_device or network_device(network, scan)
        pad_value = float(scan.min()) if self.pad_value is None else self.pad_value
        weights = compute_importance_map(
            self.roi_size, mode=self.mode, sigma_scale=self.sigma_scale, device=scan.device
        )
        rolling = _Rolling(grid, axis, weights, compact=self.compact)

        def read(batch: Sequence[Window]) -> torch.Tensor:
            crops = torch.empty((len(batch), 1, *self.roi_size), device=device)
            for crop, window in zip(crops, batch, strict=True):
                crop.copy_(grid.read(scan, window, pad_value))
            return crops

        def add(batch: Sequence[Window]) -> None:
            logits = self._checked(network(read(batch), *args, **kwargs), len(batch))
            for window, values in zip(batch, logits, strict=True):
                rolling.add(window, values.detach())

        with tqdm(total=len(windows), desc="windows", unit="window", disable=not self.progress) as bar:
            for first in range(0, len(windows), self.sw_batch_size):
                batch = windows[first : first + self.sw_batch_size]
                add(batch)
                bar.update(len(batch))
        return rolling.finish()

    def working_bytes(self, scan_size: Sequence[int], affine: np.ndarray | None = None, channels: int = 2) -> int:
        """Bytes of tensors that a scan takes at most while it is predicted, beside itself, its result and the network.

        Sums of one layer of windows and their weights, a piece of it on its way to the scan's grid, and the windows
        that are predicted at a time with their logits. The scan's longest side does not count, once it is longer than
        a window. The result has 2 bytes a voxel of the scan with ``compact``, else 4 for each channel.

        Args:
            scan_size: voxels of the scan, (D, H, W).
            affine: (4, 4), voxels of the scan to mm. None: voxels of 1 mm.
            channels: of the network's logits.

        Returns:
            Bytes.

        Raises:
            ValueError: the size is not three positive numbers, or the affine is singular.
        """
        affine = np.eye(4) if affine is None else check_affine(affine)
        grid = Grid.of(as_sizes(scan_size, "scan_size"), affine, self.spacing)
        axis = self._axis(grid)
        kept = 1 if self.compact else channels
        window = math.prod(self.roi_size)
        source = [
            min(n, math.ceil((roi - 1) * ratio) + 2)
            for n, roi, ratio in zip(grid.scan_size, self.roi_size, grid.ratio, strict=True)
        ]
        reading = max(interpolation_size(source, self.roi_size), 2 * window)
        logits = channels * self.sw_batch_size * window
        adding = logits + (channels + 2 * kept) * window  # one in float32, and as it is added
        windows = window + max(self.sw_batch_size * window + max(reading, logits), adding)
        rows = _piece_rows(grid, axis, kept)
        piece, target = list(grid.size), list(grid.scan_size)
        piece[axis] = min(grid.size[axis], math.ceil((rows - 1) / grid.ratio[axis]) + 2)
        target[axis] = min(grid.scan_size[axis], rows)
        finishing = kept * (interpolation_size(piece, target) + math.prod(target))
        return _VALUE * ((kept + 1) * _rolling_size(grid, axis, self.roi_size) + windows + finishing)

    def _axis(self, grid: Grid) -> int:
        """The axis along which fewest sums are kept."""
        return min(range(3), key=lambda axis: _rolling_size(grid, axis, self.roi_size))

    def _windows(self, grid: Grid) -> list[Window]:
        """Where MONAI's sliding window has them; a grid that is smaller than a window lies in its middle."""
        padded = [max(n, roi) for n, roi in zip(grid.size, self.roi_size, strict=True)]
        before = [(p - n) // 2 for p, n in zip(padded, grid.size, strict=True)]
        steps = [
            roi if roi == n else max(int(roi * (1 - share)), 1)
            for roi, n, share in zip(self.roi_size, padded, self.overlap, strict=True)
        ]
        windows = []
        for place in dense_patch_slices(padded, self.roi_size, steps):
            d, h, w = (int(part.start) - b for part, b in zip(place, before, strict=True))
            windows.append(Window((d, h, w), self.roi_size))
        return windows

    def _checked(self, logits: Any, batch: int) -> torch.Tensor:
        wanted = f"one tensor ({batch}, {2 if self.compact else 'channels'}, {', '.join(map(str, self.roi_size))})"
        if not isinstance(logits, torch.Tensor):
            raise ValueError(f"automatic inference returned {type(logits).__name__}: expected {wanted}")
        shape = tuple(logits.shape)
        if len(shape) != 5 or shape[0] != batch or shape[2:] != self.roi_size or (self.compact and shape[1] != 2):
            raise ValueError(f"automatic inference returned {shape}: expected {wanted}")
        return logits


def _rolling_size(grid: Grid, axis: int, roi_size: Sequence[int]) -> int:
    """Voxels of the rows that one layer of windows touches, and of the row before them."""
    return math.prod(min(roi_size[a], n) + 1 if a == axis else n for a, n in enumerate(grid.size))


def _piece_rows(grid: Grid, axis: int, channels: int) -> int:
    """Rows of the scan that are brought to its grid at a time."""
    sides = (max(n, m) for a, (n, m) in enumerate(zip(grid.size, grid.scan_size, strict=True)) if a != axis)
    return max(1, _PIECE // (channels * math.prod(sides)))


class _Rolling:
    """Weighted sums of the windows' logits, for the rows of the grid that windows still touch, and the result so far.

    Rows are counted along the axis. The sums' first row is one that is done: it is needed for what lies between it and
    the next.

    Args:
        grid: of the scan.
        axis: along which windows come in order.
        weights: (*roi_size) of a window's voxels, on the device of the scan.
        compact: whether log-odds are summed.
    """

    def __init__(self, grid: Grid, axis: int, weights: torch.Tensor, *, compact: bool) -> None:
        self.grid, self.axis, self.weights, self.compact = grid, axis, weights, compact
        self.first = -1  # row of the grid that the first row of the sums is; -1 is none yet
        self.written = 0  # rows of the result
        self.positions = [np.arange(n) / ratio for n, ratio in zip(grid.scan_size, grid.ratio, strict=True)]
        self.sums = self.result = torch.empty(0)  # the channels of the first logits are not known yet

    def add(self, window: Window, logits: torch.Tensor) -> None:
        """Add a window's logits (channels, *roi_size); its first row is not before that of the last one."""
        logits = logits.float()
        if self.compact:
            logits = logits[1:] - logits[:1]
        logits = logits.to(self.weights.device)
        if not self.sums.numel():
            self._start(len(logits))
        self._forget_before(window.start[self.axis])
        start, size = [0, 0, 0], list(self.grid.size)
        start[self.axis], size[self.axis] = self.first, self.sums.shape[self.axis + 1]
        shared = window.overlap(Window((start[0], start[1], start[2]), (size[0], size[1], size[2])))
        if shared is not None:
            here, there = shared
            self.sums[:-1][(slice(None), *there)].addcmul_(logits[(slice(None), *here)], self.weights[here])
            self.sums[-1][there].add_(self.weights[here])

    def finish(self) -> torch.Tensor:
        """The result, (channels, D, H, W) on the scan's grid."""
        self._forget_before(self.grid.size[self.axis])
        return self.result

    def _start(self, channels: int) -> None:
        device, size = self.weights.device, list(self.grid.size)
        size[self.axis] = min(self.weights.shape[self.axis], size[self.axis]) + 1
        self.sums = torch.zeros((channels + 1, *size), device=device)
        dtype = torch.float16 if self.compact else torch.float32
        self.result = torch.empty((channels, *self.grid.scan_size), dtype=dtype, device=device)

    def _forget_before(self, row: int) -> None:
        """Bring the rows before this one to the scan's grid; keep the last of them."""
        done = row - self.first - 1
        if done <= 0:
            return
        dim = self.axis + 1
        rows = self.sums.narrow(dim, 1, done)
        rows[:-1].div_(rows[-1:])
        self._write(row)
        left = self.sums.shape[dim] - done
        for at in range(0, left, done):  # parts that do not lie over where they go
            width = min(done, left - at)
            self.sums.narrow(dim, at, width).copy_(self.sums.narrow(dim, at + done, width))
        self.sums.narrow(dim, left, done).zero_()
        self.first += done

    def _write(self, row: int) -> None:
        """Write the rows of the result that lie before this row of the grid."""
        dim, places = self.axis + 1, self.positions[self.axis]
        known = max(self.first, 0)
        rows = self.sums[:-1].narrow(dim, known - self.first, row - known)
        last = row >= self.grid.size[self.axis]
        end = len(places) if last else int(np.searchsorted(places, row - 1 + ON_VOXEL, side="right"))
        step = _piece_rows(self.grid, self.axis, len(rows))
        for first in range(self.written, end, step):
            until = min(first + step, end)
            positions = list(self.positions)
            positions[self.axis] = places[first:until] - known
            values = interpolate(rows, positions)
            self.result.narrow(dim, first, until - first).copy_(half_precision(values) if self.compact else values)
        self.written = max(self.written, end)


def infer_resampled(scan: torch.Tensor, grid: Grid, infer: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    """Resample a whole scan to the grid, infer there, and bring the logits back: for inferers that need the whole.

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
