"""The one writer of HTML pages. They need nothing from outside, and escape everything that is put into them."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_PAGES = Environment(
    loader=PackageLoader("afr_clip.reports", "layout"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip


def render(page: str, **parts: Any) -> str:  # noqa: ANN401  # whatever the page shows
    """Fill a page.

    Args:
        page: The template, a file next to this module; it extends ``shell.html``.
        parts: What it shows; plain text, grids, pictures.
    """
    return _PAGES.get_template(page).render(parts)


def render_sections(page: str, **parts: Any) -> Markup:  # noqa: ANN401
    """Fill the sections of a page, to be part of another one: what was put into them is escaped already."""
    return Markup(render(page, **parts))
