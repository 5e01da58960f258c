from pathlib import Path

import pytest
import torch

import afr_clip
from afr_clip.config.plan import composed_training
from afr_clip.inspection.hints import SENTENCES, embed_words, nearest_word, see_regions
from afr_clip.inspection.regions import find_regions
from afr_clip.inspection.settings import InspectionSettings
from afr_clip.models.checkpoint import Checkpoint

WORDS = ("scratch", "dent", "hole")


@pytest.fixture(scope="module")
def detector():
    return afr_clip.load("pocket", region_threshold=0.5, defects=WORDS)


@pytest.fixture(scope="module")
def photograph():
    return torch.randint(0, 256, (3, 90, 200), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def regions():
    scores = torch.zeros(90, 200)
    scores[:4, :4] = scores[80:, 190:] = scores[40:42, 90:110] = 0.75
    return find_regions(scores.numpy(), 0.5, 0.5)


def test_the_nearest_word_is_that_of_the_smallest_angle():
    angles = torch.tensor([0.0, 0.5, 2.0])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [9.0], [3.0]])
    hint = nearest_word(torch.tensor([2.0, 0.0]), embeddings, WORDS)
    assert hint.word == "scratch"
    assert hint.margin == pytest.approx(1 - torch.tensor(0.5).cos().item(), abs=1e-6)


def test_a_word_is_embedded_as_its_own_sentences(detector):
    backbone = detector.scanner.towers.backbone
    with torch.inference_mode():
        (_, dent, _) = embed_words(backbone, "metal nut", WORDS)
        sentences = backbone.encode_text([s.format(category="metal nut", word="dent") for s in SENTENCES])
    mean = torch.nn.functional.normalize(sentences, dim=1).mean(dim=0)
    torch.testing.assert_close(dent, mean / mean.norm())


def test_a_region_is_seen_by_its_own_surroundings(detector, photograph, regions):
    backbone = detector.scanner.towers.backbone
    with torch.inference_mode():
        before = see_regions(photograph, regions, backbone)
        changed = photograph.clone()
        changed[:, 60:, 150:] = 0  # around the region in the last corner only
        after = see_regions(changed, regions, backbone)
    is_same = torch.isclose(before, after, atol=1e-4).all(dim=1).tolist()
    assert is_same == [region.box[:2] != (190, 80) for region in regions]


def test_a_region_is_embedded_as_clip_embeds_a_picture(detector):
    backbone = detector.scanner.towers.backbone
    photograph = torch.randint(0, 256, (3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = find_regions(torch.ones(160, 160).numpy(), 0.5, 0.5)
    with torch.inference_mode():
        (feature,) = see_regions(photograph, whole, backbone)
        expected = backbone.clip.encode_image(detector.scanner.prepared(photograph)[None])[0]
    torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-4)


def test_each_region_of_an_inspection_has_a_hint(detector, photograph, regions):
    hinted = detector.scanner.hinted(photograph.numpy(), regions, "metal nut", WORDS)
    assert [region.box for region in hinted] == [region.box for region in regions]
    assert {region.hint.word for region in hinted} <= set(WORDS)
    assert all(region.hint.margin >= 0 for region in hinted)
    assert detector.scanner.hinted(photograph.numpy(), (), "metal nut", WORDS) == ()
    for region in detector.inspect(photograph, "metal nut").regions:
        assert region.hint.word in WORDS


@pytest.mark.parametrize("words", [[], ["scratch"], ["scratch", "scratch"], ["scratch", " "]])
def test_fewer_than_two_words_are_refused(words):
    with pytest.raises(ValueError, match=r"two words or more to choose from, got .*Write defects=\[scratch,dent\]"):
        afr_clip.load("pocket", defects=words)


def test_two_words_are_enough():
    assert InspectionSettings(None, 0.25, None, None, None, None, None, None, None, ["a", "b"]).defects == ["a", "b"]


def test_words_are_refused_before_a_tower_without_text_is_built(monkeypatch):
    config = composed_training("module=uni_adet", "backbone=dinov2_l_14_reg", "dataset=mvtec_ad").record.config
    recorded = Checkpoint(Path("run"), {}, {"config": config})
    monkeypatch.setattr("afr_clip.models.checkpoint.read_checkpoint", lambda _: recorded)
    monkeypatch.setattr("afr_clip.inspection.scanner.load_towers", None)
    with pytest.raises(ValueError, match="defects are words, which need a text tower, and this model's backbone has"):
        afr_clip.load("run", defects=WORDS)
