"""The paper's figures 1, 3 and 4 as PNG, PDF and SVG: fonts embedded, colours that colour-blind readers can tell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Float64, Int64
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from afr_clip.files import write_encoded
from afr_clip.reports.pictures.figures import Panel, place_of, scale_of

FORMATS = ("png", "pdf", "svg")

NORMAL_COLOUR, ABNORMAL_COLOUR, TRUTH_COLOUR = "#0072B2", "#D55E00", "#00E5FF"
"""Blue and vermilion of Okabe and Ito's palette, and a line that shows on photographs."""

NUM_BINS = 20_000
"""Fine bins, in which values are counted; fifty are drawn."""

DRAWN_BINS = 50

DPI = 150
"""Of the PNG."""


@dataclass
class Histogram:
    """A distribution of values in [-2, 2], counted in fine bins.

    Example:
        >>> import torch
        >>> one, other = Histogram(), Histogram()
        >>> one.add(torch.tensor([0.1, 0.2])), other.add(torch.tensor([0.1, 0.9]))
        (None, None)
        >>> overlap(one, other)
        0.5
    """

    counts: Int64[np.ndarray, " bins"] = field(default_factory=lambda: np.zeros(NUM_BINS, dtype=np.int64))

    def add(self, values: Float[Tensor, " values"]) -> None:
        """Count values."""
        places = ((values.double().numpy() + 2) / 4 * NUM_BINS).astype(np.int64)
        self.counts += np.bincount(places.clip(0, NUM_BINS - 1), minlength=NUM_BINS)


