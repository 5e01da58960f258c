from dataclasses import replace

import numpy as np
import pytest

from afr_clip.inspection.calibration import calibrate
from afr_clip.inspection.detector import Decoded
from afr_clip.inspection.scan import InspectionError
from afr_clip.inspection.service import inspect_each, model_of, now, record_of
from helpers.detectors import bright_model


def decoded(*values: int) -> list[Decoded]:
    return [Decoded(f"{value}.png", np.full((3, 6, 6), value, np.uint8)) for value in values]


def test_a_model_takes_what_was_declared_or_what_its_calibration_is_for():
    detector = bright_model().detector
    assert model_of("m", detector, []).categories == ()
    assert model_of("m", detector, ["nut", "bolt"]).categories == ("nut", "bolt")
    assert model_of("m", replace(detector, category="cap"), []).categories == ("cap",)
    thresholds = calibrate([0.2] * 19, [0.2] * 19, 0.05, detector.identity("cap"))
    calibrated = replace(detector, calibration=thresholds)
    assert model_of("m", calibrated, []).categories == ("cap",)
    with pytest.raises(InspectionError, match=r"The model m takes the categories cap, got nut\. A calibration holds"):
        model_of("m", calibrated, ["nut"])


def test_a_photograph_that_fails_leaves_the_others_as_they_are():
    found = inspect_each(bright_model().detector, decoded(9, 0, 7, 0), "cap")
    assert [str(one) if isinstance(one, ValueError) else round(one.image_score * 255) for one in found] == [
        *(9, "0.png is black.", 7, "0.png is black.")
    ]
    assert inspect_each(bright_model().detector, [], "cap") == []


def test_what_is_no_fault_of_a_photograph_is_raised(monkeypatch):
    model = bright_model()
    monkeypatch.setattr(model.detector.scanner, "look", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        inspect_each(model.detector, decoded(1, 2), "cap")


def test_a_record_is_what_was_found_with_id_time_model_and_file():
    (found,) = inspect_each(bright_model().detector, decoded(51), "cap")
    record = record_of(found.to_dict(), key="k", model="m", file="51.png")
    assert {**record, "image": record["file"]} == {
        **found.to_dict(), "image": "51.png", "id": "k", "time": record["time"], "model": "m", "file": "51.png"
    }  # fmt: skip
    assert record["time"] <= now()
    assert record["time"].endswith("+00:00")
