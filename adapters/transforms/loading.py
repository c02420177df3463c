"""Reading a scan, refusing what the network cannot take, and resampling it."""

from __future__ import annotations

import gzip
import logging
import math
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import itk
import nibabel as nib
import numpy as np
import torch
from monai.config import DtypeLike, KeysCollection
from monai.data import ITKReader, MetaTensor, NibabelReader
from monai.transforms import EnsureChannelFirst, LoadImaged, MapTransform, Spacingd
from monai.transforms.io.array import switch_endianness
from monai.utils import ImageMetaKey

from adapters.prompts import check_affine

logger = logging.getLogger(__name__)

NIFTI = (".nii", ".nii.gz")
# The deviation from even spacing between the slices of a series, as a part of the spacing, that is worth a warning.
_UNEVEN = 0.01
_OTHER_UNITS = {1: "metres", 3: "micrometres"}  # NIfTI's codes; 2 is mm, and headers without a unit mean mm


class _SeriesReader(ITKReader):
    """ITK, with one DICOM series for a folder or none at all (MONAI's reader takes the first of several)."""

    def read(self, data: Sequence[PathLike | str] | PathLike | str, **kwargs: Any) -> Any:
        name = str(data[0] if isinstance(data, (tuple, list)) else data)
        if not Path(name).is_dir():
            return super().read(data, **kwargs)
        finder = itk.GDCMSeriesFileNames.New()
        finder.SetUseSeriesDetails(True)
        finder.AddSeriesRestriction("0008|0021")
        finder.SetDirectory(name)
        found = list(finder.GetSeriesUIDs())
        if not found:
            raise ValueError("the folder holds no DICOM series; give a folder of DICOM slices, or a file")
        if not self.series_name and len(found) > 1:
            raise ValueError(f"the folder holds {len(found)} DICOM series, {', '.join(found)}; name one (series_name)")
        if self.series_name and self.series_name not in found:
            raise ValueError(f"the folder has no DICOM series {self.series_name!r}, expected one of {', '.join(found)}")
        slices = list(finder.GetFileNames(self.series_name or found[0]))
        scan = itk.imread(slices if len(slices) > 1 else slices[0], **{**self.kwargs, **kwargs})
        header = scan.GetMetaDataDictionary()
        uneven = "ITK_non_uniform_sampling_deviation"
        if header.HasKey(uneven) and float(header[uneven]) > _UNEVEN * float(scan.GetSpacing()[2]):
            logger.warning("%s: the slices are unevenly spaced, by %s mm; is one missing?", name, header[uneven])
        return scan


class _NiftiReader(NibabelReader):
    """nibabel, with a compressed file unpacked at once (nibabel does it in many small pieces).

    It keeps the name of the file that it read last, so each file has a reader of its own: threads share a loader.
    """

    def _get_array_data(self, img: Any, filename: Any) -> np.ndarray:
        if not str(filename).lower().endswith(".gz"):
            return cast(np.ndarray, super()._get_array_data(img, filename))
        return np.asanyarray(type(img).from_bytes(gzip.decompress(Path(filename).read_bytes())).dataobj)


