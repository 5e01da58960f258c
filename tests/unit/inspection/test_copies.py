import numpy as np

from afr_clip.inspection.copies import ALIKE, look_alikes, thumbnail


def photograph(seed, size=(90, 120)):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(60, 200, (9, 12, 3)).astype(np.uint8)
    return np.kron(blocks, np.ones((size[0] // 9, size[1] // 12, 1), np.uint8))


def test_a_thumbnail_keeps_the_mean_and_the_place_of_what_is_bright():
    picture = np.zeros((64, 320, 3), np.uint8)
    picture[:32, :160] = 255
    small = thumbnail(picture).reshape(32, 32)
    assert small.mean() == 0.25
    assert (small[:16, :16] == 1).all()


def test_the_same_photograph_taken_again_looks_alike_and_another_part_does_not():
    first = photograph(0)
    noise = np.random.default_rng(1).normal(0, 4, first.shape)
    again = np.clip(first + noise, 0, 255).astype(np.uint8)
    brighter = first + np.uint8(2)
    pictures = [first, photograph(1), again, photograph(2), brighter]
    assert look_alikes(np.stack([thumbnail(one) for one in pictures])) == [(2, 0), (4, 0)]


def test_the_bound_is_a_share_of_the_grey_range():
    flat = np.zeros((3, 1024), np.float32)
    flat[1] += ALIKE * 0.99
    flat[2] += ALIKE * 2
    assert look_alikes(flat) == [(1, 0)]
    assert look_alikes(flat[:1]) == []
