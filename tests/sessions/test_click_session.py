"""A session in Python gives the masks of ``monai.bundle run``, and takes back what it is told to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import BUNDLE, run_as_typed
from dicom_files import SERIES, write_series
from highdicom.seg import segread
from monai.data import MetaTensor
from monai.transforms import Orientation
from oracle import Oracle
from scan_files import affine_of, write_dicom, write_nifti

import adapters
from adapters.datasets.phantom import phantom
from adapters.networks import SAMAdapter3D
from adapters.sessions import ClickSession, read_bundle
from adapters.sessions.click_session import _turned
from adapters.transforms import LoadScand
from adapters.transforms.remembered_scan import SCANS

SHAPE = (44, 40, 36)  # along the axes as stored
PLACES = {"lps": ("LPS", (6.0, 7.0, 8.0)), "permuted": ("IPR", (8.0, 6.0, 7.0))}
BRIGHT = {"crop_size": 20, "spacing": 2.0, "network_def": {"_target_": "oracle.Oracle"}}
"""The oracle says lesion where an image is brighter than 140 HU."""


def scan_of(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A phantom's image and label (X, Y, Z) in an orientation of its own, and its affine."""
    orientation, spacing = PLACES[name]
    return phantom(3, SHAPE, spacing, orientation=orientation)


