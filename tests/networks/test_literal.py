"""The fast form gives the numbers and gradients of the literal one."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from clicking import clicked
from torch import Tensor, nn

from adapters.networks import Backbone, ImageFeatures, SAMAdapter3D, Sizes, WindowAttention3D, build_sam_adapter3d
from adapters.networks.layers.attention import relative_positions, seam_masks
from adapters.networks.layers.patches import PatchEmbedding3D, enlargement_matrix
from tests.reference import literal

SMALL = Sizes(
    Backbone("small", embed_dim=24, depth=4, num_heads=3, global_blocks=(1,), table_size=16, sam_window=5),
    window_size=4,
    out_channels=16,
    prompt_heads=2,
    prompt_mlp_dim=32,
    head_channels=8,
)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    ours, reference = ours.detach().double(), reference.detach().double()
    return float((ours - reference).norm() / reference.norm())


def randomised(module: nn.Module, scale: float = 0.1) -> nn.Module:
    """Every parameter off its start, so that no table is zero and no gain is one."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=scale)
    return module


def small_network(crop: int | tuple[int, int, int] = 32, **arguments: object) -> SAMAdapter3D:
    network = build_sam_adapter3d(SMALL, crop, **arguments)  # type: ignore[arg-type]
    randomised(network)
    return network


# crop, batch, enlargement, window: the grid is crop * enlargement / 16 tokens
GRIDS = {
    "cubic": ((32, 32, 32), 1, 4, 4),
    "two items": ((32, 32, 32), 2, 4, 4),
    "non-cubic": ((16, 48, 32), 1, 4, 4),
    "one window": ((16, 16, 16), 1, 4, 4),
    "padded on every axis": ((20, 24, 28), 1, 4, 4),
    "padded on one axis, two items": ((32, 32, 36), 2, 4, 4),
    "fewer tokens than a window on one axis": ((8, 32, 20), 1, 4, 4),
    "odd window": ((32, 28, 24), 1, 4, 3),
    "enlarged twice": ((64, 32, 48), 1, 2, 4),
    "enlarged twice, padded, two items": ((40, 48, 56), 2, 2, 4),
    "not enlarged": ((64, 64, 96), 1, 1, 4),
}


