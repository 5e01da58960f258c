"""Tables as text: CSV, Markdown, LaTeX with booktabs, and for a terminal."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from afr_clip.files import in_one_line
from afr_clip.reports.layout.grid import Grid, Heading, TableCell
from afr_clip.reports.record.run_folder import write_csv

if TYPE_CHECKING:
    import pandas as pd

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
"""Characters that LaTeX would act on, and the signs of our tables that its default encodings lack."""

LONGEST_LABEL = 16
"""In letters; longer words in a LaTeX table have a line of their own."""


def write_records(
    path: Path, records: "pd.DataFrame", columns: Sequence[str], renamed: Mapping[str, str] | None = None
) -> None:
    """Write columns of records as CSV with all digits; missing values are empty.

    Args:
        renamed: Columns that the file calls otherwise.
    """
    table = records[list(columns)].astype(object)
    rows = table.where(table.notna(), None).itertuples(index=False, name=None)
    write_csv(path, [(renamed or {}).get(name, name) for name in columns], rows)


def to_markdown(grids: Sequence[Grid], block: str = "") -> str:
    """Write grids with the same columns as one table; ``block`` heads a first column with the name of each grid."""
    labels = [escape_markdown(f"{heading.group} {heading.label}".strip()) for heading in grids[0].headings]
    rows = [labels, ["---" if heading.is_text else "---:" for heading in grids[0].headings]]
    body = [(grid.name, row) for grid in grids for row in (*grid.body, *grid.foot)]
    rows += [[f"**{_cell(cell)}**" if cell.is_strong else _cell(cell) for cell in row] for _, row in body]
    if block:
        names = [block, "---", *(escape_markdown(name) for name, _ in body)]
        rows = [[name, *row] for name, row in zip(names, rows, strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(cell: TableCell) -> str:
    return escape_markdown(cell.shown)


def escape_markdown(text: str) -> str:
    r"""Write text so that Markdown shows it unchanged, on one line of a table.

    Example:
        >>> print(escape_markdown("a_b | *c* [d](https://e) `f` <g>"))
        a_b \| \*c\* \[d\](https:&#47;&#47;e) \`f\` &lt;g>
    """
    text = re.sub(r"[\\`*\[\]|~$]", r"\\\g<0>", text)
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", text)  # within a word it means nothing
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")
    return text.replace("://", ":&#47;&#47;").replace("www.", "www&#46;").replace("\n", " ")  # addresses become links


def to_latex(grids: Sequence[Grid], caption: str, label: str, comments: Sequence[str] = ()) -> str:
    r"""Write grids with the same columns as one ``table*`` that needs booktabs.

    Args:
        grids: Each is a block of the table under its name.
        label: For ``\ref``.
        comments: Stand above the table, and are not printed.
    """
    headings = grids[0].headings
    lines = [
        r"% Needs \usepackage{booktabs}.",
        *(f"% {in_one_line(comment)}".replace("\\", "/") for comment in comments),  # no command, wherever it is pasted
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


def escape_latex(text: str) -> str:
    r"""Write text so that LaTeX prints it unchanged.

    Example:
        >>> print(escape_latex("a_b & 50%"))
        a\_b \& 50\%
    """
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_lines(headings: Sequence[Heading], row: Sequence[TableCell]) -> list[str]:
    num, lines, cells = len(headings), [], list(row)
    for i in (i for i, cell in enumerate(row) if headings[i].is_text and len(cell.shown) > LONGEST_LABEL):
        lines.append("& " * i + _latex_line(escape_latex(row[i].shown), num - i))
        cells[i] = TableCell("")
    return [*lines, _latex_row(map(_latex_cell, headings, cells))]


def _latex_line(latex: str, num: int) -> str:
    return rf"\multicolumn{{{num}}}{{l}}{{{latex}}} \\"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(heading: Heading, cell: TableCell) -> str:
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


def told_apart(scores: Sequence[float]) -> list[str]:
    """Write scores with three decimals, or with as many more, up to nine, as tell different ones apart.

    Example:
        >>> told_apart([0.75, 0.5]), told_apart([0.50013, 0.50009])
        (['0.750', '0.500'], ['0.50013', '0.50009'])
    """
    for decimals in range(3, 10):
        written = [f"{score:.{decimals}f}" for score in scores]
        if len(set(written)) == len(set(scores)):
            break
    return written


def terminal(width: int = 160) -> Console:
    """Return a console for standard output, of a fixed width where that is a file or pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=width)


def to_rich(grids: Sequence[Grid], title: str) -> Table:
    """Lay grids with the same columns out for a terminal."""
    table = Table(title=Text(in_one_line(title)))
    for heading in grids[0].headings:
        label = Text("\n".join(in_one_line(words) for words in (heading.group, heading.label) if words))
        table.add_column(label, justify="left" if heading.is_text else "right")
    for grid in grids:
        for rows in (grid.body, grid.foot):
            for row in rows:
                table.add_row(*(Text(in_one_line(cell.shown), "bold" if cell.is_strong else "") for cell in row))
            table.add_section()
    return table
