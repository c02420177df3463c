"""Where crops go, without a network: in three axes and in two."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.inferers.grid import Grid, Window
from adapters.inferers.nearness import beyond_reach
from adapters.inferers.placing import Contact, CropPlacing, PlacedMask, Step, placed_mask, seed_click, well_inside
from adapters.prompts import Prompts


def grid(*size: int, spacing: float = 1.0) -> Grid:
    return Grid.of(size, np.diag([spacing] * len(size) + [1.0]), None)


def starts(windows: list[Window]) -> list[tuple[int, ...]]:
    return [window.start for window in windows]


class TestFirstWindows:
    @pytest.mark.parametrize(
        ("points", "labels", "expected"),
        [
            ([[20, 20, 20]], [1], [(12, 12, 12)]),
            ([[20, 20, 20], [25, 21, 20]], [1, 0], [(14, 12, 12)]),  # the middle of both, [22.5, 20.5, 20]
            ([[20, 20, 20], [60, 20, 20]], [1, 1], [(12, 12, 12), (52, 12, 12)]),
            ([[20, 20, 20], [60, 20, 20], [24, 20, 20]], [1, 1, 1], [(14, 12, 12), (52, 12, 12)]),
            ([[20, 20, 20], [60, 20, 20]], [1, 0], [(12, 12, 12)]),  # far clicks off the lesion get none
            ([[20, 20, 20], [60, 20, 20]], [0, 0], [(12, 12, 12), (52, 12, 12)]),
        ],
    )
    def test_clicks(self, points, labels, expected):
        placing = CropPlacing((16, 16, 16), max_crops=8)
        assert starts(placing.first_windows(grid(80, 40, 40), Prompts(points, labels))) == expected

    @pytest.mark.parametrize(
        ("box", "expected"),
        [
            ([[10, 10, 10], [20, 22, 24]], (7, 8, 9)),  # its middle, [15, 16, 17], is the crop's
            ([[0, 10, 10], [40, 22, 24]], (12, 8, 9)),  # too large for a crop: its middle again
        ],
    )
    def test_a_box(self, box, expected):
        placing = CropPlacing((16, 16, 16), max_crops=8)
        assert starts(placing.first_windows(grid(80, 40, 40), Prompts(boxes=[box]))) == [expected]

    def test_one_crop_holds_what_it_can(self):
        placing = CropPlacing((16, 16, 16))
        far = Prompts([[20, 20, 20], [60, 20, 20]])
        assert starts(placing.first_windows(grid(80, 40, 40), far)) == [(52, 12, 12)], "the last click's"
        three = Prompts([[20, 20, 20], [40, 20, 20], [60, 20, 20]])
        assert starts(placing.first_windows(grid(80, 40, 40), three)) == [(32, 12, 12)], "that of all"

    def test_kept_crops_serve_again_where_clicks_lie_well_inside(self):
        placing = CropPlacing((16, 16, 16), max_crops=8)
        kept = [Window((10, 12, 12), placing.crop_size)]
        assert starts(placing.first_windows(grid(80, 40, 40), Prompts([[20, 20, 20]]), kept)) == [(10, 12, 12)]
        assert starts(placing.first_windows(grid(80, 40, 40), Prompts([[25, 20, 20]]), kept)) == [(17, 12, 12)]

    def test_inside_the_scan(self):
        placing = CropPlacing((16, 16, 16), keep_inside=True)
        windows = placing.first_windows(grid(40, 40, 10), Prompts([[2, 39, 5]]))
        assert starts(windows) == [(0, 24, -3)], "the scan of 10 voxels lies in the middle of 16"

    def test_two_axes(self):
        windows = CropPlacing((16, 8), max_crops=4).first_windows(grid(80, 40), Prompts([[20, 20], [60, 20]]))
        assert starts(windows) == [(12, 16), (52, 16)]


class TestGrowth:
    def rod(self) -> PlacedMask:
        """A rod along the first axis that leaves its crop on both sides, beside a part that no click means."""
        lesion = np.zeros((16, 16, 16), dtype=bool)
        lesion[:, 6:9, 6:9] = True
        lesion[12:, 12:, 12:] = True
        return placed_mask(grid(40, 16, 16), Window((12, 0, 0), (16, 16, 16)), lesion, np.array([[8.0, 7, 7]]))

    def test_contacts_are_those_of_the_part_that_is_meant(self):
        mask = self.rod()
        assert [(contact.axis, contact.forward) for contact in mask.contacts] == [(0, False), (0, True)]
        assert mask.lesion.sum() == 16 * 9
        np.testing.assert_array_equal(np.unique(mask.contacts[0].beyond[:, 0]), [11])
        np.testing.assert_array_equal(np.unique(mask.contacts[1].beyond[:, 0]), [28])

    def test_faces_of_the_scan_are_no_contacts(self):
        lesion = np.ones((16, 16, 16), dtype=bool)
        mask = placed_mask(grid(16, 16, 16), Window((0, 0, 0), (16, 16, 16)), lesion, np.zeros((0, 3)))
        assert mask.contacts == ()

    def test_the_next_crop_lies_half_a_crop_further(self):
        placing = CropPlacing((16, 16, 16), max_crops=8)
        step = placing.next_step(grid(40, 16, 16), [self.rod()])
        assert step is not None
        assert (step.window.start, step.contact.forward) == ((4, 0, 0), False)
        covered = PlacedMask(step.window, np.zeros((16, 16, 16), dtype=bool))
        step = placing.next_step(grid(40, 16, 16), [self.rod(), covered])
        assert step is not None
        assert (step.window.start, step.contact.forward) == ((20, 0, 0), True)
        both = [self.rod(), covered, PlacedMask(step.window, covered.lesion)]
        assert placing.next_step(grid(40, 16, 16), both) is None

    def test_a_kept_crop_is_taken_where_it_reaches_far_enough(self):
        placing = CropPlacing((16, 16, 16), max_crops=8)
        for start, expected in (((7, 0, 0), (7, 0, 0)), ((10, 0, 0), (4, 0, 0))):
            step = placing.next_step(grid(40, 16, 16), [self.rod()], [Window(start, (16, 16, 16))])
            assert step is not None
            assert step.window.start == expected

    def test_the_seed_is_the_innermost_voxel_of_the_overlap(self):
        mask = self.rod()
        step = Step(Window((4, 0, 0), (16, 16, 16)), mask, mask.contacts[0])
        seed = seed_click(grid(40, 16, 16), step, np.zeros((0, 3)))
        assert seed is not None
        np.testing.assert_array_equal(seed[1:], [7, 7])
        assert 8 <= seed[0] < 16
        assert seed_click(grid(40, 16, 16), step, np.array([[10.0, 7, 7]])) is None, "a click says it already"

    def test_without_an_overlap_the_seed_is_the_middle_of_the_contact(self):
        parent = PlacedMask(Window((0, 0), (8, 8)), np.zeros((8, 8), dtype=bool))
        contact = Contact(0, forward=True, beyond=np.array([[8, 2], [8, 3], [8, 4]]))
        seed = seed_click(grid(30, 8), Step(Window((8, 0), (8, 8)), parent, contact), np.zeros((0, 2)))
        np.testing.assert_array_equal(seed, [0, 3])


def test_well_inside_minds_faces_beyond_which_the_scan_goes_on():
    points = np.array([[0.0, 8], [1, 8], [13, 8], [14, 8]])
    assert well_inside(Window((0, 0), (16, 16)), grid(16, 16), points).tolist() == [True] * 4
    assert well_inside(Window((0, 0), (16, 16)), grid(40, 16), points).tolist() == [True, True, True, False]
    moved = points + np.array([10, 0])
    assert well_inside(Window((10, 0), (16, 16)), grid(40, 16), moved).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("reach", "spared", "expected"),
    [
        (0.0, None, [False, True]),
        (2.4, None, [False, True]),
        (2.6, None, [False, False]),  # 3 mm, less half a voxel of 1 mm
        (0.0, [1, 7], [False, False]),
    ],
)
def test_what_is_beyond_reach(reach: float, spared: list[int] | None, expected: list[bool]) -> None:
    """Two parts of two voxels each in a row of 1 mm by 0.5 mm; the click is in the first one."""
    lesion = np.zeros((3, 10), dtype=bool)
    lesion[1, 1:3] = lesion[1, 7:9] = True
    keep = None
    if spared is not None:
        keep = np.zeros_like(lesion)
        keep[tuple(spared)] = True
    far = beyond_reach(lesion, np.array([[1.0, 1.0]]), np.array([1.0, 0.5]), reach, spared=keep)
    assert [bool(far[1, 1]), bool(far[1, 8])] == expected
    assert not far[~lesion].any()
