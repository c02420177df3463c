"""What is kept between two clicks: the embedding of each crop, and which crops the last request used.

It is kept by the network, not by the inferer: MONAI Label parses the configuration, and so makes a new inferer, for
every request, while the network lives on. The network empties it in ``train()``, ``load_state_dict`` and ``forget()``
(`adapters.networks.promptable.PromptableNetwork`).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from adapters.inferers.grid import Window
from adapters.prompts import Prompts

_SESSIONS = 16  # scans whose last crops are remembered; a few numbers each
_SAMPLED = 64  # voxels of a scan along each axis, at most, that tell it from other scans
_SAME_PLACE = 1e-3  # voxels


@dataclass(frozen=True)
class Session:
    """The prompts of the last request on a scan, in voxels of the grid, and the crops it used in their order."""

    prompts: Prompts
    windows: tuple[Window, ...]

    def goes_on_with(self, prompts: Prompts) -> bool:
        """Whether all clicks and boxes of the session are among these: then they are the same session, with more."""
        before, now = self.prompts, prompts
        return _are_among(_marked(before), _marked(now)) and _are_among(_flat(before.boxes), _flat(now.boxes))


def _marked(prompts: Prompts) -> np.ndarray:
    return np.column_stack([prompts.points, np.asarray(prompts.labels)])


def _flat(boxes: np.ndarray) -> np.ndarray:
    return boxes.reshape(len(boxes), 2 * boxes.shape[2])


def _are_among(rows: np.ndarray, others: np.ndarray) -> bool:
    return all(np.any(np.all(np.abs(others - row) < _SAME_PLACE, axis=1)) for row in rows)


class Embeddings:
    """Embeddings and sessions of one network. All methods may be called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._embeddings: OrderedDict[Any, Any] = OrderedDict()
        self._sessions: OrderedDict[Any, Session] = OrderedDict()

    def __deepcopy__(self, memo: dict) -> Embeddings:
        """A copy of the network keeps nothing: it may be trained."""
        return Embeddings()

    def __reduce__(self) -> tuple[type[Embeddings], tuple[()]]:
        return Embeddings, ()

    def __len__(self) -> int:
        return len(self._embeddings)

    def embedding(self, key: Any) -> Any | None:
        """The features kept under a key, None if there are none."""
        with self._lock:
            if key in self._embeddings:
                self._embeddings.move_to_end(key)
            return self._embeddings.get(key)

    def keep_embedding(self, key: Any, features: Any, *, bound: int) -> None:
        """Keep features as the network returned them; the least recently used ones go beyond the bound."""
        with self._lock:
            _keep(self._embeddings, key, features, bound)

    def session(self, key: Any) -> Session | None:
        """The last request on a scan."""
        with self._lock:
            return self._sessions.get(key)

    def keep_session(self, key: Any, session: Session) -> None:
        """Remember a request as the last one on its scan."""
        with self._lock:
            _keep(self._sessions, key, session, _SESSIONS)

    def sessions(self) -> tuple[tuple[Any, Session], ...]:
        """The last request on every scan, by its key."""
        with self._lock:
            return tuple(self._sessions.items())

    def restore_sessions(self, sessions: Iterable[tuple[Any, Session]]) -> None:
        """Take requests that `sessions` gave earlier for the last ones: what came after them did not happen."""
        with self._lock:
            self._sessions = OrderedDict(sessions)


def _keep(cache: OrderedDict[Any, Any], key: Any, value: Any, bound: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > bound:
        cache.popitem(last=False)


def embeddings_of(network: Any) -> Embeddings:
    """What a network keeps; of a network that cannot keep anything, something empty that is forgotten at once."""
    kept = getattr(network, "kept", None)
    return kept.setdefault("embeddings", Embeddings()) if isinstance(kept, dict) else Embeddings()


def crop_key(crop: torch.Tensor) -> tuple[Any, ...]:
    """What an embedding depends on besides the weights: the crop's content, its device and autocast."""
    kind = crop.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return _digest(crop), tuple(crop.shape), str(crop.device), str(autocast)


def scan_key(scan: torch.Tensor) -> tuple[Any, ...]:
    """Tells scans (C, ...) apart by a sample of their voxels; two that agree share windows, never embeddings."""
    steps = tuple(slice(None, None, -(-n // _SAMPLED)) for n in scan.shape[1:])
    return _digest(scan[(slice(None), *steps)]), tuple(scan.shape)


def _digest(tensor: torch.Tensor) -> bytes:
    data = np.ascontiguousarray(tensor.detach().cpu().float().numpy())
    return hashlib.blake2b(data.data, digest_size=16).digest()
