"""What a training has to know of MONAI Label, which starts it."""

from __future__ import annotations

import sys

__all__ = ["is_training"]

_CONFIG = "monailabel_train.json"  # which MONAI Label writes for a training on several GPUs


def is_training() -> bool:
    """Whether this process is a training that MONAI Label has started.

    A user who starts one there, with more labels than before, means one that starts anew from the bundle's weights.
    """
    return "monailabel" in sys.modules or any(_CONFIG in word for word in sys.argv)
