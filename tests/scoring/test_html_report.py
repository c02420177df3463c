"""One HTML page from a folder with scores: what it holds, and that it needs nothing else."""

from __future__ import annotations

import base64
import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from adapters import cli
from adapters.scoring.figures import CasePicture
from adapters.scoring.page import Picture, Section, Table, as_html, as_markdown
from adapters.scoring.report import html_report
from adapters.scoring.score_files import write_scores

PNG = b"\x89PNG the picture of a case"


class Page(HTMLParser):
    """Its headings, rows of cells and which are set off, pictures, and all that it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.strong: list[int] = []
        self.pictures: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.fetched += [
            values[key] for key in ("src", "href") if key in values and not values[key].startswith("data:")
        ]
        if tag == "img":
            self.pictures[values["alt"]] = base64.b64decode(values["src"].removeprefix("data:image/png;base64,"))
        if tag in {"script", "link", "iframe"}:
            self.fetched.append(tag)
        if tag == "tr":
            self.strong += [len(self.rows)] if values.get("class") == "strong" else []
            self.rows.append([])
        if tag in {"h1", "h2", "td", "th"}:
            self._open.append(tag)
            (self.headings if tag in {"h1", "h2"} else self.rows[-1]).append("")

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            (self.headings if self._open[-1] in {"h1", "h2"} else self.rows[-1])[-1] += data


def rows_of(method: float, cases: str = "ab") -> list[dict]:
    return [
        {
            "case": case,
            "seed": seed,
            "policy": policy,
            "clicks": clicks,
            "dice": method + clicks / 10,
            "nsd": 0.9,
            "seconds": 1.0,
            "lesion_ml": 20.0 if case == "a" else 0.5,
            "hd95": 4.0,
        }
        for case in cases
        for seed in range(2)
        for policy, clicks in (("automatic", 0), ("random", 1), ("iterative", 1), ("iterative", 2))
    ]


def write(folder: Path, method: str = "ours <tiny>", dice: float = 0.6, **more: object) -> Path:
    folder.mkdir(parents=True)
    pictures = [CasePicture("a", "random", 1, 0.7, PNG), CasePicture("b", "random", 1, 0.8, PNG)]
    lesions = [
        {
            "case": "a",
            "seed": 0,
            "policy": "random",
            "clicks": 1,
            "lesion": number,
            "lesion_ml": 10.0,
            "clicked": 2 - number,
            "dice": dice,
            "nsd": dice,
        }
        for number, dice in ((1, 0.9), (2, 0.0))
    ]
    about = [
        {"case": "a", "lesions": 2, "peak_mib": 1234.5, "device": "cpu"},
        {"case": "b", "lesions": 1, "peak_mib": 900.0, "device": "cpu"},
    ]
    given = {"method": method, "tolerance": 5.0, "lesions": lesions, "about": about, "pictures": pictures} | more
    write_scores(folder, rows_of(dice), **given)
    return folder


def test_a_page_for_one_method(tmp_path: Path) -> None:
    folder = write(tmp_path / "eval", task="kidney")
    path = html_report(folder)
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.fetched == []
    assert page.headings == [
        "Scores: ours <tiny>",
        "Clicks one by one",
        "Beside the published figures: kidney",
        "Dice by volume of the lesion",
        "Lesion by lesion",
        "Dice case by case",
        "Best, median and worst case",
    ]
    assert ["1", "random", "70.0 ± 0.0", "90.0 ± 0.0", "1.00", "4", "4.0 ± 0.0"] in page.rows
    assert ["75.0 ± 0.0", "90.0 ± 0.0", "2.0 ± 0.0", "100 %", "1.00", "1.00"] in page.rows
    assert ["ours <tiny>", "1 click a volume (random)", "70.00 ± 0.00", "90.00 ± 0.00", "-"] in page.rows
    assert ["3DSAM-adapter", "1 click a volume", "73.78", "83.86", "25.46 M"] in page.rows
    assert ["10 to 100 ml", "1", "60.0 ± 0.0", "70.0 ± 0.0", "70.0 ± 0.0", "80.0 ± 0.0"] in page.rows
    assert ["1", "random", "45.0", "45.0", "50 %", "90.0", "0.0"] in page.rows
    assert ["a", "20.0", "2", "60.0", "70.0", "70.0", "80.0", "2.0"] in page.rows
    assert "Peak memory of the whole process: 1234 MiB." in text
    drawn = {name: png for name, png in page.pictures.items() if png == PNG}
    assert list(drawn) == [
        "Best case, b: Dice 0.80, 1 click (random)",
        "Worst case, a: Dice 0.70, 1 click (random)",
    ]
    assert len(page.pictures) == 4


def test_a_page_for_several_methods(tmp_path: Path) -> None:
    write(tmp_path / "one", "ours")
    write(tmp_path / "two", "SegResNet", 0.3)
    write(tmp_path / "three", "SegResNet", 0.2)
    page = Page(html_report(tmp_path).read_text(encoding="utf-8"))
    assert page.headings[:4] == ["Scores of 3 methods", "All methods", "ours", "ours: Clicks one by one"]
    assert {"SegResNet (two)", "SegResNet (three)"} <= set(page.headings)
    assert ["SegResNet (two)", "Dice", "30.0 ± 0.0", "40.0 ± 0.0", "-", "-", "40.0 ± 0.0", "-", "-", "-"] in page.rows
    assert ["SegResNet (two)", "45.0 ± 0.0", "90.0 ± 0.0", "3.0 ± 0.0", "0 %", "1.00", "1.00"] in page.rows


def test_methods_of_other_cases_are_not_compared(tmp_path: Path) -> None:
    write(tmp_path / "one", "ours")
    write(tmp_path / "two", "other", tolerance=2.0)
    text = html_report(tmp_path).read_text(encoding="utf-8")
    assert "They are not put side by side: other has tolerance_mm 2.0 but ours 5.0" in text


def test_scores_of_before(tmp_path: Path) -> None:
    """A summary with nothing but the first keys, and no other file."""
    folder = write(tmp_path / "eval")
    summary = json.loads((folder / "summary.json").read_text())
    kept = {key: summary[key] for key in ("method", "tolerance_mm", "cases", "seeds", "scores")}
    for entry in kept["scores"]:
        del entry["hd95"]
    for path in folder.iterdir():
        path.unlink()
    (folder / "summary.json").write_text(json.dumps(kept))
    page = Page(html_report(folder).read_text(encoding="utf-8"))
    assert page.headings == ["Scores: ours <tiny>"]
    assert ["1", "random", "70.0 ± 0.0", "90.0 ± 0.0", "1.00", "4", "-"] in page.rows
    assert len(page.pictures) == 2


def test_a_picture_that_is_gone_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "eval")
    (folder / "best.png").unlink()
    page = Page(html_report(folder).read_text(encoding="utf-8"))
    assert sum(png == PNG for png in page.pictures.values()) == 1
    assert "best.png is not there: the page goes without it" in caplog.text


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("written") / "eval")


CHANGES = [
    (["cases"], 5, "cases is 5, expected type 'array'"),
    (["scores"], None, "scores is None, expected type 'array'"),
    (["scores"], [], "scores is .., expected minItems 1"),
    (["scores", 0, "dice"], 0.5, "scores#0#dice is 0.5, expected type 'object'"),
    (["scores", 1, "nsd", "mean"], "0.5", "scores#1#nsd#mean is '0.5', expected type 'number'"),
    (["scores", 1, "dice", "cases", "a"], [], "scores#1#dice#cases#a is .., expected type 'number'"),
    (["scores", 1, "clicks"], 10**400, "scores#1#clicks is 10*...0*, expected maximum"),
    (["scores", 2, "hd95"], {}, "scores#2#hd95 is {}, expected required"),
    (["interaction", "reached"], True, "interaction#reached is True, expected type 'number'"),
    (["interaction"], 1, "interaction is 1, expected type"),
    (["strata", 0], None, "strata#0 is None, expected type 'object'"),
    (["lesions", "scores", 0, "found"], None, "lesions#scores#0#found is None, expected type 'number'"),
    (["pictures", 0, "file"], {}, "pictures#0#file is {}, expected type 'string'"),
    (["tolerance_mm"], {}, "tolerance_mm is {}, expected type 'number'"),
    (["method"], ["x"], "method is .'x'., expected type 'string'"),
]


@pytest.mark.parametrize(("place", "value", "said"), CHANGES)
def test_a_summary_of_another_form(place: list, value: object, said: str, written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "eval")
    summary = json.loads((folder / "summary.json").read_text())
    inner = summary
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=rf"summary\.json holds no scores: {said}"):
        html_report(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"case,lesions\na,1\n", "has no column 'lesion_ml', expected case, lesion_ml, lesions"),
        (b"", "has no column 'case'"),
        (b"case,lesion_ml,lesions\na,many,1\n", "has lesion_ml 'many' of case 'a', expected a number"),
        (b"case,lesion_ml,lesions\na\n", "has lesion_ml '' of case 'a', expected a number"),
        (b"case,lesion_ml,lesions\nz,1,1\n", r"has a case 'z' that summary\.json has no scores of"),
        (b"case,lesion_ml,lesions\n" + b"a" * 200_000, "is no CSV .field larger than field limit"),
        (b"\xff\xfe\x00", "is no CSV ..utf-8. codec can't decode"),
    ],
)
def test_a_table_of_another_form(content: bytes, said: str, written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "eval")
    (folder / "cases.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"cases\.csv' {said}"):
        html_report(folder)


@pytest.mark.parametrize("name", ["cases.csv", "summary.json", "one/summary.json"])
def test_a_link_that_leaves_the_folder(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "eval")
    write(folder / "one", "another")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"{name}' is a link that leaves '.*': put a copy there in its place"):
        html_report(folder)
    assert not (folder / "report.html").exists()


def test_a_picture_that_is_a_link_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "eval")
    (tmp_path / "secret").write_bytes(PNG)
    (folder / "best.png").unlink()
    (folder / "best.png").symlink_to(tmp_path / "secret")
    page = Page(html_report(folder).read_text(encoding="utf-8"))
    assert sum(png == PNG for png in page.pictures.values()) == 1
    assert "best.png is a link: the page goes without it" in caplog.text


NAMES = ["=cmd|' /C calc'!A0", "-1", "'@x", "\t$^$\n", "<b>$$"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_wherever_it_stands(name: str, tmp_path: Path) -> None:
    rows = [row | {"case": name} for row in rows_of(0.6, "a")]
    about = [{"case": name, "lesions": 1, "peak_mib": 1.0, "device": "cpu"}]
    write_scores(tmp_path, rows, method=name, tolerance=5.0, about=about)
    for file in ("scores.csv", "cases.csv"):
        with (tmp_path / file).open(newline="", encoding="utf-8") as lines:
            cells = [row["case"] for row in csv.DictReader(lines)]
        assert {cell.removeprefix("'") for cell in cells} == {name}
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in cells)
    assert "<" not in (tmp_path / "scores.md").read_text()
    page = Page(html_report(tmp_path).read_text(encoding="utf-8"))
    assert page.headings[0] == f"Scores: {name}"
    assert name in {row[0] for row in page.rows}


def test_as_a_verb(tmp_path: Path) -> None:
    folder = write(tmp_path / "eval")
    assert cli.VERBS["report"](str(folder), task="liver") == f"open {folder / 'report.html'}"
    assert "Beside the published figures: liver" in (folder / "report.html").read_text(encoding="utf-8")


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not there: give the folder"):
        html_report(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no summary\.json in .* or in a folder in it"):
        html_report(tmp_path)
    with pytest.raises(ValueError, match="task is 'lung'"):
        html_report(write(tmp_path / "eval"), task="lung")
    assert not (tmp_path / "eval" / "report.html").exists()


def test_markdown() -> None:
    table = Table(["a", "b"], [["1", "x|y"], ["2", ""]], strong=[1])
    sections = [Section("", ["Said."], [table], notes=["Noted."]), Section("More", pictures=[Picture(PNG, "seen")])]
    assert as_markdown("Title", "About.", sections) == (
        "# Title\n\nAbout.\n\nSaid.\n\n| a | b |\n|---|---|\n| 1 | x\\|y |\n| **2** |  |\n\nNoted.\n\n## More\n"
    )


def test_html_is_escaped() -> None:
    section = Section("<h>", ["a & b"], [Table(["<"], [['"']], strong=[0])], [Picture(PNG, 'a "b" <c>')], ["<n>"])
    text = as_html("<t>", "<a>", [section])
    assert "<title>&lt;t&gt;</title>" in text
    assert '<tr class="strong"><td>"' not in text
    page = Page(text)
    assert page.rows == [["<"], ['"']]
    assert (page.headings, page.strong) == (["<t>", "<h>"], [1])
    assert page.pictures == {'a "b" <c>': PNG}


def test_rows_fit_their_heading() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, expected 2 as in the heading"):
        Table(["a", "b"], [["1"]])
