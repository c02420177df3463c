"""The slots of a block: each is called where it stands, and none costs anything while it is empty."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.networks import (
    TUNING,
    Backbone,
    BlockPlace,
    BlockTuning,
    ImageEncoder3D,
    Sizes,
    build_image_encoder,
    build_sam_adapter3d,
    set_trainable,
)
from adapters.networks.description import describe_network
from adapters.networks.families import build_described
from adapters.networks.roles import roles

SMALL = Sizes(
    Backbone("small", embed_dim=16, depth=4, num_heads=2, global_blocks=(1,), table_size=8, sam_window=4),
    window_size=2,
    levels=2,
    out_channels=16,
    prompt_heads=2,
    prompt_mlp_dim=32,
    head_channels=8,
)
CROP = 16
PLACES = [BlockPlace(16, number, closes, (4, 4, 4)) for number, closes in enumerate([False, True, False, True])]


class Everywhere(BlockTuning):
    """Has something in each slot, and hands a sum on from block to block."""

    def __init__(self, place: BlockPlace, *, factor: float = 2.0) -> None:
        super().__init__(place)
        self.place = place
        self.factor = factor
        self.scale = nn.Parameter(torch.ones(5))

    def initialise(self) -> None:
        nn.init.constant_(self.scale, 0.5)

    def before_attention(self, x: Tensor) -> Tensor:
        return x + self.scale[0]

    def after_attention(self, y: Tensor) -> Tensor:
        return y * (1 + self.scale[1])

    def beside_mlp(self, n: Tensor) -> Tensor:
        return self.scale[2] * n

    def after_mlp(self, y: Tensor) -> Tensor:
        return self.factor * self.scale[3] * y

    def after_block(self, x: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        carried = x if carried is None else carried + x
        return x + self.scale[4] * carried, carried


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> ImageEncoder3D:
    monkeypatch.setitem(TUNING, "everywhere", Everywhere)
    return build_image_encoder(SMALL, crop_size=CROP, tuning="everywhere", tuning_arguments={"factor": 3.0})


def by_hand(encoder: ImageEncoder3D, image: Tensor) -> Tensor:
    """The deepest level, with each slot written out."""
    x = encoder.patch_embed(image) + encoder.positions((4, 4, 4))
    carried = torch.zeros_like(x)
    for block in encoder.blocks:
        scale = block.adapter.scale
        x = x + scale[0]
        x = x + (1 + scale[1]) * block.attn(block.norm1(x), block.window_size, shift=block.shift)
        n = block.norm2(x)
        x = x + 3.0 * scale[3] * block.mlp(n) + scale[2] * n
        carried = carried + x
        x = x + scale[4] * carried
    return encoder.necks[-1](x)


@pytest.mark.parametrize("recompute", [False, True])
def test_every_slot_is_called_where_it_stands(everywhere: ImageEncoder3D, recompute: bool) -> None:
    image = torch.randn(2, 1, CROP, CROP, CROP)
    everywhere.recompute = recompute
    expected = by_hand(everywhere, image)
    torch.testing.assert_close(everywhere(image)[-1], expected)
    with torch.no_grad():
        torch.testing.assert_close(everywhere(image)[-1], expected)
    everywhere(image)[-1].square().sum().backward()
    assert all(bool(block.adapter.scale.grad.all()) for block in everywhere.blocks)


def test_a_method_knows_its_place_and_sets_its_starting_values(everywhere: ImageEncoder3D) -> None:
    assert [block.adapter.place for block in everywhere.blocks] == PLACES
    assert all(block.adapter.scale.tolist() == [0.5] * 5 for block in everywhere.blocks)


@pytest.mark.parametrize("grad", [True, False])
def test_empty_slots_leave_sams_block(grad: bool) -> None:
    block = build_image_encoder(SMALL, crop_size=CROP, tuning="none").blocks[0]
    assert not any(name.startswith("adapter") for name in block.state_dict())
    x = torch.randn(1, 4, 4, 4, 16)
    before = x.clone()
    with torch.set_grad_enabled(grad):
        found, carried = block(x)
    assert carried is None
    assert torch.equal(x, before)  # in place is what the block made itself
    with torch.no_grad():
        y = x + block.attn(F.layer_norm(x, (16,), eps=1e-6), 2, shift=True)
        torch.testing.assert_close(found.detach(), y + block.mlp(block.norm2(y)))


def test_what_is_trained_comes_with_the_method(everywhere: ImageEncoder3D) -> None:
    for name, _, role in roles(everywhere, "new"):
        if ".adapter." in name:
            assert role == "new", name
    network = build_sam_adapter3d(SMALL, CROP, image_encoder={"tuning": "everywhere"})
    trained = {n for n, p in network.image_encoder.named_parameters() if p.requires_grad}
    assert {f"blocks.{i}.adapter.scale" for i in range(4)} <= trained
    assert {f"blocks.{i}.norm1.weight" for i in range(4)} <= trained
    assert not any("qkv" in name or "pos_embed" in name for name in trained)
    full = set_trainable(build_sam_adapter3d(SMALL, CROP, image_encoder={"tuning": "none"}), "all")
    assert all(p.requires_grad for n, p in full.named_parameters() if "rel_pos_gain" not in n)


def test_the_method_is_stored_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TUNING, "everywhere", Everywhere)
    arguments: dict[str, Any] = {"tuning": "everywhere", "tuning_arguments": {"factor": 4.0}}
    network = build_sam_adapter3d(SMALL, CROP, image_encoder=arguments)
    built = build_described(describe_network(network))
    assert built.image_encoder.blocks[0].adapter.factor == 4.0
    other = build_sam_adapter3d(SMALL, CROP, image_encoder={**arguments, "tuning_arguments": {"factor": 5.0}})
    with pytest.raises(ValueError, match=r"tuning_arguments=\{'factor': 4.0\}, but the network has .*'factor': 5.0"):
        other.load_state_dict(network.state_dict())


def test_an_unknown_method() -> None:
    with pytest.raises(ValueError, match="tuning='lora': expected one of none, spatial"):
        build_image_encoder(SMALL, crop_size=CROP, tuning="lora")


def test_the_bottleneck_of_the_spatial_adapter() -> None:
    encoder = build_image_encoder(SMALL, crop_size=CROP, tuning_arguments={"hidden": 6})
    assert encoder.blocks[0].adapter.down.weight.shape == (6, 16)
    assert build_image_encoder(SMALL, crop_size=CROP).blocks[0].adapter.down.weight.shape == (8, 16)
