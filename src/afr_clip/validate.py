"""Check that a method does what every method must, on small random towers."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from afr_clip.cli.command import EXIT_ERROR, CommandLine, run_command


def build_parser() -> CommandLine:
    """Define the command line."""
    parser = CommandLine(prog="afr-clip validate", description=__doc__, allow_abbrev=False)
    parser.add_argument("method", metavar="METHOD", help="what module= takes; see afr-clip methods")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE",
        help="keys of module and backbone; without backbone=NAME it is the small random one",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    return parser


def main(typed: Sequence[str] | None = None) -> None:
    """Run every check and print a table; ends with 1 if one fails."""
    arguments = build_parser().parse_args(typed)
    from afr_clip.cli import validation  # noqa: PLC0415 - composing configs takes a while, and --help does not need it

    outcomes = validation.outcomes(arguments.method, arguments.overrides)
    if arguments.json:
        found = {"method": arguments.method, "outcomes": [asdict(one) for one in outcomes]}
        sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    else:
        validation.print_table(arguments.method, outcomes)
    if any(one.state == "failed" for one in outcomes):
        sys.exit(EXIT_ERROR)


if __name__ == "__main__":
    run_command(main)
