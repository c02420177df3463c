"""Reading a scan or a picture, refusing what the network cannot take, and resampling it."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from functools import partial
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

import itk
import numpy as np
import torch
from monai.config import DtypeLike, KeysCollection
from monai.data import ITKReader, MetaTensor, PILReader
from monai.transforms import LoadImaged, MapTransform, Spacingd
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys
from PIL import Image

from adapters.prompts import check_affine
from adapters.transforms.scan_header import ScanHeader, check_file, scan_header

logger = logging.getLogger(__name__)

# The deviation from even spacing between the slices of a series, as a part of the spacing, that is worth a warning.
_UNEVEN = 0.01
# What a file must be, by the number of its axes.
_READABLE = {
    2: "a PNG or JPEG file that is not truncated",
    3: "a folder with one DICOM series",
}
_CHANNELS = (1, 3)
NIFTI_GEOMETRY = "nifti_geometry"
"""Where in a scan's meta the geometry of its NIfTI header stands, for its masks (`adapters.transforms.nifti`)."""


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
        series = list(finder.GetSeriesUIDs())
        if not series:
            raise ValueError("the folder holds no DICOM series; give a folder of DICOM slices, or a file")
        if not self.series_name and len(series) > 1:
            raise ValueError(
                f"the folder holds {len(series)} DICOM series, {', '.join(series)}; put the one to read into a folder "
                "of its own, or name it in the configuration (LoadScand's series_name)"
            )
        if self.series_name and self.series_name not in series:
            raise ValueError(
                f"the folder has no DICOM series {self.series_name!r}, expected one of {', '.join(series)}"
            )
        slices = list(finder.GetFileNames(self.series_name or series[0]))
        scan = itk.imread(slices if len(slices) > 1 else slices[0], **{**self.kwargs, **kwargs})
        header = scan.GetMetaDataDictionary()
        uneven = "ITK_non_uniform_sampling_deviation"
        if header.HasKey(uneven) and float(header[uneven]) > _UNEVEN * float(scan.GetSpacing()[2]):
            logger.warning("%s: the slices are unevenly spaced, by %s mm; is one missing?", name, header[uneven])
        return scan


def scan_path(value: Any) -> Path | None:
    """The path of a scan that the data name, also in a list of one; None where it is none, or empty."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    return Path(value).expanduser() if isinstance(value, (str, PathLike)) and str(value) else None


def _in_memory(picture: Image.Image, channels: int) -> Image.Image:
    """Close the file of a picture, and turn it into red, green and blue; not deep grey, which Pillow would clip."""
    with picture:
        picture.load()
    return picture.convert("RGB") if channels == 3 and not picture.mode.startswith(("I", "F")) else picture


def _check_dimensions(spatial_dims: int, channels: int) -> None:
    if spatial_dims not in _READABLE or channels not in _CHANNELS:
        raise ValueError(
            f"spatial_dims is {spatial_dims} and channels is {channels}: expected 2 or 3 axes, and 1 or 3 channels"
        )


class LoadScand(LoadImaged):
    """Load scans with their affine (voxels to world mm, RAS+), or 2D pictures in pixels, channel first.

    NIfTI is read by nibabel, everything else (NRRD, MHA, a folder with one DICOM series) by ITK, whose LPS affine is
    turned into RAS+. So the same scan gives the same array (i, j, k) and affine in every format.

    Pictures (PNG, JPEG and what else Pillow reads) have axes (i, j): i is x, the column from the left, and j is y, the
    row from the top. A click ``[i, j]`` is thus ``[x, y]``. Their affine is the identity (3, 3), in pixels.

    Args:
        keys: keys of the paths. Each becomes a MetaTensor (C, I, J, K), or (C, I, J) in 2D, of ``dtype`` with
            ``affine``, ``original_affine``, ``spatial_shape``, ``filename_or_obj`` in its meta. C = 1 for a scan of
            one channel.
        dtype: type of the values.
        series_name: the DICOM series to read of a folder with several.
        spatial_dims: 3 for scans, 2 for pictures.
        channels: of pictures. With 3, grey and palettes become red, green and blue, and transparency is dropped. With
            1, values are those of the file, such as the numbers of a label's palette.
        allow_missing_keys: leave out keys that the data do not have.

    Raises:
        FileNotFoundError: (when called) there is no such file or folder.
        ValueError: other numbers of axes or channels. When called: no path, what cannot be read (truncated, another
            format), a singular affine, lengths in another unit than mm. A folder with no DICOM series, or with several
            and no ``series_name``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        dtype: DtypeLike = np.float32,
        series_name: str = "",
        spatial_dims: int = 3,
        channels: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, dtype=dtype, ensure_channel_first=True, allow_missing_keys=allow_missing_keys)
        _check_dimensions(spatial_dims, channels)
        self.spatial_dims = spatial_dims
        self._reader = (
            _SeriesReader(series_name=series_name)
            if spatial_dims == 3
            else PILReader(converter=partial(_in_memory, channels=channels))
        )

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        """Load each scan; ``reader`` (a MONAI image reader) takes the place of our choice."""
        d = dict(data)
        for key in self.key_iterator(d):
            path = scan_path(d[key])
            if path is None and isinstance(d[key], str):  # empty: MONAI Label's word for an image that it does not know
                raise FileNotFoundError(f"there is no {key} of this name: ask for one that is among the studies")
            if path is None:
                raise ValueError(f"{key!r} is {d[key]!r}, expected the path of one scan (a file, or a folder of DICOM)")
            if not path.exists():
                raise FileNotFoundError(f"{key!r}: there is no file or folder {str(path)!r}; check the path")
            try:
                header = scan_header(path) if self.spatial_dims == 3 and reader is None else check_file(path)
                d[key] = self._by_library(path, reader) if header is None else self._by_header(path, header)
            except Exception as err:  # the libraries raise anything from EOFError to RuntimeError
                raise _unreadable(str(key), path, err, self.spatial_dims) from err
            for note in () if header is None else header.notes:
                logger.warning("%s: %s", path.name, note)
        return d

    def _by_header(self, path: Path, header: ScanHeader) -> MetaTensor:
        """A scan with the axes in memory as they lie in the file: orienting another order would copy it back."""
        return _scan(torch.from_numpy(header.read(self._loader.dtype)), path, header.affine, header.shape, header.nifti)

    def _by_library(self, path: Path, reader: Any) -> MetaTensor:
        """A DICOM file or series, or a picture. Of what it says of itself only its geometry is taken."""
        loaded: Any = self._loader(str(path), reader or self._reader)
        loaded = loaded[0] if isinstance(loaded, tuple) else loaded  # MONAI Label has the loader give metadata twice
        affine = np.eye(3) if self.spatial_dims == 2 else loaded.meta[MetaKeys.ORIGINAL_AFFINE]
        return _scan(loaded.as_tensor(), path, affine, loaded.meta[MetaKeys.SPATIAL_SHAPE])


