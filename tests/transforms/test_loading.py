"""Reading scans in every format, refusing bad ones, resampling beside a string."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd
from PIL import Image
from scan_files import affine_of, write_dicom, write_itk, write_nifti

from adapters.transforms import CheckScand, LoadScand, SafeSpacingd

SHAPE = (9, 10, 11)
# turned, anisotropic, and with axes in an order that a DICOM series may have (right-handed)
AFFINE = affine_of("LPS", degrees=(5, -8, 11))


@pytest.fixture
def array(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-1000, 1000, SHAPE).astype(np.int16)


@pytest.mark.parametrize("kind", ["nii", "nii.gz", "nrrd", "mha", "dicom"])
def test_every_format_gives_the_same_array_and_affine(kind: str, array: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"scan.{kind}"
    write = write_dicom if kind == "dicom" else write_nifti if kind.startswith("nii") else write_itk
    scan = LoadScand("image")({"image": write(path, array, AFFINE)})["image"]
    assert isinstance(scan, MetaTensor)
    assert scan.dtype == torch.float32
    np.testing.assert_array_equal(np.asarray(scan), array[None])
    np.testing.assert_allclose(np.asarray(scan.affine), AFFINE, atol=2e-5)  # NIfTI keeps float32
    np.testing.assert_allclose(np.asarray(scan.meta["original_affine"]), AFFINE, atol=2e-5)
    assert tuple(scan.meta["spatial_shape"]) == SHAPE
    assert CheckScand("image")({"image": scan})["image"] is scan


def test_threads_share_a_loader(rng: np.random.Generator, tmp_path: Path) -> None:
    """As MONAI's cached data sets and MONAI Label's server do: each gets the file that it asked for."""
    scans = rng.integers(-1000, 1000, (6, *SHAPE)).astype(np.int16)
    paths = [write_nifti(tmp_path / f"{number}.nii.gz", scan, AFFINE) for number, scan in enumerate(scans)]
    load = LoadScand("image")
    order = list(range(len(paths))) * 20
    with ThreadPoolExecutor(4) as pool:
        for number, loaded in zip(order, pool.map(lambda number: load({"image": paths[number]}), order), strict=True):
            np.testing.assert_array_equal(np.asarray(loaded["image"]), scans[number][None])


def test_a_path_object_and_a_list_of_one(array: np.ndarray, tmp_path: Path) -> None:
    write_nifti(tmp_path / "scan.nii", array, AFFINE)
    for given in (tmp_path / "scan.nii", [str(tmp_path / "scan.nii")]):
        assert LoadScand("image")({"image": given})["image"].shape == (1, *SHAPE)


def _cut(path: str, part: float) -> str:
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: int(len(whole) * part)])
    return path


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["nii", "nii.gz", "nrrd", "mha"])
def test_a_truncated_file(kind: str, part: float, array: np.ndarray, tmp_path: Path) -> None:
    write = write_nifti if kind.startswith("nii") else write_itk
    path = _cut(write(tmp_path / f"cut.{kind}", array, AFFINE), part)
    with pytest.raises(ValueError, match=rf"'image': .*cut\.{kind}' cannot be read, expected .* not truncated"):
        LoadScand("image")({"image": path})


def test_a_compressed_file_of_other_content(array: np.ndarray, tmp_path: Path) -> None:
    """Damaged on its way: all voxels are there, and the checksum tells that they are not those that were written."""
    path = Path(write_nifti(tmp_path / "scan.nii.gz", array, AFFINE))
    whole = bytearray(path.read_bytes())
    whole[-8] ^= 1  # the checksum's first byte
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"'image': .*scan\.nii\.gz' cannot be read, expected .*: CRC check failed"):
        LoadScand("image")({"image": path})


@pytest.mark.parametrize("name", ["scan.nii", "scan.nrrd", "scan.txt"])
def test_a_file_that_is_no_scan(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("hello " * 100)
    with pytest.raises(ValueError, match=rf"{name}' cannot be read, expected a NIfTI, NRRD or MHA file"):
        LoadScand("image")({"image": str(tmp_path / name)})


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'image': there is no file or folder '.*none\.nii'; check the path"):
        LoadScand("image")({"image": str(tmp_path / "none.nii")})
    with pytest.raises(ValueError, match="holds no DICOM series"):
        LoadScand("image")({"image": str(tmp_path)})


@pytest.mark.parametrize("value", [3, None, ["a.nii", "b.nii"], np.zeros((3, 3, 3))])
def test_what_is_no_path(value: object) -> None:
    with pytest.raises(ValueError, match="expected the path of one scan"):
        LoadScand("image")({"image": value})


def test_a_missing_key(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="image"):
        LoadScand("image")({})
    assert LoadScand("image", allow_missing_keys=True)({"other": tmp_path}) == {"other": tmp_path}


def _load(array: np.ndarray, folder: Path, name: str = "scan.nii.gz", affine: np.ndarray = AFFINE) -> MetaTensor:
    return LoadScand("image")({"image": write_nifti(folder / name, array, affine)})["image"]


GOOD = np.arange(990, dtype=np.float32).reshape(SHAPE)


def _with(value: float) -> np.ndarray:
    array = GOOD.copy()
    array[1, 2, 3] = value
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (GOOD[0], r"'image' \(scan.nii.gz\) is 2D, with shape \(10, 11\), expected a 3D scan"),
        (GOOD[:, :, :1], r"is 2D: its shape \(9, 10, 1\) has one voxel along an axis"),
        (np.stack([GOOD] * 3, axis=-1), r"has 3 channels or time points of shape \(9, 10, 11\) \(4D\)"),
        (np.stack([GOOD] * 3, axis=-1)[:, :, :, None], r"has 3 channels or time points .*\(4D\)"),
        (np.zeros((0, 10, 11), dtype=np.float32), "is empty"),
        (np.full(SHAPE, 7, dtype=np.float32), "is constant: all voxels are 7, expected a scan with contrast"),
        (_with(np.nan), "has 1 voxels that are NaN or infinite"),
        (_with(np.inf), "has 1 voxels that are NaN or infinite"),
    ],
)
def test_bad_scans(array: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        CheckScand("image")({"image": _load(array, tmp_path)})


def test_a_single_channel_written_as_a_fourth_axis_is_fine(tmp_path: Path) -> None:
    scan = _load(GOOD[..., None], tmp_path)
    CheckScand("image")({"image": scan})
    np.testing.assert_array_equal(np.asarray(scan[0]), GOOD)


def test_a_plain_tensor_is_no_scan() -> None:
    with pytest.raises(ValueError, match="'image' is a Tensor, expected a MetaTensor: load it with LoadScand"):
        CheckScand("image")({"image": torch.zeros(1, 3, 3, 3)})


def test_a_singular_affine(tmp_path: Path) -> None:
    image = nib.Nifti1Image(GOOD, np.eye(4))
    image.set_sform(np.diag([1, 0, 3, 1]), code=2)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "singular.nii")
    with pytest.raises(ValueError, match=r"'image': '.*singular.nii' cannot be read.* its affine is singular"):
        LoadScand("image")({"image": str(tmp_path / "singular.nii")})
    scan = MetaTensor(torch.from_numpy(GOOD[None]), affine=torch.diag(torch.tensor([1.0, 0, 3, 1])))
    with pytest.raises(ValueError, match="the affine of 'image' is singular"):
        CheckScand("image")({"image": scan})


@pytest.mark.parametrize(("unit", "name"), [("meter", "metres"), ("micron", "micrometres")])
def test_lengths_in_another_unit(unit: str, name: str, tmp_path: Path) -> None:
    """nibabel's affine has them as they are."""
    image = nib.Nifti1Image(GOOD, np.diag([2.0, 2, 2, 1]))
    for known in ("mm", "unknown"):
        image.header.set_xyzt_units(known)
        nib.save(image, tmp_path / "scan.nii")
        assert tuple(LoadScand("image")({"image": str(tmp_path / "scan.nii")})["image"].pixdim) == (2, 2, 2)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    with pytest.raises(
        ValueError, match=rf"scan.nii' cannot be read.* lengths are in {name} by its header, expected mm"
    ):
        LoadScand("image")({"image": str(tmp_path / "scan.nii")})


