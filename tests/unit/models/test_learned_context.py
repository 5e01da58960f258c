"""Sentences behind learned words."""

import pytest
import torch
from torch.testing import assert_close

from afr_clip.clip.text import TextTower
from afr_clip.models.learned_context import ContextSentences, embed_by_name, look_up_behind
from helpers.kinds_of_tower import WITH_TEXT, towers_of
from helpers.naive_methods import naive_text_behind

STATES = ("normal {}.", "anomalous {}.")


@torch.no_grad()
def test_learned_words_that_are_words_of_the_vocabulary_make_the_sentence_itself(towers):
    backbone, tower = towers.backbone, TextTower(towers.backbone)
    words = tower.look_up(["a photo of a"]).embeddings[:, 1:5]
    found = ContextSentences(tower, STATES, 4).embed("metal nut", words)
    expected = backbone.encode_text(["a photo of a normal metal nut.", "a photo of a anomalous metal nut."])
    assert_close(found[0], expected)


@torch.no_grad()
def test_rows_of_learned_words_are_read_one_by_one(towers):
    backbone = towers.backbone
    context = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    found = ContextSentences(TextTower(backbone), STATES, 3).embed("screw", context)
    for row, learned in enumerate(context):
        for state, sentence in enumerate(("X X X normal screw.", "X X X anomalous screw.")):
            (ids,) = backbone.tokenize([sentence])
            assert_close(found[row, state], naive_text_behind(backbone.clip, ids, learned))


def test_a_learned_word_gets_a_gradient_and_the_tower_none(towers):
    context = torch.randn(1, 3, 32, requires_grad=True)
    ContextSentences(TextTower(towers.backbone), STATES, 3).embed("screw", context).sum().backward()
    assert (context.grad.abs().sum(dim=-1) > 0).all()
    assert all(p.grad is None for p in towers.backbone.parameters())


@pytest.mark.parametrize("kind", WITH_TEXT)
def test_words_that_leave_no_room_for_the_sentence_are_refused(kind):
    tower = TextTower(towers_of(kind).backbone)
    most = tower.look_up(["a"]).embeddings.shape[1] - 2  # of the two words, the full stop and the rest
    with pytest.raises(ValueError, match=r"num_context_tokens must be at most .*\. Lower it\.$"):
        look_up_behind(tower, ("normal pill.", "anomalous pill."), most)
    assert look_up_behind(tower, ("normal pill.", "anomalous pill."), 4).embeddings.shape[0] == 2


def test_each_name_is_embedded_once_and_every_image_gets_its_own_row():
    asked = []

    def embed(name: str, rows: torch.Tensor) -> torch.Tensor:
        asked.append(name)
        return rows[:, None].expand(-1, 2, -1) + len(name)

    given = torch.arange(8.0).view(4, 2)
    found = embed_by_name(["nut", "screw", "nut", "cap"], given, embed)
    assert asked == ["nut", "screw", "cap"]
    assert_close(found[:, 0], given + torch.tensor([3.0, 5, 3, 3])[:, None])
    assert_close(embed_by_name(["screw"], given, embed)[:, 1], given + 5)
