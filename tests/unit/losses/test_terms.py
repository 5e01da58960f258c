import math

import pytest
import torch
from torch.testing import assert_close

from afr_clip.losses.terms import dice_loss, focal_loss

NONE = torch.zeros(1, 4, 4, dtype=torch.bool)
HALF = torch.zeros(1, 4, 4, dtype=torch.bool)
HALF[:, :2] = True


def test_focal_loss_of_a_coin_is_a_quarter_of_log_two():
    assert_close(focal_loss(torch.full((1, 4, 4), 0.5), HALF), torch.tensor(math.log(2) / 4))


def test_focal_loss_without_focus_is_cross_entropy():
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = HALF.expand(2, 4, 4)
    expected = torch.nn.functional.binary_cross_entropy(maps, mask.float())
    assert_close(focal_loss(maps, mask, gamma=0.0), expected)


def test_focal_loss_of_a_saturated_map_is_finite_and_has_a_gradient():
    wrong = (~HALF).float().requires_grad_()
    loss = focal_loss(wrong, HALF)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-6), rel=1e-3)
    assert torch.isfinite(wrong.grad).all()
    assert (wrong.grad != 0).all()


def test_dice_of_equal_and_of_disjoint_masks():
    assert_close(dice_loss(HALF.float(), HALF), torch.tensor(0.0))
    assert_close(dice_loss((~HALF).float(), HALF), torch.tensor(1 - 1 / 17))
    assert_close(dice_loss(NONE.float(), NONE), torch.tensor(0.0))


def test_dice_is_averaged_over_images_not_pixels():
    maps, masks = torch.cat([HALF.float(), (~HALF).float()]), torch.cat([HALF, HALF])
    assert_close(dice_loss(maps, masks), torch.tensor((1 - 1 / 17) / 2))


def test_focal_loss_of_scores_is_that_of_pixels():
    scores, labels = torch.tensor([0.2, 0.9, 0.6, 0.4]), torch.tensor([True, False, True, False])
    assert_close(focal_loss(scores, labels), focal_loss(scores.view(1, 2, 2), labels.view(1, 2, 2)))
