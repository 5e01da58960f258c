import math

import pytest
import torch
from torch.testing import assert_close

from afr_clip.losses.total import AnomalyLoss, dice_loss, focal_loss, separation_loss

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


@pytest.mark.parametrize("gamma", [2.0, 0.0, 1.5])
def test_label_smoothing_is_that_of_the_public_codes(gamma):
    probability = torch.tensor([0.0, 1e-6, 0.3, 0.9, 1.0])
    both = torch.stack([1 - probability, probability], dim=-1).double()  # normal, abnormal
    for truth in (False, True):
        one_hot = torch.tensor([not truth, truth]).double().clamp(1e-5, 1 - 1e-5)
        right = (one_hot * both).sum(-1) + 1e-5
        expected = -((1 - right).clamp(min=0) ** gamma * right.log()).mean()
        ours = focal_loss(probability, torch.full((5,), truth), gamma, smoothing=1e-5)
        assert ours.item() == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_keeps_the_gradient_of_a_confident_mistake():
    # d loss / d logit of a defect pixel, in closed form from p_t = 2 s + (1 - 2 s) p: -0.70, -0.24, -0.04 where the
    # floor of 1e-6 leaves -0.98, -0.86, -0.45.
    for logit, smoothed, floored in ((-10.0, -0.70, -0.98), (-12.0, -0.24, -0.86), (-14.0, -0.04, -0.45)):
        for smoothing, expected in ((1e-5, smoothed), (0.0, floored)):
            given = torch.tensor([logit], requires_grad=True)
            focal_loss(given.sigmoid(), torch.tensor([True]), smoothing=smoothing).backward()
            assert given.grad.item() == pytest.approx(expected, abs=6e-3)


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


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(3, 2, 8, 8, generator=generator),
        torch.rand(3, generator=generator),
        torch.rand(3, 8, 8, generator=generator) > 0.7,
        torch.tensor([True, False, True]),
    )


def test_the_total_is_the_weighted_sum_of_its_terms_over_all_maps(inputs):
    maps, scores, masks, labels = inputs
    first, second = maps.unbind(1)
    terms = AnomalyLoss(image_weight=2.0, focal_weight=3.0, dice_weight=5.0, complement_weight=7.0)(*inputs)
    expected = (
        2 * focal_loss(scores, labels, gamma=0.0)
        + 3 * (focal_loss(first, masks) + focal_loss(second, masks))
        + 5 * (dice_loss(first, masks) + dice_loss(second, masks))
        + 7 * (dice_loss(1 - first, ~masks) + dice_loss(1 - second, ~masks))
    )
    assert_close(terms.total, expected)
    assert_close(terms.total, terms.image + terms.focal + terms.dice + terms.complement)


def test_dice_per_row_is_dice_per_image_of_the_rows(inputs):
    maps, _, masks, _ = inputs

    def by_row(shown, truth):
        # One image at a time, its rows as samples: what the public code does with its batch of one image.
        rows = [dice_loss(one[:, None], wanted[:, None]) for one, wanted in zip(shown, truth, strict=True)]
        return torch.stack(rows).mean()

    terms = AnomalyLoss(dice_per="row")(*inputs)
    assert_close(terms.dice, by_row(maps[:, 0], masks) + by_row(maps[:, 1], masks))
    assert_close(terms.complement, by_row(1 - maps[:, 0], ~masks) + by_row(1 - maps[:, 1], ~masks))
    assert_close(terms.focal, AnomalyLoss()(*inputs).focal)


def test_dice_per_row_in_closed_form():
    half, left = HALF.float()[:, None], HALF.transpose(1, 2)  # two rows of ones over two of zeros; left columns
    score, normal = torch.tensor([0.5]), torch.tensor([False])
    terms = AnomalyLoss(dice_per="row")(half, score, left, normal)
    # Rows of ones: 1 - (2 * 2 + 1) / (4 + 2 + 1); rows of zeros: 1 - 1 / (2 + 1). The complement is the mirror image.
    assert_close(terms.dice, torch.tensor((2 / 7 + 2 / 3) / 2))
    assert_close(terms.complement, torch.tensor((2 / 3 + 2 / 7) / 2))
    # A normal image: each row of 4 pixels at 0.5 costs 1 - 1 / (2 + 1), the whole image 1 - 1 / (8 + 1).
    half_sure, nothing = torch.full((1, 1, 4, 4), 0.5), torch.zeros_like(HALF)
    assert_close(AnomalyLoss(dice_per="row")(half_sure, score, nothing, normal).dice, torch.tensor(2 / 3))
    assert_close(AnomalyLoss()(half_sure, score, nothing, normal).dice, torch.tensor(8 / 9))


def test_exponents_and_smoothings_of_image_and_maps_are_apart(inputs):
    maps, scores, masks, labels = inputs
    terms = AnomalyLoss(focal_gamma=1.0, image_gamma=3.0, focal_smoothing=0.1, image_smoothing=0.2)(*inputs)
    assert_close(terms.image, focal_loss(scores, labels, 3.0, 0.2))
    assert_close(terms.focal, focal_loss(maps[:, 0], masks, 1.0, 0.1) + focal_loss(maps[:, 1], masks, 1.0, 0.1))


def test_computed_in_float32_whatever_comes_in(inputs):
    maps, scores, masks, labels = inputs
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = AnomalyLoss()(maps, scores, masks, labels)
    assert_close(terms.total, AnomalyLoss()(*inputs).total, rtol=0, atol=0)


ALL = ("image_weight", "focal_weight", "dice_weight", "complement_weight")


@pytest.mark.parametrize(
    "weights",
    [
        {"dice_weight": -1.0},
        {"focal_gamma": -1.0},
        {"image_gamma": -1.0},
        {"focal_smoothing": -1.0},
        dict.fromkeys(ALL, 0.0),
    ],
)
def test_senseless_weights_are_refused(weights):
    with pytest.raises(ValueError, match="loss weights must not be negative and not all 0"):
        AnomalyLoss(**weights)


def test_an_unknown_way_to_take_dice_is_refused():
    with pytest.raises(ValueError, match="dice_per must be one of image, row, got 'column'"):
        AnomalyLoss(dice_per="column")


def test_prototypes_are_pushed_to_a_right_angle_or_beyond():
    pairs = torch.tensor([[[1.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [0.0, -1.0]]])  # cosines 0.6 and -1
    assert_close(separation_loss(pairs), torch.tensor(0.04))  # of the mean, -0.2
    assert_close(separation_loss(pairs, margin=0.5), torch.tensor(0.55))  # 1.1 and 0
    assert_close(separation_loss(7 * pairs, margin=0.5), separation_loss(pairs, margin=0.5))


def test_without_a_trained_score_there_is_no_image_loss(inputs):
    maps, scores, *truth = inputs
    terms = AnomalyLoss()(maps, scores[:, None][:, :0], *truth)
    assert terms.image == 0
    assert_close(terms.total, terms.focal + terms.dice + terms.complement)
