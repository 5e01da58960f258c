import numpy as np
import pytest

from drawn_anomalies.canvas import Canvas
from drawn_anomalies.pairs.invented import PATTERNS, invented_material, invented_thing


def canvas(seed: int, size: tuple[int, int] = (64, 64)) -> Canvas:
    return Canvas(size, np.random.default_rng(seed))


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@pytest.mark.parametrize("draw", [invented_material, invented_thing])
def test_everything_invented_is_a_surface_at_any_size(draw, size):
    for seed in range(25):
        surface = draw(canvas(seed, size))
        assert surface.colour.shape == surface.backdrop.shape == (*size, 3)
        assert surface.colour.dtype == surface.height.dtype == surface.backdrop.dtype == np.float32
        assert surface.colour.min() >= 0
        assert surface.colour.max() <= 1
        assert np.isfinite(surface.height).all()
        assert all((part & surface.body).any() for part in surface.parts)


def test_a_material_fills_the_picture_and_a_thing_lies_within_it():
    materials, things = (
        [draw(canvas(seed)).body.mean() for seed in range(25)] for draw in (invented_material, invented_thing)
    )
    assert min(materials) == 1
    assert min(things) > 0.02
    assert np.median(things) < 0.75


@pytest.mark.parametrize("draw", PATTERNS, ids=lambda draw: draw.__name__)
def test_a_pattern_is_about_between_minus_one_and_one_and_not_flat(draw):
    for seed in range(8):
        layer = draw(canvas(seed, (96, 96)))
        assert layer.shape == (96, 96)
        assert np.abs(layer).mean() < 1.2
        assert layer.std() > 0.05


def test_some_things_have_parts_and_some_have_none():
    counts = [len(invented_thing(canvas(seed)).parts) for seed in range(40)]
    assert min(counts) == 0
    assert max(counts) >= 4
