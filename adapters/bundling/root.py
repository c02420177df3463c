"""Where a bundle lies, wherever the process was started."""

from __future__ import annotations

import inspect
from pathlib import Path

__all__ = ["bundle_root"]


def bundle_root() -> str:
    """The folder of the bundle whose configuration is being read: the value of its id ``bundle_root``.

    ``monai.bundle.run`` and ``load`` make a `ConfigWorkflow`, which does not hand its file's path to the expressions in
    it. So the workflow is looked for among the callers. As for MONAI, the bundle is the folder above ``configs``, or
    the file's own folder where that has another name.

    Returns:
        The absolute path.

    Raises:
        ValueError: No workflow is among the callers, as when a `ConfigParser` alone reads the file: it keeps the
            content and forgets the path.
    """
    from monai.bundle import ConfigWorkflow

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigWorkflow) and "config_root_path" in vars(caller):
            folder = Path(caller.config_root_path).absolute()
            return str(folder.parent if folder.name == "configs" else folder)
        frame = frame.f_back
    raise ValueError(
        "bundle_root is not known here, because a ConfigParser does not keep the path of the file that it read: set it "
        "before anything is parsed, parser['bundle_root'] = '/path/to/the/bundle'"
    )
