from functools import partial

import pytest
import torch

from afr_clip.settings import StepScheduleSettings
from afr_clip.training.schedule import constant, cosine, inverse_epoch, schedule_factory


def rates(schedule, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.001)
    scheduler, seen = schedule(optimizer), []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_the_rate_is_divided_by_the_epochs_begun():
    assert rates(inverse_epoch, 5) == pytest.approx([0.001, 0.001 / 2, 0.001 / 3, 0.001 / 4, 0.001 / 5], rel=1e-12)


def test_a_constant_rate_stays():
    assert rates(constant, 4) == [0.001] * 4


def test_half_a_cosine_starts_at_the_rate_and_halves_it_midway():
    expected = [0.001, 0.00085355339, 0.0005, 0.00014644661, 0.0, 0.0]  # (1 + cos(0, 45, 90, 135, 180 degrees)) / 2
    assert rates(partial(cosine, num_epochs=4), 6) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_steps_hold_their_share_until_the_next():
    schedule = schedule_factory(StepScheduleSettings("steps", [0, 2, 5], [0.01, 1.0, 0.5]))
    assert rates(schedule, 7) == pytest.approx([1e-5, 1e-5, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4])


@pytest.mark.parametrize(
    ("starts", "shares", "sentence"),
    [
        ([], [], r"schedule.starts must be epochs that ascend from 0, got \[\]"),
        ([1, 2], [1.0, 1.0], r"schedule.starts must be epochs that ascend from 0, got \[1, 2\]"),
        ([0, 5, 5], [1.0, 0.5, 0.1], "schedule.starts must be epochs that ascend"),
        ([0, 5], [1.0], r"schedule.shares must be a positive share .* got \[1.0\]"),
        ([0], [0.0], r"schedule.shares must be a positive share .* got \[0.0\]"),
    ],
)
def test_steps_that_do_not_ascend_or_lack_a_share_are_refused(starts, shares, sentence):
    with pytest.raises(ValueError, match=sentence):
        StepScheduleSettings("steps", starts, shares)


def test_a_single_epoch_keeps_the_rate():
    assert rates(partial(cosine, num_epochs=1), 1) == [0.001]


def test_training_steps_the_schedule_once_an_epoch(make_module, fit, batches):
    module, seen = make_module(lr=0.06), []
    step = module.training_step

    def watched(batch, batch_idx):
        seen.append(module.trainer.optimizers[0].param_groups[0]["lr"])
        return step(batch, batch_idx)

    module.training_step = watched
    fit(module, batches, max_epochs=3)
    assert seen == pytest.approx([0.06, 0.06, 0.03, 0.03, 0.02, 0.02])
