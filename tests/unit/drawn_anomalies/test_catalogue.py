import numpy as np
import pytest

from drawn_anomalies.canvas import Canvas
from drawn_anomalies.catalogue import CATEGORIES

ALL = [category for categories in CATEGORIES.values() for category in categories]
of_each_category = pytest.mark.parametrize("category", ALL, ids=lambda category: category.name)


def drawn(category, seed=0, size=(64, 64)):
    return category.draw(Canvas(size, np.random.default_rng(seed)))


@of_each_category
def test_a_seed_gives_one_specimen_and_another_seed_another(category):
    first, again, other = drawn(category), drawn(category), drawn(category, seed=1)
    for name in ("colour", "height", "body", "backdrop", "parts"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert np.abs(first.colour - other.colour).mean() > 0.01


@of_each_category
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (160, 96)], ids=str)
def test_a_specimen_fills_its_canvas_with_valid_values(category, size):
    surface = drawn(category, size=size)
    for picture in (surface.colour, surface.backdrop):
        assert picture.shape == (*size, 3)
        assert picture.dtype == np.float32
        assert picture.min() >= 0
        assert picture.max() <= 1
    assert surface.height.shape == surface.body.shape == size
    assert surface.height.dtype == np.float32
    assert np.isfinite(surface.height).all()
    assert surface.body.any()
