"""The authors' checkpoints: sizes are read off the shapes, and nothing that is wrong in them passes unnoticed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_sam import same, snapshot

from adapters.checkpoints import load_published
from adapters.networks import SAMAdapter3D, build_sam_adapter3d
from adapters.networks.description import describe_network
from adapters.networks.families import build_described

SETTINGS: dict[str, int] = {"window_size": 4, "prompt_heads": 4}
Checkpoint = dict[str, Any]


def as_real_file(checkpoint: Checkpoint) -> Checkpoint:
    """With everything that a real `best.pth.tar` holds besides."""
    weight = torch.nn.Parameter(torch.zeros(3))
    optimiser = torch.optim.AdamW([weight], lr=4e-4, weight_decay=0)
    weight.grad = torch.ones(3)
    optimiser.step()
    masks = {f"blocks.{i}.attn_mask": torch.zeros(8, 64, 64) for i in range(0, 12, 2)}
    return {
        "epoch": 201,
        "best_val_loss": np.float64(0.25),
        **checkpoint,
        "encoder_dict": {**checkpoint["encoder_dict"], **masks},
        **{f"{part}_opt": optimiser.state_dict() for part in ("encoder", "feature", "decoder")},
    }


def as_numpy_1(source: Path, target: Path) -> None:
    """The same file as NumPy 1 would have written it: its modules were called numpy.core."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                package = b"numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else b"numpy.core"
                assert b"c" + package + b".multiarray\n" in content
                content = content.replace(b"c" + package + b".multiarray\n", b"cnumpy.core.multiarray\n")
            new.writestr(name, content)


def test_real_file(tmp_path: Path, published: Checkpoint) -> None:
    expected = load_published(published, **SETTINGS).state_dict()
    path = tmp_path / "best.pth.tar"
    torch.save(as_real_file(published), path)
    network = load_published(path, **SETTINGS)
    added = {name for name in expected if "label_embed" in name or ".correction." in name}
    assert len(added) == 23
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name]) or name in added, name
    assert not network.training
    as_numpy_1(path, tmp_path / "numpy1.pth.tar")
    again = load_published(str(tmp_path / "numpy1.pth.tar"), **SETTINGS)
    assert torch.equal(again.image_encoder.pos_embed, network.image_encoder.pos_embed)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_best_loss_of_any_precision(tmp_path: Path, published: Checkpoint, kind: type) -> None:
    torch.save({**published, "best_val_loss": kind(0.5)}, tmp_path / "best.pth.tar")
    load_published(tmp_path / "best.pth.tar", **SETTINGS)


def test_sizes_are_read_off_the_shapes(published: Checkpoint) -> None:
    described = describe_network(load_published(published, **SETTINGS))
    assert described == {
        "format_version": 2,
        "family": "samadapter3d",
        "backbone": "custom",
        "arguments": {},
        "parts": {
            "image_encoder": {
                "embed_dim": 48,
                "depth": 12,
                "num_heads": 3,
                "out_channels": 32,
                "crop_size": 32,
                "table_size": 16,
                "sam_window": 14,
                "global_blocks": [2, 5, 8, 11],
                "window_size": 4,
                "enlargement": 4,
                "levels": 4,
                "tuning": "spatial",
                "tuning_arguments": None,
            },
            "prompt_head": {
                "dim": 32,
                "num_heads": 4,
                "mlp_dim": 64,
                "num_layers": 2,
                "num_queries": 10,
                "prompt_levels": [4],
            },
            "mask_decoder": {
                "in_channels": 32,
                "channels": 16,
                "levels": 4,
                "correction": True,
                "correction_channels": 16,
            },
        },
    }


def test_the_last_of_the_four_heads_is_used(published: Checkpoint) -> None:
    network = load_published(published, **SETTINGS)
    queries = [head["transformer.layers.0.global_query"] for head in published["feature_dict"]]
    ours = network.prompt_head.layers[0].global_query
    assert [torch.equal(ours, q) for q in queries] == [False, False, False, True]


def test_axes_are_reordered(published: Checkpoint) -> None:
    """Height, width, depth become depth, height, width."""
    theirs = published["encoder_dict"]["blocks.0.adapter.conv.weight"]
    ours = load_published(published, **SETTINGS).image_encoder.blocks[0].adapter.conv.weight
    assert ours[5, 0, 0, 1, 2] == theirs[5, 0, 1, 2, 0]
    assert torch.equal(ours, theirs.movedim(-1, 2))


