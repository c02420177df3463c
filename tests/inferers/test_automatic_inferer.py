"""AutomaticInferer against MONAI's sliding window and a network whose answer is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from oracle import Oracle, as_mask, dice, ellipsoid

from adapters.inferers import AutomaticInferer
from adapters.inferers.automatic import infer_resampled
from adapters.inferers.grid import Grid
from adapters.transforms import ThresholdLesiond

SIZES = [(60, 36, 50), (36, 50, 60), (16, 60, 20), (50, 61, 36), (20, 16, 23), (24, 24, 24)]


def conv(channels: int = 2) -> torch.nn.Module:
    return torch.nn.Conv3d(1, channels, 3, padding=1)


HALF = {"atol": 1e-5, "rtol": 2**-11}  # rounded once to float16


def expected(scan: torch.Tensor, spacing, voxel, network, **arguments) -> torch.Tensor:
    """MONAI's sliding window over the whole resampled scan (1, D, H, W), resampled back, as log-odds."""
    inferer = SlidingWindowInferer(24, **{"overlap": 0.5, "mode": "gaussian", "cval": float(scan.min()), **arguments})
    grid = Grid.of(scan.shape[1:], np.diag([*voxel, 1]), spacing and (spacing,) * 3)
    return infer_resampled(scan, grid, lambda resampled: inferer(resampled, network))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spacing", [None, 1.0])
@torch.no_grad()
def test_is_the_sliding_window_at_the_scans_spacing(size, spacing):
    scan = torch.rand(2, 1, *size)
    network = conv()
    wanted = torch.stack([expected(item, None, (1, 1, 1), network) for item in scan])
    found = AutomaticInferer(24, spacing)(scan, network)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), wanted, **HALF)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("voxel", [(3.0, 0.7, 0.8), (0.9, 2.5, 1.7), (1.3, 0.6, 4.0)])
@torch.no_grad()
def test_is_the_sliding_window_over_the_resampled_scan(size, voxel):
    """Finer and coarser than the scan, with every axis the one along which windows come."""
    scan = torch.rand(1, 1, *size)
    network = conv(1)
    inputs = MetaTensor(scan, affine=torch.diag(torch.tensor([*voxel, 1.0])))
    found = AutomaticInferer(24, 1.1, sw_batch_size=3)(inputs, network)
    wanted = expected(scan[0], 1.1, inputs.affine.diagonal()[:3].tolist(), network)
    torch.testing.assert_close(found[0].as_tensor().float(), wanted, **HALF)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "constant"},
        {"overlap": 0.0},
        {"overlap": (0.8, 0.3, 0.99)},
        {"sigma_scale": (0.05, 0.3, 0.125)},  # weights so small that MONAI raises them
        {"sw_batch_size": 4},
    ],
)
@pytest.mark.parametrize("size", [(30, 28, 40), (12, 60, 20)])
@torch.no_grad()
def test_arguments_are_those_of_monai(size, arguments):
    scan = torch.rand(1, 1, *size)
    network = conv()
    found = AutomaticInferer(24, pad_value=0.3, **arguments)(scan, network)
    wanted = expected(scan[0], None, (1, 1, 1), network, cval=0.3, **arguments)
    torch.testing.assert_close(found[0].float(), wanted, **HALF)


def test_the_axis_is_the_one_that_keeps_fewest_sums():
    starts = []
    for size in SIZES[:3]:
        inferer = AutomaticInferer(24)
        grid = Grid.of(size, np.eye(4), None)
        starts.append(inferer._axis(grid))
    assert starts == [0, 2, 1]


@torch.no_grad()
def test_half_precision_answers_are_summed_in_float32():
    scan = torch.rand(1, 1, 40, 30, 30)
    network = conv()

    def half(crop):
        return network(crop).bfloat16()

    found = AutomaticInferer(24)(scan, half)
    wanted = expected(scan[0], None, (1, 1, 1), lambda crop: half(crop).float())
    torch.testing.assert_close(found[0].float(), wanted, **HALF)
    assert (found[0] != found[0].bfloat16()).any()


