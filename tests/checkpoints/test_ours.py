"""Our files: bit for bit through a round trip, and never into a network that they are not of."""

from __future__ import annotations

import copy
import io
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.networks.constructor_arguments import identity
from safetensors.torch import load_file, save_file
from small_sam import SMALL_SAM, make_sam, same, snapshot
from torch import Tensor, nn

from adapters.checkpoints import load_adapter, load_model, load_sam, save_adapter, save_model
from adapters.networks import SAMAdapter3D, Variant, build_sam_adapter3d

State = dict[str, Tensor]


def randomised(network: SAMAdapter3D, *, trained_only: bool = False) -> SAMAdapter3D:
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad or not trained_only:
                parameter.normal_()
    return network


def small(**overrides: Any) -> SAMAdapter3D:
    return build_sam_adapter3d(SMALL_SAM, **{"crop_size": 16, **overrides})


# -- model.pt ---------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path, network: SAMAdapter3D) -> None:
    randomised(network)
    path = save_model(network, tmp_path / "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    other = small()
    assert load_model(path, other) is other
    assert same(network.state_dict(), other.state_dict())
    built = load_model(str(path))
    assert same(network.state_dict(), built.state_dict())
    assert identity(built) == identity(network)
    assert not built.training


def test_prompted_levels_are_rebuilt(tmp_path: Path, network: SAMAdapter3D) -> None:
    made = randomised(small(prompt_head={"prompt_levels": [1, 3, 4]}))
    path = save_model(made, tmp_path / "model.pt")
    built = load_model(path)
    assert list(built.prompt_head.shallower) == ["1", "3"]
    assert same(made.state_dict(), built.state_dict())
    with pytest.raises(ValueError, match=r"prompt_head\.shallower\.1"):
        load_model(path, network)


def test_the_file_is_a_plain_state_dict(tmp_path: Path, network: SAMAdapter3D) -> None:
    """As MONAI reads it: names and tensors only, strictly into the network."""
    randomised(network)
    state = torch.load(save_model(network, tmp_path / "model.pt"), weights_only=True)
    assert list(state) == list(network.state_dict())
    assert all(isinstance(tensor, Tensor) for tensor in state.values())
    fresh = small()
    assert str(fresh.load_state_dict(state, strict=True)) == "<All keys matched successfully>"
    assert same(fresh.state_dict(), network.state_dict())


def test_any_way_of_saving_carries_the_identity(network: SAMAdapter3D) -> None:
    """A checkpoint written by Ignite or by hand, from a copy or inside a wrapper, is checked as well."""
    for wrap in (lambda n: n, copy.deepcopy, nn.Sequential):
        buffer = io.BytesIO()
        torch.save(wrap(network).state_dict(), buffer)
        buffer.seek(0)
        state = torch.load(buffer, weights_only=True)
        target = wrap(build_sam_adapter3d("tiny", crop_size=16))
        with pytest.raises(ValueError, match=r"variant custom \(width 32.*but the network is of variant tiny"):
            target.load_state_dict(state)


def test_variant_with_other_settings_is_rebuilt(tmp_path: Path) -> None:
    made = randomised(
        build_sam_adapter3d(
            "tiny",
            crop_size=32,
            enlargement=2,
            image_encoder={"window_size": 2},
            prompt_head={"num_heads": 2, "num_queries": 5},
            mask_decoder={"correction": False},
        )
    )
    built = load_model(save_model(made, tmp_path / "model.pt"))
    assert identity(built) == identity(made)
    assert identity(made)["variant"] == "tiny"
    assert same(made.state_dict(), built.state_dict())
    image, clicks = torch.randn(1, 1, 32, 32, 32), torch.tensor([[[3.0, 9.0, 20.0]]])
    with torch.no_grad():
        assert torch.equal(built(image, clicks), made.eval()(image, clicks))


@pytest.mark.parametrize("decoder", [{}, {"correction_channels": 5}])
def test_a_variant_is_rebuilt(tmp_path: Path, decoder: dict[str, Any]) -> None:
    made = randomised(build_sam_adapter3d("tiny", crop_size=16, mask_decoder=decoder))
    built = load_model(save_model(made, tmp_path / "model.pt"))
    assert identity(built) == identity(made)
    assert same(made.state_dict(), built.state_dict())


def test_a_dictionary_built_anew_is_told_by_its_shapes(
    tmp_path: Path, network: SAMAdapter3D, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = build_sam_adapter3d("tiny", crop_size=32)
    torch.save(dict(tiny.state_dict()), tmp_path / "tiny.pt")
    torch.save(OrderedDict(network.state_dict().items()), tmp_path / "small.pt")
    assert same(load_model(tmp_path / "tiny.pt").state_dict(), tiny.state_dict())
    assert "taken for variant tiny by its shapes" in caplog.text
    assert same(load_model(tmp_path / "small.pt", small()).state_dict(), network.state_dict())
    with pytest.raises(ValueError, match=r"small\.pt is of no variant and does not say which sizes it has: build the"):
        load_model(tmp_path / "small.pt")
    with pytest.raises(ValueError, match=r"tiny\.pt holds weights of variant tiny, but the network is of variant cus"):
        load_model(tmp_path / "tiny.pt", network)


OTHERS: dict[str, tuple[Callable[[], SAMAdapter3D], str]] = {
    "variant": (
        lambda: build_sam_adapter3d("tiny", crop_size=16),
        r"model\.pt holds weights of variant custom \(width 32, 4 blocks, 2 heads\), but the network is of variant tin",
    ),
    "windows": (lambda: small(image_encoder={"window_size": 4}), "window_size=2, but the network has window_size=4"),
    "prompt heads": (lambda: small(prompt_head={"num_heads": 4}), "prompt_heads=2, but the network has prompt_heads=4"),
    "crop": (lambda: small(crop_size=32), "crop_size=16, but the network has crop_size=32: build the network with"),
    "enlargement": (lambda: small(crop_size=32, enlargement=2), "enlargement=4, but the network has enlargement=2"),
    "heads": (lambda: small(image_encoder={"num_heads": 4}), r"4 heads\): they differ in num_heads"),
    "queries": (
        lambda: small(prompt_head={"num_queries": 3}),
        r"global_query of .* \(1, 10, 16\): expected \(1, 3, 16",
    ),
    "no correction": (lambda: small(mask_decoder={"correction": False}), "they differ in correction_channels"),
    "correction": (lambda: small(mask_decoder={"correction_channels": 5}), "they differ in correction_channels"),
}


@pytest.mark.parametrize(("build", "message"), OTHERS.values(), ids=OTHERS)
def test_another_network_is_refused_and_left_alone(
    tmp_path: Path, network: SAMAdapter3D, build: Callable[[], SAMAdapter3D], message: str
) -> None:
    path = save_model(network, tmp_path / "model.pt")
    other = build()
    before = snapshot(other)
    with pytest.raises(ValueError, match=message):
        load_model(path, other)
    assert same(before, other.state_dict())


def test_a_newer_format_is_refused(tmp_path: Path, network: SAMAdapter3D) -> None:
    state = network.state_dict()
    state._metadata[""]["sam_adapter3d"]["format_version"] = 2  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="format version 2, this library reads up to 1: update monai-sam-adapters"):
        load_model(tmp_path / "model.pt", network)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("mask_decoder.fuse.weight"), r"lacks tensor mask_decoder\.fuse\.weight"),
        (lambda s: s.update(new=torch.zeros(1)), "unexpected tensor new"),
        (lambda s: s.update({"mask_decoder.fuse.weight": torch.zeros(2)}), r"has shape \(2,\): expected \(8, 33, 3"),
        (lambda s: s["image_encoder.pos_embed"].fill_(torch.inf), r"pos_embed of .* holds NaN or infinite values"),
    ],
)
def test_bad_tensors(tmp_path: Path, network: SAMAdapter3D, spoil: Callable[[State], Any], message: str) -> None:
    state = copy.deepcopy(network.state_dict())
    spoil(state)
    torch.save(state, tmp_path / "model.pt")
    before = snapshot(network)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model.pt", network)
    assert same(before, network.state_dict())


