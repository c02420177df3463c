"""ClickInferer against networks whose answer is known."""

from __future__ import annotations

import copy
import json
import pickle
import threading

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, Invertd, Orientationd, Spacing
from oracle import Oracle, as_mask, dice, ellipsoid

from adapters.inferers import BACKGROUND_LOG_ODDS, AutomaticInferer, ClickInferer
from adapters.inferers.embeddings import embeddings_of
from adapters.networks import build_sam_adapter3d
from adapters.prompts import Prompts


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def network() -> Oracle:
    return Oracle()


def at(*points, labels=None, **others) -> Prompts:
    return Prompts(points, labels, **others)


PUBLISHED = {"grow": False, "max_crops": 1}


class TestReach:
    """Two balls in one crop, 12 voxels apart from surface to surface, of which one is clicked."""

    CLICKED, OTHER = (16.0, 16.0, 10.0), (16.0, 16.0, 30.0)

    @pytest.fixture
    def balls(self) -> torch.Tensor:
        clicked, other = (ellipsoid((32, 32, 40), centre, (4.0, 4.0, 4.0)) for centre in (self.CLICKED, self.OTHER))
        return torch.maximum(clicked, other)

    def found(self, scan, network, reach, *points, labels=None) -> tuple[bool, bool]:
        mask = as_mask(ClickInferer(64, reach=reach)(scan, network, at(*points, labels=labels)))[0]
        return tuple(bool(mask[tuple(int(i) for i in centre)]) for centre in (self.CLICKED, self.OTHER))

    @pytest.mark.parametrize(
        ("reach", "points", "expected"),
        [
            (None, [(16, 16, 10)], (True, True)),
            (0.0, [(16, 16, 10)], (True, False)),
            (0.0, [(16, 16, 10), (16, 17, 30)], (True, True)),
            (2.0, [(16, 16, 15)], (True, False)),  # two voxels beside it
            (2.0, [(16, 16, 17)], (False, False)),
            (50.0, [(16, 16, 10)], (True, True)),
        ],
    )
    def test_parts_that_no_click_is_near_are_background(self, network, balls, reach, points, expected):
        assert self.found(balls, network, reach, *points) == expected

    def test_is_in_mm(self, network, balls):
        scan = MetaTensor(balls, affine=torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0])))
        assert self.found(scan, network, 4.0, (16, 16, 16)) == (False, False)
        assert self.found(scan, network, 9.0, (16, 16, 16)) == (True, False)

    def test_clicks_off_the_lesion_reach_nothing(self, network, balls):
        assert self.found(balls, network, 1.0, (16, 16, 10), (16, 16, 30), labels=[1, 0]) == (True, False)
        assert self.found(balls, network, 1.0, (16, 16, 20), labels=[0]) == (True, True)

    def test_what_stays_is_untouched(self, network, balls):
        whole, near = (ClickInferer(64, reach=reach)(balls, network, at((16, 16, 10))) for reach in (None, 0.0))
        assert torch.equal(near[..., :20], whole[..., :20])
        assert as_mask(whole)[..., 20:].any()
        assert not as_mask(near)[..., 20:].any()


