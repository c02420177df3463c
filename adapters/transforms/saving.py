"""How masks are named and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import DtypeLike, NdarrayOrTensor
from monai.data import ImageWriter, NibabelWriter
from monai.data.folder_layout import default_name_formatter
from monai.data.utils import to_affine_nd
from monai.transforms import Transform
from monai.utils import get_equivalent_dtype

from adapters.files import case_name
from adapters.transforms.dicom_seg import SegmentationWriter
from adapters.transforms.loading import NIFTI


class NiftiWriter(NibabelWriter):
    """MONAI's writer of NIfTI files without its copies of the voxels; the files are the same.

    MONAI makes a float32 copy even of what is not resampled, and one in C order, which nibabel changes back slice by
    slice. Here voxels go to the file from where they lie. An interruption leaves no half file.
    """

    def set_metadata(self, meta_dict: Mapping | None, resample: bool = True, **options: Any) -> None:  # noqa: FBT001, FBT002
        """Take the affine; with ``resample`` as MONAI does."""
        if resample:
            super().set_metadata(meta_dict, resample=resample, **options)
        else:
            _, self.affine, _ = self.get_meta_info(meta_dict)

    def write(self, filename: PathLike | str, *args: Any, **options: Any) -> None:
        """Write as MONAI does, beside the file, and put it into its place as a whole."""
        path = Path(filename)
        with TemporaryDirectory(prefix=".", dir=path.parent) as folder:  # nibabel goes by the ending
            whole = Path(folder) / path.name
            super().write(whole, *args, **options)
            whole.replace(path)

    @classmethod
    def create_backend_obj(
        cls, data_array: NdarrayOrTensor, affine: NdarrayOrTensor | None = None, dtype: DtypeLike = None, **kwargs: Any
    ) -> Any:
        """A nibabel image of voxels (I, J, K), channels last if there are any, with an affine (4, 4)."""
        voxels = np.asarray(data_array.cpu() if isinstance(data_array, torch.Tensor) else data_array)
        if dtype is not None:
            voxels = voxels.astype(get_equivalent_dtype(dtype, np.ndarray), copy=False)
        affine = to_affine_nd(3, np.eye(4) if affine is None else np.asarray(affine))
        return nib.nifti1.Nifti1Image(voxels, affine, **kwargs)


def mask_name(meta: dict, saver: Transform) -> dict:
    """The names that ``SaveImaged`` gives its files: MONAI's, but after `case_name` (``output_name_formatter``).

    MONAI's cut the last number off the name of a folder such as ``1.2.840.1``, so masks overwrite each other.
    """
    names = default_name_formatter(meta, saver)
    scan = Path(names["subject"])
    return {**names, "subject": str(scan.with_name(f"{case_name(scan)}."))}  # the ending that MONAI takes away


def mask_writer(ending: str, label: str = "lesion") -> Callable[..., ImageWriter] | None:
    """The writer for ``SaveImaged`` by a file's ending: of NIfTI, or of DICOM SEG with a segment of this label.

    None for other endings: MONAI chooses.
    """
    if ending.lower().lstrip(".") == "dcm":
        return partial(SegmentationWriter, label=label)
    return NiftiWriter if ending.lower() in NIFTI else None
