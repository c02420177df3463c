"""The first ``models/model.pt`` of a bundle that ships none."""

from __future__ import annotations

import os
from pathlib import Path

from adapters.bundling.folders import check_own, find_bundle

__all__ = ["init_bundle"]


def init_bundle(
    name: str | os.PathLike,
    sam: str | Path | None = None,
    *,
    random: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Writes a bundle's ``models/model.pt`` for the network of its ``configs/inference.json``, untrained.

    MONAI Label and ``monai.bundle`` take a bundle with that file; what it segments is worth nothing before the network
    is trained. The file says so in its metadata, and every program that loads it logs a warning.

    Args:
        name: the bundle's name or folder, as `find_bundle`.
        sam: SAM's ``.pth`` file of the bundle's variant: the image encoder starts from it.
        random: whether to do without SAM's file: all weights are random then.
        seed: of the random weights (with SAM's file: of the adapter's).
        overwrite: whether a ``models/model.pt`` that is there is replaced.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if there is no such bundle, or SAM's file does not exist.
        ValueError: if the bundle is part of the installed library, if neither or both of `sam` and `random` are given,
            if the file exists and must not be replaced, or if SAM's file cannot be read or is of another variant.
    """
    folder = check_own(find_bundle(name))
    if bool(sam) == random:
        raise ValueError(
            f"{'both' if random else 'neither'} of sam and random is given: give SAM's file as --sam (`python -m "
            "adapters download sam_vit_b` fetches it), or --random for weights that nobody trained."
        )
    output = folder / "models" / "model.pt"
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists: move it away, or say --overwrite to lose it.")
    import torch
    from monai.bundle import ConfigParser

    from adapters.checkpoints import initialise, save_model

    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    torch.manual_seed(seed)
    network = initialise(parser.get_parsed_content("network_def"), sam_checkpoint=sam)
    output.parent.mkdir(exist_ok=True)
    return save_model(network, output, untrained="random weights" if random else f"started from {Path(sam or '').name}")