def _without(section: str, name: str) -> Callable[[Checkpoint], Any]:
    return lambda c: _part(c, section).pop(name)


def _with(section: str, name: str, *shape: int) -> Callable[[Checkpoint], Any]:
    return lambda c: _part(c, section).update({name: torch.zeros(shape)})


def _part(checkpoint: Checkpoint, section: str) -> dict[str, Any]:
    return checkpoint["feature_dict"][3] if section == "feature" else checkpoint[f"{section}_dict"]


def _replace(name: str, value: Any) -> Callable[[Checkpoint], Any]:
    return lambda c: c.update({name: value})


def _drop(name: str) -> Callable[[Checkpoint], Any]:
    return lambda c: c.pop(name)


def _nan(c: Checkpoint) -> None:
    c["decoder_dict"]["cls.3.weight"].fill_(torch.nan)


BAD: dict[str, tuple[Callable[[Checkpoint], Any], str]] = {
    "missing in encoder": (
        _without("encoder", "neck_3d.2.1.weight"),
        r"the checkpoint lacks tensor encoder_dict\.neck_3d\.2\.1\.weight: it is incomplete",
    ),
    "missing size": (_without("encoder", "depth_embed"), r"lacks tensor encoder_dict\.depth_embed"),
    "missing block": (
        _without("encoder", "blocks.3.attn.rel_pos_h"),
        r"lacks tensor encoder_dict\.blocks\.3\.attn\.rel_pos_h",
    ),
    "missing in head": (
        _without("feature", "transformer.layers.1.norm4.bias"),
        r"lacks tensor feature_dict\[3\]\.transformer\.layers\.1\.norm4\.bias",
    ),
    "missing unused": (
        _without("feature", "positional_encoding_gaussian_matrix"),
        r"lacks tensor feature_dict\[3\]\.positional_encoding_gaussian_matrix",
    ),
    "missing in decoder": (
        _without("decoder", "mlahead.head4.3.weight"),
        r"lacks tensor decoder_dict\.mlahead\.head4\.3\.weight",
    ),
    "unexpected in encoder": (_with("encoder", "extra", 1), r"holds the unexpected tensor encoder_dict\.extra"),
    "unexpected in head": (_with("feature", "extra", 1), r"holds the unexpected tensor feature_dict\[3\]\.extra"),
    "unexpected in decoder": (_with("decoder", "cls.0.bias", 16), r"unexpected tensor decoder_dict\.cls\.0\.bias"),
    "thirteenth block": (_with("encoder", "blocks.12.norm1.bias", 48), r"lacks tensor encoder_dict\.blocks\.12\.attn"),
    "layer five million": (
        _with("feature", "transformer.layers.5000000.x", 1),
        r"feature_dict.3. of the checkpoint names number 5000000 of .*, but lacks 2: it is incomplete",
    ),
    "width of a million": (_with("encoder", "neck_3d.0.0.weight", 10**6, 1, 1, 1, 1), "has shape|lacks|unexpected"),
    "name that is a number": (lambda c: _part(c, "encoder").update({3: torch.zeros(1)}), "unexpected tensor .*3"),
    "shape of a kernel": (
        _with("decoder", "cls.0.weight", 16, 64, 3, 3, 3),
        r"decoder_dict\.cls\.0\.weight of the checkpoint has shape \(16, 64, 3, 3, 3\): expected \(16, 65, 3, 3, 3\)",
    ),
    "shape of the depth convolution": (
        _with("encoder", "slice_embed.weight", 48, 1, 16, 1, 1),
        r"slice_embed\.weight of the checkpoint has shape \(48, 1, 16, 1, 1\): expected \(48, 1, 1, 1, 16\)",
    ),
    "shape of a neck": (
        _with("encoder", "neck_3d.1.0.weight", 32, 47, 1, 1, 1),
        r"neck_3d\.1\.0\.weight of the checkpoint has shape .*: expected \(32, 48, 1, 1, 1\)",
    ),
    "axes of the depth table": (_with("encoder", "depth_embed", 8, 48), r"depth_embed .* \(8, 48\): expected 3 axes"),
    "width of a head": (_with("encoder", "blocks.0.attn.rel_pos_h", 27, 7), "expected the width of one attention head"),
    "not finite": (_nan, r"decoder_dict\.cls\.3\.weight of the checkpoint holds NaN"),
    "no encoder": (_drop("encoder_dict"), "the checkpoint lacks encoder_dict"),
    "no prompt heads": (_drop("feature_dict"), "the checkpoint lacks feature_dict"),
    "no decoder": (_drop("decoder_dict"), "the checkpoint lacks decoder_dict"),
    "empty encoder": (_replace("encoder_dict", {}), r"encoder_dict of the checkpoint holds no blocks"),
    "one prompt head": (_replace("feature_dict", {}), "feature_dict of the checkpoint is a dict: expected a list of"),
    "three prompt heads": (_replace("feature_dict", [{}] * 3), r"feature_dict .* has 3 entries: expected 4 prompt"),
    "decoder is a tensor": (_replace("decoder_dict", torch.zeros(1)), "decoder_dict .* is a Tensor: expected a dict"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_bad_checkpoints(published: Checkpoint, spoil: Callable[[Checkpoint], Any], message: str) -> None:
    spoil(published)
    with pytest.raises(ValueError, match=message):
        load_published(published, **SETTINGS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_size": 0}, "window_size=0"),
        ({"prompt_heads": 0}, "prompt_heads=0"),
        ({"prompt_heads": 3}, "num_heads=3 does not divide half the width of the prompt head, 16"),
    ],
)
def test_bad_settings(published: Checkpoint, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_published(published, **settings)


def test_a_state_dict_of_ours_is_not_published() -> None:
    state = build_sam_adapter3d("tiny", crop_size=16).state_dict()
    with pytest.raises(ValueError, match="is no published 3DSAM-adapter checkpoint: expected encoder_dict"):
        load_published(state)


@pytest.fixture
def fitting(published: Checkpoint) -> SAMAdapter3D:
    return build_described(describe_network(load_published(published, **SETTINGS)))


@pytest.mark.parametrize("correction", [{"correction_channels": 3}, {"correction": False}])
def test_what_we_add_is_the_networks_own_affair(published: Checkpoint, correction: dict[str, Any]) -> None:
    described = describe_network(load_published(published, **SETTINGS))
    described["parts"]["mask_decoder"] |= correction
    described["parts"]["prompt_head"]["prompt_levels"] = [2, 4]
    network = build_described(described)
    before = snapshot(network)
    load_published(published, network=network)
    kept = [name for name in before if "correction" in name or "label_embed" in name]
    assert all(torch.equal(before[name], network.state_dict()[name]) for name in kept)
    assert len(kept) == (24 if "correction_channels" in correction else 2)


def test_into_a_given_network(published: Checkpoint, fitting: SAMAdapter3D) -> None:
    assert load_published(published, network=fitting) is fitting
    expected = load_published(published, **SETTINGS)
    assert torch.equal(fitting.mask_decoder.fuse.weight, expected.mask_decoder.fuse.weight)


def test_another_variant_is_named_and_left_alone(published: Checkpoint) -> None:
    network = build_sam_adapter3d("tiny", crop_size=32)
    before = snapshot(network)
    with pytest.raises(
        ValueError, match=r"variant custom \(width 48, 12 blocks, 3 heads\), but the network is of variant tiny"
    ):
        load_published(published, network=network)
    assert same(before, network.state_dict())


def test_a_bad_tensor_leaves_the_given_network_alone(published: Checkpoint, fitting: SAMAdapter3D) -> None:
    before = snapshot(fitting)
    del published["decoder_dict"]["cls.0.weight"]
    with pytest.raises(ValueError, match=r"lacks tensor decoder_dict\.cls\.0\.weight"):
        load_published(published, network=fitting)
    assert same(before, fitting.state_dict())


def test_another_crop_is_named(published: Checkpoint, fitting: SAMAdapter3D) -> None:
    published["encoder_dict"]["depth_embed"] = torch.zeros(1, 16, 48)
    with pytest.raises(
        ValueError, match=r"made with image_encoder\.crop_size=64, but the network has image_encoder\.crop_size=32"
    ):
        load_published(published, network=fitting)


def test_components_of_the_users_own_are_refused(published: Checkpoint, fitting: SAMAdapter3D) -> None:
    fitting.prompt_head = torch.nn.Identity()
    with pytest.raises(ValueError, match="the network has components of its own"):
        load_published(published, network=fitting)
