import pytest
import torch
from torch.testing import assert_close

from afr_clip.models.afr_clip.self_prompting import SelfPrompting, place_prompt
from afr_clip.models.afr_clip.settings import Placement, SelfPromptingSettings
from afr_clip.models.afr_clip.stages import prompted_blocks


def test_each_token_is_its_own_linear_layer_plus_a_shared_token():
    torch.manual_seed(0)
    prompting = SelfPrompting(cnn_dim=8, token_dim=4, num_prompts=3).double()
    feature = torch.randn(2, 8, dtype=torch.float64)
    for k in range(3):
        weight = prompting.image_prompt.weight[4 * k : 4 * (k + 1)]
        bias = prompting.image_prompt.bias[4 * k : 4 * (k + 1)]
        expected = feature @ weight.T + bias + prompting.shared_prompt[k]
        assert_close(prompting(feature)[:, k], expected)


def test_either_prompt_switches_off():
    feature = torch.randn(2, 8)
    shared = SelfPrompting(8, 4, 3, image_prompt=False)
    assert_close(shared(feature), shared.shared_prompt.expand(2, 3, 4))
    image = SelfPrompting(8, 4, 3, shared_prompt=False)
    assert_close(image(feature).flatten(1), image.image_prompt(feature))
    with pytest.raises(ValueError, match="got neither"):
        SelfPrompting(8, 4, 3, image_prompt=False, shared_prompt=False)


def test_replace_overwrites_the_last_tokens():
    tokens, prompt = torch.arange(6.0).view(1, 6, 1), torch.tensor([[[-1.0], [-2.0]]])
    assert place_prompt(tokens, prompt, 6, Placement.replace).flatten().tolist() == [0, 1, 2, 3, -1, -2]


def test_append_keeps_every_patch_and_rewrites_its_own_place():
    tokens, prompt = torch.arange(4.0).view(1, 4, 1), torch.tensor([[[-1.0], [-2.0]]])
    once = place_prompt(tokens, prompt, 4, Placement.append)
    assert once.flatten().tolist() == [0, 1, 2, 3, -1, -2]
    assert place_prompt(once, 3 * prompt, 4, Placement.append).flatten().tolist() == [0, 1, 2, 3, -3, -6]


def test_a_prompt_that_leaves_no_patch_is_refused():
    with pytest.raises(ValueError, match="must not replace all 4 patches, got 4"):
        place_prompt(torch.zeros(1, 5, 2), torch.zeros(1, 4, 2), 5, Placement.replace)


@pytest.mark.parametrize(
    ("num_prompts", "stages", "message"),
    [(0, [1], "num_prompts"), (5, [], "stages"), (5, [0], "stages"), (5, [1, 1], "stages")],
)
def test_senseless_settings_are_refused(num_prompts, stages, message):
    with pytest.raises(ValueError, match=message):
        SelfPromptingSettings(
            enabled=True,
            image_prompt=True,
            shared_prompt=True,
            num_prompts=num_prompts,
            stages=stages,
            placement=Placement.replace,
        )


@pytest.mark.parametrize(
    ("stages", "blocks"),
    [([1], range(2, 7)), ([1, 2], range(2, 13)), ([3], range(13, 19)), ([1, 2, 3, 4], range(2, 25))],
)
def test_stages_of_the_papers_tower(stages, blocks):
    assert prompted_blocks(stages, (6, 12, 18, 24)) == set(blocks)


def test_in_a_tower_of_four_blocks_the_second_stands_in_for_stage_one():
    assert prompted_blocks([1], (1, 2, 3, 4)) == {2}


def test_a_stage_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"must lie in 1\.\.2 .* got \[3\]"):
        prompted_blocks([3], (6, 12))
