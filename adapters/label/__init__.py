"""MONAI Label's server with the bundles in it, for 3D Slicer and OHIF."""

from adapters.label.http_errors import answer_errors
from adapters.label.options import show_options
from adapters.label.server import APP, arrange, command, find_bundles, serve
from adapters.label.training import is_training

__all__ = ["APP", "answer_errors", "arrange", "command", "find_bundles", "is_training", "serve", "show_options"]
