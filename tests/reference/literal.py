"""The slow, literal form of the network: each step as it is described, everything at once.

`literal_encode` and `literal_decode` take the weights of our modules and compute what the published description says,
step by step: the volume is enlarged and repeated to three channels, attention matrices and shifted-window masks are
formed in full, the decoder's branches are really concatenated. No step is folded, fused or done in chunks. It is the
yardstick for the fast form, in the tests (same numbers) and in ``python -m tests.benchmarks`` (time and memory).

Tensors are (B, C, D, H, W) for images and features, and (B, D, H, W, C) for tokens. Blocks with SAM's "global"
tables attend in windows here too, as in the 3D lift.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.networks import AggregationDecoder, ImageEncoder3D, SAMAdapter3D, SpatialAdapter, WindowAttention3D
from adapters.networks.samadapter3d.image_encoder import PATCH, Block3D, Neck, PatchEmbedding3D

EPS = 1e-6
SEPARATED = -100.0


def literal_patches(embedding: PatchEmbedding3D, image: Tensor, enlargement: int) -> Tensor:
    """Enlarge, repeat to three channels, 16x16 convolution in every slice, depthwise convolution along depth."""
    if enlargement > 1:
        image = F.interpolate(image, scale_factor=enlargement, mode="trilinear", align_corners=False)
    batch, _, depth, height, width = image.shape
    slices = image.repeat(1, 3, 1, 1, 1).permute(0, 2, 1, 3, 4).reshape(batch * depth, 3, height, width)
    plane = F.conv2d(slices, embedding.plane.weight, embedding.plane.bias, stride=PATCH)
    dim = plane.shape[1]
    plane = plane.view(batch, depth, dim, *plane.shape[2:]).permute(0, 2, 1, 3, 4)
    kernel = embedding.depth_weight[:, None, :, None, None]
    tokens = F.conv3d(plane, kernel, embedding.depth_bias, stride=(PATCH, 1, 1), groups=dim)
    return tokens.permute(0, 2, 3, 4, 1)


def literal_positions(encoder: ImageEncoder3D, grid: Sequence[int]) -> Tensor:
    """SAM's table pooled 2x2 plus the depth table, each resized to the grid where it has another size."""
    depth, height, width = grid
    _, table_height, table_width, dim = encoder.pos_embed.shape
    pairs = encoder.pos_embed.view(table_height // 2, 2, table_width // 2, 2, dim)
    plane = pairs.mean(dim=(1, 3)).permute(2, 0, 1)[None]
    if plane.shape[2:] != (height, width):
        plane = F.interpolate(plane, size=(height, width), mode="bilinear", align_corners=False)
    along = encoder.depth_embed.transpose(1, 2)
    if along.shape[2] != depth:
        along = F.interpolate(along, size=depth, mode="linear", align_corners=False)
    return plane[0].permute(1, 2, 0)[None, None] + along[0].t()[None, :, None, None]


def literal_adapter(adapter: SpatialAdapter, x: Tensor) -> Tensor:
    """Linear down, ReLU, depthwise 3x3x3 convolution, ReLU, linear up, ReLU, plus the input."""
    y = F.relu(F.linear(x, adapter.down.weight, adapter.down.bias))
    y = F.conv3d(y.permute(0, 4, 1, 2, 3), adapter.conv.weight, adapter.conv.bias, padding=1, groups=y.shape[-1])
    y = F.relu(y).permute(0, 2, 3, 4, 1)
    return x + F.relu(F.linear(y, adapter.up.weight, adapter.up.bias))


def partition(x: Tensor, window: Sequence[int]) -> Tensor:
    """(B, D, H, W, C) to (windows, d * h * w, C)."""
    batch, depth, height, width, dim = x.shape
    d, h, w = window
    x = x.reshape(batch, depth // d, d, height // h, h, width // w, w, dim)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, d * h * w, dim)


def reverse(windows: Tensor, window: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Inverse of `partition` for a (B, D, H, W) grid."""
    batch, depth, height, width = shape
    d, h, w = window
    x = windows.reshape(batch, depth // d, height // h, width // w, d, h, w, -1)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, depth, height, width, -1)


def region_mask(size: Sequence[int], window: Sequence[int], shifts: Sequence[int], device: torch.device) -> Tensor:
    """(windows, T, T): -100 where two tokens of a window are of different regions of the shifted, padded grid.

    Every token of the padded grid gets the number of its region, which says for each axis whether it was rolled over
    the edge, and whether it is padding.
    """
    padded = [-(-s // w) * w for s, w in zip(size, window, strict=True)]
    regions = torch.zeros(padded, dtype=torch.long, device=device)
    for axis, (n, total, shift) in enumerate(zip(size, padded, shifts, strict=True)):
        before = torch.arange(total, device=device)
        kind = torch.where(before >= n, 2, torch.where(before < shift, 1, 0))  # tokens before the shift wrap round
        shape = [1, 1, 1]
        shape[axis] = total
        regions = regions * 3 + kind.view(shape)
    regions = torch.roll(regions, [-s for s in shifts], dims=(0, 1, 2))
    numbers = partition(regions[None, ..., None], window)[..., 0]
    return torch.where(numbers[:, :, None] == numbers[:, None, :], 0.0, SEPARATED)


def relative_scores(table: Tensor, q: Tensor, axis: int) -> Tensor:
    """Product of each query with the table's row for each key coordinate along one axis, as SAM computes it.

    Takes q (N, heads, d, h, w, C); gives a tensor that adds to scores (N, heads, d, h, w, d, h, w).
    """
    side = q.shape[2 + axis]
    if table.shape[0] != 2 * side - 1:
        table = F.interpolate(table.t()[None], size=2 * side - 1, mode="linear")[0].t()
    rows = torch.stack([table[query - torch.arange(side, device=q.device) + side - 1] for query in range(side)])
    products = (q.movedim(2 + axis, 2).flatten(3, 4) @ rows.transpose(1, 2)).unflatten(3, _others(q, axis))
    products = products.movedim(2, 2 + axis)
    return products.unflatten(5, [side if other == axis else 1 for other in range(3)])


def _others(q: Tensor, axis: int) -> list[int]:
    """Sides of a window along the two other axes."""
    return [q.shape[2 + other] for other in range(3) if other != axis]


def literal_attention(attention: WindowAttention3D, x: Tensor, window_size: int, shift: bool) -> Tensor:
    """Windowed attention of normalised tokens, (B, D, H, W, C), with all attention matrices in full."""
    batch, *size, dim = x.shape
    heads, width = attention.num_heads, dim // attention.num_heads
    window = [min(window_size, s) for s in size]
    shifts = [w // 2 if shift and s > w else 0 for s, w in zip(size, window, strict=True)]
    padding = [-s % w for s, w in zip(size, window, strict=True)]
    x = F.pad(x, (0, 0, 0, padding[2], 0, padding[1], 0, padding[0]))
    padded = x.shape[:4]
    x = partition(torch.roll(x, [-s for s in shifts], dims=(1, 2, 3)), window)
    count, tokens, _ = x.shape

    qkv = F.linear(x, attention.qkv.weight, attention.qkv.bias).view(count, tokens, 3, heads, width)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scores = (q * width**-0.5) @ k.transpose(-2, -1)
    tables = (attention.rel_pos_d, attention.rel_pos_h, attention.rel_pos_w)
    in_space = q.reshape(count, heads, *window, width)
    relative = [attention.rel_pos_gain * relative_scores(t, in_space, axis) for axis, t in enumerate(tables)]
    scores = scores.view(count, heads, *window, *window) + relative[0] + relative[1] + relative[2]
    scores = scores.view(count, heads, tokens, tokens)
    if any(shifts) or any(padding):
        mask = region_mask(size, window, shifts, x.device)
        scores = (scores.view(batch, -1, heads, tokens, tokens) + mask[None, :, None]).view(scores.shape)
    x = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(count, tokens, dim)
    x = F.linear(x, attention.proj.weight, attention.proj.bias)

    x = torch.roll(reverse(x, window, padded), shifts, dims=(1, 2, 3))
    return x[:, : size[0], : size[1], : size[2]]


def literal_block(block: Block3D, x: Tensor) -> Tensor:
    """Adapter; norm, attention, added; norm, MLP, added."""
    x = literal_adapter(block.adapter, x)
    y = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias, EPS)
    x = x + literal_attention(block.attn, y, block.window_size, block.shift)
    y = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, EPS)
    y = F.gelu(F.linear(y, block.mlp.lin1.weight, block.mlp.lin1.bias))
    return x + F.linear(y, block.mlp.lin2.weight, block.mlp.lin2.bias)


def channel_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Norm of (B, C, D, H, W) over its channels."""
    mean = x.mean(dim=1, keepdim=True)
    variance = (x - mean).pow(2).mean(dim=1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + EPS)
    return x * norm.weight[:, None, None, None] + norm.bias[:, None, None, None]


def literal_neck(neck: Neck, x: Tensor) -> Tensor:
    """1x1x1 convolution, channel norm, 3x3x3 convolution, channel norm."""
    y = F.conv3d(x.permute(0, 4, 1, 2, 3), neck.reduce.weight[:, :, None, None, None])
    y = F.conv3d(channel_norm(y, neck.norm1), neck.conv.weight, padding=1)
    return channel_norm(y, neck.norm2)


def literal_encode(encoder: ImageEncoder3D, image: Tensor) -> list[Tensor]:
    """The feature levels of (B, 1, D, H, W), as `ImageEncoder3D` gives them."""
    x = literal_patches(encoder.patch_embed, image, encoder.enlargement)
    x = x + literal_positions(encoder, x.shape[1:4])
    levels = []
    part = len(encoder.blocks) // len(encoder.necks)
    for index, block in enumerate(encoder.blocks):
        x = literal_block(block, x)
        if (index + 1) % part == 0:
            levels.append(literal_neck(encoder.necks[index // part], x))
    return levels


def literal_decode(decoder: AggregationDecoder, levels: Sequence[Tensor], image: Tensor) -> Tensor:
    """Logits (B, 2, D, H, W) of the levels (the last prompted or not) and the image; no correction."""
    parts = []
    for branch, level in zip(decoder.branches, levels, strict=True):
        x = F.relu(F.instance_norm(F.conv3d(level, branch.conv1.weight, padding=1)))
        x = F.relu(F.instance_norm(F.conv3d(x, branch.conv2.weight, padding=1)))
        parts.append(F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True))
    parts.append(F.interpolate(image, size=parts[0].shape[2:], mode="trilinear", align_corners=False))
    x = F.relu(F.instance_norm(F.conv3d(torch.cat(parts, dim=1), decoder.fuse.weight, padding=1)))
    x = F.conv3d(x, decoder.classify.weight, padding=1)
    return F.interpolate(x, size=image.shape[2:], mode="trilinear", align_corners=True)


def literal_forward(network: SAMAdapter3D, image: Tensor, clicks: Tensor, labels: Tensor) -> Tensor:
    """Logits (B, 2, D, H, W) of the image with clicks (B, N, 3); the prompt head is the library's own."""
    levels = literal_encode(network.image_encoder, image)
    deepest = network.prompt_head(levels[-1], clicks, labels, tuple(image.shape[2:]))
    return literal_decode(network.mask_decoder, [*levels[:-1], deepest], image)
