"""Prompt head: clicks as samples of the image feature (3DSAM-adapter, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.networks.arguments import KeepsArguments
from adapters.networks.backbones import Backbone
from adapters.networks.layers.mlp import Mlp
from adapters.networks.layers.points import sample_feature
from adapters.networks.layers.tracing import recorded
from adapters.networks.roles import Role
from adapters.networks.samadapter3d.sizes import Sizes, get_sizes

__all__ = ["PointSamplerHead", "build_prompt_head"]

DEEPEST = 4
"""Number of the deepest feature level."""


class _Attention(nn.Module):
    """Multi-head attention with separate projections and an inner width of its own, as in SAM's mask decoder."""

    def __init__(self, dim: int, num_heads: int, inner: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, Nq, C), (B, Nk, C), (B, Nk, C), boolean (B, 1, 1, Nk) of keys to see -> (B, Nq, C)."""
        q, k, v = self._heads(self.q_proj(q)), self._heads(self.k_proj(k)), self._heads(self.v_proj(v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class _PromptLayer(nn.Module):
    """Clicks and learnt global queries exchange, then the image tokens read the queries."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, num_queries: int) -> None:
        super().__init__()
        self.global_query = nn.Parameter(torch.randn(1, num_queries, dim) * 0.1)
        self.self_attn = _Attention(dim, num_heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        # The published checkpoints hold (and its parameter count includes) an attention from queries to image
        # that is never called; it is carried so that they load and convert without loss.
        self.cross_attn_token_to_image = _Attention(dim, num_heads, dim // 2)
        self.cross_attn_image_to_token = _Attention(dim, num_heads, dim // 2)
        self.norm4 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, clicks: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens (B, T, C), click features (B, N, C), valid clicks (B, N) -> tokens and clicks for the next."""
        queries = self.global_query.expand(clicks.shape[0], -1, -1)
        seen = torch.cat([valid.new_ones(valid.shape[0], queries.shape[1]), valid], dim=1)[:, None, None]
        x = torch.cat([queries, clicks], dim=1)
        x = self.norm2(x + self.norm1(self.self_attn(x, x, x, seen)))
        queries, clicks = x[:, : queries.shape[1]], x[:, queries.shape[1] :]
        queries = self.norm3(queries + self.mlp(queries))
        tokens = self.norm4(tokens + self.cross_attn_image_to_token(tokens, queries, queries))
        return tokens, clicks


class PointSamplerHead(KeepsArguments):
    """Prompts a feature level, as published the deepest one, with clicks.

    Each click is represented by the image feature at its place, not by its position. So clicks of any number reach all
    tokens through ten learnt global queries (3DSAM-adapter, section 3.3). The published head ignores
    whether a click is on or off the lesion; here a learnt embedding of the label is added to the sampled feature.
    It is zero at first for clicks on the lesion, so published weights give the published result for them.

    Args:
        dim: channels of the deepest feature.
        num_heads: attention heads.
        mlp_dim: hidden width of the MLP on the queries.
        num_layers: layers of exchange.
        num_queries: learnt global queries of each layer.
        prompt_levels: feature levels that are prompted, 1 (shallowest) to 3, and 4 for the deepest. As published that
            alone; each other one gets a head of its own, in ``shallower`` by its number (an ablation of the paper). The
            decoder's part of these levels then depends on the clicks and is computed for each of them.

    Raises:
        ValueError: if the heads do not divide half the width, or the levels are not 4 and any of 1, 2, 3.
    """

    parameter_roles: ClassVar[dict[str, Role]] = {"label_embed": "added", "shallower": "ablation"}

    def __init__(
        self,
        dim: int = 256,
        *,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        num_layers: int = 2,
        num_queries: int = 10,
        prompt_levels: Sequence[int] = (DEEPEST,),
    ) -> None:
        super().__init__()
        if (dim // 2) % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide half the width of the prompt head, {dim // 2}.")
        levels = set(prompt_levels)
        if not {DEEPEST} <= levels <= {1, 2, 3, DEEPEST}:
            raise ValueError(f"prompt_levels={list(prompt_levels)}: expected {DEEPEST} and any of 1, 2, 3.")
        self.layers = nn.ModuleList(_PromptLayer(dim, num_heads, mlp_dim, num_queries) for _ in range(num_layers))
        self.label_embed = nn.Embedding(2, dim)  # rows: off the lesion, on the lesion
        with torch.no_grad():
            # the same in every network: published weights do not hold it, and give the same results wherever they are
            self.label_embed.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
            self.label_embed.weight[1].zero_()
        self.shallower = nn.ModuleDict(
            {
                str(level): PointSamplerHead(
                    dim, num_heads=num_heads, mlp_dim=mlp_dim, num_layers=num_layers, num_queries=num_queries
                )
                for level in sorted(levels - {DEEPEST})
            }
        )

    def stored_arguments(self) -> dict[str, Any]:
        """As `KeepsArguments`, with the prompted levels in order."""
        return {**super().stored_arguments(), "prompt_levels": [*map(int, self.shallower), DEEPEST]}

    def forward(self, feature: Tensor, clicks: Tensor, labels: Tensor, crop_shape: Sequence[int]) -> Tensor:
        """Prompt one level.

        Args:
            feature: (B, C, d, h, w), the deepest level (that of its number for a head in ``shallower``).
            clicks: (B, N, 3) voxel coordinates in the crop (depth, height, width), N >= 1.
            labels: (B, N): 1 on the lesion, 0 off it, -1 padding.
            crop_shape: voxels of the crop along depth, height and width.

        Returns:
            (B, C, d, h, w). An item that has only padding comes back unchanged.
        """
        valid = labels >= 0
        points = sample_feature(feature, clicks, crop_shape) + self.label_embed(labels.clamp(min=0))
        tokens = feature.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens, points = layer(tokens, points, valid)
        prompted = tokens.transpose(1, 2).view_as(feature)
        if not recorded() and bool(valid.any(dim=1).all()):
            return prompted
        return torch.where(valid.any(dim=1)[:, None, None, None, None], prompted, feature)


def build_prompt_head(variant: str | Backbone | Sizes = "vit_b", **overrides: Any) -> PointSamplerHead:
    """Prompt head of a variant; for configs.

    Args:
        variant: name in `adapters.networks.BACKBONES`, or sizes.
        **overrides: other arguments of `PointSamplerHead`, in place of the variant's.

    Raises:
        ValueError: if the variant is unknown.
    """
    sizes = get_sizes(variant)
    own = {"dim": sizes.out_channels, "num_heads": sizes.prompt_heads, "mlp_dim": sizes.prompt_mlp_dim}
    arguments: dict[str, Any] = {**own, **overrides}
    return PointSamplerHead(**arguments)
