"""Inference of the sarcoma bundle on scans of all formats, with a network whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import BUNDLE, SMALL, Trained, run_as_typed, told, workflow
from dicom_files import write_series
from highdicom.seg import segread
from monai.bundle.scripts import create_workflow
from oracle import Oracle
from scan_files import affine_of, write_dicom, write_itk, write_nifti

from adapters.files import read_csv
from adapters.networks import Backbone, Sizes, build_sam_adapter3d
from adapters.transforms import LoadScand

SHAPE = (60, 40, 24)
SPACING = (1.5, 2.0, 3.0)
RADIUS = 12.0  # mm
APART = 56.0  # mm, more than a crop of 40 mm
ORACLE = {"crop_size": 20, "spacing": 2.0, "device": "cpu", "network_def": {"_target_": "oracle.Oracle"}}
"""The oracle says lesion where an image is brighter than 140 HU, 0.5 after scaling."""

PLACES = {
    "lps": ("LPS", (0, 0, 0)),
    "ras": ("RAS", (0, 0, 0)),
    "permuted": ("IPR", (0, 0, 0)),
    "rotated": ("ASL", (20, -15, 30)),
}


def spheres(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image (i, j, k) in HU with two smooth spheres of 240 HU, the mask of each, and their centres in voxels.

    They lie along the longest side, a quarter of their distance off the middle of the others.
    """
    middle = (np.array(SHAPE) - 1) / 2
    away = np.array([APART / 2 / SPACING[0], 2.0, 1.0])
    centres = np.stack([middle - away, middle + away])
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    world = grid @ affine[:3, :3].T
    distances = np.stack([np.linalg.norm(world - affine[:3, :3] @ c, axis=-1) for c in centres])
    # falls from 240 HU inside to 40 HU outside over 4 mm, and passes 140 HU at the surface
    image = np.clip(140 + 50 * (RADIUS - distances.min(axis=0)), 40, 240)
    return image.astype(np.float32), distances <= RADIUS, centres


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def write_scans(folder: Path) -> dict[str, str]:
    """Paths of the spheres in each orientation and format."""
    paths = {}
    for name, (orientation, degrees) in PLACES.items():
        affine = affine_of(orientation, SPACING, degrees)
        paths[name] = write_nifti(folder / f"{name}.nii.gz", spheres(affine)[0], affine)
    affine = affine_of("LPS", SPACING)
    image = np.rint(spheres(affine)[0]).astype(np.int16)
    paths["nrrd"] = write_itk(folder / "nrrd.nrrd", image, affine)
    paths["mha"] = write_itk(folder / "mha.mha", image, affine)
    paths["dicom"] = write_dicom(folder / "dicom", image, affine)
    return paths


def write_requests(path: Path, entries: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(entries))
    return str(path)


def save_oracle(path: Path) -> str:
    torch.save(Oracle().state_dict(), path)
    return str(path)


