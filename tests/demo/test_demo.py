"""The demo from end to end, offline, with untrained weights: it runs, and its report says what was done."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adapters.checkpoints import save_model
from adapters.demo import main, run
from adapters.networks import build_sam_adapter3d


def test_no_steps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="epochs is 0, expected a positive number"):
        main(tmp_path / "demo", epochs=0)


def test_a_bundle_without_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"models/model.pt is not there: the demo needs a bundle with"):
        main(tmp_path / "demo", bundle=tmp_path)
    assert not (tmp_path / "demo").exists()


def test_a_command_that_fails_shows_what_it_printed(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "broken.json").write_text('{"initialize": [], "run": ["$1 / 0"]}')
    shutil.copy(run.BUNDLE / "configs" / "logging.conf", tmp_path / "configs")
    with pytest.raises(
        RuntimeError, match=r"(?s)failed with exit code 1; .*broken.log has it all:.*ZeroDivisionError|1 / 0"
    ):
        run._monai_bundle("", tmp_path, str(tmp_path / "configs" / "broken.json"), tmp_path / "broken.log")
    assert (tmp_path / "broken.log").read_text().startswith("$ python -m monai.bundle run --config_file ")


@pytest.mark.slow
def test_the_whole_demo_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = tmp_path / "bundle"
    shutil.copytree(run.BUNDLE / "configs", bundle / "configs")
    (bundle / "models").mkdir()
    save_model(build_sam_adapter3d("tiny", 48, trainable="all"), bundle / "models" / "model.pt")

    report = main(tmp_path / "demo", epochs=2, bundle=bundle)

    text = report.read_text(encoding="utf-8")
    assert "generated phantoms, not patients" in text
    assert text.count("data:image/png;base64,") == 3  # two cases and the loss
    assert len(re.findall(r"<figcaption>[^<]*Dice [01]\.\d\d; slices", text)) == 2
    assert "Not for diagnosis" in text
    assert text.count("python -m monai.bundle run") == 3
    mask, image = (
        nib.load(next((tmp_path / "demo").rglob(name)))
        for name in ("predictions/phantom_000*.nii.gz", "data/images/phantom_000.nii.gz")
    )
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}
    assert (tmp_path / "demo" / "training" / "models" / "model.pt").is_file()
