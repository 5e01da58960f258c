"""The tables of the AFR-CLIP paper as data. What its source leaves unreadable is not there; nothing is guessed."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from statistics import fmean

from afr_clip.files import clean_name


@dataclass(frozen=True)
class PaperDataset:
    """A dataset of the paper with the size of its published test split.

    Attributes:
        name: Its name as ``dataset=``.
        domain: The block of tables 1 and 2 it stands in.
    """

    name: str
    title: str
    domain: str
    num_categories: int
    num_normal: int
    num_anomalous: int

    @property
    def auxiliary(self) -> str:
        """The dataset that the paper trains on before it scores this one."""
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
"""In the order of the tables."""

ABLATED = ("MVTec AD", "VisA")
"""The dataset that tables 3 to 6 score, and the one they train on."""


@dataclass(frozen=True)
class TableSpec:
    """One table: which rows and columns it has, and where the paper's numbers for it are.

    Attributes:
        name: An ablation's is that of its experiment.
        metrics: Heading of each metric shown; the CSV of an ablation has all.
        number: The table in ``paper_results.csv`` with its numbers; 0 where the paper has none.
        settings: By the name that runs have for a setting: its label, and its name in ``paper_results.csv``. In the
            paper's order; none for a table over datasets.
        reference: The setting that the others are compared with; empty for a table over datasets.
    """

    name: str
    title: str
    metrics: Mapping[str, str]
    number: int = 0
    settings: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    reference: str = ""

    @property
    def stem(self) -> str:
        """Begins the names of its files and is its anchor and label; an experiment may be called anything."""
        is_papers = any(self is spec for spec in TABLES)
        return self.name if is_papers else clean_name(self.name, _TAKEN)

    @property
    def caption(self) -> str:
        """What stands below it in print, where something else numbers it."""
        what = self.title.rsplit(": ", maxsplit=1)[-1]
        if self.reference:
            return f"{what.capitalize()}, in percent."
        return f"Zero-shot results at {what} in percent, as the paper gives them and as measured."


_AUROC = {"image_auroc": "Image AUROC", "pixel_auroc": "Pixel AUROC"}
FULL = "full"
"""The choice ``ablation=full``, which is the default: the complete model."""

TABLES = (
    TableSpec("table1", "Table 1: image level", {"image_auroc": "AUROC", "image_f1_max": "max-F1"}, 1),
    TableSpec("table2", "Table 2: pixel level", {"pixel_auroc": "AUROC", "pixel_f1_max": "max-F1"}, 2),
    TableSpec(
        "table3",
        "Table 3: components",
        _AUROC,
        3,
        {
            "table3_baseline": ("none", "baseline"),
            "table3_sp_mpfa": ("SP + MPFA", "sp+mpfa"),
            "table3_cmfr": ("CMFR", "cmfr"),
            "table3_cmfr_sp": ("CMFR + SP", "cmfr+sp"),
            "table3_cmfr_mpfa": ("CMFR + MPFA", "cmfr+mpfa"),
            "table3_full": ("CMFR + SP + MPFA", "cmfr+sp+mpfa"),
        },
        "table3_full",
    ),
    TableSpec(
        "table4",
        "Table 4: stages with self prompting",
        _AUROC,
        4,
        {
            "table4_stages_1": ("stage 1", "stages 1"),
            "table4_stages_1_2": ("stages 1-2", "stages 1-2"),
            "table4_stages_1_3": ("stages 1-3", "stages 1-3"),
            "table4_stages_1_4": ("stages 1-4", "stages 1-4"),
        },
        "table4_stages_1",
    ),
    TableSpec(
        "table5",
        "Table 5: parts of the prompt",
        _AUROC,
        5,
        {
            "table5_none": ("no prompt", "no prompt"),
            "table5_image": ("P_v, of the image", "P_v"),
            "table5_shared": ("P_l, shared", "P_l"),
            "table5_both": ("P_v + P_l", "P_v+P_l"),
        },
        "table5_both",
    ),
    TableSpec(
        "table6",
        "Table 6: window of the aggregation",
        _AUROC,
        6,
        {"table6_1": ("m = 1", "m=1"), "table6_3": ("m = 3", "m=3"), "table6_5": ("m = 5", "m=5")},
        "table6_3",
    ),
    TableSpec("readings", "Readings of what the paper leaves open", _AUROC, reference=FULL),
)
"""Every table of the paper, and the readings. A new table is a new entry and its rows of ``paper_results.csv``."""

_TAKEN = {"ablations", "categories", "report", "search", *(spec.name for spec in TABLES)}
"""Names that other files of a report have."""

OVER_DATASETS = [spec for spec in TABLES if not spec.reference]
ABLATIONS = {spec.name: spec for spec in TABLES if spec.reference}
_SETTINGS = {name: (spec.number, *known) for spec in ABLATIONS.values() for name, known in spec.settings.items()}
_SETTINGS[FULL] = (3, "as read", "cmfr+sp+mpfa")  # the reference of the readings is the full model of table 3
_READING = "reading_"
_ACRONYMS = {"cmfr", "sp", "mpfa", "cnn", "gelu"}


def spec_of(experiment: str, reference: str) -> TableSpec:
    """Return the table of an experiment; one that is not in the paper keeps the experiment's name."""
    return ABLATIONS.get(experiment) or TableSpec(experiment, experiment, _AUROC, reference=reference)


