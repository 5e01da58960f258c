import numpy as np
import pytest
import torch

from afr_clip.data.disk.pixels import Pixels
from afr_clip.data.feed.augment import build_augmentation


@pytest.fixture(scope="module", params=[(64, 64), (48, 80)], ids=["square", "wide"])
def size(request):
    return request.param


@pytest.fixture(scope="module")
def augmentation(size):
    return build_augmentation(size)


def truth_as_image(size: tuple[int, int]) -> Pixels:
    """An image that shows its own mask: one corner and one bar, so that no flip or turn leaves it as it was."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[: size[0] // 3, : size[1] // 2] = True
    mask[size[0] // 2 :, -size[1] // 5 :] = True
    return Pixels(image=mask.to(torch.uint8).mul(255).expand(3, *size).clone(), mask=mask)


def test_image_and_mask_move_together(augmentation, size):
    pixels = truth_as_image(size)
    moved = 0
    for seed in range(40):
        drawn = augmentation(pixels, seed)
        seen = drawn.image.float().mean(dim=0)
        seen = seen > (seen.min() + seen.max()) / 2
        # The image is interpolated and the mask is not, so they may disagree along the edges, but nowhere else.
        assert (seen != drawn.mask).float().mean() < 0.04
        moved += int(not torch.equal(drawn.mask, pixels.mask))
    assert moved > 25


def test_the_steps_are_drawn_independently():
    corner = torch.zeros(64, 64, dtype=torch.bool)
    corner[:16, :16] = True
    pixels, augmentation = Pixels(corner.to(torch.uint8).expand(3, 64, 64), corner), build_augmentation((64, 64))
    corners = set()
    for seed in range(40):
        row, column = augmentation(pixels, seed).mask.nonzero().float().mean(dim=0) > 32
        corners.add((bool(row), bool(column)))
    assert len(corners) == 4


def test_masks_stay_boolean_and_sizes_stay(augmentation, size):
    for seed in range(10):
        drawn = augmentation(truth_as_image(size), seed)
        assert drawn.image.dtype == torch.uint8
        assert drawn.image.is_contiguous()
        assert drawn.mask.dtype == torch.bool
        assert drawn.image.shape[1:] == drawn.mask.shape == size


def test_a_draw_depends_on_its_seed_alone(augmentation, size):
    pixels = truth_as_image(size)
    first = augmentation(pixels, 7)
    np.random.seed(1)  # noqa: NPY002  # the global state must not matter
    augmentation(pixels, 8)
    second, fresh = augmentation(pixels, 7), build_augmentation(size)(pixels, 7)
    for again in (second, fresh):
        assert torch.equal(first.image, again.image)
        assert torch.equal(first.mask, again.mask)
    assert any(not torch.equal(first.image, augmentation(pixels, seed).image) for seed in range(8, 12))


def test_the_argument_is_left_alone(augmentation, size):
    pixels = truth_as_image(size)
    for seed in range(5):
        augmentation(pixels, seed)
    assert torch.equal(pixels.image, truth_as_image(size).image)
