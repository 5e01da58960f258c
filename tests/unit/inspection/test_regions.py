import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from afr_clip.inspection.calibration import Decision
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import Hint, Region, find_regions, outline, run_lengths
from helpers.outlines import filled

LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.75])
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))
MASKS = arrays(np.bool_, SHAPES)
MAPS = arrays(np.float32, SHAPES, elements=LEVELS)


def slow_regions(scores, high, low):
    """Flood every region from its first pixel, as a set of pixels."""
    left = {(y, x) for y, x in np.ndindex(scores.shape) if scores[y, x] >= low}
    found = []
    while left:
        region, front = set(), {left.pop()}
        while front:
            region |= front
            around = {(y + dy, x + dx) for y, x in front for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
            front = around & left
            left -= front
        if max(scores[pixel] for pixel in region) >= high:
            found.append(frozenset(region))
    return set(found)


def pixels_of(region):
    x, y, _, _ = region.box
    return frozenset((int(row) + y, int(column) + x) for row, column in zip(*np.nonzero(region.mask), strict=True))


def signed_area(ring):
    return sum(x * to_y - to_x * y for (x, y), (to_x, to_y) in zip(ring, (*ring[1:], ring[0]), strict=True)) / 2


@given(MAPS, st.sampled_from([0.25, 0.5, 0.75]), LEVELS)
def test_regions_are_those_of_a_slow_flood(scores, high, low):
    high, low = max(high, low), min(high, low)
    regions = find_regions(scores, high, low)
    assert {pixels_of(region) for region in regions} == slow_regions(scores, high, low)
    for region in regions:
        inside = [scores[pixel] for pixel in pixels_of(region)]
        rows, columns = zip(*pixels_of(region), strict=True)
        assert region.area_px == len(inside)
        assert region.peak == max(inside)
        assert region.mean == pytest.approx(math.fsum(inside) / len(inside))
        assert region.box == (
            *(min(columns), min(rows)),
            *(max(columns) - min(columns) + 1, max(rows) - min(rows) + 1),
        )
    peaks = [region.peak for region in regions]
    assert peaks == sorted(peaks, reverse=True)


@given(MAPS)
def test_turning_the_map_turns_its_regions(scores):
    def areas(turned):
        return Counter((r.area_px, r.peak, round(r.mean, 9), len(r.polygons)) for r in find_regions(turned, 0.5, 0.25))

    for turned in (scores[::-1], scores[:, ::-1], np.rot90(scores), scores.T, np.pad(scores, ((2, 0), (3, 1)))):
        assert areas(np.ascontiguousarray(turned)) == areas(scores)


@given(MASKS, st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=300)
def test_an_outline_filled_gives_the_mask(mask, x, y):
    polygons = outline(mask, x, y)
    whole = np.pad(mask, ((y, 1), (x, 1)))
    np.testing.assert_array_equal(filled(polygons, *whole.shape), whole)
    areas = [signed_area(ring) for ring in polygons]
    assert sum(areas) == mask.sum()
    assert [area > 0 for area in areas] == sorted((area > 0 for area in areas), reverse=True)  # holes come last
    for ring in polygons:
        assert len(set(ring)) == len(ring) >= 4  # it does not touch itself
        for (ax, _), (bx, _), (cx, _) in zip(ring, (*ring[1:], ring[0]), (*ring[2:], *ring[:2]), strict=True):
            assert (ax == bx) != (bx == cx)  # and it turns at every corner


@pytest.mark.parametrize(
    ("rows", "num_outer", "num_holes"),
    [
        (["#"], 1, 0),
        (["#.", ".#"], 2, 0),
        ([".#", "#."], 2, 0),
        (["###", "#.#", "###"], 1, 1),
        (["####", "#.##", "##.#", "####"], 1, 2),
        (["###", "#.#", "##."], 1, 1),  # the hole opens to the outside at a corner only
        (["#####", "#...#", "#.#.#", "#...#", "#####"], 2, 1),
    ],
)
def test_rings_of_small_masks(rows, num_outer, num_holes):
    areas = [signed_area(ring) for ring in outline(np.array([[pixel == "#" for pixel in row] for row in rows]))]
    assert (sum(area > 0 for area in areas), sum(area < 0 for area in areas)) == (num_outer, num_holes)


def test_a_frame_of_known_size():
    scores = np.zeros((20, 30), np.float32)
    scores[5:10, 8:14] = 0.5
    scores[7, 10] = 0.1
    scores[5, 8] = 0.75
    (region,) = find_regions(scores, high=0.75, low=0.5, mm_per_pixel=0.5)
    assert region.box == (8, 5, 6, 5)
    assert region.polygons == (
        ((8.0, 5.0), (14.0, 5.0), (14.0, 10.0), (8.0, 10.0)),
        ((10.0, 7.0), (10.0, 8.0), (11.0, 8.0), (11.0, 7.0)),
    )
    assert (region.area_px, region.area_mm2, region.peak) == (29, 29 / 4, 0.75)
    assert region.mean == (28 * 0.5 + 0.75) / 29


@pytest.mark.parametrize(("value", "number"), [(0.0, 0), (1.0, 1)])
def test_an_empty_and_a_full_map(value, number):
    regions = find_regions(np.full((6, 7), value, np.float32), 0.5, 0.25)
    assert [(region.box, region.area_px) for region in regions] == [((0, 0, 7, 6), 42)] * number


def test_small_regions_are_dropped_by_square_millimetres():
    scores = np.zeros((5, 9), np.float32)
    scores[0, 0] = scores[2, 2:4] = scores[4, 5:9] = 1

    def areas(**limits):
        return sorted(region.area_px for region in find_regions(scores, 0.5, 0.5, **limits))

    assert areas() == [1, 2, 4]
    assert areas(mm_per_pixel=0.5, min_area_mm2=0.5) == [2, 4]
    assert areas(mm_per_pixel=0.1, min_area_mm2=0.04) == [4]
    assert areas(mm_per_pixel=10.0, min_area_mm2=0.0) == [1, 2, 4]


@pytest.mark.parametrize("low", [0.9, math.nan])
def test_a_low_threshold_above_the_high_one_is_refused(low):
    with pytest.raises(ValueError, match=f"low must not exceed high, got low={low} and high=0.5"):
        find_regions(np.ones((2, 2), np.float32), 0.5, low)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_map_with_nan_is_refused(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        find_regions(np.array([[0.0, value]], np.float32), 0.5, 0.5)


@given(MASKS)
def test_run_lengths_give_the_mask(mask):
    runs = run_lengths(mask)
    assert sum(runs) == mask.size
    assert all(run > 0 for run in runs[1:])
    pixels = [bool(i % 2) for i, run in enumerate(runs) for _ in range(run)]
    np.testing.assert_array_equal(np.reshape(pixels, mask.T.shape).T, mask)


@given(MAPS)
def test_a_region_survives_json(scores):
    for region in find_regions(scores, 0.5, 0.25, mm_per_pixel=0.3):
        again = Region.from_dict(json.loads(json.dumps(region.to_dict())))
        assert again == region
        np.testing.assert_array_equal(again.mask, region.mask)


def test_an_inspected_photograph_survives_json():
    (region,) = find_regions(np.ones((2, 3), np.float32), 0.5, 0.5)
    hinted = Region(**{**vars(region), "hint": Hint("scratch", 0.02)})
    for inspected in (
        Inspected("a.png", 3, 2, "nut", 0.7, 0.5, Decision.anomalous, 0.8, (hinted,)),
        Inspected("b.png", 3, 2, "nut", 0.2, None, None, None, ()),
    ):
        assert Inspected.from_dict(json.loads(json.dumps(inspected.to_dict()))) == inspected


def test_a_score_just_below_a_limit_does_not_reach_it():
    threshold = float(np.float32(0.7))
    scores = np.full((1, 1), threshold, np.float32)
    assert len(find_regions(scores, threshold, threshold)) == 1
    assert find_regions(scores, math.nextafter(threshold, 1), threshold) == ()
    assert find_regions(scores, math.nextafter(threshold, 1), math.nextafter(threshold, 1)) == ()
