"""Reading weight files without running code from them, writing them whole or not at all, comparing tensors."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from adapters import files
from adapters.files import no_weights
from adapters.networks.description import check_finite, stored_description

__all__ = [
    "Checkpoint",
    "Kind",
    "check_output",
    "check_tensors",
    "counts_of",
    "kind_of",
    "opened",
    "read_checkpoint",
    "replacing",
]

logger = logging.getLogger(__name__)

Kind = Literal["sam", "published", "ours"]

_KINDS = (
    "SAM's checkpoint (image_encoder.*), a published 3DSAM-adapter checkpoint (encoder_dict, feature_dict, "
    "decoder_dict) or a state dict of this library's"
)


class Checkpoint(NamedTuple):
    """What was read from a file, once, and what messages call it."""

    content: Any
    source: str


def opened(checkpoint: str | Path | Mapping[str, Any] | Checkpoint) -> Checkpoint:
    """Read a checkpoint, unless it has been read.

    Args:
        checkpoint: the file, or what was read from it.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint`.
    """
    if isinstance(checkpoint, Checkpoint):
        return checkpoint
    if isinstance(checkpoint, Mapping):
        return Checkpoint(checkpoint, "the checkpoint")
    return Checkpoint(read_checkpoint(checkpoint), str(checkpoint))


def _numpy_scalars() -> list[Any]:
    """What a NumPy floating-point scalar in a checkpoint (the published ``best_val_loss``) is unpickled with."""
    scalar = np.float64(0.0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64)]
    # NumPy 1 called the module numpy.core, NumPy 2 calls it numpy._core
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    return [np.dtype, *dtypes, *((scalar, name) for name in names)]


def read_checkpoint(path: str | Path) -> Any:
    """Read a PyTorch file onto the CPU: tensors, numbers and containers of them, and no code.

    Args:
        path: a ``.pth``, ``.pt`` or ``.pth.tar`` file.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is no file, is truncated or no PyTorch file, or holds objects other than tensors and numbers.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"the checkpoint {path} does not exist: check the path.")
    if not path.is_file():
        raise ValueError(f"the checkpoint {path} is not a file: give the path of the weight file itself.")
    if reason := no_weights(path):  # a file that may not be read is the system's error, not a broken checkpoint
        raise ValueError(f"the checkpoint {path} {reason}.")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # what a broken file raises depends on where it breaks
        logger.debug("%s: %s", path, error)  # not shown as the cause: PyTorch advises to read it without its guard
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            found = [word for word in str(error).split() if word.count(".") and not word.endswith((".", ":"))]
            logger.debug("refused while reading %s: %s", path, found)
            raise ValueError(
                f"the checkpoint {path} holds Python objects besides tensors, which could run code when they are "
                "read: take the file from its authors, or save its state dict (tensors only) again."
            ) from None
        raise ValueError(
            f"the checkpoint {path} ({path.stat().st_size} bytes) cannot be read: it is truncated, damaged or no "
            "PyTorch file; fetch it again."
        ) from None
    for tensor in _tensors(content):
        held = tensor.untyped_storage().nbytes() if tensor.layout is torch.strided and not tensor.is_meta else 0
        if held < tensor.numel() * tensor.element_size():
            raise ValueError(
                f"the checkpoint {path} holds a tensor of shape {tuple(tensor.shape)} and {held} bytes: expected dense "
                "tensors with all their numbers; take the file from its authors."
            )
    return content


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in containers in containers."""
    waiting = [content]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (Mapping, list, tuple)) and id(each) not in seen:
            seen.add(id(each))
            waiting += each.values() if isinstance(each, Mapping) else each


def kind_of(checkpoint: Any, source: str = "the checkpoint") -> Kind:
    """Whether a checkpoint is SAM's, a published one, or a state dict of one of our networks.

    Args:
        checkpoint: what `read_checkpoint` gave.
        source: what it came from, for the message.

    Raises:
        ValueError: if it is none of them, or ours and of a later format.
    """
    if isinstance(checkpoint, Mapping):
        if {"encoder_dict", "feature_dict", "decoder_dict"} & checkpoint.keys():
            return "published"
        if "image_encoder.depth_embed" in checkpoint or stored_description(checkpoint, source):
            return "ours"
        if any(str(name).startswith("image_encoder.") for name in checkpoint):
            return "sam"
        found = f"has the entries {', '.join(map(str, list(checkpoint)[:4]))}" if checkpoint else "is empty"
    else:
        found = f"holds a {type(checkpoint).__name__}"
    raise ValueError(f"{source} {found}: expected {_KINDS}.")


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], given: Mapping[str, Any], source: str, *, counts: Collection[str] = ()
) -> None:
    """Every tensor is there, none is left over, and each has its shape and finite values.

    Args:
        expected: shapes by name.
        given: tensors by name.
        source: what they came from, for the message.
        counts: names of those that are whole numbers (`counts_of`); all others are floating-point numbers.

    Raises:
        ValueError: that names the first tensors which are missing, unexpected, of another shape, or not finite.
    """
    if missing := [name for name in expected if name not in given]:
        raise ValueError(f"{source} lacks {_listed(missing)}: it is incomplete, or of another network.")
    if unexpected := [str(name) for name in given if name not in expected]:
        raise ValueError(f"{source} holds the unexpected {_listed(unexpected)}: it is of another network.")
    for name, shape in expected.items():
        tensor = given[name]
        if not isinstance(tensor, Tensor) or tensor.is_floating_point() == (name in counts):
            found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            kind = "whole" if name in counts else "floating-point"
            raise ValueError(f"{name} of {source} is {found}: expected a tensor of {kind} numbers.")
        if tensor.shape != shape:
            raise ValueError(f"{name} of {source} has shape {tuple(tensor.shape)}: expected {tuple(shape)}.")
    check_finite(given, source)


def counts_of(state: Mapping[str, Tensor]) -> set[str]:
    """The names of tensors of whole numbers, such as a batch norm's count of batches, or an index."""
    return {name for name, tensor in state.items() if not tensor.is_floating_point()}


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{'tensor' if len(names) == 1 else 'tensors'} {', '.join(names[:most])}{more}"


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """Refuse a path that cannot be written, before any work is done.

    Raises:
        FileNotFoundError: if its folder does not exist.
        ValueError: if it is a folder, or exists and must not be overwritten.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist: make it, or choose another output.")
    if path.is_dir():
        raise ValueError(f"the output {path} is a folder: give the path of the file to write.")
    if path.exists() and not overwrite:
        raise ValueError(
            f"the output {path} exists already: choose another name, or overwrite it (overwrite=True, --overwrite)."
        )
    return path


@contextmanager
def replacing(path: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends, and is removed if it fails.

    Raises:
        FileNotFoundError, ValueError: as `check_output`.
    """
    path = check_output(path, overwrite=overwrite)
    with files.replacing(path) as temporary:
        try:
            yield temporary
        except (RuntimeError, SafetensorError) as error:  # what PyTorch and safetensors say of a full disk
            if not re.search(r"inline_container|PytorchStreamWriter|os error \d+", str(error)):
                raise
            raise files.disk_full(path, error) from None
