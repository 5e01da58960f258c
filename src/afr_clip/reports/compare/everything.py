"""Everything there is to report about folders: tables 1 and 2 of their runs, and the ablations of their sweeps."""

from collections.abc import Sequence
from pathlib import Path

from afr_clip.reports.compare.ablation.separate import separate
from afr_clip.reports.compare.ablation.write import Ablations, collect, paper_alone
from afr_clip.reports.compare.aggregate import aggregate
from afr_clip.reports.compare.write import Comparison


def report_on(folders: Sequence[Path]) -> list[Ablations | Comparison]:
    """Find out what folders hold, and put it together.

    Args:
        folders: Run folders, sweep folders, or folders that hold some; none gives the paper's tables alone.

    Returns:
        The ablations, if there are any, then tables 1 and 2, unless all runs are cells of ablations.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ComparisonError: If a file cannot be read, or runs contradict each other.
    """
    if not folders:
        return [paper_alone(), Comparison([], [])]
    found = separate(folders)
    reports: list[Ablations | Comparison] = []
    if found.sweeps or found.experiments:
        reports.append(collect(found.sweeps, found.experiments))
    if found.runs or not reports:
        reports.append(Comparison(found.runs, aggregate(found.runs)))
    return reports
