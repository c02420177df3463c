"""Windowed 3D self-attention with decomposed relative positions, without an attention matrix in memory.

SAM scores a query and a key as ``q.k * s + q.Rh[qh, kh] + q.Rw[qw, kw]``; the 3D lift adds ``q.Rd[qd, kd]``
(3DSAM-adapter, section 3.2). Each of the three products depends on the key through one coordinate only, so the
score is a plain inner product of longer vectors: the query is extended by its products with the table rows of
every key coordinate, the key by its one-hot coordinates. The mask of shifted windows is additive over the axes
as well and is simply added to the query's extension. Any fused attention kernel can take what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.networks.roles import Role

__all__ = ["WindowAttention3D", "chunk_on", "relative_positions", "seam_masks"]

_SEPARATED = -100.0  # added to the score of tokens that must not see each other, as published


def chunk_on(device: torch.device, on_cpu: int) -> int:
    """How much to work on at once: what stays in a CPU's cache, sixteen times as much to fill another device."""
    return on_cpu if device.type == "cpu" else 16 * on_cpu


def relative_positions(table: Tensor, size: int) -> Tensor:
    """Rows of a relative-position table for every pair of query and key coordinate.

    Args:
        table: (L, C), one row for each offset; resized linearly to ``2 * size - 1`` rows if it has another length.
        size: side of the window, in tokens.

    Returns:
        (size, size, C): entry ``[q, k]`` is the row of offset ``q - k``.
    """
    length = 2 * size - 1
    if table.shape[0] != length:
        table = F.interpolate(table.t()[None], size=length, mode="linear")[0].t()
    coords = torch.arange(size, device=table.device)
    return table[coords[:, None] - coords[None, :] + size - 1]