class TestCrop:
    def test_is_a_plain_slice_where_spacings_agree(self, network):
        scan = torch.randn(1, 1, 40, 50, 60)
        logits = ClickInferer(16, spacing=1.0, **PUBLISHED)(scan, network, at([20, 25.3, 30], [24, 25, 20]))
        # the middle of the bounding box, [22, 25.15, 25], falls on voxel [22, 25, 25]
        region = (slice(None), slice(None), slice(14, 30), slice(17, 33), slice(17, 33))
        assert torch.equal(network.crops[0], scan[region])
        assert logits.dtype == torch.float16
        assert torch.equal(logits[region], network.forward(scan[region]).half())
        outside = torch.ones(40, 50, 60, dtype=torch.bool)
        outside[region[2:]] = False
        assert logits[0, 0][outside].unique().tolist() == [BACKGROUND_LOG_ODDS]

    def test_clicks_move_with_it(self, network):
        scan = torch.zeros(1, 1, 40, 50, 60)
        prompts = at([20, 25, 30], [24, 26.5, 20], [0, 0, 0], labels=[1, 0, -1])
        ClickInferer(16, **PUBLISHED)(scan, network, prompts)
        assert network.prompts == [([[6, 7, 13], [10, 8.5, 3]], [1, 0])]

    def test_odd_sides(self, network):
        scan = torch.randn(1, 1, 20, 21, 22)
        ClickInferer((5, 7, 9), **PUBLISHED)(scan, network, at([10, 10, 10]))
        assert torch.equal(network.crops[0], scan[:, :, 8:13, 7:14, 6:15])

    @pytest.mark.parametrize(("pad_value", "expected"), [(None, -2.0), (-5.0, -5.0)])
    def test_hangs_over_the_border(self, network, pad_value, expected):
        scan = torch.rand(1, 1, 20, 20, 20)
        scan[0, 0, 19, 19, 19] = -2.0
        ClickInferer(8, pad_value=pad_value, **PUBLISHED)(scan, network, at([0, 10, 10]))
        crop = network.crops[0]
        assert crop[:, :, :4].unique().tolist() == [expected]
        assert torch.equal(crop[:, :, 4:], scan[:, :, :4, 6:14, 6:14])

    def test_kept_inside(self, network):
        scan = torch.rand(1, 1, 20, 20, 5)
        ClickInferer(8, keep_inside=True, **PUBLISHED)(scan, network, at([0, 19, 4]))
        assert torch.equal(network.crops[0][..., 1:6], scan[:, :, :8, 12:])  # 3 voxels of padding: 1 + 2

    @pytest.mark.parametrize(
        ("slices", "thickness", "click", "hanging", "inside"),
        [
            (10, 5.0, -0.4, 8.5, -0.5),  # 2 voxels before the first one
            (10, 5.0, 9.4, 8.5, 15.5),  # 2 behind the last one
            (40, 0.5, 39.4, 8.5, 15.5),  # the last of the 20 voxels ends at 39
            (10, 5.0, -0.1, 8.5, -0.5),  # on the face
            (10, 5.0, 9.0, 8.0, 15.0),
            (10, 5.0, 0.0, 8.0, 0.0),
        ],
    )
    @pytest.mark.parametrize("keep_inside", [False, True])
    def test_holds_clicks_beyond_the_grid(self, network, slices, thickness, click, hanging, inside, keep_inside):
        scan = MetaTensor(torch.rand(1, 1, slices, 30, 30), affine=torch.diag(torch.tensor([thickness, 1.0, 1.0, 1.0])))
        inferer = ClickInferer(16, 1.0, keep_inside=keep_inside, **PUBLISHED)
        inferer(scan, network, at([click, 15, 15]))
        assert network.prompts == [([[inside if keep_inside else hanging, 8, 8]], [1])]

    @pytest.mark.parametrize(
        ("own", "wanted"), [((1.0, 1.0, 1.0), 2.0), ((3.0, 0.8, 0.8), (1.5, 1.6, 1.0)), ((5.0, 0.7, 0.7), 2.0)]
    )
    def test_is_what_spacing_gives_for_the_whole_scan(self, network, own, wanted):
        scan = MetaTensor(torch.rand(1, 24, 40, 44), affine=torch.diag(torch.tensor([*own, 1.0])))
        whole = Spacing(pixdim=np.broadcast_to(wanted, 3), mode="bilinear")(scan)
        centre = [n // 2 for n in whole.shape[1:]]
        click = np.array(centre) * np.broadcast_to(wanted, 3) / own
        ClickInferer(8, spacing=wanted, **PUBLISHED)(scan[None], network, at(click.tolist()))
        region = tuple(slice(c - 4, c + 4) for c in centre)
        torch.testing.assert_close(network.crops[0][0, 0], whole.as_tensor()[0][region], atol=1e-4, rtol=0)


class TestResampling:
    @pytest.mark.parametrize("own", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8), (0.7, 0.7, 5.0)])
    @pytest.mark.parametrize("spacing", [None, 2.0, (1.0, 1.5, 2.0)])
    def test_a_sphere_comes_back_within_a_voxel(self, network, own, spacing):
        turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = turn * own
        affine[:3, 3] = (-50, 30, 7)
        size = tuple(int(70 / s) for s in own)
        centre = tuple(35 / s for s in own)
        truth = ellipsoid(size, centre, tuple(15 / s for s in own))
        scan = MetaTensor(truth, affine=affine)
        logits = ClickInferer((100, 100, 100) if spacing is None else 48, spacing=spacing)(
            scan, network, at(list(centre))
        )
        mask = as_mask(logits)[0]
        for axis, voxel in enumerate(own):
            found = mask.nonzero()[:, axis].float() * voxel
            there = (truth > 0.5)[0, 0].nonzero()[:, axis].float() * voxel
            tolerance = max(voxel, np.max(spacing or 0)) + 1e-3
            assert abs(float(found.mean()) - 35) < 0.5 * tolerance
            assert abs(float(found.min() - there.min())) <= tolerance
            assert abs(float(found.max() - there.max())) <= tolerance
        assert dice(mask, (truth > 0.5)[0, 0]) > 0.93

    def test_affine_of_each_item(self, network):
        items = [
            MetaTensor(torch.rand(1, 20, 20, 20), affine=torch.diag(torch.tensor([s, s, s, 1.0]))) for s in (1.0, 2.0)
        ]
        scan = list_data_collate(items)
        ClickInferer(8, spacing=2.0, **PUBLISHED)(scan, network, [at([10, 10, 10])] * 2)
        torch.testing.assert_close(network.crops[0], scan.as_tensor()[:1, :, 2:18:2, 2:18:2, 2:18:2])
        assert torch.equal(network.crops[1], scan.as_tensor()[1:, :, 6:14, 6:14, 6:14])


LARGE = {"size": (80, 72, 64), "centre": (40.0, 34.0, 32.0), "radii": (27.0, 21.0, 14.0)}


def flat_faces(mask: torch.Tensor) -> int:
    """The largest area of mask that ends in one plane: an ellipsoid's caps are small, a cut is not."""
    largest = 0
    for axis in range(3):
        step = torch.diff(mask.int(), dim=axis).abs()
        others = tuple(a for a in range(3) if a != axis)
        largest = max(largest, int(step.sum(dim=others).max()))
    return largest


