"""The package that ``docs/extend/method.md`` adds as an example, as ``pip install`` would leave it."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from afr_clip.config import keys, nodes

PAGE = (Path(__file__).parents[2] / "docs" / "extend" / "method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"(?<=\n\n)`([\w./]+)`(?:(?!^```).)*^```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


def write_files(folder: Path) -> None:
    """Write the files of the page."""
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def declare(folder: Path, name: str, package: str) -> None:
    """Write what pip leaves next to a package, which declares one method."""
    info = folder / f"{name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[afr_clip.methods]\n{name} = {package}\n", encoding="utf-8")


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let this process import what lies in a folder; afterwards nothing is left of the example package."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        forget()
        try:
            yield
        finally:
            for name in [name for name in sys.modules if name not in before and name.startswith("linear_probe")]:
                del sys.modules[name]
    forget()


def forget() -> None:
    """Let methods be found again."""
    for cached in (nodes.known_methods, nodes.module_schema, keys.keys_of):
        cached.cache_clear()