def _scan(values: torch.Tensor, path: Path, affine: Any, shape: Sequence[int], nifti: str = "") -> MetaTensor:
    """A scan with the metadata that MONAI's transforms and our writer need. Nothing else in a file reaches them.

    Args:
        values: (C, I, J, K), or (C, I, J) in 2D.
        path: its file or folder.
        affine: voxels to world in mm, RAS+.
        shape: (I, J, K), its grid as stored.
        nifti: `adapters.transforms.scan_header.ScanHeader.nifti`.
    """
    meta = {
        MetaKeys.ORIGINAL_AFFINE: np.array(affine, dtype=np.float64),
        MetaKeys.SPATIAL_SHAPE: np.array(shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        ImageMetaKey.FILENAME_OR_OBJ: str(path),
        NIFTI_GEOMETRY: nifti,
    }
    return MetaTensor(values, affine=torch.tensor(np.array(affine), dtype=torch.float64), meta=meta)


def check_scan_file(path: str | PathLike, key: str = "image") -> ScanHeader | None:
    """Look at a scan's file without reading its voxels; :class:`LoadScand` refuses the same with the same sentence.

    Args:
        path: a file or a folder.
        key: what to call it in an error.

    Returns:
        What its header says: ``shape``, ``affine``, ``notes``. None for DICOM, files and folders.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: as :class:`LoadScand` for what its header tells: another format, a file shorter than its header
            says, no spacing, a singular affine, lengths in another unit than mm.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{key!r}: there is no file or folder {str(path)!r}; check the path")
    try:
        return scan_header(path)
    except Exception as err:
        raise _unreadable(key, path, err) from err


def _unreadable(key: str, path: Path, err: Exception, spatial_dims: int = 3) -> ValueError:
    expected = f", expected {_READABLE[spatial_dims]}" if spatial_dims == 2 or path.is_dir() else ""
    return ValueError(f"{key!r}: {str(path)!r} cannot be read{expected}: {_reason(err)}")


def _reason(err: Exception) -> str:
    """What a library has to say, on one line and without its own source lines."""
    lines = [line.strip() for line in str(err).splitlines()]
    return " ".join(line for line in lines if line and ".cxx:" not in line)[:300].rstrip(".") or type(err).__name__


class CheckScand(MapTransform):
    """Refuse scans that would give a wrong mask without a word. Data pass unchanged.

    Args:
        keys: keys of the scans, MetaTensors (C, I, J, K), or (C, I, J) in 2D, as :class:`LoadScand` gives them.
        label_key: key of a label that must lie on the grid of each scan, if the data have it.
        label_value: a value (or several, one of which is enough) that the label must hold.
        spatial_dims: how many spatial axes a scan must have, 2 or 3.
        channels: how many channels a scan must have, 1 or 3 (red, green, blue).

    Raises:
        ValueError: other numbers of axes or channels. When called: a scan of another number of axes or channels, or
            one that is empty, constant or not finite, or has a singular affine or none. A label on another grid or
            without ``label_value``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        label_key: str | None = None,
        label_value: int | Sequence[int] | None = None,
        spatial_dims: int = 3,
        channels: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        _check_dimensions(spatial_dims, channels)
        self.spatial_dims, self.channels = spatial_dims, channels
        self.label_key = label_key
        self.label_values = () if label_value is None else tuple(np.atleast_1d(label_value).tolist())

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check each scan, and the label if there is one; return the data as they came."""
        d = dict(data)
        label = None if self.label_key is None else d.get(self.label_key)
        for key in self.key_iterator(d):
            self._check_scan(d[key], str(key))
            if label is not None:
                self._check_grid(d[key], str(key), label)
        if label is not None and self.label_values and not np.isin(label_values(label), self.label_values).any():
            raise no_lesion(label, str(self.label_key), f"of value {' or '.join(map(str, self.label_values))}")
        return d

    def _check_scan(self, scan: Any, key: str) -> None:
        if not isinstance(scan, MetaTensor):
            raise ValueError(f"{key!r} is a {type(scan).__name__}, expected a MetaTensor: load it with LoadScand")
        name, shape = _name(scan, key), tuple(scan.shape)
        if scan.numel() == 0:
            raise ValueError(f"{name} is empty: its shape is {shape}")
        axes, kind = self.spatial_dims, "scan" if self.spatial_dims == 3 else "picture"
        expected = f"expected a {axes}D {kind} of {'one channel' if self.channels == 1 else '3 channels'}"
        if scan.ndim <= axes or (axes == 2 and scan.ndim > 3):
            raise ValueError(f"{name} is {scan.ndim - 1}D, with shape {shape[1:]}, {expected}")
        if scan.ndim > axes + 1 or shape[0] != self.channels:
            what = "channels or time points" if axes == 3 else "channels"
            raise ValueError(
                f"{name} has {shape[0]} {what} of shape {shape[1:]}{' (4D)' if axes == 3 else ''}, {expected}"
                f"{'; take one of them' if self.channels == 1 else ''}"
            )
        if min(shape[1:]) < 2:
            raise ValueError(
                f"{name} is {axes - 1}D: its shape {shape[1:]} has one voxel along an axis, expected a {axes}D {kind}"
            )
        values = scan.as_tensor()
        in_memory = values.permute(*np.argsort(values.stride())[::-1].tolist())  # the order that is fast to go through
        low, high = (float(end) for end in torch.aminmax(in_memory))  # NaN if one of the values is
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int((~torch.isfinite(values)).sum())
            raise ValueError(f"{name} has {bad} voxels that are NaN or infinite, expected finite values; replace them")
        if low == high:
            raise ValueError(f"{name} is constant: all voxels are {low:g}, expected a scan with contrast")
        check_affine(scan.affine, name=f"the affine of {name}", spatial_dims=axes)

    def _check_grid(self, scan: MetaTensor, key: str, label: Any) -> None:
        scan_name, label_name = _name(scan, key), _name(label, str(self.label_key))
        if not isinstance(label, MetaTensor):
            raise ValueError(f"{self.label_key!r} is a {type(label).__name__}, expected a MetaTensor (LoadScand)")
        if scan.shape[1:] != label.shape[1:]:
            raise ValueError(
                f"{scan_name} and {label_name} are on different grids: shapes {tuple(scan.shape[1:])} and "
                f"{tuple(label.shape[1:])}; resample the label to the image"
            )
        corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in scan.shape[1:]))])
        apart = (corners @ (np.asarray(scan.affine) - np.asarray(label.affine)).T)[:, :-1]
        farthest = float(np.linalg.norm(apart, axis=1).max())
        spacing = float(scan.pixdim.min())
        if not farthest <= 0.1 * spacing:
            raise ValueError(
                f"{scan_name} and {label_name} are on different grids: their affines put a corner {farthest:.3g} mm "
                f"apart, expected at most a tenth of the spacing ({spacing:.3g} mm); resample the label to the image"
            )


def label_values(label: Any) -> list[float]:
    """The values of a label, in order; plane by plane, because sorting a whole scan takes seconds."""
    values: set[float] = set()
    array = np.asarray(label)
    for plane in array.reshape(-1, *array.shape[-2:]):
        with np.errstate(invalid="ignore"):
            small = plane.astype(np.uint8)
        whole = np.array_equal(small, plane)
        values.update(np.flatnonzero(np.bincount(small.ravel())).tolist() if whole else np.unique(plane).tolist())
    return sorted(values)


def in_words(values: Sequence[float]) -> str:
    """The first ten of some values, for an error."""
    return ", ".join(f"{value:g}" for value in values[:10]) + (", ..." if len(values) > 10 else "")


def no_lesion(label: Any, key: str, what: str) -> ValueError:
    """The error for a label (as :class:`LoadScand` gives it) without a voxel of the lesion, such as "of value 2"."""
    return ValueError(
        f"label {_name(label, key)} has no voxel {what}, it holds {in_words(label_values(label))}; "
        "give the value of the lesion in this label, or leave the case out"
    )


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
        prefixes = tuple(f"{scan}_" for scan in scans)
        taken = {
            key: value
            for key, value in data.items()
            if key in scans or isinstance(value, MutableMapping) or not str(key).startswith(prefixes)
        }
        return {**data, **super().__call__(taken, lazy=lazy)}
