"""Images worth looking at with their truth and their anomaly map, kept as pictures that a dashboard can lay over."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class HeatMapFiles:
    """One image as it was kept.

    Attributes:
        caption: What is on it, and its image score.
        image: RGB.
        truth: 0 and 255; ``None`` where it is unknown.
        anomaly_map: From 0 to 255 between ``lowest`` and ``highest``.
        lowest: The lowest anomaly probability in the maps of its dataset that are kept.
        highest: The highest.
    """

    caption: str
    image: Path
    truth: Path | None
    anomaly_map: Path
    lowest: float
    highest: float


def write_heat_maps(folder: Path, sheets: Mapping[str, Sequence[Panel]]) -> None:
    """Keep the images of a dataset; all maps share one scale, which is as fine as 256 steps allow.

    Args:
        folder: ``RUN/heat_maps/DATASET``.
        sheets: Images by why they are worth looking at.
    """
    panels = [panel for of_sheet in sheets.values() for panel in of_sheet]
    if not panels:
        return
    lowest = min(float(panel.anomaly_map.min()) for panel in panels)
    highest = max(float(panel.anomaly_map.max()) for panel in panels)
    index: dict[str, Any] = {"lowest": lowest, "highest": highest, "sheets": {}}
    for sheet, of_sheet in sheets.items():
        index["sheets"][sheet] = [
            _write(folder, f"{sheet}_{i}", panel, (lowest, highest)) for i, panel in enumerate(of_sheet)
        ]
    write_json(folder / INDEX, index)


def read_heat_maps(folder: Path) -> dict[str, list[HeatMapFiles]]:
    """Read what is kept of a dataset.

    Args:
        folder: ``RUN/heat_maps/DATASET``.

    Returns:
        Images by why they are worth looking at; none where nothing is kept.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    index = json.loads(path.read_text(encoding="utf-8"))
    return {
        sheet: [
            HeatMapFiles(
                entry["caption"],
                folder / entry["image"],
                None if entry["truth"] is None else folder / entry["truth"],
                folder / entry["anomaly_map"],
                index["lowest"],
                index["highest"],
            )
            for entry in entries
        ]
        for sheet, entries in index["sheets"].items()
    }


def _write(folder: Path, name: str, panel: Panel, scale: tuple[float, float]) -> dict[str, str | None]:
    sample = panel.sample
    lowest, highest = scale
    share = (panel.anomaly_map - lowest) / max(highest - lowest, 1e-6)
    pictures: dict[str, NDArray[np.uint8] | None] = {
        "image": panel.image,
        "truth": None if panel.mask is None else panel.mask.astype(np.uint8) * np.uint8(255),
        "anomaly_map": np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8),
    }
    said = f"{sample.category} / {sample.defect_type} / {sample.image_path.name}, image score {panel.image_score:.3f}"
    entry: dict[str, str | None] = {"caption": said}
    for part, pixels in pictures.items():
        entry[part] = None if pixels is None else f"{name}_{part}.png"
        if pixels is not None:
            with written_whole(folder / f"{name}_{part}.png") as unfinished:
                Image.fromarray(pixels).save(unfinished, format="PNG")
    return entry
