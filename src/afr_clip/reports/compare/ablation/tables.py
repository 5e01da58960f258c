"""An ablation as a table: the paper's number, what was measured, and the difference to the reference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from afr_clip.reports.compare.ablation.measure import Ablation, Block, Paired, Row
from afr_clip.reports.compare.ablation.paper import label_of, paper_value, settings_of, target_of_the_paper, title_of
from afr_clip.reports.compare.ablation.record import FAILED, WAITING
from afr_clip.reports.compare.aggregate import Spread
from afr_clip.reports.compare.paper import DATASETS
from afr_clip.reports.compare.paper_tables import ABSENT, marked, show, signed
from afr_clip.reports.compare.settings import say_keys
from afr_clip.reports.layout.grid import COLUMNS, UNDEFINED, Cell, Grid, Heading

SHOWN = {"image_auroc": "Image AUROC", "pixel_auroc": "Pixel AUROC"}
"""The metrics of tables 3 to 6; the others are in the CSV."""

PAPER_BLOCK: Block = (target_of_the_paper().title, target_of_the_paper().auxiliary)
"""What tables 3 to 6 of the paper are about."""

REFERENCE = "reference"
NOT_RUN = "not run"

CSV_HEADER = (
    "experiment",
    "setting",
    "label",
    "dataset",
    "trained_on",
    "metric",
    "paper",
    "is_comparable",
    "measured",
    "deviation",
    "num_seeds",
    "reference",
    "difference",
    "low",
    "high",
    "resampled",
    "num_paired_seeds",
    "num_paired_categories",
    "num_pairs_left_out",
    "difference_to_paper",
    "state",
    "backbone",
    "random_weights",
    "differs_in",
)


@dataclass(frozen=True)
class AblationTable:
    """One of tables 3 to 6, the readings, or an experiment of one's own.

    Attributes:
        ablation: What was measured; without rows the paper's numbers alone.
    """

    ablation: Ablation

    @property
    def name(self) -> str:
        """The experiment's, which is that of its files."""
        return self.ablation.experiment.name

    @property
    def title(self) -> str:
        """What it shows."""
        return title_of(self.name)

    @property
    def blocks(self) -> list[Block]:
        """What was scored and trained on, the paper's first; without measurements the paper's alone."""
        titles = [dataset.title for dataset in DATASETS]
        return sorted(
            self.ablation.blocks or [PAPER_BLOCK],
            key=lambda b: (b != PAPER_BLOCK, titles.index(b[0]) if b[0] in titles else len(titles), b),
        )

    def heading(self, block: Block) -> str:
        """Name a block, with the method and its backbone where something was measured."""
        labels = dict.fromkeys(
            row.setting.short_label for row in self.ablation.rows if block in row.datasets and row.setting is not None
        )
        said = f": {'; '.join(labels)}" if labels else ""
        return f"{block[0]}, trained on {block[1]}{said}"

    def spread(self, row: Row, block: Block, metric: str) -> tuple[Spread | None, str]:
        """Return what was measured.

        Args:
            row: Which setting.
            block: What was scored and trained on.
            metric: Its name.

        Returns:
            The number, and what to say: ``"measured"``, ``"partly"`` where it does not stand on published test splits,
            ``"undefined"``, ``"failed"``, ``"waiting"`` or ``"not run"`` where no cell has run, ``"absent"`` where the
            dataset has no number.
        """
        dataset = row.datasets.get(block)
        if dataset is None:
            states = {cell.state for cell in row.cells} or {NOT_RUN}
            return None, next((state for state in (FAILED, WAITING, NOT_RUN) if states == {state}), ABSENT)
        spread = dataset.spread(metric)
        if spread is None:
            return None, "undefined"
        return spread, "partly" if spread.is_partial else "measured"

    def is_comparable(self, row: Row, block: Block) -> bool:
        """Whether the paper measured the same: its target, its auxiliary dataset, and weights that were trained."""
        return block == PAPER_BLOCK and not row.is_random

    def difference_to_paper(self, row: Row, block: Block, metric: str) -> float | None:
        """Return measured minus paper in points; ``None`` where both do not stand for the same."""
        spread, _ = self.spread(row, block, metric)
        paper = paper_value(row.name, metric)
        if spread is None or paper is None or not self.is_comparable(row, block):
            return None
        return 100 * spread.mean - paper

    def grids(self, *, with_keys: bool = True) -> list[Grid]:
        """Lay the table out.

        Args:
            with_keys: Whether the keys in which a setting differs have a column; print has no room for them.

        Returns:
            One grid per dataset, all with the same columns.
        """
        if not self.ablation.rows:
            words = [Heading("Setting", is_text=True)]
            columns = [Heading(label, "The paper's number", "Paper") for label in SHOWN.values()]
            rows = [[Cell(label_of(n)), *(_paper_cell(n, m, True) for m in SHOWN)] for n in settings_of(self.name)]
            return [Grid(self.heading(self.blocks[0]), [*words, *columns], rows)]
        headings = [Heading("Setting", is_text=True), *(h for metric in SHOWN for h in self._headings(metric))]
        headings += [Heading("Differs in", "Config keys, from the reference", is_text=True)] if with_keys else []
        return [
            Grid(self.heading(block), headings, [self._cells(row, block, with_keys) for row in self.ablation.rows])
            for block in self.blocks
        ]

    def _headings(self, metric: str) -> Iterator[Heading]:
        group = SHOWN[metric]
        if self._has_paper:
            yield Heading("paper", "The paper's number; in brackets where it does not stand for the same", group)
        yield Heading("measured", "Mean and standard deviation where there are several seeds", group)
        delta = "\N{GREEK CAPITAL LETTER DELTA}"
        yield Heading(
            f"{delta} {REFERENCE}", "Minus the reference, paired by seed and category, with its 95 % interval", group
        )
        if self._has_comparable:
            yield Heading(f"{delta} paper", "Measured minus paper, in points", group)

    @property
    def _has_paper(self) -> bool:
        return any(paper_value(row.name, metric) is not None for row in self.ablation.rows for metric in SHOWN)

    @property
    def _has_comparable(self) -> bool:
        places = [(row, block, metric) for row in self.ablation.rows for block in self.blocks for metric in SHOWN]
        return any(self.difference_to_paper(*place) is not None for place in places)

    def _cells(self, row: Row, block: Block, with_keys: bool) -> list[Cell]:
        cells = [Cell(row.label)]
        for metric in SHOWN:
            spread, state = self.spread(row, block, metric)
            if self._has_paper:
                cells.append(_paper_cell(row.name, metric, self.is_comparable(row, block)))
            cells.append(marked(show(spread, UNDEFINED if state == "undefined" else state), spread))
            cells.append(Cell(REFERENCE) if row is self.ablation.reference else self._paired_cell(row, block, metric))
            if self._has_comparable:
                points = self.difference_to_paper(row, block, metric)
                cells.append(Cell("") if points is None else marked(Cell(signed(points), points), spread))
        return [*cells, Cell(self.differs_in(row))] if with_keys else cells

    def _paired_cell(self, row: Row, block: Block, metric: str) -> Cell:
        paired = self.ablation.paired(row, block, metric)
        if paired is None:
            return Cell("")
        cell = Cell(show_paired(paired), 100 * paired.mean)
        return marked(cell, self.spread(row, block, metric)[0])

    def differs_in(self, row: Row, most: int = 6) -> str:
        """Say in which config keys a setting differs from the reference, as its runs recorded them."""
        if row.setting is None or row is self.ablation.reference:
            return ""
        reference = self.ablation.reference
        if reference is None or reference.setting is None:
            return "unknown, no reference"
        differing = self.ablation.differing(row)
        return say_keys({key: own for key, (own, _) in differing.items()}, list(differing), most) or "nothing"

    def records(self) -> Iterator[tuple[object, ...]]:
        """Return the table with all digits in percent, one number a row, as `CSV_HEADER` names them."""
        if not self.ablation.rows:
            for name in settings_of(self.name):
                for metric in SHOWN:
                    known = (self.name, name, label_of(name), *self.blocks[0], metric, paper_value(name, metric))
                    yield (*known, *[None] * (len(CSV_HEADER) - len(known)))
        for block in self.blocks:
            for row in self.ablation.rows:
                for metric in COLUMNS:
                    yield self._record(row, block, metric)

    def _record(self, row: Row, block: Block, metric: str) -> tuple[object, ...]:
        spread, state = self.spread(row, block, metric)
        measured = (None, None, None) if spread is None else (
            100 * spread.mean, None if spread.deviation is None else 100 * spread.deviation, spread.num,
        )  # fmt: skip
        backbone = (None, None) if row.setting is None else (row.setting.backbone["name"], int(row.is_random))
        return (
            self.name, row.name, row.label, *block, metric, paper_value(row.name, metric),
            int(self.is_comparable(row, block)), *measured, self.ablation.experiment.reference,
            *_paired_record(self.ablation.paired(row, block, metric)), self.difference_to_paper(row, block, metric),
            state, *backbone, self.differs_in(row, most=1000),
        )  # fmt: skip


def show_paired(paired: Paired) -> str:
    """Show a paired difference in points with its interval."""
    interval = paired.interval
    ends = "" if interval is None else f" [{signed(100 * interval.low)}, {signed(100 * interval.high)}]"
    return f"{signed(100 * paired.mean)}{ends}"


def _paper_cell(setting: str, metric: str, is_comparable: bool) -> Cell:
    value = paper_value(setting, metric)
    if value is None:
        return Cell("")
    return Cell(f"{value:.1f}" if is_comparable else f"({value:.1f})", value)


def _paired_record(paired: Paired | None) -> Sequence[object]:
    if paired is None:
        return [None] * 7
    interval = paired.interval
    ends = (None, None, "") if interval is None else (
        100 * interval.low, 100 * interval.high, " and ".join(interval.over)
    )  # fmt: skip
    return [100 * paired.mean, *ends, len(paired.seeds), len(paired.categories), paired.num_left_out]