def stored(path: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of a scan as it is stored."""
    scan = LoadScand("image")({"image": path})["image"]
    return tuple(scan.shape[1:]), np.asarray(scan.affine)


def check_grid(mask: Path, scan: str) -> np.ndarray:
    """The mask's values, if it lies on the scan's own grid."""
    written: Any = nib.load(mask)
    shape, affine = stored(scan)
    assert written.shape == shape
    np.testing.assert_allclose(written.affine, affine, atol=1e-3)
    assert written.get_data_dtype() == np.uint8
    values = np.asarray(written.dataobj)
    assert set(np.unique(values)) <= {0, 1}
    return values == 1


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_scans(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def inferred(scans: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the masks of one run as typed: a click on the first sphere of every scan, none on the last."""
    folder = tmp_path_factory.mktemp("inferred")
    click = spheres(affine_of("LPS", SPACING))[2][0].round().tolist()  # the same voxel in all orientations
    entries = [{"image": path, "points": [click], "point_labels": [1]} for path in scans.values()]
    lps = Path(scans["lps"])
    both = lps.with_name("automatic.nii.gz")
    both.write_bytes(lps.read_bytes())
    entries.append({"image": str(both), "points": [], "point_labels": []})
    options = {
        "requests": write_requests(folder / "requests.json", entries),
        "checkpoint": save_oracle(folder / "oracle.pt"),
        "output_dir": str(folder / "masks"),
    }
    process = run_as_typed(BUNDLE, "", ["inference"], ORACLE | options)
    assert process.returncode == 0, process.stderr[-3000:]
    return folder / "masks"


@pytest.mark.parametrize("name", [*PLACES, "nrrd", "mha", "dicom"])
def test_the_clicked_sphere_and_not_the_other(name: str, scans: dict[str, str], inferred: Path) -> None:
    mask = check_grid(inferred / f"{name}_mask.nii.gz", scans[name])
    clicked, other = spheres(affine_of(*PLACES.get(name, PLACES["lps"])[:1], SPACING))[1]
    assert dice(mask, clicked) > 0.95
    assert not (mask & other).any()


def test_without_clicks_both_spheres(scans: dict[str, str], inferred: Path) -> None:
    mask = check_grid(inferred / "automatic_mask.nii.gz", scans["lps"])
    first, second = spheres(affine_of("LPS", SPACING))[1]
    assert dice(mask, first | second) > 0.95


def test_reach_is_switched_off_as_the_page_says() -> None:
    """MONAI leaves out options whose value is None."""
    options = {"config_file": str(BUNDLE / "configs" / "inference.json"), "bundle_root": str(BUNDLE)}
    for reach, expected in ((None, 10.0), ("$None", None)):
        inference = create_workflow("monai.bundle.ConfigWorkflow", workflow_type="infer", reach=reach, **options)
        assert inference.parser.get_parsed_content("inferer").reach == expected


def test_one_mask_for_each_request_and_nothing_else(inferred: Path) -> None:
    names = [*PLACES, "nrrd", "mha", "dicom", "automatic"]
    assert {path.name for path in inferred.iterdir()} == {f"{name}_mask.nii.gz" for name in names}


@pytest.mark.parametrize("second", [[1, 1], [1, 0], [1, -1]], ids=["on", "off", "padding"])
def test_labels_of_clicks(second: list[int], scans: dict[str, str], tmp_path: Path) -> None:
    """A second click on the other sphere adds it; as padding it does not."""
    clicked, other = spheres(affine_of("LPS", SPACING))[1]
    points = spheres(affine_of("LPS", SPACING))[2].round().tolist()
    options = {
        "requests": write_requests(
            tmp_path / "r.json", [{"image": scans["lps"], "points": points, "point_labels": second}]
        ),
        "checkpoint": save_oracle(tmp_path / "oracle.pt"),
        "output_dir": str(tmp_path / "masks"),
    }
    workflow(BUNDLE, ["inference"], "inference", **(ORACLE | options)).run()
    mask = check_grid(tmp_path / "masks" / "lps_mask.nii.gz", scans["lps"])
    assert dice(mask & ~other, clicked) > 0.95
    assert (dice(mask & other, other) > 0.95) == (second[1] == 1)


def test_the_trained_network_writes_masks_on_the_scans_grids(
    trained: Trained, scans: dict[str, str], tmp_path: Path
) -> None:
    names = ["permuted", "rotated", "dicom"]
    entries = [{"image": scans[n], "points": [[3, 4, 5.5], [30, 20, 9]], "point_labels": [1, 0]} for n in names]
    options = {"requests": write_requests(tmp_path / "r.json", entries), "output_dir": str(tmp_path / "masks")}
    workflow(trained.bundle, ["inference"], "inference", **(SMALL | options)).run()
    for name in names:
        check_grid(tmp_path / "masks" / f"{name}_mask.nii.gz", scans[name])


@pytest.mark.parametrize("place", ["the command line", "the list"])
def test_a_series_of_a_folder_and_its_mask_as_dicom_seg(place: str, tmp_path: Path) -> None:
    affine = affine_of("LPS", SPACING)
    image, masks, centres = spheres(affine)
    write_series(tmp_path / "ct" / "a", np.rint(image).astype(np.int16), affine, series="1.2.3.4.5")
    write_series(tmp_path / "ct" / "b", np.rint(-image).astype(np.int16), affine, series="1.2.3.4.6")
    named = {"series": "1.2.3.4.5"}
    entry = _entry(str(tmp_path / "ct"), points=[centres[0].round().tolist()], **named if place == "the list" else {})
    options = {
        "requests": write_requests(tmp_path / "r.json", [entry]),
        "checkpoint": save_oracle(tmp_path / "oracle.pt"),
        "output_dir": str(tmp_path / "masks"),
        "output_ext": ".dcm",
        "label_name": "mass",
        **(named if place == "the command line" else {}),
    }
    workflow(BUNDLE, ["inference"], "inference", **(ORACLE | options)).run()
    segmentation = segread(tmp_path / "masks" / "ct_mask.dcm")
    assert segmentation.get_segment_description(1).segment_label == "mass"
    volume = segmentation.get_volume(combine_segments=True)
    written = np.zeros(image.shape, dtype=bool)
    start = np.linalg.solve(affine, np.diag([-1, -1, 1, 1]) @ volume.affine @ [volume.shape[0] - 1, 0, 0, 1])
    first = round(start[2])  # highdicom's volumes count downwards here
    written[:, :, first : first + volume.shape[0]] = volume.array[::-1].T > 0
    assert dice(written, masks[0]) > 0.95


# --- what is refused


def _entry(image: str, **changes: Any) -> dict[str, Any]:
    return {"image": image, "points": [[20, 20, 10]], "point_labels": [1], **changes}


def _nifti(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[str, Path], dict[str, Any]]:
    def make(image: str, folder: Path) -> dict[str, Any]:
        source: Any = nib.load(image)
        return _entry(write_nifti(folder / "bad.nii.gz", change(np.asarray(source.dataobj)), source.affine))

    return make


def _truncated(image: str, folder: Path) -> dict[str, Any]:
    whole = Path(image).read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    return _entry(str(folder / "cut.nii.gz"))


def _without_points(image: str, _: Path) -> dict[str, Any]:
    entry = _entry(image)
    del entry["points"]
    return entry


BAD: dict[str, tuple[Callable[[str, Path], dict[str, Any]], str]] = {
    "missing file": (lambda *_: _entry("/nowhere/scan.nii.gz"), "there is no file '/nowhere/scan.nii.gz'"),
    "missing key": (_without_points, "has no key 'points'"),
    "other length": (lambda i, _: _entry(i, point_labels=[1, 0]), "1 points but 2 labels"),
    "unknown label": (lambda i, _: _entry(i, point_labels=[3]), "label 3 of click 0"),
    "click outside": (lambda i, _: _entry(i, points=[[20, 45, 10]]), "[20.0, 45.0, 10.0]"),
    "click not finite": (lambda i, _: _entry(i, points=[[20, float("nan"), 10]]), "expected finite coordinates"),
    "truncated": (_truncated, "cut.nii.gz' cannot be read, expected a NIfTI"),
    "constant": (_nifti(np.zeros_like), "all voxels are 0, expected a scan with contrast"),
    "not finite": (_nifti(lambda a: np.where(a > 200, np.nan, a)), "NaN or infinite"),
    "2D": (_nifti(lambda a: a[:, :, 0]), "is 2D"),
    "4D": (_nifti(lambda a: np.stack([a, a], axis=-1)), "has 2 channels or time points"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_write_no_mask(name: str, scans: dict[str, str], tmp_path: Path) -> None:
    make, message = BAD[name]
    options = {
        "requests": write_requests(tmp_path / "r.json", [make(scans["lps"], tmp_path)]),
        "checkpoint": save_oracle(tmp_path / "oracle.pt"),
        "output_dir": str(tmp_path / "masks"),
    }
    with pytest.raises(Exception) as caught:  # noqa: PT011  (MONAI wraps it, the message stands in the chain)
        workflow(BUNDLE, ["inference"], "inference", **(ORACLE | options)).run()
    assert message in told(caught.value)
    assert not list(tmp_path.glob("masks/*"))


def test_bad_requests_as_typed(scans: dict[str, str], tmp_path: Path) -> None:
    """The good ones of a list get their masks; the bad ones are named at first, on the last line, and in a file."""
    torn = tmp_path / "torn.nii.gz"
    torn.write_bytes(Path(scans["lps"]).read_bytes()[:2000])
    entries = [_entry(scans["ras"], points=[[20, 45, 10]]), _entry(str(torn)), _entry(scans["lps"])]
    options = {
        "requests": write_requests(tmp_path / "r.json", entries),
        "checkpoint": save_oracle(tmp_path / "oracle.pt"),
        "output_dir": str(tmp_path / "masks"),
    }
    process = run_as_typed(BUNDLE, "", ["inference"], ORACLE | options)
    assert process.returncode == 1
    assert sorted(path.name for path in tmp_path.glob("masks/*")) == ["failures.csv", "lps_mask.nii.gz"]
    rows = read_csv(tmp_path / "masks" / "failures.csv", ("case", "reason"))
    reasons = {Path(row["case"]).name: row["reason"] for row in rows}
    assert sorted(reasons) == ["ras.nii.gz", "torn.nii.gz"]
    assert "[20.0, 45.0, 10.0] is outside the grid" in reasons["ras.nii.gz"]
    assert "cannot be read" in reasons["torn.nii.gz"]
    last = process.stderr.rstrip().splitlines()[-1]
    assert last.startswith("error: 2 of 3 cases failed, the others are done.")
    assert all(reason in last for reason in reasons.values())
    assert process.stdout.index("ras.nii.gz failed: ") < process.stdout.index("lps_mask.nii.gz")


def _another_variant(path: Path) -> str:
    backbone = Backbone("other", embed_dim=24, depth=4, num_heads=2, global_blocks=(), table_size=16, sam_window=4)
    sizes = Sizes(backbone, window_size=4, out_channels=16, prompt_heads=4, prompt_mlp_dim=32, head_channels=8)
    torch.save(build_sam_adapter3d(sizes, 32, "all").state_dict(), path)
    return "holds weights of variant custom (width 24, 4 blocks, 2 heads), but the network is of variant tiny"


def _another_network(path: Path) -> str:
    save_oracle(path)
    return "holds weights of a network of the family oracle, but the network is of the family samadapter3d"


def _no_file(path: Path) -> str:
    return f"the weights {path} do not exist"


@pytest.mark.parametrize("make", [_another_variant, _another_network, _no_file])
def test_weights_of_something_else(make: Callable[[Path], str], scans: dict[str, str], tmp_path: Path) -> None:
    message = make(tmp_path / "model.pt")
    options = {
        "requests": write_requests(tmp_path / "r.json", [_entry(scans["lps"])]),
        "ckpt_dir": str(tmp_path),
        "output_dir": str(tmp_path / "masks"),
    }
    with pytest.raises(Exception) as caught:  # noqa: PT011
        workflow(BUNDLE, ["inference"], "inference", **(SMALL | options)).run()
    assert message in told(caught.value)
    assert not list(tmp_path.glob("masks/*"))
