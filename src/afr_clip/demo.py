"""Show a page in the browser to try a model on photographs of your own."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from afr_clip.cli.command import CommandLine, CommandLineError, run_command

PORT = 7860


def build_parser() -> CommandLine:
    """Define the command line."""
    parser = CommandLine(
        prog="afr-clip demo",
        description=__doc__,
        epilog="Only this machine reaches the page, and nothing is sent. Ctrl-C ends it and removes what was dropped.",
    )
    parser.add_argument(
        "--checkpoint", nargs="+", default=["pocket", "pocket_names"], metavar="MODEL",
        help="models to choose from: run folders, checkpoints, exported models, hf:OWNER/NAME "
        "(default: pocket pocket_names)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help="(default: %(default)s; 0: any free one)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda:1 or mps (default: auto)")
    return parser


def main(typed: Sequence[str] | None = None) -> None:
    """Load the first model, print the address, and serve until the process is stopped."""
    arguments = build_parser().parse_args(typed)
    if not 0 <= arguments.port < 2**16:
        msg = f"--port must lie between 0 and 65535, got {arguments.port}. Write --port {PORT}."
        raise CommandLineError(msg)
    if len(set(arguments.checkpoint)) < len(arguments.checkpoint):
        msg = "--checkpoint must name different models, but one is named twice. Leave it out."
        raise CommandLineError(msg)
    if find_spec("gradio") is None:
        msg = "afr-clip demo needs Gradio, which is not installed. Run pip install 'afr-clip[demo]'."
        raise CommandLineError(msg)
    sys.stderr.write("loading: PyTorch, the model and the page\n")
    from afr_clip.demo_page.page import Models, serve  # noqa: PLC0415 - needs the extra, and takes seconds

    models = Models(arguments.checkpoint, arguments.device)
    _ = models[models.names[0]]  # a checkpoint that cannot be read is refused before there is a page
    with TemporaryDirectory(prefix="afr_clip-demo-") as work:
        try:
            serve(models, Path(work), arguments.port, _announce)
        except KeyboardInterrupt:
            sys.stderr.write("The page is closed.\n")


def _announce(address: str) -> None:
    sys.stdout.write(f"page: {address}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_command(main)
