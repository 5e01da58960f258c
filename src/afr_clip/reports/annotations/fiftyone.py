"""FiftyOne: a dataset folder in its own JSON format."""

import base64
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import Region
from afr_clip.reports.annotations.shared import Photographs, as_json, growing_text, label_of


@contextmanager
def write_fiftyone(folder: Path, photographs: Photographs) -> Iterator[Callable[[Inspected], None]]:
    """Write ``samples.json`` and ``metadata.json``; each region is a detection with its mask.

    FiftyOne takes a folder without ``version`` in ``metadata.json`` for this form of its format, which has no fields of
    its database.
    """
    with growing_text(folder / "samples.json") as file, growing_text(folder / "metadata.json") as metadata:
        separator = ""

        def add(one: Inspected) -> None:
            nonlocal separator
            sample: dict[str, object] = {
                "filepath": photographs.seen_from(folder, one.image),
                "tags": [],
                "metadata": None,
                "image_score": one.image_score,
                "decision": None if one.decision is None else one.decision.value,
                "regions": {
                    "_cls": "Detections",
                    "detections": [_detection(region, one.width, one.height) for region in one.regions],
                },
            }
            file.write(f"{separator}\n{as_json(sample)}")
            separator = ","

        file.write('{"samples":[')
        yield add
        file.write("\n]}\n")
        info = {"model_version": photographs.model_version}
        metadata.write(f"{as_json({'name': 'regions', 'media_type': 'image', 'info': info})}\n")


def _detection(region: Region, image_width: int, image_height: int) -> dict[str, object]:
    x, y, width, height = region.box
    array = io.BytesIO()
    np.save(array, region.mask)
    return {
        "_cls": "Detection",
        "attributes": {},
        "tags": [],
        "label": label_of(region),
        "bounding_box": [x / image_width, y / image_height, width / image_width, height / image_height],
        "mask": base64.b64encode(zlib.compress(array.getvalue())).decode("ascii"),
        "confidence": region.peak,
        "area_px": region.area_px,
        "mean_score": region.mean,
    }
