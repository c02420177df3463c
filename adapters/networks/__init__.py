"""Networks: torch modules only, no files."""

from adapters.networks.layers.attention import WindowAttention3D
from adapters.networks.baselines.click_channels import ClickChannelNetwork
from adapters.networks.samadapter3d.image_encoder import ImageEncoder3D, SpatialAdapter, build_image_encoder
from adapters.networks.samadapter3d.mask_decoder import AggregationDecoder, CorrectionPrompt, build_mask_decoder
from adapters.networks.precision import Precision, native_bfloat16, uses_bfloat16
from adapters.networks.samadapter3d.prompt_head import PointSamplerHead, build_prompt_head
from adapters.networks.backbones import VARIANTS, Variant, get_variant
from adapters.networks.samadapter3d.network import (
    ImageFeatures,
    SAMAdapter3D,
    build_sam_adapter3d,
    count_parameters,
    set_trainable,
)

__all__ = [
    "VARIANTS",
    "AggregationDecoder",
    "ClickChannelNetwork",
    "CorrectionPrompt",
    "ImageEncoder3D",
    "ImageFeatures",
    "PointSamplerHead",
    "Precision",
    "SAMAdapter3D",
    "SpatialAdapter",
    "Variant",
    "WindowAttention3D",
    "build_image_encoder",
    "build_mask_decoder",
    "build_prompt_head",
    "build_sam_adapter3d",
    "count_parameters",
    "get_variant",
    "native_bfloat16",
    "set_trainable",
    "uses_bfloat16",
]
