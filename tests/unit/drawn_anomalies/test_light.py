from dataclasses import replace

import numpy as np
import pytest

from drawn_anomalies.canvas import Canvas, Plane, Surface, flat, texture
from drawn_anomalies.light import AMBIENT, Light

SIZE = (32, 48)
PIXEL = 2 / 32
GREY = 0.4


def light(size: tuple[int, int] = SIZE, seed: int = 0) -> Light:
    return Light.drawn(Canvas(size, np.random.default_rng(seed)))


def sharp(**changes: object) -> Light:
    """Plain white light without falloff, blur or noise."""
    plain = Light(
        direction=(0.48, -0.36, 0.8),
        exposure=1.0,
        tint=np.ones(3, dtype=np.float32),
        falloff=np.ones(SIZE, dtype=np.float32),
        blur=0.0,
        noise=np.zeros((*SIZE, 3), dtype=np.float32),
    )
    return replace(plain, **changes)


def grey(height: Plane | None = None, gloss: float = 0.0) -> Surface:
    return texture(flat(SIZE, (GREY,) * 3), np.zeros(SIZE, dtype=np.float32) if height is None else height, gloss)


def ramp(right: float, down: float) -> Plane:
    canvas = Canvas(SIZE, np.random.default_rng(0))
    return (np.float32(right) * canvas.x + np.float32(down) * canvas.y).astype(np.float32)


def test_the_lamp_is_above_and_its_direction_has_unit_length():
    for seed in range(20):
        direction = light(seed=seed).direction
        assert np.linalg.norm(direction) == pytest.approx(1)
        assert direction[2] > 0.6


@pytest.mark.parametrize("gloss", [0.0, 0.7])
def test_a_flat_grey_surface_is_seen_equally_everywhere(gloss):
    seen = sharp().seen(grey(gloss=gloss), PIXEL)
    np.testing.assert_array_equal(seen, np.broadcast_to(seen[0, 0], seen.shape))


def test_a_flat_surface_shows_exposure_tint_and_falloff_alone():
    drawn = replace(light(), blur=0.0)
    expected = GREY * drawn.exposure * drawn.falloff[..., None] * drawn.tint
    np.testing.assert_allclose(drawn.seen(grey(), PIXEL), expected, rtol=1e-6)


def test_falloff_is_slow_and_near_one():
    for seed in range(20):
        falloff = light(seed=seed).falloff
        assert np.abs(np.diff(falloff, axis=1)).max() < 0.02
        assert np.abs(falloff - 1).max() < 0.5


@pytest.mark.parametrize(("right", "down"), [(0.5, 0.0), (-0.5, 0.0), (0.0, 0.8), (0.3, -0.4)])
def test_a_slope_is_lit_by_the_cosine_of_its_angle_to_the_lamp(right, down):
    drawn = sharp()
    normal = np.array([-right, -down, 1]) / np.linalg.norm([right, down, 1])
    facing = max(0.0, float(normal @ drawn.direction))
    expected = GREY * (AMBIENT + (1 - AMBIENT) * facing / drawn.direction[2])
    np.testing.assert_allclose(drawn.seen(grey(ramp(right, down)), PIXEL), expected, rtol=1e-4)


def test_a_slope_turned_away_from_the_lamp_keeps_the_ambient_light():
    np.testing.assert_allclose(sharp().seen(grey(ramp(4.0, -3.0)), PIXEL), GREY * AMBIENT, rtol=1e-4)


def test_gloss_shines_most_where_the_lamp_is_mirrored():
    drawn = sharp()
    half = np.add(drawn.direction, (0, 0, 1))
    mirrors = -half[:2] / half[2]  # slope whose normal lies between lamp and camera
    shine = [
        float((drawn.seen(grey(height, 0.6), PIXEL) - drawn.seen(grey(height), PIXEL)).mean())
        for height in (ramp(*mirrors), ramp(0, 0), ramp(*-mirrors))
    ]
    assert shine[0] == pytest.approx(0.6 * 0.5, rel=1e-3)
    assert shine[0] > shine[1] > shine[2]


def test_blur_keeps_the_mean_and_softens_an_edge():
    surface = grey()
    surface.colour[:, 24:] = 0.8
    sharply, softly = (sharp(blur=blur).seen(surface, PIXEL) for blur in (0.0, 1.5))
    assert np.abs(np.diff(softly, axis=1)).max() < 0.5 * np.abs(np.diff(sharply, axis=1)).max()
    assert softly.mean() == pytest.approx(sharply.mean(), rel=1e-3)
    np.testing.assert_array_equal(softly[:, :16], sharply[:, :16])


def test_a_photograph_adds_exactly_the_noise_and_rounds():
    drawn = light()
    picture = np.random.default_rng(1).uniform(-0.1, 1.1, (*SIZE, 3)).astype(np.float32)
    photograph = drawn.photographed(picture)
    exact = np.clip(picture.astype(np.float64) + drawn.noise, 0, 1) * 255
    assert np.abs(photograph - exact).max() <= 0.5 + 1e-4
    assert photograph.min() == 0
    assert photograph.max() == 255


def test_the_sensors_noise_is_the_same_in_every_photograph_of_a_light():
    drawn = light()
    picture = np.full((*SIZE, 3), 0.5, dtype=np.float32)
    np.testing.assert_array_equal(drawn.photographed(picture), drawn.photographed(picture))
    assert len(np.unique(drawn.photographed(picture))) > 2


def test_the_same_canvas_draws_the_same_light_and_another_another():
    assert light(seed=4).direction == light(seed=4).direction
    np.testing.assert_array_equal(light(seed=4).noise, light(seed=4).noise)
    assert light(seed=4).direction != light(seed=5).direction
