"""Dictionary transforms for configurations, and the data lists and data sets that they work on."""

from .caching import cached_dataset
from .clicks import RequestToClicksd, SimulateClicksd
from .datalist import load_datalist, load_requests
from .intensity import WindowIntensityd
from .mask import LesionLogOddsd, LesionMaskd, ThresholdLesiond
from .options import RequestOptionsd
from .remember import RememberedScand
from .saving import NiftiWriter, mask_name, mask_writer
from .scan import CheckScand, LoadScand, SafeSpacingd

__all__ = [
    "CheckScand",
    "LesionLogOddsd",
    "LesionMaskd",
    "LoadScand",
    "NiftiWriter",
    "RememberedScand",
    "RequestOptionsd",
    "RequestToClicksd",
    "SafeSpacingd",
    "SimulateClicksd",
    "ThresholdLesiond",
    "WindowIntensityd",
    "cached_dataset",
    "load_datalist",
    "load_requests",
    "mask_name",
    "mask_writer",
]
