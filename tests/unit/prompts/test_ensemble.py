from dataclasses import replace

import pytest

from afr_clip.models.afr_clip.settings import StatelessPromptSettings
from afr_clip.prompts import words
from afr_clip.prompts.ensemble import PromptSettings, PromptStyle, Sentences, expand

TEMPLATES = (words.SINGLE_TEMPLATES, words.WINCLIP_TEMPLATES, words.APRIL_GAN_TEMPLATES)
STATES = (
    words.SINGLE_NORMAL,
    words.SINGLE_ABNORMAL,
    words.ENSEMBLE_NORMAL,
    words.WINCLIP_ABNORMAL,
    words.APRIL_GAN_ABNORMAL,
    words.CLIP_AD_NORMAL,
    words.CLIP_AD_ABNORMAL,
)


def settings(style: PromptStyle, *, object_agnostic: bool = False) -> PromptSettings:
    return PromptSettings(style, object_agnostic=object_agnostic)


@pytest.mark.parametrize("phrases", [*TEMPLATES, *STATES])
def test_every_phrase_has_one_hole_and_stands_once(phrases):
    assert all(phrase.count("{}") == 1 for phrase in phrases)
    assert len(set(phrases)) == len(phrases)


def test_the_papers_three_sentences():
    said = expand(settings(PromptStyle.single), "screw")
    assert said.stateless == ("a photo of a screw",)
    assert said.normal == ("a photo of a normal screw",)
    assert said.abnormal == ("a photo of a defective screw",)


@pytest.mark.parametrize(
    ("style", "num_normal", "num_abnormal"),
    [
        (PromptStyle.winclip, 154, 88),
        (PromptStyle.april_gan, 245, 175),
        (PromptStyle.ada_clip, 28, 20),
        (PromptStyle.aa_clip, 6, 10),
        (PromptStyle.clip_ad, 198, 220),
    ],
)
def test_ensembles_have_their_published_sizes(style, num_normal, num_abnormal):
    said = expand(settings(style), "metal nut")
    assert (len(set(said.normal)), len(set(said.abnormal))) == (num_normal, num_abnormal)
    assert all("metal nut" in sentence for sentence in (*said.normal, *said.abnormal, *said.stateless))


def test_the_list_of_21_templates_says_one_of_them_twice_in_place_of_two():
    public, whole = words.WINCLIP_21_TEMPLATES, [f"{template}." for template in words.WINCLIP_TEMPLATES]
    assert (len(public), len(set(public))) == (21, 20)
    assert public.count("a jpeg corrupted photo of the {}.") == 2
    assert set(whole) - set(public) == {"a cropped photo of a {}.", "a jpeg corrupted photo of a {}."}
    assert set(public) < set(whole)
    said = expand(settings(PromptStyle.winclip_21), "screw")
    assert (len(said.normal), len(said.abnormal)) == (147, 84)
    assert all(sentence.endswith(".") for sentence in (*said.normal, *said.abnormal))


def test_object_agnostic_prompts_never_name_the_category():
    said = expand(settings(PromptStyle.april_gan, object_agnostic=True), "screw")
    assert not any("screw" in sentence for sentence in (*said.normal, *said.abnormal, *said.stateless))
    assert said == expand(settings(PromptStyle.april_gan, object_agnostic=True), "bottle")


def test_universal_prototypes_say_object_and_the_stateless_sentence_names_the_category():
    universal = StatelessPromptSettings(
        PromptStyle.single, object_agnostic=False, universal_prototypes=True, normalised=True
    )
    assert expand(universal, "screw") == Sentences(
        ("a photo of a screw",), ("a photo of a normal object",), ("a photo of a defective object",)
    )
    with pytest.raises(ValueError, match=r"object_agnostic and prompts\.universal_prototypes exclude each other"):
        replace(universal, object_agnostic=True)


def test_a_blank_category_is_refused():
    with pytest.raises(ValueError, match="category must name what the image shows"):
        expand(settings(PromptStyle.single), "  ")
