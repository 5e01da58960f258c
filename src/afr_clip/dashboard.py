"""Upload runs to Weights & Biases, rebuild them from their files, build workspace and report."""

import sys
from pathlib import Path

from afr_clip.cli.command import CommandLine, run_command


def main() -> None:
    """Run one of the three subcommands."""
    chosen = build_parser().parse_args()
    # Loading torch takes seconds, and --help should not wait for it.
    from afr_clip.cli import dashboard  # noqa: PLC0415
    from afr_clip.reports.dashboards import SEARCHED, TABLES, DashboardSettings  # noqa: PLC0415

    if chosen.verb == "rebuild" or (chosen.verb == "sync" and chosen.from_files):
        dashboard.rebuild(chosen.runs, {"project": chosen.project, "entity": chosen.entity})
    elif chosen.verb == "sync":
        if not dashboard.sync(chosen.runs, chosen.project, chosen.entity):
            sys.exit(1)
    else:
        datasets = chosen.datasets or dashboard.datasets_of_the_paper()
        groups, searched = chosen.groups or TABLES, chosen.searched or SEARCHED
        settings = DashboardSettings(chosen.project, chosen.entity or "", datasets, groups, searched)
        dashboard.build(settings, chosen.out)


def build_parser() -> CommandLine:
    """Define the command line."""
    runs, where = CommandLine(add_help=False), CommandLine(add_help=False)
    runs.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    where.add_argument("--project", help="project to use instead of the runs' own")
    where.add_argument("--entity", help="user or team (default: yours)")
    parser = CommandLine(prog="afr-clip dashboard", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="sync | rebuild | build")
    sync = verbs.add_parser(
        "sync", parents=[runs, where], help="upload runs that were logged offline, in and below the folders"
    )
    sync.add_argument("--from-files", action="store_true", help="same as rebuild")
    verbs.add_parser("rebuild", parents=[runs, where], help="create the W&B runs again from the files in their folders")
    build = verbs.add_parser("build", help="build the W&B workspace and report")
    build.add_argument("--project", required=True, help="project whose runs they show")
    build.add_argument("--entity", help="user or team (default: yours)")
    build.add_argument("--datasets", nargs="+", metavar="NAME", help="target datasets (default: the paper's)")
    build.add_argument("--groups", nargs="+", metavar="NAME", help="groups of runs, one for each ablation table")
    build.add_argument("--searched", nargs="+", metavar="KEY", help="config keys that a search varies")
    build.add_argument("--out", type=Path, metavar="DIR", help="write their JSON here instead of saving them at W&B")
    return parser


if __name__ == "__main__":
    run_command(main)
