"""From log-odds to a mask, and from a data set's labels to one."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from adapters.transforms.labels import check_lesion, label_values
from adapters.transforms.loading import named, source_file


class ThresholdLesiond(MapTransform):
    """The log-odds of the lesion to its mask: 1 where its probability is above the threshold, 0 elsewhere.

    Args:
        keys: keys of log-odds (1, I, J, K), as the inferers give them. Each becomes a mask of the same shape, uint8.
        threshold: a probability, between 0 and 1. A request's own (`RequestOptionsd`) comes before it.

    Raises:
        ValueError: a threshold that is not between 0 and 1.
    """

    def __init__(self, keys: KeysCollection, threshold: float = 0.5, *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.threshold = _checked(threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert each; see the class."""
        d = dict(data)
        for key in self.key_iterator(d):
            options = json.loads(d[key].meta.get("options", "{}")) if isinstance(d[key], MetaTensor) else {}
            threshold = _checked(options.get("threshold", self.threshold))
            odds = math.log(threshold / (1 - threshold))  # so that no probabilities are computed
            d[key] = (d[key] > odds).view(torch.uint8)  # the same bytes
        return d


def _checked(threshold: float) -> float:
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}: expected a probability between 0 and 1")
    return threshold


class LesionMaskd(MapTransform):
    """Labels to masks of the lesion: 1 on it, 0 elsewhere.

    Every data set has its own value for the lesion, and its data list names it in each entry. Studies that were
    labelled by the clients of MONAI Label come without such an entry: there all that is not background is lesion.

    Args:
        keys: keys of labels (1, I, J, K).
        values_key: under which a case holds the value (or values) of the lesion in its label.
        required: refuse a label without a lesion. False: one that is empty, or holds ``others`` alone, gives an empty
            mask.
        others: values of other structures in the label.

    Raises:
        ValueError: (when called) a label that has none of the values though ``required``, or values that are neither
            the lesion's nor those of others; without values, a label that is not finite.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        values_key: str = "label_values",
        required: bool = False,
        others: Sequence[float] = (),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.values_key = values_key
        self.required = required
        self.others = tuple(others)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert each label; see the class."""
        d = dict(data)
        given = d.get(self.values_key)
        values: Sequence[float] | None = None if given is None else np.atleast_1d(given).tolist()
        for key in self.key_iterator(d):
            label = d[key]
            array = np.asarray(label)
            if values is None and not np.isfinite(array).all():
                raise ValueError(
                    f"label {key!r} ({source_file(label)}) holds NaN or infinity, expected 0 on what is no lesion"
                )
            lesion = array != 0 if values is None else np.isin(array, values)
            if not lesion.any():
                name = named(label, str(key))
                if values is not None:
                    check_lesion(label_values(array), values, name, required=self.required, others=self.others)
                elif self.required:
                    raise ValueError(f"label {name} has no voxel but 0: draw the lesion, or leave the case out")
            d[key] = convert_to_dst_type(lesion.astype(np.float32), label)[0]
        return d
