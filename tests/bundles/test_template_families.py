"""A further family of networks is a further folder of the template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from adapters.bundling import load_task, render, template

NETWORK = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 1, "kernel_size": "@kernel"}
FAMILY = {
    "variant": "small",
    "network_name": "one convolution",
    "network_text": "one convolution",
    "network_intro": "one convolution.",
    "sizes": {"kernel": 3},
    "network": NETWORK,
    "network_in_training": NETWORK,
    "start": {},
    "starting_network": "@network_def",
    "weights_licence": "It starts from chance.",
    "before_training": "Nothing to fetch.",
}


@pytest.fixture
def families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(template._TEMPLATE, tmp_path / "template"))
    monkeypatch.setattr(template, "_TEMPLATE", copy)
    return copy / "families"


def test_a_family_moves_in(families: Path) -> None:
    (families / "convolution" / "bundle").mkdir(parents=True)
    (families / "convolution" / "family.json").write_text(json.dumps(FAMILY))
    (families / "convolution" / "bundle" / "LICENSE").write_text("its own")
    before, files = render(load_task("colon_cancer")), render(load_task("colon_cancer") | {"family": "convolution"})
    # what is the other family's alone: automatic mode, TensorRT, SAM's weights
    assert before.keys() - files.keys() == {
        "configs/inference_auto.json",
        "configs/inference_trt.json",
        "configs/train_auto.json",
        "large_files.yml",
    }
    assert files["LICENSE"] == "its own"
    assert "## Before training\n\nNothing to fetch.\n" in files["docs/README.md"]
    assert files["docs/data_license.txt"].endswith("It starts from chance.\n")
    for name in ("train", "inference"):
        parser = ConfigParser(json.loads(files[f"configs/{name}.json"]))
        assert parser.get_parsed_content("network_def").kernel_size == (3, 3, 3)
        assert "SAM" not in files[f"configs/{name}.json"]
    assert before == render(load_task("colon_cancer"))


def test_a_family_that_is_not_there(families: Path) -> None:
    with pytest.raises(ValueError, match="family is 'conv', expected one of samadapter3d"):
        render(load_task("colon_cancer") | {"family": "conv"})
