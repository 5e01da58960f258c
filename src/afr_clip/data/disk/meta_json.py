"""The ``meta.json`` form that AnomalyCLIP and its relatives share: one file names every image.

.. code-block:: json

    {"test": {"bottle": [{"img_path": "bottle/test/broken/000.png", "mask_path": "bottle/ground_truth/broken/000.png",
                          "cls_name": "bottle", "specie_name": "broken", "anomaly": 1}]}}
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afr_clip.data.disk.listing import DEFECT, GOOD, Entry, Listing
from afr_clip.data.errors import DataError, MissingDataError

FILE = "meta.json"
KEYS = ("img_path", "mask_path", "cls_name", "specie_name", "anomaly")


@dataclass(frozen=True)
class MetaJsonLayout:
    """A ``meta.json`` names every image; paths in it start where it lies.

    Attributes:
        marker: The file.
    """

    marker: str = FILE

    @property
    def where(self) -> str:
        """The file."""
        return self.marker

    @property
    def promises_masks(self) -> bool:
        """Whether it may name masks."""
        return True

    def listing(self, root: Path, split: str) -> Listing:
        """List one split.

        Args:
            root: The folder of the file.
            split: For example ``"test"``; upper and lower case are one, because some generators write ``Test``.

        Returns:
            All categories; whether the files exist is not looked at, except for masks.

        Raises:
            MissingDataError: If there is no such file.
            DataError: If it does not have the form.
        """
        path = root / self.marker
        content = _read(path)
        categories: Any = next((found for name, found in content.items() if name.lower() == split), {})
        entries = tuple(self._entry(root, item) for item in _items(path, categories))
        return Listing(entries, has_masks=any(any(entry.mask_names) for entry in entries))

    def _entry(self, root: Path, item: Mapping[str, Any]) -> Entry:
        is_anomalous = item["anomaly"] == 1
        mask_name, mask = item["mask_path"], root / item["mask_path"]
        return Entry(
            category=item["cls_name"],
            defect_type=item["specie_name"] or (DEFECT if is_anomalous else GOOD),
            is_anomalous=is_anomalous,
            image=root / item["img_path"],
            mask=mask if mask_name and mask.is_file() else None,
            mask_names=(mask_name,) if mask_name else (),
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{path} must say what the images show, but there is no such file. Name its folder with dataset.root=DIR."
        raise MissingDataError(msg) from error
    except ValueError as error:
        msg = f"{path} must be JSON, but cannot be read as such ({error}). Write it anew."
        raise DataError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} must hold an object with the splits by name, got a {type(content).__name__}. Write it anew."
        raise DataError(msg)
    return content


def _items(path: Path, categories: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401 - whatever the file holds
    """Yield the items of a split; refuse whatever is not of the form."""
    groups = categories.values() if isinstance(categories, dict) else [categories]
    for item in (item for group in groups for item in (group if isinstance(group, list) else [group])):
        is_of_form = isinstance(item, dict) and set(KEYS) <= item.keys() and item["anomaly"] in (0, 1)
        if not is_of_form or not all(isinstance(item[key], str) for key in KEYS[:4]):
            msg = (
                f"Every image in {path} must have the keys {', '.join(KEYS)}, texts but for anomaly, which is 0 or 1, "
                f"got {json.dumps(item)[:200]}. Write it anew."
            )
            raise DataError(msg)
        yield item
