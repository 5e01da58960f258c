"""Images worth looking at, kept with their truth and anomaly map as pictures that a dashboard can overlay."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from afr_clip.files import write_encoded
from afr_clip.reports.pictures.figures import FLAT, Panel, Scale, place_of
from afr_clip.reports.record.run_folder import write_json
from afr_clip.reports.record.schema import HeatMaps, read_record, require

FOLDER = "heat_maps"
"""Folder of a run that holds one folder per dataset."""

INDEX = "index.json"
PARTS = {"path": "image", "truth": "truth", "anomaly_map": "anomaly_map"}
"""The pictures of an image, as they are read and as the index calls them."""


def write_heat_maps(folder: Path, sheets: Mapping[str, Sequence[Panel]], scale: Scale | None) -> None:
    """Write the images of a dataset to ``RUN/heat_maps/DATASET``; all maps share one scale of 256 steps.

    Args:
        sheets: Images by why they are worth looking at.
        scale: The map values of the lowest and the highest step; ``None`` if there is no image.
    """
    if scale is None:
        return
    lowest, highest = scale
    index: dict[str, Any] = {"lowest": lowest, "highest": highest, "sheets": {}}
    for sheet, panels in sheets.items():
        index["sheets"][sheet] = []
        for i, panel in enumerate(panels):
            share = (panel.anomaly_map - lowest) / max(highest - lowest, FLAT)
            pictures: dict[str, NDArray[np.uint8] | None] = {
                "image": panel.image,
                "truth": None if panel.mask is None else panel.mask.astype(np.uint8) * np.uint8(255),
                "anomaly_map": np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8),
            }
            entry: dict[str, str | None] = {"caption": f"{place_of(panel.sample)}, image score {panel.image_score:.3f}"}
            for part, pixels in pictures.items():
                entry[part] = None if pixels is None else f"{sheet}_{i}_{part}.png"
                if pixels is not None:
                    save = partial(Image.fromarray(pixels).save, format="PNG")
                    write_encoded(folder / f"{sheet}_{i}_{part}.png", save)
            index["sheets"][sheet].append(entry)
    write_json(folder / INDEX, index)


def read_heat_maps(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read ``RUN/heat_maps/DATASET``, which need not exist.

    Returns:
        For each sheet its images: ``caption``, the files ``path``, ``truth`` (``None`` if it is unknown) and
        ``anomaly_map``, and the anomaly scores ``lowest`` and ``highest`` that 0 and 255 stand for.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    index = read_record(path, HeatMaps, for_display=True)
    require(path, HeatMaps, _foreign_files(index))
    scale = {"lowest": index["lowest"], "highest": index["highest"]}
    return {
        sheet: [
            {"caption": entry["caption"], **scale}
            | {part: None if entry.get(name) is None else folder / entry[name] for part, name in PARTS.items()}
            for entry in entries
        ]
        for sheet, entries in index["sheets"].items()
    }


def _foreign_files(index: Mapping[str, Any]) -> Iterator[str]:
    """Name files that lie elsewhere; what an index names is uploaded."""
    for sheet, entries in index["sheets"].items():
        for entry in entries:
            for name in (entry[part] for part in PARTS.values() if entry.get(part) is not None):
                if not re.fullmatch(r"\w+\.png", name):
                    yield f"sheets.{sheet} must name files next to it, got {name}"
