"""Tables as text: Markdown, LaTeX with booktabs, and for a terminal."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from rich.table import Table
from rich.text import Text

from afr_clip.reports.layout.grid import Cell, Grid, Heading

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{GREEK CAPITAL LETTER DELTA}": r"$\Delta$",
    "\N{DAGGER}": r"\dag{}",
    "[": "{[}",  # after a line break both would be taken for its arguments
    "*": "{*}",
    **{character: f"\\{character}" for character in "_%&#${}"},
}
"""What LaTeX would take for a command, and the signs of our tables that its default encodings lack."""


LONGEST_LABEL = 16
"""In letters; words in a LaTeX table that are longer have a line of their own."""


def escape_latex(text: str) -> str:
    r"""Write text so that LaTeX prints it as it is.

    Args:
        text: Anything.

    Returns:
        LaTeX.

    Example:
        >>> print(escape_latex("a_b & 50%"))
        a\_b \& 50\%
    """
    return "".join(_LATEX.get(character, character) for character in text)


def to_markdown(grids: Sequence[Grid], block: str = "") -> str:
    """Write grids with the same columns as one table.

    Args:
        grids: One after the other.
        block: Heads a column with the name of each grid; without it there is none.

    Returns:
        Lines of Markdown.
    """
    labels = [f"{heading.group} {heading.label}".strip() for heading in grids[0].headings]
    rows = [labels, ["---" if heading.is_text else "---:" for heading in grids[0].headings]]
    rows += [[f"**{cell.shown}**" if cell.is_strong else cell.shown for cell in row] for row in _all_rows(grids)]
    if block:
        names = [grid.name for grid in grids for _ in (*grid.body, *grid.foot)]
        rows = [[name, *row] for name, row in zip([block, "---", *names], rows, strict=True)]
    return "".join(f"| {' | '.join(map(escape_markdown, row))} |\n" for row in rows)


def to_latex(grids: Sequence[Grid], caption: str, label: str) -> str:
    r"""Write grids with the same columns as one table that needs booktabs.

    Args:
        grids: Each is a block of the table under its name.
        caption: Plain text.
        label: For ``\ref``.

    Returns:
        A ``table*`` environment.
    """
    headings = grids[0].headings
    lines = [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table*}",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escape_latex(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{{''.join('l' if heading.is_text else 'r' for heading in headings)}}}",
        r"\toprule",
        *_latex_groups(grids[0]),
        _latex_row(escape_latex(heading.label) for heading in headings),
    ]
    for grid in grids:
        lines += [r"\midrule", _latex_line(rf"\emph{{{escape_latex(grid.name)}}}", len(headings))]
        for rows in filter(None, (grid.body, grid.foot)):
            lines += [r"\addlinespace", *(line for row in rows for line in _latex_lines(headings, row))]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"]) + "\n"


def to_rich(grids: Sequence[Grid], title: str) -> Table:
    """Lay grids with the same columns out for a terminal."""
    table = Table(title=Text(title))
    for heading in grids[0].headings:
        table.add_column(Text("\n".join(filter(None, (heading.group, heading.label)))), justify=_side(heading))
    for grid in grids:
        for rows in (grid.body, grid.foot):
            for row in rows:
                table.add_row(*(Text(cell.shown, "bold" if cell.is_strong else "") for cell in row))
            table.add_section()
    return table


def _side(heading: Heading) -> Literal["left", "right"]:
    return "left" if heading.is_text else "right"


def _all_rows(grids: Iterable[Grid]) -> list[Sequence[Cell]]:
    return [row for grid in grids for row in (*grid.body, *grid.foot)]


def escape_markdown(text: str) -> str:
    """Write text so that Markdown shows it as it is, on one line of a table."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


def _latex_lines(headings: Sequence[Heading], row: Sequence[Cell]) -> list[str]:
    num, lines, cells = len(headings), [], list(row)
    for i in (i for i, cell in enumerate(row) if headings[i].is_text and len(cell.shown) > LONGEST_LABEL):
        lines.append("& " * i + _latex_line(escape_latex(row[i].shown), num - i))
        cells[i] = Cell("")
    return [*lines, _latex_row(map(_latex_cell, headings, cells))]


def _latex_line(latex: str, num: int) -> str:
    return rf"\multicolumn{{{num}}}{{l}}{{{latex}}} \\"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(heading: Heading, cell: Cell) -> str:
    shown = escape_latex(cell.shown)
    if not heading.is_text:
        shown = re.sub(r"^([+-])(?=\d)", r"$\1$", shown)  # a minus, not a hyphen
    return rf"\textbf{{{shown}}}" if cell.is_strong else shown


def _latex_groups(grid: Grid) -> list[str]:
    cells, rules, column = [], [], 1
    for name, num in grid.groups:
        cells.append(rf"\multicolumn{{{num}}}{{c}}{{{escape_latex(name)}}}")
        rules += [rf"\cmidrule(lr){{{column}-{column + num - 1}}}"] if name else []
        column += num
    return [_latex_row(cells), "".join(rules)] if rules else []
