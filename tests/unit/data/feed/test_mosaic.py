from pathlib import Path

import pytest
import torch

from afr_clip.data.disk.pixels import Pixels, SampleReader
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.feed.dataset import AnomalyDataset
from afr_clip.data.feed.mosaic import Mosaic, collage
from afr_clip.data.records import AnomalySample
from helpers.trees import write_mvtec_tree

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
