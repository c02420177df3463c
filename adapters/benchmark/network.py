"""What one fresh process measures: a process' peak memory cannot fall, so each measurement has a process of its own."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import adapters
from adapters.memory import resident
from adapters.networks import ImageFeatures, SAMAdapter3D, build_sam_adapter3d, get_variant, set_trainable

__all__ = ["MEASUREMENTS", "literal_path", "native_bfloat16"]

NO_SOURCE = "The literal column needs a source checkout: {path} is not there."
_PROJECTIONS = 64
_COARSE = 4  # how much coarser than the scan its phantom is made


def literal_path() -> Path:
    """The file with the literal form."""
    return Path(adapters.__file__).resolve().parents[1] / "tests" / "reference" / "literal.py"


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices itself; elsewhere they are slower than float32."""
    info = Path("/proc/cpuinfo")
    return info.exists() and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def _load_literal() -> ModuleType:
    spec = importlib.util.spec_from_file_location("literal", literal_path())
    if spec is None or spec.loader is None or not literal_path().is_file():
        raise FileNotFoundError(NO_SOURCE.format(path=literal_path()))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _network(variant: str, crop_size: int, **options: Any) -> SAMAdapter3D:
    """The network with weights that leave nothing at zero, the same in every process."""
    torch.manual_seed(0)
    network = build_sam_adapter3d(variant, crop_size, **options)
    for name, parameter in network.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return network


def _image(crop_size: int, batch: int) -> Tensor:
    return torch.randn(batch, 1, crop_size, crop_size, crop_size, generator=torch.Generator().manual_seed(1))


def _projected(logits: Tensor) -> list[float]:
    """A few sums of the logits with random signs, by which two processes' results can be compared."""
    generator = torch.Generator().manual_seed(2)
    signs = [torch.randint(0, 2, logits.shape, generator=generator) * 2 - 1 for _ in range(_PROJECTIONS)]
    return [float((logits.double() * sign).sum()) for sign in signs]


def _seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def measure_network(form: str, variant: str, crop_size: int, batch: int = 1, clicks: int = 1) -> dict[str, Any]:
    """One forward without gradients.

    Args:
        form: "fast" is the library's form, "bfloat16" the same under autocast, "literal" that of the tests.
        variant: name of a variant.
        crop_size: side of the crop, in voxels.
        batch: items of the batch.
        clicks: clicks of each item.

    Returns:
        ``encoder_s``, ``first_click_s``, ``next_click_s`` (prompt head and decoder; the literal form encodes again),
        ``peak_bytes`` of the whole process at its first click, ``baseline_bytes`` before, ``projected`` logits.

    Raises:
        FileNotFoundError: if the literal form is wanted and not there.
    """
    literal = _load_literal() if form == "literal" else None
    network = _network(variant, crop_size, mask_decoder={"correction": False}).eval().requires_grad_(False)
    image = _image(crop_size, batch)
    points = torch.rand(batch, clicks, 3, generator=torch.Generator().manual_seed(3)) * (crop_size - 1)
    labels = torch.ones(batch, clicks, dtype=torch.long)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=form == "bfloat16"):
        baseline, _ = resident()
        if literal:
            encoder_s, levels = _seconds(lambda: literal.literal_encode(network.image_encoder, image))
            head_s, deepest = _seconds(lambda: network.prompt_head(levels[-1], points, labels, tuple(image.shape[2:])))
            decoder_s, logits = _seconds(
                lambda: literal.literal_decode(network.mask_decoder, [*levels[:-1], deepest], image)
            )
            first_s = next_s = encoder_s + head_s + decoder_s
        else:
            encoder_s, levels = _seconds(lambda: network.image_encoder(image))
            context_s, context = _seconds(lambda: network.mask_decoder.context(levels, image))  # type: ignore[operator]
            features = ImageFeatures(levels, context)
            decode_s, logits = _seconds(lambda: network.decode(features, image, points, labels))
            first_s = encoder_s + context_s + decode_s
            next_s, logits = _seconds(lambda: network.decode(features, image, points, labels))
        _, peak = resident()
    return {
        "encoder_s": encoder_s,
        "first_click_s": first_s,
        "next_click_s": next_s,
        "baseline_bytes": baseline,
        "peak_bytes": peak,
        "projected": _projected(logits.float()),
    }


