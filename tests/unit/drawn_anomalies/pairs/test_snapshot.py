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
        taken, (moved,) = snapshot(np.random.default_rng(seed), picture, (plane,), (60, 80), keeps_colours=False)
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
    first, again, other = (
        snapshot(np.random.default_rng(seed), picture, (plane,), (48, 48), keeps_colours=False)[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_some_pictures_are_grey_but_none_that_must_keep_its_colours():
    picture, plane = np.full((64, 64, 3), (200, 40, 40), np.uint8), np.zeros((64, 64), np.float32)
    grey = {True: 0, False: 0}
    for keeps in grey:
        for seed in range(40):
            taken, _ = snapshot(np.random.default_rng(seed), picture, (plane,), (32, 32), keeps_colours=keeps)
            middle = taken[12:20, 12:20].astype(int)
            grey[keeps] += abs(middle[..., 0] - middle[..., 1]).max() < 8
    assert grey[True] == 0
    assert 1 <= grey[False] <= 20
