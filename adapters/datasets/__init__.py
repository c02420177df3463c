"""Public data sets, and generated ones."""

from adapters.datasets.phantom import TISSUES, Ellipsoid, phantom, phantom_tumours, write_phantoms

__all__ = ["TISSUES", "Ellipsoid", "phantom", "phantom_tumours", "write_phantoms"]