def label_of(setting: str) -> str:
    """Return the label of an ablation's setting.

    Example:
        >>> label_of("table3_cmfr_sp"), label_of("no_cmfr+reading_raw_text")
        ('CMFR + SP', 'no CMFR, raw text')
    """
    if setting in _SETTINGS:
        return _SETTINGS[setting][1]
    files = (name.removeprefix(_READING).split("_") for name in setting.split("+"))
    return ", ".join(" ".join(word.upper() if word in _ACRONYMS else word for word in words) for words in files)


def in_order(settings: Iterable[str], reference: str) -> list[str]:
    """Sort an ablation's settings: the paper's in its order, then the others by name, the reference first."""
    known = list(_SETTINGS)
    return sorted(
        set(settings), key=lambda name: (known.index(name) if name in known else len(known), name != reference, name)
    )


def experiment_of(ablation: str) -> str | None:
    """Name the experiment to which a run with ``ablation=NAME`` belongs.

    Returns:
        ``table3`` to ``table6`` or ``readings``; ``None`` for any other choice. The full model belongs to none, because
        every run without a choice is one.
    """
    if ablation.startswith(_READING):
        return "readings"
    return next((name for name, spec in ABLATIONS.items() if ablation in spec.settings), None)


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
    """Return the datasets of a table in its order."""
    titles = {title for number, _, title, _ in paper_values() if number == table}
    return [dataset for dataset in DATASETS if dataset.title in titles]


def paper_mean(table: int, setting: str, titles: Iterable[str], metric: str) -> float | None:
    """Average the paper's own cells over datasets.

    Its printed averages are not used, because they cannot be had over fewer datasets and one of them contradicts its
    own cells.

    Args:
        setting: As ``paper_results.csv`` calls it; in tables 1 and 2 the method.
        titles: Datasets; one alone gives its cell.

    Returns:
        Percent; ``None`` if a cell is missing.

    Example:
        >>> round(paper_mean(2, "AnomalyCLIP", ["VisA", "BTAD", "MPDD", "MVTec AD"], "pixel_f1_max"), 1)
        37.8
    """
    cells = [paper_values().get((table, setting, title, metric)) for title in titles]
    known = [cell for cell in cells if cell is not None]
    return fmean(known) if known and len(known) == len(cells) else None


def paper_ablation(setting: str, metric: str) -> float | None:
    """Return the paper's number for an ablation's setting, from any table, for `ABLATED`.

    Example:
        >>> paper_ablation("table3_cmfr", "image_auroc"), paper_ablation("reading_append", "image_auroc")
        (92.1, None)
    """
    number, _, name = _SETTINGS.get(setting, (0, "", ""))
    return paper_mean(number, name, ABLATED[:1], metric)
