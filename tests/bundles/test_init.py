"""The first weights of a bundle that ships none."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.handlers import CheckpointLoader
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from adapters.__main__ import main
from adapters.bundling.folders import find_bundle
from adapters.bundling.weights import init_bundle
from adapters.networks import SAMAdapter3D, build_sam_adapter3d, get_backbone

NAME = "kidney_tumor_ct_samadapter_deepgrow"
BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of a bundle with the network `tiny`."""
    copy = tmp_path / NAME
    shutil.copytree(BUNDLES / NAME, copy, ignore=shutil.ignore_patterns("models"))
    config = copy / "configs" / "inference.json"
    values: dict[str, Any] = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "variant": "tiny", "crop_size": 16}))
    return copy


@pytest.fixture
def sam(tmp_path: Path) -> tuple[Path, Sam]:
    """A file of SAM's format whose encoder is of the sizes of `tiny`."""
    torch.manual_seed(1)
    v = get_backbone("tiny")
    encoder = ImageEncoderViT(
        img_size=16 * v.table_size,
        embed_dim=v.embed_dim,
        depth=v.depth,
        num_heads=v.num_heads,
        out_chans=16,
        use_rel_pos=True,
        window_size=v.sam_window,
        global_attn_indexes=tuple(v.global_blocks),
    )
    grid = (v.table_size, v.table_size)
    whole = Sam(
        encoder,
        PromptEncoder(16, grid, (encoder.img_size,) * 2, 4),
        MaskDecoder(transformer_dim=16, transformer=TwoWayTransformer(1, 16, 2, 32)),
    )
    torch.save(whole.state_dict(), tmp_path / "sam_tiny.pth")
    return tmp_path / "sam_tiny.pth", whole


def network() -> SAMAdapter3D:
    torch.manual_seed(7)
    return build_sam_adapter3d("tiny", 16)


def load(file: Path, caplog: pytest.LogCaptureFixture) -> tuple[SAMAdapter3D, str]:
    """As a bundle loads its weights; and what it logs."""
    loaded = network()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        CheckpointLoader(str(file), {"model": loaded})(engine_stub())
    return loaded, caplog.text


def engine_stub() -> Any:
    from ignite.engine import Engine

    return Engine(lambda *_: None)


def test_starts_from_sam(
    bundle: Path, sam: tuple[Path, Sam], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["init", str(bundle), "--sam", str(sam[0])])
    file = bundle / "models" / "model.pt"
    assert capsys.readouterr().out == f"wrote {file}: untrained\n"
    loaded, said = load(file, caplog)
    ours, theirs = loaded.image_encoder, sam[1].image_encoder
    assert torch.equal(ours.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight)  # type: ignore[union-attr]
    assert torch.equal(ours.blocks[-1].mlp.lin2.bias, theirs.blocks[-1].mlp.lin2.bias)  # type: ignore[union-attr]
    assert "UNTRAINED (started from sam_tiny.pth)" in said


def test_random_weights_only_when_asked_for(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"neither of sam and random is given: give SAM's file as --sam \(`py"):
        init_bundle(bundle)
    file = bundle / "models" / "model.pt"
    init_bundle(bundle, random=True, seed=3)
    first, said = load(file, caplog)
    assert "UNTRAINED (random weights)" in said
    init_bundle(bundle, random=True, seed=3, overwrite=True)
    again, _ = load(file, caplog)
    init_bundle(bundle, random=True, seed=4, overwrite=True)
    other, _ = load(file, caplog)
    kernel = "image_encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(first.state_dict()[kernel], again.state_dict()[kernel])
    assert not torch.equal(first.state_dict()[kernel], other.state_dict()[kernel])


def test_the_mark_is_gone_after_training(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    init_bundle(bundle, random=True)
    trained, _ = load(bundle / "models" / "model.pt", caplog)
    torch.save(trained.state_dict(), tmp_path / "trained.pt")
    _, said = load(tmp_path / "trained.pt", caplog)
    assert said == ""


def test_what_is_there_stays(bundle: Path) -> None:
    init_bundle(bundle, random=True)
    file = bundle / "models" / "model.pt"
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"model\.pt exists: move it away, or say --overwrite"):
        init_bundle(bundle, random=True, seed=1)
    assert file.read_bytes() == before


def test_sam_of_another_size(bundle: Path, tmp_path: Path, sam: tuple[Path, Sam]) -> None:
    config = bundle / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"tiny"', '"vit_b"'))
    with pytest.raises(ValueError, match=r"sam_tiny\.pth is SAM's tiny .* but the network is vit_b"):
        init_bundle(bundle, sam[0])
    assert not (bundle / "models").exists()


def test_bundles_by_name(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_bundle(bundle) == bundle
    assert find_bundle("kidney_tumor_ct") == find_bundle(NAME) == BUNDLES / NAME
    (tmp_path / "bundles").mkdir()
    shutil.copytree(bundle, tmp_path / "bundles" / NAME)
    monkeypatch.chdir(tmp_path)
    assert find_bundle("kidney_tumor_ct") == tmp_path / "bundles" / NAME
    with pytest.raises(
        FileNotFoundError, match=r"there is no bundle 'kidney': expected a folder .*colon_cancer_ct_samad"
    ):
        find_bundle("kidney")


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "is not JSON"), ("[" * 100_000, "has more than 64 lists"), ("[]", "is no object of ids")],
)
def test_a_configuration_of_another_form(content: str, said: str, bundle: Path) -> None:
    (bundle / "configs" / "inference.json").write_text(content)
    with pytest.raises(ValueError, match=rf"inference\.json' {said}"):
        init_bundle(bundle, random=True)
    assert not (bundle / "models").exists()
