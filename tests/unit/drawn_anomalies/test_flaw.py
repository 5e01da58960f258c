from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from drawn_anomalies import flaw
from drawn_anomalies.canvas import Canvas, Plane, Surface, box, disc, flat, gradient, mixed, placed, texture
from drawn_anomalies.flaw import LARGEST_AREA, Flaw, Visible, flawed
from drawn_anomalies.kinds import DEFECTS, HELD_OUT
from drawn_anomalies.light import Light

SIZE = (80, 96)
SEEDS = range(3)


def canvas(seed: int = 0) -> Canvas:
    return Canvas(SIZE, np.random.default_rng(seed))


def stripes(drawn: Canvas) -> Surface:
    """A texture without parts."""
    stripe = np.sign(np.sin(22 * drawn.x + 4 * drawn.y)) * np.float32(0.3) + np.float32(0.1) * drawn.noise(0.1, 2)
    colour = gradient((0.5 + stripe).astype(np.float32), (0.2, 0.18, 0.15), (0.8, 0.75, 0.7))
    return texture(colour, (np.float32(0.004) * drawn.noise(0.1, 2)).astype(np.float32))


def plate(drawn: Canvas) -> Surface:
    """An object with three letters, its parts."""
    coverage = drawn.fill(disc(drawn.x, drawn.y, 0.75))
    letters = tuple(box(drawn.x - np.float32(at), drawn.y, 0.12, 0.25) < 0 for at in (-0.4, 0.0, 0.4))
    thing = mixed(flat(SIZE, (0.5, 0.45, 0.4)), np.any(letters, axis=0).astype(np.float32), (0.85, 0.2, 0.2))
    relief = np.full(SIZE, 0.1, dtype=np.float32)
    return replace(placed(flat(SIZE, (0.1, 0.1, 0.12)), coverage, thing, relief), parts=letters)


