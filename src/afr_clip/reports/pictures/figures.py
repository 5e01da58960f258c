"""Pictures to look at: input, ground truth and overlay side by side, and the curves of a training."""

import csv
import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from afr_clip.data.records import AnomalyBatch, AnomalySample
from afr_clip.files import shown, write_encoded
from afr_clip.inspection.colours import laid_over, palette
from afr_clip.metrics.log_keys import SHEETS
from afr_clip.reports.pictures.overlays import BAR, FONT, LINE, MARGIN, shortened

Scale = tuple[float, float]
"""The map values of the lowest and the highest colour."""

FLAT = 1e-6
"""A smaller range of map values has no colours; all is drawn in the lowest."""

WIDTH, SCALE_HEIGHT = 900, 4 * LINE
"""Width of a sheet, and the height of its colour scale, in pixels."""

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST

KINDS = ("highest", "lowest", "false_alarm", "missed")
"""What a collector keeps images for."""


@dataclass(frozen=True)
class Panel:
    """One scored image, ready to be drawn.

    Attributes:
        image: RGB, ``(H, W, 3)``.
        mask: Ground truth ``(H, W)``; ``None`` if it is unknown.
        anomaly_map: ``(H, W)`` in [0, 1].
        image_score: In [0, 1].
    """

    sample: AnomalySample
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    anomaly_map: NDArray[np.float32]
    image_score: float


