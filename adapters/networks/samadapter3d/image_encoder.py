"""SAM's image encoder lifted to 3D, with spatial adapters (3DSAM-adapter, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adapters.networks.layers.attention import WindowAttention3D, chunk_on
from adapters.networks.layers.tracing import recorded
from adapters.networks.backbones import Variant, get_variant

__all__ = ["ImageEncoder3D", "SpatialAdapter", "build_image_encoder", "enlargement_matrix"]

logger = logging.getLogger(__name__)

PATCH = 16  # side of SAM's patches in the enlarged volume
LEVELS = 4  # as published


def enlargement_matrix(enlargement: int, *, patch: int = PATCH) -> Tensor:
    """Linear interpolation of one patch of an enlarged axis, as a matrix.

    Enlarging an axis ``enlargement`` times (linear, voxel centres at +0.5, edges replicated) makes each run of
    ``patch`` samples a linear function of ``patch // enlargement + 2`` voxels of the original.

    Args:
        enlargement: 1, 2, 4, 8 or 16.
        patch: samples of the enlarged axis in one patch.

    Returns:
        (patch, patch // enlargement + 2); column 0 is the voxel before the patch's first one.
    """
    source = (torch.arange(patch, dtype=torch.float64) + 0.5) / enlargement - 0.5 + 1.0
    low = source.floor()
    matrix = torch.zeros(patch, patch // enlargement + 2, dtype=torch.float64)
    rows = torch.arange(patch)
    matrix[rows, low.long()] = 1.0 - (source - low)
    matrix[rows, low.long() + 1] += source - low
    return matrix


class PatchEmbedding3D(nn.Module):
    """Patches of the enlarged volume, embedded without enlarging it.

    The published network enlarges the crop (trilinear), repeats it to three channels, applies SAM's 16x16
    convolution in the plane and a depthwise convolution of length 16 along depth. All of that is one linear map
    of a few voxels of the crop: a convolution with stride ``16 / enlargement`` whose kernel is folded here from the
    original weights (which stay the parameters, so checkpoints and gradients are those of the published form).

    Args:
        embed_dim: width of the tokens.
        enlargement: how many times the published form enlarges the crop: 4, or 2 in automatic mode.

    Raises:
        ValueError: if the enlargement is none of 1, 2, 4, 8.
    """

    interpolation: Tensor

    def __init__(self, embed_dim: int, *, enlargement: int = 4) -> None:
        super().__init__()
        if enlargement not in (1, 2, 4, 8):
            raise ValueError(f"enlargement={enlargement}: expected 1, 2, 4 or 8, a divisor of SAM's patch of {PATCH}.")
        self.stride = PATCH // enlargement
        self.plane = nn.Conv2d(3, embed_dim, PATCH, PATCH)
        self.depth_weight = nn.Parameter(torch.full((embed_dim, PATCH), 1.0 / PATCH))
        self.depth_bias = nn.Parameter(torch.zeros(embed_dim))
        self.register_buffer("interpolation", enlargement_matrix(enlargement).float(), persistent=False)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel (embed_dim, 1, k, k, k) with k = 16 / enlargement + 2, and bias (embed_dim,)."""
        plane = self.interpolation.t() @ self.plane.weight.sum(1) @ self.interpolation
        depth = self.depth_weight @ self.interpolation
        kernel = depth[:, :, None, None] * plane[:, None]
        plane_bias: Tensor = self.plane.bias  # type: ignore[assignment]  # made with one above
        bias = plane_bias * self.depth_weight.sum(1) + self.depth_bias
        return kernel[:, None], bias

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, D, H, W) image to (B, D/s, H/s, W/s, C) tokens, s = 16 / enlargement."""
        kernel, bias = self.folded()
        padded = F.pad(image, (1,) * 6, mode="replicate")
        return F.conv3d(padded, kernel.to(image.dtype), bias.to(image.dtype), stride=self.stride).permute(0, 2, 3, 4, 1)


class SpatialAdapter(nn.Module):
    """Bottleneck with a depthwise 3x3x3 convolution, added to its input (3DSAM-adapter, figure 2).

    Args:
        dim: width of the tokens.
        hidden: width of the bottleneck.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden)
        self.conv = nn.Conv3d(hidden, hidden, 3, padding=1, groups=hidden)
        self.up = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to the same shape."""
        y = F.relu(self.down(x), inplace=True)
        y = F.relu(self.conv(y.permute(0, 4, 1, 2, 3)), inplace=True).permute(0, 2, 3, 4, 1)
        return x + F.relu(self.up(y), inplace=True)


class Mlp(nn.Module):
    """SAM's two-layer perceptron."""

    def __init__(self, dim: int, hidden: int, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.lin2(self.activation(self.lin1(x)))


class Block3D(nn.Module):
    """Spatial adapter, then SAM's transformer block with windowed 3D attention.

    Args:
        dim: width of the tokens.
        num_heads: attention heads.
        table_length: rows of the relative-position tables.
        window_size: side of the cubic windows, in tokens.
        shift: whether the windows are shifted by half their side.
    """

    token_chunk = 1024  # tokens that pass the MLP at once on a CPU where no gradient is needed

    def __init__(self, dim: int, num_heads: int, table_length: int, *, window_size: int, shift: bool) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.adapter = SpatialAdapter(dim, dim // 2)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = WindowAttention3D(dim, num_heads, table_length)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to the same shape."""
        x = self.adapter(x)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or recorded():
            x = x + self.attn(self.norm1(x), self.window_size, shift=self.shift)
            return x + self.mlp(self.norm2(x))
        x = x.contiguous()
        self.attn.add_to(x, self.norm1, self.window_size, shift=self.shift)
        for tokens in x.view(-1, x.shape[-1]).split(chunk_on(x.device, self.token_chunk)):
            tokens.add_(self.mlp(self.norm2(tokens)))
        return x


class Neck(nn.Module):
    """1x1x1 convolution, channel norm, 3x3x3 convolution, channel norm: one level of the features."""

    def __init__(self, dim: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(dim, out_channels, bias=False)
        self.norm1 = nn.LayerNorm(out_channels, eps=1e-6)
        self.conv = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.LayerNorm(out_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) tokens to (B, out_channels, D, H, W)."""
        y = self.norm1(self.reduce(x)).permute(0, 4, 1, 2, 3)
        return self.norm2(self.conv(y).permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class ImageEncoder3D(nn.Module):
    """SAM's ViT over the patches of a volume, with several feature levels (3DSAM-adapter, section 3.2).

    Args:
        embed_dim: width of the tokens.
        depth: number of blocks, a multiple of ``levels``.
        num_heads: attention heads.
        out_channels: channels of each feature level.
        crop_size: side of the crops (voxels; one number or depth, height, width) that the depth table is made
            for. Other crops are taken too: the position tables are then interpolated.
        table_size: side of SAM's position table, in patches.
        sam_window: side of SAM's 2D windows, which gives the length of the relative-position tables.
        global_blocks: blocks that have SAM's long relative-position tables.
        window_size: side of the cubic attention windows, in tokens.
        enlargement: how many times the published form enlarges the crop before it is cut into 16x16x16 patches.
        recompute: whether the activations inside each block are computed again for its gradients instead of kept:
            the same gradients in less memory and more time. Nothing changes where no gradients are needed.
        levels: feature levels, each after an equal part of the blocks; published are 4.

    Raises:
        ValueError: if the depth is no multiple of the levels, there is no level, or the crop does not fit the
            patches.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depth: int,
        num_heads: int,
        out_channels: int = 256,
        crop_size: int | Sequence[int] = 128,
        table_size: int = 64,
        sam_window: int = 14,
        global_blocks: Sequence[int] = (),
        window_size: int = 8,
        enlargement: int = 4,
        recompute: bool = False,
        levels: int = LEVELS,
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels={levels}: expected 1 or more.")
        if depth % levels or depth < levels:
            raise ValueError(
                f"depth={depth}: expected a multiple of {levels}, the number of levels, as a neck follows each equal "
                "part of the blocks."
            )
        if table_size % 2:
            raise ValueError(f"table_size={table_size}: expected an even number, as the table is pooled 2x2.")
        self.enlargement = enlargement
        self.recompute = recompute
        self.window_size = window_size
        self.patch_embed = PatchEmbedding3D(embed_dim, enlargement=enlargement)
        grid = self.token_grid((crop_size,) * 3 if isinstance(crop_size, int) else tuple(crop_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, table_size, table_size, embed_dim))
        self.depth_embed = nn.Parameter(torch.ones(1, grid[0], embed_dim))
        self.blocks = nn.ModuleList(
            Block3D(
                embed_dim,
                num_heads,
                2 * (table_size if i in global_blocks else sam_window) - 1,
                window_size=window_size,
                shift=i % 2 == 0,
            )
            for i in range(depth)
        )
        self.necks = nn.ModuleList(Neck(embed_dim, out_channels) for _ in range(levels))
        self._initialise()

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def voxels_per_token(self) -> int:
        """Side of the cube of crop voxels behind each token."""
        return self.patch_embed.stride

    def token_grid(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Tokens along depth, height and width of a crop.

        Raises:
            ValueError: if the crop is smaller than one patch or no multiple of it.
        """
        s = self.voxels_per_token
        if len(shape) != 3 or any(n < s or n % s for n in shape):
            raise ValueError(
                f"crop size {tuple(shape)} does not fit the patches: expected three sides (depth, height, width), "
                f"each a positive multiple of {s} voxels."
            )
        return shape[0] // s, shape[1] // s, shape[2] // s

    def positions(self, grid: Sequence[int]) -> Tensor:
        """Position table of a token grid: SAM's, pooled 2x2, plus the depth table, interpolated where needed.

        Args:
            grid: tokens along depth, height and width.

        Returns:
            (1, D, H, W, C).
        """
        depth, height, width = grid
        plane = F.avg_pool2d(self.pos_embed.permute(0, 3, 1, 2), 2)
        if plane.shape[2:] != (height, width):
            plane = F.interpolate(plane, size=(height, width), mode="bilinear", align_corners=False)
        along = self.depth_embed.permute(0, 2, 1)
        if along.shape[2] != depth:
            along = F.interpolate(along, size=depth, mode="linear", align_corners=False)
        return (along[:, :, :, None, None] + plane[:, :, None]).permute(0, 2, 3, 4, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode a crop.

        Args:
            image: (B, 1, D, H, W), float, normalised.

        Returns:
            The levels, each (B, out_channels, D/s, H/s, W/s) with s = `voxels_per_token`; the last is the deepest.

        Raises:
            ValueError: if the image is not (B, 1, D, H, W) or does not fit the patches.
        """
        if image.ndim != 5 or image.shape[1] != 1:
            raise ValueError(
                f"image has shape {tuple(image.shape)}: expected (B, 1, D, H, W), one channel of a 3D crop."
            )
        grid = self.token_grid(image.shape[2:])
        if any(n > self.window_size and n % self.window_size for n in grid):
            logger.debug(
                "a crop of %s voxels has %s tokens, no multiple of the windows of %d: windows at its end are padded",
                tuple(image.shape[2:]),
                grid,
                self.window_size,
            )
        x = self.patch_embed(image)
        x = x + self.positions(grid).to(x.dtype)
        levels = []
        part = len(self.blocks) // len(self.necks)
        for i, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and torch.is_grad_enabled() else block(x)
            if (i + 1) % part == 0:
                levels.append(self.necks[i // part](x))
        return tuple(levels)


def build_image_encoder(
    variant: str | Variant = "vit_b", *, crop_size: int | Sequence[int] = 128, enlargement: int = 4, **overrides: Any
) -> ImageEncoder3D:
    """Image encoder of a variant; for configs.

    Args:
        variant: name in `adapters.networks.VARIANTS`, or a `Variant`.
        crop_size: side of the training crops, in voxels (one number or depth, height, width).
        enlargement: 4 as published, 2 in the published automatic mode.
        **overrides: other arguments of `ImageEncoder3D`, in place of the variant's.

    Raises:
        ValueError: if the variant is unknown or the crop does not fit the patches.
    """
    v = get_variant(variant)
    sizes: dict[str, Any] = {
        "embed_dim": v.embed_dim,
        "depth": v.depth,
        "num_heads": v.num_heads,
        "out_channels": v.out_channels,
        "table_size": v.table_size,
        "sam_window": v.sam_window,
        "global_blocks": v.global_blocks,
        "window_size": v.window_size,
        "levels": v.levels,
    }
    return ImageEncoder3D(**{**sizes, "crop_size": crop_size, "enlargement": enlargement, **overrides})
