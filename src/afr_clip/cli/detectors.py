"""The options of commands that keep a detector running, and from what was typed to the detector."""

import argparse
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import afr_clip
from afr_clip.cli.command import CommandLine, CommandLineError
from afr_clip.files import for_shell, shown
from afr_clip.settings import ScoringEngine

if TYPE_CHECKING:
    from afr_clip.inspection.service import Model


MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")


def tile_of(text: str) -> int | str:
    """Read a number of pixels, or ``auto``."""
    return int(text) if text.isdecimal() else text


def add_detector_options(parser: CommandLine) -> None:
    """Add the options of `afr_clip.load` that hold for every model of a command."""
    group = parser.add_argument_group("how photographs are scored")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda:1 (default: %(default)s)")
    group.add_argument(
        "--engine", default="torch", choices=[one.value for one in ScoringEngine], help="of a checkpoint"
    )
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="side at which photographs are seen")
    group.add_argument(
        "--batch-size", type=int, default=4, metavar="N", help="photographs in one pass (default: %(default)s)"
    )
    group.add_argument("--tile", type=tile_of, metavar="PIXELS", help="look at tiles too: their side, or auto")
    group.add_argument("--overlap", type=float, default=0.25, metavar="SHARE", help="of tiles (default: %(default)s)")
    group.add_argument("--roi", type=Path, metavar="FILE", help="mask: only what is white in it counts")
    group.add_argument("--ignore", type=Path, metavar="FILE", help="mask: what is white in it does not count")
    group.add_argument("--region-threshold", type=float, metavar="VALUE", help="where a region begins, uncalibrated")
    group.add_argument("--mm-per-pixel", type=float, metavar="MM", help="for areas in square millimetres")
    group.add_argument("--min-area-mm2", type=float, metavar="MM2", help="smallest region")


def load_model(
    name: str, checkpoint: str, categories: Sequence[str], calibration: Path | None, typed: argparse.Namespace
) -> "Model":
    """Load a detector and score one black picture with it, so that the first photograph waits for nothing.

    Raises:
        ValueError: If the options do not fit the checkpoint.
        FileNotFoundError: If there is no such checkpoint.
    """
    import numpy as np  # noqa: PLC0415 - --help does not need it

    from afr_clip.inspection.service import model_of  # noqa: PLC0415

    if typed.batch_size < 1:
        msg = f"--batch-size must be at least 1, got {typed.batch_size}. Try 4."
        raise CommandLineError(msg)
    if not all(one.strip() for one in categories):
        msg = '--category must be words for what the photographs show, got none. Write --category "metal nut".'
        raise CommandLineError(msg)
    detector = afr_clip.load(
        checkpoint,
        category=categories[0] if len(categories) == 1 else None,
        calibration=calibration,
        device=typed.device,
        engine=typed.engine,
        image_size=typed.image_size,
        batch_size=typed.batch_size,
        tile=typed.tile,
        overlap=typed.overlap,
        roi=typed.roi,
        ignore=typed.ignore,
        region_threshold=typed.region_threshold,
        mm_per_pixel=typed.mm_per_pixel,
        min_area_mm2=typed.min_area_mm2,
        max_pixels=typed.max_pixels,
    )
    model = model_of(name, detector, categories)
    if typed.roi is None and typed.ignore is None:  # a mask fits photographs of its own size only
        for category in model.categories or (model.category(None),):
            detector.inspect(np.zeros((64, 64), np.uint8), category)
    return model


def by_model(option: str, values: Sequence[str], names: Sequence[str]) -> Mapping[str, list[str]]:
    """Share out the values of an option: ``NAME=VALUE`` belongs to one model, ``VALUE`` alone to all.

    Raises:
        CommandLineError: If a value begins with what may be meant as the name of a model, and is none.

    Example:
        >>> by_model("--category", ["nuts=metal nut", "bolt"], ["nuts", "pocket"])
        {'nuts': ['metal nut', 'bolt'], 'pocket': ['bolt']}
    """
    shared: dict[str, list[str]] = {name: [] for name in names}
    for value in values:
        name, equals, rest = value.partition("=")
        if equals and name in shared:
            shared[name].append(rest)
        elif equals and MODEL_NAME.fullmatch(name):
            msg = (
                f"{option} {shown(value)} must begin with one of {', '.join(names)}, got {name}. Write "
                f"{option} {for_shell(f'{names[0]}={value}')} if that is a value of {names[0]}."
            )
            raise CommandLineError(msg)
        else:
            for own in shared.values():
                own.append(value)
    return shared


def require_extra(extra: str, modules: Sequence[str]) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        CommandLineError: If one is not.
    """
    lacking = [name for name in modules if find_spec(name) is None]
    if lacking:
        msg = f"This needs {', '.join(lacking)}, which is not installed. Run pip install 'afr-clip[{extra}]'."
        raise CommandLineError(msg)