class LoadScand(LoadImaged):
    """Load scans with their affine (voxels to world mm, RAS+), channel first.

    NIfTI is read by nibabel, everything else (NRRD, MHA, a folder with one DICOM series) by ITK, whose LPS affine is
    turned into RAS+, so that the same scan gives the same array (i, j, k) and affine in every format.

    Args:
        keys: keys of the paths. Each becomes a MetaTensor (C, I, J, K) of ``dtype`` with C = 1 for a scan of one
            channel, and ``affine``, ``original_affine``, ``spatial_shape``, ``filename_or_obj`` in its meta.
        dtype: type of the values.
        series_name: the DICOM series to read of a folder with several.
        allow_missing_keys: leave out keys that the data do not have.

    Raises:
        FileNotFoundError: (when called) there is no such file or folder.
        ValueError: (when called) it is not a path, cannot be read (truncated, another format), has a singular
            affine or lengths in another unit than mm, or is a folder with no DICOM series, or with several and no
            ``series_name``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        dtype: DtypeLike = np.float32,
        series_name: str = "",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, dtype=dtype, ensure_channel_first=True, allow_missing_keys=allow_missing_keys)
        self._itk = _SeriesReader(series_name=series_name)

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        """Load each scan; ``reader`` (a MONAI image reader) takes the place of our choice."""
        d = dict(data)
        for key in self.key_iterator(d):
            name = d[key]
            if isinstance(name, (list, tuple)) and len(name) == 1:
                name = name[0]
            if (
                isinstance(name, str) and not name
            ):  # MONAI Label's word for an image that it does not know; as a path it is this folder
                raise FileNotFoundError(f"there is no {key} of this name: ask for one that is among the studies")
            if not isinstance(name, (str, PathLike)):
                raise ValueError(f"{key!r} is {name!r}, expected the path of one scan (a file, or a folder of DICOM)")
            path = Path(name).expanduser()
            if not path.exists():
                raise FileNotFoundError(f"{key!r}: there is no file or folder {str(path)!r}; check the path")
            is_nifti = str(path).lower().endswith(NIFTI)
            loaded: Any
            try:
                if is_nifti and reader is None:
                    loaded = self._load_nifti(str(path))
                else:
                    loaded = self._loader(str(path), reader or self._itk)
            except Exception as err:  # the libraries raise anything from EOFError to RuntimeError
                raise ValueError(
                    f"{key!r}: {str(path)!r} cannot be read, expected a NIfTI, NRRD or MHA file that is not truncated, "
                    f"or a folder with one DICOM series: {_reason(err)}"
                ) from err
            # MONAI Label has the loader give the metadata a second time
            d[key] = loaded[0] if isinstance(loaded, tuple) else loaded
            if is_nifti:
                _check_header(nib.load(path), _name(d[key], str(key)))
        return d

    def _load_nifti(self, name: str) -> MetaTensor:
        """What MONAI's loader gives, with the axes in memory as nibabel has them.

        MONAI copies the scan into the other order, and orienting it would copy it back.
        """
        reader = _NiftiReader()
        array, meta = reader.get_data(reader.read(name))
        if np.iscomplexobj(array):
            raise ValueError("its values are complex numbers; save their magnitude")
        values = torch.from_numpy(np.array(array, dtype=self._loader.dtype, order="K"))
        meta = {**switch_endianness(meta, "<"), ImageMetaKey.FILENAME_OR_OBJ: name}
        scan = EnsureChannelFirst()(MetaTensor.ensure_torch_and_prune_meta(values, meta), meta_dict=meta)
        return cast(MetaTensor, scan)


def _check_header(image: Any, name: str) -> None:
    """Refuse an affine that MONAI would put another one in the place of, and lengths that it would take for mm."""
    check_affine(image.affine, name=f"the affine of {name}")
    unit = _OTHER_UNITS.get(int(image.header["xyzt_units"]) % 8)
    if unit:
        raise ValueError(
            f"the lengths of {name} are in {unit} by its header, expected mm: scale its affine, and set the unit "
            "(nibabel's header.set_xyzt_units)"
        )


def _reason(err: Exception) -> str:
    """What a library has to say, on one line and without its own source lines."""
    lines = [line.strip() for line in str(err).splitlines()]
    return " ".join(line for line in lines if line and ".cxx:" not in line)[:300].rstrip(".") or type(err).__name__


class CheckScand(MapTransform):
    """Refuse scans that would give a wrong mask without a word. Data pass unchanged.

    Args:
        keys: keys of the scans, MetaTensors (1, I, J, K) as :class:`LoadScand` gives them.
        label_key: key of a label that must lie on the grid of each scan, if the data have it.
        label_value: a value (or several, one of which is enough) that the label must hold.

    Raises:
        ValueError: (when called) a scan that is 2D, of several channels, empty, constant or not finite, that has a
            singular affine or none; a label on another grid or without ``label_value``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        label_key: str | None = None,
        label_value: int | Sequence[int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key = label_key
        self.label_values = () if label_value is None else tuple(np.atleast_1d(label_value).tolist())

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check each scan, and the label if there is one; return the data as they came."""
        d = dict(data)
        label = d.get(self.label_key) if self.label_key is not None else None
        for key in self.key_iterator(d):
            self._check_scan(d[key], str(key))
            if label is not None:
                self._check_grid(d[key], str(key), label)
        if label is not None and self.label_values and not np.isin(_values(label), self.label_values).any():
            raise ValueError(
                f"label {_name(label, str(self.label_key))} has no voxel of value "
                f"{' or '.join(map(str, self.label_values))}, it holds {_some_values(label)}; "
                "give the value of the lesion in this label, or leave the case out"
            )
        return d

    def _check_scan(self, scan: Any, key: str) -> None:
        if not isinstance(scan, MetaTensor):
            raise ValueError(f"{key!r} is a {type(scan).__name__}, expected a MetaTensor: load it with LoadScand")
        name, shape = _name(scan, key), tuple(scan.shape)
        if scan.numel() == 0:
            raise ValueError(f"{name} is empty: its shape is {shape}")
        if scan.ndim < 4:
            raise ValueError(f"{name} is {scan.ndim - 1}D, with shape {shape[1:]}, expected a 3D scan of one channel")
        if scan.ndim > 4 or shape[0] != 1:
            raise ValueError(
                f"{name} has {shape[0]} channels or time points of shape {shape[1:]} (4D), expected a 3D scan of one "
                "channel; take one of them"
            )
        if min(shape[1:]) < 2:
            raise ValueError(f"{name} is 2D: its shape {shape[1:]} has one voxel along an axis, expected a 3D scan")
        values = scan.as_tensor()
        in_memory = values.permute(*np.argsort(values.stride())[::-1].tolist())  # the order that is fast to go through
        low, high = (float(end) for end in torch.aminmax(in_memory))  # NaN if one of the values is
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int((~torch.isfinite(values)).sum())
            raise ValueError(f"{name} has {bad} voxels that are NaN or infinite, expected finite values; replace them")
        if low == high:
            raise ValueError(f"{name} is constant: all voxels are {low:g}, expected a scan with contrast")
        check_affine(scan.affine, name=f"the affine of {name}")

    def _check_grid(self, scan: MetaTensor, key: str, label: Any) -> None:
        scan_name, label_name = _name(scan, key), _name(label, str(self.label_key))
        if not isinstance(label, MetaTensor):
            raise ValueError(f"{self.label_key!r} is a {type(label).__name__}, expected a MetaTensor (LoadScand)")
        if scan.shape[1:] != label.shape[1:]:
            raise ValueError(
                f"{scan_name} and {label_name} are on different grids: shapes {tuple(scan.shape[1:])} and "
                f"{tuple(label.shape[1:])}; resample the label to the image"
            )
        corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=np.float64)
        corners[:, :3] *= np.array(scan.shape[1:]) - 1
        apart = (corners @ (np.asarray(scan.affine) - np.asarray(label.affine)).T)[:, :3]
        farthest = float(np.linalg.norm(apart, axis=1).max())
        spacing = float(scan.pixdim.min())
        if not farthest <= 0.1 * spacing:
            raise ValueError(
                f"{scan_name} and {label_name} are on different grids: their affines put a corner {farthest:.3g} mm "
                f"apart, expected at most a tenth of the spacing ({spacing:.3g} mm); resample the label to the image"
            )


def _values(label: Any) -> np.ndarray:
    return np.unique(np.asarray(label))


def _some_values(label: Any) -> str:
    values = _values(label)
    return ", ".join(f"{value:g}" for value in values[:10]) + (", ..." if len(values) > 10 else "")


def _name(scan: Any, key: str) -> str:
    """What to call a scan in an error: its key and, if known, its file."""
    file = source_file(scan)
    return f"{key!r} ({Path(file).name})" if file else f"{key!r}"


def source_file(data: Any) -> str:
    """The file that a scan or a label was loaded from; empty if that is not known."""
    return str(data.meta.get("filename_or_obj") or "") if isinstance(data, MetaTensor) else ""


class SafeSpacingd(Spacingd):
    """:class:`monai.transforms.Spacingd` that also works where the data hold a string beside the scan.

    For a NIfTI under ``image``, MONAI 1.6 takes every ``image_*`` of the data for a dictionary of metadata and fails
    on the string ``image_path`` of MONAI Label. Here only dictionaries are taken for that. Arguments as there.
    """

    def __call__(
        self,
        data: Mapping[Hashable, Any],
        lazy: bool | None = None,  # noqa: FBT001  (MONAI's signature)
    ) -> dict[Hashable, Any]:
        """Resample each scan; as :class:`monai.transforms.Spacingd`."""
        scans = tuple(self.key_iterator(dict(data)))
        beside = {
            key: value
            for key, value in data.items()
            if key not in scans
            and not isinstance(value, MutableMapping)
            and any(str(key).startswith(f"{scan}_") for scan in scans)
        }
        d = super().__call__({key: value for key, value in data.items() if key not in beside}, lazy=lazy)
        return {key: beside[key] if key in beside else d[key] for key in (*data, *(k for k in d if k not in data))}
