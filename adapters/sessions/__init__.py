"""A bundle's parts put together for Python: click after click on one image, and its network for other programs."""

from adapters.sessions.bundle import bundle_network, read_bundle
from adapters.sessions.click_session import ClickSession
from adapters.sessions.export import export_bundle

__all__ = ["ClickSession", "bundle_network", "export_bundle", "read_bundle"]