def distance_to(region: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def drawn_flaw(
    kind: str, make: Callable[[Canvas], Surface], seed: int
) -> tuple[Light, Surface, Surface, np.ndarray, Plane]:
    """Light, whole surface, flawed surface, mask, and the coverage that the mask came from."""
    drawn = canvas(seed)
    whole = make(drawn)
    light = Light.drawn(drawn)
    tried: list[Flaw] = []

    def spied(on: Canvas, surface: Surface) -> Flaw:
        tried.append(DEFECTS[kind](on, surface))
        return tried[-1]

    broken, mask = flawed(drawn, whole, light, spied)
    (coverage,) = (coverage for surface, coverage in tried if surface is broken)
    return light, whole, broken, mask, coverage


@pytest.mark.parametrize("make", [stripes, plate])
@pytest.mark.parametrize("kind", DEFECTS)
def test_every_kind_is_visible_and_masked_within_limits(kind, make):
    for seed in SEEDS:
        light, whole, broken, mask, coverage = drawn_flaw(kind, make, seed)
        np.testing.assert_array_equal(mask, coverage > 0.5)
        assert Visible().area <= mask.mean() <= LARGEST_AREA
        pixel = 2 / min(SIZE)
        difference = np.abs(light.seen(broken, pixel) - light.seen(whole, pixel)).max(axis=-1)
        # A warp moves little where stripes meet themselves again; the best of its tries is taken.
        assert difference[mask].mean() >= Visible().contrast / (2 if kind == "warp" else 1)


@pytest.mark.parametrize("kind", sorted(DEFECTS.keys() - {"warp"}))
def test_the_mask_stays_on_the_body(kind):
    for seed in SEEDS:
        _, whole, _, mask, _ = drawn_flaw(kind, plate, seed)
        assert not (mask & ~whole.body).any()


def test_a_warp_leaves_the_body_where_it_bends_the_outline_and_no_farther():
    for seed in range(8):
        _, whole, _, mask, _ = drawn_flaw("warp", plate, seed)
        assert distance_to(whole.body)[mask].max() * 2 / min(SIZE) < 0.3


@pytest.mark.parametrize("make", [stripes, plate])
@pytest.mark.parametrize("kind", DEFECTS)
def test_pixels_out_of_a_defects_reach_are_seen_exactly_as_without_it(kind, make):
    for seed in SEEDS:
        light, whole, broken, _, coverage = drawn_flaw(kind, make, seed)
        far = distance_to(coverage > 0) > 4 * light.blur + 3
        assert far.any()
        difference = np.abs(light.seen(broken, 2 / min(SIZE)) - light.seen(whole, 2 / min(SIZE)))[far].max()
        # The ridge of a fold falls off without end: a grey level or two are left of it.
        assert difference <= (2 / 255 if kind == "fold" else 0)


@pytest.mark.parametrize("kind", DEFECTS)
def test_the_same_randomness_gives_the_same_defect_and_other_randomness_another(kind):
    first, again, *others = (drawn_flaw(kind, plate, seed) for seed in (0, 0, 1, 2, 3))
    for one, same in ((first[2].colour, again[2].colour), (first[2].height, again[2].height), (first[3], again[3])):
        np.testing.assert_array_equal(one, same)
    assert any(not np.array_equal(first[3], other[3]) for other in others)  # a plate has few parts to miss


def test_held_out_kinds_are_kinds():
    assert set(HELD_OUT) < DEFECTS.keys()
    assert len(set(HELD_OUT)) == len(HELD_OUT)


def test_a_missing_part_is_one_of_the_parts_and_shows_the_backdrop():
    _, whole, broken, mask, _ = drawn_flaw("missing_part", plate, 0)
    assert sum(np.array_equal(mask, part) for part in whole.parts) == 1
    np.testing.assert_allclose(broken.colour[mask], whole.backdrop[mask], atol=1e-6)


def patch(side: int, colour: float) -> Flaw:
    """A grey square of known area on a black surface."""
    coverage = np.zeros(SIZE, dtype=np.float32)
    coverage[:side, :side] = 1
    return black().painted(coverage, (colour,) * 3), coverage


def black() -> Surface:
    return texture(flat(SIZE, (0.0, 0.0, 0.0)), np.zeros(SIZE, dtype=np.float32))


def settled(*tries: Flaw) -> tuple[int, Surface]:
    """Offer flaws one after the other, the last one for ever; tell how many were looked at and which was taken."""
    looked_at: list[Flaw] = []

    def offered(_: Canvas, __: Surface) -> Flaw:
        looked_at.append(tries[min(len(looked_at), len(tries) - 1)])
        return looked_at[-1]

    drawn = canvas()
    broken, _ = flawed(drawn, black(), Light.drawn(drawn), offered)
    return len(looked_at), broken


def test_a_flaw_that_cannot_be_seen_is_drawn_again():
    faint, clear = patch(8, 0.01), patch(8, 0.5)
    assert settled(clear) == (1, clear[0])
    number, taken = settled(faint, faint, clear)
    assert (number, taken is clear[0]) == (3, True)


@pytest.mark.parametrize("side", [0, 1, 60])
def test_a_flaw_too_small_or_too_large_is_drawn_again(side):
    unfit, fit = patch(side, 0.9), patch(12, 0.5)
    number, taken = settled(unfit, fit)
    assert (number, taken is fit[0]) == (2, True)


def test_where_no_try_is_good_the_best_is_taken():
    worse, best, unfit = patch(8, 0.01), patch(8, 0.04), patch(60, 0.3)
    number, taken = settled(unfit, best, worse)
    assert (number, taken is best[0]) == (flaw.TRIES, True)


def test_a_spot_keeps_its_margin_to_the_edge_of_body_and_picture():
    body = disc(canvas().x, canvas().y, 0.6) < 0
    for seed in range(20):
        x, y = flaw.spot(canvas(seed), body, margin=0.3)
        assert np.hypot(x, y) < 0.6 - 0.3 + 0.05
        x, y = flaw.spot(canvas(seed), np.ones(SIZE, dtype=bool), margin=0.5)
        assert max(abs(x) - 0.2, abs(y)) < 0.55


def test_a_spot_is_found_on_a_body_slimmer_than_the_margin():
    drawn = canvas()
    body = np.abs(drawn.x - np.float32(0.4)) < 0.04
    x, _ = flaw.spot(drawn, body, margin=0.5)
    assert abs(x - 0.4) < 0.04


def test_a_blob_lies_around_its_centre_and_has_about_the_area_of_its_radius():
    areas = []
    for seed in range(20):
        drawn = canvas(seed)
        coverage = flaw.blob(drawn, (0.2, -0.1), 0.3, roughness=0.1)
        areas.append(coverage.sum() * drawn.pixel**2)
        middle = [(plane * coverage).sum() / coverage.sum() for plane in (drawn.x, drawn.y)]
        assert middle == pytest.approx([0.2, -0.1], abs=0.1)
    assert np.mean(areas) == pytest.approx(np.pi * 0.3**2, rel=0.25)


def test_a_wandering_line_has_its_length_and_its_middle_at_the_start():
    points = flaw.wandering(canvas(), (0.3, -0.2), length=0.9, bend=0.4, num_points=25)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).sum() == pytest.approx(0.9, rel=1e-4)
    assert points[12] == pytest.approx([0.3, -0.2])


