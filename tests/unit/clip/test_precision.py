import pytest
import torch

from afr_clip.clip import precision
from afr_clip.clip.precision import FULL, HALF, MARGIN, choose_precision


@pytest.mark.parametrize("asked", ["32-true", "16-mixed", "bf16-mixed"])
def test_what_is_asked_for_is_taken_without_measuring(monkeypatch, asked):
    monkeypatch.setattr(precision, "_seconds_of_block", lambda dtype: pytest.fail("measured"))
    assert choose_precision(asked, "cpu") == {"asked": asked, "chosen": asked}


@pytest.mark.parametrize(("half", "chosen"), [(0.9 / MARGIN, HALF), (1.0, FULL), (4.0, FULL)])
def test_a_cpu_is_measured_and_the_seconds_are_kept(monkeypatch, half, chosen):
    monkeypatch.setattr(precision, "_seconds_of_block", {torch.float32: 1.0, torch.bfloat16: half}.get)
    seconds = {FULL: 1.0, HALF: half}
    assert choose_precision("auto", "cpu") == {"asked": "auto", "chosen": chosen, "seconds": seconds}


@pytest.mark.parametrize(("has_half", "chosen"), [(True, HALF), (False, FULL)])
def test_a_gpu_gets_what_it_computes_in(monkeypatch, has_half, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_half)
    assert choose_precision("auto", "auto") == {"asked": "auto", "chosen": chosen}


def test_a_block_takes_time():
    assert precision._seconds_of_block(torch.float32) > 0


def test_a_moment_of_other_work_does_not_decide(monkeypatch):
    half = iter([9.0, 0.25, 0.3])  # the first turn met other work
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "_seconds_of_block", lambda dtype: 1.0 if dtype is torch.float32 else next(half))
    assert precision.choose_precision("auto", "cpu")["chosen"] == "bf16-mixed"
