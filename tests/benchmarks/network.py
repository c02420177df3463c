"""A forward of the network without gradients, and the floor of its encoder."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from adapters.networks import ImageFeatures, get_variant
from tests.benchmarks.common import (
    attention_kernels,
    make_image,
    make_network,
    make_prompts,
    memory,
    projected,
    timed,
)
from tests.reference import literal

__all__ = ["measure_linear", "measure_network", "measure_pointwise"]

_WINDOWS, _TOKENS = 2, 1024  # of a piece that stays in a CPU's cache


def measure_network(
    form: str,
    variant: str,
    crop_size: int,
    batch: int = 1,
    clicks: int = 1,
    device: str = "cpu",
    *,
    kernels: bool = False,
) -> dict[str, Any]:
    """One forward without gradients.

    Args:
        form: "fast" is the library's form, "bfloat16" the same under autocast, "compiled" that with torch.compile,
            "literal" that of the tests.
        variant: name of a variant.
        crop_size: side of the crop, in voxels.
        batch: items of the batch.
        clicks: clicks of each item.
        device: "cpu" or "cuda".
        kernels: whether to name the back ends of the attention, for which the encoder runs once more.

    Returns:
        ``encoder_s``, ``first_click_s``, ``next_click_s`` (prompt head and decoder; the literal form encodes again),
        ``peak_bytes`` of the whole process (of the GPU's tensors) at its first click, ``baseline_bytes`` before,
        ``projected`` logits; with ``kernels`` also ``attention``.
    """
    network = make_network(variant, crop_size, mask_decoder={"correction": False}).eval().requires_grad_(False)
    network = network.to(device)
    image = make_image(crop_size, batch).to(device)
    prompts = make_prompts(crop_size, batch, clicks)
    points, labels = prompts.points.to(device), prompts.labels.to(device)
    compiled = form == "compiled"
    if compiled:
        for part in (network.image_encoder, network.prompt_head, network.mask_decoder):
            part.compile()
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=form in ("bfloat16", "compiled")):
        baseline, _ = memory(device)
        if form == "literal":
            encoder = lambda: literal.literal_encode(network.image_encoder, image)  # noqa: E731
            encoder_s, levels = timed(encoder, device)
            head_s, deepest = timed(
                lambda: network.prompt_head(levels[-1], points, labels, tuple(image.shape[2:])), device
            )
            decoder_s, logits = timed(
                lambda: literal.literal_decode(network.mask_decoder, [*levels[:-1], deepest], image), device
            )
            first_s = next_s = encoder_s + head_s + decoder_s
        else:
            encoder = lambda: network.image_encoder(image)  # noqa: E731
            encoder_s, levels = timed(encoder, device, warm=compiled)
            context = network.mask_decoder.context
            context_s, kept = timed(lambda: context(levels, image), device)  # type: ignore[operator]
            features = ImageFeatures(levels, kept)
            decode = lambda: network.decode(features, image, points, labels)  # noqa: E731
            decode_s, logits = timed(decode, device, warm=compiled)
            first_s = encoder_s + context_s + decode_s
            next_s, logits = timed(decode, device)
        _, peak = memory(device)
        named = {"attention": attention_kernels(encoder, device)} if kernels else {}
    return {
        "encoder_s": encoder_s,
        "first_click_s": first_s,
        "next_click_s": next_s,
        "baseline_bytes": baseline,
        "peak_bytes": peak,
        "projected": projected(logits),
        **named,
    }


def measure_linear(form: str, variant: str, crop_size: int, device: str = "cpu") -> dict[str, Any]:
    """The floor of the encoder: each of its linear layers as one matrix product over all tokens.

    Args:
        form: "linear" takes torch's linear layer, "convolution" a convolution of one voxel, which another library
            computes on CPUs, "bfloat16" the linear layer in bfloat16.
        variant: name of a variant.
        crop_size: side of the crop, in voxels.
        device: "cpu" or "cuda".

    Returns:
        ``layers_s``: seconds of each layer of a block, and ``encoder_s``, those of all blocks.
    """
    v = get_variant(variant)
    tokens = (crop_size // 4) ** 3
    dim = v.embed_dim
    shapes = {
        "adapter down": (dim, dim // 2),
        "adapter up": (dim // 2, dim),
        "qkv": (dim, 3 * dim),
        "proj": (dim, dim),
        "mlp in": (dim, 4 * dim),
        "mlp out": (4 * dim, dim),
    }
    made: dict[str, Any] = {"device": device, "dtype": torch.bfloat16 if form == "bfloat16" else torch.float32}
    seconds = {}
    with torch.inference_mode():
        for name, (inputs, outputs) in shapes.items():
            x = torch.randn(tokens, inputs, **made)
            weight, bias = torch.randn(outputs, inputs, **made), torch.randn(outputs, **made)
            if form == "convolution":
                image, kernel = x.view(1, 1, tokens, inputs).permute(0, 3, 1, 2), weight[:, :, None, None]
                run = lambda image=image, kernel=kernel, bias=bias: F.conv2d(image, kernel, bias)  # noqa: E731
            else:
                run = lambda x=x, weight=weight, bias=bias: F.linear(x, weight, bias)  # noqa: E731
            seconds[name] = timed(run, device, warm=True)[0]
    return {"layers_s": seconds, "encoder_s": v.depth * sum(seconds.values())}


def measure_pointwise(variant: str, crop_size: int, device: str = "cpu") -> dict[str, Any]:
    """What the encoder needs beside its products: the softmax of all scores and the MLPs' activation.

    Args:
        variant: name of a variant.
        crop_size: side of the crop, in voxels.
        device: "cpu" or "cuda".

    Returns:
        ``softmax_s`` and ``activation_s`` of all blocks, computed piece by piece, and their sum ``encoder_s``.
    """
    v = get_variant(variant)
    tokens = (crop_size // 4) ** 3
    window = min(v.window_size**3, tokens)
    scores = torch.randn(_WINDOWS * v.num_heads, window, window, device=device)
    hidden = torch.randn(_TOKENS, 4 * v.embed_dim, device=device)
    with torch.inference_mode():
        softmax_s, _ = timed(lambda: scores.softmax(-1), device, warm=True)
        activation_s, _ = timed(lambda: F.gelu(hidden), device, warm=True)
    softmax_s *= v.depth * tokens / window / _WINDOWS
    activation_s *= v.depth * tokens / _TOKENS
    return {"softmax_s": softmax_s, "activation_s": activation_s, "encoder_s": softmax_s + activation_s}
