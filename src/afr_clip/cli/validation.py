"""From the words after ``afr-clip validate`` to the outcomes of its checks, and these as a table."""

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from afr_clip.cli.command import CommandLineError
from afr_clip.cli.words import read_words
from afr_clip.config.nodes import method_names, register
from afr_clip.config.plan import composed_model
from afr_clip.files import shown
from afr_clip.reports.layout.text import terminal

if TYPE_CHECKING:
    from afr_clip.run.validation import Outcome

SMALL = ("backbone=tiny", "backbone.image_size=64")
"""Random towers of four blocks, which make the checks a matter of seconds."""


def outcomes(method: str, overrides: Sequence[str]) -> "list[Outcome]":
    """Check a method.

    Raises:
        CommandLineError: If there is no such method, or a word is no key of it.
        ConfigError: If a value is wrong.
    """
    known = method_names()
    if method not in known:
        near = get_close_matches(method, known, n=1, cutoff=0.5)
        advice = f" Did you mean {near[0]}?" if near else ""
        msg = f"METHOD must be one of {', '.join(known)}, got {shown(method)}.{advice}"
        raise CommandLineError(msg)
    register()
    words = read_words("evaluate", overrides).overrides
    small = () if any(word.startswith("backbone=") for word in words) else SMALL
    backbone, module = composed_model(f"module={method}", *small, *words)

    from afr_clip.clip.load import load_towers  # noqa: PLC0415 - loading torch takes seconds
    from afr_clip.run.validation import Subject, validate  # noqa: PLC0415

    logging.getLogger("afr_clip.clip.load").setLevel(logging.ERROR)  # random weights are what is wanted
    module.network.check_text(has_text=backbone.has_text)
    return validate(Subject(module, load_towers(backbone, needs_cnn=module.network.needs_cnn)))


def print_table(method: str, found: "Sequence[Outcome]") -> None:
    """Print one line for each check."""
    table = Table(title=f"{method}: {sum(one.state == 'passed' for one in found)} of {len(found)} checks passed")
    for heading in ("check", "outcome", "what was found"):
        table.add_column(heading, overflow="fold")
    for one in found:
        table.add_row(one.check, one.state, escape(one.detail))
    terminal().print(table)
