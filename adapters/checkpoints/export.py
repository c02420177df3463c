"""Networks in formats that other programs read: ONNX, TorchScript, safetensors."""

from __future__ import annotations

import importlib.util
import io
import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from adapters.checkpoints.files import replacing
from adapters.checkpoints.ours import about
from adapters.files import write_whole, writing
from adapters.networks.samadapter3d.export_forms import DecoderForm, EncoderForm, example_inputs
from adapters.prompts.tensors import PromptTensors

__all__ = ["Format", "check_onnx", "export_network"]

Format = Literal["onnx", "torchscript", "safetensors"]

OPSET = 20  # the first whose GridSample takes volumes
TOLERANCE = 1e-4
_ENCODER, _DECODER = "encoder.onnx", "decoder.onnx"
_FEATURES = ["context", "deepest"]
_CHECKED_CLICKS = (0, 1, 10)


def export_network(network: nn.Module, output: str | Path, kind: Format) -> list[Path]:
    """Write a network for other programs, each file whole or not at all; files of the same names are replaced.

    - ``onnx``: ``encoder.onnx`` (image to context, deepest) and ``decoder.onnx`` (image, context, deepest, clicks,
      labels to logits), for one crop of the network's own size and any number of clicks.
    - ``torchscript``: ``model.ts``, called with an image and, if there are any, clicks and labels; one crop as above.
    - ``safetensors``: ``model.safetensors``, the weights by name.

    What the network is (`adapters.networks.description`) stands in the metadata of each, as ``monai_sam_adapters``.

    ONNX and TorchScript take no mask to start from and do not check clicks.

    Args:
        network: a `SAMAdapter3D` in evaluation mode; any module for ``safetensors``.
        output: the folder to write into; it is made if it is not there.
        kind: one of these three.

    Returns:
        The files.

    Raises:
        ImportError: if ``onnx`` or ``onnxscript`` is not installed and needed.
        ValueError: if the format is none of these, the network is in training mode or of other parts than this
            library's, or prompts shallower levels too.
    """
    if kind not in get_args(Format):
        raise ValueError(f"format {kind!r} is unknown: expected one of {', '.join(get_args(Format))}.")
    if network.training and kind != "safetensors":
        raise ValueError("the network is in training mode, which leaves channels out by chance: call eval() first.")
    folder = Path(output)
    if kind == "onnx":
        _need("onnx", "onnxscript")
        forms = EncoderForm(network).eval(), DecoderForm(network).eval()
        folder.mkdir(parents=True, exist_ok=True)
        return _onnx(network, forms, folder)
    if kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls TorchScript deprecated; MONAI's tools still write it
            scripted = torch.jit.script(network)
        folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # on a full disk PyTorch's own writing of TorchScript ends the process
        torch.jit.save(scripted, content, _extra_files={"network.json": json.dumps(about(network))})
        write_whole(folder / "model.ts", content.getvalue())
        return [folder / "model.ts"]
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(folder / "model.safetensors", overwrite=True) as temporary:
        safetensors.torch.save_file(state, temporary, {"format": "pt", **about(network)})
    return [folder / "model.safetensors"]


def check_onnx(network: nn.Module, folder: str | Path, *, crops: int = 3, seed: int = 0) -> float:
    """Compare ``encoder.onnx`` and ``decoder.onnx`` in ONNX Runtime, on the CPU, with the network.

    Args:
        network: what they were exported from.
        folder: where they lie.
        crops: how many random crops, each with 0, 1 and 10 random clicks on and off the lesion.
        seed: of the crops and clicks.

    Returns:
        The largest difference of two logits of a crop, relative to its largest logit.

    Raises:
        ImportError: if ``onnxruntime`` is not installed.
        ValueError: if a difference is above 1e-4.
    """
    _need("onnxruntime")
    import onnxruntime

    sessions = [
        onnxruntime.InferenceSession(Path(folder) / name, providers=["CPUExecutionProvider"])
        for name in (_ENCODER, _DECODER)
    ]
    differences = [0.0]
    for inputs in _crops(network, crops, seed):
        on_device = [tensor.to(next(network.parameters()).device) for tensor in inputs]
        with torch.no_grad():
            expected = network(on_device[0], PromptTensors(*on_device[1:])).cpu().numpy()
        image, clicks, labels = (tensor.numpy() for tensor in inputs)
        features = sessions[0].run(_FEATURES, {"image": image})
        given = {"image": image, **dict(zip(_FEATURES, features, strict=True)), "clicks": clicks, "labels": labels}
        (logits,) = sessions[1].run(["logits"], given)
        differences.append(float(np.abs(logits - expected).max() / np.abs(expected).max()))
    worst = float(np.max(differences))  # which NaN stays, other than in Python's max
    if not worst <= TOLERANCE:
        raise ValueError(
            f"the ONNX files in {folder} differ from the network by {worst:.1e} of its largest logit, expected at most "
            f"{TOLERANCE:.0e}: export them anew from this network, with the versions of onnx and onnxscript of "
            "setup.cfg."
        )
    return worst


def _crops(network: nn.Module, crops: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images, clicks and labels on the CPU."""
    random = torch.Generator().manual_seed(seed)
    shape = example_inputs(network)[0].shape
    for _ in range(crops):
        image = torch.rand(shape, generator=random) * 2 - 1
        for number in _CHECKED_CLICKS:
            clicks = torch.rand((1, number, 3), generator=random) * (shape[-1] - 1)
            yield image, clicks, torch.randint(0, 2, (1, number), generator=random)


def _onnx(network: nn.Module, forms: tuple[EncoderForm, DecoderForm], folder: Path) -> list[Path]:
    encoder, decoder = forms
    image, clicks, labels = example_inputs(network)
    number = torch.export.Dim("number", min=0)
    dynamic: dict[str, Any] = {"image": {}, "context": {}, "deepest": {}, "clicks": {1: number}, "labels": {1: number}}
    kept = tempfile.TemporaryDirectory(dir=folder, prefix=".export-")
    with writing(folder / _ENCODER), torch.no_grad(), kept as temporary:
        features = encoder(image)
        for form, inputs, names, results, shapes in (
            (encoder, (image,), ["image"], _FEATURES, None),
            (decoder, (image, *features, clicks, labels), list(dynamic), ["logits"], dynamic),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter's own, about its deprecated parts
                program = torch.onnx.export(
                    form,
                    inputs,
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=names,
                    output_names=results,
                    dynamic_shapes=shapes,
                    verbose=False,
                )
            if program is None:
                raise RuntimeError("torch.onnx.export gave no program")
            program.model.metadata_props.update(about(network))
            program.save(Path(temporary) / (_ENCODER if form is encoder else _DECODER))
        # a model of more than 2 GB has its weights in a second file
        return [path.replace(folder / path.name) for path in sorted(Path(temporary).iterdir())]


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"this needs {' and '.join(missing)}: pip install 'monai-sam-adapters[export]', or -e '.[export]' in its "
            "source folder."
        )