class TestGrowth:
    def test_a_lesion_larger_than_its_crop(self, network):
        scan = ellipsoid(**LARGE)
        truth = (scan > 0.5)[0, 0]
        click = at([40, 34, 32])
        cut = as_mask(ClickInferer(32, **PUBLISHED)(scan, network, click))[0]
        whole = as_mask(ClickInferer(32)(scan, network, click))[0]
        assert dice(cut, truth) < 0.85
        assert flat_faces(cut) > 2 * flat_faces(truth)
        assert dice(whole, truth) > 0.999
        assert flat_faces(whole) == flat_faces(truth)

    def test_with_another_spacing(self, network):
        scan = MetaTensor(ellipsoid(**LARGE), affine=torch.diag(torch.tensor([1.0, 1.5, 2.0, 1.0])))
        mask = as_mask(ClickInferer(24, spacing=1.6)(scan, network, at([40, 34, 32])))[0]
        assert dice(mask, (scan.as_tensor() > 0.5)[0, 0]) > 0.97

    def test_prompts_of_a_grown_crop(self, network):
        scan = ellipsoid((64, 40, 40), (32, 20, 20), (24, 8, 8))
        ClickInferer(24, max_crops=2)(scan, network, at([20, 20, 20], [60, 20, 20], labels=[1, 0]))
        (first, first_labels), (second, second_labels) = network.prompts
        assert (first, first_labels) == ([[12, 12, 12]], [1])
        # half a crop further on: it starts at 20; the overlap's 12 voxels hold the mask, its middle gets the click
        # (the user's click lies on that crop's face, too far out to speak for the mask)
        assert second[0] == [0, 12, 12]
        assert second_labels == [1, 1]
        assert 4 <= second[1][0] <= 8
        assert second[1][1:] == [12, 12]
        standing = network.masks[1][0, 0]
        inside = network.crops[1][0, 0] * 40 - 20
        torch.testing.assert_close(standing[:12], inside[:12])
        assert standing[12:].unique().tolist() == [0]
        assert network.masks[0] is None

    def test_a_click_of_the_user_in_the_grown_crop_is_taken(self, network):
        scan = ellipsoid((64, 40, 40), (32, 20, 20), (24, 8, 8))
        ClickInferer(24, max_crops=2)(scan, network, at([16, 20, 20], [26, 21, 20]))
        # the first crop starts at 9, the second at 21
        assert network.prompts == [([[7, 12, 12], [17, 13, 12]], [1, 1]), ([[5, 13, 12]], [1])]

    def test_bound(self, network, caplog):
        scan = torch.ones(1, 1, 64, 64, 64)
        ClickInferer(16, max_crops=3)(scan, network, at([32, 32, 32]))
        assert len(network.crops) == 3
        assert "goes on beyond its 3 crops" in caplog.text

    def test_other_lesions_do_not_grow(self, network):
        scan = torch.maximum(
            ellipsoid((60, 40, 40), (20, 20, 20), (6, 6, 6)), ellipsoid((60, 40, 40), (36, 20, 20), (8, 6, 6))
        )
        ClickInferer(24)(scan, network, at([20, 20, 20]))
        assert len(network.crops) == 1

    def test_does_not_grow_beyond_the_scan(self, network):
        scan = torch.ones(1, 1, 24, 24, 24)
        logits = ClickInferer(24)(scan, network, at([11, 11, 11]))
        assert all(crop.shape[2:] == (24, 24, 24) for crop in network.crops)
        assert as_mask(logits).all()

    def test_a_small_lesion_is_as_published(self, network):
        scan = ellipsoid((50, 50, 50), (20, 25, 30), (6, 5, 4)) + 0.1 * torch.rand(1, 1, 50, 50, 50)
        prompts = at([20, 25, 30], [22, 30, 33], labels=[1, 0])
        published = ClickInferer(24, spacing=1.3, **PUBLISHED)(scan, network, prompts)
        assert torch.equal(published, ClickInferer(24, spacing=1.3)(scan, network, prompts))

    def test_blending_has_no_steps(self):
        class Tilted(Oracle):
            """Disagrees with itself between crops."""

            def decode(self, features, image, prompts=None):
                return super().decode(features, image, prompts) + 8.0 * (len(self.crops) == 2)

        scan = torch.full((1, 1, 64, 24, 24), 0.6)
        logits = ClickInferer(32, max_crops=2)(scan, Tilted(), at([16, 12, 12]))
        line = logits[0, 0, 16:40, 12, 12].float()  # from the first crop through the overlap
        assert float(line.max() - line.min()) > 7.8
        assert float(torch.diff(line).abs().max()) < 2.0


class TestSeveralCrops:
    SCAN = torch.maximum(
        ellipsoid((80, 40, 40), (15, 20, 20), (6, 6, 6)), ellipsoid((80, 40, 40), (65, 20, 20), (7, 6, 5))
    )

    def test_two_far_lesions(self, network):
        logits = ClickInferer(24)(self.SCAN, network, at([15, 20, 20], [65, 20, 20]))
        assert network.prompts == [([[12, 12, 12]], [1]), ([[12, 12, 12]], [1])]
        assert torch.equal(as_mask(logits)[0], (self.SCAN > 0.5)[0, 0])

    def test_far_negative_clicks_get_no_crop(self, network):
        logits = ClickInferer(24)(self.SCAN, network, at([15, 20, 20], [65, 20, 20], labels=[1, 0]))
        assert len(network.crops) == 1
        assert not as_mask(logits)[0, 40:].any()

    def test_negative_clicks_alone_place_the_crop(self, network):
        ClickInferer(24)(self.SCAN, network, at([15, 20, 20], labels=[0]))
        assert network.prompts == [([[12, 12, 12]], [0])]

    def test_published_takes_one(self, network, caplog):
        ClickInferer(24, **PUBLISHED)(self.SCAN, network, at([15, 20, 20], [40, 20, 20], [65, 20, 20]))
        assert network.prompts == [([[12, 12, 12]], [1])]
        assert "2 of 3 clicks lie outside" in caplog.text

    def test_published_with_no_click_in_the_middle(self, network):
        ClickInferer(24, **PUBLISHED)(self.SCAN, network, at([15, 20, 20], [65, 20, 20]))
        assert torch.equal(network.crops[0], self.SCAN[:, :, 53:77, 8:32, 8:32])

    def test_bound(self, network, caplog):
        prompts = at(*[[i, 20, 20] for i in (5, 30, 55, 79)])
        ClickInferer(12, max_crops=2, grow=False)(self.SCAN, network, prompts)
        assert len(network.crops) == 2
        assert "need 4 crops" in caplog.text


