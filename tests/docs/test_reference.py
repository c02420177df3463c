"""The reference has every verb, configuration id and public name, and no other."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
from pages import DOCS, PAGES, ROOT, read
from reference_pages import REFERENCE, options_of, packages, pages, public_names

from adapters import cli

PUBLISHED = [f"{name}_samadapter_deepgrow" for name in ("kidney_tumor_ct", "pancreas_tumor_ct", "liver_tumor_ct")]
BUNDLES = {
    "## Published tasks": [*PUBLISHED, "colon_cancer_ct_samadapter_deepgrow"],
    "## The sarcoma bundle": ["soft_tissue_sarcoma_ct_samadapter_deepgrow"],
}


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.stem)
def test_written_from_the_code(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == pages()[page], "write it anew: python tests/docs/reference_pages.py"


def test_no_page_of_a_package_that_is_gone() -> None:
    assert sorted(path.stem for path in (REFERENCE / "python").iterdir()) == packages()


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_option_of_a_verb_is_explained(name: str) -> None:
    assert list(options_of(cli.VERBS[name])) == list(inspect.signature(cli.VERBS[name]).parameters)


@pytest.mark.parametrize("package", packages())
def test_public_names_have_docstrings(package: str) -> None:
    from pydoc import locate

    for name in public_names(package):
        found = locate(name)
        assert found is not None, name
        if inspect.isclass(found) or inspect.isroutine(found):
            assert found.__doc__, name


# --- ids of configurations


def table(heading: str) -> dict[str, tuple[set[str], str]]:
    """Files and default (empty where the table has none) of each id below a heading."""
    text = read("reference/configurations.md").split(heading)[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    found = {row[0].strip("`"): (set(row[1].split()), row[2] if len(row) == 4 else "") for row in rows}
    assert len(found) == len(rows), "an id is there twice"
    return found


def ids(bundle: str) -> dict[str, dict[str, object]]:
    """The value of each top-level id by file; keys that replace a part of another are none."""
    found: dict[str, dict[str, object]] = {}
    for file in (ROOT / "bundles" / bundle / "configs").glob("*.json"):
        if file.stem not in {"metadata", "datalist"}:
            for name, value in json.loads(file.read_text()).items():
                if "#" not in name:
                    found.setdefault(name, {})[file.stem] = value
    return found


@pytest.mark.parametrize(("heading", "bundle"), [(h, b) for h, bundles in BUNDLES.items() for b in bundles])
def test_ids(heading: str, bundle: str) -> None:
    assert {name: files for name, (files, _) in table(heading).items()} == {
        name: values.keys() for name, values in ids(bundle).items()
    }


@pytest.mark.parametrize(("heading", "bundle"), [(h, b) for h, bundles in BUNDLES.items() for b in bundles])
def test_defaults(heading: str, bundle: str) -> None:
    checked = 0
    for name, (_, cell) in table(heading).items():
        stated = re.findall(r"`([^`]+)`(?: \(([\w ]+)\))?(?:, |$)", cell)
        if ", ".join(f"`{value}`" + f" ({files})" * bool(files) for value, files in stated) != (cell or None):
            continue  # in words, or none
        of_file = {file: value for value, files in stated for file in files.split()}
        for file, value in ids(bundle)[name].items():
            if not (isinstance(value, str) and "@" in value):
                expected = of_file.get(file, stated[0][0])
                assert expected == (value if isinstance(value, str) else json.dumps(value)), (name, file)
                checked += 1
    assert checked > 20


# --- the site


def test_every_page_is_in_the_index_and_in_the_navigation() -> None:
    navigation = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1])
    assert sorted(navigation) == PAGES
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", read("README.md")))
    assert {page for page in PAGES if "/python/" not in page} - linked == {"README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", read(page)):
        if not target.startswith("http"):
            assert ((DOCS / page).parent / target).is_file(), target
