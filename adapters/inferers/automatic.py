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
from adapters.networks.promptable import log_odds
from adapters.prompts import check_affine

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
    """MONAI's sliding window over the scan at the network's spacing; log-odds on the scan's own grid.

    The result is that of `monai.inferers.SlidingWindowInferer` on the resampled scan, up to the order of sums: its
    positions, weights and overlap are taken, and a scan that is smaller than the window is padded, half on each side.
    But neither the resampled scan nor its log-odds are ever there as a whole. Windows are read one by one, and sums are
    kept for the rows that one layer of windows touches, along the axis for which that is least. Rows that no later
    window touches are brought to the scan's grid and forgotten. See `working_bytes`.

    No gradients flow through the result.

    Args:
        roi_size: voxels of the window, one number or one for each axis (D, H, W). The published automatic mode: 256.
        spacing: mm of the voxels that the network sees, one number or one for each axis (D, H, W). None: the scan's
            own.
        spatial_dims: axes of the scans, 3 or 2 (H, W).
        overlap: share of the window that neighbours overlap, one number or (D, H, W), at least 0 and less than 1
            (published: 0.5).
        mode: weights of overlapping windows, ``gaussian`` (published) or ``constant``.
        sigma_scale: standard deviation of gaussian weights as a share of the window, one number or (D, H, W).
        sw_batch_size: windows predicted at a time.
        pad_value: value of the padding. None: the scan's minimum.
        sw_device: where windows are predicted. None: where the network's weights lie.
        progress: whether a bar counts the windows.
        **kwargs: none. Other arguments of `monai.inferers.SlidingWindowInferer` are refused with the reason.

    Raises:
        ValueError: an argument out of its range, or one that is refused.

    Example:
        >>> inferer = AutomaticInferer(32, spacing=2.0)
        >>> with torch.no_grad():
        ...     log_odds = inferer(torch.zeros(1, 1, 40, 50, 60), lambda crop: 2 * crop - 1)
        >>> log_odds.shape
        torch.Size([1, 1, 40, 50, 60])
    """

    def __init__(
        self,
        roi_size: int | Sequence[int],
        spacing: float | Sequence[float] | None = None,
        *,
        spatial_dims: int = 3,
        overlap: float | Sequence[float] = 0.5,
        mode: BlendMode | str = "gaussian",
        sigma_scale: float | Sequence[float] = 0.125,
        sw_batch_size: int = 1,
        pad_value: float | None = None,
        sw_device: torch.device | str | None = None,
        progress: bool = False,
        **kwargs: Any,
    ) -> None:
        for name, value in kwargs.items():
            reason = _REFUSED.get(name, "there is no such argument")
            raise ValueError(f"{name}={value!r} cannot be honoured: {reason}")
        self.spatial_dims = spatial_dims
        self.roi_size = as_sizes(roi_size, "roi_size", spatial_dims)
        self.spacing = as_spacing(spacing, spatial_dims)
        self.overlap = ensure_tuple_rep(overlap, spatial_dims)
        if not all(0 <= share < 1 for share in self.overlap):
            raise ValueError(f"overlap is {overlap!r}: expected a share of the window, at least 0 and less than 1")
        self.mode = look_up_option(mode, BlendMode)
        self.sigma_scale = ensure_tuple_rep(sigma_scale, spatial_dims)
        if not all(scale > 0 for scale in self.sigma_scale):
            raise ValueError(f"sigma_scale is {sigma_scale!r}: expected a positive share of the window")
        if sw_batch_size < 1:
            raise ValueError(f"sw_batch_size is {sw_batch_size}: expected at least 1")
        self.sw_batch_size = sw_batch_size
        self.pad_value = pad_value
        self.sw_device = None if sw_device is None else torch.device(sw_device)
        self.progress = progress

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Predict the whole scan.

        Args:
            inputs: (B, C, D, H, W), or (B, C, H, W) with two axes; a MetaTensor with its affine, or a plain tensor with
                voxels of 1 mm.
            network: called with one tensor (b, C, *roi_size); returns log-odds of the lesion (b, 1, *roi_size), or
                logits of background and lesion (b, 2, *roi_size).
            *args: passed to the network.
            **kwargs: passed to the network.

        Returns:
            (B, 1, D, H, W) float16 log-odds of the lesion on the grid and the device of the inputs.

        Raises:
            ValueError: the inputs have another number of axes or channels, the affine is singular, or the network
                returns something else.
        """
        scans = check_scan(inputs, self.spatial_dims, int(getattr(network, "in_channels", 1)))
        items = [
            self.infer_scan(scan, affine, network, *args, **kwargs)
            for scan, affine in zip(scans, item_affines(inputs), strict=True)
        ]
        return like_inputs(items[0][None] if len(items) == 1 else torch.stack(items), inputs)

    def infer_scan(
        self, scan: torch.Tensor, affine: np.ndarray, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """One scan (C, D, H, W) with its affine (4, 4) to log-odds (1, D, H, W) on its own grid."""
        grid = Grid.of(scan.shape[1:], affine, self.spacing)
        axis = self._axis(grid)
        windows = sorted(self._windows(grid), key=lambda window: window.start[axis])
        device = self.sw_device or network_device(network, scan)
        pad_value = float(scan.min()) if self.pad_value is None else self.pad_value
        weights = compute_importance_map(
            self.roi_size, mode=self.mode, sigma_scale=self.sigma_scale, device=scan.device
        )
        rolling = _Rolling(grid, axis, weights)

        def read(batch: Sequence[Window]) -> torch.Tensor:
            crops = torch.empty((len(batch), len(scan), *self.roi_size), device=device)
            for crop, window in zip(crops, batch, strict=True):
                crop.copy_(grid.read(scan, window, pad_value))
            return crops

        def add(batch: Sequence[Window]) -> None:
            values = self._checked(network(read(batch), *args, **kwargs), len(batch)).detach()
            for window, each in zip(batch, values, strict=True):
                rolling.add(window, each)

        with tqdm(total=len(windows), desc="windows", unit="window", disable=not self.progress) as bar:
            for first in range(0, len(windows), self.sw_batch_size):
                batch = windows[first : first + self.sw_batch_size]
                add(batch)
                bar.update(len(batch))
        return rolling.finish()

    def working_bytes(self, scan_size: Sequence[int], affine: np.ndarray | None = None, channels: int = 2) -> int:
        """Bytes of tensors that a scan takes at most while it is predicted, beside itself, its result and the network.

        These are the sums of one layer of windows and their weights, and a piece of it on its way to the scan's grid.
        To them come the windows that are predicted at a time, with their logits. The scan's longest side does not
        count, once it is longer than a window. The result has 2 bytes a voxel of the scan.

        Args:
            scan_size: voxels of the scan, (D, H, W).
            affine: (4, 4), voxels of the scan to mm. None: voxels of 1 mm.
            channels: of the network's answer, 1 or 2.

        Returns:
            Bytes.

        Raises:
            ValueError: the size is not three positive numbers, or the affine is singular.
        """
        affine = check_affine(
            np.eye(self.spatial_dims + 1) if affine is None else affine, spatial_dims=self.spatial_dims
        )
        grid = Grid.of(as_sizes(scan_size, "scan_size", self.spatial_dims), affine, self.spacing)
        axis = self._axis(grid)
        window = math.prod(self.roi_size)
        source = [
            min(n, math.ceil((roi - 1) * ratio) + 2)
            for n, roi, ratio in zip(grid.scan_size, self.roi_size, grid.ratio, strict=True)
        ]
        reading = max(interpolation_size(source, self.roi_size), 2 * window)
        logits = channels * self.sw_batch_size * window
        adding = logits + (channels + 2) * window  # one in float32, and as it is added
        windows = window + max(self.sw_batch_size * window + max(reading, logits), adding)
        rows = _piece_rows(grid, axis)
        piece, target = list(grid.size), list(grid.scan_size)
        piece[axis] = min(grid.size[axis], math.ceil((rows - 1) / grid.ratio[axis]) + 2)
        target[axis] = min(grid.scan_size[axis], rows)
        finishing = interpolation_size(piece, target) + math.prod(target)
        return _VALUE * (2 * _rolling_size(grid, axis, self.roi_size) + windows + finishing)

    def _axis(self, grid: Grid) -> int:
        """The axis along which fewest sums are kept."""
        return min(range(len(grid.size)), key=lambda axis: _rolling_size(grid, axis, self.roi_size))

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
            start = tuple(int(part.start) - b for part, b in zip(place, before, strict=True))
            windows.append(Window(start, self.roi_size))
        return windows

    def _checked(self, answer: Any, batch: int) -> torch.Tensor:
        """What the network answered as log-odds (b, 1, *roi_size)."""
        expected = f"one tensor ({batch}, 1 or 2, {', '.join(map(str, self.roi_size))})"
        if not isinstance(answer, torch.Tensor):
            raise ValueError(f"automatic inference returned {type(answer).__name__}: expected {expected}")
        shape = tuple(answer.shape)
        if shape[:1] != (batch,) or shape[1:2] not in {(1,), (2,)} or shape[2:] != self.roi_size:
            raise ValueError(f"automatic inference returned {shape}: expected {expected}")
        return log_odds(answer.float())


def _rolling_size(grid: Grid, axis: int, roi_size: Sequence[int]) -> int:
    """Voxels of the rows that one layer of windows touches, and of the row before them."""
    return math.prod(min(roi_size[a], n) + 1 if a == axis else n for a, n in enumerate(grid.size))


def _piece_rows(grid: Grid, axis: int) -> int:
    """Rows of the scan that are brought to its grid at a time."""
    sides = (max(n, m) for a, (n, m) in enumerate(zip(grid.size, grid.scan_size, strict=True)) if a != axis)
    return max(1, _PIECE // math.prod(sides))


class _Rolling:
    """Weighted sums of the windows' log-odds, for the rows of the grid that windows still touch, and the result so far.

    Rows are counted along the axis. The sums' first row is one that is done: it is needed for what lies between it and
    the next.

    Args:
        grid: of the scan.
        axis: along which windows come in order.
        weights: (*roi_size) of a window's voxels, on the device of the scan.
    """

    def __init__(self, grid: Grid, axis: int, weights: torch.Tensor) -> None:
        self.grid, self.axis, self.weights = grid, axis, weights
        self.first = -1  # row of the grid that the first row of the sums is; -1 is none yet
        self.written = 0  # rows of the result
        self.positions = [np.arange(n) / ratio for n, ratio in zip(grid.scan_size, grid.ratio, strict=True)]
        size = list(grid.size)
        size[axis] = min(weights.shape[axis], size[axis]) + 1
        self.sums = torch.zeros((2, *size), device=weights.device)  # of log-odds, of weights
        self.result = torch.empty((1, *grid.scan_size), dtype=torch.float16, device=weights.device)

    def add(self, window: Window, log_odds: torch.Tensor) -> None:
        """Add a window's log-odds (1, *roi_size); its first row is not before that of the last one."""
        log_odds = log_odds.to(self.weights.device)
        self._forget_before(window.start[self.axis])
        start, size = [0] * len(self.grid.size), list(self.grid.size)
        start[self.axis], size[self.axis] = self.first, self.sums.shape[self.axis + 1]
        shared = window.overlap(Window(tuple(start), tuple(size)))
        if shared is not None:
            of_window, of_sums = shared
            self.sums[0][of_sums].addcmul_(log_odds[0][of_window], self.weights[of_window])
            self.sums[1][of_sums].add_(self.weights[of_window])

    def finish(self) -> torch.Tensor:
        """The result, (1, D, H, W) on the scan's grid."""
        self._forget_before(self.grid.size[self.axis])
        return self.result

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
        step = _piece_rows(self.grid, self.axis)
        for first in range(self.written, end, step):
            until = min(first + step, end)
            positions = list(self.positions)
            positions[self.axis] = places[first:until] - known
            values = interpolate(rows, positions)
            self.result.narrow(dim, first, until - first).copy_(half_precision(values))
        self.written = max(self.written, end)


def infer_resampled(scan: torch.Tensor, grid: Grid, infer: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    """Resample a whole scan to the grid, infer there, and bring the logits back: for inferers that need the whole.

    Args:
        scan: (C, D, H, W).
        grid: the scan's grid.
        infer: (1, C, *grid.size) to log-odds (1, 1, *grid.size) or logits of background and lesion (1, 2, *grid.size).

    Returns:
        (1, D, H, W) log-odds, float32.

    Raises:
        ValueError: the logits are on another grid.
    """
    answer = infer(grid.read(scan, grid.whole)[None])
    if not isinstance(answer, torch.Tensor) or answer.shape[1] not in {1, 2} or answer.shape[2:] != grid.size:
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise ValueError(f"automatic inference returned {got}: expected one tensor (1, 1 or 2, *{grid.size})")
    return grid.to_scan(log_odds(answer.to(device=scan.device, dtype=torch.float32))[0], grid.whole)[0]
