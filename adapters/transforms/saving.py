"""How masks are named and written: where any viewer shows them on their scan, and never over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pydicom
import torch
from monai.config import DtypeLike, NdarrayOrTensor
from monai.data import ImageWriter, ITKWriter, NibabelWriter
from monai.data.folder_layout import default_name_formatter
from monai.data.utils import to_affine_nd
from monai.transforms import Transform
from monai.utils import MetaKeys, get_equivalent_dtype

from adapters.files import case_name, disk_full, files_of_scan, writing
from adapters.transforms.dicom import is_dicom
from adapters.transforms.dicom_seg import SegmentationWriter
from adapters.transforms.loading import NIFTI_GEOMETRY
from adapters.transforms.nifti import with_geometry
from adapters.transforms.scan_header import scan_header

_NIFTI = (".nii", ".nii.gz")
_ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
_SEG = ".dcm"


class _OnScan(ImageWriter):
    """What both writers take of a mask's meta."""

    def set_metadata(self, meta_dict: Mapping | None = None, resample: bool = True, **options: Any) -> None:  # noqa: FBT001, FBT002
        """Take the affine and the scan's header; with ``resample`` as MONAI does, which refuses some orientations."""
        self.meta = dict(meta_dict or {})
        if resample:
            super().set_metadata(meta_dict, resample=resample, **options)
        else:
            _, self.affine, _ = self.get_meta_info(meta_dict)


class NiftiWriter(_OnScan, NibabelWriter):
    """MONAI's writer of NIfTI files without its copies of the voxels, with the scan's own header where it has one.

    MONAI makes a float32 copy even of what is not resampled, and one in C order, which nibabel changes back slice by
    slice. Here voxels go to the file from where they lie. An interruption leaves no half file.

    A mask on the grid of a NIfTI scan gets that scan's sform, qform, codes and spacing (`LoadScand` puts them into the
    meta). So it lies on the scan in every viewer, whichever of them the viewer takes.

    Raises:
        ValueError: (when writing) in the file's place is the scan itself, or another image that is no mask.
    """

    def write(self, filename: PathLike | str, verbose: bool = True, **options: Any) -> None:  # noqa: FBT001, FBT002
        """Write beside the file, and put it into its place as a whole."""
        ImageWriter.write(self, filename, verbose=verbose)
        image = self.create_backend_obj(self.data_obj, affine=self.affine, dtype=self.output_dtype, **options)
        geometry = _geometry_of_scan(self.meta, self.affine)
        if geometry:
            image = with_geometry(image.dataobj, geometry)
        else:  # as MONAI, but a shear is more than a qform can say
            image.set_sform(image.affine, code=1)
            image.set_qform(image.affine, code=int(np.allclose(image.affine, image.get_qform(), atol=1e-3)))
        with _in_place_of(Path(filename), self.meta, image.get_data_dtype()) as whole:
            nib.save(image, whole)

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


class SegWriter(SegmentationWriter):
    """The writer of DICOM SEG, which keeps images as the others do.

    Raises:
        ValueError: (when writing) in the file's place is one of the scan's own, or another image that is no mask.
    """

    def set_metadata(self, meta_dict: Mapping | None, **options: Any) -> None:
        """Take what is needed of the scan."""
        super().set_metadata(meta_dict, **options)
        self.meta = dict(meta_dict or {})

    def write(self, filename: PathLike | str, verbose: bool = True, **options: Any) -> None:  # noqa: FBT001, FBT002
        """Write the file as a whole."""
        check_target(Path(filename), self.meta)
        super().write(filename, verbose=verbose, **options)


class ItkWriter(_OnScan, ITKWriter):
    """MONAI's writer of NRRD and MetaImage files, with the place that ITK gives to the scan itself.

    Where a NIfTI header says two things, ITK and nibabel take different ones.

    Raises:
        OSError: (when writing) the disk is full.
        ValueError: ITK cannot read the scan's header, as of one that is sheared; or as `NiftiWriter`.
    """

    def write(self, filename: PathLike | str, verbose: bool = True, **options: Any) -> None:  # noqa: FBT001, FBT002
        """Write beside the file, and put it into its place as a whole."""
        ImageWriter.write(self, filename, verbose=verbose)
        image = self.create_backend_obj(
            self.data_obj,
            channel_dim=self.channel_dim,
            affine=self.affine,
            dtype=self.output_dtype,
        )
        geometry = _geometry_of_scan(self.meta, self.affine)
        with _in_place_of(Path(filename), self.meta, np.dtype(self.output_dtype)) as whole:
            if geometry:
                _place_as_itk_does(image, geometry)
            if not whole.name.endswith(_ITK) and whole.name.upper().endswith((".MHA", ".MHD")):
                raise ValueError(f"ITK writes no {whole.suffix}: call the mask {whole.suffix.lower()}")
            try:
                itk.imwrite(image, str(whole), compression=True)
                scan_header(whole).read(np.dtype(self.output_dtype))  # type: ignore[union-attr]  # ITK may say nothing
            except (RuntimeError, ValueError, EOFError) as error:
                raise disk_full(Path(filename), error) from error


def _geometry_of_scan(meta: Mapping, affine: Any) -> str:
    """The geometric fields for a mask that lies on the stored grid of a NIfTI scan; empty for others."""
    stored, geometry = meta.get(MetaKeys.ORIGINAL_AFFINE), meta.get(NIFTI_GEOMETRY)
    if not geometry or stored is None or not np.allclose(np.asarray(affine), np.asarray(stored), atol=1e-4):
        return ""
    return str(geometry)