def test_a_line_without_bends_is_straight():
    points = flaw.wandering(canvas(), (0.0, 0.0), length=1.0, bend=0.0)
    assert np.linalg.norm(points[-1] - points[0]) == pytest.approx(1.0, rel=1e-4)


def test_coverage_ends_with_the_body():
    surface = plate(canvas())
    np.testing.assert_array_equal(flaw.on_body(np.ones(SIZE, dtype=np.float32), surface), surface.body)


@pytest.mark.parametrize("level", [0.0, 0.15, 0.5, 0.85, 1.0])
def test_a_showing_colour_differs_in_brightness_on_any_ground(level):
    surface = texture(flat(SIZE, (level,) * 3), np.zeros(SIZE, dtype=np.float32))
    coverage = np.zeros(SIZE, dtype=np.float32)
    coverage[10:20, 10:20] = 1
    for seed in range(20):
        colour = np.array(flaw.showing(canvas(seed), surface, coverage, 0.2, 0.4))
        assert 0.15 < abs(colour.mean() - level) < 0.45
        assert colour.min() > 0
        assert colour.max() < 1


def test_moving_by_whole_pixels_is_exact():
    drawn = canvas()
    surface = stripes(drawn)
    right, down = (np.full(SIZE, steps * drawn.pixel, dtype=np.float32) for steps in (3, -2))
    colour, height = flaw.moved(surface, right, down, drawn)
    np.testing.assert_allclose(colour[2:, :-3], surface.colour[:-2, 3:], atol=1e-3)
    np.testing.assert_allclose(height[2:, :-3], surface.height[:-2, 3:], atol=1e-3)


def test_replacing_goes_by_coverage():
    surface = stripes(canvas())
    coverage = np.zeros(SIZE, dtype=np.float32)
    coverage[0, 0], coverage[0, 1] = 1, 0.5
    changed = flaw.replaced(surface, coverage, flat(SIZE, (1.0, 0.0, 0.0)), np.ones(SIZE, dtype=np.float32))
    np.testing.assert_allclose(changed.colour[0, 0], [1, 0, 0], atol=1e-6)
    assert changed.height[0, 1] == pytest.approx(0.5 + 0.5 * surface.height[0, 1])
    np.testing.assert_array_equal(changed.colour[1:], surface.colour[1:])
    np.testing.assert_array_equal(changed.height[1:], surface.height[1:])
