"""What there is to choose from, read from the config files: methods, backbones and experiments."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml
from rich.markup import escape
from rich.table import Table

from afr_clip.cli.command import CommandLine
from afr_clip.clip.settings import TIMM
from afr_clip.config.nodes import config_dir, known_methods
from afr_clip.reports.layout.text import terminal

Rows = Iterable[Sequence[str]]


def methods() -> None:
    """Print every method: its paper and what it trains, what it needs, its published backbone, and its public code."""
    headings = ("module=", "what it is", "trained", "reads text", "backbone=", "public code", "licence")
    _print("Methods", headings, _methods)


def _methods() -> Rows:
    for name, method in known_methods().items():
        own = re.search(r"override /backbone@\S+: (\w+)", method.file.read_text(encoding="utf-8"))
        published = own[1] if own else "vit_l_14_336"
        settings = method.settings
        what, (source, licence) = _sentence(_comment(method.file)), _source(method.file, "Public code")
        yield name, what, _yes(settings.trains), _yes(settings.needs_text), published, source, licence


def backbones() -> None:
    """Print every backbone: the architecture, its weights and their licence, its input size, whether it has text."""
    headings = ("backbone=", "architecture", "weights", "pixels", "text", "what it is", "source", "licence")
    _print("Backbones", headings, _backbones)


def _backbones() -> Rows:
    for file in _files("backbone"):
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
        weights = node["pretrained"] or ("random" if node["random_weights"] else "in the package")
        has_text = _yes(not node["architecture"].startswith(TIMM))
        what = " ".join(line for line in _comment(file) if not line.startswith("Weights: "))
        source = _source(file, "Weights")
        yield file.stem, node["architecture"], weights, str(node["image_size"]), has_text, what, *source


def experiments() -> None:
    """Print every experiment: how it is run, what it costs, and the paper's numbers."""
    _print("Experiments", ("experiment=", "command", "cost", "published", "what it is"), _experiments)


def _experiments() -> Rows:
    for file in _files("experiment"):
        line, *others = _comment(file)
        command, cost, published = (part.strip() for part in line.split("|"))
        what = _sentence([other for other in others if not other.startswith(("or, as plain", "python "))])
        yield file.stem, command, cost, published, what


def _files(group: str) -> list[Path]:
    return sorted(Path(config_dir(), group).glob("*.yaml"))


def _comment(file: Path) -> list[str]:
    """Return the lines of a config file's first comment."""
    lines = file.read_text(encoding="utf-8").splitlines()
    said = [line[1:].strip() for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")]]
    return [line for line in said if not line.startswith("@package")]


def _source(file: Path, what: str) -> tuple[str, str]:
    """Return where code or weights come from and under which licence, as a config file's first comment says."""
    found = re.search(rf"{what}: (none\b|(.+?) \((.+?)\))", " ".join(_comment(file)))
    if found is None:
        return "not stated", "not stated"
    return (found[2], found[3]) if found[2] else ("none", "no public code")


def _sentence(lines: Sequence[str]) -> str:
    """Return the first sentence.

    Example:
        >>> _sentence(["WinCLIP, Jeong et al. (2023). Nothing is", "trained."])
        'WinCLIP, Jeong et al. (2023).'
    """
    return re.split(r"(?<=\.)(?<!al\.) ", " ".join(lines), maxsplit=1)[0]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _print(title: str, headings: Sequence[str], rows: Callable[[], Rows]) -> None:
    CommandLine(prog=f"afr-clip {title.lower()}", description=f"List the {title.lower()}.").parse_args()
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=number == 0)  # what is typed stays whole
    for row in rows():
        table.add_row(*map(escape, row))
    terminal().print(table)
