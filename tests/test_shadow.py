"""PyPI's other package named `adapters`: one sentence, wherever it comes first or sits beside ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import adapters

ROOT = Path(__file__).resolve().parents[1]


def python(*arguments: str, path: list[Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder with another package that imports as `adapters`, as pip leaves it."""
    folder = tmp_path / "site"
    (folder / "adapters").mkdir(parents=True)
    (folder / "adapters" / "__init__.py").write_text("__version__ = '1.3.0'\n")
    information = folder / "adapters-1.3.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: adapters\nVersion: 1.3.0\n")
    return folder


def test_the_console_script_names_the_package_that_shadows_ours(other: Path, tmp_path: Path) -> None:
    done = python("-c", "from monai_sam_adapters import main; main()", path=[other, ROOT], cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(other / "adapters" / "__init__.py") in done.stderr
    assert "pip uninstall adapters" in done.stderr


def test_check_fails_where_the_other_comes_first(other: Path, tmp_path: Path) -> None:
    done = python("-c", "import monai_sam_adapters as m; m.check()", path=[other, ROOT], cwd=tmp_path)
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: `import adapters` finds")


def test_import_fails_where_both_are_installed(other: Path, tmp_path: Path) -> None:
    done = python("-c", "import adapters", path=[ROOT, other], cwd=tmp_path)
    assert done.returncode == 1
    assert "`adapters` (1.3.0) is installed in this environment" in done.stderr.strip().splitlines()[-1]


def test_python_m_adapters_says_one_sentence_where_both_are_installed(other: Path, tmp_path: Path) -> None:
    done = python("-m", "adapters", path=[ROOT, other], cwd=tmp_path)
    assert done.returncode == 1  # Python's own, of a package that cannot be imported
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "`adapters` (1.3.0) is installed" in done.stderr


def test_ours_alone_passes_and_imports_no_torch(tmp_path: Path) -> None:
    code = "import adapters, sys; print(adapters.__version__, 'torch' in sys.modules, 'monai' in sys.modules)"
    done = python("-c", code, path=[ROOT], cwd=tmp_path)
    assert done.stdout.split() == [adapters.__version__, "False", "False"], done.stderr


PROCESS_WIDE = """
import logging, os, signal, sys, threading, warnings
del sys.argv  # an embedded interpreter may have none

def state():
    hooks = sys.excepthook, sys.displayhook, threading.excepthook, signal.getsignal(signal.SIGINT)
    lists = sys.path, sys.meta_path, sys.path_hooks, warnings.filters, logging.root.handlers
    return hooks, [list(each) for each in lists], logging.root.level, dict(os.environ)

before = state()
import adapters, adapters.bundling
print(state() == before)
"""


def test_importing_changes_nothing_process_wide(tmp_path: Path) -> None:
    done = python("-c", PROCESS_WIDE, path=[ROOT], cwd=tmp_path)
    assert done.stdout.split() == ["True"], done.stderr


def test_one_version_everywhere() -> None:
    import adapters

    assert f"\nversion: {adapters.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {adapters.__version__} " in (ROOT / "CHANGELOG.md").read_text()