@pytest.mark.parametrize(("crop", "batch", "enlargement", "window"), GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_encoder_equals_literal(
    crop: tuple[int, int, int], batch: int, enlargement: int, window: int, grad: bool
) -> None:
    network = small_network(crop, enlargement=enlargement, image_encoder={"window_size": window})
    image = torch.randn(batch, 1, *crop)
    with torch.no_grad():
        reference = literal.literal_encode(network.image_encoder, image)
    with torch.set_grad_enabled(grad):
        levels = network.image_encoder(image)
    assert len(levels) == len(reference) == 4
    for level, wanted in zip(levels, reference, strict=True):
        assert level.shape == wanted.shape == (batch, 16, *(n * enlargement // 16 for n in crop))
        assert relative_error(level, wanted) <= 1e-5


def test_another_crop_than_the_tables_were_made_for_equals_literal() -> None:
    network = small_network(32)
    image = torch.randn(1, 1, 24, 40, 36)
    with torch.no_grad():
        pairs = zip(network.image_encoder(image), literal.literal_encode(network.image_encoder, image), strict=True)
        assert max(relative_error(level, wanted) for level, wanted in pairs) <= 1e-5


def test_a_crop_that_windows_do_not_divide_says_so_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    network = small_network((20, 32, 16))
    with torch.no_grad(), caplog.at_level("DEBUG", logger="adapters"):
        network.image_encoder(torch.randn(1, 1, 16, 32, 16))
        assert not caplog.records
        network.image_encoder(torch.randn(1, 1, 20, 32, 16))
    (record,) = caplog.records
    assert record.levelname == "DEBUG"
    assert "a crop of (20, 32, 16) voxels has (5, 8, 4) tokens, no multiple of the windows of 4" in record.getMessage()


@pytest.mark.parametrize("levels", [1, 2])
def test_fewer_levels_equal_literal(levels: int) -> None:
    network = build_sam_adapter3d(replace(SMALL, levels=levels), 32, mask_decoder={"correction": False}).eval()
    randomised(network)
    image = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        found, context = network.encode(image)
        reference = literal.literal_encode(network.image_encoder, image)
        assert len(found) == len(reference) == levels
        assert relative_error(found[-1], reference[-1]) <= 1e-5
        logits = network.mask_decoder(context, found[-1], image)
        assert relative_error(logits, literal.literal_decode(network.mask_decoder, reference, image)) <= 1e-5


def test_a_recorded_block_has_all_windows_at_once() -> None:
    block = small_network(32).image_encoder.blocks[1].requires_grad_(False)
    x = torch.randn(1, 8, 8, 8, SMALL.backbone.embed_dim)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes become constants
        traced = torch.jit.trace(lambda tokens: block(tokens)[0], (x,), check_trace=False)
        assert str(traced.inlined_graph).count("scaled_dot_product_attention") == 1
        assert relative_error(traced(x), block(x)[0]) <= 1e-5


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_window_chunks_do_not_matter(chunk: int) -> None:
    network = small_network((24, 32, 20))
    image = torch.randn(2, 1, 24, 32, 20)
    with torch.no_grad():
        reference = literal.literal_encode(network.image_encoder, image)[-1]
        for block in network.image_encoder.blocks:
            block.attn.window_chunk = chunk
            block.token_chunk = 7 * chunk
        assert relative_error(network.image_encoder(image)[-1], reference) <= 1e-5


@pytest.mark.parametrize(
    ("dim", "heads", "window"), [(12, 12, 4), (24, 3, 4), (40, 2, 3), (64, 4, 8), (64, 1, 4), (160, 2, 2)]
)
def test_attention_of_any_head_width_equals_literal(dim: int, heads: int, window: int) -> None:
    attention = WindowAttention3D(dim, heads, 7)
    randomised(attention)
    x = torch.randn(2, 5, 8, 9, dim)
    for shift in (False, True):
        reference = literal.literal_attention(attention, x, window, shift)
        assert relative_error(attention(x, window, shift=shift), reference) <= 1e-5
        with torch.no_grad():
            assert relative_error(attention(x, window, shift=shift), reference) <= 1e-5


def test_gradients_equal_literal() -> None:
    crop = (20, 32, 24)
    network = small_network(crop, trainable="published")
    image = torch.randn(2, 1, *crop)
    weights = [torch.randn(2, 16, 5, 8, 6) for _ in range(4)]
    trained = {n: p for n, p in network.image_encoder.named_parameters() if p.requires_grad}
    assert any("rel_pos_d" in n for n in trained)

    gradients = []
    for levels in (network.image_encoder(image), literal.literal_encode(network.image_encoder, image)):
        loss = sum((level * weight).sum() for level, weight in zip(levels, weights, strict=True))
        gradients.append(torch.autograd.grad(loss, list(trained.values())))
    for name, fast, slow in zip(trained, *gradients, strict=True):
        assert float(slow.norm()) > 0, name
        assert relative_error(fast, slow) <= 1e-4, name


def test_all_gradients_equal_literal() -> None:
    """Frozen parts included: position tables and the patch convolution are folded in the fast form."""
    network = small_network(16, trainable="all")
    image = torch.randn(1, 1, 16, 16, 16)
    trained = {n: p for n, p in network.image_encoder.named_parameters() if p.requires_grad}
    gradients = []
    for levels in (network.image_encoder(image), literal.literal_encode(network.image_encoder, image)):
        loss = sum(level.pow(3).sum() for level in levels)
        gradients.append(torch.autograd.grad(loss, list(trained.values())))
    for name, fast, slow in zip(trained, *gradients, strict=True):
        # one window: the tables of both axes matter, the keys' bias never does (softmax)
        assert relative_error(fast, slow) <= 1e-4 or float((fast - slow).norm()) <= 1e-6, name


def test_image_gradient_equals_literal() -> None:
    network = small_network((20, 32, 24))
    image = torch.randn(1, 1, 20, 32, 24, requires_grad=True)
    fast = torch.autograd.grad(network.image_encoder(image)[-1].pow(3).sum(), image)[0]
    slow = torch.autograd.grad(literal.literal_encode(network.image_encoder, image)[-1].pow(3).sum(), image)[0]
    assert relative_error(fast, slow) <= 1e-4


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_bfloat16_is_close(grad: bool) -> None:
    network = small_network((24, 32, 32))
    image = torch.randn(1, 1, 24, 32, 32)
    with torch.no_grad():
        reference = literal.literal_encode(network.image_encoder, image)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
        levels = network.image_encoder(image)
    for level, wanted in zip(levels, reference, strict=True):
        assert 1e-6 < relative_error(level, wanted) <= 3e-2


@pytest.mark.parametrize("crop", [32, (24, 32, 40)], ids=str)
def test_bfloat16_logits_are_close(crop: int | tuple[int, int, int]) -> None:
    network = small_network(crop).eval()
    image = torch.randn(1, 1, *((crop,) * 3 if isinstance(crop, int) else crop))
    clicks = torch.tensor([[[10.0, 12.0, 14.0], [3.0, 20.0, 9.0]]])
    with torch.no_grad():
        wanted = network(image, clicked(clicks))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert 1e-6 < relative_error(network(image, clicked(clicks)).float(), wanted) <= 2e-2


def test_what_many_blocks_add_is_not_rounded_again_and_again() -> None:
    """In bfloat16 the tokens of the last of 16 blocks would be more than 0.9 % off, and the context 1 %."""
    network = build_sam_adapter3d(replace(SMALL, backbone=replace(SMALL.backbone, depth=16)), 16).eval()
    randomised(network)
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        expected = network.encode(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = network.encode(image)
            logits = network.logits(features, image, clicked(torch.tensor([[[10.0, 12.0, 14.0]]])))
    for level, wanted in zip(features.levels, expected.levels, strict=True):
        assert 1e-6 < relative_error(level, wanted) <= 7e-3
    assert relative_error(features.context, expected.context) <= 8.5e-3
    assert features.context.dtype == torch.bfloat16  # what is kept between clicks stays small
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("enlargement", [1, 2, 4, 8])
def test_folded_patches_equal_enlargement_and_convolutions(enlargement: int) -> None:
    embedding = PatchEmbedding3D(12, enlargement=enlargement)
    randomised(embedding)
    stride = 16 // enlargement
    image = torch.randn(2, 1, 2 * stride, 4 * stride, 3 * stride)
    tokens = embedding(image)
    assert tokens.shape == (2, 2, 4, 3, 12)

    enlarged = F.interpolate(image, scale_factor=enlargement, mode="trilinear") if enlargement > 1 else image
    plane = F.conv3d(
        enlarged.repeat(1, 3, 1, 1, 1), embedding.plane.weight[:, :, None], embedding.plane.bias, (1, 16, 16)
    )
    wanted = F.conv3d(
        plane, embedding.depth_weight[:, None, :, None, None], embedding.depth_bias, (16, 1, 1), groups=12
    )
    assert relative_error(tokens, wanted.permute(0, 2, 3, 4, 1)) <= 1e-5
    assert relative_error(tokens, literal.literal_patches(embedding, image, enlargement)) <= 1e-5


@pytest.mark.parametrize("enlargement", [1, 2, 4, 8])
def test_enlargement_matrix_is_linear_interpolation(enlargement: int) -> None:
    samples = torch.randn(16 // enlargement + 2, dtype=torch.float64)
    enlarged = F.interpolate(samples[None, None], scale_factor=enlargement, mode="linear")[0, 0]
    inside = enlarged[enlargement : enlargement + 16]
    torch.testing.assert_close(enlargement_matrix(enlargement) @ samples, inside)


def test_relative_positions_by_pair() -> None:
    table = torch.arange(7.0)[:, None]  # offsets -3 .. 3
    rows = relative_positions(table, 4)
    assert rows[0, 3].item() == 0.0
    assert rows[3, 0].item() == 6.0
    assert rows[2, 2].item() == 3.0
    resized = relative_positions(torch.arange(27.0)[:, None], 8)[:, 0, 0]
    wanted = F.interpolate(torch.arange(27.0)[None, None], size=15, mode="linear")[0, 0, 7:]
    torch.testing.assert_close(resized, wanted)


@pytest.mark.parametrize(
    ("size", "window", "shift", "regions"),
    [
        (8, 4, 2, [[0, 0, 0, 0], [0, 0, 1, 1]]),  # the last two tokens came from the front
        (6, 4, 0, [[0, 0, 0, 0], [0, 0, 2, 2]]),  # padding
        (6, 4, 2, [[0, 0, 0, 0], [2, 2, 1, 1]]),
    ],
)
def test_seam_masks(size: int, window: int, shift: int, regions: list[list[int]]) -> None:
    masks = seam_masks(size, window, shift)
    number = torch.tensor(regions)
    wanted = torch.where(number[:, :, None] == number[:, None, :], 0.0, -100.0)
    assert masks is not None
    assert torch.equal(masks, wanted)
    assert seam_masks(8, 4, 0) is None


@pytest.mark.parametrize("crop", [(16, 16, 16), (20, 24, 32)])
def test_decoder_context_split_equals_concatenation(crop: tuple[int, int, int]) -> None:
    network = small_network(crop)
    image = torch.randn(2, 1, *crop)
    levels = [torch.randn(2, 16, *(n // 4 for n in crop)) for _ in range(4)]
    decoder = network.mask_decoder
    logits = network.logits(ImageFeatures(tuple(levels), decoder.context(levels, image)), image)
    assert relative_error(logits, literal.literal_decode(decoder, levels, image)) <= 1e-5


def test_whole_network_equals_literal_with_clicks() -> None:
    crop = (20, 24, 32)
    network = build_sam_adapter3d(SMALL, crop, mask_decoder={"correction": False})
    randomised(network)
    image, clicks = torch.randn(1, 1, *crop), torch.tensor([[[3.0, 4.5, 20.0], [19.5, 0.0, 31.0]]])
    with torch.no_grad():
        reference = literal.literal_forward(network, image, clicks, torch.ones(1, 2, dtype=torch.long))
        assert relative_error(network(image, clicked(clicks)), reference) <= 1e-5
