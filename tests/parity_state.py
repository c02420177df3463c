"""Deterministic weights in the published checkpoint layout of 3DSAM-adapter.

A manifest (``small.json``, ``vit_b.json``) lists every tensor of the published
layout with its shape.  ``state_from_manifest`` fills each one from a formula that
depends on the tensor's name alone, so that two implementations can be compared
without storing 400 MB of weights.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch


def tensor_from_name(name: str, shape: list[int]) -> torch.Tensor:
    """float32 tensor of ``shape``, drawn from a PCG64 stream seeded by crc32(name)."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    z = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) if shape else torch.tensor(1.0)
    leaf = name.rsplit(".", 1)[-1]
    if not shape:
        return z  # the scalar gain of the relative positions, 1.0
    if leaf == "weight" and len(shape) == 1:
        return 1.0 + 0.1 * z
    if leaf == "weight":
        return z / float(np.sqrt(np.prod(shape[1:])))
    if leaf == "bias":
        return 0.02 * z
    if leaf == "positional_encoding_gaussian_matrix":
        return z
    return 0.1 * z  # position tables, relative positions, global queries


def state_from_manifest(path: str | Path) -> dict:
    """The checkpoint dictionary: ``encoder_dict``, ``feature_dict`` (a list of 4), ``decoder_dict``."""
    manifest = json.loads(Path(path).read_text())

    def fill(prefix: str, shapes: dict) -> dict:
        return {n: tensor_from_name(f"{prefix}.{n}", s) for n, s in shapes.items()}

    return {
        "encoder_dict": fill("encoder", manifest["encoder"]),
        "feature_dict": [fill(f"prompt{i}", manifest["prompt"]) for i in range(4)],
        "decoder_dict": fill("decoder", manifest["decoder"]),
    }


def volume(size: int, seed: int = 0) -> torch.Tensor:
    """The input crop, shape (1, 1, D, H, W), float32: noise over a smooth ramp."""
    rng = np.random.Generator(np.random.PCG64(seed))
    z = torch.from_numpy(rng.standard_normal((1, 1, size, size, size), dtype=np.float32))
    axis = torch.linspace(-1.0, 1.0, size)
    ramp = axis[:, None, None] + 0.5 * axis[None, :, None] - 0.25 * axis[None, None, :]
    return 0.5 * z + ramp[None, None]
