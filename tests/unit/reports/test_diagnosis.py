import json

import pytest

from afr_clip.metrics.average import METRICS
from afr_clip.reports.diagnosis import (
    AS_IT_IS,
    NO_TERM,
    OTHER_CATEGORY,
    SWAPPED,
    WRONG_CATEGORY,
    diagnosis_parts,
    read_diagnoses,
)

TERMS = {"text_norm": 0.25, "image_norm": 99.75, "share": 0.0025, "turn": 0.125}


def content(*, untrained: bool = False, **changed: object) -> dict[str, object]:
    """What a diagnosis of two categories leaves; `changed` replaces entries of its one dataset."""
    metrics = [
        {"text": text, "category": category, "metric": metric, "value": value}
        for text, value in ((AS_IT_IS, 0.75), (WRONG_CATEGORY, 0.25))
        for category in ("bolt", "nut")
        for metric in METRICS
    ]
    differences = [
        {"text": text, "metric": metric, "points": -50.0, "low": -60.0, "high": -40.0, "num_categories": 2}
        for text in (NO_TERM, WRONG_CATEGORY, SWAPPED)
        for metric in METRICS
    ]
    found = {
        "dataset": "parts",
        "terms": [{"stage": 1, "tokens": "class token"} | TERMS, {"stage": 1, "tokens": "patches"} | TERMS],
        "prototypes": [{"category": "bolt", "cosine": -0.9966, "cosine_before_adapter": 0.85}],
        "metrics": metrics,
        "differences": differences,
        "left_out": {OTHER_CATEGORY: "All images have one category."},
    }
    return {"untrained": untrained, "wrong_category": "banana", "datasets": [found | changed]}


def shown(grid) -> list[list[str]]:
    return [[cell.shown for cell in row] for row in grid.body]


def test_metrics_terms_and_prototypes_are_tables():
    (part,) = diagnosis_parts(content())
    metrics, terms, prototypes = part.grids
    assert part.heading == "parts"
    assert shown(metrics)[0] == ["as it is", *["75.0"] * 7]
    assert shown(metrics)[2] == ["every image called 'banana'", *["-50.0 [-60.0, -40.0]"] * 7]
    assert shown(terms) == [
        ["1", kind, "0.25", "99.8", "0.25 %", "0.12\N{DEGREE SIGN}"] for kind in ("class token", "patches")
    ]
    assert shown(prototypes) == [["bolt", "-0.997", "0.850"]]


def test_where_names_decide_their_metrics_stand_above_the_bound():
    means = {key: dict.fromkeys(METRICS, value) for key, value in (("right", 0.8), ("partner", 0.6), ("object", 0.7))}
    names = {"image_only_bound": 0.75, "num_categories": 2, **means, "gap": dict.fromkeys(METRICS, 0.2)}
    (part,) = diagnosis_parts(content(names=names))
    rows = shown(part.grids[1])
    assert [row[:2] for row in rows] == [
        ["right name", "80.0"],
        ["partner's name", "60.0"],
        ["'object'", "70.0"],
        ["name gap", "+20.0"],
        ["bound of image-only methods", "75.0"],
    ]
    assert rows[-1][2:] == [""] * 6
    assert any("2 categories share pictures" in note for note in part.notes)
    (part,) = diagnosis_parts(content(names={"image_only_bound": 0.75, "num_categories": 2, "right": means["right"]}))
    assert [row[0] for row in shown(part.grids[1])] == ["right name", "bound of image-only methods"]


def test_the_notes_say_what_the_interval_covers_and_what_was_left_out():
    (part,) = diagnosis_parts(content())
    assert any("bootstrap interval over categories" in note and "2 at most" in note for note in part.notes)
    assert "Left out: every image called by the next category. All images have one category." in part.notes
    assert any("the turn is near zero" in note for note in part.notes)


def test_one_category_has_differences_without_interval():
    differences = [
        {"text": NO_TERM, "metric": metric, "points": 1.0, "low": None, "high": None, "num_categories": 1}
        for metric in METRICS
    ]
    (part,) = diagnosis_parts(content(differences=differences))
    assert shown(part.grids[0])[1][1:] == ["+1.0"] * 7
    assert "Differences are in percentage points. A single category gives no interval." in part.notes


def test_an_undefined_metric_is_a_dash_and_its_difference_empty():
    base = content()["datasets"][0]
    metrics = [row | {"value": None} if row["metric"] == "pixel_ap" else row for row in base["metrics"]]
    undefined = {"points": None, "low": None, "high": None, "num_categories": 0}
    differences = [row | undefined if row["metric"] == "pixel_ap" else row for row in base["differences"]]
    (part,) = diagnosis_parts(content(metrics=metrics, differences=differences))
    assert [row[5] for row in shown(part.grids[0])] == ["-", "", "", ""]


def test_without_terms_there_is_no_table_and_no_note_of_them():
    prototypes = [{"category": "bolt", "cosine": 0.5}]
    (part,) = diagnosis_parts(content(terms=[], prototypes=prototypes))
    assert len(part.grids) == 2
    assert [heading.label for heading in part.grids[1].headings] == ["Category", "Cosine"]
    assert not any("turn" in note for note in part.notes)


@pytest.mark.parametrize("names", [(), ("diagnosis.json",), ("diagnosis.json", "diagnosis_untrained.json")])
def test_a_run_folder_holds_up_to_two_diagnoses(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text(json.dumps(content(untrained="untrained" in name)))
    assert [part.heading for part in read_diagnoses(tmp_path)] == ["parts", "parts, untrained"][: len(names)]
