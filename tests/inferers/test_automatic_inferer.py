"""AutomaticInferer against MONAI's sliding window and a network whose answer is known."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from oracle import Oracle, as_mask, dice, ellipsoid

from adapters.inferers import AutomaticInferer


@pytest.mark.parametrize("size", [(40, 36, 50), (16, 60, 20)])
@pytest.mark.parametrize("spacing", [None, 1.0])
@torch.no_grad()
def test_is_the_sliding_window_at_the_scans_spacing(size, spacing):
    scan = torch.rand(2, 1, *size)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    expected = [
        SlidingWindowInferer(24, overlap=0.5, mode="gaussian", cval=float(s.min()))(s[None], network) for s in scan
    ]
    assert torch.equal(AutomaticInferer(24, spacing)(scan, network), torch.cat(expected))


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
    assert logits.shape == (1, 2, 30, 60, 60)
    # resampled to 44 or 45 x 30 or 31 x 30 or 31 voxels
    assert set(shapes) <= {(2, 1, 20, 20, 20), (1, 1, 20, 20, 20)}
    assert dice(as_mask(logits)[0], (truth > 0.5)[0, 0]) > 0.95


@torch.no_grad()
def test_network_arguments():
    def network(crop, factor, *, shift):
        return torch.cat([crop, factor * crop + shift], dim=1)

    logits = AutomaticInferer(8)(torch.full((1, 1, 8, 8, 8), 2.0), network, 3.0, shift=1.0)
    assert logits[0, :, 0, 0, 0].tolist() == pytest.approx([2.0, 7.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutomaticInferer(0), "roi_size is 0"),
        (lambda: AutomaticInferer(8, 0.0), "spacing is 0.0"),
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
