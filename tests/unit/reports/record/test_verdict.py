import numpy as np

from afr_clip.inspection.calibration import Decision
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import find_regions
from afr_clip.reports.record.results import GrowingScores, ImageRow, Verdict, read_scores, write_scores

SCORES = np.float32([[0.9, 0.9, 0.1, 0.6], [0.1, 0.1, 0.1, 0.1]])
REGIONS = find_regions(SCORES, 0.5, 0.5, mm_per_pixel=0.5)
INSPECTED = [
    Inspected("a.png", 4, 2, "nut", 0.75, 0.5, Decision.anomalous, 0.875, REGIONS),
    Inspected("b.png", 4, 2, "nut", 0.25, 0.5, Decision.normal, 0.25, ()),
    Inspected("c.png", 4, 2, "nut", 0.125, None, None, None, REGIONS),
]


def test_scores_tell_the_verdict_where_there_is_a_calibration(tmp_path):
    rows = [ImageRow("x", "nut", one.image, None, one.image_score, Verdict.of(one)) for one in INSPECTED[:2]]
    growing = GrowingScores(tmp_path, rows[:1], with_verdict=True)
    growing.append(rows[1:])
    growing.close()
    header, first, second = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert header == "dataset,category,image,is_anomalous,image_score,decision,threshold,num_regions,area_px,area_mm2"
    assert first.endswith(",0.75,anomalous,0.5,2,3,0.75")
    assert second.endswith(",0.25,normal,0.5,0,0,")
    assert read_scores(tmp_path) == rows


def test_scores_without_a_calibration_are_as_they_were(tmp_path):
    row = ImageRow("x", "nut", "a.png", None, 0.125, Verdict.of(INSPECTED[2]))
    assert row.verdict is None
    write_scores(tmp_path, [row])
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8") == (
        "dataset,category,image,is_anomalous,image_score\nx,nut,a.png,,0.125\n"
    )
