"""Our own weight files: ``model.pt`` with everything, and a small safetensors file that needs SAM's beside it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import adapters
from adapters.checkpoints.files import Checkpoint, check_tensors, counts_of, kind_of, opened, read_checkpoint, replacing
from adapters.checkpoints.sam import opened_sam, sam_tensors
from adapters.checkpoints.sketch import sketch
from adapters.files import no_weights
from adapters.networks import PromptableNetwork
from adapters.networks.description import (
    METADATA_KEY,
    check_description,
    check_finite,
    describe_network,
    mark_untrained,
    read_description,
    stored_description,
)
from adapters.networks.families import build_described
from adapters.networks.roles import roles

__all__ = ["about", "load_adapter", "load_model", "load_weights", "save_adapter", "save_model"]

logger = logging.getLogger(__name__)

_VERSION_1 = "sam_adapter3d"  # the format of adapters that 0.1 wrote
_OTHER_FORMATS = {
    "sam": "SAM's checkpoint: read it with load_sam",
    "published": "published: read it with load_published",
}


def save_model(network: PromptableNetwork, path: str | Path, *, overwrite: bool = True, untrained: str = "") -> Path:
    """Write all weights as a plain state dict, whole or not at all.

    The file is read by ``torch.load(weights_only=True)`` and ``network.load_state_dict(strict=True)``, so by
    monai.bundle and MONAI Label. What the network is (family, backbone, the arguments of its parts) stands in the
    metadata that PyTorch keeps beside the tensors, and is checked by every ``load_state_dict``.

    Args:
        network: any network of this library's families, on any device; the file holds CPU tensors.
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


def load_model(
    checkpoint: str | Path | Mapping[str, Any] | Checkpoint, network: PromptableNetwork | None = None
) -> PromptableNetwork:
    """Read what `save_model` wrote.

    Args:
        checkpoint: the file, or what was read from it.
        network: where to put the weights. None: the network that the file says it is of is built (what is trained is
            then as published).

    Returns:
        The network; one that was built is in evaluation mode.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is truncated, holds more than tensors, is of a later format or of another network than the
            given one (both are named). Also if a tensor is missing, unexpected, of another shape or not finite. A
            network that was given is then unchanged. Without a network also if the file does not say what it is of, or
            not what its tensors are.
    """
    state, source = opened(checkpoint)
    own = network is not None and isinstance(state, Mapping) and network.state_dict().keys() <= state.keys()
    if not own and (kind := kind_of(state, source)) != "ours":
        raise ValueError(f"{source} is no state dict of this library's but {_OTHER_FORMATS[kind]}.")
    description = stored_description(state, source)
    if network is not None:
        _fill(network, state, description, source)
        return network
    built = _build(description, state, source)
    _fill(built, state, description, source)
    return built.set_trainable().eval()


def load_weights(path: str | Path, network: torch.nn.Module) -> None:
    """Put the weights of a file into the network of a bundle.

    Args:
        path: a plain state dict; for a `PromptableNetwork` as `load_model`.
        network: is changed in place.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is of another network, or a tensor is not finite; as `load_model`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"the weights {path} do not exist: train the bundle, convert the authors' weights "
            "(`python -m adapters convert`), or give another file as checkpoint."
        )
    if isinstance(network, PromptableNetwork):
        load_model(path, network)
        return
    state = read_checkpoint(path)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}: expected a plain state dict.")
    check_finite(state, str(path))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:  # torch names the tensors
        raise ValueError(f"{path} is of another network: {' '.join(str(error).split())}") from error


def _build(
    description: Mapping[str, Any] | None, state: Mapping[str, Any], source: str, *, whole: bool = True
) -> PromptableNetwork:
    """The network that a file describes, made once it is known that the file's tensors are those of such a network."""
    if description is None:
        raise ValueError(f"{source} does not say what network it is of: build the network and pass it as network.")
    made = sketch(lambda: build_described(description), len(state), source)
    shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    expected = shapes if whole else {name: shapes[name] for name in shapes if name in state}
    check_tensors(expected, state, source, counts=counts_of(made.state_dict()))
    return build_described(description)


