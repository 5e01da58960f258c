"""Check this machine: versions, device, disk, weights, datasets and extras, and what to do about what is missing."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from afr_clip.cli.command import CommandLine, run_command


def build_parser(data_dir: str | None) -> CommandLine:
    """Define the command line; ``data_dir`` is the default data folder."""
    parser = CommandLine(prog="afr-clip doctor", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--data-dir", type=Path, default=data_dir, metavar="DIR",
        help="the folder that holds datasets (default: AFR_CLIP_DATA_DIR)",
    )  # fmt: skip
    parser.add_argument("--suite", default="afr11", metavar="NAME", help="whose datasets to look for (default: afr11)")
    parser.add_argument(
        "--backbone", default="vit_l_14_336", metavar="NAME",
        help="whose weights to look for (default: %(default)s, the paper's)",
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a weight file of that backbone to check")
    return parser


def main(typed: Sequence[str] | None = None) -> None:
    """Check everything and print it; what cannot be checked is a sentence too."""
    arguments = build_parser(os.environ.get("AFR_CLIP_DATA_DIR")).parse_args(typed)
    from afr_clip.cli import doctor  # noqa: PLC0415 - composing configs takes a while, and --help does not need it

    doctor.refuse_unknown(arguments.suite, arguments.backbone)
    sys.stderr.write("checking: this takes some seconds\n")
    found = doctor.examine(arguments.data_dir, arguments.suite, arguments.backbone, arguments.weights)
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        return
    for line in doctor.as_lines(found):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    run_command(main)
