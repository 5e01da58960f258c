"""What holds for every kind of image tower, against the library that builds it."""

import copy
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.fused import pack
from afr_clip.clip.image_towers import ImageOnly, TimmTower, image_tower
from afr_clip.clip.packed import PackedLinear, is_usable
from afr_clip.models.winclip.windows import embed_windows, window_positions
from helpers.kinds_of_tower import KINDS, SIZE, WITH_TEXT, WITHOUT_TEXT, towers_of

OF_TIMM = tuple(kind for kind in KINDS if kind not in {"afr-clip-tiny", "Tiny-CLIPA"})
ROTARY = ("Tiny-PE-Core", "Tiny-EVA02", "timm:tiny_dinov3", "timm:tiny_mixed_rope", "timm:tiny_pe")
PREFIX = {"Tiny-SigLIP2": 0, "Tiny-ViTamin": 0, "timm:tiny_siglip": 0, "timm:tiny_mixed_rope": 3} | dict.fromkeys(
    ("timm:tiny_dinov2", "timm:tiny_dinov3"), 5
)
EXACT = {"atol": 1e-5, "rtol": 1e-5}


@cache
def backbone_of(kind: str) -> CLIPBackbone:
    return towers_of(kind).backbone


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def backbone(kind: str) -> CLIPBackbone:
    return backbone_of(kind)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def trunk_of(backbone: CLIPBackbone) -> Any:
    clip = backbone.clip
    return clip.trunk if isinstance(clip, ImageOnly) else clip.visual.trunk


def librarys_embedding(backbone: CLIPBackbone, image: Tensor) -> Tensor:
    clip = backbone.clip
    return clip.trunk(image) if isinstance(clip, ImageOnly) else clip.encode_image(image)


def test_taps_are_class_token_and_patches_and_differ_from_block_to_block(kind, backbone, image):
    taps = backbone.tap(image)
    assert backbone.grid_size == (4, 4)
    assert backbone.tower.num_prefix == PREFIX.get(kind, 1)
    assert [tap.shape for tap in taps] == [(2, 17, 64)] * 4
    assert all((a - b).abs().mean() > 1e-2 for i, a in enumerate(taps) for b in taps[:i])
    assert backbone.project(taps[-1][:, 1:]).shape == (2, 16, backbone.embed_dim)


@torch.no_grad()
@pytest.mark.parametrize("kind", OF_TIMM)
def test_taps_are_timms_own_intermediates(backbone, image):
    trunk = trunk_of(backbone)
    own = trunk.forward_intermediates(
        image, return_prefix_tokens=trunk.num_prefix_tokens > 0, output_fmt="NLC", intermediates_only=True
    )
    for tap, expected in zip(backbone.tap(image), own, strict=True):
        patches, prefix = expected if isinstance(expected, tuple) else (expected, None)
        assert_close(tap[:, 1:], patches, **EXACT)
        if trunk.cls_token is not None:
            assert_close(tap[:, 0], prefix[:, 0], **EXACT)
        elif trunk.attn_pool is not None:
            assert_close(tap[:, 0], trunk.attn_pool(trunk.norm(patches)), **EXACT)
        else:
            assert_close(tap[:, 0], patches.mean(dim=1), **EXACT)


@torch.no_grad()
def test_the_last_tap_embeds_the_image_as_the_library_does(backbone, image):
    (last,) = backbone.tap(image, layers=[backbone.depth])
    assert_close(backbone.embed_image(last), librarys_embedding(backbone, image), **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Tiny-SigLIP2", "Tiny-PE-Core", "Tiny-ViTamin", "Tiny-MobileCLIP-B"])
def test_a_patch_is_projected_as_if_the_image_were_it_alone(kind, backbone, image):
    (last,) = backbone.tap(image, layers=[backbone.depth])
    trunk, head = trunk_of(backbone), backbone.clip.visual.head
    for patch in range(1, 17):
        alone = last[:, patch : patch + 1]
        if kind in {"Tiny-SigLIP2", "Tiny-PE-Core"}:
            pooled = trunk.attn_pool(trunk.norm(alone))
        else:
            pooled = trunk.fc_norm(trunk.norm(alone))[:, 0]
        assert_close(backbone.project(last)[:, patch], head(trunk.head(pooled)), **EXACT)


@torch.no_grad()
def test_an_image_is_tapped_alike_alone_and_in_a_batch(backbone, image):
    together = backbone.tap(image)
    for row in range(2):
        for alone, both in zip(backbone.tap(image[row : row + 1]), together, strict=True):
            assert_close(alone[0], both[row], **EXACT)


@torch.no_grad()
def test_an_added_token_is_seen_from_its_block_on_and_left_out_of_the_taps(backbone, image):
    own = backbone.embed(image).tokens.shape[1]
    seen = []

    def add(number: int, tokens: Tensor) -> Tensor:
        seen.append(tokens.shape[1] - own)
        return torch.cat([tokens, torch.ones_like(tokens[:, :3])], dim=1) if number == 2 else tokens

    plain, prompted = backbone.tap(image), backbone.tap(image, add)
    assert seen == [0, 0, 3, 3]
    assert [tap.shape for tap in prompted] == [(2, 17, 64)] * 4
    assert torch.equal(plain[0], prompted[0])
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(plain[1:], prompted[1:], strict=True))


