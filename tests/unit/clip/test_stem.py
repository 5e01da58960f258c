import pytest
import timm
import torch

from afr_clip.clip.cnn import FrozenCNN
from afr_clip.clip.stem import PatchEmbedding, PatchView, Stem, aligned, deviation_within, rarity

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def embedding(channels: int, width: int) -> PatchEmbedding:
    torch.manual_seed(0)
    return PatchEmbedding(channels, width)


def convolved(maps: torch.Tensor, layer: torch.nn.Conv2d, apart: int) -> torch.Tensor:
    """Slide a 3 x 3 kernel over one image, its taps ``apart`` positions from each other, zeros beyond the edge."""
    rows, columns = maps.shape[1:]
    out = torch.empty(layer.out_channels, rows, columns)
    for row in range(rows):
        for column in range(columns):
            total = layer.bias.clone()
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    y, x = row + apart * down, column + apart * right
                    if 0 <= y < rows and 0 <= x < columns:
                        total = total + layer.weight[:, :, down + 1, right + 1] @ maps[:, y, x]
            out[:, row, column] = total
    return out


def test_the_embedding_matches_loops():
    embed = embedding(channels=3, width=2)
    embed.mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    embed.std.copy_(torch.tensor([2.0, 0.5, 1.0]))
    seen = noise(2, 3, 4, 5)
    gelu, (first, second) = torch.nn.functional.gelu, (embed.mix[1], embed.mix[3])
    for image in range(2):
        normal = (seen[image] - embed.mean.view(3, 1, 1)) / embed.std.view(3, 1, 1)
        deviation = normal.std(dim=(1, 2), keepdim=True) + 1e-3
        relative = (normal - normal.mean(dim=(1, 2), keepdim=True)) / deviation
        both = torch.cat([normal, relative])
        projected = torch.einsum("oc,chw->ohw", embed.project.weight[:, :, 0, 0], both)
        projected = projected + embed.project.bias.view(-1, 1, 1)
        expected = gelu(convolved(gelu(convolved(gelu(projected), first, 1)), second, 2))
        torch.testing.assert_close(embed(seen)[image], expected)


def test_an_embedding_knows_three_patches_around_and_no_more():
    embed, seen = embedding(channels=3, width=4), noise(1, 3, 9, 9)
    with torch.no_grad():
        embed.project.weight[:, 3:] = 0  # what is relative to the image knows all of it
    other = seen.clone()
    other[..., 4, 4] += 1
    changed = (embed(seen) != embed(other)).any(dim=1)[0]
    assert changed[1:8, 1:8].all()
    changed[1:8, 1:8] = False
    assert not changed.any()


def test_the_embedding_also_sees_each_channel_relative_to_the_image():
    embed, seen = embedding(channels=2, width=3), noise(1, 2, 5, 6)
    with torch.no_grad():
        embed.project.weight[:, :2] = 0
    torch.testing.assert_close(embed(4 * seen + 1), embed(seen), atol=1e-2, rtol=1e-2)
    assert not torch.allclose(embed(seen.flip(1)), embed(seen), atol=1e-2)


def test_the_statistics_are_stored_and_do_not_learn():
    embed = embedding(channels=3, width=2)
    assert {"mean", "std"} < embed.state_dict().keys()
    assert {name.split(".")[0] for name, _ in embed.named_parameters()} == {"project", "mix"}


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
    seen = PatchView(frozen, patch_size=8)(image)
    assert seen.shape == (1, 3 + 24 + 40 + 112 + 3 + 24 + 3, *grid)
    torch.testing.assert_close(seen[:, 3:27], fine.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(3, 5)))
    assert torch.equal(seen[:, 27:67], same)
    torch.testing.assert_close(seen[:, 67:179], aligned(coarse, grid))


def test_height_and_width_keep_their_order():
    assert PatchView(cnn(), patch_size=8)(noise(1, 3, 64, 96)).shape[-2:] == (8, 12)


@pytest.mark.parametrize(("size", "step", "every"), [((4, 5), 1, 1), ((6, 22), 2, 5), ((43, 3), 3, 10)])
def test_rarity_matches_loops(size, step, every):
    maps = noise(2, 3, *size)
    expected = torch.empty(2, *size)
    places = [(row, column) for row in range(size[0]) for column in range(size[1])]
    references = [(row, column) for row, column in places if (row + step * column) % every == 0]
    for image in range(2):
        own = maps[image].flatten(1)
        own = ((own - own.mean(dim=1, keepdim=True)) / (own.std(dim=1, keepdim=True) + 1e-3)).unflatten(1, size)
        for row, column in places:
            alike = [
                torch.exp(-0.5 * (own[:, row, column] - own[:, other[0], other[1]]).square().sum() / (3 * 0.5**2))
                for other in references
                if other != (row, column)
            ]
            expected[image, row, column] = -torch.stack(alike).mean().log()
    torch.testing.assert_close(rarity(maps), expected, atol=1e-4, rtol=1e-4)


