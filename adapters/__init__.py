"""3D promptable tumour segmentation with SAM adapters, as MONAI networks and bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import monai_sam_adapters

if TYPE_CHECKING:
    from adapters.sessions import ClickSession as ClickSession

__version__ = "0.2.0"

monai_sam_adapters.check()


def __getattr__(name: str) -> Any:
    """``adapters.ClickSession``, imported when it is asked for: torch and MONAI take seconds."""
    if name == "ClickSession":
        from adapters.sessions import ClickSession

        return ClickSession
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
