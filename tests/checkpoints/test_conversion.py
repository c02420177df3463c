"""`python -m adapters convert`, and the starting weights that configs ask for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from clicking import clicked
from monai.bundle import ConfigParser
from small_sam import SMALL_SAM, make_sam, same, snapshot

from adapters import cli
from adapters.checkpoints import (
    convert,
    initialise,
    load_adapter,
    load_model,
    load_published,
    load_sam,
    save_adapter,
    save_model,
)
from adapters.networks import SAMAdapter3D, build_sam_adapter3d
from adapters.networks.description import describe_network
from adapters.networks.families import build_described

SETTINGS: dict[str, int] = {"window_size": 4, "prompt_heads": 4}


@pytest.fixture
def published_file(tmp_path: Path, published: dict[str, Any]) -> Path:
    torch.save(published, tmp_path / "best.pth.tar")
    return tmp_path / "best.pth.tar"


def test_published(tmp_path: Path, published: dict[str, Any], published_file: Path) -> None:
    report = convert(published_file, tmp_path / "model.pt", **SETTINGS)
    converted = load_model(tmp_path / "model.pt")
    expected = load_published(published, **SETTINGS)
    assert describe_network(converted) == describe_network(expected)
    image = torch.randn(1, 1, 32, 32, 32)
    clicks = torch.tensor([[[3.0, 9.0, 20.0]]])
    with torch.no_grad():
        assert torch.equal(converted(image, clicked(clicks)), expected(image, clicked(clicks)))
    assert (report.kind, report.trained, report.crop_size) == ("published", True, 32)
    assert re.search(r"wrote .*model\.pt: published 3DSAM-adapter, custom \(width 48.*\), crop 32", str(report))


def test_sam_makes_an_untrained_adapter_and_says_so(
    tmp_path: Path, sam_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    report = convert(sam_file, tmp_path / "model.pt")
    assert not report.trained
    assert "with an UNTRAINED adapter, crop 128: a start for training" in caplog.text
    network = load_model(tmp_path / "model.pt")
    qkv = "image_encoder.blocks.2.attn.qkv.weight"
    assert torch.equal(network.state_dict()[qkv], make_sam().state_dict()[qkv])


def test_an_existing_output_is_kept(tmp_path: Path, published_file: Path) -> None:
    output = tmp_path / "model.pt"
    output.write_text("precious")
    with pytest.raises(ValueError, match=r"model\.pt exists already"):
        convert(published_file, output, **SETTINGS)
    assert output.read_text() == "precious"
    convert(published_file, output, overwrite=True, **SETTINGS)
    load_model(output)


def test_the_verb_has_the_options_that_its_messages_name(tmp_path: Path, published_file: Path) -> None:
    output = str(tmp_path / "model.pt")
    cli.convert(str(published_file), output, **SETTINGS)
    assert describe_network(load_model(output))["parts"]["prompt_head"]["num_heads"] == 4
    with pytest.raises(ValueError, match=r"model\.pt exists already: .*--overwrite"):
        cli.convert(str(published_file), output, **SETTINGS)
    assert cli.convert(str(published_file), output, overwrite=True, **SETTINGS).startswith(f"wrote {output}: published")


@pytest.mark.parametrize("spoiled", ["encoder", "feature", "decoder"])
def test_a_bad_checkpoint_writes_nothing(tmp_path: Path, published: dict[str, Any], spoiled: str) -> None:
    part = published["feature_dict"][3] if spoiled == "feature" else published[f"{spoiled}_dict"]
    part["extra"] = torch.zeros(1)
    torch.save(published, tmp_path / "best.pth.tar")
    with pytest.raises(ValueError, match=r"best\.pth\.tar holds the unexpected tensor .*\.extra"):
        convert(tmp_path / "best.pth.tar", tmp_path / "model.pt", **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["best.pth.tar"]


def test_ours_needs_no_conversion(tmp_path: Path, network: SAMAdapter3D) -> None:
    save_model(network, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="is a state dict of this library's already: there is nothing to convert"):
        convert(tmp_path / "model.pt", tmp_path / "second.pt")
    assert not (tmp_path / "second.pt").exists()


@pytest.mark.parametrize("nothing", [None, ""])
def test_nothing_to_start_from(network: SAMAdapter3D, nothing: str | None) -> None:
    before = snapshot(network)
    assert initialise(network, sam_checkpoint=nothing, pretrained=nothing) is network
    assert same(before, network.state_dict())


def test_start_from_sam(sam_file: Path, network: SAMAdapter3D) -> None:
    assert initialise(network, sam_checkpoint=sam_file) is network
    assert torch.equal(network.image_encoder.pos_embed, make_sam().state_dict()["image_encoder.pos_embed"])


@pytest.mark.parametrize("training", [True, False])
def test_start_from_trained_weights_of_each_kind(
    tmp_path: Path,
    sam_file: Path,
    network: SAMAdapter3D,
    published: dict[str, Any],
    published_file: Path,
    training: bool,
) -> None:
    load_sam(sam_file, network)
    save_model(network, tmp_path / "model.pt")
    save_adapter(network, tmp_path / "adapter.safetensors", sam_file)
    for arguments in (
        {"pretrained": tmp_path / "model.pt"},
        {"pretrained": str(tmp_path / "adapter.safetensors"), "sam_checkpoint": str(sam_file)},
    ):
        fresh = build_sam_adapter3d(SMALL_SAM, crop_size=16).train(training)
        assert same(initialise(fresh, **arguments).state_dict(), network.state_dict())
        assert fresh.training == training
    expected = load_published(published, **SETTINGS)
    target = build_described(describe_network(expected)).train(training)
    initialise(target, pretrained=published_file)
    assert torch.equal(target.mask_decoder.fuse.weight, expected.mask_decoder.fuse.weight)
    assert target.training == training


@pytest.mark.parametrize(
    ("pretrained", "sam", "message"),
    [
        ("adapter.safetensors", None, "holds the trained tensors only: give sam_checkpoint"),
        ("model.pt", "sam_small.pth", "is complete and would replace all of sam_checkpoint=.*: give one of them"),
        ("sam_small.pth", None, "no state dict of this library's but SAM's checkpoint: read it with load_sam"),
    ],
)
def test_bad_combinations(
    tmp_path: Path, sam_file: Path, network: SAMAdapter3D, pretrained: str, sam: str | None, message: str
) -> None:
    before = snapshot(network)
    with pytest.raises(ValueError, match=message):
        initialise(network, sam_checkpoint=sam and str(sam_file.with_name(sam)), pretrained=str(tmp_path / pretrained))
    assert same(before, network.state_dict())


def test_in_a_config(tmp_path: Path) -> None:
    """As a bundle writes it, with the files named or left null."""
    other = build_sam_adapter3d("tiny", crop_size=16)
    save_model(other, tmp_path / "model.pt")
    config = {
        "pretrained": None,
        "network_def": {"_target_": "adapters.networks.build_sam_adapter3d", "variant": "tiny", "crop_size": 16},
        "network": {
            "_target_": "adapters.checkpoints.initialise",
            "network": "@network_def",
            "pretrained": "@pretrained",
        },
    }
    parser = ConfigParser(config)
    assert parser.get_parsed_content("network") is parser.get_parsed_content("network_def")
    parser = ConfigParser(config)
    parser["pretrained"] = str(tmp_path / "model.pt")
    assert same(parser.get_parsed_content("network").state_dict(), other.state_dict())


def test_a_file_is_read_once(
    tmp_path: Path,
    sam_file: Path,
    network: SAMAdapter3D,
    published_file: Path,
    published: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SAM-H has 2.5 GB."""
    load_sam(sam_file, network)
    save_model(network, tmp_path / "model.pt")
    save_adapter(network, tmp_path / "adapter.safetensors", sam_file)
    same_sizes = build_described(describe_network(load_published(published, **SETTINGS)))
    read: list[str] = []
    load = torch.load

    def counted(path: Path, **options: Any) -> Any:
        read.append(Path(path).name)
        return load(path, **options)

    monkeypatch.setattr(torch, "load", counted)
    for run, name in (
        (lambda: convert(sam_file, tmp_path / "from_sam.pt"), sam_file.name),
        (lambda: convert(published_file, tmp_path / "from_published.pt", **SETTINGS), published_file.name),
        (lambda: initialise(network, sam_checkpoint=sam_file), sam_file.name),
        (lambda: initialise(network, pretrained=tmp_path / "model.pt"), "model.pt"),
        (lambda: initialise(same_sizes, pretrained=published_file), published_file.name),
        (lambda: load_model(tmp_path / "model.pt"), "model.pt"),
        (lambda: save_adapter(network, tmp_path / "again.safetensors", sam_file), sam_file.name),
        (lambda: load_adapter(tmp_path / "adapter.safetensors", sam_file), sam_file.name),
    ):
        read.clear()
        run()
        assert read == [name]
