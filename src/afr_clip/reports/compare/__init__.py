"""The tables of the paper beside what was measured, from the `results.json` of runs alone."""

from afr_clip.reports.compare.write import write_comparison

__all__ = ["write_comparison"]