def measure_linear(form: str, variant: str, crop_size: int) -> dict[str, Any]:
    """The floor of the encoder: each of its linear layers as one matrix product over all tokens.

    Args:
        form: "linear" takes torch's linear layer, "convolution" a convolution of one voxel, which another library
            computes on CPUs.
        variant: name of a variant.
        crop_size: side of the crop, in voxels.

    Returns:
        ``layers_s``: seconds of each layer of a block, and ``encoder_s``, those of all blocks.
    """
    v = get_variant(variant)
    tokens = (crop_size // 4) ** 3
    dim = v.embed_dim
    shapes = {
        "adapter down": (dim, dim // 2),
        "adapter up": (dim // 2, dim),
        "qkv": (dim, 3 * dim),
        "proj": (dim, dim),
        "mlp in": (dim, 4 * dim),
        "mlp out": (4 * dim, dim),
    }
    seconds = {}
    with torch.inference_mode():
        for name, (inputs, outputs) in shapes.items():
            x, weight, bias = torch.randn(tokens, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
            if form == "convolution":
                image, kernel = x.view(1, 1, tokens, inputs).permute(0, 3, 1, 2), weight[:, :, None, None]
                run = lambda image=image, kernel=kernel, bias=bias: F.conv2d(image, kernel, bias)  # noqa: E731
            else:
                run = lambda x=x, weight=weight, bias=bias: F.linear(x, weight, bias)  # noqa: E731
            run()
            seconds[name] = _seconds(run)[0]
    return {"layers_s": seconds, "encoder_s": v.depth * sum(seconds.values())}


def measure_training(form: str, variant: str, crop_size: int, batch: int = 1) -> dict[str, Any]:
    """One step of training as published: forward, backward, AdamW.

    Args:
        form: "literal" is that of the tests, "kept" the library's, "recomputed" the library's with activations
            computed again block by block, "recomputed bfloat16" the same under autocast.
        variant: name of a variant.
        crop_size: side of the crop, in voxels.
        batch: items of the batch.

    Returns:
        ``step_s``, ``peak_bytes`` and ``baseline_bytes`` of the process, and ``gradient``: norms of the gradients of
        the encoder, the prompt head and the decoder.
    """
    literal = _load_literal() if form == "literal" else None
    options = {"image_encoder": {"recompute": form.startswith("recomputed")}, "mask_decoder": {"correction": False}}
    network = set_trainable(_network(variant, crop_size, **options), "published").train()
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=4e-4)
    image = _image(crop_size, batch)
    target = (image > 1).float()
    points, labels = torch.full((batch, 10, 3), crop_size / 2), torch.ones(batch, 10, dtype=torch.long)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=form.endswith("bfloat16")):
            if literal:
                levels = literal.literal_encode(network.image_encoder, image)
                deepest = network.prompt_head(levels[-1], points, labels, tuple(image.shape[2:]))
                logits = literal.literal_decode(network.mask_decoder, [*levels[:-1], deepest], image)
            else:
                logits = network(image, points, labels)
        loss = F.binary_cross_entropy_with_logits((logits[:, 1:] - logits[:, :1]).float(), target)
        loss.backward()
        optimiser.step()

    baseline, _ = resident()
    step_s, _ = _seconds(step)
    _, peak = resident()
    norms = {}
    for part in ("image_encoder", "prompt_head", "mask_decoder"):
        gradients = [p.grad for p in network.get_submodule(part).parameters() if p.grad is not None]
        norms[part] = float(torch.stack([g.double().norm() for g in gradients]).norm())
    return {"step_s": step_s, "baseline_bytes": baseline, "peak_bytes": peak, "gradient": norms}


def _write_scan(path: Path, shape: Sequence[int]) -> list[int]:
    """Write a phantom, made coarsely and with the noise of a CT; a voxel of its lesion."""
    import nibabel as nib

    from adapters.datasets.phantom import phantom

    coarse, label, affine = phantom(0, [-(-n // _COARSE) for n in shape], (3.2, 3.2, 6.0), orientation="RAS")
    fine = coarse
    for axis in range(3):
        fine = np.repeat(fine, _COARSE, axis=axis)
    fine = fine[tuple(slice(n) for n in shape)]
    noise = np.random.default_rng(0).integers(-20, 21, fine.shape, dtype=np.int16)
    nib.save(nib.Nifti1Image(np.rint(fine).astype(np.int16) + noise, affine @ np.diag([*[1 / _COARSE] * 3, 1])), path)
    inside = np.argwhere(label)
    return (inside[len(inside) // 2] * _COARSE).tolist()


def measure_click(form: str, bundle: str, shape: Sequence[int]) -> dict[str, Any]:
    """A click on a CT, from the file to the file of its mask, as ``monai.bundle run`` makes it.

    Args:
        form: the ending of the scan's file, ".nii" or ".nii.gz".
        bundle: folder of a bundle. Its network has random weights if it ships none.
        shape: voxels of the scan.

    Returns:
        Seconds: ``read_s`` (to the tensor that the inferer gets), ``network_s`` (in encode and decode),
        ``inferer_s`` (the rest of the inferer), ``write_s`` (from the logits to the file), ``outside_s`` (all but the
        network), and ``peak_bytes``.
    """
    # not at the top: the other measurements' processes are smaller without them
    from monai.bundle import ConfigParser
    from monai.data import decollate_batch, list_data_collate

    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / f"scan{form}"
        click = _write_scan(scan, shape)
        requests = Path(folder) / "requests.json"
        requests.write_text(json.dumps([{"image": str(scan), "points": [click], "point_labels": [1]}]))
        parser = ConfigParser()
        parser.read_config(Path(bundle) / "configs" / "inference.json")
        parser.update({"bundle_root": bundle, "requests": str(requests), "output_dir": folder, "device": "cpu"})
        parts = [parser.get_parsed_content(name) for name in ("network", "inferer", "dataset", "postprocessing")]
        network, inferer, dataset, postprocessing = parts
        weights = Path(bundle) / "models" / "model.pt"
        if weights.is_file():
            network.load_state_dict(torch.load(weights, weights_only=True))
        inside_network = 0.0

        def timed(run: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal inside_network
                seconds, result = _seconds(lambda: run(*args, **kwargs))
                inside_network += seconds
                return result

            return call

        network.eval()
        network.encode, network.decode = timed(network.encode), timed(network.decode)
        with torch.no_grad():
            read_s, batch = _seconds(lambda: list_data_collate([dataset[0]]))
            infer_s, batch["pred"] = _seconds(lambda: inferer(batch["image"], network))
            write_s, _ = _seconds(lambda: [postprocessing(item) for item in decollate_batch(batch)])
        if not list(Path(folder).glob("scan_*.nii.gz")):
            raise FileNotFoundError(f"the bundle {bundle} wrote no mask of the scan")
    return {
        "read_s": read_s,
        "network_s": inside_network,
        "inferer_s": infer_s - inside_network,
        "write_s": write_s,
        "outside_s": read_s + infer_s - inside_network + write_s,
        "peak_bytes": resident()[1],
    }


MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "network": measure_network,
    "linear": measure_linear,
    "training": measure_training,
    "click": measure_click,
}
