"""The tables of the AFR-CLIP paper as data. What its source leaves unreadable is not there; nothing is guessed."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean

from afr_clip.reports.record.provenance import METHODS

LEVELS = {1: "image", 2: "pixel"}
"""What each table measures."""

TABLE_METRICS = {"auroc": "AUROC", "f1_max": "max-F1"}
"""Metrics of both tables, without their level."""


@dataclass(frozen=True)
class PaperDataset:
    """A dataset of the paper's tables.

    Attributes:
        name: Its name as ``dataset=``.
        title: Its name in the paper.
        domain: The block it stands in.
        num_categories: Categories of its test split.
        num_normal: Normal images of its test split.
        num_anomalous: Anomalous images of its test split.
    """

    name: str
    title: str
    domain: str
    num_categories: int
    num_normal: int
    num_anomalous: int

    @property
    def auxiliary(self) -> str:
        """What the paper trains on before it scores this dataset."""
        return "MVTec AD" if self.title == "VisA" else "VisA"


DATASETS = (
    PaperDataset("visa", "VisA", "industrial", 12, 962, 1200),
    PaperDataset("btad", "BTAD", "industrial", 3, 451, 290),
    PaperDataset("mpdd", "MPDD", "industrial", 6, 176, 282),
    PaperDataset("mvtec_ad", "MVTec AD", "industrial", 15, 467, 1258),
    PaperDataset("head_ct", "Head CT", "medical", 1, 100, 100),
    PaperDataset("brain_mri", "Brain MRI", "medical", 1, 98, 155),
    PaperDataset("br35h", "Br35H", "medical", 1, 1500, 1500),
    PaperDataset("isic", "ISIC", "medical", 1, 0, 379),
    PaperDataset("colon_db", "ColonDB", "medical", 1, 0, 380),
    PaperDataset("clinic_db", "ClinicDB", "medical", 1, 0, 612),
    PaperDataset("tn3k", "TN3K", "medical", 1, 0, 614),
)
"""In the order of the tables, with the sizes of the published test splits."""


def find_dataset(title: str) -> PaperDataset | None:
    """Find a dataset of the paper by its title, or by its name where a run knows no title."""
    return next((dataset for dataset in DATASETS if title in {dataset.title, dataset.name}), None)


@cache
def paper_values() -> dict[tuple[int, str, str, str], float]:
    """Read the paper's numbers.

    Returns:
        Percent by table, setting (in tables 1 and 2 the method), title of the dataset, and metric with its level.
    """
    text = files("afr_clip.reports.compare").joinpath("paper_results.csv").read_text(encoding="utf-8")
    return {
        (int(row["table"]), row["setting"], row["dataset"], f"{row['level']}_{row['metric']}"): float(row["value"])
        for row in csv.DictReader(text.splitlines())
    }


def datasets_of(table: int) -> list[PaperDataset]:
    """Name the datasets of a table in its order."""
    titles = {title for number, _, title, _ in paper_values() if number == table}
    return [dataset for dataset in DATASETS if dataset.title in titles]


def paper_mean(table: int, method: str, titles: Iterable[str], metric: str) -> float | None:
    """Average the paper's own cells over datasets.

    Its printed averages are not used, because they cannot be had over fewer datasets and one of them contradicts its
    own cells.

    Args:
        table: 1 or 2.
        method: As the paper calls it.
        titles: Datasets; one alone gives its cell.
        metric: With its level.

    Returns:
        Percent; ``None`` where a cell is missing.

    Example:
        >>> round(paper_mean(2, "AnomalyCLIP", ["VisA", "BTAD", "MPDD", "MVTec AD"], "pixel_f1_max"), 1)
        37.8
    """
    cells = [paper_values().get((table, method, title, metric)) for title in titles]
    known = [cell for cell in cells if cell is not None]
    return fmean(known) if known and len(known) == len(cells) else None


def best_value(table: int, titles: Sequence[str], metric: str) -> float | None:
    """Return the best of the paper's methods; ``None`` where one of them is unknown and may be it."""
    values = [paper_mean(table, method, titles, metric) for method in METHODS.values()]
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(METHODS) else None
