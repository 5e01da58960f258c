import numpy as np
import pytest

from drawn_anomalies.canvas import Canvas, box, cells, disc, flat, gradient, mixed, placed, texture

SIZES = [(48, 48), (48, 80), (80, 48)]


def canvas(size: tuple[int, int] = (64, 64), seed: int = 0) -> Canvas:
    return Canvas(size, np.random.default_rng(seed))


def points(*pairs: tuple[float, float]) -> np.ndarray:
    return np.array(pairs, dtype=np.float32)


def correlation(noise: np.ndarray, axis: int, lag: int) -> float:
    length = noise.shape[axis]
    near, far = noise.take(range(length - lag), axis), noise.take(range(lag, length), axis)
    return float((near * far).mean() / (noise**2).mean())


@pytest.mark.parametrize("size", SIZES)
def test_the_shorter_side_spans_minus_one_to_one_whatever_the_format(size):
    drawn = canvas(size)
    shorter, longer = (drawn.y, drawn.x) if size[0] <= size[1] else (drawn.x, drawn.y)
    half = drawn.pixel / 2
    assert (shorter.min(), shorter.max()) == pytest.approx((-1 + half, 1 - half))
    ratio = max(size) / min(size)
    assert (longer.min(), longer.max()) == pytest.approx((-ratio + half, ratio - half))
    np.testing.assert_allclose(np.diff(drawn.x, axis=1), drawn.pixel, rtol=1e-4)  # x to the right
    np.testing.assert_allclose(np.diff(drawn.y, axis=0), drawn.pixel, rtol=1e-4)  # y downwards
    assert np.ptp(drawn.x, axis=0).max() == np.ptp(drawn.y, axis=1).max() == 0


def test_a_turned_frame_keeps_distances_and_has_its_origin_at_the_centre():
    drawn = canvas((40, 60))
    x, y = drawn.turned(0.7, (0.3, -0.2))
    np.testing.assert_allclose(np.hypot(x, y), np.hypot(drawn.x - 0.3, drawn.y + 0.2), atol=1e-6)
    x, y = drawn.turned(np.pi / 2)
    np.testing.assert_allclose(x, drawn.y, atol=1e-6)
    np.testing.assert_allclose(y, -drawn.x, atol=1e-6)


@pytest.mark.parametrize("size", [(96, 96), (64, 128)])
@pytest.mark.parametrize(("scale", "octaves", "stretch"), [(0.05, 1, 1.0), (0.2, 1, 1.0), (0.2, 3, 1.0), (0.1, 2, 3.0)])
def test_noise_has_about_zero_mean_and_unit_deviation(size, scale, octaves, stretch):
    drawn = np.stack([canvas(size, seed).noise(scale, octaves, stretch) for seed in range(12)])
    assert abs(drawn.mean()) < 0.1
    assert 0.8 < drawn.std() < 1.2


def test_noise_is_smooth_below_its_scale_and_independent_beyond_it():
    noise = [canvas((128, 128), seed).noise(16 * 2 / 128) for seed in range(8)]
    assert np.mean([correlation(one, 1, 2) for one in noise]) > 0.9
    assert abs(np.mean([correlation(one, 1, 40) for one in noise])) < 0.1


def test_stretched_noise_is_longer_along_x():
    noise = canvas((128, 128)).noise(0.1, stretch=5.0)
    assert correlation(noise, 1, 8) > 0.8
    assert correlation(noise, 0, 8) < 0.3


def test_more_octaves_add_finer_features():
    coarse, fine = (canvas((128, 128)).noise(0.5, octaves) for octaves in (1, 4))
    assert np.abs(np.diff(fine, axis=1)).mean() > 2 * np.abs(np.diff(coarse, axis=1)).mean()


def test_grain_differs_from_pixel_to_pixel():
    grain = canvas((96, 96)).grain(0.5)
    assert grain.std() == pytest.approx(0.5, rel=0.05)
    assert abs(correlation(grain, 1, 1)) < 0.05


