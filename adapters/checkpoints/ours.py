"""Our own weight files: ``model.pt`` with everything, and a small safetensors file that needs SAM's beside it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import adapters
from adapters.checkpoints.files import check_tensors, kind_of, read_checkpoint, replacing
from adapters.checkpoints.sam import frozen_names, sam_tensors
from adapters.networks import SAMAdapter3D, Variant, build_sam_adapter3d, get_variant
from adapters.networks.constructor_arguments import (
    CUSTOM,
    check_identity,
    identity,
    mark_untrained,
    matching_variant,
    network_sizes,
    stored_identity,
)

__all__ = ["load_adapter", "load_model", "save_adapter", "save_model"]

logger = logging.getLogger(__name__)

_ADAPTER_FORMAT = "sam_adapter3d"
_SHALLOWER = re.compile(r"prompt_head\.shallower\.(\d)\.")


def save_model(network: SAMAdapter3D, path: str | Path, *, overwrite: bool = True, untrained: str = "") -> Path:
    """Write all weights as a plain state dict, whole or not at all.

    The file is read by ``torch.load(weights_only=True)`` and ``network.load_state_dict(strict=True)``, so by
    monai.bundle and MONAI Label. Format version, variant and sizes stand in the metadata that PyTorch keeps beside
    the tensors of a state dict (its ``_metadata``), and are checked by every ``load_state_dict``.

    Args:
        network: any `SAMAdapter3D`, on any device; the file holds CPU tensors.
        path: for example ``models/model.pt``.
        overwrite: whether an existing file is replaced.
        untrained: where weights come from that cannot segment yet, such as "random weights". The file says it, and
            whatever loads the file logs it as a warning.

    Returns:
        The path.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the file exists and must not be overwritten.
    """
    with replacing(path, overwrite=overwrite) as temporary:
        state = network.state_dict()
        if untrained:
            mark_untrained(state, untrained)
        for name, tensor in state.items():
            state[name] = tensor.cpu()
        torch.save(state, temporary)
    return Path(path)


def load_model(path: str | Path, network: SAMAdapter3D | None = None) -> SAMAdapter3D:
    """Read what `save_model` wrote.

    Args:
        path: the file.
        network: where to put the weights. None: the network that the file says it is of is built (what is trained is
            then as published).

    Returns:
        The network; one that was built is in evaluation mode.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is truncated, holds more than tensors, is of a newer format or of another variant than the
            network (both are named), or a tensor is missing, unexpected, of another shape or not finite. A network
            that was given is then unchanged.
    """
    state = read_checkpoint(path)
    source = str(path)
    kind = kind_of(state, source)
    if kind != "ours":
        other = {
            "sam": "SAM's checkpoint: read it with load_sam",
            "published": "published: read it with load_published",
        }
        raise ValueError(f"{source} is no state dict of SAMAdapter3D but {other[kind]}.")
    found = stored_identity(state) or _identity_from_shapes(state, source)
    if network is None:
        built = _build(found, state, source)
        _fill(built, state, found, source)
        return built.eval()
    _fill(network, state, found, source)
    return network


def _identity_from_shapes(state: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What a state dict without metadata (one that was built anew) is, as far as shapes show it."""
    blocks = [int(match[1]) for name in state if (match := re.match(r"image_encoder\.blocks\.(\d+)\.", str(name)))]

    def shape_of(name: str) -> tuple[int, ...]:
        if not isinstance(state.get(name), Tensor):
            raise ValueError(f"{source} lacks tensor {name}: it is incomplete.")
        return tuple(state[name].shape)

    sizes = network_sizes(shape_of, max(blocks, default=0) + 1)
    variant = matching_variant(sizes)
    logger.warning("%s does not say what it is: taken for variant %s by its shapes.", source, variant)
    return {"format_version": 1, "variant": variant, "shapes": sizes}


