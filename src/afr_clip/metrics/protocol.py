"""The cross-dataset protocol: metrics per category of a target dataset, then the mean over categories."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor, nn

from afr_clip.metrics.image import ImageScores, check_index, image_metrics
from afr_clip.metrics.pixel import PixelMetrics

IMAGE_METRICS = ("image_auroc", "image_f1_max", "image_ap")
PIXEL_METRICS = ("pixel_auroc", "pixel_f1_max", "pixel_ap", "pixel_aupro")
METRICS = IMAGE_METRICS + PIXEL_METRICS
"""Every metric, in the order of the paper's tables."""

MEAN = "mean"
"""Stands for the category in the macro average."""


@dataclass(frozen=True)
class CategoryResult:
    """The metrics of one category, by the names in `METRICS` and NaN where undefined; how many images were scored."""

    category: str
    values: dict[str, float]
    num_normal: int
    num_anomalous: int


@dataclass(frozen=True)
class MacroAverage(CategoryResult):
    """The mean over categories; its own category is called ``"mean"``.

    Attributes:
        num_defined: In how many categories each metric was defined, and so entered its mean.
    """

    num_defined: dict[str, int]


def macro_average(results: Sequence[CategoryResult]) -> MacroAverage:
    """Average over categories; each counts once, however many images it has.

    Undefined values are left out, not counted as zero. A metric that no category defines is NaN. The numbers of images
    are summed.

    Raises:
        ValueError: If there is no result, or one lacks a metric or has one that is not in `METRICS`.

    Example:
        >>> cable = CategoryResult("cable", dict.fromkeys(METRICS, 0.5), num_normal=1, num_anomalous=2)
        >>> grid = CategoryResult("grid", dict.fromkeys(METRICS, 1.0), num_normal=3, num_anomalous=4)
        >>> mean = macro_average([cable, grid])
        >>> mean.values["pixel_aupro"], mean.num_defined["pixel_aupro"], mean.num_anomalous
        (0.75, 2, 6)
    """
    if not results:
        msg = "A macro average must have at least one category, got none. Check that the dataset was evaluated."
        raise ValueError(msg)
    for result in results:
        if set(result.values) != set(METRICS):
            msg = (
                f"Every category must have exactly the metrics {', '.join(METRICS)}, got {', '.join(result.values)} "
                f"for {result.category}. Write NaN for a metric that is undefined."
            )
            raise ValueError(msg)
    defined = {name: [r.values[name] for r in results if not math.isnan(r.values[name])] for name in METRICS}
    return MacroAverage(
        category=MEAN,
        values={name: math.fsum(column) / len(column) if column else math.nan for name, column in defined.items()},
        num_normal=sum(result.num_normal for result in results),
        num_anomalous=sum(result.num_anomalous for result in results),
        num_defined={name: len(column) for name, column in defined.items()},
    )


class DatasetMetrics(nn.Module):
    """All metrics of a target dataset, per category, in constant memory.

    One `ImageScores` and one `PixelMetrics` per category, by its number, so that any name will do.

    Args:
        categories: The category of every image of the dataset.
        is_anomalous: Image-level truth of every image.

    Raises:
        ValueError: If there is no image, or if the two differ in length.

    Example:
        >>> metrics = DatasetMetrics(categories=["grid", "grid"], is_anomalous=[False, True])
        >>> maps = torch.tensor([[[0.1, 0.2]], [[0.3, 0.9]]])
        >>> mask = torch.tensor([[[False, False]], [[False, True]]])
        >>> has_mask = torch.tensor([True, True])
        >>> metrics.update(maps, maps.amax(dim=(1, 2)), mask, has_mask, index=torch.tensor([0, 1]))
        >>> grid, = metrics.compute()
        >>> grid.category, grid.values["image_auroc"], grid.values["pixel_aupro"]
        ('grid', 1.0, 1.0)
    """

    def __init__(self, categories: Sequence[str], is_anomalous: Sequence[bool]) -> None:
        super().__init__()
        if not categories or len(categories) != len(is_anomalous):
            msg = (
                "categories and is_anomalous must have one entry per image and at least one image, "
                f"got {len(categories)} and {len(is_anomalous)}. Take both from the same list of samples."
            )
            raise ValueError(msg)
        self.categories = tuple(dict.fromkeys(categories))
        members: dict[str, list[int]] = {category: [] for category in self.categories}
        self._place = torch.empty(len(categories), dtype=torch.int64)  # position of each image within its category
        for position, category in enumerate(categories):
            self._place[position] = len(members[category])
            members[category].append(position)
        self._members = [torch.tensor(positions) for positions in members.values()]
        self._number = torch.tensor([self.categories.index(category) for category in categories])
        self._is_anomalous = torch.tensor([bool(truth) for truth in is_anomalous])
        self.image = nn.ModuleList(ImageScores(len(positions)) for positions in self._members)
        self.pixel = nn.ModuleList(PixelMetrics() for _ in self._members)

    def update(
        self,
        anomaly_map: Float32[Tensor, "batch height width"],
        image_score: Float[Tensor, " batch"],
        mask: Bool[Tensor, "batch height width"],
        has_mask: Bool[Tensor, " batch"],
        index: Int[Tensor, " batch"],
    ) -> None:
        """Count one batch; its images may come from several categories.

        Without pixel truth (``has_mask``) an image enters only the image-level metrics. ``index`` is the position of
        each image in the lists given at construction.

        Raises:
            ValueError: If a score is NaN or lies outside [0, 1], or if an index is out of range.
        """
        position = index.cpu().long()
        check_index(position, len(self._place))
        number = self._number[position]
        for category in number.unique().tolist():
            chosen = (number == category).nonzero().flatten()
            rows = chosen.to(anomaly_map.device)
            masked = rows[has_mask[rows]]
            image, pixel = self._metrics()[category]
            image.update(image_score[rows], self._place[position[chosen]])
            pixel.update(anomaly_map[masked], mask[masked])

    def compute(self) -> tuple[CategoryResult, ...]:
        """Evaluate the categories in order of first appearance; under distributed evaluation, on every process.

        Pixel-level values are NaN without masks.

        Raises:
            ValueError: If an image was never scored, or more than once.
        """
        scores, results = self.image_scores(), []
        for category, members, (_, pixel) in zip(self.categories, self._members, self._metrics(), strict=True):
            is_anomalous = self._is_anomalous[members]
            computed = {**image_metrics(scores[members], is_anomalous), **pixel.compute()}
            num_anomalous = int(is_anomalous.sum())
            values = {name: computed[name].item() for name in METRICS}
            results.append(CategoryResult(category, values, len(is_anomalous) - num_anomalous, num_anomalous))
        return tuple(results)

    def image_scores(self) -> Float64[Tensor, " images"]:
        """Gather the image scores in the order given at construction; under distributed evaluation, on every process.

        Raises:
            ValueError: If an image was never scored, or more than once.
        """
        scores = torch.empty(len(self._place), dtype=torch.float64)
        for members, (image, _) in zip(self._members, self._metrics(), strict=True):
            scores[members] = image.compute().cpu()  # 0-dim for a single image, which fits too
        return scores

    def reset(self) -> None:
        """Forget all images."""
        for image, pixel in self._metrics():
            image.reset()
            pixel.reset()

    def _metrics(self) -> list[tuple[ImageScores, PixelMetrics]]:
        """The two metrics of each category, with the types that a module list does not keep."""
        return cast("list[tuple[ImageScores, PixelMetrics]]", list(zip(self.image, self.pixel, strict=True)))
