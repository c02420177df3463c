"""Where the time of a click goes, and the least time that its products need.

A profile sorts the time of every operator twice: by its kind, and by the part of the network that it works for. The
products of the linear layers, the attention and the convolutions are counted from the shapes of the network's own
layers; divided by the fastest rate at which this machine multiplies the encoder's matrices, they give a floor.
"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, record_function

from adapters.networks import SAMAdapter3D, build_sam_adapter3d
from tests.benchmarks.common import make_image, make_network, make_prompts
from tests.benchmarks.network import measure_linear
from tests.reference import literal

__all__ = ["KINDS", "Form", "flops", "measure_floor", "measure_profile"]

Form = Literal["literal", "fast"]

LINEAR, ATTENTION, SOFTMAX, CONVOLUTIONS, OTHER = "linear layers", "attention", "softmax", "convolutions", "other"
_ACTIVATIONS = "activations"
_PRODUCTS = re.compile(r"(linear|addmm|mm|bmm|baddbmm|matmul|einsum)_?")
_OPERATORS = {
    ATTENTION: re.compile(r"_?scaled_dot_product.*"),
    SOFTMAX: re.compile(r"_?softmax"),
    CONVOLUTIONS: re.compile(r".*conv.*"),
    "norms": re.compile(r".*(layer|batch|instance)_norm.*"),
    _ACTIVATIONS: re.compile(r"(relu|gelu|clamp_min)_?"),
    "sums and scaling": re.compile(r"(add|sub|rsub|mul|div|pow|sqrt|mean|sum|index_add|scatter_add|where|eq)_?"),
    "enlarging and sampling": re.compile(r"(_?upsample_|grid_sampler|adaptive_avg_pool|avg_pool).*"),
    "copies and layout": re.compile(
        r"(copy|clone|contiguous|cat|stack|index|index_select|index_put|_index_put_impl|nonzero|pad|constant_pad_nd|"
        r"replication_pad3d|roll|repeat|reshape|_reshape_alias|view|view_as|_unsafe_view|permute|transpose|t|movedim|"
        r"flatten|unflatten|unfold|expand|expand_as|select|slice|split|split_with_sizes|unbind|narrow|unsqueeze|"
        r"as_strided|alias|to|_to_copy|empty|empty_like|empty_strided|new_empty|new_zeros|zeros|full|arange|eye|fill|"
        r"zero|resize|result_type|resolve_conj)_?"
    ),
}
KINDS = (LINEAR, *_OPERATORS, OTHER)
"""Kinds of operations by which `measure_profile` groups the time, in the order of a table."""

_CLICK = "one click"
_ENCODER, _BLOCKS, _MLP, _HEAD, _DECODER = "encoder", "blocks", "MLP", "prompt head", "decoder"
_PATCHES, _ADAPTERS, _ATTENTION, _NECKS = "patch embedding", "adapters", "windowed attention", "necks"
_PARTS = {_CLICK, _ENCODER, _PATCHES, _BLOCKS, _ADAPTERS, _ATTENTION, _MLP, _NECKS, _HEAD, _DECODER}
_OF_ENCODER = (_PATCHES, _ADAPTERS, _ATTENTION, _MLP, _NECKS)
_CLICKS = 1
_TURNS = 3  # each library's rate is the best of so many runs


# --- products, counted


def _linear(rows: int, *layers: nn.Linear) -> int:
    return sum(2 * rows * layer.weight.numel() for layer in layers)


def _conv(places: int, *weights: Tensor) -> int:
    """Of kernels (out, in of a group, ...) that give `places` values for each output channel."""
    return sum(2 * places * weight.numel() for weight in weights)


def _patches(embedding: Any, tokens: int, enlargement: int, form: Form) -> int:
    dim, _, patch, _ = embedding.plane.weight.shape
    if form == "literal":  # every slice of the enlarged volume, then along depth
        return _conv(tokens * patch, embedding.plane.weight) + _conv(tokens, embedding.depth_weight)
    short = patch // enlargement + 2
    folding = 2 * dim * short * (patch * patch + patch * short + patch)
    return folding + 2 * tokens * dim * short**3


def _window_attention(attention: Any, grid: Sequence[int], window_size: int, form: Form) -> tuple[int, int]:
    """Products of the two linear layers, and of queries, keys and values."""
    window = [min(window_size, n) for n in grid]
    windows = math.prod(-(-n // w) for n, w in zip(grid, window, strict=True))
    tokens, sides, width = math.prod(window), sum(window), attention.head_dim
    # with the rows of the tables; then scores and sums over the values
    relative = 2 * tokens * sides * width
    if form == "fast":
        width += sides + -(width + sides) % 8
    each = relative + 2 * 2 * tokens * tokens * width
    return _linear(windows * tokens, attention.qkv, attention.proj), windows * attention.num_heads * each


def _prompt(head: Any, tokens: int, clicks: int) -> tuple[int, int]:
    """As `_window_attention`, of the prompt head."""
    linear = inner = 0
    for layer in head.layers:
        queries = layer.global_query.shape[1]
        rows = queries + clicks
        own, cross = layer.self_attn, layer.cross_attn_image_to_token
        linear += _linear(rows, own.q_proj, own.k_proj, own.v_proj, own.out_proj)
        linear += _linear(queries, layer.mlp.lin1, layer.mlp.lin2, cross.k_proj, cross.v_proj)
        linear += _linear(tokens, cross.q_proj, cross.out_proj)
        inner += 4 * (rows * rows * own.q_proj.out_features + tokens * queries * cross.q_proj.out_features)
    return linear, inner


def _decoder(decoder: Any, grid: Sequence[int], form: Form) -> int:
    tokens = math.prod(grid)
    fine = 8 * tokens
    total = sum(_conv(tokens, branch.conv1.weight, branch.conv2.weight) for branch in decoder.branches)
    total += _conv(fine, decoder.classify.weight)
    if form == "literal":
        return total + _conv(fine, decoder.fuse.weight)
    outputs, _, *kernel = decoder.fuse.weight.shape
    inputs = decoder.classify.in_channels
    taps = math.prod(kernel)
    depth, height, width = grid
    # the channels are mixed for each of 27 taps; then each axis is enlarged and shifted by its 3 taps
    mixed = taps * inputs * tokens
    axes = tokens * (27 * 2 * width + 9 * 4 * height + 3 * 8 * depth)
    return total + len(decoder.branches) * 2 * outputs * (mixed + axes) + 2 * fine * taps * outputs


def flops(
    network: SAMAdapter3D, crop_size: int, form: Form = "fast", clicks: int = _CLICKS
) -> dict[str, dict[str, int]]:
    """Floating-point operations of one click on one crop, two for each product of two numbers that is summed up.

    Counted are matrix products and convolutions, from the shapes of the network's own layers; not counted are norms,
    activations, sums, softmax and interpolation. Products with padding count, as they are computed.

    Args:
        network: without a correction prompt and with the deepest level prompted alone, as the published one. Its
            weights are not read, so it may be on the device ``meta``.
        crop_size: side of the crop, in voxels.
        form: "fast" counts what the library computes on a CPU without gradients, "literal" what the published
            description says.
        clicks: clicks on the crop.

    Returns:
        For each part of the network its operations by kind, "linear layers", "attention" (products of queries, keys,
        values and position tables) or "convolutions".

    Raises:
        ValueError: if the network has a correction prompt or prompts several levels, or the crop does not fit it.
    """
    encoder: Any = network.image_encoder
    head: Any = network.prompt_head
    decoder: Any = network.mask_decoder
    if decoder.correction is not None or len(head.shallower):
        raise ValueError(
            "the network has a correction prompt or prompts several levels: expected the published parts alone, build "
            "it with mask_decoder={'correction': False} and without prompt_levels."
        )
    grid = encoder.token_grid((crop_size,) * 3)
    tokens = math.prod(grid)
    operations: dict[str, dict[str, int]] = {part: defaultdict(int) for part in (*_OF_ENCODER, _HEAD, _DECODER)}
    operations[_PATCHES][CONVOLUTIONS] = _patches(encoder.patch_embed, tokens, encoder.enlargement, form)
    for block in encoder.blocks:
        operations[_ADAPTERS][LINEAR] += _linear(tokens, block.adapter.down, block.adapter.up)
        operations[_ADAPTERS][CONVOLUTIONS] += _conv(tokens, block.adapter.conv.weight)
        linear, inner = _window_attention(block.attn, grid, block.window_size, form)
        operations[_ATTENTION][LINEAR] += linear
        operations[_ATTENTION][ATTENTION] += inner
        operations[_MLP][LINEAR] += _linear(tokens, block.mlp.lin1, block.mlp.lin2)
    for neck in encoder.necks:
        operations[_NECKS][LINEAR] += _linear(tokens, neck.reduce)
        operations[_NECKS][CONVOLUTIONS] += _conv(tokens, neck.conv.weight)
    operations[_HEAD][LINEAR], operations[_HEAD][ATTENTION] = _prompt(head, tokens, clicks)
    operations[_DECODER][CONVOLUTIONS] = _decoder(decoder, grid, form)
    return {part: dict(kinds) for part, kinds in operations.items()}


# --- time, measured


def _places(network: SAMAdapter3D, form: Form) -> Iterator[tuple[Any, str, str]]:
    """Owner and name of each function that works for a part of the network, and the part.

    The literal form computes the MLP inside of its block: `_sorted` tells it by its operators.
    """
    yield network.prompt_head, "forward", _HEAD
    if form == "literal":
        yield literal, "literal_encode", _ENCODER
        yield literal, "literal_patches", _PATCHES
        yield literal, "literal_block", _BLOCKS
        yield literal, "literal_adapter", _ADAPTERS
        yield literal, "literal_attention", _ATTENTION
        yield literal, "literal_neck", _NECKS
        yield literal, "literal_decode", _DECODER
        return
    encoder: Any = network.image_encoder
    yield encoder, "forward", _ENCODER
    yield encoder.patch_embed, "forward", _PATCHES
    for block in encoder.blocks:
        yield block, "forward", _BLOCKS
        yield block.adapter, "forward", _ADAPTERS
        yield block.attn, "add_to", _ATTENTION
        yield block.mlp, "forward", _MLP
    for neck in encoder.necks:
        yield neck, "forward", _NECKS
    yield network.mask_decoder, "context", _DECODER
    yield network.mask_decoder, "forward", _DECODER


@contextmanager
def _marked(network: SAMAdapter3D, form: Form) -> Iterator[None]:
    """Let the profiler see each call as a part of the network."""

    def seen(run: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with record_function(part):
                return run(*args, **kwargs)

        return call

    with ExitStack() as marks:
        for owner, name, part in _places(network, form):
            marks.enter_context(patch.object(owner, name, seen(getattr(owner, name), part)))
        yield


def _kind(operator: str, part: str, *, in_linear: bool) -> str:
    """The kind of an operator that works for a part."""
    name = operator.removeprefix("aten::")
    if _PRODUCTS.fullmatch(name):
        if in_linear:
            return LINEAR
        # outside of linear layers only attention and convolutions that are rewritten multiply matrices
        return ATTENTION if part in (_ATTENTION, _HEAD) else CONVOLUTIONS
    return next((kind for kind, names in _OPERATORS.items() if names.fullmatch(name)), OTHER)


class _Time(NamedTuple):
    """Time of an operator without what it calls.

    Attributes:
        parts: the part of the network that it works for, after all that this part is in.
        kind: one of `KINDS`.
        operator: torch's name.
        seconds: the time.
    """

    parts: tuple[str, ...]
    kind: str
    operator: str
    seconds: float


def _sorted(event: Any, parts: tuple[str, ...] = (), *, in_linear: bool = False) -> Iterator[_Time]:
    """The times of an event and of all inside of it."""
    own = event.self_cpu_time_total / 1e6
    if event.name in _PARTS:
        parts = (*parts, event.name)
        yield _Time(parts, OTHER, "between operators", own)
    else:
        in_linear = in_linear or event.name == "aten::linear"
        kind = _kind(event.name, parts[-1], in_linear=in_linear)
        of_mlp = parts[-1] == _BLOCKS and (in_linear or kind == _ACTIVATIONS)
        yield _Time((*parts, _MLP) if of_mlp else parts, kind, event.name, own)
    for child in event.cpu_children:
        yield from _sorted(child, parts, in_linear=in_linear)


def _tree(times: Sequence[_Time], path: tuple[str, ...]) -> dict[str, Any]:
    """A part with all its calls: seconds, those of its parts, and by kind those that are in none of them."""
    inside = [each for each in times if each.parts[: len(path)] == path]
    below = dict.fromkeys(each.parts[len(path)] for each in inside if len(each.parts) > len(path))
    return {
        "name": path[-1],
        "seconds": math.fsum(each.seconds for each in inside),
        "kinds": _sums((each.kind, each.seconds) for each in inside if each.parts == path),
        "parts": [_tree(inside, (*path, name)) for name in below],
    }


def _sums(entries: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Sum for each name, the largest first."""
    sums: dict[str, float] = defaultdict(float)
    for name, seconds in entries:
        sums[name] += seconds
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def measure_profile(form: Form, variant: str, crop_size: int) -> dict[str, Any]:
    """Where the time of encoding a crop and decoding one click goes, without gradients.

    Args:
        form: "fast" is the library's form, "literal" that of the tests.
        variant: name of a variant.
        crop_size: side of the crop, in voxels.

    Returns:
        ``seconds`` of the whole; ``cores`` that the process had on average, fewer than its threads if others worked
        beside it; ``kinds``: seconds by kind of operation, see `KINDS`, that sum up to the whole;
        ``operators``: the same by torch's name; ``tree``: a part of the network with its ``seconds``, its ``parts``
        (trees again) and by ``kinds`` the time in none of them. A layer's copies of its input count as copies. The
        necks' linear layer is a convolution in the literal form.
    """
    network = make_network(variant, crop_size, mask_decoder={"correction": False}).eval().requires_grad_(False)
    image = make_image(crop_size, 1)
    prompts = make_prompts(crop_size, 1, _CLICKS)
    with (
        torch.inference_mode(),
        _marked(network, form),
        torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profile,
        record_function(_CLICK),
    ):
        busy = time.process_time()
        if form == "literal":
            literal.literal_forward(network, image, prompts.points, prompts.labels)
        else:
            network(image, prompts.points, prompts.labels)
        busy = time.process_time() - busy
    (whole,) = (event for event in profile.events() or () if event.name == _CLICK)
    times = list(_sorted(whole))
    kinds = _sums((each.kind, each.seconds) for each in times)
    return {
        "seconds": whole.cpu_time_total / 1e6,
        "cores": busy / (whole.cpu_time_total / 1e6),
        "kinds": {kind: kinds.get(kind, 0.0) for kind in KINDS},
        "operators": _sums((each.operator, each.seconds) for each in times),
        "tree": _tree(times, (_CLICK,)),
    }