def test_incomplete_without_metadata(tmp_path: Path, network: SAMAdapter3D) -> None:
    state = dict(network.state_dict())
    del state["mask_decoder.branches.0.conv1.weight"]
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"lacks tensor mask_decoder\.branches\.0\.conv1\.weight: it is incomplete"):
        load_model(tmp_path / "model.pt")


def test_sam_is_no_model(sam_file: Path) -> None:
    with pytest.raises(ValueError, match="no state dict of SAMAdapter3D but SAM's checkpoint: read it with load_sam"):
        load_model(sam_file)


def test_overwriting(tmp_path: Path, network: SAMAdapter3D) -> None:
    path = save_model(network, tmp_path / "model.pt")
    content = path.read_bytes()
    randomised(network)
    with pytest.raises(ValueError, match=r"model\.pt exists already"):
        save_model(network, path, overwrite=False)
    assert path.read_bytes() == content
    save_model(network, path)
    assert same(load_model(path).state_dict(), network.state_dict())


def test_components_of_the_users_own(tmp_path: Path, network: SAMAdapter3D) -> None:
    """Another prompt head: no sizes to tell, so the tensors' shapes decide."""
    network.prompt_head = nn.Linear(3, 3)
    assert identity(network) == {"format_version": 1, "variant": "custom"}
    path = save_model(network, tmp_path / "model.pt")
    other = small()
    other.prompt_head = nn.Linear(3, 3)
    assert same(load_model(path, other).state_dict(), network.state_dict())
    other.prompt_head = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"prompt_head\.weight of .* has shape \(3, 3\): expected \(2, 3\)"):
        load_model(path, other)


