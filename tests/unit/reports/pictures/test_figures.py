import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from afr_clip.inspection.colours import palette
from afr_clip.reports.pictures import figures
from afr_clip.reports.pictures.figures import (
    FigureCollector,
    Panel,
    draw_curves,
    draw_sheet,
    panels_of,
    place_of,
)
from afr_clip.training.loggers import MetricsCSV

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)

# 12 images; the even ones are normal, the odd ones anomalous.
SCORES = [0.50, 0.10, 0.90, 0.80, 0.20, 0.95, 0.60, 0.30, 0.70, 0.40, 0.05, 0.85]
ANOMALOUS = [i % 2 == 1 for i in range(12)]


def size_of(path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: file names and the numbers of the images on them."""
    sheets: dict[str, list[int]] = {}

    def draw(path, panels, _scale) -> None:
        sheets[path.name] = [int(panel.sample.image_path.stem) for panel in panels]

    monkeypatch.setattr(figures, "draw_sheet", draw)
    return sheets


def collect(scored, num_figures: int, batch_size: int = 5) -> FigureCollector:
    collector = FigureCollector((MEAN, STD), num_figures)
    for first in range(0, 12, batch_size):
        part = slice(first, first + batch_size)
        collector(*scored(SCORES[part], ANOMALOUS[part], first))
    return collector


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_the_images_worth_looking_at_are_kept_best_first(scored, drawn, tmp_path, batch_size):
    paths = collect(scored, 4, batch_size).draw(tmp_path)
    assert paths == [tmp_path / name for name in ("highest.png", "lowest.png", "worst_ranked.png")]
    assert drawn == {
        "highest.png": [5, 2, 11, 3],
        "lowest.png": [10, 1, 4, 7],
        "worst_ranked.png": [2, 8, 1, 7],  # the normal ones that score highest, the anomalous ones that score lowest
    }


@pytest.mark.parametrize(("num", "expected"), [(1, [2]), (3, [2, 8, 1]), (5, [2, 8, 6, 1, 7])])
def test_an_odd_number_gives_false_alarms_one_more(scored, drawn, tmp_path, num, expected):
    collect(scored, num).draw(tmp_path)
    assert drawn["worst_ranked.png"] == expected


def test_collectors_of_several_processes_keep_what_one_would(scored, drawn, tmp_path):
    shared = [FigureCollector((MEAN, STD), 4) for _ in range(3)]  # the last one meets no image
    for first in range(0, 12, 2):
        part = slice(first, first + 2)
        shared[first // 2 % 2](*scored(SCORES[part], ANOMALOUS[part], first))
    shared[1].absorb([shared[0], shared[2]])
    shared[1].draw(tmp_path)
    together = dict(drawn)
    collect(scored, 4).draw(tmp_path)
    assert together == drawn


def test_ties_go_to_the_earlier_image(scored, drawn, tmp_path):
    collector = FigureCollector((MEAN, STD), 2)
    collector(*scored([0.5] * 6, [False] * 6))
    collector.draw(tmp_path)
    assert drawn == {"highest.png": [0, 1], "lowest.png": [0, 1], "worst_ranked.png": [0]}


def test_no_figures_are_kept_where_none_are_wanted(scored, drawn, tmp_path):
    assert collect(scored, 0).draw(tmp_path) == []
    assert drawn == {}


def held(collector: FigureCollector) -> list[Panel]:
    return [panel for kept in collector._kept.values() for *_, panel in kept]


def test_memory_does_not_grow_with_the_dataset(scored):
    collector, nums = FigureCollector((MEAN, STD), 4), []
    for first in range(0, 200, 10):
        scores = [((first + i) * 7919 % 200) / 200 for i in range(10)]
        collector(*scored(scores, ANOMALOUS[:10], first))
        nums.append(len(held(collector)))
    assert max(nums) == nums[-1] == 4 + 4 + 2 + 2


def test_a_kept_image_does_not_keep_its_batch(scored):
    for panel in held(collect(scored, 4)):
        assert all(array.flags.owndata for array in (panel.image, panel.mask, panel.anomaly_map))


def test_panels_show_what_the_batch_was_made_of(scored):
    batch, maps, scores = scored([0.25, 0.75], [False, True])
    pixels = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(3))
    image = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    batch = replace(batch, image=image, has_mask=torch.tensor([False, True]))
    first, second = panels_of(batch, maps, scores, (MEAN, STD))
    assert np.array_equal(first.image, pixels[0].permute(1, 2, 0).numpy())
    assert first.image.dtype == np.uint8
    assert first.mask is None
    assert np.array_equal(second.mask, batch.mask[1].numpy())
    assert np.array_equal(second.anomaly_map, maps[1].numpy())
    assert (first.image_score, second.image_score, second.sample) == (0.25, 0.75, batch.samples[1])


def panel(anomaly_map: np.ndarray, mask: np.ndarray | None, scored) -> Panel:
    sample = scored([0.5], [True])[0].samples[0]
    image = np.full((*anomaly_map.shape, 3), 100, dtype=np.uint8)
    return Panel(sample, image, mask, anomaly_map.astype(np.float32), 0.5)


@pytest.mark.parametrize("num", [1, 3])
def test_a_sheet_has_one_row_per_image(scored, tmp_path, num):
    rng = np.random.default_rng(0)
    panels = [panel(rng.random((20, 20)), rng.random((20, 20)) > 0.5, scored) for _ in range(num)]
    draw_sheet(tmp_path / "deep" / "a.png", panels)
    # A row is as high as it is wide, with a line of words and a margin; the colour scale takes four lines.
    assert size_of(tmp_path / "deep" / "a.png") == (900, (289 + 18 + 8) * num + 4 * 18)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_map_draws_without_a_warning_in_the_lowest_colour(scored, tmp_path, value):
    flat = np.full((8, 8), value)
    draw_sheet(tmp_path / "a.png", [panel(flat, None, scored)])
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    lowest = np.rint(50 + palette()[0] / 2)
    on_the_right = pixels[:, 600:].reshape(-1, 3).astype(int)
    assert (np.abs(on_the_right - lowest).max(axis=1) <= 1).sum() > 200 * 200


def test_all_sheets_of_a_dataset_share_the_scale_of_all_its_maps(scored, tmp_path, monkeypatch):
    scales = []
    monkeypatch.setattr(figures, "draw_sheet", lambda _path, _panels, scale: scales.append(scale))
    collector, other = FigureCollector((MEAN, STD), 1), FigureCollector((MEAN, STD), 1)
    ends = []
    for to, first, highest in ((collector, 0, 0.9), (other, 3, 0.8)):
        batch, maps, scores = scored([highest / 9, highest / 2, highest], [False, True, True], first)
        to(batch, maps, scores)
        ends += [maps.min().item(), maps.max().item()]
    collector.absorb([other, FigureCollector((MEAN, STD), 1)])
    collector.draw(tmp_path)
    assert scales == [(min(ends), max(ends))] * 3


def test_names_are_drawn_as_they_are(scored, tmp_path):
    flat = panel(np.zeros((8, 8)), None, scored)
    sample = replace(flat.sample, category=r"$\frac{$", defect_type="_\N{CJK UNIFIED IDEOGRAPH-4E2D}\n")
    drawn = replace(flat, sample=replace(sample, image_path=sample.image_path.with_name("x" * 200 + ".png")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_sheet(tmp_path / "a.png", [drawn])
    assert size_of(tmp_path / "a.png") == (900, 289 + 18 + 8 + 4 * 18)


def test_an_image_is_named_with_its_folder(scored):
    sample = replace(scored([0.5], [True])[0].samples[0], category="nut", defect_type="bent\n")
    assert place_of(sample) == r"nut/bent\n/0.png"


@pytest.mark.parametrize("mask", [np.eye(4, dtype=bool), None], ids=["known", "unknown"])
def test_ground_truth_is_white_on_black_and_grey_where_unknown(scored, mask):
    picture = figures._mask_picture(panel(np.zeros((4, 4)), mask, scored))
    expected = np.full((4, 4), 128) if mask is None else mask * 255
    assert picture.dtype == np.uint8
    assert all(np.array_equal(picture[..., channel], expected) for channel in range(3))


@pytest.mark.parametrize(
    "content", ["", "epoch,step,metric,value\r\n", "epoch,step,metric,value\r\n0,0,target/a/b,1\r\n"]
)
def test_without_a_training_there_are_no_curves(tmp_path, content):
    (tmp_path / "metrics.csv").write_text(content, newline="")
    assert draw_curves(tmp_path / "curves.png", tmp_path / "metrics.csv") is False
    assert not (tmp_path / "curves.png").exists()


def test_curves_are_the_means_of_the_epochs(tmp_path, monkeypatch):
    logger = MetricsCSV(tmp_path / "metrics.csv")
    for epoch in range(3):
        logger.log_metrics({"train/loss_step": 99.0, "epoch": epoch}, epoch)
        means = {"train/loss_epoch": 1 / (epoch + 1), "train/loss_dice": 0.5, "train/lr": 0.1}
        logger.log_metrics({**means, "epoch": epoch}, epoch)
    logger.log_metrics({"target/visa/pcb1/i_auroc": 0.5, "epoch": 0}, 0)
    curves = {}
    plot = figures.Figure.subplots

    def subplots(self, *args, **kwargs):
        axes = plot(self, *args, **kwargs)
        curves["axes"] = axes
        return axes

    monkeypatch.setattr(figures.Figure, "subplots", subplots)
    assert draw_curves(tmp_path / "figures" / "curves.png", tmp_path / "metrics.csv") is True
    assert size_of(tmp_path / "figures" / "curves.png") == (900, 350)
    losses, rate = ({line.get_label(): line.get_xydata().tolist() for line in axis.lines} for axis in curves["axes"])
    assert losses == {"loss": [[1, 1], [2, 0.5], [3, 1 / 3]], "loss_dice": [[1, 0.5], [2, 0.5], [3, 0.5]]}
    assert rate == {"lr": [[1, 0.1], [2, 0.1], [3, 0.1]]}


def test_an_only_epoch_is_the_only_tick(tmp_path, monkeypatch):
    (tmp_path / "metrics.csv").write_text("epoch,step,metric,value\n0,0,train/loss_epoch,1\n0,0,train/lr,0.1\n")
    drawn = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda self, path, **_: (drawn.append(self), path.write(b"png")))
    assert draw_curves(tmp_path / "curves.png", tmp_path / "metrics.csv")
    for axis in drawn[0].axes:
        low, high = axis.get_xlim()
        assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [1]
