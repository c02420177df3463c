"""What other programs read gives the network's own numbers."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from clicking import clicked
from torch import Tensor

from adapters.checkpoints import check_onnx, export_network
from adapters.checkpoints.export import TOLERANCE
from adapters.networks import Backbone, SAMAdapter3D, Sizes, build_sam_adapter3d
from adapters.networks.description import METADATA_KEY, describe_network
from adapters.networks.layers.points import click_maps
from adapters.networks.samadapter3d.export_forms import script_form

SMALL = Sizes(
    Backbone("small", embed_dim=24, depth=4, num_heads=2, global_blocks=(), table_size=16, sam_window=6),
    window_size=4,
    out_channels=16,
    prompt_heads=4,
    prompt_mlp_dim=32,
    head_channels=8,
    correction_channels=4,
)
"""Its relative positions are resized, and a crop of 24 has 6 tokens a side: windows are shifted and padded."""
CROP = 24


@pytest.fixture(scope="module")
def network() -> SAMAdapter3D:
    torch.manual_seed(0)
    made = build_sam_adapter3d(SMALL, CROP, "all").eval()
    with torch.no_grad():  # what starts at zero would hide its mistakes
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def onnx(network: SAMAdapter3D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    assert [path.name for path in export_network(network, folder, "onnx")] == ["decoder.onnx", "encoder.onnx"]
    return folder


def prompts(number: int) -> tuple[Tensor, Tensor]:
    return torch.rand(1, number, 3) * (CROP - 1), torch.arange(number)[None] % 2


def test_onnx_on_three_crops_with_0_1_and_10_clicks(network: SAMAdapter3D, onnx: Path) -> None:
    assert check_onnx(network, onnx) <= TOLERANCE


@pytest.mark.parametrize("number", [0, 1, 2, 10, 25])
def test_onnx_with_any_number_of_clicks(number: int, network: SAMAdapter3D, onnx: Path) -> None:
    import onnxruntime

    encoder, decoder = (onnxruntime.InferenceSession(onnx / f"{name}.onnx") for name in ("encoder", "decoder"))
    image = torch.randn(1, 1, CROP, CROP, CROP)
    clicks, labels = prompts(number)
    context, deepest = encoder.run(["context", "deepest"], {"image": image.numpy()})
    with torch.no_grad():
        features = network.encode(image)
        expected = network.logits(features, image, clicked(clicks, labels)).numpy()
    np.testing.assert_allclose(context, features.context.numpy(), atol=1e-4 * float(features.context.abs().max()))
    given = {"image": image.numpy(), "context": context, "deepest": deepest}
    (found,) = decoder.run(["logits"], {**given, "clicks": clicks.numpy(), "labels": labels.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    if number:
        padded = torch.cat([clicks, torch.zeros(1, 1, 3)], 1), torch.cat([labels, torch.full((1, 1), -1)], 1)
        (again,) = decoder.run(["logits"], {**given, "clicks": padded[0].numpy(), "labels": padded[1].numpy()})
        np.testing.assert_allclose(again, expected, atol=1e-4 * np.abs(expected).max())


def test_clicks_change_the_exported_logits(network: SAMAdapter3D) -> None:
    """Else the comparisons would compare nothing."""
    image = torch.randn(1, 1, CROP, CROP, CROP)
    with torch.no_grad():
        none, one = network(image), network(image, clicked(*prompts(1)))
        off = network(image, clicked(prompts(1)[0], torch.zeros(1, 1, dtype=torch.long)))
    assert float((none - one).abs().max()) > 100 * TOLERANCE * float(one.abs().max())
    assert float((off - one).abs().max()) > 100 * TOLERANCE * float(one.abs().max())


def test_what_the_onnx_files_say(network: SAMAdapter3D, onnx: Path) -> None:
    import onnx as library

    for name in ("encoder", "decoder"):
        model = library.load(onnx / f"{name}.onnx")
        about = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(about[METADATA_KEY]) == describe_network(network)
        assert about["library"] == "monai-sam-adapters"


def test_onnx_of_another_network_is_noticed(network: SAMAdapter3D, onnx: Path) -> None:
    other = build_sam_adapter3d(SMALL, CROP, "all").eval()
    with pytest.raises(ValueError, match=r"differ from the network by .* expected at most 1e-04"):
        check_onnx(other, onnx, crops=1)


@pytest.mark.parametrize("number", [None, 0, 1, 10])
def test_torchscript(number: int | None, network: SAMAdapter3D, tmp_path: Path) -> None:
    (path,) = export_network(network, tmp_path / "new", "torchscript")
    files = {"network.json": ""}
    scripted = torch.jit.load(path, _extra_files=files)
    assert json.loads(json.loads(files["network.json"])[METADATA_KEY]) == describe_network(network)
    image = torch.randn(1, 1, CROP, CROP, CROP)
    given = () if number is None else prompts(number)
    with torch.no_grad():
        expected, found = network(image, clicked(*given)), scripted(image, *given)
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
        if number:
            on = network(image, clicked(given[0]))
            torch.testing.assert_close(scripted(image, given[0]), on, rtol=0, atol=TOLERANCE * float(on.abs().max()))
    assert list(path.parent.iterdir()) == [path]


def test_a_scripted_part_of_something_larger(network: SAMAdapter3D) -> None:
    """MONAI scripts whatever holds the network."""
    image = torch.randn(1, 1, CROP, CROP, CROP)
    with torch.no_grad():
        whole = torch.jit.script(torch.nn.Sequential(network, torch.nn.Softmax(dim=1)))
        torch.testing.assert_close(whole(image), network(image).softmax(dim=1))


def test_safetensors(network: SAMAdapter3D, tmp_path: Path) -> None:
    (path,) = export_network(network, tmp_path, "safetensors")
    other = build_sam_adapter3d(SMALL, CROP, "all")
    other.load_state_dict(safetensors.torch.load_file(path), strict=True)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in network.state_dict().items())
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()[METADATA_KEY]) == describe_network(network)


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_sam_adapter3d(SMALL, CROP), "in training mode.*call eval"),
        (
            lambda: build_sam_adapter3d(SMALL, CROP, prompt_head={"prompt_levels": (3, 4)}).eval(),
            "prompts the levels 3 besides the deepest",
        ),
        (
            lambda: SAMAdapter3D(torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity()).eval(),
            "made of Identity, Identity, Identity",
        ),
    ],
)
def test_networks_that_cannot_be_exported(make, message: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_network(make(), tmp_path / "new", kind)
    assert not (tmp_path / "new").exists()


def test_an_unknown_format(network: SAMAdapter3D, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format 'tflite' is unknown: expected one of onnx, torchscript, safetensors"):
        export_network(network, tmp_path, "tflite")


def test_a_network_in_training_mode_is_not_recorded() -> None:
    with pytest.raises(ValueError, match="in training mode"):
        script_form(build_sam_adapter3d(SMALL, CROP))


def test_without_the_packages(network: SAMAdapter3D, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnx and onnxscript: pip install 'monai-sam-adapters\[export\]'"):
        export_network(network, tmp_path, "onnx")
    with pytest.raises(ImportError, match="needs onnxruntime"):
        check_onnx(network, tmp_path)


def test_bumps_are_the_same_when_they_are_recorded() -> None:
    """There all clicks are worked on at once, here one after the other."""
    clicks, labels = torch.rand(1, 7, 3) * 20, torch.tensor([[1, 0, 1, -1, 0, 1, 1]])

    def bumps(clicks: Tensor, labels: Tensor) -> Tensor:
        return click_maps(clicks, labels, (24, 20, 28), (6, 5, 7), 2.0)

    traced = torch.jit.trace(bumps, (clicks[:, :2], labels[:, :2]))
    assert torch.equal(traced(clicks, labels), bumps(clicks, labels))
    assert not bumps(clicks, torch.zeros_like(labels))[0, 0].any()


def test_onnx_files_that_give_nan_are_noticed(network: SAMAdapter3D, onnx: Path, tmp_path: Path) -> None:
    import onnx as format_of_files

    shutil.copy(onnx / "encoder.onnx", tmp_path)
    model = format_of_files.load(onnx / "decoder.onnx")
    for stored in model.graph.initializer:
        values = format_of_files.numpy_helper.to_array(stored)
        if values.dtype == np.float32:
            stored.CopyFrom(format_of_files.numpy_helper.from_array(values * np.float32(np.nan), stored.name))
    format_of_files.save(model, tmp_path / "decoder.onnx")
    with pytest.raises(ValueError, match="differ from the network by nan of its largest logit"):
        check_onnx(network, tmp_path, crops=1)


@pytest.mark.parametrize("kind", ["torchscript", "safetensors"])
def test_a_full_disk(kind: str, tmp_path: Path) -> None:
    network = build_sam_adapter3d("tiny", crop_size=16).eval()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, before[1]))
    try:
        with pytest.raises(OSError, match=r"model.* cannot be written .* make room, or choose another folder"):
            export_network(network, tmp_path, kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