def test_no_gradients():
    found = AutomaticInferer(8)(torch.rand(1, 1, 20, 8, 8), conv())
    assert not found.requires_grad


@torch.no_grad()
def test_metadata_stay():
    scan = MetaTensor(torch.rand(2, 1, 40, 36, 50), affine=torch.diag(torch.tensor([1.5, 0.8, 0.9, 1.0])))
    found = AutomaticInferer(24, 1.0)(scan, conv())
    assert isinstance(found, MetaTensor)
    assert torch.equal(found.affine, scan.affine)
    assert found.shape == (2, 1, 40, 36, 50)


@torch.no_grad()
def test_stays_finite():
    """Infinite log-odds would become no numbers when they are resampled."""
    found = AutomaticInferer(8)(torch.ones(1, 1, 8, 8, 8), lambda crop: torch.cat([-crop, crop], 1) * 1e6)
    assert (found == torch.finfo(torch.float16).max).all()


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@torch.no_grad()
def test_the_mask_is_that_of_the_probabilities(threshold):
    ball = ellipsoid((60, 50, 50), (30, 24, 22), (14, 9, 11))
    scan = MetaTensor(ball + 0.05 * torch.randn(ball.shape), affine=torch.diag(torch.tensor([1.5, 0.8, 0.9, 1.0])))
    mask = ThresholdLesiond("pred", threshold)({"pred": AutomaticInferer(24, 1.0)(scan, Oracle())[0]})["pred"]
    assert mask.dtype == torch.uint8
    probability = expected(scan.as_tensor()[0], 1.0, (1.5, 0.8, 0.9), Oracle()).sigmoid()
    differ = (mask.as_tensor() > 0) != (probability > threshold)
    near = (probability - threshold).abs() < 2**-11  # half a step of float16 below 1
    assert not (differ & ~near).any()
    assert differ.sum() <= 3
    assert mask.sum() > 1000


@pytest.mark.parametrize("batch", [1, 5])
def test_the_bar_counts_all_windows(batch, capsys):
    scan = torch.rand(1, 1, 40, 30, 20)
    windows = 0

    def network(crop):
        nonlocal windows
        windows += len(crop)
        return torch.cat([-crop, crop], dim=1)

    AutomaticInferer(16, sw_batch_size=batch, progress=True)(scan, network)
    assert windows == 4 * 3 * 2
    assert f" {windows}/{windows} [" in capsys.readouterr().err
    AutomaticInferer(16)(scan, network)
    assert capsys.readouterr().err == ""


# --- memory