def a_training_step(network: Oracle) -> None:
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0)
    with torch.enable_grad():
        network(torch.ones(1, 1, 8, 8, 8)).mean().backward()
    optimizer.step()
    network.eval()


class TestEmbeddings:
    SCAN = ellipsoid((64, 40, 40), (32, 20, 20), (24, 8, 8))

    def test_second_click_is_not_encoded(self, network):
        inferer = ClickInferer(24)
        first = inferer(self.SCAN, network, at([20, 20, 20]))
        encoded = network.encoded
        assert encoded > 1  # it grew
        prompts = at([20, 20, 20], [23, 22, 20], [40, 33, 20], labels=[1, 1, 0])
        second = inferer(self.SCAN, network, prompts, mask=first)
        assert network.encoded == encoded
        assert torch.equal(as_mask(first), as_mask(second))
        # the same as without memory, where it stands on the same crops
        assert len(network.crops) == 2 * encoded

    def test_a_correction_in_a_grown_crop_is_not_encoded(self, network):
        inferer = ClickInferer(24)
        inferer(self.SCAN, network, at([20, 20, 20]))
        encoded = network.encoded
        inferer(self.SCAN, network, at([20, 20, 20], [45, 20, 20]))
        assert network.encoded == encoded

    def test_ten_rounds(self, network):
        inferer = ClickInferer(24)
        rng = np.random.default_rng(0)
        inside = torch.argwhere(self.SCAN[0, 0] > 0.5).float()
        prompts = at([32.0, 20.0, 20.0])
        logits = inferer(self.SCAN, network, prompts)
        encoded = network.encoded
        for _ in range(10):
            prompts = prompts.with_click(inside[rng.integers(len(inside))].numpy())
            logits = inferer(self.SCAN, network, prompts, mask=logits)
        assert network.encoded == encoded
        assert torch.equal(as_mask(logits)[0], (self.SCAN > 0.5)[0, 0])

    def test_other_clicks_start_anew(self, network):
        inferer = ClickInferer(24, grow=False)
        inferer(self.SCAN, network, at([20, 20, 20]))
        inferer(self.SCAN, network, at([22, 20, 20]))
        assert network.prompts[1] == ([[12, 12, 12]], [1])
        assert network.encoded == 2

    def test_outlives_the_inferer(self, network):
        for _ in range(2):
            ClickInferer(24, grow=False)(self.SCAN, network, at([20, 20, 20]))
        assert network.encoded == 1

    @pytest.mark.parametrize(
        ("max_crops", "clicks"),
        [
            (1, [[16, 16, 30], [16, 16, 48]]),
            (2, [[16, 16, 30], [16, 16, 95], [16, 16, 48]]),  # the first and the last click share a crop
        ],
    )
    def test_too_many_kept_crops_start_anew(self, network, caplog, max_crops, clicks):
        scan = torch.stack([ellipsoid((32, 32, 120), click, (4, 4, 4)) for click in clicks]).amax(dim=0)
        inferer = ClickInferer(32, max_crops=max_crops)
        for number in range(1, len(clicks) + 1):
            logits = inferer(scan, network, at(*clicks[:number]))
        assert torch.equal(as_mask(logits)[0], (scan > 0.5)[0, 0])
        assert torch.equal(logits, inferer(scan, Oracle(), at(*clicks)))
        assert caplog.text == ""

    def test_too_many_crops_after_a_new_start(self, network, caplog):
        clicks = [16, 16, 20], [16, 16, 60], [16, 16, 100]
        inferer = ClickInferer(32, max_crops=2, grow=False)
        inferer(torch.ones(1, 1, 32, 32, 120), network, at(*clicks[:2]))
        logits = inferer(torch.ones(1, 1, 32, 32, 120), network, at(*clicks))
        assert as_mask(logits)[0, 16, 16].nonzero()[[0, -1], 0].tolist() == [44, 115]
        assert caplog.text.count("the clicks need 3 crops, the last 2 are predicted") == 1

    def test_published_mode_moves_its_crop(self, network):
        inferer = ClickInferer(24, **PUBLISHED)
        inferer(self.SCAN, network, at([20, 20, 20]))
        inferer(self.SCAN, network, at([20, 20, 20], [24, 20, 20]))
        assert network.prompts[1][0][0] == [10, 12, 12]
        assert network.encoded == 2

    @pytest.mark.parametrize("bound", [0, 1, 2, 5])
    def test_bound(self, network, bound):
        inferer = ClickInferer(8, cache_size=bound, **PUBLISHED)
        for i in (10, 20, 30, 40):
            inferer(self.SCAN, network, at([i, 20, 20]))
        assert len(embeddings_of(network)) == min(bound, 4)
        inferer(self.SCAN, network, at([40, 20, 20]))
        assert network.encoded == (4 if bound else 5)
        inferer(self.SCAN, network, at([30, 20, 20]))
        assert network.encoded == {0: 6, 1: 5, 2: 4, 5: 4}[bound]

    @pytest.mark.parametrize(
        "change",
        [a_training_step, lambda n: n.load_state_dict({"sharpness": torch.tensor(3.0)}), ClickInferer.forget],
        ids=["training step", "load_state_dict", "forget"],
    )
    def test_goes_with_the_weights(self, network, change):
        inferer = ClickInferer(8, **PUBLISHED)
        inferer(self.SCAN, network, at([20, 20, 20]))
        change(network)
        assert len(embeddings_of(network)) == 0
        logits = inferer(self.SCAN, network, at([20, 20, 20]))
        region = (slice(None), slice(None), slice(16, 24), slice(16, 24), slice(16, 24))
        assert torch.equal(logits[region], network.forward(self.SCAN[region]).half())
        assert len(embeddings_of(network)) == 1

    def test_stays_where_a_network_in_eval_is_put_into_eval(self, network):
        for _ in range(2):
            network.eval()  # as MONAI's evaluator does for each scan
            ClickInferer(8, **PUBLISHED)(self.SCAN, network, at([20, 20, 20]))
        assert network.encoded == 1

    def test_a_copy_of_the_network_has_none(self, network):
        ClickInferer(8, **PUBLISHED)(self.SCAN, network, at([20, 20, 20]))
        assert len(embeddings_of(copy.deepcopy(network))) == 0
        assert len(embeddings_of(pickle.loads(pickle.dumps(network)))) == 0
        assert len(embeddings_of(network)) == 1

    def test_goes_with_the_content(self, network):
        inferer = ClickInferer(8, **PUBLISHED)
        scan = self.SCAN.clone()
        inferer(scan, network, at([20, 20, 20]))
        scan[0, 0, 20, 20, 20] = 0
        logits = inferer(scan, network, at([20, 20, 20]))
        assert network.encoded == 2
        assert float(logits[0, 0, 20, 20, 20]) == -20

    @pytest.mark.parametrize("case", ["training", "gradients"])
    def test_keeps_nothing_while_training(self, network, case):
        network.train(case == "training")
        with torch.set_grad_enabled(case == "gradients"):
            for _ in range(2):
                logits = ClickInferer(24)(self.SCAN, network, at([20, 20, 20]))
        assert logits.requires_grad == (case == "gradients")
        assert network.encoded == len(network.crops)
        assert len(embeddings_of(network)) == 0

    def test_threads(self, network):
        inferer = ClickInferer(16, cache_size=3, grow=False)
        places = [[i, 20, 20] for i in range(8, 56, 6)]
        expected = [inferer(self.SCAN, Oracle(), at(p)) for p in places]
        errors: list[str] = []

        def work(order: np.ndarray) -> None:
            with torch.no_grad():
                for i in order:
                    if not torch.equal(inferer(self.SCAN, network, at(places[i])), expected[i]):
                        errors.append(f"place {i}")

        rng = np.random.default_rng(0)
        threads = [threading.Thread(target=work, args=(rng.permutation(len(places)),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(embeddings_of(network)) == 3


class TestMask:
    def test_is_resampled_into_the_crop(self, network):
        scan = torch.zeros(1, 1, 40, 40, 40)
        mask = torch.linspace(-5, 5, 40).reshape(1, 1, 40, 1, 1).expand(1, 1, 40, 40, 40)
        ClickInferer(8, spacing=2.0, **PUBLISHED)(scan, network, at([20, 20, 0]), mask=mask)
        given = network.masks[0]
        torch.testing.assert_close(given[0, 0, :, 4, 6], mask[0, 0, 12:28:2, 0, 0])
        assert given[0, 0, :, :, :4].unique().tolist() == [-20]  # outside the scan


class TestMeta:
    @pytest.mark.parametrize("form", ["alone", "collated"])
    def test_prompts_are_read(self, network, form):
        image = MetaTensor(torch.rand(1, 20, 20, 20))
        image.meta["prompts"] = at([10.0, 10.0, 10.0], [0, 0, 0], labels=[1, -1]).to_json()
        inputs = list_data_collate([image]) if form == "collated" else image[None]
        ClickInferer(8)(inputs, network)
        assert network.prompts[0] == ([[4, 4, 4]], [1])

    def test_each_item_of_a_batch_has_its_own(self, network):
        """Another number of clicks, and other options."""
        images = [MetaTensor(torch.rand(1, 20, 20, 20)) for _ in range(3)]
        clicks = [at([10, 10, 10]), at([4, 4, 4], [5, 5, 5], labels=[1, 0]), at([12, 12, 12])]
        for image, each, options in zip(images, clicks, ({}, {"grow": False}, {"reach": 0.0}), strict=True):
            image.meta |= {"prompts": each.to_json(), "options": json.dumps(options)}
        together = ClickInferer(8)(list_data_collate(images), network)
        asked = list(network.prompts)
        for image, each in zip(images, together, strict=True):
            assert torch.equal(ClickInferer(8)(image[None], Oracle())[0], each)
        assert ([[4, 4, 4], [5, 5, 5]], [1, 0]) in asked

    def test_result_can_be_inverted(self, network):
        affine = torch.tensor([[0, 0, 1.5, 3], [0, -2.0, 0, 5], [1.0, 0, 0, 7], [0, 0, 0, 1]])
        truth = ellipsoid((50, 40, 44), (20, 18, 25), (9, 6, 7))
        stored = {"image": MetaTensor(truth[0], affine=affine)}
        orient = Compose([Orientationd("image", "SPL", labels=(("L", "R"), ("P", "A"), ("I", "S")))])
        data = orient(stored)
        click = np.linalg.inv(data["image"].affine.numpy()) @ affine.numpy() @ [20, 18, 25, 1]
        data["image"].meta["prompts"] = at(click[:3]).to_json()
        batch = list_data_collate([data])
        batch["pred"] = ClickInferer(24, spacing=2.0)(batch["image"], network)
        assert isinstance(batch["pred"], MetaTensor)
        item = Invertd("pred", orient, orig_keys="image", nearest_interp=False)(decollate_batch(batch)[0])
        assert item["pred"].shape == (1, 50, 40, 44)
        np.testing.assert_allclose(item["pred"].affine, affine, atol=1e-6)
        assert dice(as_mask(item["pred"][None])[0], truth[0, 0] > 0.5) > 0.9

    def test_plain_in_plain_out(self, network):
        logits = ClickInferer(8)(torch.zeros(1, 1, 9, 9, 9), network, at([4, 4, 4]))
        assert type(logits) is torch.Tensor
        assert logits.dtype == torch.float16


class TestPromptKinds:
    def test_a_box_is_held_by_one_crop(self, network):
        box = at(boxes=[[[10, 12, 14], [20, 22, 24]]])
        ClickInferer(16, **PUBLISHED)(torch.rand(1, 1, 40, 40, 40), network, box)
        assert network.boxes == [[[[3, 3, 3], [13, 13, 13]]]]
        assert network.prompts == [([], [])]

    def test_a_box_larger_than_a_crop_is_cut_to_it(self, network):
        box = at(boxes=[[[5, 16, 16], [35, 24, 24]]])
        ClickInferer(16, **PUBLISHED)(torch.rand(1, 1, 40, 40, 40), network, box)
        assert network.boxes == [[[[0, 4, 4], [15, 12, 12]]]]

    @pytest.mark.parametrize(
        ("prompts", "kind"), [(at(phrases=["cyst"]), "text"), (at(boxes=[[[0, 0, 0], [1, 1, 1]]]), "boxes")]
    )
    def test_a_kind_that_the_network_does_not_take_is_refused(self, prompts, kind):
        network = Oracle()
        network.takes = frozenset({"points"})
        with pytest.raises(ValueError, match=f"{kind} were given, and the network takes none"):
            ClickInferer(8)(SCAN, network, prompts)

    def test_a_network_that_takes_no_mask_sees_none(self, network):
        network.takes = frozenset({"points"})
        scan = ellipsoid((64, 40, 40), (32, 20, 20), (24, 8, 8))
        ClickInferer(24, max_crops=2)(scan, network, at([20, 20, 20]), mask=torch.zeros_like(scan))
        assert network.masks == [None, None]

    def test_clicks_in_world_land_on_their_voxel(self, network):
        affine = np.array([[0, 0, 1.5, 3], [0, -2.0, 0, 5], [1.0, 0, 0, 7], [0, 0, 0, 1]])
        scan = MetaTensor(torch.rand(1, 1, 20, 20, 20), affine=torch.from_numpy(affine))
        world = at(*(affine[:3, :3] @ [9, 10, 11] + affine[:3, 3])[None], frame="world")
        ClickInferer(8, **PUBLISHED)(scan, network, world)
        assert network.prompts == [([[4, 4, 4]], [1])]
        assert torch.equal(network.crops[0], scan.as_tensor()[:, :, 5:13, 6:14, 7:15])


class TestTwoAxes:
    """The same rules on images (B, C, H, W)."""

    class Flat(Oracle):
        spatial_dims = 2

    def test_grows_over_its_crop(self):
        disc = ellipsoid((80, 72), (40.0, 34.0), (27.0, 21.0))
        network = self.Flat()
        found = ClickInferer(32, spatial_dims=2)(disc, network, at([40.0, 34.0]))
        assert found.shape == (1, 1, 80, 72)
        assert len(network.crops) > 1
        assert dice(as_mask(found)[0], (disc > 0.5)[0, 0]) > 0.999

    def test_resampled_channels_and_reach(self):
        network = self.Flat()
        network.in_channels = 3
        balls = torch.maximum(ellipsoid((40, 60), (20, 15), (6, 6)), ellipsoid((40, 60), (20, 45), (6, 6)))
        scan = MetaTensor(balls.expand(1, 3, -1, -1).clone(), affine=torch.diag(torch.tensor([2.0, 2.0, 1.0, 1.0])))
        inferer = ClickInferer(32, spacing=4.0, spatial_dims=2, reach=4.0)
        network.logits = lambda features, image, prompts=None: 2 * features[:, :1] - network.sharpness
        mask = as_mask(inferer(scan, network, at([20.0, 15.0])))[0]
        assert network.crops[0].shape == (1, 3, 32, 32)
        assert mask[20, 15]
        assert not mask[:, 30:].any()

    def test_automatic(self):
        disc = ellipsoid((60, 50), (30.0, 24.0), (14.0, 9.0))
        automatic = AutomaticInferer(24, spatial_dims=2)
        found = ClickInferer(24, spatial_dims=2, automatic=automatic)(disc, self.Flat())
        assert torch.equal(as_mask(found)[0], (disc > 0.5)[0, 0])


class TestForm:
    """One channel of log-odds in half precision, rounded once."""

    @pytest.mark.parametrize("keep_mask", [False, True])
    def test_outside_the_crops(self, network, keep_mask):
        mask = torch.randn(1, 1, 40, 36, 36) * 4
        prompts = at([4.0, 4, 4], [30, 30, 30])
        odds = ClickInferer(12, keep_mask=keep_mask, grow=False)(
            torch.rand(1, 1, 40, 36, 36), network, prompts, mask=mask
        )
        assert (odds.shape, odds.dtype) == ((1, 1, 40, 36, 36), torch.float16)
        assert odds[0, 0, 39, 0, 0] == (mask[0, 0, 39, 0, 0].half() if keep_mask else -20.0)

    def test_finite(self):
        def network(crop, prompts):
            return crop * 1e6

        odds = ClickInferer(8, **PUBLISHED)(torch.ones(1, 1, 8, 8, 8), network, at([4, 4, 4]))
        assert torch.equal(odds, torch.full_like(odds, torch.finfo(torch.float16).max))


class TestWithoutClicks:
    def test_automatic(self, network):
        scan = torch.rand(1, 1, 30, 30, 30)
        inferer = ClickInferer(16, automatic=AutomaticInferer(16))
        expected = SlidingWindowInferer(16, overlap=0.5, mode="gaussian")(scan, network)
        found = inferer(scan, network)
        torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=2**-11)
        assert torch.equal(inferer(scan, network, at()), found)

    def test_any_inferer_gets_the_resampled_scan(self, network):
        scan = ellipsoid((40, 40, 40), (20, 20, 20), (9, 8, 7))
        inferer = ClickInferer(16, spacing=2.0, automatic=SlidingWindowInferer(16))
        seen: list[tuple] = []
        network.register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape)))
        mask = as_mask(inferer(scan, network))[0]
        assert dice(mask, (scan > 0.5)[0, 0]) > 0.95
        assert len(seen) == 8  # 20 voxels of 2 mm

    def test_items_without_clicks_among_others(self, network):
        scan = torch.rand(2, 1, 20, 20, 20)
        prompts = [at([10, 10, 10], labels=[-1]), at([10, 10, 10])]
        logits = ClickInferer(8, automatic=AutomaticInferer(20))(scan, network, prompts)
        torch.testing.assert_close(logits[:1], network.forward(scan[:1]).half())
        assert network.prompts[0] == ([[4, 4, 4]], [1])

    @pytest.mark.parametrize("channels", [1, 2])
    def test_any_inferer_may_give_log_odds_or_logits(self, network, channels):
        class Other(SlidingWindowInferer):
            def __call__(self, inputs, network):
                return torch.cat([-inputs, inputs], dim=1) if channels == 2 else 2 * inputs

        scan = torch.rand(1, 1, 20, 20, 20)
        assert torch.equal(ClickInferer(8, automatic=Other(8))(scan, network), (2 * scan).half())

    def test_another_number_of_channels(self, network):
        class Three(SlidingWindowInferer):
            def __call__(self, inputs, network):
                return inputs.expand(-1, 3, -1, -1, -1)

        with pytest.raises(ValueError, match=r"automatic inference returned \(1, 3, 20, 20, 20\): expected"):
            ClickInferer(8, automatic=Three(8))(torch.rand(1, 1, 20, 20, 20), network)


