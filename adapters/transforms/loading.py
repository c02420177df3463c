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

import numpy as np
import torch
from monai.config import DtypeLike, KeysCollection
from monai.data import ImageReader, MetaTensor, PILReader
from monai.transforms import EnsureChannelFirst, MapTransform, Spacingd
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys
from PIL import Image

from adapters.prompts import check_affine
from adapters.transforms.dicom import find_volume, is_dicom
from adapters.transforms.intensity import not_hounsfield
from adapters.transforms.labels import check_lesion, has_lost_header, whole_label
from adapters.transforms.scan_header import ScanHeader, check_file, scan_header

logger = logging.getLogger(__name__)

# What a file must be, by the number of its axes.
_READABLE = {
    2: "a PNG or JPEG file that is not truncated",
    3: "a NIfTI, NRRD or MHA file that is not truncated, or a folder with one DICOM series",
}
_CHANNELS = (1, 3)
_INSIDE = 0.5  # of a resampled mask: from here on a voxel is lesion
NIFTI_GEOMETRY = "nifti_geometry"
"""Where in a scan's meta the geometry of its NIfTI header stands, for its masks (`adapters.transforms.nifti`)."""


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


class LoadScand(MapTransform):
    """Load scans with their affine (voxels to world mm, RAS+), or 2D pictures in pixels, channel first.

    Headers are read by `adapters.transforms.scan_header` and `adapters.transforms.dicom`, which bring ITK's and DICOM's
    LPS to RAS+. So the same scan gives the same array (i, j, k) and affine in every format. What a header leaves open,
    or says in two ways, gives one line in the log.

    Pictures (PNG, JPEG and what else Pillow reads) have axes (i, j): i is x, the column from the left, and j is y, the
    row from the top. A click ``[i, j]`` is thus ``[x, y]``. Their affine is the identity (3, 3), in pixels.

    Args:
        keys: keys of the paths. Each becomes a MetaTensor (C, I, J, K), or (C, I, J) in 2D, of ``dtype`` with
            ``affine``, ``original_affine``, ``spatial_shape``, ``filename_or_obj`` in its meta. C = 1 for a scan of
            one channel. Of DICOM, ``series`` in the meta says which series it is.
        dtype: type of the values.
        series: the DICOM series to read of a folder with several, see `adapters.transforms.dicom.find_volume`. The
            data's own ``series``, which is taken out of them, comes before it. It is that of the first key.
        spatial_dims: 3 for scans, 2 for pictures.
        channels: of pictures. With 3, grey and palettes become red, green and blue, and transparency is dropped. With
            1, values are those of the file, such as the numbers of a label's palette.
        allow_missing_keys: leave out keys that the data do not have.

    Raises:
        FileNotFoundError: (when called) there is no such file or folder.
        ValueError: other numbers of axes or channels. When called: no path, what cannot be read (truncated, another
            format), a singular affine, lengths in another unit than mm. DICOM that is not one regular volume, see
            `find_volume`; ``series`` for what is no DICOM.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        dtype: DtypeLike = np.float32,
        series: str = "",
        spatial_dims: int = 3,
        channels: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        _check_dimensions(spatial_dims, channels)
        self.spatial_dims = spatial_dims
        self.dtype, self.series = dtype, series
        self._pictures = PILReader(converter=partial(_in_memory, channels=channels))

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        """Load each scan; ``reader`` (a MONAI image reader) takes the place of our choice."""
        d = dict(data)
        series = series_of(d.pop("series", None), self.series)
        for key in self.key_iterator(d):
            path = scan_path(d[key])
            if path is None and isinstance(d[key], str):  # empty: MONAI Label's word for an image that it does not know
                raise FileNotFoundError(f"there is no {key} of this name: ask for one that is among the studies")
            if path is None:
                raise ValueError(f"{key!r} is {d[key]!r}, expected the path of one scan (a file, or a folder of DICOM)")
            if not path.exists():
                raise FileNotFoundError(f"{key!r}: there is no file or folder {str(path)!r}; check the path")
            may_have_series = self.spatial_dims == 3 and reader is None and is_dicom(path)
            if series and not may_have_series:
                raise ValueError(
                    f"{key!r}: series {series!r} is asked for, but {str(path)!r} is no DICOM: leave it out"
                )
            d[key] = self._read(path, reader, series, str(key))
            series = ""
        return d

    def _read(self, path: Path, reader: ImageReader | None, series: str, key: str) -> MetaTensor:
        if self.spatial_dims == 3 and reader is None:
            header = check_scan_file(path, key)
            if header is None:
                return _load_dicom(path, series, self.dtype, key)
            try:
                values = torch.from_numpy(header.read(self.dtype or header.voxels.dtype.newbyteorder("=")))
            except Exception as err:
                raise _unreadable(key, path, err) from err
            for note in header.notes:
                logger.warning("%s: %s", path.name, note)
            return _scan(values, path, header.affine, header.shape, {NIFTI_GEOMETRY: header.nifti})
        try:
            check_file(path)
            return self._by_library(path, reader or self._pictures)
        except Exception as err:  # the libraries raise anything from EOFError to RuntimeError
            raise _unreadable(key, path, err, self.spatial_dims) from err

    def _by_library(self, path: Path, reader: ImageReader) -> MetaTensor:
        """A picture, or what a reader of MONAI's gives. MONAI's `LoadImage` makes all readers, of which one warns."""
        array, meta = reader.get_data(reader.read(str(path)))
        values = EnsureChannelFirst()(torch.from_numpy(np.array(array, dtype=self.dtype, order="K")), meta_dict=meta)
        affine = np.eye(3) if self.spatial_dims == 2 else meta[MetaKeys.ORIGINAL_AFFINE]
        return _scan(torch.as_tensor(values), path, affine, meta[MetaKeys.SPATIAL_SHAPE], {})


def series_of(value: Any, default: str = "") -> str:
    """The DICOM series that a request asks for; ``default`` where it asks for none."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"series is {value!r}, expected the SeriesInstanceUID of a DICOM series, as text")
    return value or default


