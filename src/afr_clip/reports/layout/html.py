"""What all pages share: their shell, tables that sort, pictures, facts and notices. Needs nothing from outside."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from afr_clip.reports.layout.grid import Cell, Grid, Heading
from afr_clip.reports.pictures.encode import Picture, PictureGroup

PAPER_ARCHITECTURE = "ViT-L-14-336-quickgelu"
PUBLISHED_ARCHITECTURES = {"winclip": "ViT-B-16-plus-240", "april_gan": "ViT-L-14-336", "ada_clip": "ViT-L-14-336"}
"""On what the published numbers of a method stand, where it is not AFR-CLIP's backbone; by its module."""


def render_shell(main: str, title: str, **parts: str) -> str:
    """Put a page together.

    Args:
        main: The file beside this module with what is between header and foot.
        title: Plain text.
        parts: HTML for the places that ``main`` names.

    Returns:
        The whole page.
    """
    inner = _template(main).substitute(parts, title=escape(title))
    return _template("shell.html").substitute(title=escape(title), main=inner)


def is_published_backbone(backbone: Mapping[str, Any], module: str) -> bool:
    """Whether the published numbers of a method stand on a backbone's architecture.

    Args:
        backbone: The manifest's entry.
        module: The method's name in the config.
    """
    return bool(backbone["architecture"] == PUBLISHED_ARCHITECTURES.get(module, PAPER_ARCHITECTURE))


def backbone_notices(backbone: Mapping[str, Any], module: str) -> list[tuple[str, str]]:
    """Say what must be known before a number is read.

    Args:
        backbone: The manifest's entry.
        module: The method's name in the config.

    Returns:
        Each with a word of warning, empty where it is only a remark; none for the backbone of the method's published
        numbers with its weights.
    """
    name, notices = f"{backbone['name']} ({backbone['architecture']})", []
    if backbone["random_weights"]:
        notices.append(
            (
                "Random weights.",
                f"The backbone {name} was never trained. The numbers and pictures show that the machinery works and "
                "say nothing about the method.",
            )
        )
    if not is_published_backbone(backbone, module):
        published = PUBLISHED_ARCHITECTURES.get(module, PAPER_ARCHITECTURE)
        said = f"The backbone {name} produced these numbers. It is not that of the published ones, which is {published}"
        notices.append(("", f"{said}."))
    return notices


def render_notices(notices: Iterable[tuple[str, str]]) -> str:
    """Lay out notices: framed where they warn, quiet where they remark."""
    return "\n".join(
        f'<p class="notice" role="note"><strong>{escape(warning)}</strong> {escape(said, quote=False)}</p>'
        if warning
        else f'<p class="quiet">{escape(said, quote=False)}</p>'
        for warning, said in notices
    )


def render_grid(grid: Grid) -> str:
    """Lay out a table with its foot where no sorting reaches it."""
    table = '<table class="grouped">' if _groups(grid) else "<table>"
    region = f'role="region" tabindex="0" aria-label="{escape(grid.name)}"'  # scrolls by keyboard too
    foot = f"<tfoot>\n{_rows(grid.headings, grid.foot)}\n</tfoot>\n" if grid.foot else ""
    return (
        f'<div class="scroll" {region}>\n{table}\n<thead>{_groups(grid)}<tr>{_header(grid.headings)}</tr></thead>\n'
        f"<tbody>\n{_rows(grid.headings, grid.body)}\n</tbody>\n{foot}</table>\n</div>"
    )


def render_pictures(groups: Sequence[PictureGroup], otherwise: str) -> str:
    """Lay out the pictures under their headings, each with its caption; ``otherwise`` is said where there are none."""
    if not groups:
        return f'<p class="quiet">{escape(otherwise)}</p>'
    parts = []
    for i, (heading, pictures) in enumerate(groups):
        parts.append(f'<h3 id="pictures-{i}">{escape(heading)}</h3>')
        parts.append(render_figures(pictures))
    return "\n".join(parts)


def render_figures(pictures: Iterable[Picture]) -> str:
    """Lay out pictures, each with its caption."""
    return "\n".join(
        f"<figure>\n<figcaption>{escape(picture.caption)}.</figcaption>\n"
        f'<img src="{picture.source}" width="{width}" height="{height}" alt="{escape(picture.alt)}">\n</figure>'
        for picture, (width, height) in ((picture, picture.size) for picture in pictures)
    )


def render_section(place: str, heading: str, inside: str) -> str:
    """Lay out a part of the page that `render_contents` can link to."""
    return f'<section aria-labelledby="{place}">\n<h2 id="{place}">{escape(heading)}</h2>\n{inside}\n</section>'


def render_titled(grid: Grid) -> str:
    """Lay out a table under its name."""
    return f"<h3>{escape(grid.name)}</h3>\n{render_grid(grid)}\n"


def render_facts(facts: Iterable[tuple[str, str]]) -> str:
    """Lay out terms and what they stand for."""
    return "<dl>\n" + "".join(f"<dt>{escape(term)}</dt><dd>{escape(fact)}</dd>\n" for term, fact in facts) + "</dl>"


def render_contents(links: Iterable[tuple[str, str]]) -> str:
    """Lay out links to places on the page, each given by its id and its name."""
    items = "".join(f'<li><a href="#{place}">{escape(name)}</a></li>' for place, name in links)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _template(name: str) -> Template:
    return Template(files("afr_clip.reports.layout").joinpath(name).read_text(encoding="utf-8"))


def _groups(grid: Grid) -> str:
    if not any(name for name, _ in grid.groups):
        return ""
    # A cell for every group, named or not, so that a column's place in its own row is its place in the table.
    cells = [f'<th scope="colgroup" colspan="{n}">{escape(name)}</th>' if name else f'<td colspan="{n}"></td>'
             for name, n in grid.groups]  # fmt: skip
    return f'<tr class="groups">{"".join(cells)}</tr>\n'


def _header(headings: Iterable[Heading]) -> str:
    return "".join(
        f'<th scope="col"{" data-text" if heading.is_text else ""}>'
        f'<button type="button" title="{escape(heading.said)}">{escape(heading.label)}</button></th>'
        for heading in headings
    )


def _rows(headings: Sequence[Heading], rows: Iterable[Sequence[Cell]]) -> str:
    return "\n".join(
        f'<tr><th scope="row">{escape(row[0].shown)}</th>{"".join(map(_cell, headings[1:], row[1:]))}</tr>'
        for row in rows
    )


def _cell(heading: Heading, cell: Cell) -> str:
    shown = f"<strong>{escape(cell.shown)}</strong>" if cell.is_strong else escape(cell.shown)
    if heading.is_text:
        return f'<td class="text">{shown}</td>'
    return f'<td data-value="{"" if cell.value is None else repr(cell.value)}">{shown}</td>'
