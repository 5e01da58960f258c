"""Figures 1, 3 and 4 of the paper from the finished cells of a sweep over methods."""

import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from afr_clip.reports.record.results import MEAN_ROW, read_results
from afr_clip.reports.record.run_folder import write_text
from afr_clip.sweep.job import SweepJob

logger = logging.getLogger(__name__)

FULL_METHOD = "afr_clip"
"""The method of figures 1 and 3."""


def draw_figures(jobs: Sequence[SweepJob], out: Path) -> list[str]:
    """Draw what is not there yet, each in a process of its own, and return what went wrong, in a sentence each."""
    faults = []
    for words in _commands(jobs):
        number, *runs, _, dataset = words
        done = out / f"figure{number}_{dataset}.runs"  # of fewer runs than there are now, it is drawn again
        if done.is_file() and done.read_text(encoding="utf-8") == "\n".join(runs):
            continue
        logger.info("Drawing figure %s of %s.", number, dataset)
        command = [sys.executable, "-m", "afr_clip.figure", *words, "--out", str(out)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        if ended.returncode:
            reason = ended.stderr.strip().rsplit("error: ", 1)[-1]
            faults.append(f"Figure {number} of {dataset} could not be drawn: {reason}")
            continue
        write_text(done, "\n".join(runs))
    return faults


def _commands(jobs: Sequence[SweepJob]) -> Iterator[list[str]]:
    """Yield the arguments of ``afr-clip figure`` for what the first seed scored, on each dataset with masks.

    Figures 1 and 3 show the first dataset alone, because figure 1 takes a pass over all its images.
    """
    runs: dict[str, list[str]] = {}
    own: dict[str, str] = {}
    cells = [cell for job in jobs if job.compares_methods for cell in job.cells]
    for cell in cells:
        for name in cell.results if cell.seed == cells[0].seed else ():
            if not (cell.folder / name).is_file():
                continue
            run = str((cell.folder / name).parent)
            _, values = read_results(cell.folder / name)
            pixels = values[(values.row == MEAN_ROW) & (values.metric == "pixel_auroc")].dropna(subset=["value"])
            for dataset in pixels.dataset:
                runs.setdefault(dataset, []).append(run)
                if cell.runs[0].module.name == FULL_METHOD:
                    own.setdefault(dataset, run)
    for dataset, run in list(own.items())[:1]:
        yield from (["1", run, "--dataset", dataset], ["3", run, "--dataset", dataset])
    for dataset, several in runs.items():
        yield ["4", *several, "--dataset", dataset]
