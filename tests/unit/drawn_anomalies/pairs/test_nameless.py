import numpy as np
import pytest

from drawn_anomalies.canvas import Canvas
from drawn_anomalies.flaw import Visible, flawed
from drawn_anomalies.kinds import DEFECTS
from drawn_anomalies.light import Light
from drawn_anomalies.pairs.invented import invented_material, invented_thing
from drawn_anomalies.pairs.nameless import NAMELESS


@pytest.mark.parametrize("kind", NAMELESS)
@pytest.mark.parametrize("draw", [invented_material, invented_thing])
def test_a_nameless_defect_shows_in_its_mask_and_nowhere_else(draw, kind):
    shown = 0
    for seed in range(6):
        canvas = Canvas((96, 96), np.random.default_rng(seed))
        whole, light = draw(canvas), Light.drawn(canvas)
        surface, mask = flawed(canvas, whole, light, NAMELESS[kind], Visible())
        assert mask.any()
        assert not (mask & ~whole.body).any()
        before, after = light.seen(whole, canvas.pixel), light.seen(surface, canvas.pixel)
        changed = np.abs(after - before).max(axis=-1)
        shown += changed[mask].mean() > 0.05
        far = ~_grown(mask, 8)
        assert (changed[far] > 0.02).mean() < 0.01
    assert shown >= 2  # a patch of a fine even material looks the same in another place


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = mask | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    return mask


def test_nameless_defects_are_none_of_those_with_names():
    assert not set(NAMELESS) & set(DEFECTS)
