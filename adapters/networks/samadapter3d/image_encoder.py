"""SAM's image encoder lifted to 3D (3DSAM-adapter, section 3.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adapters.networks.arguments import KeepsArguments
from adapters.networks.backbones import Backbone
from adapters.networks.layers.attention import WindowAttention3D, chunk_on
from adapters.networks.layers.mlp import Mlp
from adapters.networks.layers.patches import PatchEmbedding3D
from adapters.networks.layers.tracing import recorded
from adapters.networks.roles import Role
from adapters.networks.samadapter3d.sizes import LEVELS, Sizes, get_sizes
from adapters.networks.tuning import BlockPlace, BlockTuning, build_tuning

__all__ = ["Block3D", "ImageEncoder3D", "Neck", "build_image_encoder"]

logger = logging.getLogger(__name__)


class Block3D(nn.Module):
    """SAM's transformer block with windowed 3D attention, and a method of tuning in its slots.

    Args:
        dim: width of the tokens.
        num_heads: attention heads.
        table_length: rows of the relative-position tables.
        window_size: side of the cubic windows, in tokens.
        shift: whether the windows are shifted by half their side.
        tuning: what sits in the slots.
    """

    parameter_roles: ClassVar[dict[str, Role]] = {"adapter": "new", "norm1": "tuned", "norm2": "tuned"}
    token_chunk = 1024  # tokens that pass the MLP at once on a CPU where no gradient is needed

    def __init__(
        self, dim: int, num_heads: int, table_length: int, *, window_size: int, shift: bool, tuning: BlockTuning
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.adapter = tuning
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = WindowAttention3D(dim, num_heads, table_length)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)

    def initialise(self) -> None:
        """Set the starting values: SAM's for its own linear layers, the method's for its own."""
        self.adapter.initialise()
        for linear in (self.attn.qkv, self.attn.proj, self.mlp.lin1, self.mlp.lin2):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, carried: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, D, H, W, C) to the same shape; `carried` goes from block to block, see `BlockTuning`."""
        block_input, x = x, self.adapter.before_attention(x)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or recorded():
            x = x + self._attention(x)
            x = x + self._mlp(self.norm2(x))
            return self.adapter.after_block(x, carried)
        x = x.clone() if x is block_input else x.contiguous()
        if self.adapter.fills("after_attention"):
            x += self._attention(x)
        else:
            self.attn.add_to(x, self.norm1, self.window_size, shift=self.shift)
        if self.adapter.fills("after_mlp") or self.adapter.fills("beside_mlp"):
            x += self._mlp(self.norm2(x))
        else:
            for tokens in x.view(-1, x.shape[-1]).split(chunk_on(x.device, self.token_chunk)):
                tokens.add_(self.mlp(self.norm2(tokens)))
        return self.adapter.after_block(x, carried)

    def _attention(self, x: Tensor) -> Tensor:
        return self.adapter.after_attention(self.attn(self.norm1(x), self.window_size, shift=self.shift))

    def _mlp(self, n: Tensor) -> Tensor:
        y, beside = self.adapter.after_mlp(self.mlp(n)), self.adapter.beside_mlp(n)
        return y if beside is None else y + beside


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


class ImageEncoder3D(KeepsArguments):
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
        tuning: method in the blocks' slots, a key in `adapters.networks.tuning.TUNING`.
        tuning_arguments: further arguments of the method.

    Raises:
        ValueError: if the depth is no multiple of the levels, there is no level, the crop does not fit the patches,
            or the method is unknown.
    """

    free_arguments = frozenset({"recompute"})
    parameter_roles: ClassVar[dict[str, Role]] = {"": "sam", "depth_embed": "depth", "necks": "new"}

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
        tuning: str = "spatial",
        tuning_arguments: Mapping[str, Any] | None = None,
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
        part = depth // levels
        self.pos_embed = nn.Parameter(torch.zeros(1, table_size, table_size, embed_dim))
        self.depth_embed = nn.Parameter(torch.ones(1, grid[0], embed_dim))
        self.blocks = nn.ModuleList(
            Block3D(
                embed_dim,
                num_heads,
                2 * (table_size if i in global_blocks else sam_window) - 1,
                window_size=window_size,
                shift=i % 2 == 0,
                tuning=build_tuning(
                    tuning, BlockPlace(embed_dim, i, (i + 1) % part == 0, grid), **(tuning_arguments or {})
                ),
            )
            for i in range(depth)
        )
        self.necks = nn.ModuleList(Neck(embed_dim, out_channels) for _ in range(levels))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for block in self.blocks:
            block.initialise()  # type: ignore[operator]  # a Block3D

    def stored_arguments(self) -> dict[str, Any]:
        """As `KeepsArguments`, with one form for all that make the same encoder.

        Of the crop the depth alone leaves a trace, in the depth table. Where all tables are of one length, no block is
        a global one.
        """
        arguments = super().stored_arguments()
        long = [i for i in range(len(self.blocks)) if i in arguments["global_blocks"]]
        if arguments["sam_window"] == arguments["table_size"] or len(long) == len(self.blocks):
            long, arguments["sam_window"] = [], arguments["table_size"]
        return {**arguments, "global_blocks": long, "crop_size": self.crop_depth}

    @property
    def voxels_per_token(self) -> int:
        """Side of the cube of crop voxels behind each token."""
        return self.patch_embed.stride

    @property
    def crop_depth(self) -> int:
        """Voxels along depth that the depth table is made for."""
        return self.depth_embed.shape[1] * self.voxels_per_token

    @torch.no_grad()
    def start_depth(self) -> None:
        """Set what SAM lacks along depth, here and in patches and blocks, from its own values."""
        self.depth_embed.fill_(1.0)
        self.patch_embed.start_depth()
        for block in self.blocks:
            block.attn.start_depth()  # type: ignore[union-attr, operator]  # a Block3D

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

        Under autocast the tokens stay in the image's type from block to block, so that what the blocks add to them
        is not rounded again and again.

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
        levels: list[Tensor] = []
        carried: Tensor | None = None
        part = len(self.blocks) // len(self.necks)
        for i, block in enumerate(self.blocks):
            if self.recompute and torch.is_grad_enabled():
                x, carried = checkpoint(block, x, carried, use_reentrant=False)
            else:
                x, carried = block(x, carried)
            if (i + 1) % part == 0:
                levels.append(self.necks[i // part](x))
        return tuple(levels)


def build_image_encoder(
    variant: str | Backbone | Sizes = "vit_b",
    *,
    crop_size: int | Sequence[int] = 128,
    enlargement: int = 4,
    **overrides: Any,
) -> ImageEncoder3D:
    """Image encoder of a variant; for configs.

    Args:
        variant: name in `adapters.networks.BACKBONES`, or sizes.
        crop_size: side of the training crops, in voxels (one number or depth, height, width).
        enlargement: 4 as published, 2 in the published automatic mode.
        **overrides: other arguments of `ImageEncoder3D`, in place of the variant's.

    Raises:
        ValueError: if the variant is unknown or the crop does not fit the patches.
    """
    sizes = get_sizes(variant)
    own = {"out_channels": sizes.out_channels, "window_size": sizes.window_size, "levels": sizes.levels}
    arguments = {**sizes.backbone.sizes, **own, "crop_size": crop_size, "enlargement": enlargement, **overrides}
    return ImageEncoder3D(**arguments)
