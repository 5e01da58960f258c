import shutil
import subprocess

import pytest
from rich.console import Console

from afr_clip.reports.layout.grid import Grid, Heading, TableCell
from afr_clip.reports.layout.text import escape_latex, to_latex, to_markdown, to_rich

HOSTILE = r"[0.2] * a_b & 50% #1 $x$ {y} ~ ^ \z <|>"


def grid(name="Industrial", label="MPDD"):
    headings = [Heading("Dataset", is_text=True), Heading("AUROC", group="A, paper"), Heading("F1", group="A, paper"),
                Heading("AUROC \N{GREEK CAPITAL LETTER DELTA}", group="B_1, measured")]  # fmt: skip
    body = [
        [TableCell(label), TableCell("50.0", 50.0, is_strong=True), TableCell(""), TableCell("-1.5\N{DAGGER}", -1.5)]
    ]
    return Grid(
        name,
        headings,
        body,
        [[TableCell("Mean"), TableCell("1.0 \N{PLUS-MINUS SIGN} 0.5 (3)"), TableCell("-"), TableCell("+0.0")]],
    )


def test_every_character_latex_would_act_on_is_escaped():
    assert escape_latex(HOSTILE) == (
        r"{[}0.2] {*} a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z "
        r"\textless{}\textbar{}\textgreater{}"
    )


def test_latex_has_groups_blocks_bold_and_minus_signs():
    lines = to_latex([grid(), grid("Medical")], "50% of it", "tab:x").splitlines()
    assert r"\caption{50\% of it}" in lines
    assert r"\begin{tabular}{lrrr}" in lines
    groups = lines.index(r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{A, paper} & \multicolumn{1}{c}{B\_1, measured} \\")
    assert lines[groups + 1] == r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}"
    assert lines.count(r"MPDD & \textbf{50.0} &  & $-$1.5\dag{} \\") == 2
    assert r"Mean & 1.0 $\pm$ 0.5 (3) & - & $+$0.0 \\" in lines
    assert [line for line in lines if "emph" in line] == [
        r"\multicolumn{4}{l}{\emph{Industrial}} \\",
        r"\multicolumn{4}{l}{\emph{Medical}} \\",
    ]


def test_long_words_have_a_line_of_their_own_in_latex():
    latex = to_latex([grid(label="A name that is long")], "", "")
    assert "\\multicolumn{4}{l}{A name that is long} \\\\\n & \\textbf{50.0}" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_with_booktabs_alone(tmp_path):
    (tmp_path / "table.tex").write_text(to_latex([grid(HOSTILE, HOSTILE), grid()], HOSTILE, "tab:x"))
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{table}\\end{document}"
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_markdown_is_one_table_with_a_column_for_the_blocks():
    lines = to_markdown([grid(), grid("Medical", "a|b <c>")], "Domain").splitlines()
    assert lines[:3] == [
        "| Domain | Dataset | A, paper AUROC | A, paper F1 | B_1, measured AUROC \N{GREEK CAPITAL LETTER DELTA} |",
        "| --- | --- | ---: | ---: | ---: |",
        "| Industrial | MPDD | **50.0** |  | -1.5\N{DAGGER} |",
    ]
    assert lines[4].startswith(r"| Medical | a\|b &lt;c> |")
    assert to_markdown([grid()]).startswith("| Dataset |")


def test_a_terminal_shows_words_as_they_are():
    console = Console(width=120)
    with console.capture() as capture:
        console.print(to_rich([grid(label="[bold]x\x1b[31m")], "[red]title"))
    text = capture.get()
    assert r"x\x1b[31m" in text
    assert "[bold]x" in text
    assert "[red]title" in text


def test_markdown_shows_names_as_they_are():
    name = "a_b _c_ *d* [e](https://f) `g` <h> |i| \\\\ $j$ &copy; ~~k~~ www.l.org\nm"
    line = to_markdown([grid(label=name)]).splitlines()[2]
    assert line.startswith(
        r"| a_b \_c\_ \*d\* \[e\](https:&#47;&#47;f) \`g\` &lt;h> \|i\| \\\\ \$j\$ &amp;copy; \~\~k\~\~ "
        "www&#46;l.org m | **50.0** |"
    )
