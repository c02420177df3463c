"""SAM's checkpoints: every tensor is used or named, what is new along depth starts as published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from small_sam import SMALL_SAM, make_sam, same, snapshot
from torch import Tensor

from adapters.checkpoints import load_sam
from adapters.networks import SAMAdapter3D, build_sam_adapter3d, count_parameters

State = dict[str, Tensor]


def test_every_tensor_is_used_or_named(sam_file: Path, network: SAMAdapter3D) -> None:
    theirs = make_sam().state_dict()
    loaded, report = load_sam(sam_file, network)
    assert loaded is network
    assert sorted(report.used + report.unused) == sorted(theirs)
    unused = [name for name in report.unused if name.startswith("image_encoder.")]
    assert unused == [n for n in theirs if n.startswith("image_encoder.neck.")]
    assert len(unused) == 6
    ours = network.state_dict()
    for name in report.used:
        assert torch.equal(ours[name.replace("patch_embed.proj", "patch_embed.plane")], theirs[name]), name
    taken = [name.replace("patch_embed.proj", "patch_embed.plane") for name in report.used]
    assert sorted([*taken, *report.derived, *report.untouched]) == sorted(ours)
    assert "custom: 59 tensors used" in str(report)


def test_what_is_new_along_depth(sam_file: Path, network: SAMAdapter3D) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    before = snapshot(network)
    report = load_sam(sam_file, network).report
    encoder = network.image_encoder
    for block in encoder.blocks:
        attn = block.attn
        assert torch.equal(attn.rel_pos_d, (attn.rel_pos_h + attn.rel_pos_w) / 2)
        assert attn.rel_pos_d.abs().sum() > 0
        assert attn.rel_pos_gain == 1
    assert torch.equal(encoder.depth_embed, torch.ones(1, 4, 32))
    assert torch.equal(encoder.patch_embed.depth_weight, torch.full((32, 16), 1 / 16))
    assert torch.equal(encoder.patch_embed.depth_bias, torch.zeros(32))
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in report.untouched)
    assert {name.split(".")[0] for name in report.untouched} == {"image_encoder", "prompt_head", "mask_decoder"}


def test_a_volume_of_equal_slices_has_the_patches_that_sam_sees(sam_file: Path, network: SAMAdapter3D) -> None:
    load_sam(sam_file, network)
    plane = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        ours = network.image_encoder.patch_embed(plane[:, :, None].expand(-1, -1, 16, -1, -1))
        enlarged = F.interpolate(plane, scale_factor=4, mode="bilinear", align_corners=False)
        theirs = make_sam().image_encoder.patch_embed(enlarged.expand(-1, 3, -1, -1))
    for depth in range(4):
        torch.testing.assert_close(ours[:, depth], theirs, rtol=1e-5, atol=1e-5)


def test_the_network_is_built_from_the_shapes(sam_file: Path) -> None:
    built = load_sam(sam_file, crop_size=(16, 32, 32), trainable="decoder").network
    assert (built.image_encoder.depth_embed.shape[1], len(built.image_encoder.blocks)) == (4, 4)
    assert count_parameters(built)["image_encoder"] == 0
    named = load_sam(sam_file, variant=SMALL_SAM, crop_size=16).network
    assert same(
        {k: v for k, v in built.image_encoder.state_dict().items() if "attn" in k},
        {k: v for k, v in named.image_encoder.state_dict().items() if "attn" in k},
    )


def _drop(name: str) -> Callable[[State], Any]:
    return lambda state: state.pop(name)


def _put(name: str, tensor: Tensor) -> Callable[[State], Any]:
    return lambda state: state.update({name: tensor})


QKV = "image_encoder.blocks.2.attn.qkv.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop(QKV), rf"sam\.pth lacks tensor {QKV}"),
        (_drop("image_encoder.pos_embed"), r"lacks tensor image_encoder\.pos_embed"),
        (_drop("image_encoder.blocks.0.attn.rel_pos_h"), r"lacks tensor image_encoder\.blocks\.0\.attn\.rel_pos_h"),
        (_put("image_encoder.new", torch.zeros(1)), r"unexpected tensor image_encoder\.new"),
        (_put("image_encoder.blocks.7.new", torch.zeros(1)), r"lacks tensor image_encoder\.blocks\.4\.attn\.rel_pos_h"),
        (_put(QKV, torch.zeros(96, 31)), rf"{QKV} of .*sam\.pth has shape \(96, 31\): expected \(96, 32\)"),
        (_put(QKV, torch.full((96, 32), torch.nan)), rf"{QKV} of .*sam\.pth holds NaN or infinite values"),
        (_put(QKV, torch.zeros(96, 32, dtype=torch.long)), rf"{QKV} of .*sam\.pth is torch\.int64: expected"),
        (_put("image_encoder.pos_embed", torch.zeros(1, 8, 9, 32)), "pos_embed is 8x9: expected a square"),
        (_put("image_encoder.pos_embed", torch.zeros(64, 32)), r"pos_embed has shape \(64, 32\): expected 4 axes"),
        (_put("image_encoder.blocks.0.attn.rel_pos_h", torch.zeros(7, 5)), "expected the width of one attention head"),
        (_put("image_encoder.blocks.0.attn.rel_pos_h", torch.zeros(9, 16)), r"tables have \[7, 9\] rows"),
    ],
)
def test_bad_checkpoints_leave_the_network_alone(
    tmp_path: Path, network: SAMAdapter3D, spoil: Callable[[State], Any], message: str
) -> None:
    state = make_sam().state_dict()
    spoil(state)
    torch.save(state, tmp_path / "sam.pth")
    before = snapshot(network)
    with pytest.raises(ValueError, match=message):
        load_sam(tmp_path / "sam.pth", network)
    assert same(before, network.state_dict())


def test_wrong_variant_names_both(tmp_path: Path, sam_file: Path) -> None:
    network = build_sam_adapter3d("tiny", crop_size=16)
    before = snapshot(network)
    with pytest.raises(
        ValueError,
        match=r"is SAM's custom \(width 32, 4 blocks, 2 heads, .*\), but the network is tiny \(width \d+, ",
    ):
        load_sam(sam_file, network)
    assert same(before, network.state_dict())
    with pytest.raises(ValueError, match=r"custom \(width 32.* but variant vit_b was asked for.* vit_b \(width 768"):
        load_sam(sam_file, variant="vit_b")
    torch.save(make_sam(depth=8).state_dict(), tmp_path / "deep.pth")
    with pytest.raises(ValueError, match=r"8 blocks.* but the network is custom \(width 32, 4 blocks"):
        load_sam(tmp_path / "deep.pth", build_sam_adapter3d(SMALL_SAM, crop_size=16))


def test_a_network_has_its_variant_already(sam_file: Path, network: SAMAdapter3D) -> None:
    with pytest.raises(ValueError, match="variant='tiny' was given beside a network"):
        load_sam(sam_file, network, variant="tiny")


def test_a_trained_adapter_is_no_sam(tmp_path: Path, network: SAMAdapter3D) -> None:
    torch.save(network.state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="no checkpoint of SAM but of a trained 3DSAM-adapter: read it with load_mod"):
        load_sam(tmp_path / "model.pt")


def test_foreign_encoder_is_refused(sam_file: Path, network: SAMAdapter3D) -> None:
    network.image_encoder = torch.nn.Identity()
    with pytest.raises(ValueError, match="image encoder is a Identity: SAM's weights fit an ImageEncoder3D only"):
        load_sam(sam_file, network)


def _true_size(tmp_path: Path, variant: str, blocks: int) -> None:
    sam = sam_model_registry[variant]()
    path = tmp_path / f"sam_{variant}.pth"
    torch.save(sam.state_dict(), path)
    theirs = sam.state_dict()
    del sam
    network, report = load_sam(path)
    assert report.variant == variant
    assert len(report.used) == 3 + 14 * blocks
    assert sorted(report.used + report.unused) == sorted(theirs)
    ours = network.state_dict()
    assert all(torch.equal(ours[n.replace("embed.proj", "embed.plane")], theirs[n]) for n in report.used)
    with pytest.raises(ValueError, match=rf"is SAM's {variant} .* but the network is tiny"):
        load_sam(path, build_sam_adapter3d("tiny", crop_size=16))


def test_vit_b(tmp_path: Path) -> None:
    _true_size(tmp_path, "vit_b", 12)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "blocks"), [("vit_l", 24), ("vit_h", 32)])
def test_larger_variants(tmp_path: Path, variant: str, blocks: int) -> None:
    _true_size(tmp_path, variant, blocks)


def test_an_encoder_without_blocks_is_no_sam(tmp_path: Path) -> None:
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 8, 8, 32)}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=r"sam\.pth holds no image_encoder\.blocks\.\*: expected SAM's checkpoint"):
        load_sam(tmp_path / "sam.pth")
