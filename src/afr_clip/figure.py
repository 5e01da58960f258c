"""Draw figure 1, 3 or 4 of the paper from runs: similarities, aggregated features, or anomaly maps."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from afr_clip.cli.command import CommandLine, run_command

if TYPE_CHECKING:
    from afr_clip.run.figures import Scored

RULES = ("seeded", "best", "median", "worst")


def read_arguments(typed: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of this process, or ``typed``."""
    parser = CommandLine(
        prog="afr-clip figure",
        description=__doc__,
        epilog="1: how far apart normal and abnormal similarity are, without and with rectification. "
        "3: features before and after MPFA. 4: photographs, truth and the map of each run.",
        allow_abbrev=False,
    )
    parser.add_argument("number", type=int, choices=(1, 3, 4), help="which figure of the paper")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a train or evaluate run")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/figures"), metavar="DIR", help="(default: %(default)s)"
    )
    parser.add_argument("--dataset", metavar="NAME", help="which to draw, if a run scored several")
    parser.add_argument("--data-dir", metavar="DIR", help="folder that holds the datasets, if they have moved")
    parser.add_argument("--rows", type=int, default=6, metavar="N", help="images of figures 3 and 4 (default: 6)")
    parser.add_argument(
        "--rule", choices=RULES, default="seeded",
        help="which anomalous images: drawn from the categories in turn, or by the average precision of their pixels "
        "under the first run (default: seeded)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --rule seeded (default: 0)")
    parser.add_argument(
        "--own-scales", action="store_true", help="figure 4: colours of each run from its own lowest to highest value"
    )
    return parser.parse_args(typed)


def load_runs(arguments: argparse.Namespace) -> "list[Scored]":
    """Load the network of each run, under the name of its folder, or its path if several folders have that name.

    Raises:
        FigureError: If a folder is named twice, or a figure of one run gets several.
    """
    from afr_clip.config.plan import composed_diagnosis  # noqa: PLC0415 - these need torch, --help does not
    from afr_clip.run.diagnose import read_finished  # noqa: PLC0415
    from afr_clip.run.figures import FigureError, load_run  # noqa: PLC0415

    folders = [folder.resolve() for folder in arguments.runs]
    if len(set(folders)) < len(folders):
        msg = "RUN must name different folders, but one is named twice. Leave it out."
        raise FigureError(msg)
    if arguments.number != 4 and len(folders) > 1:
        msg = f"Figure {arguments.number} shows one run, got {len(folders)}. Draw each with a command of its own."
        raise FigureError(msg)
    names = [folder.name for folder in folders]
    labels = names if len(set(names)) == len(names) else [str(folder) for folder in arguments.runs]
    overrides = [f"dataset={arguments.dataset}"] if arguments.dataset else []
    overrides += [f"data_dir={arguments.data_dir}"] if arguments.data_dir else []
    jobs = [composed_diagnosis(folder, read_finished(folder), *overrides) for folder in arguments.runs]
    return [load_run(job, label) for job, label in zip(jobs, labels, strict=True)]


def main() -> None:
    """Measure, draw, and print the files."""
    arguments = read_arguments()
    # These need torch, --help does not.
    from afr_clip.reports.pictures import paper_figures as drawing  # noqa: PLC0415
    from afr_clip.reports.record.run_folder import write_text  # noqa: PLC0415
    from afr_clip.run import figures as measuring  # noqa: PLC0415

    number, rule = arguments.number, measuring.Rule(arguments.rule)
    if arguments.rows < 1:
        msg = f"--rows must be at least 1, got {arguments.rows}. Try 6."
        raise measuring.FigureError(msg)
    runs = load_runs(arguments)
    first, name = runs[0], runs[0].target.spec.name
    how = f"seed {arguments.seed}" if rule is measuring.Rule.seeded else f"{rule.value} by pixel AP under {first.label}"
    samples = [] if number == 1 else measuring.choose_samples(first, arguments.rows, rule, arguments.seed)
    facts = measuring.describe_figure(runs, samples, "all images" if number == 1 else how)
    if number == 1:
        measured = measuring.compare_similarity(first)
        facts["overlap"] = [
            {"category": one.category, "comparison": one.comparison, **one.overlaps()} for one in measured
        ]
        figure = drawing.draw_similarity(measured, f"{name}, {first.label}: similarity of patches and text")
    elif number == 3:
        rows = measuring.aggregate_features(first, samples)
        figure = drawing.draw_aggregation(rows, f"{name}, {first.label}: first three principal components ({how})")
    else:
        maps = measuring.draw_maps(runs, samples)
        scale = "each run's own colours" if arguments.own_scales else "one colour scale"
        figure = drawing.draw_map_grid(maps, f"{name} ({how}; {scale})", own_scales=arguments.own_scales)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in drawing.save(figure, arguments.out, f"figure{number}_{name}"):
        sys.stdout.write(f"figure: {path}\n")
    write_text(arguments.out / f"figure{number}_{name}.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_command(main)
