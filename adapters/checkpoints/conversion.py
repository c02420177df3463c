"""From other people's files to ours, and the one call that configs make to start a network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from adapters.checkpoints.files import Kind, check_output, kind_of, opened
from adapters.checkpoints.ours import load_adapter, load_model, save_model
from adapters.checkpoints.sam import load_sam
from adapters.checkpoints.samadapter3d import load_published
from adapters.networks import SAMAdapter3D
from adapters.networks.description import describe, describe_network

__all__ = ["Conversion", "convert", "initialise"]

logger = logging.getLogger(__name__)


class Conversion(NamedTuple):
    """What `convert` did.

    Attributes:
        kind: "published" or "sam".
        variant: name of the variant, or "custom".
        crop_size: voxels along depth that the depth table is made for.
        output: the file that was written.
        trained: whether all weights are trained. From SAM's file alone the adapter is not: it has to be trained.
    """

    kind: Kind
    variant: str
    crop_size: int
    output: Path
    trained: bool

    def __str__(self) -> str:
        if self.trained:
            return f"wrote {self.output}: published 3DSAM-adapter, {self.variant}, crop {self.crop_size}"
        return (
            f"wrote {self.output}: SAM {self.variant} with an UNTRAINED adapter, crop {self.crop_size}: a start for "
            "training, it segments nothing yet"
        )


def convert(
    checkpoint: str | Path,
    output: str | Path,
    *,
    window_size: int = 8,
    prompt_heads: int = 8,
    overwrite: bool = False,
) -> Conversion:
    """Turn a published 3DSAM-adapter checkpoint, or SAM's, into ``model.pt``.

    Args:
        checkpoint: the authors' ``best.pth.tar``, or SAM's ``.pth`` (then the adapter in the output is untrained).
        output: the file to write, as `save_model`; written whole or not at all.
        window_size: side of the attention windows in tokens, which no file carries. SAM's files are made with the
            variant's own.
        prompt_heads: attention heads of the prompt head, which the published file does not carry.
        overwrite: whether an existing output is replaced.

    Raises:
        FileNotFoundError: if the checkpoint or the output's folder does not exist.
        ValueError: if the checkpoint cannot be read or is neither of the two, or the output exists.
    """
    output = check_output(output, overwrite=overwrite)
    read = opened(checkpoint)
    kind = kind_of(*read)
    if kind == "ours":
        raise ValueError(f"{checkpoint} is a state dict of this library's already: there is nothing to convert.")
    if kind == "published":
        network = load_published(read, window_size=window_size, prompt_heads=prompt_heads)
    else:
        network = load_sam(read).network
    save_model(
        network,
        output,
        overwrite=overwrite,
        untrained="" if kind == "published" else f"started from {Path(checkpoint).name}",
    )
    description = describe_network(network)
    crop_size = description["parts"]["image_encoder"]["crop_size"]
    result = Conversion(kind, describe(description), crop_size, output, trained=kind == "published")
    logger.info("%s", result)
    return result


def initialise(
    network: SAMAdapter3D, *, sam_checkpoint: str | Path | None = None, pretrained: str | Path | None = None
) -> SAMAdapter3D:
    """Give a network its starting weights; for configs, where either file may be null or empty.

    In a bundle: ``{"_target_": "adapters.checkpoints.initialise", "network": "@network_def", "sam_checkpoint": null,
    "pretrained": null}``, so that ``--network#sam_checkpoint sam_vit_b_01ec64.pth`` starts from SAM.

    Args:
        network: is changed in place, unless something is wrong with a file.
        sam_checkpoint: SAM's ``.pth`` file, as `load_sam`.
        pretrained: trained weights: our ``model.pt``, a published ``best.pth.tar``, or an adapter (``.safetensors``),
            which needs `sam_checkpoint` as well.

    Returns:
        The same network, on the device and in the mode that it was in.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a file cannot be read or does not fit the network, if an adapter comes without SAM's file, or if
            weights that are complete come with one.
    """
    training = network.training
    if not pretrained:
        if sam_checkpoint:
            load_sam(sam_checkpoint, network)
        return network
    if Path(pretrained).suffix == ".safetensors":
        if not sam_checkpoint:
            raise ValueError(
                f"pretrained={str(pretrained)!r} holds the trained tensors only: give sam_checkpoint, the SAM file "
                "that it was trained from."
            )
        load_adapter(pretrained, sam_checkpoint, network)
    elif sam_checkpoint:
        raise ValueError(
            f"pretrained={str(pretrained)!r} is complete and would replace all of "
            f"sam_checkpoint={str(sam_checkpoint)!r}: give one of them."
        )
    elif kind_of(*(read := opened(pretrained))) == "published":
        load_published(read, network=network)
    else:
        load_model(read, network)
    return network.train(training)