def panels_of(
    batch: AnomalyBatch,
    anomaly_map: Float[Tensor, "batch height width"],
    image_score: Float[Tensor, " batch"],
    normalisation: tuple[Sequence[float], Sequence[float]],
) -> list[Panel]:
    """Make one panel per image of a scored batch.

    Args:
        anomaly_map: In [0, 1].
        image_score: In [0, 1].
        normalisation: Mean and standard deviation that the images were normalised with.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalisation)
    images = ((batch.pictures.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [
        Panel(
            sample,
            # Copies, because a view of one image would keep its whole batch in memory.
            images[i].numpy().copy(),
            batch.mask[i].cpu().numpy().copy() if batch.has_mask[i] else None,
            anomaly_map[i].float().cpu().numpy().copy(),
            float(image_score[i]),
        )
        for i, sample in enumerate(batch.samples)
    ]


class FigureCollector:
    """A sink that keeps the images worth looking at: highest, lowest and worst-ranked.

    Worst-ranked are the normal images that score highest and the anomalous ones that score lowest. No other image is
    kept, so memory does not grow with the dataset.

    Args:
        normalisation: Mean and standard deviation of the images.
        num_figures: Images per figure; 0 keeps none.

    Attributes:
        scale: Of all maps seen, so that every sheet has the same colours; ``None`` before the first.
    """

    def __init__(self, normalisation: tuple[Sequence[float], Sequence[float]], num_figures: int) -> None:
        self._normalisation = normalisation
        self._num = num_figures
        self._kept: dict[str, list[tuple[float, int, Panel]]] = {kind: [] for kind in KINDS}
        self.scale: Scale | None = None

    def __call__(
        self,
        batch: AnomalyBatch,
        anomaly_map: Float[Tensor, "batch height width"],
        image_score: Float[Tensor, " batch"],
    ) -> None:
        """Consider one batch."""
        if self._num == 0:
            return
        panels = panels_of(batch, anomaly_map, image_score, self._normalisation)
        self.scale = scale_of(panels, self.scale)
        for index, panel in zip(batch.index.tolist(), panels, strict=True):
            self._keep("highest", panel.image_score, index, panel)
            self._keep("lowest", -panel.image_score, index, panel)
            if panel.sample.is_anomalous:
                self._keep("missed", -panel.image_score, index, panel)
            else:
                self._keep("false_alarm", panel.image_score, index, panel)

    def _keep(self, kind: str, rank: float, index: int, panel: Panel) -> None:
        heap = self._kept[kind]
        # Earlier images of the dataset win ties, and panels themselves are never compared.
        heapq.heappush(heap, (rank, -index, panel))
        room = {"missed": self._num // 2, "false_alarm": self._num - self._num // 2}.get(kind, self._num)
        if len(heap) > room:
            heapq.heappop(heap)

    def absorb(self, others: Sequence["FigureCollector"]) -> None:
        """Merge what the collectors of other processes kept; they must keep the same number of images."""
        for other in others:
            ends = [scale for scale in (self.scale, other.scale) if scale is not None]
            self.scale = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None
            for kind, kept in other._kept.items():
                for rank, negative_index, panel in kept:
                    self._keep(kind, rank, -negative_index, panel)

    def sheets(self) -> dict[str, list[Panel]]:
        """Return the images kept by each reason to look at them, the best example first."""
        best_first = (sorted(self._kept[kind], reverse=True) for kind in KINDS)
        highest, lowest, false_alarms, missed = ([panel for *_, panel in kept] for kept in best_first)
        return dict(zip(SHEETS, (highest, lowest, false_alarms + missed), strict=True))

    def draw(self, folder: Path) -> list[Path]:
        """Draw ``highest.png``, ``lowest.png`` and ``worst_ranked.png`` and return the files written."""
        sheets = {folder / f"{name}.png": panels for name, panels in self.sheets().items() if panels}
        with ThreadPoolExecutor() as pool:  # encoding a picture leaves the interpreter to the others
            list(pool.map(draw_sheet, sheets, sheets.values(), repeat(self.scale)))
        return list(sheets)


def place_of(sample: AnomalySample) -> str:
    """Name an image by its category, type and file."""
    return shown(f"{sample.category}/{sample.defect_type}/{sample.image_path.name}")


def scale_of(panels: Iterable[Panel], before: Scale | None = None) -> Scale:
    """Return the lowest and the highest value of all maps, and of those before."""
    maps = [panel.anomaly_map for panel in panels]
    ends = [*(float(one.min()) for one in maps), *(float(one.max()) for one in maps), *(before or ())]
    return min(ends), max(ends)


def draw_sheet(path: Path, panels: Sequence[Panel], scale: Scale | None = None) -> None:
    """Draw input, ground truth and overlay of at least one image as PNG, one image per row.

    Args:
        scale: The map values of the lowest and the highest colour; by default those of the sheet.
    """
    low, high = scale_of(panels) if scale is None else scale
    column = (WIDTH - 4 * MARGIN) // 3
    heights = [round(column * panel.image.shape[0] / panel.image.shape[1]) for panel in panels]
    sheet = Image.new("RGB", (WIDTH, sum(heights) + (LINE + MARGIN) * len(panels) + SCALE_HEIGHT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(FONT, 11)
    top = 0
    for panel, height in zip(panels, heights, strict=True):
        share = (panel.anomaly_map - low) / max(high - low, FLAT)
        truth = "ground truth" if panel.mask is not None else "no ground truth"
        pictures = {
            place_of(panel.sample): panel.image,
            truth: _mask_picture(panel),
            f"anomaly map, image score {panel.image_score:.3f}": laid_over(panel.image, share),
        }
        for number, (title, pixels) in enumerate(pictures.items()):
            left, way = MARGIN + number * (column + MARGIN), NEAREST if title == truth else BILINEAR
            words = shortened(draw, title, font, column)
            draw.text((left + column / 2, top + LINE / 2), words, fill="black", font=font, anchor="mm")
            sheet.paste(Image.fromarray(pixels).resize((column, height), way), (left, top + LINE))
        top += LINE + height + MARGIN
    left, top = (WIDTH - column) // 2, top + LINE
    sheet.paste(Image.fromarray(np.repeat(palette()[None], BAR, axis=0)).resize((column, BAR)), (left, top))
    for place, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        value = f"{low + place * (high - low):.3g}"
        draw.text((left + place * column, top + BAR + 2), value, fill="black", font=font, anchor=anchor)
    of = "sheet" if scale is None else "dataset"
    label = f"anomaly score, not a calibrated probability; from the lowest to the highest of this {of}"
    draw.text((WIDTH / 2, top + BAR + LINE), label, fill="black", font=font, anchor="ma")
    write_encoded(path, partial(sheet.save, format="PNG", compress_level=3))  # a tenth larger, in half the time


def _mask_picture(panel: Panel) -> NDArray[np.uint8]:
    if panel.mask is None:
        return np.full_like(panel.image, 128)
    return np.repeat(panel.mask[..., None], 3, axis=2).astype(np.uint8) * np.uint8(255)


def draw_curves(path: Path, metrics_csv: Path) -> bool:
    """Draw the losses and the learning rate of a training over its epochs as PNG.

    Returns:
        Whether there was anything to draw.
    """
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with metrics_csv.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"].startswith("train/") and not row["metric"].endswith("_step"):
                curves[row["metric"].removeprefix("train/").removesuffix("_epoch")].append(
                    (float(row["epoch"]) + 1, float(row["value"]))  # people count epochs from 1
                )
    if not curves:
        return False
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, rate = figure.subplots(1, 2)
    for name, points in curves.items():
        (rate if name == "lr" else losses).plot(*zip(*points, strict=True), marker=".", label=name)
    for axis, title in ((losses, "loss"), (rate, "learning rate")):
        axis.set(xlabel="epoch", title=title)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(handles=list(losses.lines), loc="outside lower center", ncols=5, fontsize=8)
    write_encoded(path, partial(figure.savefig, format="png", dpi=100))
    return True
