"""3D promptable tumour segmentation with SAM adapters, as MONAI networks and bundles."""

import sys

import monai_sam_adapters

__version__ = "0.1.0"

# `python -m adapters` says it in one sentence from __main__: argv[0] is "-m" while Python looks for that module.
if sys.argv[:1] != ["-m"]:
    monai_sam_adapters.check()
