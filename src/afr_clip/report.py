"""Write the paper's tables next to what runs and sweeps measured, from their results alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from afr_clip.cli.command import CommandLine, run_command


def read_arguments(typed: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments, by default from the command line of this process."""
    parser = CommandLine(prog="afr-clip report", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN",
        help="run folder, sweep folder, or a folder that contains some (default: none, for the paper's tables alone)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/report"), metavar="DIR", help="where to write (default: %(default)s)"
    )
    parser.add_argument("--parquet", action="store_true", help="also write values.parquet, which needs pyarrow")
    parser.add_argument(
        "--hub", action="append", type=_place, default=[], metavar="DATASET=ORG/NAME",
        help="also write .eval_results: where a benchmark lies on the Hugging Face Hub; may be repeated",
    )  # fmt: skip
    return parser.parse_args(typed)


def _place(typed: str) -> tuple[str, str]:
    dataset, _, place = typed.partition("=")
    if not dataset or len(place.split("/")) != 2 or not all(place.split("/")):
        msg = f"it must be DATASET=ORG/NAME, got {typed}"
        raise argparse.ArgumentTypeError(msg)
    return dataset, place


def main() -> None:
    """Write the report and print its tables and the paths of its pages."""
    arguments = read_arguments()
    # These need pandas and matplotlib, --help does not.
    from afr_clip.reports.compare.hub import check_places, write_eval_results  # noqa: PLC0415
    from afr_clip.reports.compare.report import report_on, write_reports  # noqa: PLC0415
    from afr_clip.reports.compare.tidy import require_parquet  # noqa: PLC0415
    from afr_clip.reports.compare.values import ComparisonError  # noqa: PLC0415
    from afr_clip.reports.layout.text import terminal  # noqa: PLC0415

    if arguments.parquet:
        require_parquet()
    reports = report_on(arguments.runs)
    measured, places = [one for report in reports for one in report.all_measured], dict(arguments.hub)
    check_places(measured, places)
    pages = write_reports(reports, arguments.out, with_parquet=arguments.parquet)
    for one in measured if places else []:
        write_eval_results(one, places, arguments.out)
    console = terminal(200)
    for table in (table for report in reports for table in report.printed()):
        console.print(table)
    for page in pages:
        sys.stdout.write(f"report: {page}\n")
    faults = dict.fromkeys(fault for report in reports for fault in report.faults)
    if faults:
        num = f"{len(faults)} files or folders were" if len(faults) > 1 else "One file or folder was"
        raise ComparisonError("\n".join([f"{num} left out of the report.", *faults]))


if __name__ == "__main__":
    run_command(main)