def test_what_an_image_shows_once_is_rarer_than_what_it_shows_everywhere():
    stripes = torch.tensor([0.0, 1.0]).repeat(10).expand(1, 2, 20, 20).clone()
    stripes[..., 7, 4] = 3.0
    rare = rarity(stripes)[0]
    assert rare.argmax() == 7 * 20 + 4
    assert rare.flatten().topk(2).values[1] < 1


def test_nothing_is_rare_in_an_image_that_is_the_same_everywhere():
    assert rarity(torch.full((1, 3, 6, 6), 2.0)).abs().max() == 0


@pytest.mark.parametrize(("gain", "shift"), [(3.0, 0.0), (1.0, 5.0), (0.5, -2.0)])
def test_rarity_does_not_change_with_the_images_contrast_or_brightness(gain, shift):
    maps = noise(1, 4, 6, 6)
    torch.testing.assert_close(rarity(gain * maps + shift), rarity(maps), atol=1e-2, rtol=0)


def stem() -> Stem:
    view = PatchView(cnn(), patch_size=8)
    embed = embedding(view.channels, 4).requires_grad_(False)
    embed.mean.fill_(0.5)
    embed.std.fill_(2.0)
    return Stem(view, embed)


def test_a_view_is_the_maps_and_how_rare_each_patch_is_at_every_stage():
    view, image = PatchView(cnn(), patch_size=8), noise(2, 3, 64, 96)
    seen = view(image)
    assert seen.shape == (2, 3 + 176 + 3 + 24 + 3, 8, 12)
    assert view.channels == seen.shape[1]
    fine, same, coarse = (aligned(stage, (8, 12)) for stage in view.cnn.maps(image))
    blocks = image.unflatten(3, (12, 8)).unflatten(2, (8, 8)).movedim(3, 4).flatten(4)
    torch.testing.assert_close(seen[:, :3], blocks.mean(dim=-1))
    torch.testing.assert_close(seen[:, 3:179], torch.cat([fine, same, coarse], dim=1))
    torch.testing.assert_close(seen[:, 179:182], blocks.std(dim=-1, correction=0))
    torch.testing.assert_close(seen[:, 207], rarity(same))


@pytest.mark.parametrize("size", [(8, 12), (9, 13)])
def test_the_deviation_within_cells_is_that_of_their_values_and_not_of_rounding(size):
    maps = 100 + noise(2, 3, 4, 6).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    maps[:, :, :4] += noise(2, 3, 4, 12) * 1e-3  # the lower half is even in each cell
    if size == (8, 12):
        expected = maps.double().unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).std(dim=-1, correction=0).float()
        found = deviation_within(maps, (4, 6))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        assert found[:, :, 2:].max() == 0
        return
    wide = torch.nn.functional.pad(maps - 100, (0, 1, 0, 1))  # cells overlap
    means = (torch.nn.functional.adaptive_avg_pool2d(one.double(), (4, 6)) for one in (wide.square(), wide))
    expected = (next(means) - next(means).square()).clamp_min(0).sqrt().float()
    torch.testing.assert_close(deviation_within(wide, (4, 6)), expected, rtol=1e-3, atol=2e-3)


def test_a_line_thinner_than_a_patch_shows_in_the_deviation():
    view, image = PatchView(cnn(), patch_size=8), torch.zeros(1, 3, 64, 64)
    image[..., 27, :] = 2.0
    deviations = view(image)[0, 182:206].mean(dim=0)
    assert deviations[3, 1:-1].min() > 5 * deviations[6, 1:-1].max()


def test_tokens_are_what_is_seen_and_its_embedding_with_their_largest_values_in_front():
    whole, image = stem(), noise(2, 3, 64, 96)
    seen = whole.see(image)
    tokens = seen.tokens()
    assert whole.dim == 209 + 4
    assert tokens.shape == (2, 1 + 8 * 12, whole.dim)
    torch.testing.assert_close(tokens[:, 1:, :209], ((whole.view(image) - 0.5) / 2).flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokens[:, 1:, 209:], whole(image).flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].amax(dim=1))
    assert not tokens.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(seen.maps, whole.view.cnn.maps(image), strict=True))


def test_nothing_of_the_last_images_is_remembered():
    whole, image = stem(), noise(1, 3, 64, 64)
    before = whole(image)
    image[..., 16:] *= -1  # in place
    assert not torch.equal(whole(image), before)
    assert torch.equal(whole(image), stem()(image))


def test_the_cnn_of_a_stem_stays_in_float32():
    whole, image = stem(), noise(1, 3, 64, 64)
    full = whole.see(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = whole.see(image)
        assert whole.view.cnn.maps(image)[0].dtype is torch.bfloat16  # outside `see`, autocast applies
    assert all(torch.equal(a, b) for a, b in zip(half.maps, full.maps, strict=True))
    assert half.patches.dtype is torch.bfloat16
