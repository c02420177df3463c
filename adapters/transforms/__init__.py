"""Dictionary transforms for configurations, and readers of the data lists they start from."""

from .clicks import RequestToClicksd, SimulateClicksd
from .datalist import load_datalist, load_requests
from .scan import CheckScand, LoadScand, SafeSpacingd

__all__ = [
    "CheckScand",
    "LoadScand",
    "RequestToClicksd",
    "SafeSpacingd",
    "SimulateClicksd",
    "load_datalist",
    "load_requests",
]