def measured(*lengths: int) -> list[dict[str, int]]:
    """What a fresh process takes for one scan after the other, of so many slices, the shortest first."""
    code = (
        "import json; from tests.benchmarks.automatic import measure_automatic; "
        f"print(json.dumps([measure_automatic('fast', (length, 128, 128), 64) for length in {lengths}]))"
    )
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        # glibc gives freed blocks back at once, so that the peak is that of tensors in use
        env={**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": str(2**17)},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def test_memory_is_as_stated_and_grows_by_two_bytes_a_voxel():
    _, short, long = measured(100, 400, 2000)  # libraries set themselves up at the first
    taken = [run["peak_bytes"] - run["baseline_bytes"] for run in (short, long)]
    growth = (taken[1] - taken[0]) / (long["voxels"] - short["voxels"])
    assert 1.8 < growth < 2.2
    for run, bytes_ in zip((short, long), taken, strict=True):
        # beside the tensors: what an allocator keeps
        assert bytes_ < run["stated_bytes"] + 16 * 2**20
        assert run["result_bytes"] == 2 * run["voxels"]
    beyond = [run["stated_bytes"] - run["result_bytes"] for run in (short, long)]
    assert beyond[0] == beyond[1]


@pytest.mark.parametrize("affine", [None, np.diag([1.0, 0.7, 0.7, 1.0])])
def test_stated_memory(affine):
    """It has the sums, does not grow with the longest side, and does with the window."""
    stated = AutomaticInferer(64, 1.0).working_bytes((600, 512, 512), affine)
    row = 512**2 if affine is None else 359**2
    assert 4 * 2 * 65 * row < stated < 2 * 4 * 2 * 65 * row
    assert stated == AutomaticInferer(64, 1.0).working_bytes((6000, 512, 512), affine)
    assert stated < AutomaticInferer(128, 1.0).working_bytes((600, 512, 512), affine)


@torch.no_grad()
def test_resamples_both_ways():
    truth = ellipsoid((30, 60, 60), (15, 33, 28), (5, 14, 12))
    scan = MetaTensor(truth, affine=torch.diag(torch.tensor([3.0, 1.0, 1.0, 1.0])))
    shapes: list[tuple] = []

    def network(crop):
        shapes.append(tuple(crop.shape))
        return Oracle()(crop)

    logits = AutomaticInferer(20, 2.0, sw_batch_size=2)(scan, network)
    assert isinstance(logits, MetaTensor)
    assert logits.shape == (1, 1, 30, 60, 60)
    # resampled to 44 or 45 x 30 or 31 x 30 or 31 voxels
    assert set(shapes) <= {(2, 1, 20, 20, 20), (1, 1, 20, 20, 20)}
    assert dice(as_mask(logits)[0], (truth > 0.5)[0, 0]) > 0.95


@torch.no_grad()
def test_network_arguments():
    def network(crop, factor, *, shift):
        return torch.cat([crop, factor * crop + shift], dim=1)

    logits = AutomaticInferer(8)(torch.full((1, 1, 8, 8, 8), 2.0), network, 3.0, shift=1.0)
    assert logits[0, :, 0, 0, 0].tolist() == pytest.approx([5.0])  # 3 x 2 + 1, less 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutomaticInferer(0), "roi_size is 0"),
        (lambda: AutomaticInferer(8, 0.0), "spacing is 0.0"),
        (lambda: AutomaticInferer(8, overlap=1.0), "overlap is 1.0: expected a share"),
        (lambda: AutomaticInferer(8, mode="mean"), "mean"),
        (lambda: AutomaticInferer(8, sigma_scale=0.0), "sigma_scale is 0.0"),
        (lambda: AutomaticInferer(8, sw_batch_size=0), "sw_batch_size is 0"),
        (lambda: AutomaticInferer(8, cval=0.0), "cval=0.0 cannot be honoured: give pad_value"),
        (lambda: AutomaticInferer(8, padding_mode="reflect"), "padding_mode='reflect' cannot be honoured: scans are"),
        (lambda: AutomaticInferer(8, buffer_steps=2), "buffer_steps=2 cannot be honoured: sums are always"),
        (lambda: AutomaticInferer(8, device="cpu"), "device='cpu' cannot be honoured"),
        (lambda: AutomaticInferer(8).working_bytes((10, 10)), r"scan_size is \(10, 10\): expected a positive number"),
        (lambda: AutomaticInferer(8, 1.0).working_bytes((9, 9, 9), np.diag([0, 1, 1, 1])), "affine is singular"),
        (lambda: AutomaticInferer(8, roi=2), "roi=2 cannot be honoured: there is no such argument"),
        (
            lambda: AutomaticInferer(8)(torch.zeros(1, 1, 8, 8, 8), lambda x: x[..., :4]),
            r"automatic inference returned \(1, 1, 8, 8, 4\): expected one tensor \(1, 1 or 2, 8, 8, 8\)",
        ),
        (
            lambda: AutomaticInferer(8)(torch.zeros(1, 1, 8, 8, 8), lambda x: x.expand(-1, 3, -1, -1, -1)),
            r"returned \(1, 3, 8, 8, 8\): expected one tensor \(1, 1 or 2, 8, 8, 8\)",
        ),
        (lambda: AutomaticInferer(8)(torch.zeros(1, 8, 8, 8), Oracle()), "expected .B, 1, D, H, W."),
        (
            lambda: AutomaticInferer(8)(torch.zeros(1, 1, 8, 8, 8), lambda x: (x, x)),
            "automatic inference returned tuple",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
