import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.records import AnomalySample
from afr_clip.inspection.calibration import Decision
from afr_clip.inspection.detector import Detector
from afr_clip.run import predict
from afr_clip.run.predict import AnomalousError, IncompletePredictionError, judge_file, raise_outcome

DECIDED = [
    (0.2, "a.png", Decision.normal),
    (0.5, "b.png", Decision.undecided),
    (0.7, "c.png", Decision.anomalous),
    (0.9, "d.png", Decision.anomalous),
]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MissingDataError("a.png is gone."), "a.png is gone."),
        (OSError(errno.EIO, "Input/output error"), "[Errno 5] Input/output error"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator: can't allocate memory"),
        (torch.OutOfMemoryError("Tried to allocate 2.00 GiB."), "Tried to allocate 2.00 GiB."),
    ],
)
def test_a_photograph_that_cannot_be_judged_stops_no_other(monkeypatch, error, reason):
    with pytest.raises(DataError) as raised:
        judge_broken(monkeypatch, error)
    assert str(raised.value) == reason


def test_a_fault_of_the_program_is_not_blamed_on_a_photograph(monkeypatch):
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        judge_broken(monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def judge_broken(monkeypatch, error: Exception) -> None:
    def broken(*_) -> None:
        raise error

    monkeypatch.setattr(predict, "as_rgb", broken)
    photograph = AnomalySample("photographs", "nut", "unknown", Path("a.png"), None, False, "nut")
    detector = object.__new__(Detector)  # nothing of it is needed before the photograph is read
    judge_file(detector, "a.png", photograph, np.zeros((2, 2), np.float32), 0.5)


@pytest.mark.parametrize(
    ("fail_on", "sentence"),
    [
        ("anomalous", "2 of 4 photographs found anomalous: d.png, c.png. LIST lists all."),
        ("undecided", "3 of 4 photographs found anomalous or undecided: d.png, c.png, b.png. LIST lists all."),
    ],
)
def test_an_error_names_what_fail_on_asks_for_the_worst_first(fail_on, sentence):
    with pytest.raises(AnomalousError) as raised:
        raise_outcome(fail_on, iter(DECIDED), ["1 link leads nowhere."], "LIST")
    assert str(raised.value) == f"{sentence} 1 link leads nowhere."


def test_without_a_bad_part_only_what_could_not_be_scored_is_an_error():
    for fail_on, decided in ((None, DECIDED), ("undecided", DECIDED[:1])):
        raise_outcome(fail_on, iter(decided), [], "LIST")
        with pytest.raises(IncompletePredictionError, match=r"^1 link leads nowhere\.$"):
            raise_outcome(fail_on, iter(decided), ["1 link leads nowhere."], "LIST")