def test_complex_numbers(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(GOOD.astype(np.complex64), np.eye(4)), tmp_path / "scan.nii")
    with pytest.raises(ValueError, match=r"scan.nii' cannot be read, .* its values are complex numbers"):
        LoadScand("image")({"image": str(tmp_path / "scan.nii")})


def _labelled(folder: Path, label: np.ndarray, affine: np.ndarray = AFFINE) -> dict:
    return {"image": _load(GOOD, folder), "label": _load(label, folder, "label.nii.gz", affine)}


def test_a_good_label_passes(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[4, 4, 4] = 2
    data = _labelled(tmp_path, label)
    checked = CheckScand("image", label_key="label", label_value=[1, 2])(data)
    assert checked["label"] is data["label"]
    CheckScand("image", label_key="label", label_value=2)({"image": data["image"]})  # no label, as at inference


def test_image_and_label_on_different_grids(tmp_path: Path) -> None:
    check = CheckScand("image", label_key="label")
    with pytest.raises(ValueError, match=r"different grids: shapes \(9, 10, 11\) and \(9, 10, 10\); resample"):
        check(_labelled(tmp_path, np.ones((9, 10, 10), dtype=np.uint8)))
    shifted = AFFINE.copy()
    shifted[0, 3] += 1
    with pytest.raises(ValueError, match="different grids: their affines put a corner 1 mm apart"):
        check(_labelled(tmp_path, np.ones(SHAPE, dtype=np.uint8), shifted))
    with pytest.raises(ValueError, match="'label' is a Tensor, expected a MetaTensor"):
        check({"image": _load(GOOD, tmp_path), "label": torch.ones(1, *SHAPE)})


@pytest.mark.parametrize("origin", [(0, 0, 0), (1, 1, 1), (0, -1, 1)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1)])
def test_a_label_whose_header_is_lost(tmp_path: Path, origin: tuple, flips: tuple) -> None:
    lost = np.diag([*flips, 1.0])
    lost[:3, 3] = origin
    check = CheckScand("image", label_key="label")
    with pytest.raises(
        ValueError, match=r"on different grids: the label's voxels fit, but its header is lost .* needs"
    ):
        check(_labelled(tmp_path, np.ones(SHAPE, dtype=np.uint8), lost))


