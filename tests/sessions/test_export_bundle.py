"""A bundle's network for other programs, as typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from bundle_runs import BUNDLE
from four_runs import bundle_of

from adapters.__main__ import main
from adapters.checkpoints import load_model
from adapters.prompts import PromptTensors

MODEL = BUNDLE / "models" / "model.pt"


def test_torchscript_of_the_shipped_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "soft_tissue_sarcoma_ct", "--format", "torchscript", "--output", str(tmp_path)])
    assert capsys.readouterr().out == f"wrote {tmp_path / 'model.ts'}\n"
    image, points = torch.rand(1, 1, 48, 48, 48) * 2 - 1, torch.tensor([[[24.0, 20.0, 30.0], [5.0, 6.0, 7.0]]])
    prompts = PromptTensors(points, torch.tensor([[1, 0]]))
    with torch.no_grad():
        expected = load_model(MODEL)(image, prompts)
        scripted = torch.jit.load(tmp_path / "model.ts")(image, prompts.points, prompts.labels)
    torch.testing.assert_close(scripted, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_safetensors_of_the_shipped_weights(tmp_path: Path) -> None:
    main(["export", str(BUNDLE), "--format", "safetensors", "--output", str(tmp_path)])
    written, stored = safetensors.torch.load_file(tmp_path / "model.safetensors"), load_model(MODEL).state_dict()
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in stored.items())


@pytest.mark.slow
def test_onnx_of_the_shipped_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "soft_tissue_sarcoma_ct", "--format", "onnx", "--output", str(tmp_path)])
    told = re.search(r"on 3 crops with 0, 1 and 10 clicks at most (\S+) of the largest", capsys.readouterr().out)
    assert told
    assert float(told[1]) <= 1e-4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no_such_bundle", "--format", "onnx"], "there is no bundle 'no_such_bundle'"),
        (["soft_tissue_sarcoma_ct", "--format", "caffe"], "format 'caffe' is unknown"),
        (["soft_tissue_sarcoma_ct"], "needs the option --format"),
    ],
)
def test_mistakes(words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", *words])
    assert told in capsys.readouterr().err


def test_a_bundle_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "kidney"
    bundle.mkdir()
    (bundle / "configs").symlink_to(bundle_of("kidney_tumor") / "configs")
    with pytest.raises(SystemExit):
        main(["export", str(bundle), "--format", "safetensors"])
    assert "model.pt do not exist: train the bundle" in capsys.readouterr().err
    assert not (bundle / "models").exists()
