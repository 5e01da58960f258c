from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from afr_clip.clip.text import TextTower
from afr_clip.models.anomaly_clip.prompt_learner import PromptLearner
from afr_clip.models.anomaly_clip.settings import PromptLearnerSettings
from helpers.naive_anomaly_clip import naive_learned_sentence
from helpers.tiny import tiny_towers

PROMPT_LEARNER = PromptLearnerSettings(num_context_tokens=12, num_deep_tokens=4, num_deep_blocks=8)
ENDINGS = ("object.", "damaged object.")


@pytest.fixture(scope="module")
def deep_towers():
    """A text tower deeper than the deep tokens reach: blocks 2 to 4 of 5 are overwritten."""
    towers = tiny_towers()
    transformer = towers.backbone.clip.transformer
    torch.manual_seed(1)
    transformer.resblocks.extend(type(transformer.resblocks[0])(32, 2).eval() for _ in range(3))
    return towers


@torch.no_grad()
def test_equals_sentences_written_over_token_by_token(deep_towers):
    torch.manual_seed(2)
    learner = PromptLearner(TextTower(deep_towers.backbone), replace(PROMPT_LEARNER, num_deep_blocks=3))
    for learned in learner.parameters():
        torch.nn.init.normal_(learned, std=1.0)
    assert learner.deep.shape == (3, 4, 32)
    expected = [
        naive_learned_sentence(deep_towers.backbone, ending, context, learner.deep)
        for ending, context in zip(ENDINGS, learner.context, strict=True)
    ]
    assert_close(learner(), torch.stack(expected).float(), atol=1e-4, rtol=0)


def test_in_a_shallow_tower_there_are_fewer_deep_tokens(towers):
    learner = PromptLearner(TextTower(towers.backbone), PROMPT_LEARNER)
    assert learner.deep.shape == (1, 4, 32)  # two text blocks, of which the first keeps the words


@torch.no_grad()
def test_without_deep_tokens_the_words_alone_are_learned(towers):
    learner = PromptLearner(TextTower(towers.backbone), replace(PROMPT_LEARNER, num_deep_blocks=0))
    assert learner.deep.numel() == 0
    expected = [
        naive_learned_sentence(towers.backbone, ending, context, learner.deep)
        for ending, context in zip(ENDINGS, learner.context, strict=True)
    ]
    assert_close(learner(), torch.stack(expected).float(), atol=1e-5, rtol=0)


@torch.no_grad()
def test_words_of_the_vocabulary_in_the_place_of_learned_ones_give_clips_own_embedding(towers):
    tower = TextTower(towers.backbone)
    settings = replace(PROMPT_LEARNER, num_context_tokens=4, num_deep_blocks=0)
    learner = PromptLearner(tower, settings)
    learner.context[:] = tower.look_up(["a photo of a"]).embeddings[:, 1:5]
    expected = towers.backbone.encode_text([f"a photo of a {ending}" for ending in ENDINGS])
    assert_close(learner(), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_longest_context_leaves_room_for_both_endings(towers):
    learner = PromptLearner(TextTower(towers.backbone), replace(PROMPT_LEARNER, num_context_tokens=72))
    assert learner.ends.tolist() == [75, 76]
    end_of_text = towers.backbone.tokenize([""])[0, 1]
    assert_close(learner.words[:, 76][1], towers.backbone.clip.token_embedding(end_of_text))


def test_more_words_than_the_tower_reads_are_refused(towers):
    with pytest.raises(ValueError, match=r"num_context_tokens must be at most 72 for this text tower, got 73\. Anom"):
        PromptLearner(TextTower(towers.backbone), replace(PROMPT_LEARNER, num_context_tokens=73))


def test_learned_tokens_start_small(deep_towers):
    torch.manual_seed(0)
    learner = PromptLearner(TextTower(deep_towers.backbone), PROMPT_LEARNER)
    for learned in learner.parameters():
        assert learned.std().item() == pytest.approx(0.02, rel=0.1)


def test_frozen_words_are_not_part_of_a_checkpoint(towers):
    learner = PromptLearner(TextTower(towers.backbone), PROMPT_LEARNER)
    assert learner.state_dict().keys() == {"context", "deep"}
