"""Prompts of a request and simulated clicks, on their way to the meta of the scan tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import (
    Compose,
    Flipd,
    Orientationd,
    Resized,
    Rotate90d,
    Spacingd,
    SpatialCropd,
    SpatialPadd,
    Transform,
)
from scan_files import ORIENTATIONS, affine_of, write_dicom, write_itk, write_nifti

from adapters.prompts import Prompts, click_policy
from adapters.transforms import LoadScand, RequestToClicksd, SafeSpacingd, SimulateClicksd

SHAPE = (9, 10, 11)
HOT = (2, 7, 4)
LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
TO_SPL = Orientationd("image", axcodes="SPL", labels=LABELS)


def prompts_of(image: MetaTensor) -> Prompts:
    prompts = Prompts.from_json(image.meta["prompts"])
    assert prompts.frame == "image"
    np.testing.assert_allclose(prompts.affine, image.affine)
    assert prompts.shape == tuple(image.shape[1:])
    return prompts


def ramps(shape: tuple[int, int, int], affine: np.ndarray) -> MetaTensor:
    """An image of three channels that hold i, j and k of the stored grid: a voxel tells where it came from."""
    meta = {"original_affine": affine.copy(), "spatial_shape": np.array(shape)}
    return MetaTensor(torch.from_numpy(np.indices(shape, dtype=np.float32)), affine=torch.from_numpy(affine), meta=meta)


def sample(image: MetaTensor, point: np.ndarray) -> np.ndarray:
    """The values of all channels at a point between voxels, by trilinear interpolation."""
    low = np.clip(np.floor(point).astype(int), 0, np.array(image.shape[1:]) - 2)
    part = point - low
    values = np.asarray(image)[:, low[0] : low[0] + 2, low[1] : low[1] + 2, low[2] : low[2] + 2].astype(np.float64)
    for fraction in part:
        values = values[:, 0] * (1 - fraction) + values[:, 1] * fraction
    return values


CHAINS: dict[str, list[Transform]] = {
    "orient": [],
    "crop": [SpatialCropd("image", roi_start=(2, 3, 1), roi_end=(99, 99, 99))],
    "pad": [SpatialPadd("image", spatial_size=(40, 41, 42))],
    "flip": [Flipd("image", spatial_axis=0), Flipd("image", spatial_axis=2)],
    "turn": [Rotate90d("image", k=1, spatial_axes=(0, 2)), Rotate90d("image", k=3, spatial_axes=(1, 2))],
    "spacing": [Spacingd("image", pixdim=(1.1, 1.7, 0.9))],
    "resize": [Resized("image", spatial_size=(27, 33, 22), mode="trilinear")],
    "all": [
        Flipd("image", spatial_axis=1),
        SafeSpacingd("image", pixdim=1.5),
        SpatialCropd("image", roi_start=(1, 2, 3), roi_end=(99, 99, 99)),
        Rotate90d("image", k=1, spatial_axes=(0, 1)),
        SpatialPadd("image", spatial_size=(40, 41, 42)),
    ],
}


@settings(max_examples=150, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=st.tuples(*[st.floats(0.8, 4.0)] * 3),
    degrees=st.tuples(*[st.floats(-25, 25)] * 3),
    chain=st.sampled_from([*CHAINS]),
    place=st.tuples(*[st.floats(0.4, 0.6)] * 3),
)
@example(orientation="LPS", spacing=(0.98, 0.98, 3.27), degrees=(0, 0, 0), chain="all", place=(0.5, 0.5, 0.5))
def test_a_click_moves_with_the_image_and_comes_back(
    orientation: str,
    spacing: tuple[float, float, float],
    degrees: tuple[float, float, float],
    chain: str,
    place: tuple[float, float, float],
) -> None:
    shape = (17, 20, 23)
    affine = affine_of(orientation, spacing, degrees)
    point = np.array(place) * (np.array(shape) - 1)
    data = {"image": ramps(shape, affine), "points": [point.tolist()], "point_labels": [1]}
    image = Compose([TO_SPL, *CHAINS[chain], RequestToClicksd("image")])(data)["image"]
    (moved,) = prompts_of(image).points
    # what the image holds there is where it came from
    np.testing.assert_allclose(sample(image, moved), point, atol=0.01)
    back = prompts_of(image).to_voxel(affine, shape=shape, frame="image")
    np.testing.assert_allclose(back.points[0], point, atol=0.01)


def hot_voxel() -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.int16)
    array[HOT] = 1000
    return array


def request(path: str) -> dict:
    return {"image": path, "points": [list(HOT), [0, 0, 0]], "point_labels": [1, 0]}


CHAIN = Compose([LoadScand("image"), TO_SPL, RequestToClicksd("image")])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_click_on_a_file_of_any_orientation_hits_its_voxel(orientation: str, tmp_path: Path) -> None:
    affine = affine_of(orientation, degrees=(9, -7, 12))
    image = CHAIN(request(write_nifti(tmp_path / "scan.nii", hot_voxel(), affine)))["image"]
    clicks = prompts_of(image).points
    np.testing.assert_allclose(clicks, np.round(clicks), atol=1e-3)
    assert image[(0, *np.round(clicks[0]).astype(int))] == 1000
    np.testing.assert_array_equal(prompts_of(image).labels, [1, 0])
    # axes of the tensor: towards superior, posterior, left
    assert (np.abs(np.asarray(image.affine)[:3, :3]).argmax(axis=0) == (2, 1, 0)).all()
    assert (np.sign(np.asarray(image.affine)[(2, 1, 0), (0, 1, 2)]) == (1, -1, -1)).all()


@pytest.mark.parametrize("kind", ["nii.gz", "nrrd", "mha", "dicom"])
def test_a_click_hits_its_voxel_in_every_format(kind: str, tmp_path: Path) -> None:
    write = {"dicom": write_dicom, "nii.gz": write_nifti}.get(kind, write_itk)
    path = write(tmp_path / f"scan.{kind}", hot_voxel(), affine_of("LPS", degrees=(5, -8, 11)))
    image = CHAIN(request(path))["image"]
    assert image[(0, *np.round(prompts_of(image).points[0]).astype(int))] == 1000


CONFIG = {
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "adapters.transforms.LoadScand", "keys": "image"},
            {"_target_": "adapters.transforms.CheckScand", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "SPL", "labels": LABELS},
            {"_target_": "adapters.transforms.SafeSpacingd", "keys": "image", "pixdim": 1.5},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -9, "a_max": 9, "b_min": 0, "b_max": 1},
            {"_target_": "adapters.transforms.RequestToClicksd", "keys": "image", "required": True},
        ],
    }
}


def test_a_request_as_monai_label_sends_it(tmp_path: Path) -> None:
    """The transforms from a configuration, with all the keys that MONAI Label puts beside the image."""
    array = np.indices(SHAPE).sum(axis=0).astype(np.int16)
    path = write_nifti(tmp_path / "scan.nii.gz", array, affine_of("PIR"))
    preprocessing = ConfigParser(CONFIG).get_parsed_content("preprocessing")
    beside = {"image_path": path, "label": "tumour", "model": "deepgrow", "device": "cpu", "result_extension": ".nrrd"}
    data = preprocessing({"image": path, "foreground": [list(HOT)], "background": [[0, 0, 0]], **beside})
    image = data["image"]
    assert {key: data[key] for key in beside} == beside
    assert prompts_of(image).target == "tumour"
    back = prompts_of(image).to_voxel(affine_of("PIR"), shape=SHAPE, frame="image")
    np.testing.assert_allclose(back.points, [HOT, (0, 0, 0)], atol=0.01)
    np.testing.assert_array_equal(back.labels, [1, 0])


def loaded(**request_keys: object) -> dict:
    return {"image": ramps(SHAPE, affine_of("RAS")), **request_keys}


FORMS = {
    "points": ({"points": [[1, 2, 3], [4, 5, 6]], "point_labels": [1, 0]}, [1, 0]),
    "arrays": ({"points": np.array([[1, 2, 3], [4, 5, 6]]), "point_labels": torch.tensor([1, 0])}, [1, 0]),
    "padding": ({"points": [[1, 2, 3], [4, 5, 6]], "point_labels": [1, -1]}, [1, -1]),
    "deepgrow": ({"foreground": [[1, 2, 3]], "background": [[4, 5, 6]], "label": "sarcoma"}, [1, 0]),
    "foreground only": ({"foreground": [[1, 2, 3], [4, 5, 6]], "background": []}, [1, 1]),
    "background only": ({"background": [[1, 2, 3], [4, 5, 6]]}, [0, 0]),
    "deepedit": ({"sarcoma": [[1, 2, 3]], "background": [[4, 5, 6]]}, [1, 0]),
    "the request's label": ({"Sarcoma 2": [[1, 2, 3]], "background": [[4, 5, 6]], "label": "Sarcoma 2"}, [1, 0]),
    "beside other keys": ({"foreground": [[1, 2, 3], [4, 5, 6]], "points": [], "point_labels": []}, [1, 1]),
}


@pytest.mark.parametrize("form", [*FORMS])
def test_every_form_of_a_request(form: str) -> None:
    keys, labels = FORMS[form]
    image = RequestToClicksd("image", label_names="sarcoma")(loaded(**keys))["image"]
    np.testing.assert_allclose(prompts_of(image).points, [[1, 2, 3], [4, 5, 6]], atol=1e-5)
    np.testing.assert_array_equal(prompts_of(image).labels, labels)


@pytest.mark.parametrize("keys", [{}, {"points": [], "point_labels": []}, {"foreground": [], "background": []}])
def test_a_request_without_a_click(keys: dict) -> None:
    image = RequestToClicksd("image")(loaded(**keys))["image"]
    assert prompts_of(image).points.shape == (0, 3)
    assert prompts_of(image).kinds == set()
    with pytest.raises(ValueError, match="no click in the request, expected at least one"):
        RequestToClicksd("image", required=True)(loaded(**keys))


def test_padding_alone_is_no_click() -> None:
    with pytest.raises(ValueError, match="no click in the request"):
        RequestToClicksd("image", required=True)(loaded(points=[[0, 0, 0]], point_labels=[-1]))


def test_the_callers_data_stay_as_they_were() -> None:
    data = loaded(points=[[1, 2, 3]], point_labels=[1])
    out = RequestToClicksd("image")(data)
    assert "prompts" not in data["image"].meta
    assert out["image"].data_ptr() == data["image"].data_ptr()


def test_the_operations_to_invert_are_kept() -> None:
    data = RequestToClicksd("image")(TO_SPL(loaded(points=[[1, 2, 3]], point_labels=[1])))
    assert TO_SPL.inverse(data)["image"].shape == (3, *SHAPE)


def test_a_click_at_the_edge_stays_on_a_resampled_grid() -> None:
    data = Spacingd("image", pixdim=2.1)(loaded(points=[[-0.5, 9.5, 10.5]], point_labels=[1]))
    image = RequestToClicksd("image")(data)["image"]
    assert (prompts_of(image).points >= -0.5).all()
    assert (prompts_of(image).points <= np.array(image.shape[1:]) - 0.5).all()


def test_boxes_and_phrases_move_along() -> None:
    box = [[1, 2, 3], [4, 6, 9]]
    image = RequestToClicksd("image")(TO_SPL(loaded(boxes=[box], phrases=["a cyst"], label="cyst")))["image"]
    prompts = prompts_of(image)
    assert (prompts.kinds, prompts.phrases, prompts.target) == ({"boxes", "text"}, ("a cyst",), "cyst")
    # towards superior, posterior, left: k, mirrored j, mirrored i
    np.testing.assert_allclose(prompts.boxes, [[[3, 9 - 6, 8 - 4], [9, 9 - 2, 8 - 1]]], atol=1e-5)
    back = prompts.to_voxel(affine_of("RAS"), shape=SHAPE, frame="image")
    np.testing.assert_allclose(back.boxes, [box], atol=1e-5)


def test_an_image_of_two_axes() -> None:
    meta = {"original_affine": np.eye(4), "spatial_shape": np.array([9, 10])}
    image = MetaTensor(torch.rand(3, 9, 10), affine=torch.eye(4), meta=meta)
    flip = Flipd("image", spatial_axis=1)
    request = {"image": image, "points": [[2, 3]], "point_labels": [0], "boxes": [[[1, 2], [4, 8]]]}
    prompts = Prompts.from_json(RequestToClicksd("image")(flip(request))["image"].meta["prompts"])
    np.testing.assert_array_equal(prompts.points, [[2, 6]])
    np.testing.assert_array_equal(prompts.boxes, [[[1, 1], [4, 7]]])
    assert prompts.spatial_dims == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"points": [[9, 0, 0]], "point_labels": [1]}, r"click 0 at \[9.0, 0.0, 0.0\] is outside the grid of shape"),
        ({"foreground": [[0, 0, 11]]}, "is outside the grid"),
        ({"points": [[1, 2, 3]], "point_labels": [1, 0]}, "request: 1 points but 2 labels"),
        ({"points": [[1, 2, 3]], "point_labels": [3]}, "label 3 of click 0"),
        ({"points": [[1, 2, 3]]}, "the request has no 'point_labels', expected points and point_labels together"),
        ({"point_labels": [1]}, "the request has no 'points'"),
        (
            {"foreground": [[1, 2, 3]], "label": "liver"},
            "the request's label is 'liver', expected 'sarcoma' .or one of",
        ),
        ({"foreground": [[1, 2, 3]], "label": "sarcomatosis"}, "the request's label is 'sarcomatosis', expected"),
        ({"foreground": "1, 2, 3"}, "the request's 'foreground' is '1, 2, 3', expected a list, one entry for each"),
        (
            {"foreground": [["a", "b", "c"]]},
            r"request, 'foreground': points are \[\['a', 'b', 'c'\]\], expected a list",
        ),
        ({"boxes": [[[0, 0, 0], [9, 1, 1]]]}, r"box 0 at \[9.0, 1.0, 1.0\] is outside the grid"),
        ({"boxes": [[0, 0, 0]]}, r"boxes have shape \(1, 3\), expected \(M, 2, 3\)"),
        ({"boxes": "all"}, "the request's 'boxes' is 'all', expected a list"),
        ({"phrases": "cyst"}, "the request's 'phrases' is 'cyst', expected a list"),
        ({"boxes": {"a": 1}}, "the request's 'boxes' is {'a': 1}, expected a list"),
        ({"foreground": {"x": 1}}, "the request's 'foreground' is {'x': 1}, expected a list"),
        ({"phrases": [3]}, "expected a list of texts"),
        ({"points": [[1, 2]], "point_labels": [1]}, r"points have shape \(1, 2\)"),
        ({"foreground": [1, 2, 3]}, r"request, 'foreground': points have shape \(3,\)"),
        ({"points": [[1, 2, float("nan")]], "point_labels": [1]}, "expected finite coordinates"),
        (
            {"points": [[1, 2, 3]], "point_labels": [1], "foreground": [[1, 2, 3]]},
            "clicks under points and under foreground; give one of them",
        ),
    ],
)
def test_bad_requests(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RequestToClicksd("image", label_names="sarcoma")(loaded(**keys))


def test_which_scan_a_click_lies_outside_of() -> None:
    data = loaded(foreground=[[0, 0, 11]])
    data["image"].meta["filename_or_obj"] = "/scans/p2.nii.gz"
    with pytest.raises(ValueError, match=r"^p2\.nii\.gz: click 0 at \[0.0, 0.0, 11.0\] is outside the grid of shape"):
        RequestToClicksd("image")(data)


def test_a_click_that_a_crop_has_cut_away() -> None:
    data = SpatialCropd("image", roi_start=(0, 0, 0), roi_end=(4, 10, 11))(loaded(foreground=[[8, 2, 3]]))
    with pytest.raises(ValueError, match=r"falls on \[8.0, 2.0, 3.0\], outside the tensor .*: a crop has cut it away"):
        RequestToClicksd("image")(data)


def test_a_box_that_a_crop_has_cut_away() -> None:
    data = loaded(boxes=[[[6, 2, 3], [8, 4, 5]]])
    data = SpatialCropd("image", roi_start=(0, 0, 0), roi_end=(4, 10, 11))(data)
    with pytest.raises(ValueError, match=r"box 0 from \[6.0, 2.0, 3.0\] .* lies outside the tensor .* cut it away"):
        RequestToClicksd("image")(data)


def test_an_image_that_was_not_loaded() -> None:
    with pytest.raises(ValueError, match="'image' has no affine of the stored image; load it"):
        RequestToClicksd("image")({"image": torch.zeros(1, 4, 4, 4), "points": [], "point_labels": []})


def test_a_singular_affine() -> None:
    image = ramps(SHAPE, affine_of("RAS"))
    image.affine = torch.diag(torch.tensor([1.0, 0, 1, 1]))
    with pytest.raises(ValueError, match="affine of the 'image' frame is singular"):
        RequestToClicksd("image")({"image": image, "foreground": [[1, 2, 3]]})


def test_prompts_pass_through_a_loader() -> None:
    """Whatever their number in each item of the batch."""
    counts = [0, 2, 1]
    data = [loaded(points=[[1, 2, 3]] * count, point_labels=[1] * count) for count in counts]
    (batch,) = DataLoader(Dataset(data, Compose([RequestToClicksd("image")])), batch_size=3)
    assert [len(Prompts.from_json(text)) for text in batch["image"].meta["prompts"]] == counts
    items = decollate_batch(batch)
    assert [len(prompts_of(item["image"])) for item in items] == counts
    assert items[0]["image"].shape == (3, *SHAPE)


def case(name: str = "a.nii.gz") -> dict:
    label = torch.zeros(1, *SHAPE)
    label[0, 2:6, 3:8, 4:9] = 2
    label[0, 8, 8, 8] = 1
    return {"image": ramps(SHAPE, np.eye(4)), "label": MetaTensor(label, meta={"filename_or_obj": f"/data/{name}"})}


def clicks_of(data: dict, **options: object) -> np.ndarray:
    return prompts_of(SimulateClicksd("image", **options)(data)["image"]).points  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["random", "centre", "surrounding", "margin"])
def test_simulated_clicks_lie_on_the_label(policy: str) -> None:
    data = SimulateClicksd("image", policy=policy, num=5, label_value=2)(case())
    prompts = prompts_of(data["image"])
    assert prompts.points.shape == (5, 3)
    assert (data["label"][0][tuple(prompts.points.astype(int).T)] == 2).all()
    np.testing.assert_array_equal(prompts.labels, np.ones(5))


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_case_says_how_many_clicks_it_gets(count: int) -> None:
    assert clicks_of({**case(), "num_clicks": count}, num="num_clicks").shape == (count, 3)


def test_a_case_that_does_not_say_gets_one_click() -> None:
    """As the studies that a client of MONAI Label has labelled."""
    assert clicks_of(case(), num="num_clicks").shape == (1, 3)


@pytest.mark.parametrize("count", [None, -1, "3"])
def test_a_number_of_clicks_that_is_none(count: object) -> None:
    with pytest.raises(ValueError, match=r"the number of clicks \('num_clicks'\) is .*, expected a whole number"):
        clicks_of({**case(), "num_clicks": count}, num="num_clicks")


def test_simulated_clicks_depend_on_seed_and_case_only() -> None:
    once, again = clicks_of(case(), num=5, seed=1), clicks_of(case(), num=5, seed=1)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, clicks_of(case(), num=5, seed=2))
    assert not np.array_equal(once, clicks_of(case("b.nii.gz"), num=5, seed=1))


def test_cases_whose_labels_have_one_name_differ() -> None:
    """As those of KiTS: the folder is the case; a data list may name it."""
    names = ["case_00000/aggregated_MAJ_seg.nii.gz", "case_00001/aggregated_MAJ_seg.nii.gz"]
    first, second = (clicks_of(case(name), num=5) for name in names)
    assert not np.array_equal(first, second)
    named, again = (clicks_of({**case(name), "case": "case_00000"}, num=5) for name in names)
    np.testing.assert_array_equal(named, again)
    assert not np.array_equal(named, clicks_of({**case(names[0]), "case": "case_00001"}, num=5))


def test_new_clicks_each_time_without_a_seed() -> None:
    simulate = SimulateClicksd("image", num=5, seed=None).set_random_state(3)
    first, second = (prompts_of(simulate(case())["image"]).points for _ in range(2))
    assert not np.array_equal(first, second)
    simulate.set_random_state(3)
    np.testing.assert_array_equal(prompts_of(simulate(case())["image"]).points, first)


def test_a_policy_with_options() -> None:
    clicks = clicks_of(case(), policy=click_policy("iterative", jitter=1.0), label_value=1)
    np.testing.assert_array_equal(clicks, [[8, 8, 8]])


@pytest.mark.parametrize("options", [{"num": 0}, {"label_value": 7}, {"label_value": 7, "policy": "iterative"}])
def test_no_simulated_click(options: dict) -> None:
    assert clicks_of(case(), **options).shape == (0, 3)


def test_stray_clicks_need_no_lesion() -> None:
    assert clicks_of(case(), policy="stray", num=20, label_value=7).shape == (20, 3)


def test_bad_simulations() -> None:
    with pytest.raises(ValueError, match="click policy 'corner' is unknown"):
        SimulateClicksd("image", policy="corner")
    with pytest.raises(ValueError, match=r"'label' is not a label \(1, D, H, W\)"):
        SimulateClicksd("image")({"image": case()["image"]})
    with pytest.raises(ValueError, match="'image' and 'label' are on different grids"):
        SimulateClicksd("image")({**case(), "label": torch.ones(1, 3, 3, 3)})
