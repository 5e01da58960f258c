"""LabelMe: one JSON file per photograph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from afr_clip.inspection.record import Inspected
from afr_clip.reports.annotations.shared import Photographs, as_json, drawn_outline, growing_text, label_of
from afr_clip.reports.pictures.maps import with_suffix


@contextmanager
def write_labelme(folder: Path, photographs: Photographs) -> Iterator[Callable[[Inspected], None]]:
    """Write a file for each photograph, which leads to the photograph by a relative path."""

    def add(one: Inspected) -> None:
        path = folder / with_suffix(photographs.places[one.image], ".json")
        shapes: list[dict[str, object]] = [
            {
                "label": label_of(region),
                "points": drawn_outline(region),
                "group_id": None,
                "description": f"score {region.peak!r}",
                "shape_type": "polygon",
                "flags": {},
            }
            for region in one.regions
        ]
        content: dict[str, object] = {
            "version": "5.5.0",  # of the format
            "flags": {},
            "shapes": shapes,
            "imagePath": photographs.seen_from(path.parent, one.image),
            "imageData": None,
            "imageHeight": one.height,
            "imageWidth": one.width,
        }
        with growing_text(path) as file:
            file.write(f"{as_json(content)}\n")

    yield add
