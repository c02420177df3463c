"""Which parts train, by count: the figures of the paper (3DSAM-adapter, tables 1 and 3)."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from adapters.networks import SAMAdapter3D, build_sam_adapter3d, count_parameters, set_trainable

ENCODER = 15_209_984
ALL = 25_462_400
PROMPT_HEAD_AND_DECODER = ALL - ENCODER
SAM_ENCODER = 89_670_912  # the design's figure for segment-anything's ViT-B
SAM_NECK = 768 * 256 + 2 * 256 + 256 * 256 * 9 + 2 * 256  # which has no place here
NORMS = 12 * 2 * 2 * 768  # SAM's, but tuned


@pytest.fixture(scope="module")
def vit_b() -> SAMAdapter3D:
    with torch.device("meta"):
        return build_sam_adapter3d("vit_b", crop_size=128)


@pytest.mark.parametrize(
    ("trainable", "encoder"),
    [
        ("published", ENCODER),
        ("all", SAM_ENCODER - SAM_NECK + ENCODER - NORMS),
        ("decoder", 0),
    ],
)
def test_trained_values_of_vit_b(vit_b: SAMAdapter3D, trainable: str, encoder: int) -> None:
    counts = count_parameters(set_trainable(vit_b, trainable))
    assert counts["image_encoder"] == encoder
    assert counts["prompt_head"] + counts["mask_decoder"] == PROMPT_HEAD_AND_DECODER
    assert 0 < counts["added"] <= 50_000


def test_as_published_is_the_default(vit_b: SAMAdapter3D) -> None:
    counts = count_parameters(set_trainable(vit_b))
    assert counts.pop("added") <= 50_000
    assert sum(counts.values()) == ALL


def test_all_leaves_only_the_constant_gain_out(vit_b: SAMAdapter3D) -> None:
    set_trainable(vit_b, "all")
    frozen = [name for name, parameter in vit_b.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"image_encoder.blocks.{i}.attn.rel_pos_gain" for i in range(12)]
    assert sum(count_parameters(vit_b).values()) + 12 == sum(count_parameters(vit_b, trainable_only=False).values())


def test_frozen_values_are_those_of_sam(vit_b: SAMAdapter3D) -> None:
    """What is not trained is what segment-anything has, without its neck and the norms that are tuned."""
    with torch.device("meta"):
        sam = ImageEncoderViT(
            embed_dim=768,
            depth=12,
            num_heads=12,
            global_attn_indexes=(2, 5, 8, 11),
            use_rel_pos=True,
            window_size=14,
            out_chans=256,
        )
    assert sum(p.numel() for p in sam.parameters()) == SAM_ENCODER
    set_trainable(vit_b, "published")
    trained = count_parameters(vit_b)["image_encoder"]
    total = count_parameters(vit_b, trainable_only=False)["image_encoder"]
    assert total - trained - 12 == SAM_ENCODER - SAM_NECK - NORMS


@pytest.mark.parametrize(("variant", "width", "blocks"), [("vit_b", 768, 12), ("vit_l", 1024, 24), ("vit_h", 1280, 32)])
def test_sizes_of_the_variants(variant: str, width: int, blocks: int) -> None:
    with torch.device("meta"):
        network = build_sam_adapter3d(variant, crop_size=64)
    assert network.image_encoder.pos_embed.shape[-1] == width
    assert len(network.image_encoder.blocks) == blocks
    assert count_parameters(network)["added"] <= 50_000


def test_unknown_mode_is_refused(vit_b: SAMAdapter3D) -> None:
    with pytest.raises(ValueError, match=r"trainable='some': expected one of published, all, decoder"):
        set_trainable(vit_b, "some")  # type: ignore[arg-type]
