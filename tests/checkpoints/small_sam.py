"""A SAM small enough for tests, in the true format of segment-anything, and the sizes of a network that fits it."""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor

from adapters.networks import Backbone, SAMAdapter3D, Sizes

SMALL_SAM = Sizes(
    Backbone("small_sam", embed_dim=32, depth=4, num_heads=2, global_blocks=(1,), table_size=8, sam_window=4),
    window_size=2,
    out_channels=16,
    prompt_heads=2,
    prompt_mlp_dim=32,
    head_channels=8,
)


def make_sam(*, embed_dim: int = 32, depth: int = 4, seed: int = 0) -> Sam:
    torch.manual_seed(seed)
    sam = Sam(
        ImageEncoderViT(
            img_size=128,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=2,
            out_chans=16,
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1,),
        ),
        PromptEncoder(16, (8, 8), (128, 128), 4),
        MaskDecoder(transformer_dim=16, transformer=TwoWayTransformer(1, 16, 2, 32)),
    )
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:  # zero at first, as no one has trained them
                parameter.normal_()
    return sam


def snapshot(network: SAMAdapter3D) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
