"""What the first look at a list finds without reading a voxel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_files import SERIES, write_series

from adapters.transforms import check_case, check_cases, check_request, load_datalist


def write(path: Path, shape: tuple[int, ...] = (12, 10, 8)) -> Path:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.diag([-1.0, -1, 2, 1])), path)
    return path


def torn(path: Path) -> Path:
    """Its header promises more voxels than there are."""
    path.write_bytes(write(path).read_bytes()[:500])
    return path


REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "outside": ({"points": [[3, 10, 3]], "point_labels": [0]}, r"scan.nii: click 0 .*\[3.0, 10.0, 3.0\] is outside"),
    "a box": ({"boxes": [[[0, 0, 0], [3, 3, 9]]]}, "scan.nii: box 0 .* is outside"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(name: str, tmp_path: Path) -> None:
    more, message = REQUESTS[name]
    request = {"image": str(write(tmp_path / "scan.nii")), "points": [], "point_labels": []}
    check_request(request)
    with pytest.raises(ValueError, match=message):
        check_request(request | more)


def test_a_request_whose_scan_is_torn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'image': '.*torn.nii' cannot be read.*: its header promises 12 x 10 x 8"):
        check_request({"image": str(torn(tmp_path / "torn.nii")), "points": [], "point_labels": []})


def test_padding_lies_nowhere(tmp_path: Path) -> None:
    check_request({"image": str(write(tmp_path / "s.nii")), "points": [[-9, 99, 0]], "point_labels": [-1]})


def test_a_request_of_dicom(tmp_path: Path) -> None:
    array, affine = np.arange(12 * 10 * 8, dtype=np.int16).reshape(12, 10, 8), np.diag([-1.0, -1, 2, 1])
    write_series(tmp_path / "ct" / "a", array, affine)
    write_series(tmp_path / "ct" / "b", array[:, :, :5], affine, series="1.2.3")
    request = {"image": str(tmp_path / "ct"), "points": [[3, 3, 6]], "point_labels": [1]}
    with pytest.raises(ValueError, match=r"^'image': '.*ct' holds 2 series that can be the scan"):
        check_request(request)
    check_request(request, series=SERIES)
    check_request(request | {"series": SERIES}, series="1.2.3")
    with pytest.raises(ValueError, match=r"ct: click 0 .*\[3.0, 3.0, 6.0\] is outside"):
        check_request(request, series="1.2.3")


def test_a_case(tmp_path: Path) -> None:
    case = {key: str(write(tmp_path / f"{key}.nii.gz")) for key in ("image", "label")}
    check_case(case)
    with pytest.raises(ValueError, match=r"shapes \(12, 10, 8\) and \(12, 10, 9\); resample the label"):
        check_case(case | {"label": str(write(tmp_path / "other.nii", (12, 10, 9)))})


def test_all_that_cannot_be_used_are_named_at_once(tmp_path: Path) -> None:
    cases = [
        {"image": write(tmp_path / f"{name}.nii").name, "label": write(tmp_path / f"{name}_label.nii").name}
        for name in "abcd"
    ]
    torn(tmp_path / "b_label.nii")
    write(tmp_path / "d.nii", (12, 10, 7))
    (tmp_path / "list.json").write_text(json.dumps({"training": cases}))
    each = {"num_clicks": [1, 3]}
    assert len(load_datalist(tmp_path / "list.json", "training", tmp_path, each=each)) == 8
    with pytest.raises(
        ValueError, match=r"^2 of the list's cases cannot be used: b \(.*b.nii\): 'label'.*; d \("
    ) as error:
        load_datalist(tmp_path / "list.json", "training", tmp_path, each=each, check=check_cases)
    assert "shapes (12, 10, 7) and (12, 10, 8)" in str(error.value)
