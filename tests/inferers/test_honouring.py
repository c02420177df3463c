"""Every click is honoured, whatever the network says."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, Invertd, Orientationd, Spacingd
from nibabel.orientations import inv_ornt_aff
from oracle import Oracle, ellipsoid

from adapters.inferers import AutomaticInferer, ClickInferer
from adapters.prompts import Prompts
from adapters.prompts.voxels import voxels_under
from adapters.transforms import RequestToClicksd, ThresholdLesiond


class Stubborn(Oracle):
    """Says the same everywhere, whatever it is told."""

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.answer = answer

    def logits(self, features, image, prompts=None):
        return 0 * features + self.answer


SCAN = torch.zeros(1, 1, 30, 34, 38)
HONOURS = {"grow": False, "honour_clicks": True}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def found(answer, points, labels, scan=SCAN, **options) -> torch.Tensor:
    inferer = ClickInferer(16, **{**HONOURS, **options})
    return inferer(scan, Stubborn(answer), Prompts(points, labels))[0, 0].float()


def under(log_odds: torch.Tensor, points) -> list[float]:
    return [float(log_odds[tuple(voxel)]) for voxel in voxels_under(points, log_odds.shape).tolist()]


@pytest.mark.parametrize("answer", [-1000.0, -20.0, -0.1, 0.1, 20.0, 1000.0])
@pytest.mark.parametrize("spacing", [None, 4.0, (1.0, 3.0, 0.4)])
@pytest.mark.parametrize("own", [(1.0, 1.0, 1.0), (0.8, 5.0, 0.8)])
@pytest.mark.parametrize("threshold", [0.5, 0.01, 0.99, 1e-12])
def test_on_and_off(answer, spacing, own, threshold):
    scan = MetaTensor(SCAN, affine=torch.diag(torch.tensor([*own, 1.0])))
    points = [[15, 16, 17], [15, 16, 20.3], [15, 17, 17], [0, 0, 0], [29.5, 33.5, 37.5], [-0.5, 20, 3], [14, 16, 17]]
    labels = [1, 1, 0, 1, 0, 0, 0]
    odds = math.log(threshold / (1 - threshold))
    values = found(answer, points, labels, scan, spacing=spacing, threshold=threshold, max_crops=2)
    assert [value > odds for value in under(values, points)] == [label == 1 for label in labels]
    assert values.isfinite().all()


@pytest.mark.parametrize("threshold", [1e-8, 0.2, 0.5, 0.9, 1 - 1e-8])
def test_any_later_threshold(threshold):
    """Of a caller who takes another than the inferer's."""
    values = found(-0.1, [[15, 16, 17], [10, 16, 17]], [1, 0])
    odds = math.log(threshold / (1 - threshold))
    assert [value > odds for value in under(values, [[15, 16, 17], [10, 16, 17]])] == [True, False]


def test_the_later_of_two_on_one_voxel_counts():
    points = [[15, 16, 17], [15.2, 16, 16.8], [15, 16, 17]]
    for labels in itertools.product((0, 1), repeat=3):
        assert (under(found(3.0, points, labels), points[:1])[0] > 0) == bool(labels[-1])


def test_it_is_a_smooth_bump_within_the_radius():
    values = found(-8.0, [[15, 16, 17]], [1], spacing=2.0)
    along = values[15, 16]
    assert along[17] == 20
    assert torch.equal(along[18:30], along[5:17].flip(0))
    right = along[17:24].tolist()  # three voxels of the grid are six of the scan
    assert right == sorted(right, reverse=True)
    assert along[19] > 0 > along[22]
    assert along[23:30].unique().tolist() == [-8.0]
    assert values[15, 10, 17] == values[9, 16, 17] == -8.0
    assert max(abs(np.diff(right))) < 10


def test_where_the_network_agrees_only_the_voxel_becomes_certain():
    before = found(8.0, [[15, 16, 17]], [1], honour_clicks=False)
    after = found(8.0, [[15, 16, 17]], [1])
    assert torch.argwhere(before != after).tolist() == [[15, 16, 17]]


def test_a_patch_ends_at_a_click_of_the_other_label():
    mask = found(-8.0, [[15, 16, 17], [15, 16, 18]], [1, 0], spacing=4.0) > 0
    assert torch.argwhere(mask).tolist() == [[15, 16, 17]]


@pytest.mark.parametrize("answer", [-5.0, 5.0])
def test_dense_contradictions(answer):
    """Every voxel of a cube, on and off it in turn."""
    points = np.argwhere(np.ones((5, 5, 5))) + 12
    labels = points.sum(axis=1) % 2
    values = found(answer, points, labels, spacing=3.0, click_distance=4.0)
    assert [value > 0 for value in under(values, points)] == (labels == 1).tolist()


def test_clicks_that_no_crop_holds():
    scan = torch.zeros(1, 1, 20, 20, 90)
    points = [[10, 10, 5], [10, 10, 45], [10, 10, 85]]
    values = found(-5.0, points, [1, 1, 0], scan, max_crops=1)
    assert [value > 0 for value in under(values, points)] == [True, True, False]


