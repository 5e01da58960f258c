import pytest
import torch
from PIL import Image

from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import DataError
from afr_clip.data.feed.transforms import resize_image, resize_mask
from helpers.trees import write_mvtec_tree


@pytest.fixture
def samples(tmp_path):
    root = write_mvtec_tree(tmp_path, categories=("bolt",), size=(60, 90))
    return read_samples(DatasetSpec("toy", "folder", root=root))


def test_height_stays_height(samples):
    reader = SampleReader(size=(32, 48))
    for sample in samples:
        stored, read = reader.decode(sample), reader.read(sample)
        assert stored.image.shape[1:] == stored.mask.shape == (60, 90)
        assert read.image.shape[1:] == read.mask.shape == (32, 48)
        assert torch.equal(read.image, resize_image(stored.image, (32, 48)))
        assert torch.equal(read.mask, resize_mask(stored.mask, (32, 48)))
        assert read.mask.any() == sample.is_anomalous


def test_a_mask_of_another_size_is_refused_with_both_names(samples):
    bad = next(sample for sample in samples if sample.is_anomalous)
    with Image.open(bad.mask_path) as mask:
        mask.transpose(Image.Transpose.ROTATE_90).save(bad.mask_path)
    with pytest.raises(DataError, match=r"scratch.000\.png is 60 x 90 and .*000_mask\.png is 90 x 60"):
        SampleReader(size=(32, 32)).read(bad)


def test_the_threshold_reaches_the_mask(samples):
    bad = next(sample for sample in samples if sample.is_anomalous)
    with Image.open(bad.mask_path) as mask:
        mask.point(lambda value: value // 2).save(bad.mask_path)  # 127: anomalous unless the threshold says otherwise
    assert SampleReader((32, 32)).read(bad).mask.any()
    assert not SampleReader((32, 32), mask_threshold=128).read(bad).mask.any()