def _load_dicom(path: Path, series: str, dtype: DtypeLike, key: str) -> MetaTensor:
    """A volume (1, I, J, K), with the axes in memory as they are decoded; of the headers only its geometry."""
    try:
        volume = find_volume(path, series)
        values = torch.from_numpy(volume.values().astype(dtype or np.float32, copy=False))
    except ValueError as err:
        raise ValueError(f"{key!r}: {err}") from err
    return _scan(values[None], path, volume.affine, volume.shape, {"series": volume.series})


def _scan(values: torch.Tensor, path: Path, affine: Any, shape: Sequence[int], more: Mapping[str, str]) -> MetaTensor:
    """A scan with the metadata that MONAI's transforms and our writer need. Nothing else in a file reaches them.

    Args:
        values: (C, I, J, K), or (C, I, J) in 2D.
        path: its file or folder.
        affine: voxels to world in mm, RAS+.
        shape: (I, J, K), its grid as stored.
        more: what its format has for masks: `NIFTI_GEOMETRY`, or the ``series`` of DICOM.
    """
    meta = {
        MetaKeys.ORIGINAL_AFFINE: np.array(affine, dtype=np.float64),
        MetaKeys.SPATIAL_SHAPE: np.array(shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: math.nan if len(values) == 1 else -1,  # MONAI's writers count axes by it
        ImageMetaKey.FILENAME_OR_OBJ: str(path),
        **more,
    }
    return MetaTensor(values, affine=torch.tensor(np.array(affine), dtype=torch.float64), meta=meta)


def check_scan_file(path: Path, key: str = "image") -> ScanHeader | None:
    """Look at a scan's file without reading its voxels; `LoadScand` refuses the same with the same sentence.

    Args:
        path: a file or a folder.
        key: what to call it in an error.

    Returns:
        What its header says. None for DICOM, files and folders.

    Raises:
        ValueError: for what its header tells: another format, a file shorter than its header says, no spacing, a
            singular affine, lengths in another unit than mm.
    """
    try:
        return None if is_dicom(path) else scan_header(path)
    except Exception as err:
        raise _unreadable(key, path, err) from err


def _unreadable(key: str, path: Path, err: Exception, spatial_dims: int = 3) -> ValueError:
    return ValueError(f"{key!r}: {str(path)!r} cannot be read, expected {_READABLE[spatial_dims]}: {_reason(err)}")


def _reason(err: Exception) -> str:
    """What a library has to say, on one line and without its own source lines."""
    lines = [line.strip() for line in str(err).splitlines()]
    return " ".join(line for line in lines if line and ".cxx:" not in line)[:300].rstrip(".") or type(err).__name__


class CheckScand(MapTransform):
    """Refuse scans and labels that would give a wrong mask without a word.

    Data pass unchanged, but for labels whose values are whole numbers give or take some noise: these are rounded (see
    `adapters.transforms.labels.whole_label`).

    Args:
        keys: keys of the scans, MetaTensors (C, I, J, K), or (C, I, J) in 2D, as :class:`LoadScand` gives them.
        label_key: key of a label that must lie on the grid of each scan, if the data have it.
        label_value: a value (or several, one of which is enough) that the label must hold.
        label_required: whether it must hold one of them too if it is empty. False: an empty label passes.
        hounsfield: the window (low, high) in HU of a network that expects Hounsfield units: a scan whose values cannot
            be such is refused. None: any values.
        spatial_dims: how many spatial axes a scan must have, 2 or 3.
        channels: how many channels a scan must have, 1 or 3 (red, green, blue).

    Raises:
        ValueError: other numbers of axes or channels. When called: a scan of another number of axes or channels, or
            one that is empty, constant or not finite, not in Hounsfield units, or has a singular affine or none. A
            label on another grid, with values that are no whole numbers, or without ``label_value``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        label_key: str | None = None,
        label_value: int | Sequence[int] | None = None,
        label_required: bool = True,
        hounsfield: tuple[float, float] | None = None,
        spatial_dims: int = 3,
        channels: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        _check_dimensions(spatial_dims, channels)
        self.spatial_dims, self.channels = spatial_dims, channels
        self.label_key = label_key
        self.label_values = () if label_value is None else tuple(np.atleast_1d(label_value).tolist())
        self.label_required = label_required
        self.hounsfield = hounsfield

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check each scan, and the label if there is one; see the class."""
        d = dict(data)
        label = None if self.label_key is None else d.get(self.label_key)
        for key in self.key_iterator(d):
            self._check_scan(d[key], str(key))
            if label is not None:
                self._check_grid(d[key], str(key), label)
        if label is not None:
            name = named(label, str(self.label_key))
            d[self.label_key], values = whole_label(label, name)
            if self.label_values:
                check_lesion(values, self.label_values, name, required=self.label_required)
        return d

    def _check_scan(self, scan: Any, key: str) -> None:
        if not isinstance(scan, MetaTensor):
            raise ValueError(f"{key!r} is a {type(scan).__name__}, expected a MetaTensor: load it with LoadScand")
        name, shape = named(scan, key), tuple(scan.shape)
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
        if self.hounsfield is not None and (reason := not_hounsfield(in_memory, self.hounsfield)):
            raise ValueError(
                f"{name} cannot be in Hounsfield units (HU), which the network expects: {reason}; give the CT with its "
                "slope and intercept applied once or, if its values are right, leave this check out: --require_hu False"
            )

    def _check_grid(self, scan: MetaTensor, key: str, label: Any) -> None:
        scan_name, label_name = named(scan, key), named(label, str(self.label_key))
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
        if not farthest <= 0.1 * spacing and has_lost_header(np.asarray(label.affine), np.asarray(scan.affine)):
            raise ValueError(
                f"{scan_name} and {label_name} are on different grids: the label's voxels fit, but its header is lost "
                f"(an identity with the origin {np.asarray(label.affine)[:-1, -1].tolist()}). If it was drawn on this "
                "image, it needs the image's header: save it with the image's affine (`prepare --image_header` does)"
            )
        if not farthest <= 0.1 * spacing:
            raise ValueError(
                f"{scan_name} and {label_name} are on different grids: their affines put a corner {farthest:.3g} mm "
                f"apart, expected at most a tenth of the spacing ({spacing:.3g} mm); resample the label to the image"
            )


def named(scan: Any, key: str) -> str:
    """What to call a scan in an error: its key and, if known, its file."""
    file = source_file(scan)
    return f"{key!r} ({Path(file).name})" if file else f"{key!r}"


def source_file(data: Any) -> str:
    """The file that a scan or a label was loaded from; empty if that is not known."""
    return str(data.meta.get("filename_or_obj") or "") if isinstance(data, MetaTensor) else ""


class SafeSpacingd(Spacingd):
    """:class:`monai.transforms.Spacingd` that also works where the data hold a string beside the scan.

    For a NIfTI under ``image``, MONAI 1.6 takes every ``image_*`` of the data for a dictionary of metadata and fails
    on the string ``image_path`` of MONAI Label. Here only dictionaries are taken for that.

    Args:
        *args: as there.
        label_key: key of a mask of the lesion among the scans; where nothing of it is left on the new grid (no voxel of
            0.5 or more), a warning names it.
        **kwargs: as there.
    """

    def __init__(self, *args: Any, label_key: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_key = label_key

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
        resampled = {**data, **super().__call__(taken, lazy=lazy)}
        if self.label_key is not None and self.label_key in data:
            before, after = data[self.label_key], resampled[self.label_key]
            if float(before.max()) >= _INSIDE > float(after.max()):
                logger.warning(
                    "%s: nothing of its lesion of %d voxels is left on the grid of %s mm; take a finer spacing, or "
                    "leave the case out",
                    named(before, self.label_key),
                    int((before >= _INSIDE).sum()),
                    " x ".join(f"{edge:g}" for edge in np.asarray(after.pixdim).tolist()),
                )
        return resampled
