import numpy as np

from drawn_anomalies.pairs.snapshot import snapshot


def marked(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture with a bright square, and the square's plane."""
    plane = np.zeros(size, np.float32)
    plane[size[0] // 3 : size[0] // 2, size[1] // 3 : size[1] // 2] = 1
    return np.repeat((60 + 120 * plane)[..., None], 3, axis=-1).astype(np.uint8), plane


def test_planes_move_with_the_picture():
    apart = []
    for seed in range(40):
        picture, plane = marked((90, 120))
        taken, (moved,) = snapshot(np.random.default_rng(seed), picture, (plane,), (60, 80))
        assert taken.shape == (60, 80, 3)
        assert taken.dtype == np.uint8
        assert moved.shape == (60, 80)
        assert moved.dtype == np.float32
        inside, outside = moved > 0.95, (moved < 0.05)
        if inside.sum() > 20:
            apart.append(taken[inside].mean() - taken[outside].mean())
    assert len(apart) > 30
    assert np.median(apart) > 70
    assert min(apart) > 10


def test_a_seed_gives_one_snapshot_and_seeds_differ():
    picture, plane = marked((64, 64))
    first, again, other = (snapshot(np.random.default_rng(s), picture, (plane,), (48, 48))[0] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
