"""A click on a CT, from the file to the file of its mask."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch, list_data_collate

from tests.benchmarks.common import memory, timed, write_scan

__all__ = ["measure_click"]


def measure_click(
    form: str,
    bundle: str,
    shape: Sequence[int],
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A click on a CT, from the file to the file of its mask, as ``monai.bundle run`` makes it.

    Args:
        form: the ending of the scan's file, ".nii" or ".nii.gz".
        bundle: folder of a bundle. Its network has random weights if it ships none.
        shape: voxels of the scan.
        options: ids of the bundle's inference.json that are to have another value.

    Returns:
        Seconds: ``read_s`` (to the tensor that the inferer gets), ``network_s`` (in encode and decode),
        ``inferer_s`` (the rest of the inferer), ``write_s`` (from the logits to the file), ``outside_s`` (all but the
        network), and ``peak_bytes``.
    """
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / f"scan{form}"
        click = write_scan(scan, shape)
        requests = Path(folder) / "requests.json"
        requests.write_text(json.dumps([{"image": str(scan), "points": [click], "point_labels": [1]}]))
        parser = ConfigParser()
        parser.read_config(Path(bundle) / "configs" / "inference.json")
        own = {"bundle_root": bundle, "requests": str(requests), "output_dir": folder, "device": "cpu"}
        parser.update({**own, **(options or {})})
        parts = [parser.get_parsed_content(name) for name in ("network", "inferer", "dataset", "postprocessing")]
        network, inferer, dataset, postprocessing = parts
        weights = Path(bundle) / "models" / "model.pt"
        if weights.is_file():
            network.load_state_dict(torch.load(weights, weights_only=True))
        inside_network = 0.0

        def counted(run: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal inside_network
                seconds, result = timed(lambda: run(*args, **kwargs))
                inside_network += seconds
                return result

            return call

        network.eval()
        network.encode, network.decode = counted(network.encode), counted(network.decode)
        with torch.no_grad():
            read_s, batch = timed(lambda: list_data_collate([dataset[0]]))
            infer_s, batch["pred"] = timed(lambda: inferer(batch["image"], network))
            write_s, _ = timed(lambda: [postprocessing(item) for item in decollate_batch(batch)])
        if not list(Path(folder).glob("scan_*.nii.gz")):
            raise FileNotFoundError(f"the bundle {bundle} wrote no mask of the scan")
    return {
        "read_s": read_s,
        "network_s": inside_network,
        "inferer_s": infer_s - inside_network,
        "write_s": write_s,
        "outside_s": read_s + infer_s - inside_network + write_s,
        "peak_bytes": memory()[1],
    }
