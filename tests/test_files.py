"""What a case is called, and which files a scan consists of, as far as it can be told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.files import case_name, files_of_scan, read_json
from adapters.transforms.datalist import entry_name

DICOM = "\0" * 128 + "DICM"
FILL = "# fill\n" * 10_000  # more than is read of a header
SCANS = [
    # file, what is in it, what lies beside it, what belongs to it (None: not known)
    ("a.nii.gz", "", "a.raw", "a.nii.gz"),
    ("A.NII", "", "", "A.NII"),
    ("a.dcm", "", "", "a.dcm"),
    ("a.png", "", "b.png", "a.png"),
    ("a.JPG", "", "", "a.JPG"),
    ("IM0001", DICOM, "IM0002", "IM0001"),
    ("1.2.840.55", DICOM, "", "1.2.840.55"),
    ("2dseq", "", "reco", None),
    ("a.vtk", "", "", None),
    ("a.mhd", "NDims = 3\nElementDataFile = a.raw\n", "a.raw b.raw", "a.mhd a.raw"),
    ("a.mhd", "NDims = 3\r\nElementDataFile=a.raw\r\n", "a.raw", "a.mhd a.raw"),
    ("a.mhd", "ElementDataFile : sub/a b.raw", "sub/a b.raw", "a.mhd|sub/a b.raw"),
    ("a.mhd", "ElementDataFile = a.raw\n", "", None),
    ("a.mhd", "ElementDataFile = LIST\na.raw\n", "a.raw LIST", None),
    ("a.mhd", "ElementDataFile = a%02d.raw 1 2 1\n", "a01.raw a02.raw", None),
    ("a.mhd", "ElementDataFile =\n", "", None),
    ("a.mhd", "NDims = 3\n", "", None),
    ("a.mhd", FILL + "ElementDataFile = a.raw\n", "a.raw", None),
    ("a.mha", "ElementDataFile = LOCAL\nElementDataFile = a.raw\n", "a.raw", "a.mha"),
    ("a.mha", "ElementDataFile = LOCAL\n" + FILL, "", "a.mha"),
    ("a.mha", "ElementDataFile = a.raw\n", "a.raw", "a.mha a.raw"),
    ("a.nhdr", "NRRD0004\ndata file: a.raw\n", "a.raw", "a.nhdr a.raw"),
    ("a.nrrd", "NRRD0004\r\nDataFile: a.raw\r\n\r\n", "a.raw", "a.nrrd a.raw"),
    ("a.nrrd", "NRRD0004\ntype: short\n\ndata file: a.raw\n" + FILL, "a.raw", "a.nrrd"),
    ("a.nrrd", "NRRD0004\n# data file: a.raw\ndata file:=a.raw\n\n", "a.raw", "a.nrrd"),
    ("a.nrrd", "NRRD0004\n" + FILL, "", None),
    ("a.nrrd", "type: short\n\n", "", None),
    ("a.nhdr", "NRRD0004\ndata file: LIST\na.raw\n", "a.raw", None),
    ("a.nhdr", "NRRD0004\ndata file: a%d.raw 1 2 1\n", "a1.raw a2.raw", None),
    ("a.nhdr", "NRRD0004\ndata file: a.raw\ndatafile: b.raw\n", "a.raw b.raw", None),
    ("a.nhdr", "NRRD0004\ndata file: a.raw\n", "", None),
    ("a.hdr", "", "a.img b.img", "a.hdr a.img"),
    ("a.img", "", "a.hdr a.txt", "a.hdr a.img"),
    ("a.img.gz", "", "a.hdr.gz", "a.hdr.gz a.img.gz"),
    ("a.hdr", "", "a.img.gz", "a.hdr a.img.gz"),
    ("a.hdr", "", "b.img", None),
    ("a.img", "", "", None),
]


@pytest.mark.parametrize(
    ("file", "case"),
    [
        ("STS_004.nii.gz", "STS_004"),
        ("a.b.nii.gz", "a.b"),
        ("x.NII.GZ", "x"),
        ("x.mha", "x"),
        ("x.png", "x"),
        ("x.gz", "x"),
        ("scan_1.5mm.nii", "scan_1.5mm"),
        ("1.2.840.1", "1.2.840.1"),
        ("1.2.840.1.dcm", "1.2.840.1"),
        ("case_00000/imaging.nii.gz", "imaging"),
        (".nii", ".nii"),
    ],
)
def test_a_case_is_called_after_its_file(file: str, case: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    for _ in range(2):  # before it is there, and then
        assert case_name(tmp_path / file) == case_name(str(tmp_path / file)) == case
        (tmp_path / file).touch()


@pytest.mark.parametrize("name", ["1.2.840.1", "1.2.840.2", "patient.a", "a.nii.gz"])
def test_a_case_is_called_after_the_whole_name_of_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    assert case_name(tmp_path / name) == case_name(f"{tmp_path / name}/") == name


def test_a_data_list_may_name_a_case() -> None:
    image = "case_00000/imaging.nii.gz"
    assert entry_name({"image": image, "case": "case_00000"}) == "case_00000"
    assert entry_name({"image": image}) == "imaging"


@pytest.mark.parametrize(("name", "content", "beside", "belonging"), SCANS)
def test_files_of_a_scan(tmp_path: Path, name: str, content: str, beside: str, belonging: str | None) -> None:
    for other in [beside] if "/" in beside else beside.split():
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).touch()
    (tmp_path / name).write_bytes(content.encode())
    paths = files_of_scan(tmp_path / name)
    if belonging is None:
        assert paths is None
    else:
        assert paths is not None
        names = [str(path.relative_to(tmp_path)) for path in paths]
        assert names == (belonging.split("|") if "|" in belonging else belonging.split())


def test_voxels_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "headers").mkdir()
    (tmp_path / "a.raw").touch()
    for name in ("../a.raw", str(tmp_path / "a.raw")):
        (tmp_path / "headers" / "a.mhd").write_text(f"ElementDataFile = {name}\n")
        paths = files_of_scan(tmp_path / "headers" / "a.mhd")
        assert paths is not None
        assert paths[1].samefile(tmp_path / "a.raw")


def test_a_folder_is_all_files_below(tmp_path: Path) -> None:
    for name in ("b", "a", "sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert files_of_scan(tmp_path) == (tmp_path / "a", tmp_path / "b", tmp_path / "sub" / "c")


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mhd")
    assert files_of_scan(tmp_path / "pipe.mhd") is None
    (tmp_path / "a.mhd").write_text(f"ElementDataFile = {'long' * 100}\n")
    assert files_of_scan(tmp_path / "a.mhd") is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_every_unicode(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_bytes('{"naïve": [1, "Ωμέγα"]}'.encode(encoding))
    assert read_json(tmp_path / "list.json") == {"naïve": [1, "Ωμέγα"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the data list '.*list.json' is not JSON: Expecting value"),
        (b"\x89PNG\r\n\x1a\n", "is not JSON: .* codec can't decode"),
        (b"[" * 100_000, "has more than 64 lists and objects in one another"),
        (b"[" * 65 + b"]" * 65, "has more than 64 lists and objects in one another"),
        (b'{"a":' * 65 + b"0" + b"}" * 65, "has more than 64 lists and objects in one another"),
    ],
)
def test_what_is_no_json(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_json(tmp_path / "list.json", "data list")


def test_json_that_is_not_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "huge.json").touch()
    os.truncate(tmp_path / "huge.json", 2**40)
    for name in ("none.json", "pipe.json"):
        with pytest.raises(FileNotFoundError, match=r"there is no data list '.*'; its folder holds huge.json"):
            read_json(tmp_path / name, "data list")
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*'; check the path"):
        read_json(tmp_path)
    with pytest.raises(ValueError, match="has 1099511627776 bytes, expected JSON of at most 268435456"):
        read_json(tmp_path / "huge.json")
