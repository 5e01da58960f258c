"""Small datasets on disk in public layouts: a procedural texture per category, visible defects, exact masks."""

from collections.abc import Sequence
from pathlib import Path

from helpers.drawn_trees import write_tree
from helpers.generated import write_mvtec_tree
from helpers.official import TREES

__all__ = ["write_mvtec_tree", "write_visa_tree"]


def write_visa_tree(
    root: Path,
    categories: Sequence[str] = ("candle", "pcb1"),
    num_normal: int = 4,
    num_anomalous: int = 4,
    size: tuple[int, int] = (64, 88),
) -> Path:
    """Write a tree in VisA's own layout: ``.JPG`` images, masks of class ids, names repeated between the conditions.

    Args:
        root: Where the categories and ``split_csv`` go; made if absent.
        categories: Their names; each has a texture of its own.
        num_normal: Normal test images per category.
        num_anomalous: Anomalous test images per category; their masks hold 1 or 2.
        size: Height and width in pixels.

    Returns:
        ``root``.
    """
    return write_tree(root, dict.fromkeys(categories, (num_normal, num_anomalous)), TREES["visa"], size)