def seam_masks(size: int, window: int, shift: int, *, device: torch.device | None = None) -> Tensor | None:
    """Scores added along one axis to keep apart tokens that are neighbours only through shifting or padding.

    Args:
        size: tokens along the axis before padding.
        window: side of a window.
        shift: how far the grid was rolled towards lower indices.
        device: where to put the result.

    Returns:
        (windows, window, window): 0 where query and key belong together, -100 where they do not; None if all do.
    """
    padded = -(-size // window) * window
    if shift == 0 and padded == size:
        return None
    position = (torch.arange(padded, device=device) + shift) % padded
    # the part that wrapped round (1) and the padding (2) are other regions than the rest (0)
    region = torch.zeros(padded, dtype=torch.long, device=device)
    if shift:
        region[padded - shift :] = 1
    region[position >= size] = 2
    region = region.view(-1, window)
    return (region[:, :, None] != region[:, None, :]).to(torch.float32) * _SEPARATED


class _Layout(NamedTuple):
    """How tokens are cut into windows; all (depth, height, width), in tokens."""

    size: tuple[int, ...]
    window: tuple[int, ...]
    shifts: tuple[int, ...]

    @classmethod
    def of(cls, size: Sequence[int], window_size: int, *, shift: bool) -> _Layout:
        window = tuple(min(window_size, s) for s in size)
        shifts = tuple(w // 2 if shift and s > w else 0 for s, w in zip(size, window, strict=True))
        return cls(tuple(size), window, shifts)

    @property
    def grid(self) -> list[int]:
        """Windows along each axis."""
        return [-(-s // w) for s, w in zip(self.size, self.window, strict=True)]

    @property
    def padded(self) -> bool:
        """Whether the windows hang over the tokens."""
        return any(s % w for s, w in zip(self.size, self.window, strict=True))

    def cut(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to (windows, d, h, w, C), zeros where a window hangs over."""
        batch, *size, dim = x.shape
        (gd, gh, gw), (wd, wh, ww) = self.grid, self.window
        if self.padded:
            d, h, w = (g * n - s for g, n, s in zip(self.grid, self.window, size, strict=True))
            x = F.pad(x, (0, 0, 0, w, 0, h, 0, d))
        if any(self.shifts):
            x = torch.roll(x, [-s for s in self.shifts], dims=(1, 2, 3))
        x = x.view(batch, gd, wd, gh, wh, gw, ww, dim).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return x.reshape(-1, wd, wh, ww, dim)

    def join(self, windows: Tensor, batch: int) -> Tensor:
        """What `cut` gave, (windows, d, h, w, C), back to (B, D, H, W, C)."""
        (gd, gh, gw), (wd, wh, ww) = self.grid, self.window
        x = windows.view(batch, gd, gh, gw, wd, wh, ww, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
        x = x.reshape(batch, gd * wd, gh * wh, gw * ww, -1)
        if any(self.shifts):
            x = torch.roll(x, self.shifts, dims=(1, 2, 3))
        return x[:, : self.size[0], : self.size[1], : self.size[2]]

    def masks(self, batch: int, device: torch.device) -> list[Tensor | None]:
        """One (windows, w, w) mask for each axis, in the order of the windows, or None."""
        axes = zip(self.size, self.window, self.shifts, strict=True)
        per_axis = [seam_masks(n, w, s, device=device) for n, w, s in axes]
        index = torch.cartesian_prod(*(torch.arange(g, device=device) for g in self.grid)).view(-1, 3).repeat(batch, 1)
        return [None if m is None else m[index[:, axis]] for axis, m in enumerate(per_axis)]


class WindowAttention3D(nn.Module):
    """Multi-head self-attention inside cubic windows of tokens.

    The linear layers are SAM's; the relative-position table of the depth axis is new. The tables keep the
    length that they have in SAM's checkpoint and are resized to the window when they are used.

    Args:
        dim: width of the tokens.
        num_heads: attention heads; must divide ``dim``.
        table_length: rows of each relative-position table (SAM: 27 in windowed blocks, 127 in global ones).
        window_chunk: windows that a CPU works on at once where no gradient is needed (see `chunk_on`).

    Raises:
        ValueError: if ``num_heads`` does not divide ``dim``.
    """

    parameter_roles: ClassVar[dict[str, Role]] = {"rel_pos_d": "depth", "rel_pos_gain": "constant"}

    def __init__(self, dim: int, num_heads: int, table_length: int, *, window_chunk: int = 2) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide the token width dim={dim}.")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.window_chunk = window_chunk
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_d = nn.Parameter(torch.zeros(table_length, self.head_dim))
        self.rel_pos_h = nn.Parameter(torch.zeros(table_length, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(table_length, self.head_dim))
        # one gain on the relative positions, published as a frozen 1.0
        self.rel_pos_gain = nn.Parameter(torch.ones(()))

    @torch.no_grad()
    def start_depth(self) -> None:
        """Set what SAM lacks along depth: the mean of its tables for height and width."""
        self.rel_pos_d.copy_((self.rel_pos_h + self.rel_pos_w) / 2)
        self.rel_pos_gain.fill_(1.0)

    def forward(self, x: Tensor, window_size: int, *, shift: bool) -> Tensor:
        """Attend inside the windows.

        Args:
            x: (B, D, H, W, C) normalised tokens.
            window_size: side of a window, in tokens. An axis with fewer tokens is one window, unshifted.
            shift: whether the windows are shifted by half a window, as in Swin.

        Returns:
            (B, D, H, W, C).
        """
        layout = _Layout.of(x.shape[1:4], window_size, shift=shift)
        return layout.join(self._attend(layout.cut(x), *self._positions(layout, len(x), x.device)), len(x))

    def add_to(self, x: Tensor, norm: nn.Module, window_size: int, *, shift: bool) -> None:
        """``x += self(norm(x))`` in place and without a gradient, for a few windows at a time.

        The tokens of a window are read from and added to their places in `x`; neither the shifted tokens nor
        those of all windows are ever copied.

        Args:
            x: (B, D, H, W, C) tokens, contiguous.
            norm: acts on each token alone.
            window_size: as for `forward`.
            shift: as for `forward`.
        """
        layout = _Layout.of(x.shape[1:4], window_size, shift=shift)
        tokens = x.view(-1, x.shape[-1])
        places = torch.arange(1, len(tokens) + 1, device=x.device).view(*x.shape[:4], 1)
        places = layout.cut(places) - 1  # -1: padding
        tables, masks = self._positions(layout, len(x), x.device)
        chunk = chunk_on(x.device, self.window_chunk)
        for start in range(0, len(places), chunk):
            part = slice(start, start + chunk)
            rows = places[part].flatten()
            windows = norm(tokens[rows])
            if layout.padded:
                windows[rows < 0] = 0
            out = self._attend(
                windows.view(-1, *layout.window, x.shape[-1]), tables, [None if m is None else m[part] for m in masks]
            ).view(len(rows), -1)
            if layout.padded:
                out, rows = out[rows >= 0], rows[rows >= 0]
            tokens.index_add_(0, rows, out.to(tokens.dtype))

    def _positions(self, layout: _Layout, batch: int, device: torch.device) -> tuple[list[Tensor], list[Tensor | None]]:
        """For each axis its rows of relative positions (w, w, head_dim), and its masks (windows, w, w) or None."""
        tables = [
            self.rel_pos_gain * relative_positions(table, w)
            for table, w in zip((self.rel_pos_d, self.rel_pos_h, self.rel_pos_w), layout.window, strict=True)
        ]
        return tables, layout.masks(batch, device)

    def _attend(self, x: Tensor, tables: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """Attention of (n, d, h, w, C) windows."""
        n, d, h, w, dim = x.shape
        tokens = d * h * w
        qkv = self.qkv(x).view(n, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # each (n, heads, tokens, head_dim)
        q_grid = q.reshape(n, self.num_heads, d, h, w, self.head_dim)
        extension = [
            torch.einsum("nadhwc,dkc->nadhwk", q_grid, tables[0].to(q.dtype)),
            torch.einsum("nadhwc,hkc->nadhwk", q_grid, tables[1].to(q.dtype)),
            torch.einsum("nadhwc,wkc->nadhwk", q_grid, tables[2].to(q.dtype)),
        ]
        for axis, mask in enumerate(masks):
            if mask is not None:
                shape = [n, 1, 1, 1, 1, mask.shape[-1]]
                shape[2 + axis] = mask.shape[-1]
                extension[axis] = extension[axis] + mask.view(shape).to(q.dtype)
        keys = _one_hot_coordinates(d, h, w, q)
        width = self.head_dim + d + h + w
        pad = -width % 8  # fused kernels want a multiple of eight
        q_long = torch.cat(
            [q * self.head_dim**-0.5, *(e.reshape(n, self.num_heads, tokens, -1) for e in extension)], dim=-1
        )
        k_long = torch.cat([k, keys.expand(n, self.num_heads, -1, -1)], dim=-1)
        if pad:
            q_long, k_long = F.pad(q_long, (0, pad)), F.pad(k_long, (0, pad))
        v_long = F.pad(v, (0, width + pad - self.head_dim))
        out = F.scaled_dot_product_attention(q_long, k_long, v_long, scale=1.0)[..., : self.head_dim]
        return self.proj(out.transpose(1, 2).reshape(n, tokens, dim)).view(n, d, h, w, dim)


def _one_hot_coordinates(d: int, h: int, w: int, like: Tensor) -> Tensor:
    """(d*h*w, d+h+w): for each token of a window, its three coordinates as one-hot vectors."""
    axes = [torch.eye(n, dtype=like.dtype, device=like.device) for n in (d, h, w)]
    grids = [
        axes[0][:, None, None].expand(d, h, w, d),
        axes[1][None, :, None].expand(d, h, w, h),
        axes[2][None, None, :].expand(d, h, w, w),
    ]
    return torch.cat(grids, dim=-1).view(d * h * w, d + h + w)
