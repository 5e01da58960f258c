import pytest
import timm
import torch

from afr_clip.clip.cnn import FrozenCNN
from afr_clip.clip.stem import AlignedMaps, PatchProjection, StemTokens, aligned, rarity

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_projection_matches_loops():
    projection = PatchProjection(channels=3, width=2)
    projection.mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    projection.std.copy_(torch.tensor([2.0, 0.5, 1.0]))
    maps = noise(2, 3, 4, 5)
    weight, bias = projection.project.weight[:, :, 0, 0], projection.project.bias
    expected = torch.empty(2, 2, 4, 5)
    for image in range(2):
        for row in range(4):
            for column in range(5):
                normal = (maps[image, :, row, column] - projection.mean) / projection.std
                expected[image, :, row, column] = weight @ normal + bias
    torch.testing.assert_close(projection(maps), expected)


def test_a_position_of_mean_values_is_projected_to_the_bias():
    projection = PatchProjection(channels=3, width=2)
    projection.mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    maps = projection.mean.view(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(projection(maps), projection.project.bias.view(1, 2, 1, 1).expand(1, 2, 2, 2))


def test_the_statistics_are_stored_and_do_not_learn():
    projection = PatchProjection(channels=3, width=2)
    assert {"mean", "std"} < projection.state_dict().keys()
    assert {name for name, _ in projection.named_parameters()} == {"project.weight", "project.bias"}


def test_finer_maps_are_averaged_block_by_block():
    maps = noise(2, 3, 6, 8)
    blocks = maps.reshape(2, 3, 3, 2, 4, 2).mean(dim=(3, 5))
    torch.testing.assert_close(aligned(maps, (3, 4)), blocks)


@pytest.mark.parametrize("size", [(40, 40), (10, 10), (21, 21), (11, 11), (20, 20)])
def test_a_constant_stays_constant_at_every_size(size):
    maps = torch.full((1, 2, *size), 3.0)
    torch.testing.assert_close(aligned(maps, (20, 20)), torch.full((1, 2, 20, 20), 3.0))


def test_coarser_maps_are_interpolated_between_their_centres():
    ramp = torch.tensor([0.0, 1.0, 2.0]).expand(1, 1, 3, 3)
    row = torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.0])  # centres lie half a patch inside; the border is held
    torch.testing.assert_close(aligned(ramp, (6, 6)), row.expand(1, 1, 6, 6))


def test_maps_of_the_wanted_size_are_passed_on():
    maps = noise(1, 2, 5, 7)
    assert aligned(maps, (5, 7)) is maps


def cnn() -> FrozenCNN:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3))
    return FrozenCNN(network, MEAN, STD)


@pytest.mark.parametrize(("size", "stages"), [(160, (40, 20, 10)), (168, (42, 21, 11))])
def test_stages_that_are_no_exact_fraction_of_the_image_are_aligned_too(size, stages):
    frozen = cnn()
    image = noise(1, 3, size, size)
    grid = (size // 8, size // 8)
    fine, same, coarse = frozen.maps(image)
    assert (fine.shape[-1], same.shape[-1], coarse.shape[-1]) == stages
    seen = AlignedMaps(frozen, patch_size=8)(image)
    assert seen.shape == (1, 24 + 40 + 112, *grid)
    torch.testing.assert_close(seen[:, :24], fine.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(3, 5)))
    assert torch.equal(seen[:, 24:64], same)
    torch.testing.assert_close(seen[:, 64:], aligned(coarse, grid))


def test_height_and_width_keep_their_order():
    assert AlignedMaps(cnn(), patch_size=8)(noise(1, 3, 64, 96)).shape[-2:] == (8, 12)


def test_rarity_matches_loops():
    maps = noise(2, 3, 4, 5)
    expected = torch.empty(2, 4, 5)
    for image in range(2):
        own = maps[image].flatten(1)
        own = ((own - own.mean(dim=1, keepdim=True)) / (own.std(dim=1, keepdim=True) + 1e-3)).T
        for position in range(20):
            distances = sorted((own[position] - own[other]).norm().item() for other in range(20) if other != position)
            expected[image, position // 5, position % 5] = sum(distances[:2]) / 2 / 3**0.5  # a tenth of 20 is 2
    torch.testing.assert_close(rarity(maps), expected, atol=1e-5, rtol=1e-4)


def test_what_an_image_shows_once_is_rarer_than_what_it_shows_everywhere():
    stripes = torch.tensor([0.0, 1.0]).repeat(10).expand(1, 2, 20, 20).clone()
    stripes[..., 7, 4] = 3.0
    rare = rarity(stripes)[0]
    assert rare.argmax() == 7 * 20 + 4
    assert rare.flatten().topk(2).values[1] < 1e-3


def test_nothing_is_rare_in_an_image_that_is_the_same_everywhere():
    assert rarity(torch.full((1, 3, 6, 6), 2.0)).abs().max() == 0


@pytest.mark.parametrize(("gain", "shift"), [(3.0, 0.0), (1.0, 5.0), (0.5, -2.0)])
def test_rarity_does_not_change_with_the_images_contrast_or_brightness(gain, shift):
    maps = noise(1, 4, 6, 6)
    torch.testing.assert_close(rarity(gain * maps + shift), rarity(maps), atol=5e-3, rtol=0)


def test_stem_tokens_are_normalised_maps_and_rarities_with_their_largest_values_in_front():
    frozen = cnn()
    projection = PatchProjection(channels=176, width=4)
    projection.mean.fill_(0.5)
    projection.std.fill_(2.0)
    maps = AlignedMaps(frozen, patch_size=8)
    tokens, image = StemTokens(maps, projection), noise(2, 3, 64, 96)
    seen = tokens(image)
    assert tokens.dim == 176 + 2 * 3
    assert seen.shape == (2, 1 + 8 * 12, tokens.dim)
    torch.testing.assert_close(seen[:, 1:, :176], ((maps(image) - 0.5) / 2).flatten(2).transpose(1, 2))
    absolute, relative = seen[:, 1:, 176:179], seen[:, 1:, 179:]
    torch.testing.assert_close(absolute[..., 1] * 0.3 + 0.85, rarity(maps(image)[:, 24:64]).flatten(1))
    torch.testing.assert_close(relative.mean(dim=1), torch.zeros(2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen[:, 0], seen[:, 1:].amax(dim=1))
    assert not seen.requires_grad
