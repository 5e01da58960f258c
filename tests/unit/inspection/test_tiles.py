import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afr_clip.data.errors import DataError
from afr_clip.inspection import tiles
from afr_clip.inspection.tiles import Blend, bands, choose_tiles


@pytest.mark.parametrize(
    ("size", "tile", "side"),
    [
        ((300, 300), None, None),
        ((320, 200), "auto", None),  # twice the input size, and not elongated
        ((321, 321), "auto", 160),  # larger: tiles are not scaled
        ((100, 1200), "auto", 100),  # elongated: tiles as wide as the photograph
        ((1200, 100), "auto", 100),
        ((500, 6000), "auto", 160),
        ((300, 200), 120, 120),
        ((300, 100), 120, 100),
    ],
)
def test_what_is_tiled_and_how_large_tiles_are(size, tile, side):
    tiling = choose_tiles(size, tile, 0.25, input_size=160)
    assert (None if tiling is None else tiling.side) == side


@pytest.mark.parametrize(
    ("size", "tile", "count"),
    [((1, 3_000_000), "auto", "3,000,000 tiles of 1 pixels"), ((9000, 9000), 100, "14,400 tiles of 100 pixels")],
)
def test_too_many_tiles_are_refused(size, tile, count):
    with pytest.raises(DataError, match=f"{count}, and 10,000 is the most. Use a larger tile"):
        choose_tiles(size, tile, 0.25, input_size=160)
    tiling = choose_tiles((1, 10_000), "auto", 0.25, input_size=160)
    assert tiling is not None
    assert len(tiling.corners) == 10_000


@given(height=st.integers(1, 100), width=st.integers(1, 100), side=st.integers(1, 200), overlap=st.floats(0, 0.9))
def test_tiles_cover_every_pixel_and_overlap_as_much_as_asked(height, width, side, overlap):
    tiling = choose_tiles((height, width), side, overlap, input_size=160)
    assert tiling is not None
    for starts, length in ((tiling.tops, height), (tiling.lefts, width)):
        assert (starts[0], starts[-1] + tiling.side) == (0, length)
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (steps <= max(1, tiling.side * (1 - overlap)) + 1).all()  # rounded to pixels


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 9), st.integers(1, 300))
def test_bands_follow_each_other_and_are_no_larger_than_they_may_be(height, width, step, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "BAND", most)
        cut = list(bands((height, width), step))
    assert [row for band in cut for row in range(height)[band]] == list(range(height))
    rows = [band.stop - band.start for band in cut]
    assert all(number % step == 0 for number in rows[:-1])
    assert all(number * width <= max(most, step * width) for number in rows)


def naive(tiling, maps):
    """Blend with a map of weights, pixel by pixel."""
    middle = (np.arange(tiling.side) + 0.5) / tiling.side
    weight = np.outer(*[np.sin(np.pi * middle) ** 2 + 1e-3] * 2)
    total, weights = np.zeros(tiling.size), np.zeros(tiling.size)
    for (top, left), tile_map in zip(tiling.corners, maps, strict=True):
        place = (slice(top, top + tiling.side), slice(left, left + tiling.side))
        total[place] += tile_map * weight
        weights[place] += weight
    return total / weights


@pytest.mark.parametrize("size", [(70, 40), (40, 40), (41, 133)])
def test_blending_is_the_weighted_mean_and_keeps_what_is_constant(size):
    tiling = choose_tiles(size, 40, 0.25, input_size=160)
    random = np.random.default_rng(0)
    maps = [random.random((40, 40), dtype=np.float32) for _ in tiling.corners]
    blend, constant = Blend(tiling), Blend(tiling)
    for corner, tile_map in zip(tiling.corners, maps, strict=True):
        blend.add(corner, tile_map)
        constant.add(corner, np.full((40, 40), 0.3, dtype=np.float32))
    np.testing.assert_allclose(blend.blended(), naive(tiling, maps), rtol=2e-5)
    np.testing.assert_allclose(constant.blended(), 0.3, rtol=1e-5)
