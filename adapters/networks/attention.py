"""Windowed 3D self-attention with decomposed relative positions, without an attention matrix in memory.

SAM scores a query and a key as ``q.k * s + q.Rh[qh, kh] + q.Rw[qw, kw]``; the 3D lift adds ``q.Rd[qd, kd]``
(3DSAM-adapter, section 3.2). Each of the three products depends on the key through one coordinate only, so the
score is a plain inner product of longer vectors: the query is extended by its products with the table rows of
every key coordinate, the key by its one-hot coordinates. The mask of shifted windows is additive over the axes
as well and is simply added to the query's extension. Any fused attention kernel can take what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["WindowAttention3D", "relative_positions", "seam_masks"]

_SEPARATED = -100.0  # added to the score of tokens that must not see each other, as published


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


class WindowAttention3D(nn.Module):
    """Multi-head self-attention inside cubic windows of tokens.

    The linear layers are SAM's; the relative-position table of the depth axis is new. The tables keep the
    length that they have in SAM's checkpoint and are resized to the window when they are used.

    Args:
        dim: width of the tokens.
        num_heads: attention heads; must divide ``dim``.
        table_length: rows of each relative-position table (SAM: 27 in windowed blocks, 127 in global ones).
        window_chunk: windows that are worked on at once where no gradient is needed; bounds the memory.

    Raises:
        ValueError: if ``num_heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, num_heads: int, table_length: int, *, window_chunk: int = 8) -> None:
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

    def forward(self, x: Tensor, window_size: int, *, shift: bool) -> Tensor:
        """Attend inside the windows.

        Args:
            x: (B, D, H, W, C) normalised tokens.
            window_size: side of a window, in tokens. An axis with fewer tokens is one window, unshifted.
            shift: whether the windows are shifted by half a window, as in Swin.

        Returns:
            (B, D, H, W, C).
        """
        batch, *size, dim = x.shape
        window = [min(window_size, s) for s in size]
        shifts = [w // 2 if shift and s > w else 0 for s, w in zip(size, window, strict=True)]
        grid = [-(-s // w) for s, w in zip(size, window, strict=True)]
        padding = [g * w - s for g, w, s in zip(grid, window, size, strict=True)]
        if any(padding):
            x = F.pad(x, (0, 0, 0, padding[2], 0, padding[1], 0, padding[0]))
        if any(shifts):
            x = torch.roll(x, [-s for s in shifts], dims=(1, 2, 3))
        (gd, gh, gw), (wd, wh, ww) = grid, window
        windows = x.view(batch, gd, wd, gh, wh, gw, ww, dim).permute(0, 1, 3, 5, 2, 4, 6, 7)
        windows = windows.reshape(-1, wd, wh, ww, dim)

        tables = [
            self.rel_pos_gain * relative_positions(table, w)
            for table, w in zip((self.rel_pos_d, self.rel_pos_h, self.rel_pos_w), window, strict=True)
        ]
        masks = self._window_masks(size, window, shifts, batch, x.device)
        # an exported graph has no loop: each part would be a copy of the operations
        whole = torch.is_grad_enabled() or torch.compiler.is_exporting()
        chunk = len(windows) if whole else self.window_chunk
        parts = []
        for start in range(0, len(windows), chunk):
            part = slice(start, start + chunk)
            parts.append(self._attend(windows[part], tables, [None if m is None else m[part] for m in masks]))
        out = torch.cat(parts) if len(parts) > 1 else parts[0]

        out = out.view(batch, gd, gh, gw, wd, wh, ww, dim).permute(0, 1, 4, 2, 5, 3, 6, 7)
        out = out.reshape(batch, gd * wd, gh * wh, gw * ww, dim)
        if any(shifts):
            out = torch.roll(out, shifts, dims=(1, 2, 3))
        return out[:, : size[0], : size[1], : size[2]]

    @staticmethod
    def _window_masks(
        size: Sequence[int], window: Sequence[int], shifts: Sequence[int], batch: int, device: torch.device
    ) -> list[Tensor | None]:
        """One (windows, w, w) mask for each axis, in the order of the windows, or None."""
        per_axis = [seam_masks(n, w, s, device=device) for n, w, s in zip(size, window, shifts, strict=True)]
        grid = [-(-n // w) for n, w in zip(size, window, strict=True)]
        index = torch.cartesian_prod(*(torch.arange(g, device=device) for g in grid)).view(-1, 3).repeat(batch, 1)
        return [None if m is None else m[index[:, axis]] for axis, m in enumerate(per_axis)]

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
