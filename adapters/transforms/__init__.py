"""Dictionary transforms for configurations, and the data lists and data sets that they work on."""

from .caching import cached_dataset
from .datalist import load_datalist, load_requests
from .first_look import check_case, check_cases, check_request
from .intensity import WindowIntensityd
from .lesion_mask import LesionMaskd, ThresholdLesiond
from .loading import CheckScand, LoadScand, SafeSpacingd
from .prompts import RequestToClicksd, SimulateClicksd
from .remembered_scan import RememberedScand
from .request_options import RequestOptionsd
from .saving import NiftiWriter, mask_name, mask_writer

__all__ = [
    "CheckScand",
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
    "check_case",
    "check_cases",
    "check_request",
    "load_datalist",
    "load_requests",
    "mask_name",
    "mask_writer",
]
