"""Draw figure 1, 3 or 4 of the paper from runs: similarities, aggregated features, or anomaly maps."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from afr_clip.cli.command import CommandLine, CommandLineError, run_command
from afr_clip.files import clean_name
from afr_clip.settings import ImageRule

if TYPE_CHECKING:
    from afr_clip.run.figures import Scored


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
    parser.add_argument("--rows", type=int, metavar="N", help="images of figures 3 and 4 (default: 6)")
    parser.add_argument(
        "--rule", choices=[rule.value for rule in ImageRule],
        help="which anomalous images: drawn from the categories in turn, or by the average precision of their pixels "
        "under the first run (default: seeded)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", help="of --rule seeded (default: 0)")
    parser.add_argument(
        "--own-scales", action="store_true", help="figure 4: colours of each run from its own lowest to highest value"
    )
    return parser.parse_args(typed)


def refuse_what_has_no_effect(arguments: argparse.Namespace) -> None:
    """Raise a `CommandLineError` for options that do not fit the figure, or each other."""
    number, folders = arguments.number, [folder.resolve() for folder in arguments.runs]
    if len(set(folders)) < len(folders):
        msg = "RUN must name different folders, but one is named twice. Leave it out."
        raise CommandLineError(msg)
    if number != 4 and len(folders) > 1:
        msg = f"Figure {number} shows one run, got {len(folders)}. Draw each with a command of its own."
        raise CommandLineError(msg)
    useless = [f"--{name}" for name in ("rows", "rule", "seed") if number == 1 and getattr(arguments, name) is not None]
    useless += ["--own-scales"] if arguments.own_scales and number != 4 else []
    useless += ["--seed"] if arguments.seed is not None and arguments.rule not in (None, "seeded") else []
    if useless:
        msg = f"{useless[0]} has no effect on this figure. Leave it out."
        raise CommandLineError(msg)
    if arguments.rows is not None and arguments.rows < 1:
        msg = f"--rows must be at least 1, got {arguments.rows}. Try 6."
        raise CommandLineError(msg)


def load_runs(arguments: argparse.Namespace) -> "Iterator[Scored]":
    """Load the network of one run after another.

    Several runs have the names of their methods if these differ; others of their folders, or of the paths to them.
    """
    from afr_clip.config.axes import quoted  # noqa: PLC0415 - these need Hydra or torch, --help does not
    from afr_clip.config.plan import composed_diagnosis  # noqa: PLC0415
    from afr_clip.reports.record.provenance import method_of  # noqa: PLC0415
    from afr_clip.run.diagnose import read_finished  # noqa: PLC0415
    from afr_clip.run.figures import load_run  # noqa: PLC0415

    manifests = [read_finished(folder) for folder in arguments.runs]
    names = [folder.resolve().name for folder in arguments.runs]
    methods = [method_of(manifest) for manifest in manifests] if len(names) > 1 else names
    candidates = [methods, names, list(map(str, arguments.runs))]
    labels = next(labels for labels in candidates if len(set(labels)) == len(labels))
    overrides = [f"data_dir={quoted(arguments.data_dir)}"] if arguments.data_dir else []
    for folder, manifest, label in zip(arguments.runs, manifests, labels, strict=True):
        yield load_run(composed_diagnosis(folder, manifest, *overrides, dataset=arguments.dataset), label)


def main() -> None:
    """Measure, draw, and print the files."""
    arguments = read_arguments()
    refuse_what_has_no_effect(arguments)
    # These need torch, --help does not.
    from afr_clip.reports.pictures import paper_figures as drawing  # noqa: PLC0415
    from afr_clip.reports.record.run_folder import write_text  # noqa: PLC0415
    from afr_clip.run import figures as measuring  # noqa: PLC0415

    number, rule, seed = arguments.number, ImageRule(arguments.rule or "seeded"), arguments.seed or 0
    first = next(runs := load_runs(arguments))
    name, target, labels = first.target.spec.name, first.target, [first.label]
    how = f"seed {seed}" if rule is ImageRule.seeded else f"{rule.value} by pixel AP under {first.label}"
    samples = [] if number == 1 else measuring.choose_samples(first, arguments.rows or 6, rule, seed)
    stem, more = f"figure{number}_{name}", {}
    if number == 1:
        how, measured = "all images", measuring.compare_similarity(first)
        more["overlap"] = [
            {"category": one.category, "comparison": one.comparison, **one.overlaps()} for one in measured
        ]
        figure = drawing.draw_similarity(measured, f"{name}, {first.label}: similarity of patches and text")
    elif number == 3:
        rows = measuring.aggregate_features(first, samples)
        figure = drawing.draw_aggregation(rows, f"{name}, {first.label}: first three principal components ({how})")
    else:
        maps = measuring.draw_maps(chain([first], runs), samples)
        labels, scale = list(maps), "each run's own colours" if arguments.own_scales else "one colour scale"
        figure = drawing.draw_map_grid(maps, f"{name} ({how}; {scale})", own_scales=arguments.own_scales)
    if number != 4:
        stem += f"_{clean_name(first.label)}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in drawing.save(figure, arguments.out, stem):
        sys.stdout.write(f"figure: {path}\n")
    facts = measuring.describe_figure(labels, target, samples, how) | more
    write_text(arguments.out / f"{stem}.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_command(main)
