"""Pocket's pre-training, from drawing to weights that load, in small."""

import json
import sys
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from afr_clip.clip.weights import load_exactly, read_state_dict

RECIPE = Path(__file__).parents[2] / "experiments" / "pocket_clip"


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    """The scripts, and a few pictures of every source, drawn in chunks of 32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        pairs, pretrain = import_module("pairs"), import_module("pretrain")
        patch.setattr(pairs, "CHUNK", 32)
        patch.setattr(pretrain, "PATCHES_PER_STEP", 6400)
        settings = pretrain.composed_training("backbone=pocket").backbone
        folder = tmp_path_factory.mktemp("pretraining")
        patch.setattr(pretrain, "prepare", drawn_here(pairs))
        yield pretrain, settings, pretrain.drawn(small(pretrain), settings, folder, 1)
    for name in ("pairs", "pretrain", "measure", "learner"):
        sys.modules.pop(name, None)


def drawn_here(pairs):
    """Draw in this process, which knows the small chunks."""

    def prepare(source, settings, num_workers):
        source.folder.mkdir()
        for chunk in range(source.num_chunks):
            pairs.draw_chunk(source, settings, chunk)
        return pairs.prepare(source, settings, num_workers)

    return prepare


def small(pretrain):
    return pretrain.Recipe(num_small=64, num_medium=0, num_large=32, num_held_out=32, epochs=2)


@pytest.fixture(scope="module")
def trained(pretraining, tmp_path_factory):
    pretrain, settings, drawn = pretraining
    out = tmp_path_factory.mktemp("trained")
    pretrain.train(small(pretrain), settings, drawn, out)
    return out


@pytest.fixture(scope="module")
def towers(pretraining, trained):
    """What was written, as open_clip loads it."""
    pretrain, settings, drawn = pretraining
    towers = pretrain.new_towers(settings, drawn.training, 1).eval()
    load_exactly(towers, read_state_dict(trained / "clip.safetensors"), trained / "clip.safetensors")
    return towers


def test_the_weights_are_those_that_were_trained_and_the_statistics_those_of_the_pictures(pretraining, trained, towers):
    _, _, drawn = pretraining
    learnt = torch.load(trained / "resume.pt", weights_only=True)["learner"]
    embedding = towers.visual.conv1
    torch.testing.assert_close(
        embedding.project.weight, learnt["clip.visual.conv1.project.weight"], atol=1e-3, rtol=1e-3
    )
    small, large = (pairs.batch(np.arange(len(pairs))) for pairs in drawn.training)
    patches = torch.cat([sample.transpose(0, 1).flatten(1) for sample in (small, large)], dim=1)
    torch.testing.assert_close(embedding.mean, patches.mean(dim=1), atol=1e-2, rtol=1e-3)
    assert embedding(small[:1]).std() > 0


def test_text_and_patches_have_the_same_length(pretraining, trained, towers):
    pretrain, settings, drawn = pretraining
    names = [one.subject or "object" for one in drawn.training[0].shown]
    captions = [caption for name in names for caption in pretrain.condition_captions(name)]
    text = towers.encode_text(pretrain.open_clip.get_tokenizer(settings.architecture)(captions)).norm(dim=-1).mean()
    row = json.loads((trained / "record.json").read_text())["last"]
    assert text.item() == pytest.approx(row["token_length"], rel=0.02)


def test_every_loss_is_recorded_after_every_epoch(trained):
    head, *lines = (trained / "loss.csv").read_text().splitlines()
    rows = [dict(zip(head.split(","), map(float, line.split(",")), strict=True)) for line in lines]
    assert [row["epoch"] for row in rows] == [1, 2]
    parts = ("contrast", "word", "condition", "patch", "dense", "colour")
    assert all(0 < row[f"{part}_loss"] < 10 for row in rows for part in parts)
    assert rows[1]["patch_loss"] < rows[0]["patch_loss"]
    assert json.loads((trained / "record.json").read_text())["recipe"]["num_small"] == 64


def test_an_interrupted_training_goes_on_to_the_same_weights(pretraining, trained, tmp_path, monkeypatch):
    pretrain, settings, drawn = pretraining
    measured = pretrain.measure
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(pretrain, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain.train(small(pretrain), settings, drawn, tmp_path)
    pretrain.train(small(pretrain), settings, drawn, tmp_path)
    assert (tmp_path / "clip.safetensors").read_bytes() == (trained / "clip.safetensors").read_bytes()


def test_another_recipe_is_refused_where_one_has_begun(pretraining, trained):
    pretrain, settings, drawn = pretraining
    with pytest.raises(SystemExit, match="must be of the same recipe"):
        pretrain.train(replace(small(pretrain), lr=1.0), settings, drawn, trained)


def test_masks_lie_where_what_is_seen_changes(pretraining):
    _, _, drawn = pretraining
    pairs = drawn.training[0]
    flawed = [place for place, one in enumerate(pairs.shown) if one.defect is not None]
    masks = pairs.masks_of(np.arange(64))[:, 0]
    assert masks[flawed].amax(dim=(1, 2)).min() > 0.03  # half of one of its sixteen pixels
    assert masks[[place for place in range(64) if place not in flawed]].max() < 0.5
    seen = pairs.batch(np.arange(64))
    rare = seen[:, -4:].mean(dim=1)  # rarity within the image
    inside = torch.nn.functional.avg_pool2d(masks, 2)
    assert rare[inside > 0.5].mean() > rare[inside == 0].mean() + 0.2


def test_a_cell_is_judged_by_what_the_name_calls_for(pretraining):
    pretrain, _, _ = pretraining
    masks = torch.zeros(1, 4, 2, 2)
    masks[0, 0, 0, 0] = 1  # the defect
    masks[0, 1, 0, 1] = 0.75  # two features; the third is not there
    masks[0, 2, 1, 0] = 1
    names = [[pretrain.Naming("dotted sheet", (True, False)), pretrain.Naming("object", (None, None))]]
    truth, weight = pretrain.judged(masks, names)
    assert truth[0].tolist() == [[[1, 0], [1, 0]], [[1, 0], [0, 0]]]
    assert weight[0].tolist() == [[[1, 1], [1, 1]], [[1, 0.25], [0, 1]]]


def test_damage_and_features_are_told_apart_without_words(pretraining):
    pretrain, _, _ = pretraining
    masks = torch.zeros(2, 4, 4, 4)
    masks[0, 0, :2, :2] = 1  # the defect of a dotted sheet
    masks[0, 1, :2, 2:] = 0.5
    shown = [
        pretrain.Shown("sheet", "red", (("dotted", None),), "hole"),
        pretrain.Shown(None, None, (), None),
    ]
    kinds = 1 + len(pretrain.FEATURES)
    logits = torch.randn(2, kinds, 2, 2, generator=torch.Generator().manual_seed(0))

    def lost(logit, truth):
        return truth * np.log1p(np.exp(-logit)) + (1 - truth) * np.log1p(np.exp(logit))

    total = 0.0
    for image in range(2):
        for place, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            is_defect, covered = float((image, place) == (0, 0)), 0.5 * ((image, place) == (0, 1))
            total += (1 - covered) * lost(logits[image, 0, row, column].item(), is_defect) / 8
            for number, adjective in enumerate(pretrain.FEATURES) if image == 0 else ():
                truth = covered if adjective == "dotted" else 0.0
                found = lost(logits[image, 1 + number, row, column].item(), truth)
                total += pretrain.FEATURE_GAIN / 2 * found / 4 / len(pretrain.FEATURES)
    assert pretrain.dense_loss(logits, masks, shown).item() == pytest.approx(total, rel=1e-5)


def test_the_learning_rate_rises_falls_to_a_half_and_then_to_zero(pretraining):
    pretrain, _, _ = pretraining
    rates = [pretrain._rate(step, 1500) for step in range(1501)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[99] == rates[100] == 1
    assert rates[1000] == pytest.approx(0.5 * (1 + np.cos(np.pi * 900 / 1900)))
    assert rates[1500] == pytest.approx(0, abs=1e-12)
    assert all(later <= earlier for earlier, later in pairwise(rates[100:]))


def test_a_picture_is_flawed_under_a_name_that_calls_for_less(pretraining):
    pretrain, _, _ = pretraining
    dotted = pretrain.Shown("sheet", "red", (("dotted", None),), None)
    names = [[pretrain.Naming("dotted sheet", (True,)), pretrain.Naming("sheet", (False,))]]
    flawed, told = pretrain._conditions([dotted], names)
    assert flawed.tolist() == [[0, 1]]
    assert told.tolist() == [[1, 1]]
    flawed, told = pretrain._conditions([dotted], [[pretrain.Naming("object", (None,))] * 2])
    assert told.tolist() == [[0, 0]]


def test_a_picture_is_told_by_the_words_for_its_colour_and_its_features(pretraining):
    pretrain, _, _ = pretraining
    captions = pretrain.word_captions("thing")
    red, dotted, striped = (captions.index(f"a photo of a {word} thing") for word in ("red", "dotted", "striped"))
    colours = len(pretrain.PALETTE)
    shown = [
        pretrain.Shown("sheet", "red", (("dotted", None), ("striped", "blue")), None),
        pretrain.Shown("cup", "red", (), None),
    ]
    logits = torch.randn(2, len(captions), generator=torch.Generator().manual_seed(0))
    total = 0.0
    for row in logits.tolist():
        total += (np.log(sum(np.exp(row[:colours]))) - row[red]) / 2
    row = logits[0].tolist()
    total += (np.log(sum(np.exp(row[colours:]))) - (row[dotted] + row[striped]) / 2) / 2
    assert pretrain.told_by_words(logits, shown).item() == pytest.approx(total, rel=1e-5)


def test_texts_are_embedded_as_the_tower_does_it(pretraining):
    pretrain, settings, drawn = pretraining
    towers = pretrain.new_towers(settings, drawn.training, 0).eval()
    tokenizer = pretrain.open_clip.get_tokenizer(settings.architecture)
    sentences = ["a", "a photo of a striped sheet with red dots and blue letters.", "a cup"]
    learner = pretrain.Learner(towers, tokenizer)
    with torch.no_grad():
        torch.testing.assert_close(
            learner.raw_texts(sentences), towers.encode_text(tokenizer(sentences)), atol=1e-5, rtol=1e-4
        )


def test_the_contrast_matches_loops(pretraining):
    pretrain, _, _ = pretraining
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(3, 4, generator=generator), dim=-1)
    texts = torch.nn.functional.normalize(torch.randn(5, 4, generator=generator), dim=-1)
    same = torch.tensor([[1.0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 1, 0, 0]])
    scale = torch.tensor(7.0)
    logits = (scale * images @ texts.T).tolist()
    total = 0.0
    for row in range(3):
        right = [column for column in range(5) if same[row, column]]
        total += sum(np.log(sum(np.exp(logits[row]))) - logits[row][column] for column in right) / len(right) / 3
    asked = [column for column in range(5) if same[:, column].any()]
    for column in asked:
        down = [logits[row][column] for row in range(3)]
        right = [row for row in range(3) if same[row, column]]
        total += sum(np.log(sum(np.exp(down))) - down[row] for row in right) / len(right) / len(asked)
    assert pretrain.contrast(images, texts, same, scale).item() == pytest.approx(total / 2, rel=1e-5)
