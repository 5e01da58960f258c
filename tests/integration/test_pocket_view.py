"""What the next edition of pocket sees of a patch."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
import timm
import torch

from afr_clip.clip.cnn import FrozenCNN
from afr_clip.clip.stem import aligned

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@pytest.fixture(scope="module")
def view():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "experiments" / "pocket_clip"))
        yield import_module("view")
    sys.modules.pop("view")


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def embedding(view, channels: int, width: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return view.PatchEmbedding(channels, width)


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


def test_the_embedding_matches_loops(view):
    embed = embedding(view, channels=3, width=2)
    embed.mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    embed.std.copy_(torch.tensor([2.0, 0.5, 1.0]))
    seen = noise(2, 3, 4, 5)
    gelu, (first, second) = torch.nn.functional.gelu, (embed.mix[1], embed.mix[3])
    for image in range(2):
        normal = (seen[image] - embed.mean.view(3, 1, 1)) / embed.std.view(3, 1, 1)
        deviation = seen[image].std(dim=(1, 2), keepdim=True) + 1e-3
        relative = (seen[image] - seen[image].mean(dim=(1, 2), keepdim=True)) / deviation
        both = torch.cat([normal, relative])
        projected = torch.einsum("oc,chw->ohw", embed.project.weight[:, :, 0, 0], both)
        projected = projected + embed.project.bias.view(2, 1, 1)
        expected = gelu(convolved(gelu(convolved(gelu(projected), first, 1)), second, 2))
        torch.testing.assert_close(embed(seen)[image], expected)


def test_an_embedding_knows_three_patches_around_and_no_more(view):
    embed, seen = embedding(view, channels=3, width=4), noise(1, 6, 9, 9)
    other = seen.clone()
    other[..., 4, 4] += 1
    changed = (embed.embedded(seen) != embed.embedded(other)).any(dim=1)[0]
    assert changed[1:8, 1:8].all()
    changed[1:8, 1:8] = False
    assert not changed.any()


def cnn() -> FrozenCNN:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3))
    return FrozenCNN(network, MEAN, STD)


@pytest.mark.parametrize(("size", "step", "every"), [((4, 5), 1, 1), ((6, 22), 2, 5), ((43, 3), 3, 10)])
def test_rarity_matches_loops(view, size, step, every):
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
    torch.testing.assert_close(view.rarity(maps), expected, atol=1e-4, rtol=1e-4)


def test_what_an_image_shows_once_is_rarer_than_what_it_shows_everywhere(view):
    stripes = torch.tensor([0.0, 1.0]).repeat(10).expand(1, 2, 20, 20).clone()
    stripes[..., 7, 4] = 3.0
    rare = view.rarity(stripes)[0]
    assert rare.argmax() == 7 * 20 + 4
    assert rare.flatten().topk(2).values[1] < 1


def test_nothing_is_rare_in_an_image_that_is_the_same_everywhere(view):
    assert view.rarity(torch.full((1, 3, 6, 6), 2.0)).abs().max() == 0


@pytest.mark.parametrize(("gain", "shift"), [(3.0, 0.0), (1.0, 5.0), (0.5, -2.0)])
def test_rarity_does_not_change_with_the_images_contrast_or_brightness(view, gain, shift):
    maps = noise(1, 4, 6, 6)
    torch.testing.assert_close(view.rarity(gain * maps + shift), view.rarity(maps), atol=1e-2, rtol=0)


def test_a_view_is_the_maps_and_how_rare_each_patch_is_at_every_stage(view):
    looking, image = view.PatchView(cnn(), patch_size=8), noise(2, 3, 64, 96)
    seen = looking(image)
    assert seen.shape == (2, 3 + 176 + 3 + 24 + 3, 8, 12)
    assert looking.channels == seen.shape[1]
    maps = looking.cnn.maps(image)
    fine, same, coarse = (aligned(stage, (8, 12)) for stage in maps)
    blocks = image.unflatten(3, (12, 8)).unflatten(2, (8, 8)).movedim(3, 4).flatten(4)
    torch.testing.assert_close(seen[:, :3], blocks.mean(dim=-1))
    torch.testing.assert_close(seen[:, 3:179], torch.cat([fine, same, coarse], dim=1))
    torch.testing.assert_close(seen[:, 179:182], blocks.std(dim=-1, correction=0))
    torch.testing.assert_close(seen[:, 207], view.rarity(same))


def test_a_line_thinner_than_a_patch_shows_in_the_deviation(view):
    looking, image = view.PatchView(cnn(), patch_size=8), torch.zeros(1, 3, 64, 64)
    image[..., 27, :] = 2.0
    deviations = looking(image)[0, 182:206].mean(dim=0)
    assert deviations[3, 1:-1].min() > 5 * deviations[6, 1:-1].max()
