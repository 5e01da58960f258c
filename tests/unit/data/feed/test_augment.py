from pathlib import Path

import numpy as np
import pytest
import torch

from afr_clip.data.disk.pixels import Pixels, SampleReader
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.feed.augment import ClassAwareMosaic, Mosaic, build_augmentation, collage
from afr_clip.data.feed.dataset import AnomalyDataset
from afr_clip.data.records import AnomalySample
from helpers.trees import write_mvtec_tree


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


SIZE = (32, 48)


def sample(category: str, defect_type: str, number: int) -> AnomalySample:
    path = Path(f"{category}_{defect_type}_{number}.png")
    return AnomalySample("d", category, defect_type, path, None, defect_type != "good", category)


SAMPLES = [
    *(sample("bolt", "good", i) for i in range(20)),
    sample("bolt", "rare", 0),
    *(sample("tile", "good", i) for i in range(5)),
]


def test_a_collage_shows_each_quarter_at_half_its_size_where_it_belongs():
    quarters = [
        Pixels(torch.full((3, 7, 10), 50 * (i + 1), dtype=torch.uint8), torch.full((7, 10), i == 2)) for i in range(4)
    ]
    made = collage(quarters)
    assert made.image.shape == (3, 7, 10)
    for i, (rows, columns) in enumerate(
        [(slice(3), slice(5)), (slice(3), slice(5, 10)), (slice(3, 7), slice(5)), (slice(3, 7), slice(5, 10))]
    ):
        assert (made.image[:, rows, columns] == 50 * (i + 1)).all()
        assert (made.mask[rows, columns] == (i == 2)).all()


@pytest.mark.parametrize(("probability", "least", "most"), [(0.0, 0, 0), (0.2, 150, 250), (1.0, 1000, 1000)])
def test_as_many_images_become_a_collage_as_asked(probability, least, most):
    drawn = [Mosaic(SAMPLES, probability).draw(3, seed) for seed in range(1000)]
    assert all(positions == (3,) for positions in drawn if len(positions) == 1)
    assert least <= sum(len(positions) == 4 for positions in drawn) <= most


def test_quarters_are_of_the_category_and_rare_defects_as_frequent_as_normal_images():
    drawn = [position for seed in range(500) for position in Mosaic(SAMPLES, 1.0).draw(3, seed)]
    assert max(drawn) == 20  # the rare bolt; the tiles come behind it
    assert 0.45 < sum(position == 20 for position in drawn) / len(drawn) < 0.55
    assert set(drawn) == set(range(21))


def test_the_same_draw_is_the_same_collage():
    assert Mosaic(SAMPLES, 1.0).draw(3, 7) == Mosaic(SAMPLES, 1.0).draw(3, 7) != Mosaic(SAMPLES, 1.0).draw(3, 8)


def test_a_dataset_shows_collages_with_their_truth(tmp_path):
    samples = read_samples(DatasetSpec("toy", "mvtec_ad", root=write_mvtec_tree(tmp_path), split="test"))
    reader, mosaic = SampleReader(SIZE), Mosaic(samples, 1.0)
    dataset = AnomalyDataset(samples, reader, (0.0,) * 3, (1.0,) * 3, mosaic=mosaic)
    normal = next(i for i, s in enumerate(samples) if not s.is_anomalous)
    items = [dataset[normal, seed] for seed in range(8)]
    assert {item.sample.is_anomalous for item in items} == {True, False} or all(i.sample.is_anomalous for i in items)
    for seed, item in enumerate(items):
        expected = collage([reader.read(samples[i]) for i in mosaic.draw(normal, seed)])
        assert torch.equal(item.mask, expected.mask)
        assert torch.equal(item.image, expected.image / 255)
        assert item.sample.is_anomalous == bool(expected.mask.any())
        assert (item.index, item.has_mask, item.sample.category) == (normal, True, samples[normal].category)
    with pytest.raises(TypeError, match=r"must be asked for \(index, draw_seed\), got 3"):
        dataset[3]


