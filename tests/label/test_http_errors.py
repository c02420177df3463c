"""A user's mistake as a server of FastAPI answers it; MONAI Label's own does so in `test_label_clicks.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.testclient import TestClient

from adapters.label import answer_errors, find_bundles

MISTAKES: dict[str, tuple[Callable[[], object], int, str]] = {
    "ours": (lambda: find_bundles(".", ["none"]), 400, "'none' is no bundle of '.', expected one of "),
    "our_missing_file": (lambda: find_bundles("/no/folder"), 404, "there is no folder of bundles '/no/folder'"),
    "anothers": (lambda: json.loads("{"), 500, "Internal Server Error"),
    "another_kind": (lambda: {}["key"], 500, "Internal Server Error"),
}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A started app in the place of MONAI Label's, whose only route begins as a bundle's preprocessing does."""
    app = FastAPI(middleware=[Middleware(CORSMiddleware, allow_origins=["*"])])

    @app.get("/{name}")
    def make(name: str) -> None:
        answer_errors()
        MISTAKES[name][0]()

    monkeypatch.setitem(sys.modules, "monailabel.app", SimpleNamespace(app=app))
    with TestClient(app, raise_server_exceptions=False) as started:
        yield started


@pytest.mark.parametrize("name", MISTAKES)
def test_answers(client: TestClient, name: str) -> None:
    """The first time and again."""
    _, status, message = MISTAKES[name]
    for _ in range(2):
        answer = client.get(f"/{name}")
        assert answer.status_code == status
        assert (answer.json()["detail"] if status < 500 else answer.text).startswith(message)