def shared_bins(one: Histogram, other: Histogram) -> tuple[Float64[np.ndarray, " edges"], list[np.ndarray]]:
    """Return the edges of equal bins over both distributions, and the share of each in every bin."""
    used = np.flatnonzero(one.counts + other.counts)
    first, width = used[0], max(1, -(-(used[-1] + 1 - used[0]) // DRAWN_BINS))
    fine = np.arange(first, first + width * DRAWN_BINS + 1, width)
    shares = []
    for counts in (one.counts, other.counts):
        padded = np.concatenate([counts, np.zeros(width * DRAWN_BINS, dtype=np.int64)])
        coarse = padded[first : first + width * DRAWN_BINS].reshape(DRAWN_BINS, width).sum(axis=1)
        shares.append(coarse / max(1, counts.sum()))
    return fine / NUM_BINS * 4 - 2, shares


def overlap(one: Histogram, other: Histogram) -> float:
    """Return the share of two distributions that they have in common: 1 if they are the same, 0 if apart."""
    _, (left, right) = shared_bins(one, other)
    return float(np.minimum(left, right).sum())


@dataclass
class Overlap:
    """Figure 1 for one category and one comparison.

    Attributes:
        to_normal: Over anomalous patches, the similarity to the normal text.
        to_abnormal: Likewise to the abnormal text.
        normal: Over normal patches, the abnormal minus the normal similarity.
        anomalous: Likewise over anomalous patches.
    """

    category: str
    comparison: str
    to_normal: Histogram = field(default_factory=Histogram)
    to_abnormal: Histogram = field(default_factory=Histogram)
    normal: Histogram = field(default_factory=Histogram)
    anomalous: Histogram = field(default_factory=Histogram)

    def add(self, to_normal: Tensor, to_abnormal: Tensor, normal: Tensor, anomalous: Tensor) -> None:
        """Count the patches of an image."""
        self.to_normal.add(to_normal)
        self.to_abnormal.add(to_abnormal)
        self.normal.add(normal)
        self.anomalous.add(anomalous)

    @property
    def is_complete(self) -> bool:
        """Whether it has both anomalous and normal patches."""
        return bool(self.anomalous.counts.any() and self.normal.counts.any())

    def overlaps(self) -> dict[str, float]:
        """Return what the two pairs of distributions have in common."""
        return {"texts": overlap(self.to_normal, self.to_abnormal), "patches": overlap(self.normal, self.anomalous)}


@dataclass(frozen=True)
class Aggregated:
    """Figure 3 for one image: its features as colours by the window of MPFA."""

    panel: Panel
    pictures: Mapping[int, Float[np.ndarray, "rows columns 3"]]


def draw_similarity(measured: Sequence[Overlap], title: str) -> Figure:
    """Draw figure 1, a row for each category and two columns for each comparison."""
    categories = list(dict.fromkeys(one.category for one in measured))
    comparisons = list(dict.fromkeys(one.comparison for one in measured))
    figure, axes = _grid(len(categories), 2 * len(comparisons), width=3.4, height=2.0)
    pairs = (
        ("texts", "similarity of anomalous patches", "to the normal text", "to the abnormal text"),
        ("patches", "abnormal minus normal similarity", "normal patches", "anomalous patches"),
    )
    for one in measured:
        for number, (name, label, left, right) in enumerate(pairs):
            row, column = categories.index(one.category), 2 * comparisons.index(one.comparison) + number
            both = (one.to_normal, one.to_abnormal) if name == "texts" else (one.normal, one.anomalous)
            axis = axes[row, column]
            edges, shares = shared_bins(*both)
            for share, what, colour in zip(shares, (left, right), (NORMAL_COLOUR, ABNORMAL_COLOUR), strict=True):
                axis.stairs(share, edges, fill=True, alpha=0.45, color=colour, label=what)
                axis.stairs(share, edges, color=colour, linewidth=1.0)
            axis.tick_params(labelsize=7)
            axis.set_yticks([])
            axis.set_title(f"{one.category}, {one.comparison}\noverlap {one.overlaps()[name]:.2f}", fontsize=8)
            if row == len(categories) - 1:
                axis.set_xlabel(label, fontsize=8)
            if row == 0:
                axis.legend(fontsize=7)
    figure.suptitle(title, fontsize=9)
    return figure


def draw_aggregation(rows: Sequence[Aggregated], title: str) -> Figure:
    """Draw figure 3, a row for each image: photograph with the defect's outline, then the features for each window."""
    windows = list(rows[0].pictures)
    figure, axes = _grid(len(rows), 1 + len(windows), width=2.2, height=2.4)
    for row, one in enumerate(rows):
        axes[row, 0].imshow(one.panel.image)
        if one.panel.mask is not None and one.panel.mask.any():
            axes[row, 0].contour(one.panel.mask, levels=[0.5], colors=[TRUTH_COLOUR], linewidths=0.9)
        axes[row, 0].set_title(_short(place_of(one.panel.sample)), fontsize=7)
        for column, window in enumerate(windows, start=1):
            axes[row, column].imshow(one.pictures[window], interpolation="nearest")
            name = "before MPFA" if window == 1 else f"after MPFA, m = {window}"
            axes[row, column].set_title(name, fontsize=7)
    _without_ticks(axes)
    figure.suptitle(title, fontsize=9)
    return figure


def draw_map_grid(maps: Mapping[str, Sequence[Panel]], title: str, *, own_scales: bool = False) -> Figure:
    """Draw figure 4, a row for each image: photograph, truth, and the map of each run.

    Args:
        maps: The same images by each run, under its label.
        own_scales: Whether each run's colours run from its own lowest to its own highest value; otherwise all runs
            share one scale.
    """
    first, shared = next(iter(maps.values())), scale_of(panel for panels in maps.values() for panel in panels)
    figure, axes = _grid(len(first), 2 + len(maps), width=1.9, height=2.1)
    for row, panel in enumerate(first):
        axes[row, 0].imshow(panel.image)
        axes[row, 0].set_title(_short(place_of(panel.sample)), fontsize=6)
        truth = np.zeros(panel.image.shape[:2]) if panel.mask is None else panel.mask
        axes[row, 1].imshow(truth, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes[row, 1].set_title("ground truth", fontsize=6)
    for column, (label, panels) in enumerate(maps.items(), start=2):
        low, high = scale_of(panels) if own_scales else shared
        for row, panel in enumerate(panels):
            drawn = axes[row, column].imshow(panel.anomaly_map, cmap="viridis", vmin=low, vmax=max(high, low + 1e-9))
            axes[row, column].set_title(f"{_short(label)}\n{panel.image_score:.2f}", fontsize=6)
        if own_scales:
            _add_scale(figure, drawn, axes[:, column])
    if not own_scales:
        _add_scale(figure, drawn, axes[:, 2:])
    _without_ticks(axes)
    figure.suptitle(title, fontsize=8)
    return figure


def _add_scale(figure: Figure, drawn: AxesImage, axes: np.ndarray) -> None:
    scale = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.9, pad=0.01, aspect=20 * axes.size / len(axes))
    scale.ax.tick_params(labelsize=6)


def _grid(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * columns, height * rows + 0.5), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _without_ticks(axes: np.ndarray) -> None:
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])


def _short(text: str, longest: int = 34) -> str:
    return text if len(text) <= longest else f"...{text[3 - longest :]}"


def save(figure: Figure, folder: Path, name: str) -> Iterator[Path]:
    """Write a figure in all formats and yield the files."""
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path"}):  # TrueType in PDF, outlines in SVG
        for kind in FORMATS:
            path = folder / f"{name}.{kind}"
            write_encoded(path, partial(figure.savefig, format=kind, dpi=DPI))
            yield path
