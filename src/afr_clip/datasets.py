"""`python -m afr_clip.datasets`: list, show, check, convert and unpack datasets."""

import os
import sys
from difflib import get_close_matches
from pathlib import Path

from afr_clip.cli.command import CommandLine, CommandLineError, run_command
from afr_clip.files import for_shell, shown


def main() -> None:
    """Parse the command line and run one of the commands."""
    parser = build_parser(os.environ.get("AFR_CLIP_DATA_DIR"))
    chosen = parser.parse_args()
    if chosen.verb != "list":
        _require_name(chosen.verb, chosen.name)
    # Loading torch takes seconds, and neither --help nor a wrong name should wait for it.
    from afr_clip.cli import datasets  # noqa: PLC0415
    from afr_clip.data.disk.picture_files import MAX_PIXELS  # noqa: PLC0415
    from afr_clip.data.disk.reading import DatasetSpec  # noqa: PLC0415
    from afr_clip.data.errors import MissingDataError  # noqa: PLC0415

    if chosen.verb == "list":
        datasets.list_datasets(chosen.data_dir)
        return
    if chosen.verb == "show":
        datasets.show_dataset(chosen.name)
    elif chosen.verb == "unpack":
        datasets.unpack(chosen.name, chosen.archives, chosen.data_dir)
    else:
        categories = None if chosen.categories is None else tuple(chosen.categories)
        spec = DatasetSpec(chosen.name, chosen.name, chosen.root, categories, data_dir=chosen.data_dir)
        try:
            if chosen.verb == "convert":
                datasets.convert(spec, chosen.to)
            elif not datasets.check(spec, is_part=chosen.part, max_pixels=chosen.max_pixels or MAX_PIXELS):
                sys.exit(1)
        except MissingDataError as error:  # it names the keys of the other commands
            msg = str(error).replace("data_dir=DIR", "--data-dir DIR").replace("dataset.root=DIR", "--root DIR")
            raise MissingDataError(msg) from error


def _require_name(verb: str, name: str) -> None:
    from afr_clip.data.disk.layouts import DATASETS  # noqa: PLC0415 - not for --help

    if name not in DATASETS:
        near = get_close_matches(name, DATASETS, n=1)
        advice = f"Did you mean {near[0]}?" if near else "See afr-clip datasets list."
        if Path(name).is_dir() and verb in ("check", "convert"):
            own = f"afr-clip datasets {verb} folder --root {for_shell(name)}"
            advice = f"For a folder of your own write {own}."
        msg = f"NAME must be one of {', '.join(DATASETS)}, got {shown(name)}. {advice}"
        raise CommandLineError(msg)


def build_parser(folder: str | None) -> CommandLine:
    """Build the parser; ``folder`` is the default data folder."""
    below, named, one = (CommandLine(add_help=False) for _ in range(3))
    data_dir = "the folder that holds datasets (default: AFR_CLIP_DATA_DIR)"
    below.add_argument("--data-dir", type=Path, default=folder, help=data_dir)
    named.add_argument("name", metavar="NAME", help="the name, as in dataset=NAME")
    one.add_argument("--root", type=Path, help="the folder of this dataset")
    one.add_argument("--categories", nargs="+", help="only these categories")
    parser = CommandLine(prog="afr-clip datasets", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list | show | check | convert | unpack")
    verbs.add_parser("list", parents=[below], help="list the known datasets and what is on disk")
    verbs.add_parser("show", parents=[named], help="show layout, source, licence, citation, and how to get it")
    check = verbs.add_parser("check", parents=[named, below, one], help="check every file; exit code 1 on a fault")
    check.add_argument("--part", action="store_true", help="accept fewer images than published")
    check.add_argument("--max-pixels", type=int, metavar="N", help="refuse larger images (default: 200 million)")
    convert = verbs.add_parser("convert", parents=[named, below, one], help="convert a dataset to the meta.json format")
    convert.add_argument("--to", type=Path, required=True, help="a new folder for the converted dataset")
    unpack = verbs.add_parser("unpack", parents=[named], help="safely unpack downloaded archives into the data folder")
    unpack.add_argument("archives", type=Path, nargs="+", metavar="ARCHIVE", help="a downloaded archive")
    unpack.add_argument("--data-dir", type=Path, default=folder, required=folder is None, help=data_dir)
    return parser


if __name__ == "__main__":
    run_command(main)
