"""Share trained weights on the Hugging Face Hub, and get those of others."""

from collections.abc import Sequence
from pathlib import Path

from afr_clip.cli.command import CommandLine, run_command


def build_parser() -> CommandLine:
    """Define the command line."""
    parser = CommandLine(
        prog="afr-clip hub",
        description=__doc__,
        epilog="A token that may write comes from `hf auth login` or HF_TOKEN; HF_ENDPOINT names another hub.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="push | pull")
    push = verbs.add_parser("push", help="upload the trained weights of a run, with a model card")
    push.add_argument("checkpoint", metavar="RUN", help="a run folder, its last.ckpt, or pocket")
    push.add_argument("place", metavar="OWNER/NAME", help="the model on the hub; it is made if there is none")
    push.add_argument(
        "--licence", required=True, metavar="ID", help="of the weights: apache-2.0, cc-by-nc-sa-4.0, other"
    )
    push.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="RUN",
        help="evaluate runs of the same weights, whose results the card shows next to those of RUN",
    )  # fmt: skip
    push.add_argument("--private", action="store_true", help="if the model is made, only you can see it")
    push.add_argument("--folder", type=Path, metavar="DIR", help="write the files into DIR and upload nothing")
    pull = verbs.add_parser("pull", help="download the newest version of a model into the cache, and check it")
    pull.add_argument("place", metavar="OWNER/NAME", help="the model on the hub, with @REVISION for one version")
    pull.add_argument("--folder", type=Path, metavar="DIR", help="copy it into DIR too")
    return parser


def main(typed: Sequence[str] | None = None) -> None:
    """Parse the command line and push or pull."""
    arguments = build_parser().parse_args(typed)
    from afr_clip.config.restore import named_checkpoint  # noqa: PLC0415 - --help does not wait for torch
    from afr_clip.run.share import pull, push  # noqa: PLC0415

    if arguments.verb == "pull":
        pull(arguments.place, folder=arguments.folder)
        return
    push(
        named_checkpoint(arguments.checkpoint),
        arguments.place,
        arguments.licence.lower(),
        arguments.results,
        folder=arguments.folder,
        is_private=arguments.private,
    )


if __name__ == "__main__":
    run_command(main)
