"""What all families of networks have in common: the interface, and the checks of what they are prompted with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from adapters.networks.arguments import KeepsArguments
from adapters.networks.description import carry_description
from adapters.networks.roles import Role, roles
from adapters.prompts.tensors import PromptTensors

__all__ = ["Promptable", "PromptableNetwork", "check_prompts", "log_odds", "plain", "set_trainable", "taken"]

_Network = TypeVar("_Network", bound="PromptableNetwork")

KINDS = ("points", "boxes", "text", "mask")
_AXES = {2: "height, width", 3: "depth, height, width"}


class Promptable(Protocol):
    """What inferers, engines and sessions know of a network.

    Attributes:
        spatial_dims: axes of a crop, 2 or 3.
        in_channels: channels of an image.
        takes: kinds of prompts that it takes, of "points", "boxes", "text" and "mask".
    """

    spatial_dims: int
    in_channels: int
    takes: frozenset[str]

    def encode(self, image: Tensor) -> Any:
        """What depends on the image (B, C, *crop) alone, and is kept between prompts."""

    def decode(self, features: Any, image: Tensor, prompts: PromptTensors | None = None) -> Tensor:
        """Log-odds (B, 1, *crop) of the lesion."""


class PromptableNetwork(KeepsArguments):
    """Base of all families: a subclass says what it takes, and how it encodes and decodes.

    Its state dicts carry a description of the network (`adapters.networks.description`), which is checked by every
    ``load_state_dict``.
    """

    family: ClassVar[str] = "own"
    """Name in `adapters.networks.families.FAMILIES`; "own" for networks that no table has."""
    parts: ClassVar[Mapping[str, type[nn.Module]]] = {}
    """Constructor arguments that are parts with arguments of their own, and the class of each."""
    trainables: ClassVar[tuple[str, ...]] = ("published", "all")
    """What `set_trainable` knows."""
    prompt_part: ClassVar[str] = "prompt_head"
    """The part that is left out where no prompts are trained."""
    spatial_dims: int = 3
    in_channels: int = 1
    takes: frozenset[str] = frozenset({"points"})

    def __init__(self) -> None:
        super().__init__()
        carry_description(self)
        self.kept: dict[str, Any] = {}
        """What inferers keep of this network between prompts, such as embeddings of crops."""

    def forget(self) -> None:
        """Drop all that inferers keep; call it where weights are written otherwise than by the two methods below."""
        self.kept.clear()

    def train(self: _Network, mode: bool = True) -> _Network:  # noqa: FBT001, FBT002  (torch's signature)
        """As `torch.nn.Module.train`; what was kept is forgotten, for the weights will change."""
        if mode:
            self.forget()
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As `torch.nn.Module.load_state_dict`; what was kept is forgotten."""
        self.forget()
        return super().load_state_dict(*args, **kwargs)

    def encode(self, image: Tensor) -> Any:
        """What depends on the image alone; keep it between prompts.

        Args:
            image: (B, in_channels, *crop) float, normalised.
        """
        raise NotImplementedError

    def logits(self, features: Any, image: Tensor, prompts: PromptTensors | None = None) -> Tensor:
        """What the family's loss takes.

        Args:
            features: what `encode` gave for this image.
            image: (B, in_channels, *crop), the same image.
            prompts: in voxels of the crop. None: automatic.

        Returns:
            (B, 1, *crop) log-odds of the lesion, or (B, 2, *crop) logits of background and lesion.
        """
        raise NotImplementedError

    def decode(self, features: Any, image: Tensor, prompts: PromptTensors | None = None) -> Tensor:
        """Log-odds (B, 1, *crop) of the lesion; arguments as for `logits`."""
        return log_odds(self.logits(features, image, prompts))

    def forward(self, image: Tensor, prompts: PromptTensors | None = None) -> Tensor:
        """Encode, and give `logits`."""
        return self.logits(self.encode(image), image, prompts)

    def trains(self, name: str, role: Role, trainable: str) -> bool:
        """The family's rule of what is trained.

        Args:
            name: of a parameter.
            role: what it is.
            trainable: "published", or "all".
        """
        return trainable == "all" or role != "sam"

    def set_trainable(
        self: _Network, trainable: str = "published", *, added: bool = True, prompts: bool = True
    ) -> _Network:
        """Choose which parameters are trained, in place; see `adapters.networks.set_trainable`."""
        if trainable not in self.trainables:
            raise ValueError(f"trainable={trainable!r}: expected one of {', '.join(self.trainables)}.")
        for name, parameter, role in roles(self):
            chosen = (added or role != "added") and (prompts or name.split(".")[0] != self.prompt_part)
            parameter.requires_grad_(role != "constant" and chosen and self.trains(name, role, trainable))
        return self


def set_trainable(
    network: _Network, trainable: str = "published", *, added: bool = True, prompts: bool = True
) -> _Network:
    """Choose which parameters are trained, in place; the rule is the family's.

    Args:
        network: the network.
        trainable: "published": what the family tunes, of `SAMAdapter3D` (3DSAM-adapter, section 3) in the encoder the
            spatial adapters, norms, necks and everything that concerns depth, and all of prompt head and decoder;
            "all": everything but constants, such as the gain on the relative positions; "decoder", of `SAMAdapter3D`:
            prompt head and decoder only.
        added: whether what the published network lacks is trained too, the label embedding and the correction prompt.
        prompts: whether the prompt head is trained; False for a network of automatic mode.

    Returns:
        The same network, so that a config can make the call in one expression.

    Raises:
        ValueError: if `trainable` is none of these.
    """
    return network.set_trainable(trainable, added=added, prompts=prompts)


