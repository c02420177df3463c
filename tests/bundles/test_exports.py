"""MONAI's own exports of every bundle, and the configuration for TensorRT as far as it goes without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_runs import BUNDLE, configs, told, workflow
from clicking import clicked
from four_runs import bundle_of
from monai.bundle import ConfigParser
from monai.bundle.scripts import ckpt_export, onnx_export
from monai.networks import trt_compiler
from scan_files import write_nifti

from adapters.bundling import TASKS
from adapters.checkpoints import load_model, save_model
from adapters.datasets.phantom import phantom
from adapters.networks import SAMAdapter3D

BUNDLES = {"sarcoma": BUNDLE, **{task: bundle_of(task) for task in TASKS}}
CROP = 32
TOLERANCE = 1e-4  # of the largest logit
SMALL: dict[str, Any] = {
    "variant": "tiny",
    "crop_size": CROP,
    "network_def#image_encoder#depth": 4,
    "network_def#image_encoder#window_size": 8,
    "device": "cpu",
}
"""In place of ViT-B at a crop of 128: one window, as shifted ones are tests/checkpoints/test_export.py's."""


def small_copy(name: str, folder: Path) -> Path:
    """A bundle with weights of its small network."""
    bundle = folder / BUNDLES[name].name
    shutil.copytree(BUNDLES[name] / "configs", bundle / "configs")
    (bundle / "models").mkdir()
    parser = ConfigParser()
    parser.read_config(configs(bundle, "inference"))
    for key, value in SMALL.items():
        parser[key] = value
    torch.manual_seed(1)
    save_model(parser.get_parsed_content("network_def"), bundle / "models" / "model.pt")
    return bundle


def files_of(bundle: Path) -> dict[str, Any]:
    return {
        "config_file": configs(bundle, "inference")[0],
        "meta_file": configs(bundle, "metadata")[0],
        "ckpt_file": str(bundle / "models" / "model.pt"),
        "bundle_root": str(bundle),
    }


def expected_of(bundle: Path, image: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return load_model(bundle / "models" / "model.pt")(image).numpy()


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def run_onnx(path: Path, image: torch.Tensor) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image.numpy()})


@pytest.mark.parametrize("name", BUNDLES)
def test_exports(name: str, tmp_path: Path) -> None:
    bundle = small_copy(name, tmp_path)
    image = torch.rand(1, 1, CROP, CROP, CROP) * 2 - 1
    expected = expected_of(bundle, image)
    ckpt_export(**files_of(bundle), **SMALL, filepath=str(tmp_path / "model.ts"))
    extra = {"inference.json": "", "metadata.json": ""}
    scripted = torch.jit.load(tmp_path / "model.ts", _extra_files=extra)
    with torch.no_grad():
        agree(scripted(image).numpy(), expected)
        clicks = torch.tensor([[[16.0, 15.0, 14.0]]])
        network = load_model(bundle / "models" / "model.pt")
        agree(scripted(image, clicks).numpy(), network(image, clicked(clicks)).numpy())
    assert (
        json.loads(extra["metadata.json"])["version"]
        == json.loads(Path(files_of(bundle)["meta_file"]).read_text())["version"]
    )
    shape = [1, 1, CROP, CROP, CROP]
    onnx_export("network_def", **files_of(bundle), **SMALL, filepath=str(tmp_path / "model.onnx"), input_shape=shape)
    (found,) = run_onnx(tmp_path / "model.onnx", image)
    agree(found, expected)


def typed(command: str, filepath: Path) -> None:
    """``python -m monai.bundle`` with the shipped bundle, the crop's size from its metadata."""
    words = [sys.executable, "-m", "monai.bundle", command, "network_def", "--filepath", str(filepath)]
    for key, value in files_of(BUNDLE).items():
        words += [f"--{key}", value]
    process = subprocess.run(words, env=dict(os.environ), capture_output=True, text=True, timeout=900, check=False)
    assert process.returncode == 0, process.stderr[-3000:]


def test_ckpt_export_of_the_shipped_weights_as_typed(tmp_path: Path) -> None:
    typed("ckpt_export", tmp_path / "model.ts")
    image = torch.rand(1, 1, 48, 48, 48) * 2 - 1
    with torch.no_grad():
        agree(torch.jit.load(tmp_path / "model.ts")(image).numpy(), expected_of(BUNDLE, image))


@pytest.mark.slow
def test_onnx_export_of_the_shipped_weights_as_typed(tmp_path: Path) -> None:
    typed("onnx_export", tmp_path / "model.onnx")
    image = torch.rand(1, 1, 48, 48, 48) * 2 - 1
    agree(run_onnx(tmp_path / "model.onnx", image)[0], expected_of(BUNDLE, image))


# --- TensorRT


@pytest.mark.parametrize("name", BUNDLES)
def test_the_configuration_for_tensorrt_runs_without_one(name: str, tmp_path: Path) -> None:
    """`trt_compile` then changes nothing: the mask is that of inference.json alone."""
    bundle = small_copy(name, tmp_path)
    image, label, affine = phantom(0, (24, 24, 24), (8.0, 8.0, 8.0))
    click = np.argwhere(label)[0].tolist()
    path = write_nifti(tmp_path / "scan.nii.gz", image, affine)
    (tmp_path / "requests.json").write_text(json.dumps([{"image": path, "points": [click], "point_labels": [1]}]))
    options = {**SMALL, "spacing": 8.0, "requests": str(tmp_path / "requests.json")}
    masks = []
    for names in (["inference"], ["inference", "inference_trt"]):
        output = tmp_path / names[-1]
        workflow(bundle, names, "infer", **options, output_dir=str(output)).run()
        masks.append((output / "scan_mask.nii.gz").read_bytes()[10:])  # after gzip's time
    assert masks[0] == masks[1]


def test_what_tensorrt_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of MONAI's way to TensorRT but the builder itself: the encoder as ONNX, with the network's numbers."""
    bundle = small_copy("sarcoma", tmp_path)
    built = tmp_path / "built"  # MONAI's folder of the model and its weights, which it removes

    def no_builder(_: trt_compiler.TrtCompiler, path: str) -> bytes:
        shutil.copytree(Path(path).parent, built)
        return b"no engine"

    monkeypatch.setattr(trt_compiler.TrtCompiler, "_onnx_to_trt", no_builder)
    parser = ConfigParser()
    parser.read_config(configs(bundle, "inference", "inference_trt"))
    for key, value in {**SMALL, "bundle_root": str(bundle)}.items():
        parser[key] = value
    with monkeypatch.context() as patch:
        for name in ("trt_imported", "polygraphy_imported"):
            patch.setattr(trt_compiler, name, True)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        network = parser.get_parsed_content("network")
    assert isinstance(network, SAMAdapter3D)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    image = torch.rand(1, 1, CROP, CROP, CROP) * 2 - 1
    with torch.no_grad():
        levels = load_model(bundle / "models" / "model.pt").encode(image).levels
        with pytest.raises(AssertionError) as error:  # MONAI's: the file is no engine
            network.eval().encode(image)
    assert "self.engine is not None" in told(error.value)
    assert (bundle / "models" / "model.pt.image_encoder.plan").is_file()
    found = run_onnx(built / "model.onnx", image)
    assert len(found) == len(levels)
    for one, other in zip(found, levels, strict=True):
        agree(one, other.numpy())