def _fill(
    network: PromptableNetwork, state: Mapping[str, Any], description: Mapping[str, Any] | None, source: str
) -> None:
    if description is not None:
        check_description(description, network, source=source)
    own = network.state_dict()
    check_tensors({name: tuple(t.shape) for name, t in own.items()}, state, source, counts=counts_of(own))
    network.load_state_dict(state)


def about(network: torch.nn.Module) -> dict[str, str]:
    """What goes beside the weights in files that are not PyTorch's: the library, and what the network is."""
    lines = {"library": "monai-sam-adapters", "library_version": adapters.__version__}
    if isinstance(network, PromptableNetwork):
        lines[METADATA_KEY] = json.dumps(describe_network(network))
    return lines


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest of names, shapes and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _frozen(sam_checkpoint: str | Path | Checkpoint, network: PromptableNetwork) -> dict[str, Tensor]:
    """SAM's tensors that training as published leaves as they are."""
    tensors = sam_tensors(sam_checkpoint, network)[0]
    return {name: tensors[name] for name, _, role in roles(network) if role == "sam"}


def save_adapter(
    network: PromptableNetwork, path: str | Path, sam_checkpoint: str | Path, *, overwrite: bool = True
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
        ValueError: if SAM's file is not the one that the network started from, or the output exists and must not be
            overwritten. Also if the network was trained beyond what is published; the message names the tensor.
    """
    frozen = _frozen(sam_checkpoint, network)
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    for name, tensor in frozen.items():
        if not torch.equal(state[name], tensor.float()):
            raise ValueError(
                f"{name} of the network differs from {sam_checkpoint}: it started from another SAM file, or was "
                "trained with trainable='all'; give the file it started from, or keep all of it with save_model."
            )
    kept = {name: tensor.contiguous() for name, tensor in state.items() if name not in frozen}
    with replacing(path, overwrite=overwrite) as temporary:
        safetensors.torch.save_file(kept, temporary, {**about(network), "sam_sha256": _sha256(frozen)})
    return Path(path)


def load_adapter(
    path: str | Path, sam_checkpoint: str | Path, network: PromptableNetwork | None = None
) -> PromptableNetwork:
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
    stored, description, sha256 = _read_adapter(Path(path))
    source = str(path)
    sam = opened_sam(sam_checkpoint)
    target = network or _build(description, stored, source, whole=False)
    check_description(description, target, source=source)
    frozen = _frozen(sam, target)
    if _sha256(frozen) != sha256:
        raise ValueError(
            f"{source} needs another SAM file than {sam_checkpoint}: the sha256 of SAM's frozen encoder tensors is "
            f"{_sha256(frozen)[:12]}, expected {sha256[:12]}; give the file that the adapter was trained from."
        )
    _fill(target, {**frozen, **stored}, description, source)
    return target if network is not None else target.set_trainable().eval()


def _read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Tensors, description and SAM's digest."""
    if not path.exists():
        raise FileNotFoundError(f"the adapter {path} does not exist: check the path.")
    if not path.is_file():
        raise ValueError(f"the adapter {path} is not a file: give the path of the safetensors file itself.")
    if path.stat().st_size and (reason := no_weights(path)):
        raise ValueError(f"the adapter {path} {reason}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"the adapter {path} cannot be read ({error}): it is truncated or no safetensors file; fetch it again."
        ) from error
    if metadata.get("format") == _VERSION_1:
        metadata[_VERSION_1] = json.loads(metadata.get("identity", "null"))
    description = read_description(metadata, tensors, source=str(path))
    if description is None or "sam_sha256" not in metadata:
        raise ValueError(f"{path} is a safetensors file but no adapter: expected one that save_adapter wrote.")
    return tensors, description, metadata["sam_sha256"]
