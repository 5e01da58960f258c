"""The metrics of a category and their mean over a dataset; without torch, so that reports can import it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

IMAGE_METRICS = ("image_auroc", "image_f1_max", "image_ap")
PIXEL_METRICS = ("pixel_auroc", "pixel_f1_max", "pixel_ap", "pixel_aupro")
METRICS = IMAGE_METRICS + PIXEL_METRICS
"""Every metric, in the order of the paper's tables."""

PUBLISHED_PRO = "pixel_aupro_published"
"""Computed only on request, and never shown next to ``pixel_aupro``: it is a different metric."""

SATURATED_KINDS = ("logical", "structural")
"""Kinds of anomalies whose saturated overlap is measured apart, as MVTec LOCO AD's benchmark does."""

SATURATED_PRO = ("pixel_auspro", *(f"pixel_auspro_{kind}" for kind in SATURATED_KINDS))
"""Computed only where a dataset states how much of each region must be found: the mean of the kinds, then each."""

MEAN = "mean"
"""Stands for the category in the macro average."""


@dataclass(frozen=True)
class CategoryResult:
    """The metrics of one category, NaN where undefined, and how many images were scored.

    All `METRICS` have a value; `PUBLISHED_PRO` does if it was requested, and `SATURATED_PRO` if the dataset allows it.

    Attributes:
        pixel_threshold: The lowest pixel score that ``pixel_f1_max`` counts as anomalous; NaN where it is unknown.
        pixel_f1_given: A threshold that was asked for, and the F1 of the pixels above it.
    """

    category: str
    values: dict[str, float]
    num_normal: int
    num_anomalous: int
    pixel_threshold: float = field(default=math.nan, kw_only=True)
    pixel_f1_given: tuple[float, float] | None = field(default=None, kw_only=True)


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
        ValueError: If there is no result, or if one lacks a metric or has one too many.

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
    names = (*METRICS, *(name for name in (PUBLISHED_PRO, *SATURATED_PRO) if name in results[0].values))
    for result in results:
        if set(result.values) != set(names):
            msg = (
                f"Every category must have exactly the metrics {', '.join(names)}, got {', '.join(result.values)} "
                f"for {result.category}. Write NaN for a metric that is undefined."
            )
            raise ValueError(msg)
    defined = {name: [r.values[name] for r in results if not math.isnan(r.values[name])] for name in names}
    return MacroAverage(
        category=MEAN,
        values={name: math.fsum(column) / len(column) if column else math.nan for name, column in defined.items()},
        num_normal=sum(result.num_normal for result in results),
        num_anomalous=sum(result.num_anomalous for result in results),
        num_defined={name: len(column) for name, column in defined.items()},
    )
