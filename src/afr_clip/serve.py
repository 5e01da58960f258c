"""Inspect photographs over HTTP: several models side by side, batches, limits, metrics, and an OpenAPI page."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from afr_clip.cli.command import CommandLine, CommandLineError, run_command
from afr_clip.cli.detectors import MODEL_NAME, add_detector_options, by_model, load_model, require_extra
from afr_clip.files import shown
from afr_clip.serving.settings import TOKEN, ServingSettings, token_from

NEEDS = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "swagger_ui_bundle")


def build_parser() -> CommandLine:
    """Define the command line."""
    default = ServingSettings()
    parser = CommandLine(
        prog="afr-clip serve",
        description=__doc__,
        epilog=f"Clients send the token of the environment variable {TOKEN}, if it is set. Without one, the server "
        "listens on this machine only.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "models", nargs="*", default=["pocket"], metavar="[NAME=]MODEL",
        help="pocket, run folder, checkpoint, or exported file, under a name (default: pocket)",
    )  # fmt: skip
    parser.add_argument(
        "--category", action="append", default=[], metavar="[NAME=]WORDS",
        help="what photographs may show, the default first; repeatable. Without it, requests may name anything",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", action="append", default=[], metavar="[NAME=]FILE", help="calibration.json of a model"
    )
    group = parser.add_argument_group("where and for whom")
    group.add_argument("--host", default=default.host, metavar="ADDRESS", help="(default: %(default)s)")
    group.add_argument("--port", type=int, default=default.port, metavar="N", help="0 takes a free one (default: 8000)")
    group.add_argument("--open", action="store_true", help="let other machines in without a token")
    group.add_argument("--folder", type=Path, metavar="DIR", help="requests may name files below it")
    group = parser.add_argument_group("limits")
    for option, value, what in (
        ("max-bytes", default.max_bytes, "of a photograph's file"),
        ("max-pixels", default.max_pixels, "of a photograph"),
        ("max-queue", default.max_queue, "requests in hand; others get 429"),
    ):
        group.add_argument(f"--{option}", type=int, default=value, metavar="N", help=f"{what} (default: %(default)s)")
    for option, number, what in (
        ("wait", default.wait, "for others, to be scored together"),
        ("body-timeout", default.body_timeout, "for a request to arrive"),
        ("timeout", default.timeout, "for a photograph to be inspected"),
        ("grace", default.grace, "for requests in hand when the server stops"),
    ):
        group.add_argument(
            f"--{option}", type=float, default=number, metavar="SECONDS", help=f"{what} (default: %(default)s)"
        )
    add_detector_options(parser)
    return parser


def named(words: Sequence[str]) -> dict[str, str]:
    """Give each model a name: the one that was typed, or the name of its file or folder.

    Example:
        >>> named(["pocket", "nuts=runs/nuts/model.onnx", "runs/bolts"])
        {'pocket': 'pocket', 'nuts': 'runs/nuts/model.onnx', 'bolts': 'runs/bolts'}
    """
    models: dict[str, str] = {}
    for word in words:
        name, equals, checkpoint = word.partition("=")
        if not equals:
            name, checkpoint = Path(word).stem, word
        if not MODEL_NAME.fullmatch(name):
            msg = (
                f"The name of a model must be of letters, digits and _.-, got {shown(name)}. Write NAME={shown(word)}."
            )
            raise CommandLineError(msg)
        if name in models:
            msg = f"Two models are called {name}. Give each a name: nuts=RUN bolts=RUN."
            raise CommandLineError(msg)
        models[name] = checkpoint
    return models


@dataclass(frozen=True)
class ModelWords:
    """A model that was asked for."""

    name: str
    checkpoint: str
    categories: list[str]
    calibration: Path | None


def read_models(arguments: argparse.Namespace) -> list[ModelWords]:
    """Return the models of a command line, each with its categories and its calibration.

    Raises:
        CommandLineError: If something was typed for a model that there is not, or twice.
    """
    models = named(arguments.models)
    categories = by_model("--category", arguments.category, list(models))
    calibrations = by_model("--calibration", arguments.calibration, list(models))
    if several := [name for name, files in calibrations.items() if len(files) > 1]:
        msg = f"A model has one calibration, got several for {several[0]}. Name each with its model: NAME=FILE."
        raise CommandLineError(msg)
    return [
        ModelWords(name, checkpoint, categories[name], next(map(Path, calibrations[name]), None))
        for name, checkpoint in models.items()
    ]


def read_settings(arguments: argparse.Namespace, token: str | None) -> ServingSettings:
    """Return the limits of a command line."""
    names = [one.name for one in fields(ServingSettings) if one.name not in ("token", "is_open")]
    return ServingSettings(**{name: getattr(arguments, name) for name in names}, token=token, is_open=arguments.open)


def main(typed: Sequence[str] | None = None) -> None:
    """Load the models and serve until a signal asks to stop."""
    arguments = build_parser().parse_args(typed)
    models, settings = read_models(arguments), read_settings(arguments, token_from(os.environ))
    require_extra("serve", NEEDS)
    from afr_clip.serving.server import listen_at, serve  # noqa: PLC0415 - --help needs no web framework

    listener = listen_at(settings)  # an address that is taken is refused before models are loaded
    sys.stderr.write("loading: the models\n")
    loaded = [load_model(one.name, one.checkpoint, one.categories, one.calibration, arguments) for one in models]
    serve(loaded, settings, listener)


if __name__ == "__main__":
    run_command(main)
