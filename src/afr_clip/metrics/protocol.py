"""The metrics of a target dataset, per category, in constant memory."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor, nn

from afr_clip.metrics.average import CategoryResult
from afr_clip.metrics.image import ImageScores, check_index, image_metrics
from afr_clip.metrics.pixel import AnnotatedRegions, PixelMetrics


class DatasetMetrics(nn.Module):
    """All metrics of a target dataset, per category, in constant memory.

    One `ImageScores` and one `PixelMetrics` per category, by its number, so that any name will do.

    Args:
        categories: The category of every image of the dataset.
        published_pro: Whether to compute `PUBLISHED_PRO` as well.
        pixel_threshold: Where to compute a pixel F1 as well.
        annotated: Returns the regions of an anomalous image, given its position, at the size of the maps; with it,
            `SATURATED_PRO` is computed as well.

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

    def __init__(
        self,
        categories: Sequence[str],
        is_anomalous: Sequence[bool],
        *,
        published_pro: bool = False,
        pixel_threshold: float | None = None,
        annotated: Callable[[int], AnnotatedRegions] | None = None,
    ) -> None:
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
        self.pixel = nn.ModuleList(
            PixelMetrics(published_pro=published_pro, threshold=pixel_threshold, saturated=annotated is not None)
            for _ in self._members
        )
        self._annotated = annotated

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
            pixel.update(anomaly_map[masked], mask[masked], self._regions(position[masked.cpu()].tolist()))

    def _regions(self, positions: Sequence[int]) -> list[AnnotatedRegions | None]:
        read = self._annotated
        return [] if read is None else [read(one) if self._is_anomalous[one] else None for one in positions]

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
            values = {name: value.item() for name, value in computed.items()}
            num_normal = len(is_anomalous) - num_anomalous
            given = None if pixel.threshold is None else (pixel.threshold, pixel.f1_given)
            counts = (num_normal, num_anomalous)
            results.append(
                CategoryResult(category, values, *counts, pixel_threshold=pixel.f1_threshold, pixel_f1_given=given)
            )
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

    def tied(self) -> list[str]:
        """Name the categories whose images, normal and anomalous ones, all have the same score.

        Their AUROC of 0.5 and their AP are those of a tie, not of a ranking. Under distributed evaluation, every
        process must call this.
        """
        scores = self.image_scores()
        return [
            category
            for category, members in zip(self.categories, self._members, strict=True)
            if len(self._is_anomalous[members].unique()) > 1 and len(scores[members].unique()) == 1
        ]

    def reset(self) -> None:
        """Forget all images."""
        for image, pixel in self._metrics():
            image.reset()
            pixel.reset()

    def _metrics(self) -> list[tuple[ImageScores, PixelMetrics]]:
        """The two metrics of each category, with the types that a module list does not keep."""
        return cast("list[tuple[ImageScores, PixelMetrics]]", list(zip(self.image, self.pixel, strict=True)))
