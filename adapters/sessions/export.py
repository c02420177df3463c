"""A bundle's network for other programs."""

from __future__ import annotations

import os
from pathlib import Path

from adapters.bundling.folders import check_own, find_bundle
from adapters.checkpoints import check_onnx, export_network
from adapters.checkpoints.export import Format
from adapters.sessions.bundle import bundle_network, read_bundle

__all__ = ["export_bundle"]


def export_bundle(
    name: str | os.PathLike,
    kind: Format,
    output: str | os.PathLike | None = None,
    *,
    check: bool = True,
) -> str:
    """Write a bundle's network, with its weights, as `adapters.checkpoints.export_network` does.

    Args:
        name: the bundle's name or folder.
        kind: ``onnx``, ``torchscript`` or ``safetensors``.
        output: the folder to write into; the bundle's ``models`` where it is None.
        check: whether the ONNX files are compared with the network in ONNX Runtime.

    Returns:
        One sentence on what was written.

    Raises:
        FileNotFoundError: if there is no such bundle or it has no weights.
        ImportError: if a package that the format needs is not installed.
        ValueError: if there is no such format, the network cannot be exported, or the comparison fails.
    """
    folder = check_own(find_bundle(name), "name --output") / "models" if output is None else Path(output)
    parser = read_bundle(name, {"device": "cpu"})
    network = bundle_network(parser)
    files = export_network(network, folder, kind)
    sentence = f"wrote {' and '.join(map(str, files))}"
    if kind == "onnx" and check:
        worst = check_onnx(network, folder)
        sentence += f"; on 3 crops with 0, 1 and 10 clicks at most {worst:.1e} of the largest logit off"
    return sentence
