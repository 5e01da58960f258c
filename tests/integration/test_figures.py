"""The paper's figures from the command line, and the numbers in them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from afr_clip.config.plan import composed_diagnosis
from afr_clip.models.scoring import text_on_text_similarity
from afr_clip.reports.pictures.paper_figures import Histogram, overlap
from afr_clip.run.diagnose import read_finished
from afr_clip.run.figures import _precision_of, choose_samples, compare_similarity, load_run, principal_colours
from afr_clip.settings import ImageRule

pytestmark = pytest.mark.integration

LATER = ("data.num_workers=0", "num_threads=1")


@pytest.fixture(scope="module")
def trained(trained_into, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_into(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def loaded(trained):
    return load_run(composed_diagnosis(trained, read_finished(trained), *LATER), "run")


@pytest.mark.parametrize(("number", "more"), [("1", []), ("3", ["--rows", "2"]), ("4", ["--rule", "worst"])])
def test_each_figure_is_drawn_in_three_formats(run, trained, tmp_path, capsys, number, more):
    assert run("figure", number, str(trained), "--out", str(tmp_path / "figures"), *more) == 0
    stem = f"figure{number}_parts" if number == "4" else f"figure{number}_parts_run"
    names = [f"{stem}.{kind}" for kind in ("png", "pdf", "svg")]
    assert capsys.readouterr().out.splitlines()[-3:] == [f"figure: {tmp_path / 'figures' / name}" for name in names]
    with Image.open(tmp_path / "figures" / names[0]) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    assert b"/FontFile2" in (tmp_path / "figures" / names[1]).read_bytes()  # TrueType, embedded
    assert "<text" not in (tmp_path / "figures" / names[2]).read_text()  # outlines
    facts = json.loads((tmp_path / "figures" / f"{stem}.json").read_text())
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
        (["1", "{run}", "{run}/.."], "Figure 1 shows one run, got 2."),
        (["3", "{run}", "--rows", "0"], "--rows must be at least 1, got 0."),
        (["4", "{run}", "{run}"], "one is named twice"),
        (["1", "{run}", "--rows", "3"], "--rows has no effect on this figure"),
        (["3", "{run}", "--own-scales"], "--own-scales has no effect on this figure"),
        (["4", "{run}", "--rule", "best", "--seed", "1"], "--seed has no effect"),
        (["4", "{run}", "--data-dir", "/no (such), folder=x", "--dataset", "mvtec_ad"], "/no (such), folder=x"),
        (["4", "{run}/nothing"], "must be the folder of a finished train or evaluate run"),
    ],
)
def test_what_cannot_be_drawn_is_said(run, trained, tmp_path, capsys, words, fault):
    assert run("figure", *(word.format(run=trained) for word in words), "--out", str(tmp_path)) != 0
    assert fault in capsys.readouterr().err


def test_the_similarities_are_those_of_the_network(loaded):
    measured = {(one.category, one.comparison): one for one in compare_similarity(loaded)}
    assert {comparison for _, comparison in measured} == {"image against text", "text on text"}
    network, margins, plain = loaded.module.network, [], []
    for batch in loaded.batches():
        with torch.inference_mode():
            maps = network(batch.pictures, loaded.module.names_of(batch)).layer_maps
        # The probability of the abnormal state is a sigmoid of the difference over the temperature, Eq. (13).
        margin = (maps.double().logit() * network.temperature).mean(dim=1).flatten(1)
        share = torch.nn.functional.adaptive_avg_pool2d(batch.mask.float(), network.backbone.grid_size).flatten(1)
        margins.append(margin[(share == 0) | (share >= 0.25)])
        with torch.inference_mode():
            tapped, text = (
                network.tapped(batch.pictures),
                network.adapted_text(loaded.module.names_of(batch), loaded.device),
            )
            grid_size = network.backbone.grid_size
            adapted = [network.mpfa(network.adapted(s, one)[:, 1:], grid_size) for s, one in enumerate(tapped)]
            similarity = torch.stack([text_on_text_similarity(one, text.stateful) for one in adapted]).mean(dim=0)
        plain.append((similarity[..., 1] - similarity[..., 0])[(share == 0) | (share >= 0.25)])
    for comparison, margin in (("text on text", torch.cat(margins)), ("image against text", torch.cat(plain))):
        own = [measured[key] for key in measured if key[1] == comparison]
        counts = sum(one.normal.counts + one.anomalous.counts for one in own)
        values = (np.arange(len(counts)) + 0.5) / len(counts) * 4 - 2
        assert counts.sum() == len(margin)
        assert (counts * values).sum() / counts.sum() == pytest.approx(float(margin.mean()), abs=2e-4)
    assert not torch.allclose(torch.cat(margins).float(), torch.cat(plain).float(), atol=1e-3)
    for one in measured.values():
        assert one.to_normal.counts.sum() == one.to_abnormal.counts.sum() == one.anomalous.counts.sum()


def test_seeded_images_come_from_the_categories_in_turn(loaded):
    chosen = choose_samples(loaded, 4, ImageRule.seeded, 0)
    assert chosen == choose_samples(loaded, 4, ImageRule.seeded, 0) != choose_samples(loaded, 4, ImageRule.seeded, 1)
    assert [sample.category for sample in chosen[:2]] == ["fabric", "metal_plate"]
    assert all(sample.is_anomalous for sample in chosen)


def test_best_and_worst_are_the_two_ends_of_one_order(loaded):
    everything = len([sample for sample in loaded.target.samples if sample.is_anomalous])
    order = choose_samples(loaded, everything, ImageRule.best, 0)
    precision = {sample.name + sample.category: value for value, sample in _precision_of(loaded, order)}
    values = [precision[sample.name + sample.category] for sample in order]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    assert choose_samples(loaded, 2, ImageRule.best, 0) == order[:2]
    assert choose_samples(loaded, 2, ImageRule.worst, 0) == order[-2:]
    start = (len(order) - 2) // 2
    assert choose_samples(loaded, 2, ImageRule.median, 0) == order[start : start + 2]


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


def test_principal_colours_follow_the_largest_components_and_are_shared():
    generator = torch.Generator().manual_seed(0)
    turned, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    spread = torch.randn(200, 6, generator=generator) * torch.tensor([9.0, 4, 2, 0.1, 0.1, 0.1])
    own, half = principal_colours([spread @ turned, spread @ turned * 0.5])
    for component in range(3):
        inside = (own[:, component] > 0) & (own[:, component] < 1)
        related = np.corrcoef(own[inside, component], spread[inside, component])[0, 1]
        assert abs(related) > 0.97
    inside = (own > 0) & (own < 1) & (half > 0) & (half < 1)
    assert half[inside].std() == pytest.approx(float(own[inside].std()) / 2, rel=0.2)  # half as far from the centre


def test_the_sign_of_a_component_does_not_depend_on_the_decomposition(monkeypatch):
    features, svd = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)), torch.linalg.svd
    (own,) = principal_colours([features])

    def negated(matrix, full_matrices):
        left, values, right = svd(matrix, full_matrices=full_matrices)
        return -left, values, -right

    monkeypatch.setattr(torch.linalg, "svd", negated)
    assert torch.equal(principal_colours([features])[0], own)
