"""A small SAM, a network that fits it, and a checkpoint in the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity_state import state_from_manifest
from small_sam import SMALL_SAM, make_sam

from adapters.networks import SAMAdapter3D, build_sam_adapter3d

PARITY = Path(__file__).resolve().parents[1] / "data" / "parity"


@pytest.fixture
def sam_file(tmp_path: Path) -> Path:
    path = tmp_path / "sam_small.pth"
    torch.save(make_sam().state_dict(), path)
    return path


@pytest.fixture
def network() -> SAMAdapter3D:
    return build_sam_adapter3d(SMALL_SAM, crop_size=16)


@pytest.fixture
def published() -> dict[str, Any]:
    """A scaled-down checkpoint in the published layout, windows of 4, 4 heads in the prompt head."""
    return state_from_manifest(PARITY / "small.json")