def log_odds(logits: Tensor) -> Tensor:
    """Log-odds (B, 1, *crop) of the lesion.

    Args:
        logits: (B, 1, *crop), which are log-odds already, or (B, 2, *crop) of background and lesion.

    Raises:
        ValueError: if there are other numbers of channels, or a value is not finite, of which no mask may be made.
    """
    if logits.shape[1] not in (1, 2):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}: expected one channel of log-odds, or two of background and "
            "lesion."
        )
    odds = logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]
    if not odds.is_meta and not bool(odds.isfinite().all()):
        raise ValueError(
            "the network gives NaN or infinite values: its weights cannot be right, as after a training that diverged; "
            "take others."
        )
    return odds


def plain(tensor: Tensor) -> Tensor:
    """Without what a subclass adds: a MONAI `MetaTensor`'s metadata would follow every window of attention."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def taken(prompts: PromptTensors | None, takes: frozenset[str]) -> PromptTensors | None:
    """Prompts without the kinds that a network does not take; None if nothing is left."""
    if prompts is None:
        return None
    end = None if "points" in takes else 0
    others = {kind: getattr(prompts, kind) if kind in takes else None for kind in KINDS[1:]}
    return _or_none(PromptTensors(prompts.points[:, :end], prompts.labels[:, :end], **others))


def check_prompts(image: Tensor, prompts: PromptTensors | None, takes: frozenset[str]) -> PromptTensors | None:
    """Prompts that a network can rely on; the same for 2 and 3 axes.

    Args:
        image: (B, C, *crop).
        prompts: in voxels of the crop, in the order of its axes.
        takes: kinds of prompts that the network takes.

    Returns:
        Prompts with labels as whole numbers, without points where all are padding, and with None for every other kind
        of which there is none. None where there is no prompt at all: None, no points, only padding.

    Raises:
        ValueError: if shapes do not agree, a label is none of 1, 0, -1, or a point or a box lies outside the crop. Also
            if there are prompts of a kind that the network does not take.
    """
    if prompts is None:
        return None
    batch, shape = image.shape[0], tuple(image.shape[2:])
    points, labels = _checked_points(prompts.points, prompts.labels, batch, shape)
    boxes, text, mask = prompts.boxes, prompts.text, prompts.mask
    if boxes is not None:
        boxes = _checked_boxes(boxes, batch, shape)
    if text is not None and (text.ndim != 3 or text.shape[0] != batch):
        raise ValueError(f"text has shape {tuple(text.shape)}: expected ({batch}, T, C), a vector for each phrase.")
    if mask is not None and mask.shape != (batch, 1, *shape):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}: expected {(batch, 1, *shape)}, one channel of the lesion's log-odds "
            "on the image's grid."
        )
    given = _or_none(PromptTensors(points, labels, boxes, text, None if mask is None else plain(mask)))
    if given is None:
        return None
    present = {kind: getattr(given, kind) is not None for kind in KINDS[1:]} | {"points": points.shape[1] > 0}
    if refused := [kind for kind in KINDS if present[kind] and kind not in takes]:
        raise ValueError(
            f"the prompts hold {' and '.join(refused)}, the network takes {' and '.join(sorted(takes)) or 'none'}: "
            "leave them out, or take a network that does."
        )
    return given


def _or_none(prompts: PromptTensors) -> PromptTensors | None:
    """None where nothing is left, and None for boxes and text of which there are none."""
    boxes, text = (None if each is None or not each.shape[1] else each for each in (prompts.boxes, prompts.text))
    left = prompts._replace(boxes=boxes, text=text)
    return left if left.points.shape[1] or any(each is not None for each in left[2:]) else None


def _checked_points(points: Tensor, labels: Tensor, batch: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    axes = len(shape)
    if points.ndim != 3 or points.shape[0] != batch or points.shape[2] != axes:
        raise ValueError(
            f"points have shape {tuple(points.shape)}: expected ({batch}, N, {axes}), voxel coordinates in the crop."
        )
    if labels.shape != points.shape[:2]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}: expected {tuple(points.shape[:2])}, one for each point."
        )
    if not bool(((labels == 1) | (labels == 0) | (labels == -1)).all()):
        raise ValueError(f"labels hold {sorted(set(labels.flatten().tolist()))}: expected 1, 0, or -1 for padding.")
    inside = _inside(points, shape) | (labels < 0)
    if not bool(inside.all()):
        raise ValueError(
            f"point {points[~inside][0].tolist()} lies outside the crop of {shape} voxels: points are voxel "
            f"coordinates in the crop, in the order of its axes, {_AXES[axes]}."
        )
    if not bool((labels >= 0).any()):
        return points[:, :0], labels[:, :0].long()
    return points, labels.long()


def _checked_boxes(boxes: Tensor, batch: int, shape: tuple[int, ...]) -> Tensor | None:
    axes = len(shape)
    if boxes.ndim != 4 or boxes.shape[0] != batch or boxes.shape[2:] != (2, axes):
        raise ValueError(
            f"boxes have shape {tuple(boxes.shape)}: expected ({batch}, M, 2, {axes}), the lowest and the highest "
            "voxel of each in the crop."
        )
    padding = boxes.isnan().flatten(2).all(dim=-1)
    good = (_inside(boxes, shape).all(dim=-1) & (boxes[:, :, 0] <= boxes[:, :, 1]).all(dim=-1)) | padding
    if not bool(good.all()):
        raise ValueError(
            f"box {boxes[~good][0].tolist()} does not lie in the crop of {shape} voxels: expected its lowest and its "
            "highest voxel, in voxel coordinates of the crop, or NaN for padding."
        )
    return None if bool(padding.all()) else boxes


def _inside(points: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(..., n) to (...): whether points lie in some voxel of the crop."""
    size = torch.tensor(shape, dtype=points.dtype, device=points.device)
    return ((points >= -0.5) & (points <= size - 0.5)).all(dim=-1)
