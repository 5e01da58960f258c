"""Images worth looking at, kept with their truth and anomaly map as pictures that a dashboard can overlay."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from afr_clip.files import written_whole
from afr_clip.reports.pictures.figures import Panel
from afr_clip.reports.record.run_folder import write_json

FOLDER = "heat_maps"
"""Folder of a run that holds one folder per dataset."""

INDEX = "index.json"
PARTS = {"path": "image", "truth": "truth", "anomaly_map": "anomaly_map"}
"""The pictures of an image, as they are read and as the index calls them."""


def write_heat_maps(folder: Path, sheets: Mapping[str, Sequence[Panel]]) -> None:
    """Write the images of a dataset to ``RUN/heat_maps/DATASET``; all maps share one scale of 256 steps.

    Args:
        sheets: Images by why they are worth looking at.
    """
    maps = [panel.anomaly_map for panels in sheets.values() for panel in panels]
    if not maps:
        return
    lowest, highest = min(float(one.min()) for one in maps), max(float(one.max()) for one in maps)
    index: dict[str, Any] = {"lowest": lowest, "highest": highest, "sheets": {}}
    for sheet, panels in sheets.items():
        index["sheets"][sheet] = []
        for i, panel in enumerate(panels):
            sample, share = panel.sample, (panel.anomaly_map - lowest) / max(highest - lowest, 1e-6)
            pictures: dict[str, NDArray[np.uint8] | None] = {
                "image": panel.image,
                "truth": None if panel.mask is None else panel.mask.astype(np.uint8) * np.uint8(255),
                "anomaly_map": np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8),
            }
            where = f"{sample.category} / {sample.defect_type} / {sample.image_path.name}"
            entry: dict[str, str | None] = {"caption": f"{where}, image score {panel.image_score:.3f}"}
            for part, pixels in pictures.items():
                entry[part] = None if pixels is None else f"{sheet}_{i}_{part}.png"
                if pixels is not None:
                    with written_whole(folder / f"{sheet}_{i}_{part}.png") as unfinished:
                        Image.fromarray(pixels).save(unfinished, format="PNG")
            index["sheets"][sheet].append(entry)
    write_json(folder / INDEX, index)


def read_heat_maps(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read ``RUN/heat_maps/DATASET``, which need not exist.

    Returns:
        For each sheet its images: ``caption``, the files ``path``, ``truth`` (``None`` if it is unknown) and
        ``anomaly_map``, and the anomaly probabilities ``lowest`` and ``highest`` that 0 and 255 stand for.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    index = json.loads(path.read_text(encoding="utf-8"))
    scale = {"lowest": index["lowest"], "highest": index["highest"]}
    return {
        sheet: [
            {"caption": entry["caption"], **scale}
            | {part: None if entry[name] is None else folder / entry[name] for part, name in PARTS.items()}
            for entry in entries
        ]
        for sheet, entries in index["sheets"].items()
    }
