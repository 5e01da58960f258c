import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from afr_clip.reports.pictures.figures import FigureCollector
from afr_clip.reports.pictures.heat_maps import read_heat_maps, write_heat_maps
from afr_clip.reports.record.schema import RecordError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture
def collector(scored):
    made = FigureCollector((MEAN, STD), 2)
    made(*scored([0.1, 0.9, 0.5, 0.7], [False, True, False, True]))
    return made


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_what_is_kept_comes_back_as_it_was(collector, tmp_path):
    write_heat_maps(tmp_path, collector.sheets(), collector.scale)
    kept = read_heat_maps(tmp_path)
    assert {sheet: len(found) for sheet, found in kept.items()} == {"highest": 2, "lowest": 2, "worst_ranked": 2}
    for sheet, panels in collector.sheets().items():
        for panel, files in zip(panels, kept[sheet], strict=True):
            assert panel.sample.image_path.name in files["caption"]
            assert np.array_equal(pixels(files["path"]), panel.image)
            assert np.array_equal(pixels(files["truth"]) > 0, panel.mask)
            share = pixels(files["anomaly_map"]).astype(np.float64) / 255
            found = files["lowest"] + share * (files["highest"] - files["lowest"])
            assert np.abs(found - panel.anomaly_map).max() <= (files["highest"] - files["lowest"]) / 255


def test_all_maps_of_a_dataset_share_one_scale_that_they_fill(collector, tmp_path):
    write_heat_maps(tmp_path, collector.sheets(), collector.scale)
    kept = [files for found in read_heat_maps(tmp_path).values() for files in found]
    assert len({(files["lowest"], files["highest"]) for files in kept}) == 1
    values = np.concatenate([pixels(files["anomaly_map"]).ravel() for files in kept])
    assert (values.min(), values.max()) == (0, 255)


def test_a_flat_map_is_the_lowest_step(scored, tmp_path):
    batch, maps, scores = scored([0.5], [True])
    collector = FigureCollector((MEAN, STD), 1)
    collector(batch, torch.full_like(maps, 0.25), scores)
    write_heat_maps(tmp_path, collector.sheets(), collector.scale)
    (files,) = read_heat_maps(tmp_path)["highest"]
    assert pixels(files["anomaly_map"]).max() == 0


def test_unknown_truth_is_no_picture(scored, tmp_path):
    batch, maps, scores = scored([0.5], [True])
    collector = FigureCollector((MEAN, STD), 1)
    collector(replace(batch, has_mask=torch.tensor([False])), maps, scores)
    write_heat_maps(tmp_path, collector.sheets(), collector.scale)
    (files,) = read_heat_maps(tmp_path)["highest"]
    assert files["truth"] is None
    assert not list(tmp_path.glob("*truth*"))


def test_nothing_kept_is_nothing_written(tmp_path):
    write_heat_maps(tmp_path / "visa", {"highest": [], "lowest": []}, None)
    assert not (tmp_path / "visa").exists()
    assert read_heat_maps(tmp_path / "visa") == {}


@pytest.mark.parametrize("name", ["../manifest.json", "/etc/passwd", "a/b.png", "index.json"])
def test_an_index_that_names_files_elsewhere_is_refused(collector, tmp_path, name):
    write_heat_maps(tmp_path, collector.sheets(), collector.scale)
    index = json.loads((tmp_path / "index.json").read_text())
    index["sheets"]["highest"][0]["image"] = name
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(RecordError, match=r"sheets\.highest must name files next to it"):
        read_heat_maps(tmp_path)