def _build(found: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> SAMAdapter3D:
    if found["variant"] == CUSTOM and "sizes" not in found:
        raise ValueError(
            f"{source} is of no variant and does not say which sizes it has: build the network and pass it as network."
        )
    # the sizes of a variant may have other settings than the variant's own, so they come from the file
    variant = Variant(found["variant"], **found["sizes"]) if "sizes" in found else get_variant(found["variant"])
    enlargement = found.get("enlargement", 4)
    return build_sam_adapter3d(
        variant,
        found.get("crop_size", state["image_encoder.depth_embed"].shape[1] * 16 // enlargement),
        enlargement=enlargement,
        prompt_head={
            "num_queries": state["prompt_head.layers.0.global_query"].shape[1],
            "prompt_levels": [4, *{int(m[1]) for name in state if (m := _SHALLOWER.match(str(name)))}],
        },
        mask_decoder={"correction": any(".correction." in name for name in state)},
    )


def _fill(network: SAMAdapter3D, state: Mapping[str, Tensor], found: Mapping[str, Any], source: str) -> None:
    check_identity(found, identity(network), source=source)
    check_tensors({name: tuple(t.shape) for name, t in network.state_dict().items()}, state, source)
    network.load_state_dict(state)


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest of names, shapes and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _frozen(sam_checkpoint: str | Path, network: SAMAdapter3D) -> dict[str, Tensor]:
    """SAM's tensors that training as published leaves as they are."""
    tensors = sam_tensors(sam_checkpoint, network)[0]
    return {name: tensors[name] for name in frozen_names(list(tensors))}


def save_adapter(
    network: SAMAdapter3D, path: str | Path, sam_checkpoint: str | Path, *, overwrite: bool = True
) -> Path:
    """Write the trained tensors only, as safetensors; SAM's file supplies the rest when it is read.

    For ViT-B as published that is 102 MB in place of 461 MB.

    Args:
        network: started from `sam_checkpoint` and trained as "published" or "decoder".
        path: for example ``adapter.safetensors``.
        sam_checkpoint: SAM's ``.pth`` file.
        overwrite: whether an existing file is replaced.

    Returns:
        The path.

    Raises:
        FileNotFoundError: if SAM's file or the output's folder does not exist.
        ValueError: if SAM's file is not the one that the network started from, or the network was trained beyond what
            is published (the message names the tensor), or the output exists and must not be overwritten.
    """
    frozen = _frozen(sam_checkpoint, network)
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    for name, tensor in frozen.items():
        if not torch.equal(state[name], tensor.float()):
            raise ValueError(
                f"{name} of the network differs from {sam_checkpoint}: it started from another SAM file, or was "
                "trained with trainable='all'; give the file it started from, or keep all of it with save_model."
            )
    metadata = {
        "format": _ADAPTER_FORMAT,
        "library_version": adapters.__version__,
        "identity": json.dumps(identity(network)),
        "sam_sha256": _sha256(frozen),
    }
    kept = {name: tensor.contiguous() for name, tensor in state.items() if name not in frozen}
    with replacing(path, overwrite=overwrite) as temporary:
        safetensors.torch.save_file(kept, temporary, metadata)
    return Path(path)


def load_adapter(path: str | Path, sam_checkpoint: str | Path, network: SAMAdapter3D | None = None) -> SAMAdapter3D:
    """Read what `save_adapter` wrote, together with SAM's file.

    Args:
        path: the safetensors file.
        sam_checkpoint: the same SAM file that it was written with (compared by the values that are taken from it).
        network: where to put the weights. None: the network that the file says it is of is built.

    Returns:
        The network; one that was built is in evaluation mode.

    Raises:
        FileNotFoundError: if one of the files does not exist.
        ValueError: if one of them is truncated or something else, if SAM's file is another one than the adapter needs,
            or as `load_model`. A network that was given is then unchanged.
    """
    stored, found, sha256 = _read_adapter(Path(path))
    source = str(path)
    target = network if network is not None else _build(found, stored, source)
    check_identity(found, identity(target), source=source)
    frozen = _frozen(sam_checkpoint, target)
    if _sha256(frozen) != sha256:
        raise ValueError(
            f"{source} needs another SAM file than {sam_checkpoint}: the sha256 of SAM's frozen encoder tensors is "
            f"{_sha256(frozen)[:12]}, expected {sha256[:12]}; give the file that the adapter was trained from."
        )
    _fill(target, {**frozen, **stored}, found, source)
    return target if network is not None else target.eval()


def _read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Tensors, identity and SAM's digest."""
    if not path.exists():
        raise FileNotFoundError(f"the adapter {path} does not exist: check the path.")
    if not path.is_file():
        raise ValueError(f"the adapter {path} is not a file: give the path of the safetensors file itself.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"the adapter {path} cannot be read ({error}): it is truncated or no safetensors file; fetch it again."
        ) from error
    if metadata.get("format") != _ADAPTER_FORMAT or not {"identity", "sam_sha256"} <= metadata.keys():
        raise ValueError(f"{path} is a safetensors file but no adapter: expected one that save_adapter wrote.")
    return tensors, json.loads(metadata["identity"]), metadata["sam_sha256"]
