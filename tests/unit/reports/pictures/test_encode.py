import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from afr_clip.inspection import tiles
from afr_clip.reports.pictures.encode import shrunk


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 60), st.integers(1, 20_000))
def test_a_photograph_shrunk_in_bands_is_the_thumbnail_of_pillow(height, width, largest, band):
    photograph = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = Image.fromarray(photograph)
    expected.thumbnail((largest, largest))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "BAND", band)
        found = shrunk(photograph, largest)
    assert np.array_equal(np.asarray(found), np.asarray(expected))
