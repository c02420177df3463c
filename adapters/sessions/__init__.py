"""A bundle's parts put together for Python: click after click on one image."""

from adapters.sessions.bundle import bundle_network, read_bundle
from adapters.sessions.click import ClickSession

__all__ = ["ClickSession", "bundle_network", "read_bundle"]
