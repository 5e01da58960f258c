"""Settings against each other: paired differences with intervals, corrected p-values, and mean ranks."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray
from numpy.typing import NDArray
from scipy import stats

from afr_clip.files import shown
from afr_clip.reports.compare.values import NO_SEED, Measured
from afr_clip.reports.layout.grid import COLUMNS, Grid, Heading, TableCell, difference_cell, number_cell, text_headings
from afr_clip.reports.record.results import MEAN_ROW, SCORES, read_scores

logger = logging.getLogger(__name__)

LEVEL = 0.95
COMPARED = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_aupro")
"""Metrics that are compared; F1 at the best threshold chooses the threshold on the truth."""

IMAGES = ("target", "target_sha256")
"""What two measured datasets have in common if they show the same images."""

MOST_SETTINGS = 24
"""More settings would give more pairs than anyone reads: they are ranked, but not compared in pairs."""

PAIRS_NOTE = (
    "Differences are paired by seed and category. Their 95 % intervals and p-values are Student's: the variances of "
    "the means over seeds and over categories are added, with Satterthwaite's degrees of freedom. They say how a "
    "difference may vary with other seeds and categories; for a dataset with one category, the interval of the image "
    "AUROC also covers variation over images (DeLong). p is corrected by Holm's method over the datasets and metrics "
    "of a pair, not over pairs. With one seed they say nothing about other seeds."
)
RANKS_NOTE = (
    "Mean rank over the datasets that all of these settings scored; 1 is best. Two settings whose ranks differ by less "
    "than the critical difference (Nemenyi, 5 %) are not told apart."
)


class OfImages(NamedTuple):
    """The variance of a mean difference over images that might have been others, and its degrees of freedom."""

    variance: float
    freedom: int


@dataclass(frozen=True)
class Difference:
    """What two settings differ by.

    Attributes:
        mean: As a fraction.
        low: Lower end of the interval; NaN if there is nothing that the difference varies over.
        p: Two-sided, of no difference; NaN likewise.
        num_seeds: Pairs of seeds; 1 for two methods that draw nothing at random.
    """

    mean: float
    low: float
    high: float
    p: float
    num_seeds: int
    num_categories: int


def difference_of(matrix: NDArray[np.float64], images: OfImages | None = None) -> Difference:
    r"""Compare paired differences with zero, where seeds and categories are both drawn from many.

    .. math:: \operatorname{Var}(\bar d) \approx \frac{MS_{seeds} + MS_{categories}}{S\,C}, \qquad
        \nu = \frac{(MS_{seeds} + MS_{categories})^2}{MS_{seeds}^2 / (S - 1) + MS_{categories}^2 / (C - 1)}

    The variance of a single difference is in both terms, so that intervals are rather too wide than too narrow. An axis
    with a single entry is left out: what one seed or one category varies by is not known.

    Args:
        matrix: One row per seed and one column per category, all of them defined.
        images: How the mean varies with the images; a term like the others, for a single category.

    Example:
        >>> found = difference_of(np.array([[0.10, 0.12, 0.08], [0.11, 0.13, 0.09]]))
        >>> round(found.mean, 3), found.low > 0, found.p < 0.05
        (0.105, True, True)
        >>> difference_of(np.array([[0.1]]))
        Difference(mean=0.1, low=nan, high=nan, p=nan, num_seeds=1, num_categories=1)
    """
    num_seeds, num_categories = matrix.shape
    mean = float(matrix.mean())
    squares = []
    for axis, num, other in ((1, num_seeds, num_categories), (0, num_categories, num_seeds)):
        if num > 1:
            squares.append((other * matrix.mean(axis=axis).var(ddof=1), num - 1))
    if images is not None:
        squares.append((images.variance * matrix.size, images.freedom))
    total = sum(square for square, _ in squares)
    if (
        total <= (1e-9 * max(1.0, abs(mean))) ** 2
    ):  # no variation to judge by, as where scores do not depend on the seed
        return Difference(mean, math.nan, math.nan, math.nan, num_seeds, num_categories)
    freedom = total**2 / sum(square**2 / free for square, free in squares)
    error = math.sqrt(total / matrix.size)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, mean - reach, mean + reach, p, num_seeds, num_categories)


def placements(
    scores: Float[ndarray, " images"], is_anomalous: Bool[ndarray, " images"]
) -> tuple[Float[ndarray, " anomalous"], Float[ndarray, " normal"]]:
    r"""Return, for each image, the share of images of the other kind that it is ranked correctly against.

    A tie counts half. Both means are the image AUROC (DeLong, DeLong and Clarke-Pearson, 1988).

    Example:
        >>> anomalous, normal = placements(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]))
        >>> anomalous.tolist(), normal.tolist()
        ([1.0, 0.75], [0.75, 1.0])
    """
    ranks = stats.rankdata(scores)
    above = ranks[is_anomalous] - stats.rankdata(scores[is_anomalous])
    below = ranks[~is_anomalous] - stats.rankdata(scores[~is_anomalous])
    return above / (~is_anomalous).sum(), 1 - below / is_anomalous.sum()


def variance_over_images(
    own: Sequence[Float[ndarray, " images"]],
    other: Sequence[Float[ndarray, " images"]],
    is_anomalous: Bool[ndarray, " images"],
) -> OfImages | None:
    """Return how the mean difference of image AUROC over pairs of runs varies with the images (DeLong et al., 1988).

    Args:
        own: The image scores of one setting, by pair.
        other: Those of the other setting, of the same images in the same order.

    Returns:
        ``None`` with fewer than two normal or two anomalous images.
    """
    if min(is_anomalous.sum(), (~is_anomalous).sum()) < 2:
        return None
    kinds: tuple[list[Float[ndarray, " of_kind"]], ...] = ([], [])
    for mine, its in zip(own, other, strict=True):
        for found, a, b in zip(kinds, placements(mine, is_anomalous), placements(its, is_anomalous), strict=True):
            found.append(a - b)
    means = [np.mean(found, axis=0) for found in kinds]
    return OfImages(float(sum(mean.var(ddof=1) / len(mean) for mean in means)), len(is_anomalous) - 2)


def read_image_scores(
    folder: Path, dataset: str
) -> tuple[list[str], Bool[ndarray, " images"], Float[ndarray, " images"]]:
    """Read the images of a dataset, their truth and scores, in the order of their names; empty if there are none."""
    try:
        rows = [row for row in read_scores(folder) if row.dataset == dataset and row.is_anomalous is not None]
    except (OSError, ValueError) as error:
        logger.warning("%s is not used, because it cannot be read: %s", shown(folder / SCORES), error)
        rows = []
    rows.sort(key=lambda row: row.image)
    truth = np.array([bool(row.is_anomalous) for row in rows], dtype=bool)
    return [row.image for row in rows], truth, np.array([row.image_score for row in rows], dtype=np.float64)


def holm(values: Sequence[float]) -> list[float]:
    """Correct p-values for being several, by Holm's step-down method; NaN stays and does not count.

    Example:
        >>> holm([0.01, 0.04, float("nan"), 0.03])
        [0.03, 0.06, nan, 0.06]
    """
    corrected, largest = [math.nan] * len(values), 0.0
    defined = sorted((value, place) for place, value in enumerate(values) if not math.isnan(value))
    for rank, (value, place) in enumerate(defined):
        largest = max(largest, min(1.0, value * (len(defined) - rank)))
        corrected[place] = largest
    return corrected


@dataclass(frozen=True)
class Pairwise:
    """All settings of a report against each other."""

    measured: Measured

    header = (
        *("setting", "other", "dataset", "trained_on", "metric"),
        *("difference", "low", "high", "p", "p_holm", "num_seeds", "num_categories"),
    )

    @cached_property
    def records(self) -> pd.DataFrame:
        """One row per pair, dataset and metric, in points; a pair has only what both scored on the same images."""
        labels = {one.name: one.label for one in self.measured.series}
        rows: list[dict[str, Any]] = []
        if len(labels) <= MOST_SETTINGS:
            for one, other in combinations(labels, 2):
                found = list(self._differences(one, other))
                corrected = holm([difference.p for *_, difference in found])
                for (facts, metric, difference), p in zip(found, corrected, strict=True):
                    points = {"difference": difference.mean, "low": difference.low, "high": difference.high}
                    rows.append(
                        {"setting": labels[one], "other": labels[other], "dataset": facts.label}
                        | {"trained_on": facts.label_trained_on, "metric": metric}
                        | {name: 100 * value for name, value in points.items()}
                        | {"p": difference.p, "p_holm": p}
                        | {"num_seeds": difference.num_seeds, "num_categories": difference.num_categories}
                    )
        return pd.DataFrame(rows, columns=list(self.header))

    def _differences(self, one: str, other: str) -> Iterator[tuple[Any, str, Difference]]:
        """Yield each dataset of a pair, with the facts of whichever was trained."""
        for own, its in product(self._by_series[one], self._by_series[other]):
            trainings = {own.auxiliary_sha256, its.auxiliary_sha256} - {
                ""
            }  # an untrained method may be compared with any
            if len(trainings) > 1 or any(getattr(own, key) != getattr(its, key) for key in IMAGES):
                continue
            for metric in COMPARED:
                matrix = _paired(self._by_seed[own.Index, metric], self._by_seed[its.Index, metric])
                if matrix.size:
                    is_single = metric == "image_auroc" and matrix.shape[1] == own.target_categories == 1
                    images = self._over_images(own.Index, its.Index) if is_single else None
                    yield its if own.auxiliary_sha256 == "" else own, metric, difference_of(matrix, images)

    def _over_images(self, own: int, its: int) -> OfImages | None:
        """Return how the image AUROC of a pair varies with the images; ``None`` if a run has not kept their scores."""
        scores = [self._image_scores[number] for number in (own, its)]
        seeds = [list(one) for one in scores]
        pairs = [(one, other) for one, other in product(*seeds) if one == other or [NO_SEED] in seeds]
        read = [[self._read(*scores[side][pair[side]]) for pair in pairs] for side in (0, 1)]
        names, truth, _ = read[0][0]
        if not names or any(one[0] != names or (one[1] != truth).any() for side in read for one in side):
            return None
        mine, other = ([one[2] for one in side] for side in read)
        return variance_over_images(mine, other, truth)

    @cached_property
    def _read(self) -> Callable[[Path, str], tuple[list[str], NDArray[np.bool_], NDArray[np.float64]]]:
        return cache(read_image_scores)  # a run is compared with many others

    @cached_property
    def _image_scores(self) -> Mapping[int, Mapping[int, tuple[Path, str]]]:
        """The run and the name of each measured dataset, by seed."""
        places: dict[int, dict[int, tuple[Path, str]]] = {}
        for row in self.measured.values.drop_duplicates(["dataset", "seed"]).itertuples():
            places.setdefault(int(row.dataset), {})[int(row.seed)] = Path(str(row.run)), str(row.name)
        return places

    @cached_property
    def _by_series(self) -> Mapping[str, list[Any]]:
        """The facts of the measured datasets of each series."""
        datasets = self.measured.datasets
        return {one.name: list(datasets[datasets.series == one.name].itertuples()) for one in self.measured.series}

    @cached_property
    def _by_seed(self) -> Mapping[tuple[int, str], "_Values"]:
        values = self.measured.values
        chosen = values[(values.row != MEAN_ROW) & values.metric.isin(COMPARED)]
        tables = {
            (int(number), str(metric)): rows.pivot(index="seed", columns="row", values="value")
            for (number, metric), rows in chosen.groupby(["dataset", "metric"])
        }
        return {
            place: _Values(table.index.tolist(), table.columns.tolist(), table.to_numpy(np.float64))
            for place, table in tables.items()
        }

    @property
    def note(self) -> str:
        """How to read the pairs, or why there are none."""
        num = len(self.measured.series)
        few = f"{num} settings are too many to compare in pairs; give at most {MOST_SETTINGS}."
        return PAIRS_NOTE if num <= MOST_SETTINGS else few

    def grids(self) -> list[Grid]:
        """Lay out the pairs, one grid for each metric."""
        rows = self.records
        headings = text_headings("Setting", "Against", "Dataset", "Trained on")
        headings += map(Heading, ("Points", "p", "Seeds", "Categories"))
        return [
            Grid(COLUMNS[str(metric)][0], headings, [_cells(record) for record in of_metric.to_dict("records")])
            for metric, of_metric in rows.groupby("metric", sort=False)
        ]

    def ranks(self) -> Grid | None:
        """Lay out mean ranks over the datasets that all settings scored.

        Settings are ranked only if all of them were trained on the same images, or on none: ``None`` if they were not,
        and below three settings or datasets.
        """
        trainings = set(self.measured.datasets.auxiliary_sha256) - {""} if self.measured.series else set()
        if len(self.measured.series) < 3 or len(trainings) > 1:
            return None
        ranked = {metric: ranks for metric in COMPARED if (ranks := self._ranks(metric)) is not None}
        if not ranked:
            return None
        labels = {one.name: one.label for one in self.measured.series}
        body = []
        for name in next(iter(ranked.values())).columns:
            means = [ranks[name].mean() for ranks in ranked.values()]
            body.append([TableCell(labels[str(name)]), *(number_cell(mean, ".2f") for mean in means)])
        tests = [
            (
                critical_difference(len(ranks.columns), len(ranks)),
                float(stats.friedmanchisquare(*ranks.to_numpy().T).pvalue),
            )
            for ranks in ranked.values()
        ]
        foot = [
            [TableCell("critical difference"), *(number_cell(critical, ".2f") for critical, _ in tests)],
            [TableCell("p (Friedman)"), *(TableCell(_shown(p), p) for _, p in tests)],
            [TableCell("datasets"), *(number_cell(len(ranks), "") for ranks in ranked.values())],
        ]
        return Grid("Mean rank", [*text_headings("Setting"), *(Heading(COLUMNS[m][0]) for m in ranked)], body, foot)

    def _ranks(self, metric: str) -> pd.DataFrame | None:
        """Return ranks, one row per dataset and one column per setting."""
        means = self.measured.cells.xs((MEAN_ROW, metric), level=("row", "metric"))["mean"]
        facts = self.measured.datasets.loc[means.index, ["series", *IMAGES]].assign(mean=means)
        once = facts.drop_duplicates(["series", *IMAGES], keep=False)
        table = once.pivot(index=list(IMAGES), columns="series", values="mean")
        complete = table.reindex(columns=[one.name for one in self.measured.series]).dropna()
        if len(complete) < 3 or len(complete.columns) < 3:
            return None
        return complete.rank(axis=1, ascending=False)


def critical_difference(num_settings: int, num_datasets: int) -> float:
    """Return the difference of mean ranks from which two settings differ at 5 % (Nemenyi; Demsar, 2006).

    Example:
        >>> round(critical_difference(4, 14), 2)  # Demsar's example
        1.25
    """
    quantile = float(stats.studentized_range.ppf(LEVEL, num_settings, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(num_settings * (num_settings + 1) / (6 * num_datasets))


class _Values(NamedTuple):
    """One metric of a measured dataset: a row of the matrix for each seed, a column for each category."""

    seeds: list[int]
    categories: list[int]
    matrix: NDArray[np.float64]


def _paired(mine: _Values, its: _Values) -> NDArray[np.float64]:
    """Subtract what shares a seed and a category; what draws nothing at random is paired with every seed."""
    shared = [category for category in mine.categories if category in its.categories]
    own = mine.matrix[:, [mine.categories.index(category) for category in shared]]
    other = its.matrix[:, [its.categories.index(category) for category in shared]]
    if [NO_SEED] not in (mine.seeds, its.seeds):
        seeds = [seed for seed in mine.seeds if seed in its.seeds]
        own = own[[mine.seeds.index(seed) for seed in seeds]]
        other = other[[its.seeds.index(seed) for seed in seeds]]
    difference = own - other
    return difference[:, ~np.isnan(difference).any(axis=0)]


def _cells(record: Mapping[Any, Any]) -> list[TableCell]:
    ends = [None if math.isnan(record[end]) else record[end] for end in ("low", "high")]
    nums = [number_cell(record[name], "") for name in ("num_seeds", "num_categories")]
    words = [TableCell(str(record[name])) for name in ("setting", "other", "dataset", "trained_on")]
    p = record["p_holm"]
    shown = TableCell(_shown(p), None if math.isnan(p) else p, is_strong=p < 1 - LEVEL)
    return [*words, difference_cell(record["difference"], ends), shown, *nums]


def _shown(p: float) -> str:
    return "-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
