"""`python -m afr_clip.dashboard`: upload runs to Weights & Biases, make them anew from files, build dashboards."""

import sys
from pathlib import Path

from afr_clip.cli.command import CommandLine, run_command


def main() -> None:
    """Read the command line and run one of the three."""
    chosen = build_parser().parse_args()
    # Loading torch takes seconds, and --help should not wait for it.
    from afr_clip.cli import dashboard  # noqa: PLC0415
    from afr_clip.reports.dashboards.settings import SEARCHED, TABLES, DashboardSettings  # noqa: PLC0415

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
    """Say what can be typed."""
    runs, where = CommandLine(add_help=False), CommandLine(add_help=False)
    runs.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    where.add_argument("--project", help="another project than the runs name")
    where.add_argument("--entity", help="user or team; by default the one who is logged in")
    parser = CommandLine(prog="python -m afr_clip.dashboard", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="sync | rebuild | build")
    sync = verbs.add_parser("sync", parents=[runs, where], help="upload what was logged offline in and below folders")
    sync.add_argument("--from-files", action="store_true", help="the same as rebuild")
    verbs.add_parser("rebuild", parents=[runs, where], help="make runs anew from what is in their folders")
    build = verbs.add_parser("build", help="make workspace and report")
    build.add_argument("--project", required=True, help="the project whose runs they show")
    build.add_argument("--entity", help="user or team; by default the one who is logged in")
    build.add_argument("--datasets", nargs="+", metavar="NAME", help="target datasets; by default the paper's")
    build.add_argument("--groups", nargs="+", metavar="NAME", help="groups of runs, each an ablation table")
    build.add_argument("--searched", nargs="+", metavar="KEY", help="config keys that a search varies")
    build.add_argument("--out", type=Path, metavar="DIR", help="write their JSON here instead of saving them there")
    return parser


if __name__ == "__main__":
    run_command(main)
