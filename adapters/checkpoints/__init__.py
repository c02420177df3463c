"""Weight files: SAM's, the published ones of 3DSAM-adapter, and ours."""

from adapters.checkpoints.conversion import Conversion, convert, initialise
from adapters.checkpoints.download import WEIGHTS, WeightFile, download_weights
from adapters.checkpoints.export import check_onnx, export_network
from adapters.checkpoints.ours import load_adapter, load_model, load_weights, save_adapter, save_model
from adapters.checkpoints.sam import LoadedSam, SamReport, load_sam
from adapters.checkpoints.samadapter3d import load_published

__all__ = [
    "WEIGHTS",
    "Conversion",
    "LoadedSam",
    "SamReport",
    "WeightFile",
    "check_onnx",
    "convert",
    "download_weights",
    "export_network",
    "initialise",
    "load_adapter",
    "load_model",
    "load_published",
    "load_sam",
    "load_weights",
    "save_adapter",
    "save_model",
]
