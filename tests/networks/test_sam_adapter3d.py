"""What SAMAdapter3D promises to its callers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from clicking import clicked
from monai.data import MetaTensor, list_data_collate
from torch import Tensor, nn

from adapters.networks import (
    BACKBONES,
    Backbone,
    SAMAdapter3D,
    Sizes,
    build_image_encoder,
    build_mask_decoder,
    build_prompt_head,
    build_sam_adapter3d,
    count_parameters,
    get_backbone,
    get_sizes,
    set_trainable,
)
from adapters.networks.layers.attention import WindowAttention3D
from adapters.networks.layers.patches import PatchEmbedding3D
from adapters.networks.layers.points import click_maps, sample_feature
from adapters.networks.samadapter3d.correction import CorrectionPrompt, click_ellipsoid
from adapters.networks.samadapter3d.prompt_head import PointSamplerHead

SMALL = Sizes(
    Backbone("small", embed_dim=16, depth=4, num_heads=2, global_blocks=(1,), table_size=8, sam_window=4),
    window_size=4,
    out_channels=16,
    prompt_heads=2,
    prompt_mlp_dim=32,
    head_channels=8,
)
CROP = (16, 24, 20)
ZERO_AT_START = ("correction.to_", "label_embed")


@pytest.fixture
def network() -> SAMAdapter3D:
    """Weights off their start, except those that must begin at zero."""
    made = build_sam_adapter3d(SMALL, CROP).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not any(part in name for part in ZERO_AT_START):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


@pytest.fixture
def corrected(network: SAMAdapter3D) -> SAMAdapter3D:
    """The same, with a label embedding and correction that have learnt something."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(part in name for part in ZERO_AT_START):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return network


@pytest.fixture
def image() -> Tensor:
    return torch.randn(3, 1, *CROP)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).detach().norm() / reference.detach().norm())


def outlets(network: SAMAdapter3D) -> list[nn.Module]:
    """The convolutions that start at zero, through which the correction reaches the decoder."""
    found = [module for name, module in network.mask_decoder.correction.named_children() if name.startswith("to_")]
    assert len(found) >= 2
    return found


def without_our_parts(network: SAMAdapter3D) -> SAMAdapter3D:
    """The published network with the same weights: no correction, and a label embedding that does nothing."""
    bare = SAMAdapter3D(
        network.image_encoder, build_prompt_head(SMALL), build_mask_decoder(SMALL, correction=False)
    ).eval()
    bare.prompt_head.load_state_dict(network.prompt_head.state_dict())
    missing = bare.mask_decoder.load_state_dict(network.mask_decoder.state_dict(), strict=False)
    assert not missing.missing_keys
    assert all(key.startswith("correction.") for key in missing.unexpected_keys)
    return bare


CLICKS = torch.tensor([[3.0, 4.0, 5.0], [10.25, 20.5, 12.0], [15.5, -0.5, 19.5], [0.0, 23.0, 7.75]])
LABELS = torch.tensor([1, 0, 1, 0])


def test_shapes(network: SAMAdapter3D, image: Tensor) -> None:
    features = network.encode(image)
    assert network.voxels_per_token == 4
    assert [tuple(level.shape) for level in features.levels] == [(3, 16, 4, 6, 5)] * 4
    assert features.context.shape == (3, 8, 8, 12, 10)
    given = clicked(CLICKS.repeat(3, 1, 1), LABELS.repeat(3, 1), torch.zeros(3, 1, *CROP))
    logits = network.logits(features, image, given)
    assert logits.shape == (3, 2, *CROP)
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())
    assert float(logits.detach().std()) > 0


def test_forward_is_encode_and_decode(corrected: SAMAdapter3D, image: Tensor) -> None:
    clicks, labels, mask = CLICKS.repeat(3, 1, 1), LABELS.repeat(3, 1), torch.randn(3, 1, *CROP)
    features = corrected.encode(image)
    for given in ((), (clicks,), (clicks, labels), (clicks, labels, mask), (None, None, mask)):
        logits = corrected(image, clicked(*given))
        assert torch.equal(logits, corrected.logits(features, image, clicked(*given)))
        assert torch.equal(logits[:, 1:] - logits[:, :1], corrected.decode(features, image, clicked(*given)))


