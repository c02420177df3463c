"""Networks: torch modules only, no files."""

from adapters.networks.backbones import BACKBONES, Backbone, get_backbone
from adapters.networks.baselines.click_channels import ClickChannelNetwork
from adapters.networks.families import FAMILIES, Family, build_network
from adapters.networks.layers.attention import WindowAttention3D
from adapters.networks.precision import Precision, native_bfloat16, uses_bfloat16
from adapters.networks.promptable import (
    Promptable,
    PromptableNetwork,
    check_prompts,
    log_odds,
    set_trainable,
    taken,
)
from adapters.networks.roles import count_parameters
from adapters.networks.samadapter3d.correction import CorrectionPrompt
from adapters.networks.samadapter3d.image_encoder import ImageEncoder3D, build_image_encoder
from adapters.networks.samadapter3d.mask_decoder import AggregationDecoder, build_mask_decoder
from adapters.networks.samadapter3d.network import ImageFeatures, SAMAdapter3D, build_sam_adapter3d
from adapters.networks.samadapter3d.prompt_head import PointSamplerHead, build_prompt_head
from adapters.networks.samadapter3d.sizes import Sizes, get_sizes
from adapters.networks.tuning import TUNING, BlockPlace, BlockTuning, SpatialAdapter

__all__ = [
    "BACKBONES",
    "FAMILIES",
    "TUNING",
    "AggregationDecoder",
    "Backbone",
    "BlockPlace",
    "BlockTuning",
    "ClickChannelNetwork",
    "CorrectionPrompt",
    "Family",
    "ImageEncoder3D",
    "ImageFeatures",
    "PointSamplerHead",
    "Precision",
    "Promptable",
    "PromptableNetwork",
    "SAMAdapter3D",
    "Sizes",
    "SpatialAdapter",
    "WindowAttention3D",
    "build_image_encoder",
    "build_mask_decoder",
    "build_network",
    "build_prompt_head",
    "build_sam_adapter3d",
    "check_prompts",
    "count_parameters",
    "get_backbone",
    "get_sizes",
    "log_odds",
    "native_bfloat16",
    "set_trainable",
    "taken",
    "uses_bfloat16",
]