def test_noise_of_a_label_is_rounded(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, dtype=np.float32)
    label[4, 4, 4:7] = (1, 0.9999, 1.0004)
    checked = CheckScand("image", label_key="label", label_value=1)(_labelled(tmp_path, label))["label"]
    assert (checked == 1).sum() == 3
    np.testing.assert_allclose(checked.affine, AFFINE, atol=2e-5)
    with pytest.raises(
        ValueError, match=r"label 'label' \(label.nii.gz\) holds 0, 0.9999, and 0.9999 is no whole number"
    ):
        CheckScand("image", label_key="label")(_labelled(tmp_path, (label == 1) * 0.9999))


@pytest.mark.parametrize("required", [True, False])
def test_a_label_of_other_values_is_refused_in_scoring_too(tmp_path: Path, required: bool) -> None:
    check = CheckScand("image", label_key="label", label_value=1, label_required=required)
    with pytest.raises(ValueError, match="has no voxel of value 1, it holds 0, 255; give the value of the lesion"):
        check(_labelled(tmp_path, np.eye(11)[:10] * np.full((9, 1, 1), 255, dtype=np.uint8)))
    empty = _labelled(tmp_path, np.zeros(SHAPE, dtype=np.uint8))
    if required:
        with pytest.raises(
            ValueError, match="it holds 0; give the value of the lesion in this label, or leave the case"
        ):
            check(empty)
    else:
        assert not check(empty)["label"].any()


def test_values_that_are_not_hounsfield_units(tmp_path: Path) -> None:
    scan = {"image": _load(np.arange(990.0).reshape(SHAPE) / 989 * 255, tmp_path)}
    assert CheckScand("image")(scan)["image"] is scan["image"]
    with pytest.raises(ValueError, match=r"scan.*cannot be in Hounsfield units \(HU\).* between 0 and 255.*require_hu"):
        CheckScand("image", hounsfield=(-160, 240))(scan)


def test_a_lesion_that_resampling_removes_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[4, 4, 4] = 1
    data = _labelled(tmp_path, label)
    finer = SafeSpacingd(["image", "label"], pixdim=(1.0,) * 3, mode="bilinear", label_key="label")
    coarse = SafeSpacingd(["image", "label"], pixdim=(7.0,) * 3, mode="bilinear", label_key="label")
    finer(data)
    assert caplog.text == ""
    coarse(data)
    assert (
        "'label' (label.nii.gz): nothing of its lesion of 1 voxels is left on the grid of 7 x 7 x 7 mm" in caplog.text
    )


def test_rounding_of_the_header_is_no_other_grid(tmp_path: Path) -> None:
    near = AFFINE.copy()
    near[:3, 3] += 1e-3
    CheckScand("image", label_key="label")(_labelled(tmp_path, np.ones(SHAPE, dtype=np.uint8), near))