def _place_as_itk_does(image: Any, geometry: str) -> None:
    """Give an ITK image the origin, spacing and directions that ITK reads from a NIfTI header (`ScanHeader.nifti`)."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "header.nii"
        nib.save(with_geometry(np.zeros((1, 1, 1), np.uint8), geometry), path)
        reader = itk.NiftiImageIO.New(FileName=str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise ValueError(
                "ITK cannot place this scan, whose NIfTI header is sheared or has no rotation: write a mask as .nii.gz"
            ) from error
        axes = range(3)
        image.SetOrigin([reader.GetOrigin(axis) for axis in axes])
        spacing = np.array([reader.GetSpacing(axis) for axis in axes])
        image.SetSpacing(np.abs(spacing).tolist())
        directions = np.array([list(reader.GetDirection(axis)) for axis in axes]).T * np.sign(spacing)  # as ITK does
        image.SetDirection(itk.GetMatrixFromArray(np.ascontiguousarray(directions)))


@contextmanager
def _in_place_of(path: Path, meta: Mapping, dtype: np.dtype) -> Iterator[Path]:
    """A file of the same name in a folder beside, which takes the path's place when the block ends.

    Readers and writers go by the ending, and a header may name the file of the voxels beside it.
    """
    check_target(path, meta, dtype)
    with writing(path), TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        whole = Path(folder) / path.name
        yield whole
        files = sorted(Path(folder).iterdir(), key=lambda each: each == whole)  # the header last
        for file in files:
            check_target(path.with_name(file.name), meta, dtype)
        for file in files:
            file.replace(path.with_name(file.name))


def check_target(path: Path, meta: Mapping, dtype: Any = np.uint8) -> None:
    """Refuse to write a mask over an image.

    Args:
        path: where the mask is to be written.
        meta: of the scan that it belongs to; ``filename_or_obj`` names its file or folder.
        dtype: of the mask's values.

    Raises:
        ValueError: there lies one of the scan's own files, or another image that cannot be an earlier mask: of other
            values than bytes and `dtype`, or DICOM and no segmentation.
    """
    if not path.exists():
        return
    name = meta.get("filename_or_obj")
    scan = Path(str(name)) if name else None
    own = () if scan is None or not scan.exists() else (scan, *(files_of_scan(scan) or ()))
    if any(file.samefile(path) for file in own):
        raise ValueError(f"the mask would replace its own scan {str(path)!r}: choose another folder or another name")
    try:
        header = None if is_dicom(path) else scan_header(path)
        if header is None:  # DICOM, also without its first part, as before DICOM 3
            found = pydicom.dcmread(path, specific_tags=["Modality"], stop_before_pixels=True, force=True)
            is_mask = found.get("Modality", "SEG") == "SEG"
        else:
            stored = header.voxels.dtype
            is_mask = stored.itemsize == 1 or stored.newbyteorder("=") == np.dtype(dtype)
    except Exception:  # what cannot be read is no image
        return
    if not is_mask:
        raise ValueError(f"the mask would replace the image {str(path)!r}: choose another folder or another name")


def mask_name(meta: dict, saver: Transform) -> dict:
    """The names that ``SaveImaged`` gives its files: MONAI's, but after `case_name` (``output_name_formatter``).

    MONAI's cut the last number off the name of a folder such as ``1.2.840.1``, so masks overwrite each other.
    """
    names = default_name_formatter(meta, saver)
    scan = Path(names["subject"])
    return {**names, "subject": str(scan.with_name(f"{case_name(scan)}."))}  # the ending that MONAI takes away


def mask_writer(ending: str, label: str = "lesion") -> Callable[..., ImageWriter]:
    """The writer for ``SaveImaged`` by a file's ending.

    Args:
        ending: of NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd), or DICOM SEG (.dcm).
        label: what the segment of a DICOM SEG is called.

    Raises:
        ValueError: another ending.
    """
    dotted = f".{ending.lower().lstrip('.')}"
    if dotted == _SEG:
        return partial(SegWriter, label=label)
    if dotted in (*_NIFTI, *_ITK):
        return NiftiWriter if dotted in _NIFTI else ItkWriter
    raise ValueError(f"the mask's ending is {ending!r}: expected one of {', '.join((*_NIFTI, *_ITK, _SEG))}")


def write_mask(path: Path, mask: np.ndarray, meta: Mapping, affine: np.ndarray, label: str) -> None:
    """Write a mask as ``SaveImaged`` does in a bundle.

    Args:
        path: its ending says the format (`mask_writer`).
        mask: bool (I, J, K), on the stored grid of its scan.
        meta: of the scan (`LoadScand`).
        affine: (4, 4), of that grid: voxels to world in mm, RAS+.
        label: what the lesion is called.

    Raises:
        ValueError: another ending, or as the writer.
    """
    ending = next((each for each in (*_NIFTI, *_ITK, _SEG) if path.name.lower().endswith(each)), path.suffix)
    writer = mask_writer(ending, label)(output_dtype=np.uint8)
    writer.set_data_array(mask.astype(np.uint8), channel_dim=None)
    writer.set_metadata({**meta, MetaKeys.AFFINE: affine}, resample=False)
    writer.write(path, verbose=False)
