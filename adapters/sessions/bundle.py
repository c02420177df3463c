"""A bundle's inference configuration, and its network with the weights in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

from adapters.bundling.folders import find_bundle
from adapters.bundling.workflow import literal, no_such_id
from adapters.checkpoints import load_weights
from adapters.error_text import innermost
from adapters.files import read_json

__all__ = ["bundle_network", "read_bundle"]


def read_bundle(bundle: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> ConfigParser:
    """A bundle's ``configs/inference.json``, read and not yet evaluated, with its metadata.

    Args:
        bundle: its name or folder, as `adapters.bundling.folders.find_bundle`.
        overrides: other values for ids of the configuration, as on the command line of ``monai.bundle run``;
            ``a#b`` is the part ``b`` of the id ``a``.

    Raises:
        FileNotFoundError: if there is no such bundle; the message names those there are.
        ValueError: if an override is none of its ids; the message names those there are. If a file is no JSON object.
    """
    folder = find_bundle(bundle)
    parser = ConfigParser()
    parser.read_config(_checked(folder / "configs" / "inference.json"))
    if (folder / "configs" / "metadata.json").is_file():
        parser.read_meta(_checked(folder / "configs" / "metadata.json"))
    parser["bundle_root"] = _kept(str(folder))
    for name, value in (overrides or {}).items():
        place = name.rpartition("#")[0] or name
        if place not in parser:
            raise no_such_id(name, parser.get(), f"{folder.name}'s inference.json")
        parser[name] = _kept(value)
    return parser


def _kept(value: Any) -> Any:
    """A value as MONAI's parser leaves it: a text that is no expression keeps its '#'."""
    return literal(value) if isinstance(value, str) and "#" in value and value[:1] not in "$@%" else value


def _checked(path: Path) -> Path:
    """The path of a JSON object, which MONAI reads again with what it does to keys."""
    if not isinstance(content := read_json(path), dict):
        raise ValueError(f"{str(path)!r} holds {type(content).__name__}, expected an object of ids")
    return path


def parsed(parser: ConfigParser, name: str, default: Any = None) -> Any:
    """What an id of a configuration evaluates to; `default`, if there is one, where there is no such id.

    Raises:
        ValueError: if a part of it refuses its arguments; the message is that part's own.
    """
    if default is not None and name not in parser:
        return default
    try:
        return parser.get_parsed_content(name)
    except RuntimeError as error:
        raise ValueError(f"{name} of the configuration: {innermost(error)}") from error


def bundle_network(parser: ConfigParser) -> nn.Module:
    """The network of a configuration, on its device, with the weights of its ``checkpoint``, in evaluation mode.

    Args:
        parser: as `read_bundle` gave it.

    Raises:
        FileNotFoundError: if the weights are not there.
        ValueError: if they cannot be read, or are of another network.
    """
    network = parsed(parser, "network")
    load_weights(parsed(parser, "checkpoint"), network)
    return network.eval()