@torch.no_grad()
@pytest.mark.parametrize("kind", ROTARY)
def test_added_tokens_have_no_place_and_the_patches_keep_theirs(kind, backbone, image):
    """The order of added tokens does not matter, and one that nothing attends to changes nothing."""
    prompts = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1))

    def added(tokens_to_add: Tensor) -> tuple[Tensor, ...]:
        return backbone.tap(image, lambda n, tokens: torch.cat([tokens, tokens_to_add], dim=1) if n == 1 else tokens)

    for one, other in zip(added(prompts), added(prompts.flip(1)), strict=True):
        assert_close(one, other, **EXACT)
    # The same rotation by hand: an added token is one more token of the prefix for timm's own block.
    tower, tokens = backbone.tower, backbone.embed(image).tokens
    block = copy.deepcopy(tower.blocks[0])
    block.attn.num_prefix_tokens = tower.num_prefix + 3
    rotation = tower.rotation()
    rotation = rotation[0] if kind == "timm:tiny_mixed_rope" else rotation
    expected = block(torch.cat([prompts, tokens], dim=1), rope=rotation)
    found = tower.block(1, torch.cat([tokens, prompts], dim=1), tower.rotation())
    assert_close(found, torch.cat([expected[:, 3:], expected[:, :3]], dim=1), **EXACT)
    unrotated = block(torch.cat([prompts, tokens], dim=1), rope=torch.roll(rotation, 1, -2))
    assert not torch.allclose(unrotated[:, 3:], expected[:, 3:], atol=1e-3)


@torch.no_grad()
def test_windows_show_parts_with_the_places_that_they_have_in_the_whole(kind, backbone, image):
    tokens = backbone.embed(image).tokens
    whole = embed_windows(backbone, tokens, window_positions((4, 4), 4))
    assert_close(whole[:, 0], librarys_embedding(backbone, image), **EXACT)
    positions = window_positions((4, 4), 2)
    together = embed_windows(backbone, tokens, positions)
    tower = backbone.tower
    for window in (0, 4, 8):
        patches = positions[window, 1:] - 1
        shown = torch.cat([tokens[:, : tower.num_prefix], tokens[:, tower.num_prefix + patches]], dim=1)
        rotation = tower.rotation()
        for number, block in enumerate(tower.blocks, start=1):
            if rotation is None:
                shown = block(shown)
            else:
                own = rotation[number - 1] if kind == "timm:tiny_mixed_rope" else rotation
                shown = block(shown, rope=own[..., patches, :])
        first = shown[:, :1]
        tap = torch.cat([first, shown[:, tower.num_prefix :]], dim=1)
        assert_close(together[:, window], backbone.embed_image(tap), **EXACT)


@torch.no_grad()
def test_values_attend_to_values(backbone, image):
    tower, tokens = backbone.tower, backbone.embed(image).tokens
    block = copy.deepcopy(tower.blocks[1])
    attention = block.attn
    post_norm = type(block).__name__ == "EvaBlockPostNorm"
    seen = tokens if post_norm else (block.norm1 if hasattr(block, "norm1") else block.ln_1)(tokens)
    if hasattr(attention, "in_proj_weight"):
        value = seen @ attention.in_proj_weight[128:].T + attention.in_proj_bias[128:]
    elif attention.qkv is None:
        value = attention.v_proj(seen)
    else:
        value = seen @ attention.qkv.weight[128:].T
        bias = getattr(attention, "v_bias", None)
        bias = attention.qkv.bias[128:] if bias is None and attention.qkv.bias is not None else bias
        value = value if bias is None else value + bias
    heads = value.reshape(2, -1, 2, 32).transpose(1, 2)
    mixed = scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(seen.shape)
    out = attention.out_proj(mixed) if hasattr(attention, "out_proj") else attention.proj(attention.norm(mixed))
    if post_norm:
        out = block.norm1(out)
    elif hasattr(block, "gamma_1"):
        out = out if block.gamma_1 is None else block.gamma_1 * out
    elif hasattr(block, "ls1"):
        out = block.ls1(out)
    assert_close(tower.by_value(2, tokens), out, **EXACT)


