"""Options of a request, as the clients of MONAI Label send them."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_WANTED = {bool: "true or false", int: "a whole number", float: "a number"}


class RequestOptionsd(MapTransform):
    """Read the options that a request gives, and write them into the meta of the scan tensor for the inferer.

    Clients send options as numbers, or as text. Each is brought to the type of its default. An option that is missing,
    None or empty text is not written, so that the inferer's own value holds.

    Writes ``image.meta["options"]`` of every scan, as JSON text, if an empty one: a batch holds those of each item.
    They are taken out of the data, which so have the same keys for every item.

    Args:
        keys: keys of the scans (MetaTensors).
        options: the options' names and defaults, of type bool, int or float; None stands for a number.

    Raises:
        ValueError: a default of another type; (when called) a value that cannot be read as the default's type, or is
            not finite.
    """

    def __init__(
        self, keys: KeysCollection, options: Mapping[str, bool | float | None], *, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.kinds = {name: float if default is None else type(default) for name, default in options.items()}
        for name, kind in self.kinds.items():
            if kind not in _WANTED:
                raise ValueError(f"the default of {name!r} is {options[name]!r}, expected true, false or a number")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the request's options into the meta of each scan; see the class."""
        d = dict(data)
        given = {name: d.pop(name, None) for name in self.kinds}
        read = {
            name: _read(name, value, self.kinds[name])
            for name, value in given.items()
            if value is not None and not (isinstance(value, str) and value == "")
        }
        for key in self.key_iterator(d):
            d[key] = with_meta(d[key], options=json.dumps(read))
        return d


def with_meta(image: MetaTensor, **entries: str) -> MetaTensor:
    """The same tensor (memory shared) with more in its meta: text, which every loader collates."""
    meta = {**image.meta, **entries}
    return MetaTensor(image.as_tensor(), meta=meta, applied_operations=list(image.applied_operations))


def _read(name: str, value: Any, kind: type) -> bool | float:
    """A value as bool, int or float."""
    text = str(value).strip().lower()
    if kind is bool and text in _TRUTH:
        return _TRUTH[text]
    if kind is not bool and not isinstance(value, bool):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (kind is float or number == int(number)):
            return kind(number)
    raise ValueError(f"option {name!r} is {value!r}, expected {_WANTED[kind]}")