def test_coverage_is_one_half_at_the_edge_and_full_half_a_pixel_inside():
    drawn = canvas()
    edges = np.array([[-2, -0.5, -0.25, 0, 0.25, 0.5, 2]], dtype=np.float32) * np.float32(drawn.pixel)
    np.testing.assert_allclose(drawn.fill(edges), [[1, 1, 0.75, 0.5, 0.25, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(drawn.fill(edges, softness=4.0), [[1, 0.625, 0.5625, 0.5, 0.4375, 0.375, 0]], atol=1e-6)


def test_a_filled_disc_has_the_area_of_a_disc():
    drawn = canvas((64, 96))
    area = drawn.fill(disc(drawn.x, drawn.y, 0.6)).sum() * drawn.pixel**2
    assert area == pytest.approx(np.pi * 0.6**2, rel=2e-3)


@pytest.mark.parametrize("wide", [1.5, 2.0, 3.7, 8.0])
def test_a_stroke_is_as_wide_as_asked(wide):
    drawn = canvas((64, 96))
    line = drawn.stroke(points((-1.4, 0.1), (1.4, 0.1)), wide * drawn.pixel)
    np.testing.assert_allclose(line[:, 10:-10].sum(axis=0), wide, atol=1e-4)


def test_a_stroke_is_never_thinner_than_a_pixel_and_a_half():
    drawn = canvas()
    hair = drawn.stroke(points((-0.9, 0.0), (0.9, 0.0)), 0.0)
    np.testing.assert_allclose(hair[:, 10:-10].sum(axis=0), 1.5, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_a_stroke_lies_where_its_points_lie(size):
    drawn = canvas(size)
    start, end, width = np.array([-0.6, -0.3]), np.array([0.5, 0.7]), 0.2
    line = drawn.stroke(points(tuple(start), tuple(end)), width)
    at = np.stack([drawn.x, drawn.y], axis=-1) - start
    along = np.clip((at @ (end - start)) / ((end - start) @ (end - start)), 0, 1)
    away = np.linalg.norm(at - along[..., None] * (end - start), axis=-1)
    slack = 1.5 * drawn.pixel  # points are drawn at whole pixels
    assert np.all(line[away < width / 2 - slack] == 1)
    assert np.all(line[away > width / 2 + slack] == 0)
    assert line.sum() == pytest.approx(np.clip(0.5 + (width / 2 - away) / drawn.pixel, 0, 1).sum(), rel=0.05)


def test_a_stroke_outside_the_picture_covers_nothing():
    assert canvas().stroke(points((5.0, 5.0), (6.0, 5.0)), 0.1).max() == 0


def plane(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def test_distances_to_a_disc():
    np.testing.assert_allclose(disc(plane(0, 3, 3), plane(0, 4, 0), 2.0), [[-2, 3, 1]], atol=1e-6)


def test_distances_to_a_box():
    x, y = plane(0, 1.5, 0, 2, 5, -5, 1.9), plane(0, 0, 0.75, 1, 5, -5, 0)
    expected = [[-1, -0.5, -0.25, 0, 5, 5, -0.1]]
    np.testing.assert_allclose(box(x, y, 2.0, 1.0), expected, atol=1e-6)


def test_distances_to_a_rounded_box_differ_at_its_corners_alone():
    x, y = plane(0, 1.5, 3, 2, 2 - 0.5 + 0.3), plane(0, 0, 0, 1, 1 - 0.5 + 0.4)
    corner = 0.5 * (np.sqrt(2) - 1)
    np.testing.assert_allclose(box(x, y, 2.0, 1.0, 0.5), [[-1, -0.5, 1, corner, 0]], atol=1e-6)
    # A square rounded all the way is a disc.
    np.testing.assert_allclose(box(x, y, 1.0, 1.0, 1.0), disc(x, y, 1.0), atol=1e-6)


@pytest.mark.parametrize("size", [(14, 14), (12, 18)])
@pytest.mark.parametrize("jitter", [0.0, 0.8])
def test_cells_match_a_search_through_all_points(size, jitter):
    drawn, spacing = canvas(size, 3), 0.35
    first, second, value = cells(drawn, spacing, jitter)
    rng, half = np.random.default_rng(3), np.array([size[1], size[0]]) / min(size)
    counts = np.ceil(2 * half / spacing).astype(int) + 3
    shift = rng.uniform(-jitter / 2, jitter / 2, (counts[0] * counts[1], 2))
    values = rng.uniform(size=len(shift))
    for row in range(size[0]):
        for column in range(size[1]):
            away = []
            for number in range(len(shift)):
                at = (np.array([number % counts[0], number // counts[0]]) - (counts - 1) / 2 + shift[number]) * spacing
                away.append(np.hypot(drawn.x[row, column] - at[0], drawn.y[row, column] - at[1]))
            nearest, next_nearest = np.argsort(away)[:2]
            assert first[row, column] == pytest.approx(away[nearest], abs=1e-5)
            assert second[row, column] == pytest.approx(away[next_nearest], abs=1e-5)
            if away[next_nearest] - away[nearest] > 1e-5:
                assert value[row, column] == pytest.approx(values[nearest])


def test_mixed_lays_a_share_of_one_colour_over_another():
    below = flat((1, 3), (0.2, 0.4, 0.6))
    coverage = plane(0, 0.5, 1)
    expected = [[[0.2, 0.4, 0.6], [0.6, 0.4, 0.3], [1.0, 0.4, 0.0]]]
    np.testing.assert_allclose(mixed(below, coverage, (1.0, 0.4, 0.0)), expected, atol=1e-6)
    np.testing.assert_allclose(mixed(below, coverage, flat((1, 3), (1.0, 0.4, 0.0))), expected, atol=1e-6)


def test_a_gradient_ends_at_its_colours():
    seen = gradient(plane(-1, 0, 0.25, 1, 2), (0.0, 0.2, 1.0), (1.0, 0.6, 0.0))
    np.testing.assert_allclose(seen[0, :, 0], [0, 0, 0.25, 1, 1], atol=1e-6)
    np.testing.assert_allclose(seen[0, :, 1], [0.2, 0.2, 0.3, 0.6, 0.6], atol=1e-6)


def test_varied_colours_stay_colours():
    drawn = canvas()
    varied = np.array([drawn.colour((0.01, 0.5, 0.99), 0.3) for _ in range(50)])
    assert varied.min() >= 0.02
    assert varied.max() <= 0.98
    assert len(np.unique(varied[:, 1])) > 40


def test_a_texture_fills_the_picture():
    drawn = canvas((8, 12))
    surface = texture(flat((8, 12), (0.5, 2.0, -1.0)), drawn.noise(0.5))
    assert surface.body.all()
    np.testing.assert_array_equal(surface.colour[0, 0], np.array([0.5, 1, 0], dtype=np.float32))
    assert surface.parts == ()


def test_an_object_lies_on_its_background_with_its_soft_edge():
    drawn = canvas((32, 32))
    coverage = drawn.fill(disc(drawn.x, drawn.y, 0.6), 4.0)
    back = flat((32, 32), (0.1, 0.1, 0.1))
    surface = placed(back, coverage, flat((32, 32), (0.9, 0.5, 0.3)), np.ones((32, 32), dtype=np.float32))
    np.testing.assert_array_equal(surface.body, coverage > 0.05)
    np.testing.assert_array_equal(surface.height, coverage)
    np.testing.assert_array_equal(surface.backdrop, back)
    np.testing.assert_allclose(surface.colour[..., 0], 0.1 + 0.8 * coverage, atol=1e-6)


def test_painting_and_raising_leave_the_old_surface_alone():
    surface = texture(flat((2, 2), (0.5, 0.5, 0.5)), np.zeros((2, 2), dtype=np.float32))
    coverage = np.array([[1, 0], [0, 0]], dtype=np.float32)
    changed = surface.painted(coverage, (1.0, 0.0, 0.0)).raised(coverage * np.float32(0.3))
    assert surface.colour.std() == surface.height.max() == 0
    np.testing.assert_array_equal(changed.colour[0, 0], [1, 0, 0])
    np.testing.assert_array_equal(changed.colour[1], surface.colour[1])
    np.testing.assert_allclose(changed.height, coverage * 0.3, atol=1e-7)
