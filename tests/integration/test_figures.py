"""The paper's figures from the command line, and the numbers in them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from afr_clip.config.plan import composed_diagnosis
from afr_clip.reports.pictures.paper_figures import Histogram, overlap
from afr_clip.run.diagnose import read_finished
from afr_clip.run.figures import Rule, choose_samples, compare_similarity, load_run, principal_colours

pytestmark = pytest.mark.integration

LATER = ("data.num_workers=0", "num_threads=1")


@pytest.fixture(scope="module")
def trained(run_once, auxiliary: Path, unseen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    data = ["dataset=folder", "dataset.name=generated", f"dataset.root={auxiliary}"]
    targets = ["protocol.targets=[parts]", f"+protocol.roots.parts={unseen}"]
    quick = ["backbone=tiny", "backbone.image_size=64", "trainer.max_epochs=1", "seed=3", *LATER]
    assert run_once("train", *data, *targets, *quick, f"run_dir={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def loaded(trained):
    return load_run(composed_diagnosis(trained, read_finished(trained), *LATER), "run")


@pytest.mark.parametrize(("number", "more"), [("1", []), ("3", ["--rows", "2"]), ("4", ["--rule", "worst"])])
def test_each_figure_is_drawn_in_three_formats(run, trained, tmp_path, capsys, number, more):
    assert run("figure", number, str(trained), "--out", str(tmp_path / "figures"), *more) == 0
    names = [f"figure{number}_parts.{kind}" for kind in ("png", "pdf", "svg")]
    assert capsys.readouterr().out.splitlines()[-3:] == [f"figure: {tmp_path / 'figures' / name}" for name in names]
    with Image.open(tmp_path / "figures" / names[0]) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    assert b"/FontFile2" in (tmp_path / "figures" / names[1]).read_bytes()  # TrueType, embedded
    assert "<text" not in (tmp_path / "figures" / names[2]).read_text()  # outlines
    facts = json.loads((tmp_path / "figures" / f"figure{number}_parts.json").read_text())
    assert facts["dataset"] == "parts"
    assert len(facts["images"]) == {"1": 0, "3": 2, "4": 6}[number]
    assert facts["rule"] == {"1": "all images", "3": "seed 0", "4": "worst by pixel AP under run"}[number]


def test_several_runs_stand_side_by_side(run, trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other" / "run")
    words = ["4", str(trained), str(other), "--out", str(tmp_path), "--rows", "1", "--own-scales"]
    assert run("figure", *words) == 0
    assert json.loads((tmp_path / "figure4_parts.json").read_text())["runs"] == [str(trained), str(other)]
    with Image.open(tmp_path / "figure4_parts.png") as picture:
        wide = picture.width
    assert run("figure", "4", str(trained), "--out", str(tmp_path), "--rows", "1") == 0
    with Image.open(tmp_path / "figure4_parts.png") as picture:
        assert picture.width < wide


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["1", "{run}", "{run}"], "Figure 1 shows one run, got 2."),
        (["3", "{run}", "--rows", "0"], "--rows must be at least 1, got 0."),
        (["4", "{run}", "{run}"], "one is named twice"),
        (["4", "{run}/nothing"], "must be the folder of a finished train or evaluate run"),
    ],
)
def test_what_cannot_be_drawn_is_said(run, trained, tmp_path, capsys, words, fault):
    assert run("figure", *(word.format(run=trained) for word in words), "--out", str(tmp_path)) != 0
    assert fault in capsys.readouterr().err


def test_the_similarities_are_those_of_the_network(loaded):
    measured = {(one.category, one.comparison): one for one in compare_similarity(loaded)}
    assert {comparison for _, comparison in measured} == {"image against text", "text on text"}
    network, margins = loaded.module.network, []
    for batch in loaded.batches():
        with torch.inference_mode():
            maps = network(batch.pictures, loaded.names(batch)).layer_maps
        # The probability of the abnormal state is a sigmoid of the difference over the temperature, Eq. (13).
        margin = (maps.double().logit() * network.temperature).mean(dim=1).flatten(1)
        share = torch.nn.functional.adaptive_avg_pool2d(batch.mask.float(), network.backbone.grid_size).flatten(1)
        margins.append(margin[(share == 0) | (share >= 0.25)])
    expected = torch.cat(margins)
    own = [measured[key] for key in measured if key[1] == "text on text"]
    counts = sum(one.sound.counts + one.defective.counts for one in own)
    values = (np.arange(len(counts)) + 0.5) / len(counts) * 4 - 2
    assert counts.sum() == len(expected)
    assert (counts * values).sum() / counts.sum() == pytest.approx(float(expected.mean()), abs=2e-4)
    for one in measured.values():
        assert one.to_normal.counts.sum() == one.to_abnormal.counts.sum() == one.defective.counts.sum()
    assert network.cmfr, "it is put back"


def test_seeded_images_come_from_the_categories_in_turn(loaded):
    chosen = choose_samples(loaded, 4, Rule.seeded, 0)
    assert chosen == choose_samples(loaded, 4, Rule.seeded, 0) != choose_samples(loaded, 4, Rule.seeded, 1)
    assert [sample.category for sample in chosen[:2]] == ["fabric", "metal_plate"]
    assert all(sample.is_anomalous for sample in chosen)


def test_best_and_worst_are_the_two_ends_of_one_order(loaded):
    everything = len([sample for sample in loaded.target.samples if sample.is_anomalous])
    order = choose_samples(loaded, everything, Rule.best, 0)
    assert choose_samples(loaded, 2, Rule.best, 0) == order[:2]
    assert choose_samples(loaded, 2, Rule.worst, 0) == order[-2:]
    start = (len(order) - 2) // 2
    assert choose_samples(loaded, 2, Rule.median, 0) == order[start : start + 2]


def test_two_distributions_overlap_by_what_they_share():
    values = torch.linspace(-0.5, 0.5, 1000)
    one, same, apart = Histogram(), Histogram(), Histogram()
    one.add(values), same.add(values), apart.add(values + 1.2)
    assert overlap(one, same) == pytest.approx(1.0)
    assert overlap(one, apart) == 0.0
    half = Histogram()
    half.add(values + 0.5)
    assert overlap(one, half) == pytest.approx(0.5, abs=0.03)


def test_narrow_distributions_are_told_apart():
    one, other = Histogram(), Histogram()
    one.add(torch.full((10,), 0.8)), other.add(torch.full((10,), 0.8005))
    assert overlap(one, other) == 0.0


def test_principal_colours_are_shared_and_do_not_depend_on_signs():
    features = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 4, 3, 1, 1, 1])
    (own, other), (negated, _) = principal_colours([features, features * 0.5]), principal_colours([features, features])
    assert torch.equal(own, negated)
    assert own.min() == 0
    assert own.max() == 1
    inside = (own > 0) & (own < 1) & (other > 0) & (other < 1)
    low, high = np.quantile(own[inside], 0.1), np.quantile(own[inside], 0.9)
    assert other[inside].std() < own[inside].std()  # half as far from the centre
    assert low < high
