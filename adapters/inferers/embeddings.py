"""What is kept between two clicks: the embedding of each crop, and which crops the last request used.

It belongs to the network, not to the inferer: MONAI Label parses the configuration, and so makes a new inferer, for
every request, while the network lives on. It goes when the network goes, and is emptied when its weights change.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdRef

from adapters.inferers.grid import Window

_SESSIONS = 16  # scans whose last crops are remembered; a few numbers each
_SAMPLED = 64  # voxels of a scan along each axis, at most, that tell it from other scans


@dataclass(frozen=True)
class Session:
    """The clicks of the last request on a scan, (N, 3) grid voxels and (N,), and the crops it used in their order."""

    points: np.ndarray
    labels: np.ndarray
    windows: tuple[Window, ...]

    def goes_on_with(self, points: np.ndarray, labels: np.ndarray) -> bool:
        """Whether all clicks of the session are among these: then they are the same session, with more clicks."""
        now = np.column_stack([points, labels])
        before = np.column_stack([self.points, self.labels])
        return all(np.any(np.all(np.abs(now - click) < 1e-3, axis=1)) for click in before)


class Memory:
    """Embeddings and sessions of one network. All methods may be called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._weights: tuple[Any, ...] = ()
        self._embeddings: OrderedDict[Any, Any] = OrderedDict()
        self._sessions: OrderedDict[Any, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._embeddings)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._embeddings.clear()
            self._sessions.clear()
            self._weights = ()

    def _forget_if_changed(self, weights: tuple[Any, ...]) -> None:
        if weights != self._weights:
            self._embeddings.clear()
            self._sessions.clear()
            self._weights = weights

    def embedding(self, key: Any, weights: tuple[Any, ...]) -> Any | None:
        """The features kept under a key, None if there are none for these weights."""
        with self._lock:
            self._forget_if_changed(weights)
            if key in self._embeddings:
                self._embeddings.move_to_end(key)
            return self._embeddings.get(key)

    def keep_embedding(self, key: Any, weights: tuple[Any, ...], features: Any, *, bound: int) -> None:
        """Keep features as the network returned them; the least recently used ones go beyond the bound."""
        with self._lock:
            self._forget_if_changed(weights)
            self._embeddings[key] = features
            self._embeddings.move_to_end(key)
            while len(self._embeddings) > bound:
                self._embeddings.popitem(last=False)

    def session(self, key: Any, weights: tuple[Any, ...]) -> Session | None:
        """The last request on a scan."""
        with self._lock:
            self._forget_if_changed(weights)
            return self._sessions.get(key)

    def keep_session(self, key: Any, weights: tuple[Any, ...], session: Session) -> None:
        """Remember a request as the last one on its scan."""
        with self._lock:
            self._forget_if_changed(weights)
            self._sessions[key] = session
            self._sessions.move_to_end(key)
            while len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)

    def sessions(self) -> tuple[tuple[Any, Session], ...]:
        """The last request on every scan, by its key."""
        with self._lock:
            return tuple(self._sessions.items())

    def restore_sessions(self, sessions: Iterable[tuple[Any, Session]]) -> None:
        """Take requests that `sessions` gave earlier for the last ones: what came after them did not happen."""
        with self._lock:
            self._sessions = OrderedDict(sessions)


_MEMORIES: weakref.WeakKeyDictionary[nn.Module, Memory] = weakref.WeakKeyDictionary()
_MEMORIES_LOCK = threading.Lock()


def memory_of(network: nn.Module) -> Memory:
    """The memory that belongs to a network."""
    with _MEMORIES_LOCK:
        return _MEMORIES.setdefault(network, Memory())


class _LastStep:
    """Notes each step of an optimizer: fused ones write the weights without torch's counting it."""

    def __init__(self) -> None:
        self.token = object()

    def __call__(self, _optimizer: Optimizer, _args: tuple, _kwargs: dict) -> None:
        self.token = object()  # no count: two threads may step at once


_LAST_STEP = _LastStep()
register_optimizer_step_post_hook(_LAST_STEP)


def weights_version(network: nn.Module) -> tuple[Any, ...] | None:
    """A value that changes when a parameter or buffer is written in place or replaced, or any optimizer steps.

    It refers to the tensors and their storages weakly, so it keeps no weights alive, and new ones at the old address
    count as new. While a memory holds it, `torch.utils.swap_tensors` refuses the tensors: clear the memory before.

    Some writes torch does not count, and they go unnoticed: through ``.data``, by a replayed CUDA graph. Clear the
    memory after them.

    Returns:
        The value, None if a parameter or buffer is an inference tensor: no write to those is counted.
    """
    tensors = [*network.parameters(), *network.buffers()]
    if any(t.is_inference() for t in tensors):
        return None
    tellings = ((WeakIdRef(t), StorageWeakRef(t.untyped_storage()), t.data_ptr(), t._version) for t in tensors)
    return _LAST_STEP.token, *tellings


def crop_key(crop: torch.Tensor) -> tuple[Any, ...]:
    """What an embedding depends on besides the weights: the crop's content, its device and autocast."""
    kind = crop.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return _digest(crop), tuple(crop.shape), str(crop.device), str(autocast)


def scan_key(scan: torch.Tensor) -> tuple[Any, ...]:
    """Tells scans (C, D, H, W) apart by a sample of their voxels; two that agree share windows, never embeddings."""
    steps = tuple(slice(None, None, -(-n // _SAMPLED)) for n in scan.shape[1:])
    return _digest(scan[(slice(None), *steps)]), tuple(scan.shape)


def _digest(tensor: torch.Tensor) -> bytes:
    data = np.ascontiguousarray(tensor.detach().cpu().float().numpy())
    return hashlib.blake2b(data.data, digest_size=16).digest()
