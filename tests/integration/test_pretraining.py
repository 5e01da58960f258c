"""Pocket's pre-training, from drawing to weights that load, in small."""

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from afr_clip.clip.load import load_towers
from afr_clip.clip.stem import PatchView

RECIPE = Path(__file__).parents[2] / "experiments" / "pocket_clip"


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    """The scripts, and 64 and 32 pairs drawn in chunks of 32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        pairs, pretrain = import_module("pairs"), import_module("pretrain")
        patch.setattr(pairs, "CHUNK", 32)
        patch.setattr(pairs, "BATCH", 16)
        folder, settings = tmp_path_factory.mktemp("pretraining"), pretrain._settings()
        sources = [
            pairs.Source(folder / name, count, settings.image_size, 0, held_out=name == "held_out")
            for name, count in (("pairs", 64), ("held_out", 32))
        ]
        for source in sources:
            source.folder.mkdir()
            for chunk in range(source.num_chunks):
                pairs.draw_chunk(source, settings, chunk)
        yield pretrain, settings, [pairs.prepare(source, settings, 1) for source in sources]
    for name in ("pairs", "pretrain", "measure", "learner"):
        sys.modules.pop(name, None)


def small(pretrain):
    return pretrain.Recipe(num_pairs=64, num_held_out=32, coarse_epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def trained(pretraining, tmp_path_factory):
    pretrain, settings, drawn = pretraining
    out = tmp_path_factory.mktemp("trained")
    pretrain.train(small(pretrain), settings, *drawn, out)
    return out


def test_the_weights_load_as_pocket_and_embed_patches_as_they_were_trained_to(pretraining, trained):
    _, settings, (drawn, _) = pretraining
    towers = load_towers(replace(settings, weights=str(trained / "clip.safetensors")), needs_cnn=False)
    stem = towers.backbone.stem
    learnt = torch.load(trained / "resume.pt", weights_only=True)["learner"]
    torch.testing.assert_close(
        stem.embedding.project.weight, learnt["clip.visual.conv1.project.weight"], atol=1e-3, rtol=1e-3
    )
    sample = drawn.batch(np.arange(64))
    torch.testing.assert_close(stem.embedding.mean, sample.mean(dim=(0, 2, 3)), atol=1e-2, rtol=1e-3)
    assert stem.embedding(sample[:1]).std() > 0
    assert isinstance(stem.view, PatchView)
    assert stem.view.channels == sample.shape[1]


def test_every_loss_is_recorded_after_every_epoch(trained):
    head, *lines = (trained / "loss.csv").read_text().splitlines()
    rows = [dict(zip(head.split(","), map(float, line.split(",")), strict=True)) for line in lines]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(0 < row[f"{part}_loss"] < 10 for row in rows for part in ("contrast", "condition", "patch"))
    assert rows[1]["patch_loss"] < rows[0]["patch_loss"]
    assert json.loads((trained / "record.json").read_text())["recipe"]["num_pairs"] == 64


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
        pretrain.train(small(pretrain), settings, *drawn, tmp_path)
    pretrain.train(small(pretrain), settings, *drawn, tmp_path)
    assert (tmp_path / "clip.safetensors").read_bytes() == (trained / "clip.safetensors").read_bytes()


def test_another_recipe_is_refused_where_one_has_begun(pretraining, trained):
    pretrain, settings, drawn = pretraining
    with pytest.raises(SystemExit, match="must be of the same recipe"):
        pretrain.train(replace(small(pretrain), lr=1.0), settings, *drawn, trained)


def test_masks_lie_where_what_is_seen_changes(pretraining):
    _, _, (drawn, _) = pretraining
    flawed = [place for place, row in enumerate(drawn.told) if row["defect"] is not None]
    masks = drawn.masks_of(np.arange(64))
    assert masks[flawed].amax(dim=(1, 2)).min() > 0.5
    whole = [place for place in range(64) if place not in flawed]
    assert masks[whole].max() == 0
    rare = drawn.batch(np.arange(64))[:, -3:].mean(dim=1)  # rarity within the image
    inside = torch.nn.functional.avg_pool2d(masks, 2)
    damaged, sound = rare[inside > 0.5].mean(), rare[inside == 0].mean()
    assert damaged > sound + 0.2


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
