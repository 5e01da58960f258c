"""What `results.json` holds, as it was written by a run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TableRow:
    """One category, or the mean over all.

    Attributes:
        category: Its name.
        num_normal: Normal images scored.
        num_anomalous: Anomalous images scored.
        values: Fractions by metric; ``None`` where undefined.
    """

    category: str
    num_normal: int
    num_anomalous: int
    values: dict[str, float | None] = field(default_factory=dict)


def read_tables(results: Iterable[Mapping[str, Any]]) -> dict[str, list[TableRow]]:
    """Turn the rows of ``results.json``, one per value, into one row per category.

    Args:
        results: In the order they were written.

    Returns:
        The rows by dataset; the last of each is the mean, whatever the categories are called.
    """
    tables: dict[str, list[TableRow]] = {}
    for result in results:
        rows = tables.setdefault(result["dataset"], [])
        # A metric that comes again begins the next row, for a category may be called "mean" too.
        if not rows or rows[-1].category != result["category"] or result["metric"] in rows[-1].values:
            rows.append(TableRow(result["category"], result["num_normal"], result["num_anomalous"]))
        rows[-1].values[result["metric"]] = result["value"]
    return tables