def clicks_on(label: np.ndarray) -> list[tuple[int, int, int]]:
    """Two voxels of the lesion and one far from it."""
    inside = np.argwhere(label > 0)
    return [tuple(int(n) for n in voxel) for voxel in (inside[len(inside) // 2], inside[0], np.array([2, 3, 4]))]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scans")
    return {name: Path(write_nifti(folder / f"{name}.nii.gz", *scan_of(name)[::2])) for name in PLACES}


@pytest.fixture(scope="module")
def typed(scans: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The masks of one run as typed: no click, one, and in the same process two and three, of each scan."""
    folder = tmp_path_factory.mktemp("typed")
    entries = []
    for name, path in scans.items():
        clicks, labels = clicks_on(scan_of(name)[1]), [1, 1, 0]
        for number in range(4):
            copy = folder / f"{name}_{number}.nii.gz"
            shutil.copyfile(path, copy)
            entries.append({"image": str(copy), "points": clicks[:number], "point_labels": labels[:number]})
    (folder / "requests.json").write_text(json.dumps(entries))
    options = {"requests": str(folder / "requests.json"), "output_dir": str(folder / "masks"), "device": "cpu"}
    process = run_as_typed(BUNDLE, "", ["inference"], options)
    assert process.returncode == 0, process.stderr[-3000:]
    return folder / "masks"


def written(path: Path) -> np.ndarray:
    mask: Any = nib.load(path)
    return np.asarray(mask.dataobj) == 1


@pytest.fixture(scope="module")
def session() -> ClickSession:
    return adapters.ClickSession("soft_tissue_sarcoma_ct", device="cpu")


@pytest.mark.parametrize("name", PLACES)
def test_the_masks_of_monai_bundle_run(name: str, scans: dict[str, Path], typed: Path, session: ClickSession) -> None:
    session.set_image(scans[name])
    first, second, off = clicks_on(scan_of(name)[1])
    masks = [session.automatic(), session.add_click(first), session.add_click(second)]
    masks.append(session.add_click(off, positive=False))
    for number, mask in enumerate(masks):
        expected = written(typed / f"{name}_{number}_mask.nii.gz")
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected, err_msg=f"{number} clicks")
    assert masks[1].any()
    assert (masks[1] != masks[3]).any()
    assert session.prompts.points.tolist() == [list(map(float, click)) for click in (first, second, off)]
    assert session.prompts.labels.tolist() == [1, 1, 0]


def test_an_array_is_as_good_as_its_file(scans: dict[str, Path], session: ClickSession) -> None:
    image, label, affine = scan_of("permuted")
    session.set_image(scans["permuted"])
    of_file = session.add_click(clicks_on(label)[0])
    for array in (image, torch.from_numpy(image)):
        session.set_image(array, affine)
        np.testing.assert_array_equal(session.add_click(clicks_on(label)[0]), of_file)
    np.testing.assert_allclose(session.affine, affine, atol=1e-3)


def test_a_folder_of_dicom(tmp_path: Path, session: ClickSession) -> None:
    image, label, _ = scan_of("lps")
    affine = affine_of("LPS", PLACES["lps"][1])
    session.set_image(write_dicom(tmp_path / "series", np.rint(image).astype(np.int16), affine))
    stored = LoadScand("image")({"image": str(tmp_path / "series")})["image"]
    mask = session.add_click(clicks_on(label)[0])
    assert mask.shape == tuple(stored.shape[1:])
    assert mask[clicks_on(label)[0]]


def test_read_once_and_encoded_once(
    scans: dict[str, Path], session: ClickSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def counting(kind: type, name: str) -> None:
        inner = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *given, **named: (done.append(name), inner(*given, **named))[1])

    counting(LoadScand, "__call__")
    counting(SAMAdapter3D, "encode")
    SCANS.clear()  # another test may have read it
    session.set_image(scans["lps"])
    clicks = clicks_on(scan_of("lps")[1])
    for click in clicks[:2]:
        session.add_click(click)
    session.add_click(clicks[2], positive=False)
    session.undo()
    session.reset()
    session.add_click(clicks[0])
    assert done == ["__call__", "encode"]


def test_undo_gives_back_the_masks_before(scans: dict[str, Path], session: ClickSession) -> None:
    session.set_image(scans["lps"])
    first, second, off = clicks_on(scan_of("lps")[1])
    masks = [session.mask, session.add_click(first), session.add_click(second), session.automatic()]
    assert not masks[0].any()
    masks[2][:] = True  # a mask that was handed out is the user's own
    masks[2] = session.undo()
    assert masks[2].any()
    assert not masks[2].all()
    for expected in (masks[1], masks[0]):
        np.testing.assert_array_equal(session.undo(), expected)
    assert len(session.prompts) == 0
    # what was taken back leaves no trace: the same clicks again, and others in their place
    for click, expected in ((first, masks[1]), (second, masks[2])):
        np.testing.assert_array_equal(session.add_click(click), expected)
    session.undo()
    other = session.add_click(off, positive=False)
    session.reset()
    session.add_click(first)
    np.testing.assert_array_equal(session.add_click(off, positive=False), other)


def test_reset(scans: dict[str, Path], session: ClickSession) -> None:
    session.set_image(scans["lps"])
    session.add_click(clicks_on(scan_of("lps")[1])[0])
    session.reset()
    assert not session.mask.any()
    with pytest.raises(ValueError, match="nothing to undo"):
        session.undo()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_save(ending: str, scans: dict[str, Path], typed: Path, session: ClickSession, tmp_path: Path) -> None:
    session.set_image(scans["permuted"])
    session.add_click(clicks_on(scan_of("permuted")[1])[0])
    path = session.save(tmp_path / f"mask{ending}")
    ours, theirs = (nib.load(file) for file in (path, typed / "permuted_1_mask.nii.gz"))
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)
    assert ours.get_data_dtype() == np.uint8
    content = path.read_bytes()
    session.save(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_save_as_dicom_seg(session: ClickSession, scans: dict[str, Path], tmp_path: Path) -> None:
    image, label, _ = scan_of("lps")
    voxels, affine = np.rint(image).astype(np.int16), affine_of("LPS", PLACES["lps"][1])
    write_series(tmp_path / "scans" / "a", voxels, affine)
    write_series(tmp_path / "scans" / "b", -voxels, affine, series="1.2.3.4.6")
    with pytest.raises(ValueError, match="holds 2 series that can be the scan"):
        session.set_image(tmp_path / "scans")
    session.set_image(tmp_path / "scans", series=SERIES)
    mask = session.add_click(clicks_on(label)[0])
    segmentation = segread(session.save(tmp_path / "mask.dcm"))
    assert segmentation.pixel_array.sum() == mask.sum() > 0
    assert segmentation.get_segment_description(1).segment_label == "tumor"
    with pytest.raises(ValueError, match="series '1' was given for an array, which has none: leave it out"):
        session.set_image(image, affine, series="1")
    session.set_image(scans["lps"])
    session.add_click(clicks_on(label)[0])
    with pytest.raises(ValueError, match=r"refers to the slices of a DICOM scan, and '.*lps\.nii\.gz' is none"):
        session.save(tmp_path / "other.dcm")


# --- a mask to start from, with a network whose answer is known


def spots() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image (X, Y, Z) with two bright cubes 60 mm apart, the mask of each, and the affine of another orientation."""
    affine = affine_of("IPR", (2.0, 2.0, 2.0))
    masks = np.zeros((2, 60, 30, 26), dtype=bool)
    masks[0, 10:16, 12:18, 10:16] = True
    masks[1, 42:48, 12:18, 10:16] = True
    return np.where(masks.any(axis=0), 240.0, -40.0).astype(np.float32), masks, affine


@pytest.fixture
def bright(tmp_path: Path) -> ClickSession:
    torch.save(Oracle().state_dict(), tmp_path / "oracle.pt")
    image, _, affine = spots()
    session = ClickSession(BUNDLE, device="cpu", checkpoint=str(tmp_path / "oracle.pt"), **BRIGHT)
    session.set_image(image, affine)
    return session


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("degrees", [0, 44.9, 45, 45.1])
@pytest.mark.parametrize("orientation", ["LPS", "RAI", "PSR"])
@pytest.mark.parametrize("shape", [(7, 7, 7), (5, 6, 7)], ids=str)
def test_a_mask_to_start_from_is_turned_as_the_scan_was(
    orientation: str, degrees: float, axis: int, shape: tuple[int, ...]
) -> None:
    """At 45 degrees it is a matter of rounding which axis is the nearest, so nobody may guess twice."""
    angles = [0.0, 0.0, 0.0]
    angles[axis] = degrees
    affine = affine_of(orientation, (1, 1, 1), tuple(angles))  # type: ignore[arg-type]
    mask = np.random.default_rng(0).random(shape) > 0.5
    stored = MetaTensor(torch.from_numpy(mask[None].astype(np.float32)), affine=torch.from_numpy(affine))
    oriented = Orientation("SPL", labels=(("L", "R"), ("P", "A"), ("I", "S")))(stored)
    turned = _turned(mask, np.linalg.inv(np.asarray(oriented.affine)) @ affine)
    np.testing.assert_array_equal(turned, oriented[0].numpy() > 0)


@pytest.mark.parametrize("change", [np.diag([2.0, 1, 1, 1]), affine_of("LPS", (1, 1, 1), (0, 30, 0))])
def test_a_grid_of_other_voxels_takes_no_mask(change: np.ndarray) -> None:
    assert _turned(np.ones((3, 3, 3), dtype=bool), change) is None


def test_a_mask_to_start_from_stands_where_no_crop_reaches(bright: ClickSession) -> None:
    _, (first, second), _ = spots()
    np.testing.assert_array_equal(bright.add_click((12, 14, 12)), first)
    wrong = np.roll(first, 4, axis=1)
    np.testing.assert_array_equal(bright.start_from(second | wrong), second | wrong)
    assert len(bright.prompts) == 0
    np.testing.assert_array_equal(bright.add_click((12, 14, 12)), first | second)
    assert len(bright.prompts) == 1
    bright.undo()
    np.testing.assert_array_equal(bright.mask, second | wrong)
    np.testing.assert_array_equal(bright.undo(), first)


def test_the_network_sees_the_mask_it_starts_from(bright: ClickSession) -> None:
    _, (first, _), _ = spots()
    bright.start_from(first)
    bright.add_click((12, 14, 12))
    network = bright._network
    crop, (points, _), mask = network.crops[-1], network.prompts[-1], network.masks[-1]
    assert torch.equal(mask > 0, crop > 0.5), "the mask lies on the image in the crop"
    at = tuple(round(n) for n in points[0])
    assert mask[0, 0][at] == 10
    assert float(mask.min()) == -10
    bright.reset()
    bright.add_click((12, 14, 12))
    assert network.masks[-1] is None


def test_a_bundle_that_resamples_scans_takes_no_mask(tmp_path: Path) -> None:
    torch.save(Oracle().state_dict(), tmp_path / "oracle.pt")
    transforms = read_bundle(BUNDLE)["preprocessing#transforms#0#transforms"]
    spacing = {"_target_": "adapters.transforms.SafeSpacingd", "keys": "image", "pixdim": [4.0, 4.0, 4.0]}
    given = {"preprocessing#transforms#0#transforms": [*transforms[:3], spacing, *transforms[3:]], **BRIGHT}
    session = ClickSession(BUNDLE, device="cpu", checkpoint=str(tmp_path / "oracle.pt"), **given)
    image, masks, affine = spots()
    session.set_image(image, affine)
    assert session.add_click((12, 14, 12)).shape == image.shape
    with pytest.raises(ValueError, match="needs a bundle that only turns the scan"):
        session.start_from(masks[0])


def test_a_box(bright: ClickSession) -> None:
    _, (first, _), _ = spots()
    inside = np.argwhere(first)
    np.testing.assert_array_equal(bright.add_box(inside.min(axis=0), inside.max(axis=0)), first)
    (box,) = bright._network.boxes[-1]
    assert np.subtract(*box[::-1]).tolist() == (np.ptp(inside, axis=0)[::-1]).tolist(), "in the tensor's order of axes"
    bright.add_click((12, 14, 12), positive=False)
    assert bright.prompts.kinds == {"points", "boxes"}
    bright.undo()
    assert (len(bright.prompts), len(bright.prompts.boxes)) == (0, 1)


# --- what is refused


def four_dimensions(session: ClickSession) -> None:
    session.set_image(np.zeros((4, 4, 4, 2)), np.eye(4))


MISTAKES: dict[str, tuple[Callable[[ClickSession], Any], str]] = {
    "outside": (lambda s: s.add_click((12, 14, 90)), r"\[12.0, 14.0, 90.0\].*outside|outside.*90"),
    "two numbers": (lambda s: s.add_click((12, 14)), r"the click is \(12, 14\): expected three numbers"),
    "text": (lambda s: s.add_click("abc"), "the click is 'abc': expected three numbers"),
    "one number": (lambda s: s.add_click(3), "the click is 3: expected three numbers"),
    "not finite": (lambda s: s.add_click((1, 2, float("nan"))), "expected finite coordinates"),
    "box outside": (lambda s: s.add_box((0, 0, 0), (12, 14, 90)), r"box 0 at \[12.0, 14.0, 90.0\] is outside"),
    "box exchanged": (lambda s: s.add_box((12, 14, 12), (1, 2, 3)), "the lowest voxel first"),
    "two corners' numbers": (lambda s: s.add_box((12, 14), (13, 15)), r"a corner of the box is \(12, 14\): expected"),
    "a label": (lambda s: s.add_click((12, 14, 12), positive=1), "positive is 1: expected True"),
    "mask of another grid": (lambda s: s.start_from(np.zeros((3, 4, 5))), r"\(3, 4, 5\): expected \(60, 30, 26\)"),
    "mask of labels": (lambda s: s.start_from(np.full((60, 30, 26), 2)), "holds the values 2: expected only 0 and 1"),
    "no such file": (lambda s: s.set_image("nowhere.nii.gz"), "there is no file or folder 'nowhere.nii.gz'"),
    "constant": (lambda s: s.set_image(np.zeros((8, 8, 8)), np.eye(4)), "all voxels are 0"),
    "no affine": (lambda s: s.set_image(np.zeros((8, 8, 8))), "the array has no affine"),
    "singular": (lambda s: s.set_image(np.zeros((8, 8, 8)), np.diag([1, 1, 0, 1])), "affine"),
    "4D": (four_dimensions, r"shape \(4, 4, 4, 2\)"),
    "text image": (lambda s: s.set_image(np.array([["a"]]), np.eye(4)), "type <U1"),
    "affine of a file": (lambda s: s.set_image("x.nii.gz", np.eye(4)), "the file 'x.nii.gz', which has its own"),
    "other format": (lambda s: s.save("mask.png"), "'.png': expected one of .nii, .nii.gz, .nrrd"),
    "no such folder": (lambda s: s.save("nowhere/mask.nii"), "nowhere"),
}


def test_clicks_of_many_threads_all_stand(bright: ClickSession) -> None:
    places = [(x, y, z) for x in (4, 6, 8, 10) for y in (5, 9) for z in (4, 8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(bright.add_click, places))
    assert sorted(map(tuple, bright.prompts.points.astype(int).tolist())) == sorted(places)
    for _ in places:
        bright.undo()
    assert not bright.mask.any()


def test_a_bundle_and_an_override_with_marks_that_monai_replaces(scans: dict[str, Path], tmp_path: Path) -> None:
    """Their paths stay as they are."""
    bundle = Path(shutil.copytree(BUNDLE, tmp_path / "study#3 @x" / "own_deepgrow"))
    weights = bundle / "models" / "model.pt"
    weights.rename(weights.with_name("best #1.pt"))
    with pytest.raises(FileNotFoundError, match=r"the weights .*study#3 @x/own_deepgrow/models/model.pt do not exist"):
        ClickSession(bundle, device="cpu")
    ClickSession(bundle, device="cpu", checkpoint=str(weights.with_name("best #1.pt")))


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_leave_the_session_as_it_was(name: str, bright: ClickSession) -> None:
    mistake, message = MISTAKES[name]
    before = bright.add_click((12, 14, 12))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        mistake(bright)
    np.testing.assert_array_equal(bright.mask, before)
    assert len(bright.prompts) == 1
    assert bright.add_click((44, 14, 12)).sum() == 2 * before.sum()


def test_a_failure_in_the_middle_leaves_the_session_as_it_was(
    bright: ClickSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bright.add_click((12, 14, 12))

    def no_memory(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("adapters.inferers.click.blended", no_memory)
        with pytest.raises(MemoryError):
            bright.add_click((44, 14, 12))
    np.testing.assert_array_equal(bright.mask, before)
    assert bright.add_click((44, 14, 12)).sum() == 2 * before.sum()


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.add_click((1, 2, 3)),
        lambda s: s.automatic(),
        lambda s: s.start_from(np.zeros((2, 2, 2))),
        lambda s: s.undo(),
        lambda s: s.reset(),
        lambda s: s.save("mask.nii.gz"),
        lambda s: s.mask,
        lambda s: s.prompts,
        lambda s: s.affine,
    ],
)
def test_nothing_works_without_an_image(use: Callable[[ClickSession], Any], tmp_path: Path) -> None:
    torch.save(Oracle().state_dict(), tmp_path / "oracle.pt")
    session = ClickSession(BUNDLE, device="cpu", checkpoint=str(tmp_path / "oracle.pt"), **BRIGHT)
    with pytest.raises(ValueError, match="call set_image first"):
        use(session)


def test_nothing_to_save(bright: ClickSession, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no mask to save yet"):
        bright.save(tmp_path / "mask.nii.gz")


def test_no_automatic_mode(tmp_path: Path) -> None:
    torch.save(Oracle().state_dict(), tmp_path / "oracle.pt")
    session = ClickSession(
        BUNDLE, device="cpu", checkpoint=str(tmp_path / "oracle.pt"), **BRIGHT, **{"inferer#automatic": None}
    )
    image, _, affine = spots()
    session.set_image(image, affine)
    with pytest.raises(ValueError, match="there is no click"):
        session.automatic()


@pytest.mark.parametrize(
    ("bundle", "overrides", "message"),
    [
        ("no_such_bundle", {}, "there is no bundle 'no_such_bundle'"),
        (BUNDLE, {"treshold": 0.4}, "'treshold' is no id of soft_tissue_sarcoma.*reach"),
        (BUNDLE, {"checkpoint": "nowhere.pt"}, "the weights nowhere.pt do not exist"),
        (BUNDLE, {"reach": -1.0}, "reach is -1.0"),
        (BUNDLE, {"inferer": {"_target_": "SimpleInferer"}}, "takes no clicks"),
    ],
)
def test_what_a_session_cannot_be_made_from(bundle: Any, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ClickSession(bundle, device="cpu", **overrides)


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save(Oracle().state_dict(), tmp_path / "oracle.pt")
    with pytest.raises(ValueError, match=r"oracle.pt"):
        ClickSession(BUNDLE, device="cpu", checkpoint=str(tmp_path / "oracle.pt"))


def test_overrides_are_those_of_the_command_line(scans: dict[str, Path]) -> None:
    session = ClickSession(BUNDLE, device="cpu", reach=None, **{"inferer#max_crops": 1, "inferer#grow": False})
    assert session._inferer.reach is None
    assert session._inferer.as_published


def test_the_name_in_adapters() -> None:
    assert adapters.ClickSession is ClickSession
    with pytest.raises(AttributeError, match="no attribute 'ClickSesion'"):
        adapters.ClickSesion  # noqa: B018
