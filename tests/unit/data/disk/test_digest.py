import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image

from afr_clip.data.disk.digest import content_digest, count_vanished_defects
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import MissingDataError
from helpers.trees import write_mvtec_tree


def read(root):
    return read_samples(DatasetSpec("toy", "mvtec_ad", root=root))


def test_hashes_are_those_of_the_files_and_counts_fit(tmp_path):
    samples = read(write_mvtec_tree(tmp_path, num_normal=3, num_anomalous=2))
    digest = content_digest(samples)
    assert (digest.num_images, digest.num_masks, digest.num_anomalous) == (10, 4, 4)
    for sample, image, mask in zip(samples, digest.images, digest.masks, strict=True):
        assert image == hashlib.sha256(sample.image_path.read_bytes()).hexdigest()
        assert (mask is None) == (sample.mask_path is None)


def test_where_the_files_lie_does_not_matter_but_every_byte_does(tmp_path):
    write_mvtec_tree(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (content_digest(read(tmp_path / name)).sha256 for name in "ab")
    assert first == second
    mask = tmp_path / "b/bolt/ground_truth/spot/001_mask.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert content_digest(read(tmp_path / "b")).sha256 != first


def test_a_file_that_disappears_is_named(tmp_path):
    samples = read(write_mvtec_tree(tmp_path))
    samples[0].image_path.unlink()
    with pytest.raises(MissingDataError, match=r"good.000\.png must be readable"):
        content_digest(samples)


def test_vanished_and_empty_masks_are_counted_per_category(tmp_path):
    write_mvtec_tree(tmp_path, size=(96, 80))
    tiny = np.zeros((96, 80), dtype=np.uint8)
    Image.fromarray(tiny).save(tmp_path / "tile/ground_truth/spot/001_mask.png")
    tiny[0, 0] = tiny[95, 79] = 255
    Image.fromarray(tiny).save(tmp_path / "bolt/ground_truth/spot/001_mask.png")
    counts = count_vanished_defects(read(tmp_path), SampleReader(size=(24, 20)))
    assert {category: (c.num_masks, c.num_empty, c.num_vanished) for category, c in counts.items()} == {
        "bolt": (4, 0, 2),
        "tile": (4, 1, 0),
    }
