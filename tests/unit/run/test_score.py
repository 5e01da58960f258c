from pathlib import Path

from afr_clip.data.records import AnomalySample
from afr_clip.run.score import _warn_of_ties


def samples(*categories: str) -> list[AnomalySample]:
    return [AnomalySample("toy", c, "good", Path(f"{i}.png"), None, False, c) for i, c in enumerate(categories)]


def test_a_category_whose_scores_are_all_one_number_is_named(caplog):
    _warn_of_ties("toy", samples("bolt", "bolt", "nut", "nut", "pin"), [1.0, 1.0, 0.5, 1.0, 1.0])
    (record,) = caplog.records  # one pin alone ties with nothing
    assert record.getMessage().startswith("toy/bolt: all 2 image scores are 1.0, so the images cannot be ranked.")
