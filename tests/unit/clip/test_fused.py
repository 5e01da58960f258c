import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from afr_clip.clip.fused import FusedAttention, LeanQuickGELU, fuse
from helpers.naive_anomaly_clip import naive_attention


def attention(**changes: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return nn.MultiheadAttention(16, num_heads=4, **{"batch_first": True} | changes).eval()


@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_module_it_stands_in_for(masked):
    plain, tokens = attention(), torch.randn(3, 7, 16)
    mask = torch.full((7, 7), float("-inf")).triu(1) if masked else None
    expected = plain(tokens, tokens, tokens, need_weights=False, attn_mask=mask)[0]
    torch.testing.assert_close(FusedAttention(plain)(tokens, tokens, tokens, attn_mask=mask)[0], expected)


@torch.no_grad()
def test_by_value_equals_a_loop_over_heads_and_tokens():
    fused, tokens = FusedAttention(attention()), torch.randn(2, 5, 16)
    torch.testing.assert_close(fused.by_value(tokens), naive_attention(fused, tokens, by_value=True))


@torch.no_grad()
def test_the_loop_by_query_and_key_is_the_module_itself():
    plain, tokens = attention(), torch.randn(2, 5, 16)
    expected = plain(tokens, tokens, tokens, need_weights=False)[0]
    torch.testing.assert_close(naive_attention(plain, tokens, by_value=False), expected)


@torch.no_grad()
def test_by_value_equal_tokens_attend_evenly_and_stay_their_projected_value():
    fused = FusedAttention(attention())
    token = torch.randn(16)
    value = fused.in_proj_weight[32:] @ token + fused.in_proj_bias[32:]
    expected = fused.out_proj(value).expand(1, 4, 16)
    torch.testing.assert_close(fused.by_value(token.expand(1, 4, 16)), expected)


@torch.no_grad()
def test_of_first_is_the_first_of_all():
    fused, tokens = FusedAttention(attention()), torch.randn(3, 7, 16)
    torch.testing.assert_close(fused.of_first(tokens), fused(tokens, tokens, tokens)[0][:, 0])


def test_keeps_parameter_names_so_that_weight_files_fit():
    plain = attention()
    assert FusedAttention(plain).state_dict().keys() == plain.state_dict().keys()


def test_replaces_every_attention_and_activation_below_a_module():
    tower = nn.ModuleList([nn.Sequential(attention(), QuickGELU()), attention()])
    assert fuse(tower) == 3
    assert not any(isinstance(module, nn.MultiheadAttention | QuickGELU) for module in tower.modules())


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_quick_gelu_is_open_clips_and_leaves_its_input_alone(needs_gradient):
    x = torch.linspace(-8, 8, 101, requires_grad=needs_gradient)
    before = x.detach().clone()
    torch.testing.assert_close(LeanQuickGELU()(x), QuickGELU()(x))
    assert torch.equal(x, before)


def test_quick_gelu_has_its_gradient():
    x, y = (torch.linspace(-3, 3, 7, requires_grad=True) for _ in range(2))
    LeanQuickGELU()(x).sum().backward()
    QuickGELU()(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_refuses_what_it_cannot_compute():
    fused, tokens = FusedAttention(attention()), torch.randn(1, 3, 16)
    with pytest.raises(ValueError, match="self-attention"):
        fused(tokens, tokens.clone(), tokens)
    with pytest.raises(ValueError, match="batch first"):
        FusedAttention(attention(batch_first=False))
    with pytest.raises(ValueError, match="one input projection"):
        FusedAttention(attention(kdim=8))