# -- adapter.safetensors ----------------------------------------------------------------------------------------


@pytest.fixture
def trained(sam_file: Path, network: SAMAdapter3D) -> SAMAdapter3D:
    load_sam(sam_file, network)
    return randomised(network, trained_only=True)


def test_adapter_round_trip(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    path = save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)
    assert same(load_adapter(path, sam_file).state_dict(), trained.state_dict())
    other = small()
    assert load_adapter(path, sam_file, other) is other
    assert same(other.state_dict(), trained.state_dict())


def test_adapter_holds_the_trained_tensors_only(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    stored = load_file(save_adapter(trained, tmp_path / "adapter.safetensors", sam_file))
    names = {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    gains = {f"image_encoder.blocks.{i}.attn.rel_pos_gain" for i in range(4)}
    assert set(stored) == names | gains


def test_adapter_needs_its_own_sam(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    path = save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)
    torch.save(make_sam(seed=1).state_dict(), tmp_path / "other.pth")
    before = snapshot(trained)
    with pytest.raises(ValueError, match=r"needs another SAM file than .*other\.pth: the sha256 .* is .*, expected"):
        load_adapter(path, tmp_path / "other.pth", trained)
    assert same(before, trained.state_dict())
    with pytest.raises(
        ValueError, match=r"differs from .*other\.pth: it started from another SAM file, or was trained"
    ):
        save_adapter(trained, tmp_path / "second.safetensors", tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth does not exist"):
        load_adapter(path, tmp_path / "nowhere.pth")
    assert not (tmp_path / "second.safetensors").exists()


def test_adapter_of_a_fully_trained_network_is_refused(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    randomised(trained)
    with pytest.raises(ValueError, match=r"trained with trainable='all'; .* or keep all of it with save_model"):
        save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)


def test_adapter_of_another_variant(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    path = save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)
    with pytest.raises(ValueError, match=r"variant custom \(width 32.* but the network is of variant tiny"):
        load_adapter(path, sam_file, build_sam_adapter3d("tiny", crop_size=16))


def test_truncated_and_foreign_adapters(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    path = save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="it is truncated or no safetensors file"):
        load_adapter(path, sam_file)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is a safetensors file but no adapter: expected one that save_adapter wrote"):
        load_adapter(path, sam_file)


def test_another_variant_of_the_same_name_is_built_from_its_sizes(tmp_path: Path) -> None:
    """The file, not the registry, says which sizes a network has."""
    sizes = {**identity(small())["sizes"], "head_channels": 4}
    made = build_sam_adapter3d(Variant("mine", **sizes), crop_size=16)
    assert identity(load_model(save_model(made, tmp_path / "model.pt")))["sizes"]["head_channels"] == 4


def test_the_number_of_levels_is_kept_and_checked(tmp_path: Path) -> None:
    sizes = {**identity(small())["sizes"], "levels": 2}
    made = build_sam_adapter3d(Variant("mine", **sizes), crop_size=16)
    path = save_model(made, tmp_path / "model.pt")
    loaded = load_model(path)
    assert identity(loaded)["sizes"]["levels"] == len(loaded.image_encoder.necks) == 2
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(image), made.eval()(image))
    assert "levels" not in identity(small())["sizes"]  # as in files from before there was a choice
    with pytest.raises(ValueError, match="they differ in levels"):
        small().load_state_dict(made.state_dict())
