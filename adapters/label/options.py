"""The options of a bundle, as MONAI Label's server shows them to its clients."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["show_options"]

_TASK = "monailabel.tasks.infer.bundle"


def show_options(options: Mapping[str, Any]) -> None:
    """Has MONAI Label's server, which is reading the bundle, show these options to its clients.

    In place of its ``displayable_configs``: it writes what a client sends for them into the bundle's configuration,
    where text that begins with ``$`` is evaluated. Here they stay in the request, which
    `adapters.transforms.RequestOptionsd` reads. Outside of a server nothing happens.

    Args:
        options: names and defaults.
    """
    if _TASK not in sys.modules:
        return
    kind = sys.modules[_TASK].BundleInferTask
    frame = inspect.currentframe()
    while frame is not None:
        task = frame.f_locals.get("self")
        if isinstance(task, kind):
            task.config = functools.partial(_shown, task, kind, options)
            return
        frame = frame.f_back


def _shown(task: Any, kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    return {**kind.config(task), **options}  # type: ignore[attr-defined]  # MONAI Label's