def test_a_label_without_the_wanted_value(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[1] = 3
    with pytest.raises(ValueError, match=r"label 'label' \(label.nii.gz\) has no voxel of value 2, it holds 0, 3;"):
        CheckScand("image", label_key="label", label_value=2)(_labelled(tmp_path, label))


def test_spacing_beside_a_string(array: np.ndarray, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii", array, AFFINE)
    data = LoadScand("image")({"image": path, "image_path": path, "image_meta_dict": {"a": 1}})
    with pytest.raises(AttributeError):  # the reason for our subclass; when it goes, so may the subclass
        Spacingd("image", pixdim=2.0)(dict(data))
    scaled = SafeSpacingd("image", pixdim=(2.0, 2.0, 2.0))(data)
    expected = Spacingd("image", pixdim=(2.0, 2.0, 2.0))({"image": data["image"]})
    assert scaled["image_path"] == path
    assert scaled["image_meta_dict"]["a"] == 1
    assert list(scaled) == ["image", "image_path", "image_meta_dict"]
    torch.testing.assert_close(scaled["image"].as_tensor(), expected["image"].as_tensor())
    np.testing.assert_allclose(scaled["image"].pixdim, 2)


def test_spacing_is_inverted(array: np.ndarray, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii", array, AFFINE)
    spacing = SafeSpacingd("image", pixdim=2.0)
    data = spacing({**LoadScand("image")({"image": path}), "image_path": path})
    assert spacing.inverse(data)["image"].shape == (1, *SHAPE)


def test_the_file_is_not_touched(array: np.ndarray, tmp_path: Path) -> None:
    path = Path(write_nifti(tmp_path / "scan.nii", array, AFFINE))
    copy = shutil.copy(path, tmp_path / "copy.nii")
    LoadScand("image")({"image": path})["image"].zero_()
    assert path.read_bytes() == Path(copy).read_bytes()


def test_no_name_is_not_this_folder() -> None:
    with pytest.raises(FileNotFoundError, match="there is no image of this name"):
        LoadScand("image")({"image": ""})


# --- pictures


def _picture(path: Path, values: np.ndarray, mode: str = "") -> str:
    """Write values, uint8 or uint16 (rows, columns[, channels])."""
    picture = Image.fromarray(values)
    (picture.convert(mode) if mode else picture).save(path)
    return str(path)


GREY = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5)  # 7 rows, 5 columns
COLOUR = np.stack([GREY, GREY + 50, GREY + 100], axis=-1)


def test_one_bright_pixel_lies_at_its_click(tmp_path: Path) -> None:
    """A click [i, j] is [column, row]: where a viewer shows x = 4, y = 2. The mask goes back to the same pixel."""
    values = np.zeros((7, 5), dtype=np.uint8)
    values[2, 4] = 255
    scan = LoadScand("image", spatial_dims=2)({"image": _picture(tmp_path / "dot.png", values)})["image"]
    assert scan.shape == (1, 5, 7)
    assert torch.nonzero(scan[0]).tolist() == [[4, 2]]
    mask = (scan[0] > 0).numpy().astype(np.uint8)
    written = Image.open(_picture(tmp_path / "mask.png", mask.T * 255))
    assert written.getpixel((4, 2)) == 255
    np.testing.assert_array_equal(np.asarray(written), values)


@pytest.mark.parametrize(
    ("values", "mode", "channels", "expected"),
    [
        (GREY, "", 1, GREY.T[None]),
        (GREY.astype(np.uint16) * 1000, "", 1, GREY.T[None] * 1000.0),
        (GREY > 3, "", 1, GREY.T[None] > 3),
        (COLOUR, "", 3, COLOUR.transpose(2, 1, 0)),
        (COLOUR, "RGBA", 3, COLOUR.transpose(2, 1, 0)),
        (GREY, "P", 3, np.stack([GREY.T] * 3)),
        (GREY, "", 3, np.stack([GREY.T] * 3)),
    ],
)
def test_values_of_a_picture(
    values: np.ndarray, mode: str, channels: int, expected: np.ndarray, tmp_path: Path
) -> None:
    path = _picture(tmp_path / "picture.png", values, mode)
    scan = LoadScand("image", spatial_dims=2, channels=channels)({"image": path})["image"]
    assert isinstance(scan, MetaTensor)
    assert scan.dtype == torch.float32
    np.testing.assert_array_equal(np.asarray(scan), expected)
    assert CheckScand("image", spatial_dims=2, channels=channels)({"image": scan})["image"] is scan


def test_a_jpeg_in_pixels(tmp_path: Path) -> None:
    """Its affine is the identity of two axes, and is resampled and inverted as one."""
    path = _picture(tmp_path / "photo.jpg", np.full((8, 16, 3), (200, 100, 50), dtype=np.uint8))
    scan = LoadScand("image", spatial_dims=2, channels=3)({"image": path})["image"]
    assert scan.shape == (3, 16, 8)
    np.testing.assert_allclose(scan.mean(dim=(1, 2)), (200, 100, 50), atol=3)
    for affine in (scan.affine, scan.meta["original_affine"]):
        np.testing.assert_array_equal(np.asarray(affine), np.eye(3))
    assert scan.meta["filename_or_obj"] == path
    spacing = SafeSpacingd("image", pixdim=(2.0, 2.0))
    coarse = spacing({"image": scan})
    assert coarse["image"].shape == (3, 8, 4)
    np.testing.assert_allclose(coarse["image"].pixdim, 2)
    assert spacing.inverse(coarse)["image"].shape == (3, 16, 8)


@pytest.mark.parametrize(
    ("values", "channels", "message"),
    [
        (COLOUR, 1, r"has 3 channels of shape \(5, 7\), expected a 2D picture of one channel; take one of them"),
        (GREY.astype(np.uint16), 3, r"has 1 channels of shape \(5, 7\), expected a 2D picture of 3 channels$"),
        (GREY[:1], 1, r"is 1D: its shape \(5, 1\) has one voxel along an axis, expected a 2D picture"),
        (GREY * 0, 1, "is constant: all voxels are 0, expected a scan with contrast"),
    ],
)
def test_bad_pictures(values: np.ndarray, channels: int, message: str, tmp_path: Path) -> None:
    path = _picture(tmp_path / "picture.png", values)
    scan = LoadScand("image", spatial_dims=2, channels=channels)({"image": path})["image"]
    with pytest.raises(ValueError, match=message):
        CheckScand("image", spatial_dims=2, channels=channels)({"image": scan})


def test_a_scan_where_a_picture_is_expected(array: np.ndarray, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", array, AFFINE)
    with pytest.raises(ValueError, match=r"cannot be read, expected a PNG or JPEG file that is not truncated: "):
        LoadScand("image", spatial_dims=2)({"image": path})
    with pytest.raises(ValueError, match=r"is 3D, with shape \(9, 10, 11\), expected a 2D picture of one channel"):
        CheckScand("image", spatial_dims=2)(LoadScand("image")({"image": path}))
    picture = _picture(tmp_path / "picture.png", GREY)
    with pytest.raises(ValueError, match=r"is 2D, with shape \(5, 7\), expected a 3D scan of one channel"):
        CheckScand("image")(LoadScand("image", spatial_dims=2)({"image": picture}))


@pytest.mark.parametrize("part", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_truncated_picture(ending: str, part: float, rng: np.random.Generator, tmp_path: Path) -> None:
    path = _cut(_picture(tmp_path / f"cut.{ending}", rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)), part)
    with pytest.raises(ValueError, match=rf"cut\.{ending}' cannot be read, expected a PNG or JPEG file"):
        LoadScand("image", spatial_dims=2, channels=3)({"image": path})


def test_the_label_of_a_picture(tmp_path: Path) -> None:
    """A palette's numbers are a label's values."""
    label = Image.fromarray(np.where(GREY > 3, 2, 0).astype(np.uint8), "P")
    label.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9])
    label.save(tmp_path / "label.png")
    data = {"image": _picture(tmp_path / "picture.png", GREY), "label": str(tmp_path / "label.png")}
    loaded = LoadScand(["image", "label"], spatial_dims=2)(data)
    checked = CheckScand("image", label_key="label", label_value=2, spatial_dims=2)(loaded)
    assert torch.unique(checked["label"]).tolist() == [0, 2]
    loaded["label"] = loaded["label"][:, 1:]
    with pytest.raises(ValueError, match=r"different grids: shapes \(5, 7\) and \(4, 7\); resample"):
        CheckScand("image", label_key="label", spatial_dims=2)(loaded)


@pytest.mark.parametrize("options", [{"spatial_dims": 1}, {"spatial_dims": 4}, {"channels": 2}])
@pytest.mark.parametrize("transform", [LoadScand, CheckScand])
def test_other_numbers_of_axes_or_channels(transform: type, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 2 or 3 axes, and 1 or 3 channels"):
        transform("image", **options)
