import pytest
import torch
from torch.testing import assert_close

from afr_clip.models.afr_clip.cmfr import CrossModalFeatureRectification, without_text_half
from helpers.naive import naive_rectification


def module(**changes: object) -> CrossModalFeatureRectification:
    torch.manual_seed(0)
    return CrossModalFeatureRectification(dim=6, **changes).double()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 12, 6, generator=generator, dtype=torch.float64),
        torch.randn(2, 6, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("inner_dim", [None, 3])
def test_single_patches_match_the_equations_in_a_loop(inputs, inner_dim):
    cmfr = module(inner_dim=inner_dim)
    assert_close(cmfr(*inputs), naive_rectification(cmfr, *inputs))


def test_a_wide_kernel_that_only_uses_its_centre_equals_single_patches(inputs):
    single, wide = module(), module(kernel_size=3)
    with torch.no_grad():
        for name in ("reduce", "expand"):
            narrow, broad = getattr(single, name), getattr(wide, name)
            broad.weight.zero_()
            broad.weight[:, :, 1, 1] = narrow.weight[:, :, 0, 0]
            broad.bias.copy_(narrow.bias)
    wide.mix.load_state_dict(single.mix.state_dict())
    assert_close(wide(*inputs, (3, 4)), single(*inputs))


def test_a_wide_kernel_lets_neighbours_speak(inputs):
    cmfr = module(kernel_size=3)
    tokens, stateless = inputs
    moved = tokens.clone()
    moved[:, 0] += 1
    changed = (cmfr(moved, stateless, (3, 4)) - cmfr(tokens, stateless, (3, 4))).abs().sum(-1)[0] > 1e-9
    assert changed.view(3, 4)[:3, :3].all()  # two 3 x 3 convolutions reach two patches far
    assert not changed.view(3, 4)[:, 3].any()


def test_nothing_seen_is_nothing_written(inputs):
    _, stateless = inputs
    blank = torch.zeros(2, 12, 6, dtype=torch.float64)
    assert_close(module()(blank, stateless), stateless[:, None].expand(2, 12, 6))


def test_the_unused_weight_is_built_only_where_it_is_used(inputs):
    cmfr, symmetric = module(), module(symmetric=True)
    tokens, stateless = inputs
    image_weight, text_weight = cmfr.weights(tokens, stateless)
    assert_close(cmfr(tokens, stateless), stateless[:, None] + tokens * image_weight)
    assert text_weight is None
    assert (cmfr.mix.out_features, symmetric.mix.out_features) == (len(cmfr.mix.weight), len(symmetric.mix.weight))
    assert (len(cmfr.mix.weight), len(symmetric.mix.weight)) == (6, 12)


def test_a_seed_gives_both_readings_the_same_weights_and_leaves_the_same_random_numbers(inputs):
    cmfr, after = module(), torch.rand(3)
    symmetric, after_symmetric = module(symmetric=True), torch.rand(3)
    assert torch.equal(cmfr.mix.weight, symmetric.mix.weight[:6])
    assert torch.equal(cmfr.mix.bias, symmetric.mix.bias[:6])
    assert torch.equal(after, after_symmetric)
    assert torch.equal(without_text_half(symmetric.mix.weight), cmfr.mix.weight)


def test_the_symmetric_reading_averages_both_directions(inputs):
    cmfr = module(symmetric=True)
    tokens, stateless = inputs
    image_weight, text_weight = cmfr.weights(tokens, stateless)
    text = stateless[:, None]
    assert_close(cmfr(tokens, stateless), ((text + tokens * image_weight) + (tokens + text * text_weight)) / 2)


def test_refusals(inputs):
    tokens, stateless = inputs
    with pytest.raises(ValueError, match="must be 6 wide, got 5 and 5"):
        module()(tokens[..., :5], stateless[:, :5])
    with pytest.raises(ValueError, match="grid_size must be given for convolutions over 3 x 3"):
        module(kernel_size=3)(tokens, stateless)
    with pytest.raises(ValueError, match=r"cmfr\.kernel_size must be odd"):
        module(kernel_size=2)
