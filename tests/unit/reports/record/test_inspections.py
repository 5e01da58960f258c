import json

import numpy as np
import pytest

from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import find_regions
from afr_clip.reports.record.inspections import REGIONS, GrowingInspections, Inspections


def inspected(name: str, score: float = 0.5) -> Inspected:
    anomaly_map = np.zeros((8, 8), dtype=np.float32)
    anomaly_map[2:5, 3:6] = score
    return Inspected(name, 8, 8, "nut", score, None, None, None, find_regions(anomaly_map, 0.2, 0.1))


@pytest.fixture
def grown(tmp_path):
    for rank, names in enumerate((["b.png", "ä\n.png"], ["a.png"])):
        growing = GrowingInspections(tmp_path, rank)
        for name in names:
            growing.append(inspected(name))
        growing.close()
    return tmp_path


def test_what_several_processes_found_becomes_one_file_in_the_order_wanted(grown):
    order = ["a.png", "b.png", "gone.png", "ä\n.png"]
    Inspections(grown, order).write(grown)
    assert [path.name for path in grown.iterdir()] == [REGIONS]
    content = json.loads((grown / REGIONS).read_text())
    assert [one["image"] for one in content] == ["a.png", "b.png", "ä\n.png"]
    found = Inspections(grown)
    assert list(found) == [inspected(one) for one in ("a.png", "b.png", "ä\n.png")]
    assert (len(found), found[1], found[1:]) == (3, inspected("b.png"), list(found)[1:])


def test_half_a_line_is_left_out_and_overwritten(grown):
    path = grown / "inspected.1.jsonl"
    with path.open("a") as file:
        file.write('{"image": "c.png", "wid')
    assert sorted(Inspections(grown).images) == ["a.png", "b.png", "ä\n.png"]
    growing = GrowingInspections(grown, 1)
    growing.append(inspected("d.png"))
    growing.close()
    assert sorted(Inspections(grown).images) == ["a.png", "b.png", "d.png", "ä\n.png"]


def test_a_photograph_that_was_found_again_counts_once_as_the_later(grown):
    Inspections(grown).write(grown)
    growing = GrowingInspections(grown, 0)
    growing.append(inspected("b.png", 0.75))
    growing.close()
    assert Inspections(grown, ["b.png"])[0].image_score == 0.75
