"""The first ``models/model.pt`` of a bundle that ships none."""

from __future__ import annotations

import os
from pathlib import Path

from adapters.bundling.folders import check_own, find_bundle
from adapters.files import read_json

__all__ = ["init_bundle"]


def init_bundle(
    name: str | os.PathLike,
    sam: str | Path | None = None,
    seed: int = 0,
    *,
    random: bool = False,
    overwrite: bool = False,
) -> str:
    """Writes the models/model.pt of a bundle that ships none, untrained, from SAM's file.

    What it segments is worth nothing before training: the file says so, and whatever loads it logs a warning. A bundle
    that lies in the installed library is copied first, with the verb get.

    Args:
        name: The bundle's name, or its folder.
        sam: SAM's file of the bundle's variant, such as weights/sam_vit_b_01ec64.pth.
        seed: For the weights that SAM's file does not have.
        random: Do without SAM's file: random weights.
        overwrite: Replace a models/model.pt that is there.

    Returns:
        What to print.

    Raises:
        FileNotFoundError: there is no such bundle, or no such file of SAM's.
        ValueError: the bundle is part of the installed library, or neither or both of `sam` and `random` are given.
            The file exists and must not be replaced, or SAM's cannot be read or is of another variant.
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

    config = folder / "configs" / "inference.json"
    if not isinstance(read_json(config), dict):  # before MONAI reads it
        raise ValueError(f"{str(config)!r} is no object of ids: take it from the bundle again")
    parser = ConfigParser()
    parser.read_config(config)
    torch.manual_seed(seed)
    network = initialise(parser.get_parsed_content("network_def"), sam_checkpoint=sam)
    output.parent.mkdir(exist_ok=True)
    save_model(network, output, untrained="random weights" if random else f"started from {Path(sam or '').name}")
    return f"wrote {output}: untrained"
