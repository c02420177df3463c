"""Public data sets as they are distributed, and generated ones."""

from adapters.datasets.phantom import TISSUES, Ellipsoid, phantom, phantom_tumours, write_phantoms
from adapters.datasets.releases import RELEASES, Constants, Release, get_release

__all__ = [
    "RELEASES",
    "TISSUES",
    "Constants",
    "Ellipsoid",
    "Release",
    "get_release",
    "phantom",
    "phantom_tumours",
    "write_phantoms",
]
