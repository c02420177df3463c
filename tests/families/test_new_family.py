"""How a new family of networks moves in: registry, checkpoint, config, inferer, session; no other room is touched.

In MONAI Label: ``tests/label/test_new_family.py``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from brightness import BrightnessNetwork
from brightness_bundle import CLICK, TOLERANCE, write_bundle, write_scan
from bundle_runs import run_as_typed

import adapters
from adapters.checkpoints import load_model, save_model
from adapters.inferers import ClickInferer
from adapters.networks import FAMILIES, build_network
from adapters.prompts import Prompts


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    return path, write_scan(path)


def test_it_is_built_by_name() -> None:
    assert isinstance(build_network("brightness", 0.3), BrightnessNetwork)
    assert "brightness" in FAMILIES
    with pytest.raises(ValueError, match=r"unknown family 'brightnes': expected one of samadapter3d, .*brightness"):
        build_network("brightnes")


def test_its_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    network = build_network("brightness", 0.3)
    network.tolerance.data.fill_(0.7)
    path = save_model(network, tmp_path / "model.pt")
    again = load_model(path)
    assert isinstance(again, BrightnessNetwork)
    assert again.tolerance.item() == pytest.approx(0.7)
    assert not again.training
    with pytest.raises(ValueError, match="of the family brightness, but the network is of the family samadapter3d"):
        load_model(path, build_network("samadapter3d", "tiny", crop_size=32))
    with pytest.raises(ValueError, match=r"made with tolerance=0\.3, but the network has tolerance=0\.1"):
        build_network("brightness", 0.1).load_state_dict(torch.load(path, weights_only=True))


def test_an_inferer_asks_it() -> None:
    image = torch.zeros(1, 1, 20, 20, 20)
    image[0, 0, 4:9, 5:11, 6:12] = 1.0
    with torch.no_grad():
        found = ClickInferer(16)(image, build_network("brightness").eval(), Prompts([[6, 7, 8]]))
    assert torch.equal(found > 0, image > 0.5)


def test_a_bundle_names_it(
    bundle: Path, scan: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One click as typed, and the same in Python."""
    path, ball = scan
    requests = tmp_path / "clicks.json"
    requests.write_text(json.dumps([{"image": str(path), "points": [CLICK], "point_labels": [1]}]))
    options = {"requests": str(requests), "output_dir": str(tmp_path / "masks"), "device": "cpu"}
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    done = run_as_typed(bundle, "", ["inference"], options)
    assert done.returncode == 0, done.stderr[-3000:]
    written = nib.load(tmp_path / "masks" / "scan_mask.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj) == 1, ball)

    session = adapters.ClickSession(bundle, device="cpu")
    session.set_image(path)
    assert np.array_equal(session.add_click(CLICK), ball)
    with pytest.raises(ValueError, match="boxes were given, and the network takes none"):
        session.add_box((5, 5, 5), (8, 8, 8))
    assert len(session.prompts) == 1
    assert session._network.tolerance.item() == pytest.approx(TOLERANCE)