def test_recomputing_keeps_less_for_the_same_gradients(network: SAMAdapter3D, image: Tensor) -> None:
    def gradients() -> tuple[int, dict[str, Tensor]]:
        kept = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        network.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = network(image[:1], clicked(CLICKS[None])).square().mean()
        loss.backward()
        return kept, {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    much, expected = gradients()
    network.image_encoder.recompute = True
    little, found = gradients()
    assert little < 0.7 * much
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_batch_with_padding_equals_item_by_item(
    corrected: SAMAdapter3D, image: Tensor, with_mask: bool, grad: bool
) -> None:
    counts = [1, 4, 0]
    clicks = torch.full((3, 4, 3), -1000.0)
    labels = torch.full((3, 4), -1)
    for item, count in enumerate(counts):
        clicks[item, :count], labels[item, :count] = CLICKS[:count], LABELS[:count]
    mask = 5 * torch.randn(3, 1, *CROP) if with_mask else None
    with torch.set_grad_enabled(grad):
        together = corrected(image, clicked(clicks, labels, mask))
        for item, count in enumerate(counts):
            part = slice(item, item + 1)
            standing = None if mask is None else mask[part]
            alone = corrected(image[part], clicked(CLICKS[None, :count], LABELS[None, :count], standing))
            assert relative_error(together[part], alone) <= 1e-5


@pytest.mark.parametrize(
    ("clicks", "labels"),
    [(torch.zeros(3, 0, 3), torch.zeros(3, 0, dtype=torch.long)), (torch.zeros(3, 5, 3), torch.full((3, 5), -1))],
    ids=["no clicks", "only padding"],
)
def test_no_click_is_automatic(corrected: SAMAdapter3D, image: Tensor, clicks: Tensor, labels: Tensor) -> None:
    automatic = corrected(image)
    assert torch.equal(corrected(image, clicked(clicks, labels)), automatic)
    assert not torch.allclose(corrected(image, clicked(CLICKS.repeat(3, 1, 1))), automatic)
    mask = torch.randn(3, 1, *CROP)
    assert torch.equal(corrected(image, clicked(clicks, labels, mask)), corrected(image, clicked(mask=mask)))


def test_automatic_skips_the_prompt_head(network: SAMAdapter3D, image: Tensor) -> None:
    class Never(nn.Module):
        def forward(self, *_: Any) -> Tensor:
            raise AssertionError("the prompt head was called without a click")

    network.prompt_head = Never()
    assert network(image).shape == (3, 2, *CROP)


def test_order_of_clicks_does_not_matter(corrected: SAMAdapter3D, image: Tensor) -> None:
    order = [2, 0, 3, 1]
    one = corrected(image[:1], clicked(CLICKS[None], LABELS[None]))
    other = corrected(image[:1], clicked(CLICKS[None, order], LABELS[None, order]))
    assert relative_error(other, one) <= 1e-5


def test_padding_anywhere_does_not_matter(corrected: SAMAdapter3D, image: Tensor) -> None:
    one = corrected(image[:1], clicked(CLICKS[None], LABELS[None]))
    clicks = torch.stack([CLICKS[0], torch.zeros(3), *CLICKS[1:], torch.full((3,), 1e6)])[None]
    labels = torch.tensor([[1, -1, 0, 1, 0, -1]])
    assert relative_error(corrected(image[:1], clicked(clicks, labels)), one) <= 1e-5


def test_a_click_depends_on_its_fraction(corrected: SAMAdapter3D, image: Tensor) -> None:
    """A click half-way between two voxels gives a sample half-way between theirs, as long as no cell edge is passed."""
    feature = corrected.encode(image).levels[-1]
    clicks = torch.tensor([[[6.0, 7.0, 8.0], [7.0, 7.0, 8.0], [6.5, 7.0, 8.0]]]).repeat(3, 1, 1)
    low, high, middle = sample_feature(feature, clicks, CROP).unbind(1)
    torch.testing.assert_close(middle, (low + high) / 2)
    assert not torch.allclose(low, high)
    at = [corrected(image, clicked(clicks[:, i : i + 1])) for i in range(3)]
    assert relative_error(at[2], at[0]) > 1e-5
    assert relative_error(at[2], at[1]) > 1e-5


def test_samples_are_the_feature_at_token_centres() -> None:
    feature = torch.randn(1, 3, 4, 6, 5)
    # the centre of token (1, 4, 2) of 4 voxels each is voxel (5.5, 17.5, 9.5)
    sampled = sample_feature(feature, torch.tensor([[[5.5, 17.5, 9.5]]]), CROP)
    torch.testing.assert_close(sampled[0, 0], feature[0, :, 1, 4, 2])


def test_integer_clicks_are_taken(corrected: SAMAdapter3D, image: Tensor) -> None:
    whole = torch.tensor([[[3, 4, 5]]])
    assert torch.equal(corrected(image[:1], clicked(whole)), corrected(image[:1], clicked(whole.float())))


# what our parts add at the start


def test_positive_clicks_give_the_published_numbers_at_the_start(network: SAMAdapter3D, image: Tensor) -> None:
    bare = without_our_parts(network)
    nn.init.zeros_(bare.prompt_head.label_embed.weight)
    clicks = CLICKS.repeat(3, 1, 1)
    assert torch.equal(network(image, clicked(clicks)), bare(image, clicked(clicks)))
    assert torch.equal(network(image, clicked(clicks, torch.ones(3, 4))), bare(image, clicked(clicks)))
    assert torch.equal(network(image), bare(image))


def test_negative_click_matters_from_the_start(network: SAMAdapter3D, image: Tensor) -> None:
    positive = network(image[:1], clicked(CLICKS[None, :1], torch.tensor([[1]])))
    negative = network(image[:1], clicked(CLICKS[None, :1], torch.tensor([[0]])))
    assert relative_error(negative, positive) > 1e-4
    one_of_two = network(image[:1], clicked(CLICKS[None, :2], torch.tensor([[1, 0]])))
    assert relative_error(one_of_two, network(image[:1], clicked(CLICKS[None, :2]))) > 1e-5


@pytest.mark.parametrize("with_clicks", [False, True])
def test_mask_matters_only_once_learnt(network: SAMAdapter3D, image: Tensor, with_clicks: bool) -> None:
    clicks = CLICKS.repeat(3, 1, 1) if with_clicks else None
    mask = 10 * torch.randn(3, 1, *CROP)
    at_start = network(image, clicked(clicks))
    assert torch.equal(network(image, clicked(clicks, mask=mask)), at_start)

    for conv in outlets(network):
        nn.init.normal_(conv.weight, std=0.3)
        changed = network(image, clicked(clicks, mask=mask))
        assert relative_error(changed, at_start) > 1e-3
        assert relative_error(network(image, clicked(clicks, mask=-mask)), changed) > 1e-3
        nn.init.zeros_(conv.weight)


def test_mask_and_clicks_leave_the_kept_embedding_alone(corrected: SAMAdapter3D, image: Tensor) -> None:
    with torch.no_grad():
        features = corrected.encode(image)
        kept = [t.clone() for t in (*features.levels, features.context)]
        corrected.decode(
            features, image, clicked(CLICKS.repeat(3, 1, 1), LABELS.repeat(3, 1), torch.randn(3, 1, *CROP))
        )
    for now, before in zip((*features.levels, features.context), kept, strict=True):
        assert torch.equal(now, before)


def test_a_meta_tensor_is_an_image_like_any_other(network: SAMAdapter3D, image: Tensor) -> None:
    metas = list_data_collate([MetaTensor(item, meta={"name": str(n)}) for n, item in enumerate(image)])
    assert isinstance(metas, MetaTensor)
    assert len(metas) > 1
    logits = network(metas)
    assert type(logits) is Tensor
    assert torch.equal(logits, network(image))


def test_encoder_leaves_its_input_alone(network: SAMAdapter3D, image: Tensor) -> None:
    before = image.clone()
    with torch.no_grad():
        first = network(image)
        assert torch.equal(network(image), first)
    assert torch.equal(image, before)


def test_the_clicks_ellipsoid_finds_the_one_they_were_drawn_from() -> None:
    axes = torch.meshgrid(*[torch.arange(48.0)] * 3, indexing="ij")
    centre, semi = torch.tensor([24.0, 20.0, 26.0]), torch.tensor([16.0, 10.0, 8.0])
    truth = (((torch.stack(axes, dim=-1) - centre) / semi) ** 2).sum(dim=-1) < 1
    inside = truth.nonzero().float()
    drawn = inside[torch.randint(len(inside), (300,), generator=torch.Generator().manual_seed(0))]
    clicks = torch.cat([drawn, torch.zeros(2, 3)])[None]
    labels = torch.tensor([[1] * 300 + [0, -1]])  # one far off the lesion and one padded, neither counts
    found = click_ellipsoid(clicks, labels, (48, 48, 48), (48, 48, 48))[0, 0] > torch.exp(torch.tensor(-1.0))
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.93


def test_the_ellipsoid_of_one_click_is_a_ball_of_the_usual_size() -> None:
    clicks = torch.tensor([[[20.0, 20.0, 20.0]], [[5.0, 5.0, 5.0]]])
    found = click_ellipsoid(clicks, torch.tensor([[1], [0]]), (40, 40, 40), (40, 40, 40))
    # one click and a prior of two clicks' weight: variance 2/3 of (40 / 10)^2
    expected = torch.exp(torch.tensor(-(3.0**2) / (2 / 3 * 16) / 5))
    torch.testing.assert_close(found[0, 0, 23, 20, 20], expected)
    torch.testing.assert_close(found[0, 0, 20, 17, 20], expected)
    assert not found[1].any()


def test_the_correction_prompt_sees_how_many_clicks_there_are_and_whether_a_mask_stands() -> None:
    correction = CorrectionPrompt(8, 8, channels=4)
    image = torch.zeros(2, 1, 8, 8, 8)
    labels = torch.tensor([[1, 1, 1, 0], [1, -1, -1, -1]])
    clicks = torch.full((2, 4, 3), 2.0)
    without = correction._inputs(image, clicks, labels, None, (4, 4, 4))
    standing = correction._inputs(image, clicks, labels, torch.full_like(image, -20.0), (4, 4, 4))
    numbers = 0.5 * torch.log1p(torch.tensor([[3.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(without[:, 3:5, 0, 0, 0], numbers)
    torch.testing.assert_close(without[:, 1:3], torch.zeros(2, 2, 4, 4, 4))
    torch.testing.assert_close(standing[:, 1], torch.full((2, 4, 4, 4), -1.0))
    torch.testing.assert_close(standing[:, 2], torch.ones(2, 4, 4, 4))


def test_dropout_is_for_training_alone() -> None:
    torch.manual_seed(0)
    network = build_sam_adapter3d(SMALL, 32, mask_decoder={"dropout": 0.5})
    image, clicks = torch.randn(1, 1, 32, 32, 32), torch.tensor([[[16.0, 16.0, 16.0]]])
    with torch.no_grad():
        network.train()
        assert not torch.equal(network(image, clicked(clicks)), network(image, clicked(clicks)))
        network.eval()
        assert torch.equal(network(image, clicked(clicks)), network(image, clicked(clicks)))


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_out_of_range(dropout: float) -> None:
    with pytest.raises(ValueError, match=f"dropout={dropout}: expected a share of at least 0 and below 1"):
        build_mask_decoder(SMALL, dropout=dropout)


def test_click_maps_peak_at_the_click() -> None:
    clicks = torch.tensor([[[5.0, 6.0, 7.0], [2.0, 3.0, 4.0], [1.0, 1.0, 1.0]]])
    maps = click_maps(clicks, torch.tensor([[1, 0, -1]]), (12, 12, 12), (12, 12, 12), 2.0)
    assert maps.shape == (1, 2, 12, 12, 12)
    assert maps[0, 0, 5, 6, 7].item() == pytest.approx(1.0)
    assert maps[0, 0, 7, 6, 7].item() == pytest.approx(0.60653066)  # one standard deviation away
    assert maps[0, 1].argmax().item() == (2 * 12 + 3) * 12 + 4
    assert maps[0, :, 1, 1, 1].max() < 0.9  # padding leaves nothing
    # at half the resolution a sample lies between two voxels: 5 is half a voxel from the sample at 4.5
    halved = click_maps(clicks[:, :1], torch.tensor([[1]]), (12, 12, 12), (6, 6, 6), 2.0)
    assert halved[0, 0, 2, 3, 3].item() == pytest.approx(float(torch.tensor(-0.5 * 3 * 0.25**2).exp()))
    assert halved[0, 1].max().item() == 0.0


# what trains


@pytest.mark.parametrize("trainable", ["published", "all", "decoder"])
def test_gradient_reaches_exactly_what_trains(network: SAMAdapter3D, image: Tensor, trainable: Any) -> None:
    set_trainable(network, trainable)
    for conv in outlets(network):
        nn.init.normal_(conv.weight, std=0.1)  # zero weights pass no gradient on
    logits = network(image, clicked(CLICKS.repeat(3, 1, 1), LABELS.repeat(3, 1), torch.randn(3, 1, *CROP)))
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in network.named_parameters():
        if "cross_attn_token_to_image" in name:  # carried for the checkpoints' sake, never called
            assert parameter.grad is None
        elif parameter.requires_grad:
            assert parameter.grad is not None, name
            assert float(parameter.grad.norm()) > 0, name
        else:
            assert parameter.grad is None, name


def trained(network: SAMAdapter3D) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_published_trains_adapters_norms_necks_and_depth(network: SAMAdapter3D) -> None:
    block = {
        *(f"adapter.{layer}.{kind}" for layer in ("down", "conv", "up") for kind in ("weight", "bias")),
        *(f"{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")),
        "attn.rel_pos_d",
    }
    neck = {"reduce.weight", "conv.weight", *(f"norm{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias"))}
    wanted = {f"image_encoder.blocks.{i}.{name}" for i in range(4) for name in block}
    wanted |= {f"image_encoder.necks.{i}.{name}" for i in range(4) for name in neck}
    wanted |= {f"image_encoder.{n}" for n in ("depth_embed", "patch_embed.depth_weight", "patch_embed.depth_bias")}
    assert {name for name in trained(network) if name.startswith("image_encoder.")} == wanted
    rest = {n for n, _ in network.named_parameters() if not n.startswith("image_encoder.")}
    assert rest <= trained(network)


def test_set_trainable_can_be_changed_and_hands_the_network_back(network: SAMAdapter3D) -> None:
    everything = {name for name, _ in network.named_parameters()}
    published = trained(network)
    assert set_trainable(network, "decoder") is network
    assert trained(network) == {name for name in everything if not name.startswith("image_encoder.")}
    set_trainable(network, "all")
    assert trained(network) == {name for name in everything if not name.endswith("rel_pos_gain")}
    assert trained(set_trainable(network)) == published


def test_what_is_ours_and_the_prompts_can_be_left_untrained(network: SAMAdapter3D) -> None:
    everything = {name for name, p in set_trainable(network).named_parameters() if p.requires_grad}
    published = {name for name, p in set_trainable(network, added=False).named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in everything - published} == {"label_embed", "correction"}
    automatic = {n for n, p in set_trainable(network, added=False, prompts=False).named_parameters() if p.requires_grad}
    assert published - automatic == {name for name in published if name.startswith("prompt_head.")}


def test_untrained_label_embeddings_are_the_same_everywhere() -> None:
    """Published weights do not hold them, and score alike wherever they are loaded."""
    first, second = (build_prompt_head(SMALL).label_embed.weight for _ in range(2))
    assert torch.equal(first, second)
    assert first[0].any()


def test_count_parameters_sums_to_what_there_is(network: SAMAdapter3D) -> None:
    counts = count_parameters(network, trainable_only=False)
    assert sum(counts.values()) == sum(p.numel() for p in network.parameters())
    correction = sum(p.numel() for p in network.mask_decoder.correction.parameters())
    assert counts["added"] == correction + network.prompt_head.label_embed.weight.numel()
    assert count_parameters(set_trainable(network, "decoder"))["image_encoder"] == 0


# bad input

GOOD = torch.zeros(1, 1, *CROP)
POINT = torch.tensor([[[3.0, 4.0, 5.0]]])
BAD_CALLS = {
    "2D image": ((torch.zeros(1, 1, 16, 16),), r"image has shape \(1, 1, 16, 16\): expected \(B, 1, D, H, W\)"),
    "no batch": ((torch.zeros(1, 16, 16, 16),), r"image has shape \(1, 16, 16, 16\): expected \(B, 1, D, H, W\)"),
    "4D image": ((torch.zeros(1, 1, 16, 16, 16, 2),), r"image has shape \(1, 1, 16, 16, 16, 2\)"),
    "two channels": ((torch.zeros(1, 2, 16, 16, 16),), r"\(1, 2, 16, 16, 16\): expected .* one channel of a 3D crop"),
    "no multiple of the patch": (
        (torch.zeros(1, 1, 16, 18, 16),),
        r"\(16, 18, 16\) does not fit the patches: .* each a positive multiple of 4 voxels",
    ),
    "crop too small": ((torch.zeros(1, 1, 16, 16, 2),), r"\(16, 16, 2\) does not fit the patches"),
    "empty crop": ((torch.zeros(1, 1, 16, 0, 16),), r"\(16, 0, 16\) does not fit the patches"),
    "click behind the crop": (
        (GOOD, torch.tensor([[[3.0, 4.0, 5.0], [16.0, 4.0, 5.0]]])),
        r"point \[16.0, 4.0, 5.0\] lies outside the crop of \(16, 24, 20\) voxels",
    ),
    "crop of one token": ((torch.zeros(1, 1, 4, 4, 4),), r"\(4, 4, 4\) voxels is a single token"),
    "mask of another grid": ((GOOD, POINT, None, torch.zeros(1, 1, 16, 16, 16)), r"mask has shape .* image's grid"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_calls(network: SAMAdapter3D, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(arguments[0], clicked(*arguments[1:]))


BAD_BUILDS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "unknown variant": (
        build_sam_adapter3d,
        {"variant": "vit_x"},
        r"unknown variant 'vit_x': expected one of tiny, vit_b, vit_l, vit_h",
    ),
    "unknown encoder": (build_image_encoder, {"variant": "vit"}, r"unknown variant 'vit'"),
    "unknown head": (build_prompt_head, {"variant": ""}, r"unknown variant ''"),
    "unknown decoder": (build_mask_decoder, {"variant": "b"}, r"unknown variant 'b'"),
    "unknown trainable": (
        build_sam_adapter3d,
        {"variant": SMALL, "crop_size": 16, "trainable": "encoder"},
        r"trainable='encoder': expected one of published, all, decoder",
    ),
    "crop no multiple": (build_sam_adapter3d, {"variant": SMALL, "crop_size": 30}, r"\(30, 30, 30\) does not fit"),
    "crop too small": (build_sam_adapter3d, {"variant": SMALL, "crop_size": 2}, r"\(2, 2, 2\) does not fit"),
    "2D crop": (build_sam_adapter3d, {"variant": SMALL, "crop_size": (16, 16)}, r"\(16, 16\) does not fit"),
    "crop of the other enlargement": (
        build_sam_adapter3d,
        {"variant": SMALL, "crop_size": 20, "enlargement": 2},
        r"each a positive multiple of 8 voxels",
    ),
    "enlargement": (
        build_sam_adapter3d,
        {"variant": SMALL, "crop_size": 16, "enlargement": 3},
        r"enlargement=3: expected 1, 2, 4 or 8",
    ),
    "depth": (
        build_image_encoder,
        {"variant": SMALL, "crop_size": 16, "depth": 6},
        r"depth=6: expected a multiple of 4",
    ),
    "no level": (
        build_image_encoder,
        {"variant": SMALL, "crop_size": 16, "levels": 0},
        r"levels=0: expected 1 or more",
    ),
    "no branch": (build_mask_decoder, {"variant": SMALL, "levels": 0}, r"levels=0: expected 1 or more"),
    "prompts at a level that is not there": (
        build_sam_adapter3d,
        {"variant": replace(SMALL, levels=2), "crop_size": 16, "prompt_head": {"prompt_levels": [2, 4]}},
        r"prompts the levels 2 besides the deepest, the image encoder has 2",
    ),
    "table": (build_image_encoder, {"variant": SMALL, "crop_size": 16, "table_size": 7}, r"table_size=7: .* even"),
    "heads": (WindowAttention3D, {"dim": 10, "num_heads": 4, "table_length": 7}, r"num_heads=4 does not divide .*=10"),
    "no deepest level": (PointSamplerHead, {"dim": 16, "prompt_levels": (2, 3)}, r"prompt_levels=\[2, 3\]: expected 4"),
    "no such level": (PointSamplerHead, {"dim": 16, "prompt_levels": [4, 5]}, r"prompt_levels=\[4, 5\]: .* 1, 2, 3"),
    "prompt heads": (PointSamplerHead, {"dim": 20, "num_heads": 4}, r"num_heads=4 does not divide half .*, 10"),
}


@pytest.mark.parametrize(("build", "arguments", "message"), BAD_BUILDS.values(), ids=BAD_BUILDS.keys())
def test_bad_builds(build: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


# sizes


def test_registry() -> None:
    assert list(BACKBONES) == ["tiny", "vit_b", "vit_l", "vit_h"]
    assert all(get_backbone(name).name == name for name in BACKBONES)
    assert get_sizes(SMALL) is SMALL
    assert get_sizes(SMALL.backbone) == Sizes(SMALL.backbone)
    published = {name: (b.embed_dim, b.depth, b.num_heads, b.global_blocks) for name, b in BACKBONES.items()}
    assert published["vit_b"] == (768, 12, 12, (2, 5, 8, 11))
    assert published["vit_l"] == (1024, 24, 16, (5, 11, 17, 23))
    assert published["vit_h"] == (1280, 32, 16, (7, 15, 23, 31))


@pytest.mark.parametrize("name", BACKBONES)
def test_variants_define_the_network(name: str) -> None:
    sizes = get_sizes(name)
    backbone = sizes.backbone
    with torch.device("meta"):
        network = build_sam_adapter3d(name, 64)
    encoder = network.image_encoder
    assert len(encoder.blocks) == backbone.depth
    assert encoder.depth_embed.shape == (1, 16, backbone.embed_dim)
    assert encoder.pos_embed.shape == (1, backbone.table_size, backbone.table_size, backbone.embed_dim)
    for index, block in enumerate(encoder.blocks):
        side = backbone.table_size if index in backbone.global_blocks else backbone.sam_window
        assert block.attn.rel_pos_h.shape == (2 * side - 1, backbone.embed_dim // backbone.num_heads)
        assert block.shift == (index % 2 == 0)
        assert block.window_size == sizes.window_size
    assert network.mask_decoder.classify.weight.shape == (2, sizes.head_channels, 3, 3, 3)


def test_builders_take_overrides() -> None:
    network = build_sam_adapter3d(
        replace(SMALL, head_channels=4),
        16,
        image_encoder={"window_size": 2},
        prompt_head={"num_queries": 3},
        mask_decoder={"correction": False},
    )
    assert network.image_encoder.blocks[0].window_size == 2
    assert network.prompt_head.layers[0].global_query.shape == (1, 3, 16)
    assert network.mask_decoder.correction is None
    assert network.mask_decoder.fuse.weight.shape == (4, 17, 3, 3, 3)


def test_shallower_levels_are_prompted_by_heads_of_their_own() -> None:
    network = build_sam_adapter3d(SMALL, CROP, prompt_head={"prompt_levels": (4, 2)}).eval()
    heads = network.prompt_head.shallower
    assert list(heads) == ["2"]
    features = network.encode(GOOD + 1)
    second, last = features.levels[1], features.levels[3]
    prompted = [
        head(level, POINT, torch.ones(1, 1, dtype=torch.long), CROP)
        for head, level in ((heads["2"], second), (network.prompt_head, last))
    ]
    levels = (features.levels[0], prompted[0], features.levels[2], prompted[1])
    context = network.mask_decoder.context(levels, GOOD + 1)
    labels = torch.ones(1, 1, dtype=torch.long)
    expected = network.mask_decoder(context, prompted[1], GOOD + 1, POINT, labels)
    assert torch.equal(network(GOOD + 1, clicked(POINT)), expected)
    assert not torch.allclose(context, features.context)
    assert torch.equal(network(GOOD + 1), network.mask_decoder(features.context, last, GOOD + 1))


def test_as_published_the_deepest_level_alone_is_prompted() -> None:
    network = build_sam_adapter3d(SMALL, CROP, prompt_head={"prompt_levels": [4]})
    assert network.state_dict().keys() == build_sam_adapter3d(SMALL, CROP).state_dict().keys()
    more = build_sam_adapter3d(SMALL, CROP, prompt_head={"prompt_levels": [1, 2, 3, 4]})
    ours, theirs = count_parameters(network), count_parameters(more)
    assert {part: ours[part] for part in ours if part != "added"} == {p: theirs[p] for p in theirs if p != "added"}
    head = sum(parameter.numel() for parameter in network.prompt_head.parameters())
    assert theirs["added"] - ours["added"] == 3 * head


def test_parts_can_be_replaced() -> None:
    """Any module with the same calls works in the place of a component."""

    class Doubled(nn.Module):
        def forward(self, feature: Tensor, clicks: Tensor, labels: Tensor, crop_shape: tuple[int, ...]) -> Tensor:
            return feature * (1 + clicks.shape[1])

    decoder = build_mask_decoder(SMALL, correction=False)
    network = SAMAdapter3D(build_image_encoder(SMALL, crop_size=CROP), Doubled(), decoder).eval()
    features = network.encode(GOOD + 1)
    doubled = features._replace(levels=(*features.levels[:3], 2 * features.levels[3]))
    assert torch.equal(network(GOOD + 1, clicked(POINT)), network.logits(doubled, GOOD + 1))
    assert not torch.equal(network(GOOD + 1, clicked(POINT)), network(GOOD + 1))


def test_position_tables_of_another_crop() -> None:
    encoder = build_image_encoder(SMALL, crop_size=16)  # made for 4 x 4 x 4 tokens
    nn.init.normal_(encoder.depth_embed)
    own = encoder.positions((4, 4, 4))
    pooled = F.avg_pool2d(encoder.pos_embed.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(own, encoder.depth_embed[:, :, None, None] + pooled[:, None])

    other = encoder.positions((8, 2, 12))
    assert other.shape == (1, 8, 2, 12, 16)
    along = F.interpolate(encoder.depth_embed.transpose(1, 2), size=8, mode="linear").transpose(1, 2)
    plane = F.interpolate(pooled.permute(0, 3, 1, 2), size=(2, 12), mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(other, along[:, :, None, None] + plane[:, None])


@pytest.mark.parametrize("crop", [(16, 16, 16), (32, 20, 24), (8, 4, 4), (64, 16, 8)])
def test_other_crops_than_the_one_it_was_made_for(crop: tuple[int, int, int]) -> None:
    network = build_sam_adapter3d(SMALL, CROP).eval()
    with torch.no_grad():
        logits = network(torch.randn(2, 1, *crop), clicked(torch.zeros(2, 1, 3)))
    assert logits.shape == (2, 2, *crop)
    assert bool(logits.isfinite().all())


def test_automatic_mode_enlarges_twice() -> None:
    network = build_sam_adapter3d("tiny", 64, enlargement=2).eval()
    assert network.voxels_per_token == 8
    image = torch.randn(1, 1, 64, 64, 64)
    with torch.no_grad():
        features = network.encode(image)
        assert features.levels[-1].shape[2:] == (8, 8, 8)
        assert features.context.shape[2:] == (16, 16, 16)
        logits = network.logits(features, image)
    assert logits.shape == (1, 2, 64, 64, 64)
    with pytest.raises(ValueError, match="multiple of 8 voxels"):
        network(image[:, :, :60])


def test_patch_embedding_starts_as_a_mean_along_depth() -> None:
    """The new convolution along depth starts as an average, so a constant volume looks to SAM like its 2D image."""
    embedding = PatchEmbedding3D(6)
    tokens = embedding(torch.full((1, 1, 8, 8, 8), 0.7))
    plane = embedding.plane(torch.full((1, 3, 16, 16), 0.7)).flatten()
    torch.testing.assert_close(tokens, plane.expand_as(tokens))


def test_state_dict_round_trip(corrected: SAMAdapter3D, image: Tensor) -> None:
    other = build_sam_adapter3d(SMALL, CROP).eval()
    other.load_state_dict(corrected.state_dict())
    clicks, labels = CLICKS.repeat(3, 1, 1), LABELS.repeat(3, 1)
    assert torch.equal(other(image, clicked(clicks, labels)), corrected(image, clicked(clicks, labels)))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_bfloat16_autocast_works_throughout(corrected: SAMAdapter3D, image: Tensor, grad: bool) -> None:
    clicks, labels, mask = CLICKS.repeat(3, 1, 1), LABELS.repeat(3, 1), torch.randn(3, 1, *CROP)
    reference = corrected(image, clicked(clicks, labels, mask))
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = corrected(image, clicked(clicks, labels, mask))
    assert relative_error(logits.float(), reference) < 0.1


def test_dropout_in_place_of_the_decoders_own() -> None:
    """MONAI Label sets it in ``network_def`` for its scores."""
    parts = build_sam_adapter3d(SMALL, CROP, mask_decoder={"dropout": 0.3})
    assert SAMAdapter3D(parts.image_encoder, parts.prompt_head, parts.mask_decoder).mask_decoder.dropout.p == 0.3
    network = SAMAdapter3D(parts.image_encoder, parts.prompt_head, parts.mask_decoder, dropout=0.6)
    assert network.mask_decoder.dropout.p == 0.6
    with pytest.raises(ValueError, match=r"dropout=1\.0: expected a share of at least 0 and below 1"):
        SAMAdapter3D(parts.image_encoder, parts.prompt_head, parts.mask_decoder, dropout=1.0)
    with pytest.raises(ValueError, match="and a decoder with a layer `dropout`"):
        SAMAdapter3D(parts.image_encoder, parts.prompt_head, torch.nn.Identity(), dropout=0.2)


@pytest.mark.parametrize("state", [{}, {"epoch": torch.ones(1), "parts": torch.ones(1)}])
def test_weights_of_no_part_are_refused_however_they_are_loaded(state: dict[str, Tensor]) -> None:
    network = build_sam_adapter3d(SMALL, CROP)
    with pytest.raises(ValueError, match="none of the network's weights: take a file with a plain state dict"):
        network.load_state_dict(state, strict=False)
    part = {"mask_decoder.classify.weight": torch.zeros_like(network.mask_decoder.classify.weight)}
    network.load_state_dict(part, strict=False)
    assert not network.mask_decoder.classify.weight.any()
