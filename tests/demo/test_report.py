"""The report's figures and its page."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from adapters.demo.report import curve, slices
from adapters.demo.run import Command, _losses
from adapters.scoring.page import Picture, Section, Table, as_html


def box(*slices_: slice) -> np.ndarray:
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[slices_] = True
    return mask


@pytest.mark.parametrize("predicted", [True, False])
def test_slices_are_a_png_and_leave_the_masks_as_they_are(predicted: bool) -> None:
    truth = box(slice(8, 12), slice(8, 12), slice(8, 12))
    prediction = truth.copy() if predicted else np.zeros_like(truth)
    image = np.zeros((20, 20, 20), np.float32)
    assert slices(image, truth, prediction, np.full(3, 9.0), (4.0, 1.0, 1.0)).startswith(b"\x89PNG")
    assert (truth.sum(), prediction.sum()) == (64, 64 if predicted else 0)


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_it_shows() -> None:
    picture = curve([1, 2], [0.5, 0.25], xlabel="step", ylabel="loss")
    table, shown = Table(["a"], [["1 > 0"]]), Picture(picture, 'a "quoted" one')
    section = Section("A & B", ["x < y"], [table], [shown], command="run '<x>'")
    text = as_html("Title", "", [section], warnings=["mind this"])
    for expected in (
        "<h2>A &amp; B</h2>",
        "x &lt; y",
        "1 &gt; 0",
        "a &#34;quoted&#34; one",
        "&lt;x&gt;",
        "mind this",
    ):
        assert expected in text
    assert "http" not in text
    assert text.count("data:image/png;base64,") == 1


def test_losses_are_read_from_what_a_run_prints() -> None:
    printed = (
        "2026-01-01 - INFO - Epoch: 1/2, Iter: 1/2 -- train_loss: 0.9000 \n"
        "Epoch: 1/2, Iter: 2/2 -- train_loss: 0.8000 \nEpoch[1] Complete.\nEpoch: 2/2, Iter: 1/2 -- train_loss: 0.7000 "
    )
    assert _losses(printed) == ([1, 2, 3], [0.9, 0.8, 0.7])


def test_a_command_is_shown_as_a_shell_takes_it() -> None:
    words = ["/usr/bin/python3", "-m", "monai.bundle", "run", "--config_file", "['a.json','b.json']", "--x", "a b"]
    typed = Command(words, "", 0.0).typed
    assert typed == "python -m monai.bundle run --config_file \"['a.json','b.json']\" --x 'a b'"
    assert shlex.split(typed)[1:] == words[1:]
