"""Mistakes as a web server answers them; that FastAPI does so is tested with MONAI Label's server."""

from __future__ import annotations

import sys

import pytest

from adapters.label.http_errors import answering


@pytest.mark.skipif("fastapi" in sys.modules, reason="FastAPI is loaded")
def test_nothing_changes_without_fastapi() -> None:
    mistake = ValueError("threshold is 2")
    with pytest.raises(ValueError, match="threshold is 2") as caught, answering():
        raise mistake
    assert caught.value is mistake


@pytest.mark.parametrize(("kind", "status"), [(ValueError, 400), (FileNotFoundError, 404)])
def test_fastapi_knows_it(kind: type[Exception], status: int) -> None:
    fastapi = pytest.importorskip("fastapi")
    with pytest.raises(kind, match=r"^no such scan$") as caught, answering(), answering():
        raise kind("no such scan")
    assert isinstance(caught.value, fastapi.HTTPException)
    assert (caught.value.status_code, caught.value.detail) == (status, "no such scan")
    assert type(caught.value.__cause__) is kind


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError, match="a"), answering():
        raise KeyError("a")