class TestNetworks:
    def test_without_encode(self):
        def network(crop, prompts):
            return torch.cat([-crop, crop], dim=1)

        scan = torch.rand(1, 1, 20, 20, 20)
        logits = ClickInferer(8, **PUBLISHED)(scan, network, at([10, 10, 10]))
        assert torch.equal(logits[:, :, 6:14, 6:14, 6:14], 2 * scan[:, :, 6:14, 6:14, 6:14].half())

    def test_sam_adapter(self):
        network = build_sam_adapter3d("tiny", crop_size=32).eval()
        scan = torch.randn(1, 1, 40, 40, 40)
        prompts = at([20, 20, 20], [22, 15, 20], labels=[1, 0])
        logits = ClickInferer(32, **PUBLISHED)(scan, network, prompts)
        # bounding box [20, 15, 20] to [22, 20, 20]: middle [21, 17.5, 20], crop from [5, 1, 4]
        start = torch.tensor([5, 1, 4])
        region = tuple(slice(int(s), int(s) + 32) for s in start)
        crop = scan[(slice(None), slice(None), *region)]
        tensors = Prompts(prompts.points - start.numpy(), prompts.labels).as_tensors()
        expected = network.decode(network.encode(crop), crop, tensors).half()
        assert torch.equal(logits[(slice(None), slice(None), *region)], expected)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_another_device(self):
        network = Oracle().cuda()
        scan = ellipsoid(**LARGE)
        logits = ClickInferer(32)(scan, network, at([40, 34, 32]))
        assert logits.device.type == "cpu"
        assert dice(as_mask(logits)[0], (scan > 0.5)[0, 0]) > 0.999
        automatic = AutomaticInferer(32, spacing=1.5)(scan, network)
        assert automatic.device.type == "cpu"