def measure_floor(variant: str, crop_size: int) -> dict[str, Any]:
    """The least time of a click in float32: its products at the fastest rate of this machine.

    The rate is that of the linear layers of the encoder's blocks, each as one product over all tokens, in the library
    that is faster at it: torch's linear layer, or a convolution of one voxel (see `measure_linear`). That attention
    and the 3x3x3 convolutions reach this rate too is assumed in their favour.

    Args:
        variant: name of a variant.
        crop_size: side of the crop, in voxels.

    Returns:
        ``flops`` of both forms; ``gflop_per_s`` by library, and ``best`` of both layer by layer; ``floor_s`` of the
        ``encoder`` and of the ``click``: seconds of linear layers, attention and convolutions, each part of the
        network in the form that has fewer operations.
    """
    with torch.device("meta"):
        network = build_sam_adapter3d(variant, crop_size, mask_decoder={"correction": False})
    encoder: Any = network.image_encoder
    layers = [module for module in encoder.blocks.modules() if isinstance(module, nn.Linear)]
    count = _linear(math.prod(encoder.token_grid((crop_size,) * 3)), *layers) / len(encoder.blocks)
    libraries = {}
    for library in ("linear", "convolution"):
        turns = [measure_linear(library, variant, crop_size)["layers_s"] for _ in range(_TURNS)]
        libraries[library] = {name: min(turn[name] for turn in turns) for name in turns[0]}
    rates = {library: count / sum(seconds.values()) / 1e9 for library, seconds in libraries.items()}
    fastest = sum(min(seconds[name] for seconds in libraries.values()) for name in libraries["linear"])
    rates["best"] = count / fastest / 1e9
    counted = {form: flops(network, crop_size, form) for form in ("literal", "fast")}
    floor = {}
    for whole, parts in (("encoder", _OF_ENCODER), ("click", (*_OF_ENCODER, _HEAD, _DECODER))):
        fewest = [
            min((each[part] for each in counted.values()), key=lambda kinds: sum(kinds.values())) for part in parts
        ]
        floor[whole] = {
            kind: sum(kinds.get(kind, 0) for kinds in fewest) / rates["best"] / 1e9
            for kind in (LINEAR, ATTENTION, CONVOLUTIONS)
        }
    return {"flops": counted, "gflop_per_s": rates, "floor_s": floor}