def test_a_collage_counts_as_what_it_replaced_where_that_is_asked(tmp_path):
    samples = read_samples(DatasetSpec("toy", "mvtec_ad", root=write_mvtec_tree(tmp_path), split="test"))
    parts, labels = (samples, SampleReader(SIZE), (0.0,) * 3, (1.0,) * 3), {}
    for label in ("any", "replaced"):
        dataset = AnomalyDataset(*parts, mosaic=Mosaic(samples, 1.0, label))
        items = [dataset[index, seed] for index in range(len(samples)) for seed in range(3)]
        labels[label] = [item.sample.is_anomalous for item in items]
    assert labels["any"] == [bool(item.mask.any()) for item in items]
    assert labels["replaced"] == [sample.is_anomalous for sample in samples for _ in range(3)]
    assert labels["any"] != labels["replaced"]


def kind_of(mosaic: ClassAwareMosaic, index: int, seed: int) -> str:
    whole = Pixels(torch.zeros(3, 12, 12, dtype=torch.uint8), torch.eye(12, dtype=torch.bool))
    if len(mosaic.draw(index, seed)) > 1:
        return "grid"
    return "whole" if mosaic.cropped(whole, index, seed) is whole else "cell"


def test_half_of_the_pictures_become_a_grid_or_a_cell():
    kinds = [kind_of(ClassAwareMosaic(SAMPLES, 0.5), 3, seed) for seed in range(1000)]
    for kind, share in (("whole", 0.5), ("grid", 0.25), ("cell", 0.25)):
        assert abs(kinds.count(kind) / 1000 - share) < 0.05


def test_a_grid_shows_the_picture_itself_among_those_of_its_category_and_a_normal_one_among_normal_ones():
    mosaic, places = ClassAwareMosaic(SAMPLES, 1.0), set()
    for index in (3, 20, 22):
        grids = [shown for seed in range(300) if len(shown := mosaic.draw(index, seed)) > 1]
        assert {len(shown) for shown in grids} == {4, 9}
        assert all(index in shown for shown in grids)
        assert {SAMPLES[i].category for shown in grids for i in shown} == {SAMPLES[index].category}
        assert all(mosaic.is_anomalous(index, shown) == SAMPLES[index].is_anomalous for shown in grids)
        assert any(not SAMPLES[i].is_anomalous for shown in grids for i in shown)
        places |= {shown.index(index) for shown in grids if len(shown) == 4}
    assert places == {0, 1, 2, 3}


def test_a_cell_of_an_anomalous_picture_shows_its_defect():
    mosaic, image = (
        ClassAwareMosaic(SAMPLES, 1.0),
        torch.arange(144, dtype=torch.uint8).view(1, 12, 12).expand(3, -1, -1),
    )
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[1, 10] = True
    cells = [
        cell
        for seed in range(200)
        if len(mosaic.draw(20, seed)) == 1
        and (cell := mosaic.cropped(Pixels(image, mask), 20, seed)).image is not image
    ]
    assert len(cells) > 50
    assert all(cell.mask.any() and cell.mask.shape == (12, 12) and cell.image.shape == (3, 12, 12) for cell in cells)
    assert {int(cell.mask.sum()) for cell in cells} == {4, 9}  # one pixel, enlarged to 2 x 2 or 3 x 3
    nothing = Pixels(image, torch.zeros(12, 12, dtype=torch.bool))
    assert all(mosaic.cropped(nothing, 20, seed) is nothing for seed in range(50))  # no defect to look for


def test_a_collage_of_nine_shows_each_in_its_place():
    tiles = [Pixels(torch.full((3, 8, 9), 20 * i, dtype=torch.uint8), torch.full((8, 9), i == 5)) for i in range(9)]
    made = collage(tiles)
    assert made.image[0, :, 0].tolist() == [0, 0, 60, 60, 60, 120, 120, 120]
    assert made.image[0, 7].tolist() == [120] * 3 + [140] * 3 + [160] * 3
    assert made.mask.sum() == 9
