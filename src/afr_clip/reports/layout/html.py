"""The one writer of HTML pages. They need nothing from outside, and escape everything that is put into them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from afr_clip.reports.record.run_folder import write_text

_PAGES = Environment(
    loader=PackageLoader("afr_clip.reports", "layout"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip


def render(page: str, /, **parts: Any) -> str:  # noqa: ANN401  # whatever the page shows
    """Fill a page.

    Args:
        page: The template, a file next to this module; it extends ``shell.html``.
        parts: What it shows; plain text, grids, pictures.
    """
    return _PAGES.get_template(page).render(parts)


class Section(NamedTuple):
    """A section of a report's page.

    Attributes:
        blocks: What it shows from top to bottom: the name of a macro in ``parts.html``, and its arguments.
        link: What the contents call it; the heading where it is empty.
    """

    anchor: str
    heading: str
    blocks: Sequence[tuple[Any, ...]]
    link: str = ""


@dataclass(frozen=True)
class Page:
    """A page of a report.

    Attributes:
        about: What it shows, in a paragraph.
        notices: Each a word of warning, empty for a remark, and a sentence.
    """

    path: Path
    title: str
    subtitle: str
    about: str
    notices: Sequence[tuple[str, str]]
    notes: Sequence[str]
    sections: Sequence[Section]

    def write(self) -> None:
        """Write the page."""
        links = [(one.anchor, one.link or one.heading) for one in self.sections]
        write_text(self.path, render("report.html", page=self, links=links))