SCAN = torch.zeros(1, 1, 20, 20, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": torch.zeros(1, 1, 20, 20)}, r"shape \(1, 1, 20, 20\): expected \(B, 1, D, H, W\)"),
        ({"inputs": torch.zeros(1, 2, 20, 20, 20)}, r"shape \(1, 2, 20, 20, 20\): expected"),
        ({"inputs": MetaTensor(SCAN, affine=torch.diag(torch.tensor([1.0, 0, 1, 1])))}, "affine is singular"),
        ({"prompts": at([20, 5, 5])}, r"click 0 at \[20.0, 5.0, 5.0\] is outside the grid of shape \(20, 20, 20\)"),
        ({"prompts": at([-0.6, 5, 5])}, "is outside the grid"),
        ({"prompts": at([5, 5])}, r"points have shape \(1, 2\), expected \(N, 3\)"),
        ({"prompts": at([5, 5, 5], frame="crop")}, "prompts are in the 'crop' frame, expected 'image'"),
        ({"prompts": [at([5, 5, 5])] * 2}, "prompts are for 2 items, the inputs have 1"),
        ({"prompts": [[[5, 5, 5]]]}, r"expected adapters\.prompts\.Prompts"),
        ({"prompts": at([5, 5, 5], labels=[-1])}, "there is no click"),
        ({"prompts": None}, "there is no click: give at least one"),
        ({"mask": torch.zeros(1, 1, 8, 8, 8)}, r"mask has shape \(1, 1, 8, 8, 8\): expected \(1, 1, 20, 20, 20\)"),
        ({"network": lambda crop, _: crop[..., :4]}, r"shape \(1, 1, 8, 8, 4\): expected \(1, 1, 8, 8, 8\)"),
    ],
)
def test_bad_input(arguments, message):
    given = {"inputs": SCAN, "network": Oracle(), "prompts": at([5, 5, 5]), **arguments}
    with pytest.raises(ValueError, match=message):
        ClickInferer(8)(**given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_size": 0}, "crop_size is 0"),
        ({"crop_size": (8, 8)}, r"crop_size is \(8, 8\)"),
        ({"spacing": -1.0}, "spacing is -1.0"),
        ({"spacing": (1.0, 2.0)}, r"spacing is \(1.0, 2.0\)"),
        ({"max_crops": 0}, "max_crops is 0"),
        ({"cache_size": -1}, "cache_size is -1"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"automatic": "sliding"}, "automatic is 'sliding'"),
        ({"reach": -1.0}, "reach is -1.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClickInferer(**{"crop_size": 8, **arguments})


class TestOptions:
    """A request's own options come before the inferer's, for that request."""

    def scan(self, **options) -> MetaTensor:
        ball = ellipsoid((20, 20, 60), (10, 10, 30), (6.0, 6.0, 24.0))
        return MetaTensor(ball, meta={"prompts": at([10.0, 10.0, 30.0]).to_json(), "options": json.dumps(options)})

    def test_the_same_as_arguments(self, network):
        inferer = ClickInferer(20, max_crops=4)
        whole = as_mask(inferer(self.scan(), network))
        alone = as_mask(inferer(self.scan(grow=False, max_crops=1), network))
        assert torch.equal(alone, as_mask(ClickInferer(20, **PUBLISHED)(self.scan(), network)))
        assert alone.sum() < whole.sum()
        assert torch.equal(as_mask(inferer(self.scan(), network)), whole)

    def test_the_other_arguments_stay(self, network):
        """A mask to start from stands outside the crops with options as without."""
        stands = torch.full((1, 1, 20, 20, 60), -10.0)
        stands[..., :4] = 10.0
        inferer = ClickInferer(20, **PUBLISHED, keep_mask=True)
        plain, given = (inferer(self.scan(**o), network, mask=stands) for o in ({}, {"max_crops": 1}))
        assert as_mask(given)[..., :4].all()
        assert torch.equal(as_mask(given), as_mask(plain))

    def test_as_a_loader_gives_them(self, network):
        batch = list_data_collate([{"image": self.scan(grow=False, max_crops=1, threshold=0.5)[0]}])["image"]
        expected = ClickInferer(20, **PUBLISHED)(self.scan(), network)
        assert torch.equal(as_mask(ClickInferer(20)(batch, network)), as_mask(expected))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"threshold": 1.5}, "threshold is 1.5: expected a probability"),
            ({"max_crops": 0}, "max_crops is 0"),
            ({"spacing": 2.0}, "option 'spacing' is unknown, expected one of grow, max_crops, reach, threshold"),
        ],
    )
    def test_bad_options(self, options, message, network):
        with pytest.raises(ValueError, match=message):
            ClickInferer(20)(self.scan(**options), network)


def test_of_answers_that_are_not_numbers_no_mask_is_made() -> None:
    """Finite weights may give them too."""
    network = Oracle()
    with torch.no_grad():
        network.sharpness.fill_(3e38)
    image = torch.full((1, 1, 24, 24, 24), 5.0)
    inferer = ClickInferer(16, automatic=AutomaticInferer(16))
    for prompts in (Prompts([[12, 12, 12]], [1]), None):
        with torch.no_grad(), pytest.raises(ValueError, match="the network gives NaN or infinite values"):
            inferer(image, network if prompts else lambda crops: crops * torch.inf * 0, prompts)
