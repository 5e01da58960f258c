import torch
from torch.testing import assert_close

from afr_clip.models.ada_clip.hybrid_prompts import HybridPrompts, behind_patches, over_first_words
from helpers.naive_ada_clip import naive_prompted_image
from helpers.tiny import random_batch


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_prompt_is_what_all_images_share_plus_one_layer_per_token_of_the_image():
    torch.manual_seed(0)
    prompts = HybridPrompts(embed_dim=8, width=4, length=3, depth=2).double()
    embedding = drawn(2, 8).double()
    made = prompts(embedding)
    for k in range(3):
        weight, bias = (values[4 * k : 4 * (k + 1)] for values in (prompts.dynamic.weight, prompts.dynamic.bias))
        dynamic = embedding @ weight.T + bias
        for block in range(2):
            assert_close(made[:, block, k], prompts.static[block, k] + dynamic)


def test_the_image_tower_sees_prompts_behind_the_patches_as_in_the_loops(towers):
    backbone, image = towers.backbone, random_batch().image
    prompts = drawn(4, 3, 5, backbone.token_dim)  # three of four blocks
    taps = backbone.tap(image, behind_patches(prompts, 17))
    for i in range(4):
        for tap, expected in zip(taps, naive_prompted_image(backbone, image[i], prompts[i]), strict=True):
            assert_close(tap[i], expected, rtol=1e-4, atol=1e-5)  # other batch, other rounding


def test_prompts_flow_through_the_blocks_that_get_none_and_no_patch_is_lost():
    prompts, tokens = drawn(2, 3, 5, 4), drawn(2, 17, 4)
    seam = behind_patches(prompts, 17)
    assert_close(seam(1, tokens), torch.cat([tokens, prompts[:, 0]], dim=1))
    behind = drawn(2, 22, 4)
    for number in (2, 3):
        assert_close(seam(number, behind), torch.cat([behind[:, :17], prompts[:, number - 1]], dim=1))
    assert seam(4, behind) is behind


def test_words_are_overwritten_in_front_of_blocks_2_to_the_depth_only():
    prompts, tokens = drawn(2, 3, 5, 4), drawn(2, 9, 4)
    seam = over_first_words(prompts)
    assert seam(1, tokens) is tokens
    for number in (2, 3):
        seen = seam(number, tokens)
        assert_close(seen[:, 1:6], prompts[:, number - 1])
        assert_close(seen[:, [0, 6, 7, 8]], tokens[:, [0, 6, 7, 8]])
    assert seam(4, tokens) is tokens