def prompted(backbone: CLIPBackbone, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    prompt = torch.ones(1, 2, 64, requires_grad=True)
    taps = backbone.tap(
        image, lambda n, tokens: torch.cat([tokens, prompt.expand(2, -1, -1)], dim=1) if n == 2 else tokens
    )
    (gradient,) = torch.autograd.grad(sum(tap.square().mean() for tap in taps), prompt)
    return tuple(tap.detach() for tap in taps), gradient


def test_a_gradient_reaches_prompts_through_frozen_blocks_with_checkpointing_too(backbone, image):
    taps, gradient = prompted(backbone, image)
    assert gradient.abs().max() > 1e-4
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    try:
        backbone.checkpointing = True
        again, same = prompted(backbone, image)
    finally:
        backbone.checkpointing = False
    assert torch.equal(gradient, same)
    assert all(torch.equal(a, b) for a, b in zip(taps, again, strict=True))


def test_without_prompts_no_graph_is_made(backbone, image):
    assert all(tap.grad_fn is None for tap in backbone.tap(image))


def test_towers_stay_in_eval_mode(backbone):
    backbone.train()
    assert not any(module.training for module in backbone.modules())


@torch.no_grad()
def test_bfloat16_comes_near(backbone, image):
    full = backbone.tap(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = backbone.tap(image)
        embedding = backbone.embed_image(half[-1])
    for one, other in zip(full, half, strict=True):
        assert (one - other).norm() < 0.05 * one.norm()
    assert (embedding - backbone.embed_image(full[-1])).norm() < 0.1 * embedding.norm()


def test_another_image_size_is_refused(backbone):
    with pytest.raises(ValueError, match="64 x 64 pixels for this backbone, got 32 x 32"):
        backbone.tap(torch.zeros(1, 3, 32, 32))


@torch.no_grad()
@pytest.mark.skipif(not is_usable(), reason="this PyTorch has no packed weights")
def test_packed_blocks_compute_the_same(kind, image):
    towers = towers_of(kind)
    backbone, before = towers.backbone, towers.fingerprint()
    plain = backbone.tap(image)
    assert pack(backbone.tower.blocks) >= 4 * backbone.depth
    assert any(isinstance(module, PackedLinear) for module in backbone.modules())
    for one, other in zip(plain, backbone.tap(image), strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert towers.fingerprint() == before


def test_random_towers_are_always_the_same_and_their_fingerprint_sees_a_weight(kind):
    towers = towers_of(kind)
    before = towers.fingerprint()
    # timm's towers are made at their native size, so they are the same at every other.
    assert before == towers_of(kind, image_size=96 if kind in OF_TIMM else SIZE).fingerprint()
    with torch.no_grad():
        next(towers.backbone.tower.blocks[-1].parameters()).view(-1)[0] += 1e-3
    assert towers.fingerprint() != before


@pytest.mark.parametrize("kind", WITH_TEXT)
def test_text_is_the_librarys(kind, backbone):
    sentences = ["a photo of a screw", "damaged object."]
    with torch.no_grad():
        expected = backbone.clip.encode_text(backbone.tokenize(sentences))
    assert_close(backbone.encode_text(sentences), expected, **EXACT)
    assert backbone.encode_text(sentences).shape == (2, backbone.embed_dim)


@pytest.mark.parametrize("kind", WITHOUT_TEXT)
def test_a_tower_without_text_says_so(kind, backbone):
    assert not backbone.has_text
    with pytest.raises(ValueError, match="has no text tower"):
        backbone.encode_text(["a photo of a screw"])


@pytest.mark.parametrize("kind", OF_TIMM)
def test_images_are_normalised_as_timm_says(kind, backbone):
    name = trunk_of(backbone).pretrained_cfg["architecture"]
    assert backbone.mean == tuple(timm.get_pretrained_cfg(name).mean)
    assert backbone.std == (0.25,) * 3


@torch.no_grad()
def test_at_the_native_size_positions_are_the_files_own():
    native = towers_of("Tiny-SigLIP2", image_size=48).backbone
    larger = towers_of("Tiny-SigLIP2", image_size=96).backbone
    assert native.grid_size == (3, 3)
    assert larger.grid_size == (6, 6)
    assert trunk_of(native).pos_embed.shape == (1, 9, 64)
    assert trunk_of(larger).pos_embed.shape == (1, 36, 64)


def test_rotations_follow_the_grid():
    for kind in ROTARY:
        assert towers_of(kind, image_size=96).backbone.tower.rotation().shape[-2] == 36


def test_towers_whose_patches_keep_no_grid_are_refused():
    with pytest.raises(ValueError, match=r"plain ViT of timm .* got ResNet"):
        TimmTower(timm.create_model("test_resnet"), torch.nn.Identity(), (), ())
    with pytest.raises(ValueError, match="must be a VisionTransformer, got NoneType"):
        image_tower(torch.nn.Identity())


def test_a_tower_that_pools_registers_is_refused():
    trunk = timm.create_model("tiny_pe", num_reg_tokens=2)
    with pytest.raises(ValueError, match="must not pool its registers"):
        TimmTower(trunk, torch.nn.Identity(), (), ())


@torch.no_grad()
def test_value_attention_and_feed_forward_are_a_whole_block_where_there_is_one_token(backbone, image):
    """A token alone attends to its own value, whatever its query, key and place."""
    token = backbone.embed(image).tokens[:, -1:]
    for number in range(1, backbone.depth + 1):
        whole = backbone.tower.block(number, token, None)
        halves = backbone.tower.feed_forward(number, token + backbone.tower.by_value(number, token))
        assert_close(halves, whole, **EXACT)
        assert not torch.allclose(whole, token, atol=1e-3)
        token = whole
