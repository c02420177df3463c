"""Forms of the network that other runtimes can record: fixed crop, no look at values, one tensor in each place."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from adapters.networks.samadapter3d.image_encoder import ImageEncoder3D
from adapters.networks.samadapter3d.mask_decoder import AggregationDecoder
from adapters.networks.samadapter3d.prompt_head import PointSamplerHead

__all__ = ["DecoderForm", "EncoderForm", "ScriptForm", "example_inputs", "script_form"]


class EncoderForm(nn.Module):
    """A `SAMAdapter3D`'s ``encode``, with the two tensors that its ``decode`` needs as result.

    Args:
        network: the network; its weights are shared.

    Raises:
        ValueError: if a part of the network is not this library's, or shallower levels are prompted too.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.image_encoder, _, self.mask_decoder = _parts(network)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 1, D, H, W) image to context (1, channels, 2d, 2h, 2w) and deepest level (1, C, d, h, w)."""
        levels = self.image_encoder(image)
        return self.mask_decoder.context(levels, image), levels[-1]


class DecoderForm(nn.Module):
    """A `SAMAdapter3D`'s ``decode`` for any number of clicks, none included, without a mask to start from.

    The values of clicks and labels are not checked: a click outside the crop gives some mask.

    Args:
        network: the network; its weights are shared.

    Raises:
        ValueError: as `EncoderForm`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        _, self.prompt_head, self.mask_decoder = _parts(network)

    def forward(self, image: Tensor, context: Tensor, deepest: Tensor, clicks: Tensor, labels: Tensor) -> Tensor:
        """Logits of a crop.

        Args:
            image: (1, 1, D, H, W).
            context: from the encoder.
            deepest: from the encoder.
            clicks: (1, N, 3) float, voxels of the crop (depth, height, width), N >= 0.
            labels: (1, N) int64: 1 on the lesion, 0 off it, -1 padding.

        Returns:
            (1, 2, D, H, W): background, lesion.
        """
        # with one click of padding there is always one, and none is what only padding means
        clicks = torch.cat([clicks, clicks.new_zeros(1, 1, 3)], dim=1)
        labels = torch.cat([labels, labels.new_full((1, 1), -1)], dim=1)
        deepest = self.prompt_head(deepest, clicks, labels, image.shape[2:])
        return self.mask_decoder(context, deepest, image, clicks, labels)


class ScriptForm(nn.Module):
    """Encoder and decoder, recorded, with clicks as optional arguments; TorchScript can take it.

    Args:
        encoder: a recorded `EncoderForm`.
        decoder: a recorded `DecoderForm`.
    """

    def __init__(self, encoder: torch.jit.ScriptModule, decoder: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, image: Tensor, clicks: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Logits (1, 2, D, H, W) of a crop; clicks and labels as `DecoderForm` has them, without labels all on it."""
        context, deepest = self.encoder(image)
        if clicks is None:
            clicks = image.new_zeros([1, 0, 3])
        if labels is None:
            labels = torch.ones([1, clicks.shape[1]], dtype=torch.long, device=image.device)
        return self.decoder(image, context, deepest, clicks, labels)


def example_inputs(network: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """What to record a network with: an image (1, 1, D, D, D) of its crop size, clicks (1, 3, 3) and labels (1, 3)."""
    encoder, _, _ = _parts(network)
    side = encoder.crop_depth
    weights = encoder.depth_embed
    image = torch.linspace(-1.0, 1.0, side**3, device=weights.device, dtype=weights.dtype).view(1, 1, side, side, side)
    clicks = torch.tensor([[[0.25, 0.5, 0.75], [0.5, 0.5, 0.5], [0.0, 0.25, 0.5]]]).to(image) * side
    return image, clicks, torch.tensor([[1, 0, 1]], device=image.device)


def script_form(network: nn.Module) -> ScriptForm:
    """Record a network for TorchScript, in the cube that its depth table is made for.

    Args:
        network: a `SAMAdapter3D` in evaluation mode.

    Raises:
        ValueError: as `EncoderForm`, or if the network is in training mode.
    """
    if network.training:
        raise ValueError("the network is in training mode, which leaves channels out by chance: call eval() first.")
    encoder, decoder = EncoderForm(network).eval(), DecoderForm(network).eval()
    image, clicks, labels = example_inputs(network)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shapes that become constants are meant to
        features = encoder(image)
        return ScriptForm(
            torch.jit.trace(encoder, (image,), check_trace=False),
            torch.jit.trace(decoder, (image, *features, clicks, labels), check_trace=False),
        )


def _parts(network: nn.Module) -> tuple[ImageEncoder3D, PointSamplerHead, AggregationDecoder]:
    parts = [getattr(network, name, None) for name in ("image_encoder", "prompt_head", "mask_decoder")]
    encoder, head, decoder = parts
    if not (
        isinstance(encoder, ImageEncoder3D)
        and isinstance(head, PointSamplerHead)
        and isinstance(decoder, AggregationDecoder)
    ):
        found = ", ".join(type(part).__name__ for part in parts if part is not None) or type(network).__name__
        raise ValueError(f"the network is made of {found}: expected a SAMAdapter3D of this library's own parts.")
    if len(head.shallower):
        raise ValueError(
            f"the network prompts the levels {', '.join(head.shallower)} besides the deepest: only networks that "
            "prompt the deepest alone, as published, can be exported."
        )
    return encoder, head, decoder