def test_the_rule_of_nearness_takes_no_click_away():
    values = found(-5.0, [[15, 16, 17]], [1], reach=0.0)
    assert under(values, [[15, 16, 17]]) == [20]


def test_a_mask_to_start_from():
    """Beside the crop too, where the mask stands as it is."""
    inferer = ClickInferer(8, keep_mask=True, max_crops=1, **HONOURS)
    mask = torch.full((1, 1, 20, 20, 40), 10.0)
    odds = inferer(torch.zeros_like(mask), Stubborn(10.0), Prompts([[10, 10, 5], [10, 10, 35]], [0, 0]), mask=mask)
    assert [value > 0 for value in under(odds[0, 0], [[10, 10, 5], [10, 10, 35], [10, 10, 30]])] == [False, False, True]


def test_grown_masks():
    scan = ellipsoid((80, 72, 64), (40.0, 34.0, 32.0), (27.0, 21.0, 14.0))
    network = Oracle()
    points = [[40, 34, 32], [40, 34, 44], [60, 34, 32], [40, 60, 50]]
    values = ClickInferer(32, honour_clicks=True)(scan, network, Prompts(points, [1, 0, 0, 1]))
    assert len(network.crops) > 1
    assert [value > 0 for value in under(values[0, 0], points)] == [True, False, False, True]


def test_nothing_is_honoured_without_clicks():
    inferer = ClickInferer(16, automatic=AutomaticInferer(16), **HONOURS)
    assert (inferer(SCAN, Stubborn(-3.0)) == -3).all()


def test_two_axes():
    class Flat(Stubborn):
        spatial_dims = 2

    inferer = ClickInferer(16, spatial_dims=2, spacing=2.0, **HONOURS)
    values = inferer(torch.zeros(1, 1, 30, 34), Flat(-3.0), Prompts([[10.0, 12.0], [11.0, 12.0]], [1, 0]))
    assert [value > 0 for value in under(values[0, 0], [[10, 12], [11, 12]])] == [True, False]


LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
ORIENTATIONS = [
    np.column_stack([axes, flips])
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


class TestStoredGrid:
    """Through a bundle's transforms: orient, predict, invert, threshold; clicks between voxels among them."""

    POINTS = ([7.5, 8, 9], [7, 11.5, 9.5], [7.5, 11.5, 6], [0, 3.5, 4], [10.5, 2.5, 2.5], [10, 2, 2])
    STORED = (14, 15, 16)

    def mask(self, affine, transforms, points, labels, *, answer=-5.0, threshold=0.5) -> np.ndarray:
        image = MetaTensor(torch.zeros(1, *self.STORED), affine=affine)
        image.meta |= {"original_affine": affine, "spatial_shape": np.array(self.STORED)}
        transforms = Compose([*transforms, RequestToClicksd("image")])
        data = transforms({"image": image, "points": points, "point_labels": labels})
        data["image"].meta["options"] = json.dumps({"threshold": threshold})
        batch = list_data_collate([data])
        batch["pred"] = ClickInferer(12, 3.0, **HONOURS)(batch["image"], Stubborn(answer))
        invert = Compose(
            [Invertd("pred", transforms, orig_keys="image", nearest_interp=False), ThresholdLesiond("pred")]
        )
        return invert(decollate_batch(batch)[0])["pred"][0].numpy() > 0

    def honoured(self, mask, points, labels) -> list[bool]:
        return [mask[tuple(v)] == bool(n) for v, n in zip(voxels_under(points, self.STORED), labels, strict=True)]

    @pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
    def test_every_orientation(self, orientation):
        affine = np.diag([0.8, 1.0, 2.5, 1.0]) @ inv_ornt_aff(orientation, self.STORED)
        labels = [1, 1, 0, 1, 1, 0]
        mask = self.mask(affine, [Orientationd("image", "SPL", labels=LABELS)], self.POINTS, labels)
        assert all(self.honoured(mask, self.POINTS, labels))

    @pytest.mark.parametrize("answer", [-5.0, 5.0])
    @pytest.mark.parametrize("pixdim", [2.0, 0.7])
    @pytest.mark.parametrize("threshold", [0.02, 0.5, 0.98])
    def test_a_scan_that_is_resampled(self, answer, pixdim, threshold):
        affine = np.diag([-0.8, -1.0, 2.5, 1.0])
        transforms = [
            Orientationd("image", "SPL", labels=LABELS),
            Spacingd("image", pixdim=(pixdim,) * 3, mode="bilinear"),
        ]
        points, labels = [[7, 8.5, 9], [3, 4, 12], [10.5, 11, 4]], [1, 0, 1]
        mask = self.mask(affine, transforms, points, labels, answer=answer, threshold=threshold)
        assert all(self.honoured(mask, points, labels))


def test_only_clicks_off_the_lesion(caplog):
    values = found(5.0, [[15, 16, 17]], [0])
    assert values[15, 16, 17] < 0
    assert "all clicks lie off the lesion" in caplog.text
    assert "click on it at least once" in caplog.text


def test_one_on_the_lesion_is_enough(caplog):
    found(5.0, [[15, 16, 17], [12, 16, 17]], [0, 1])
    assert caplog.text == ""
