from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from afr_clip.clip.text import ensemble_mean
from afr_clip.models.ada_clip import prompted_text
from afr_clip.models.ada_clip.prompted_text import PromptedText
from afr_clip.prompts.ensemble import expand
from helpers.ada_clip import ENSEMBLE
from helpers.naive_ada_clip import naive_prompted_sentences

NAMES = ["metal nut", "screw", "metal nut", "bottle"]


def drawn(text: PromptedText, num: int = 4, length: int = 5, depth: int = 2) -> torch.Tensor:
    return torch.randn(num, depth, length, text.tower.width, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def text(towers) -> PromptedText:
    return PromptedText(towers.backbone, ENSEMBLE)


def test_every_image_reads_its_category_under_its_own_prompts_as_in_the_loops(towers, text):
    prompts = drawn(text)
    pairs = text(NAMES, prompts)
    for i, name in enumerate(NAMES):
        said = expand(ENSEMBLE, name)
        for state, sentences in enumerate((said.normal, said.abnormal)):
            expected = ensemble_mean(naive_prompted_sentences(towers.backbone, sentences, prompts[i]))
            assert_close(pairs[i, state], expected, rtol=1e-4, atol=1e-5)  # cut behind the last word, other rounding
    assert not torch.allclose(pairs[0], pairs[2], atol=1e-3)  # one category, two images


def test_parts_of_any_size_give_the_same(text, monkeypatch):
    prompts = drawn(text)
    together = text(NAMES, prompts)
    for rows in (1, 100):
        monkeypatch.setattr(prompted_text, "ROWS_PER_PASS", rows)
        assert_close(text(NAMES, prompts), together)


def test_sentences_are_looked_up_once_and_may_be_trained_on_later(text, monkeypatch):
    prompts = drawn(text).requires_grad_()
    with torch.inference_mode():
        text(NAMES, prompts)
    monkeypatch.setattr(text.tower, "look_up", lambda _: pytest.fail("looked up twice"))
    text(NAMES, prompts).sum().backward()
    assert (prompts.grad[:, 1] != 0).any()
    assert (prompts.grad[:, 0] == 0).all()  # in front of block 1 the sentence stands as it was written


def test_prompts_may_not_overwrite_the_end_of_a_sentence(text):
    # "a bad photo of a screw.": start, six words, full stop, end at position 8.
    text(["screw"], drawn(text, 1, length=7))
    with pytest.raises(ValueError, match=r"must be below 8, got 8\. .* end of a sentence about 'screw'"):
        text(["screw"], drawn(text, 1, length=8))


def test_a_blank_category_is_refused(text):
    with pytest.raises(ValueError, match="category must name what the image shows"):
        text([" "], drawn(text, 1))


def test_object_agnostic_sentences_are_the_same_for_all(towers):
    text = PromptedText(towers.backbone, replace(ENSEMBLE, object_agnostic=True))
    prompts = drawn(text, 1).expand(2, -1, -1, -1)
    first, second = text(["screw", "bottle"], prompts)
    assert_close(first, second)


def test_a_hyphen_is_read_as_a_space(text):
    prompts = drawn(text, 1).expand(2, -1, -1, -1)
    first, second = text(["metal-nut", "metal nut"], prompts)
    assert_close(first, second)
