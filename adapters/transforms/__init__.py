"""Dictionary transforms for configurations, and readers of the data lists they start from."""

from .clicks import RequestToClicksd, SimulateClicksd
from .datalist import load_datalist, load_requests
from .mask import LesionLogOddsd, LesionMaskd, ThresholdLesiond
from .options import RequestOptionsd
from .remember import RememberedScand
from .scan import CheckScand, LoadScand, SafeSpacingd

__all__ = [
    "CheckScand",
    "LesionLogOddsd",
    "LesionMaskd",
    "LoadScand",
    "RememberedScand",
    "RequestOptionsd",
    "RequestToClicksd",
    "SafeSpacingd",
    "SimulateClicksd",
    "ThresholdLesiond",
    "load_datalist",
    "load_requests",
]
