"""MONAI Label's server with the bundles in it, for 3D Slicer and OHIF."""

from adapters.label.server import APP, arrange, command, find_bundles, serve

__all__ = ["APP", "arrange", "command", "find_bundles", "serve"]
