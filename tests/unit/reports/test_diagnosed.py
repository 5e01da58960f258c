import json

import pytest

from afr_clip.reports.compare.report import compare
from afr_clip.reports.diagnosis import CHANGES, NO_STATELESS, NO_TERM, SWAPPED, diagnosis_grid
from helpers.results import measured_in, source, write_run

VISA = source("VisA")
TERMS = {"text_norm": 0.25, "image_norm": 99.75, "turn": 0.1}


def moves(text, points):
    return [
        {"text": text, "metric": metric, "points": points, "low": points - 1, "high": points + 1, "num_categories": 2}
        for metric in ("image_auroc", "pixel_ap")
    ]


def write_diagnosed(folder, seed, **changed):
    """A run on MPDD with a diagnosis of it."""
    write_run(folder, {"MPDD": 0.8}, auxiliary=VISA, seed=seed)
    found = {
        "dataset": "mpdd",
        "metrics": [],
        "differences": [*moves(NO_TERM, -0.5), *moves(NO_STATELESS, -2.0), *moves(SWAPPED, -60.0)],
        "terms": [
            {"stage": stage, "tokens": "patches", "share": share, **TERMS} for stage, share in ((1, 0.0025), (2, 0.125))
        ],
        "prototypes": [],
        "left_out": {},
    }
    content = {"untrained": False, "wrong_category": "banana", "datasets": [found | changed]}
    (folder / "diagnosis.json").write_text(json.dumps(content))


def test_each_diagnosed_run_is_a_row(tmp_path):
    for seed in (0, 1):
        write_diagnosed(tmp_path / str(seed), seed)
    write_run(tmp_path / "2", {"MPDD": 0.8}, auxiliary=VISA, seed=2)
    grid = diagnosis_grid(measured_in(tmp_path))
    assert [[cell.shown for cell in row] for row in grid.body] == [
        ["AFR-CLIP", "mpdd", seed, "-2.0 [-3.0, -1.0]", "", "", "-60.0 [-61.0, -59.0]", "12.50", ""]
        for seed in ("0", "1")
    ]
    assert [heading.label for heading in grid.headings[3:7]] == [label for label, _ in CHANGES.values()]


def test_a_name_gap_is_shown_and_missing_terms_are_empty(tmp_path):
    names = {"image_only_bound": 0.75, "num_categories": 2, "right": {"image_auroc": 0.9}, "gap": {"image_auroc": 0.4}}
    write_diagnosed(tmp_path / "run", 0, names=names, terms=[], differences=[])
    (row,) = diagnosis_grid(measured_in(tmp_path)).body
    assert [cell.shown for cell in row[3:]] == ["", "", "", "", "", "+40.0"]


def test_the_page_shows_diagnoses_where_there_are_some(tmp_path):
    write_diagnosed(tmp_path / "run", 0)
    assert "Does the text matter?" in compare([tmp_path / "run"]).write(tmp_path / "out").path.read_text()
    (tmp_path / "run" / "diagnosis.json").unlink()
    assert "Does the text matter?" not in compare([tmp_path / "run"]).write(tmp_path / "out").path.read_text()


@pytest.mark.parametrize("content", ["", "{}", '{"untrained": false, "wrong_category": "x", "datasets": [1]}'])
def test_a_damaged_diagnosis_is_named_and_left_out(tmp_path, content, caplog):
    write_diagnosed(tmp_path / "run", 0)
    (tmp_path / "run" / "diagnosis.json").write_text(content)
    assert diagnosis_grid(measured_in(tmp_path)) is None
    assert "diagnosis.json is left out" in caplog.text
