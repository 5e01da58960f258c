import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from afr_clip.reports.pictures.encode import shrunk


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 60))
def test_a_shrunk_photograph_keeps_its_proportions_and_its_mean(height, width, largest):
    photograph = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = np.asarray(shrunk(photograph, largest))
    assert max(found.shape[:2]) == min(largest, max(height, width))
    if max(height, width) <= largest:
        assert np.array_equal(found, photograph)
        return
    scale = largest / max(height, width)
    assert abs(found.shape[0] - height * scale) <= max(0.5, 1 - height * scale)
    assert abs(found.shape[1] - width * scale) <= max(0.5, 1 - width * scale)
    np.testing.assert_allclose(found.mean(axis=(0, 1)), photograph.mean(axis=(0, 1)), atol=1)
