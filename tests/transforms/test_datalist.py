"""Data lists: full paths for good ones, and the entry and key of what is wrong with bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from adapters.transforms import load_datalist, load_requests


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for name in ("A", "B"):
            (tmp_path / part / f"{name}.nii.gz").write_bytes(b"scan")
    return tmp_path


ENTRY = {"image": "images/A.nii.gz", "points": [[1, 2, 3]], "point_labels": [1]}
OTHER = {"image": "images/B.nii.gz", "points": [], "point_labels": []}


def test_requests_start_from_the_folder_of_the_list(folder: Path) -> None:
    path = write(folder / "requests.json", [{**ENTRY, "label_prompt": 3}, OTHER])
    assert load_requests(path) == [
        {**ENTRY, "image": str(folder / "images/A.nii.gz"), "label_prompt": 3},
        {"image": str(folder / "images/B.nii.gz"), "points": [], "point_labels": []},
    ]


def test_requests_start_from_another_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("lists") / "requests.json", [ENTRY])
    assert load_requests(path, folder)[0]["image"] == str(folder / "images/A.nii.gz")
    absolute = write(path, [{**ENTRY, "image": str(folder / "images")}])  # a DICOM series is a folder
    assert load_requests(absolute)[0]["image"] == str(folder / "images")


def _without(key: str) -> dict:
    return {name: value for name, value in ENTRY.items() if name != key}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "requests.json' is not JSON"),
        ({"image": "x"}, "holds dict, expected a list of at least one entry"),
        ([], "expected a list of at least one entry"),
        (["x"], "entry 0 of .* is 'x', expected an object with image, points and point_labels"),
        ([ENTRY, _without("image")], r"entry 1 of .*requests.json' has no key 'image' \(it has points, point_labels\)"),
        ([_without("points")], "entry 0 of .* has no key 'points' .*where there is no click"),
        ([_without("point_labels")], "entry 0 of .* has no key 'point_labels'"),
        ([ENTRY, {**ENTRY, "point_labels": [1, 0]}], "entry 1 of .*: 1 points but 2 labels"),
        ([{**ENTRY, "points": [[1, 2]]}], r"entry 0 of .*: points have shape \(1, 2\)"),
        ([{**ENTRY, "point_labels": [5]}], "entry 0 of .*: label 5 of click 0"),
        ([{**ENTRY, "image": 3}], "'image' is 3, expected the path of a file"),
    ],
)
def test_bad_requests(content: object, message: str, folder: Path) -> None:
    path = write(folder / "requests.json", content)
    with pytest.raises(ValueError, match=message):
        load_requests(path)


def test_an_empty_scan(folder: Path) -> None:
    (folder / "images" / "A.nii.gz").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"entry 0 of .*, 'image': '.*A.nii.gz' is empty \(0 bytes\); write or fetch it"
    ):
        load_requests(write(folder / "requests.json", [ENTRY]))


def test_missing_files_of_requests(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no data list"):
        load_requests(folder / "none.json")
    path = write(folder / "requests.json", [{**ENTRY, "image": "images/C.nii.gz"}])
    with pytest.raises(FileNotFoundError, match=r"entry 0 of .*, 'image': there is no file .*C.nii.gz'"):
        load_requests(path)


def test_a_data_list_of_identifiers_and_paths(folder: Path) -> None:
    second = {"image": "images/B.nii.gz", "label": "labels/B.nii.gz"}
    path = write(folder / "list.json", {"training": ["A", {**second, "fold": 2}], "test": ["B"]})
    cases = load_datalist(path, "training", folder)
    assert cases == [
        {part[:-1]: str(folder / part / "A.nii.gz") for part in ("images", "labels")},
        {**{key: str(folder / value) for key, value in second.items()}, "fold": 2},
    ]
    assert len(load_datalist(path, "test", str(folder))) == 1


def test_each_case_once_for_each_value(folder: Path) -> None:
    path = write(folder / "list.json", {"validation": ["A", "B"]})
    cases = load_datalist(path, "validation", folder, each={"num_clicks": [0, 3], "policy": ["random", "centre"]})
    entries = [(Path(case["image"]).name[0], case["num_clicks"], case["policy"]) for case in cases]
    assert entries == [(name, n, policy) for name in "AB" for n in (0, 3) for policy in ("random", "centre")]


def test_a_data_list_named_in_a_configuration(folder: Path) -> None:
    path = write(folder / "list.json", {"training": ["A"]})
    config = {
        "dataset_dir": str(folder),
        "cases": {
            "_target_": "adapters.transforms.load_datalist",
            "path": str(path),
            "section": "training",
            "dataset_dir": "@dataset_dir",
        },
    }
    assert ConfigParser(config).get_parsed_content("cases")[0]["image"] == str(folder / "images/A.nii.gz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["A"], "holds list, expected an object with a list 'training'"),
        ({"test": ["A"]}, "has no section 'training', expected one of test"),
        ({"training": []}, r"section 'training' of .* is \[\], expected a list of at least one entry"),
        ({"training": "A"}, "is 'A', expected a list"),
        ({"training": ["A", 3]}, "entry 1 of section 'training' in .* is 3, expected an identifier or an object"),
        ({"training": [{"image": "images/A.nii.gz"}]}, r"entry 0 of section .* has no key 'label' \(it has image\)"),
        ({"training": [{"label": "labels/A.nii.gz"}]}, "entry 0 of section .* has no key 'image'"),
    ],
)
def test_bad_data_lists(content: object, message: str, folder: Path) -> None:
    path = write(folder / "list.json", content)
    with pytest.raises(ValueError, match=message):
        load_datalist(path, "training", folder)


def test_missing_files_of_data_lists(folder: Path) -> None:
    path = write(folder / "list.json", {"training": ["A", "C"]})
    with pytest.raises(FileNotFoundError, match=r"entry 1 of section 'training' in .*, 'image': there is no file"):
        load_datalist(path, "training", folder)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere'; set dataset_dir"):
        load_datalist(path, "training", folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no data list"):
        load_datalist(folder / "none" / "list.json", "training", folder)
    with pytest.raises(FileNotFoundError, match=r"there is no data list .*fold_5\.json'; its folder holds list\.json"):
        load_datalist(folder / "fold_5.json", "training", folder)
    (folder / "labels/A.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"entry 0 of section 'training' in .*, 'label': there is no file"):
        load_datalist(path, "training", folder)


def test_two_masks_of_one_name(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "A.nii.gz").write_bytes(b"scan")
    click = {"points": [[1, 2, 3]], "point_labels": [1]}
    path = folder / "requests.json"
    path.write_text(json.dumps([{"image": "images/A.nii.gz", **click}, {"image": "other/A.nii.gz", **click}]))
    with pytest.raises(ValueError, match=r"entry 1 of .* and entry 0 both have an image named 'A',"):
        load_requests(path)


def test_masks_of_one_name_from_two_formats(folder: Path) -> None:
    (folder / "images" / "A.nrrd").write_bytes(b"scan")
    path = folder / "requests.json"
    entries = [{"image": f"images/{name}", "points": [], "point_labels": []} for name in ("A.nii.gz", "A.nrrd")]
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"entry 1 of .* and entry 0 both have an image named 'A',"):
        load_requests(path)


def test_folders_named_by_numbers(folder: Path) -> None:
    names = ["1.2.840.1001", "1.2.840.1002"]
    for name in names:
        (folder / name).mkdir()
    path = folder / "requests.json"
    path.write_text(json.dumps([{"image": name, "points": [], "point_labels": []} for name in names]))
    assert [Path(entry["image"]).name for entry in load_requests(path)] == names


def test_a_key_twice(tmp_path):
    (tmp_path / "scan.nii").write_bytes(b"x")
    (tmp_path / "list.json").write_text(
        '[{"image": "scan.nii", "points": [[1, 2, 3]], "points": [], "point_labels": []}]'
    )
    with pytest.raises(ValueError, match=r"list.json' is not JSON: an object has the key 'points' twice"):
        load_requests(tmp_path / "list.json")


def test_a_name_that_is_too_long(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps([{"image": "s" * 5000, "points": [], "point_labels": []}]))
    with pytest.raises(ValueError, match=r"entry 0 of '.*', 'image' is 's+'\.\.\., expected the path of a file"):
        load_requests(tmp_path / "list.json")
