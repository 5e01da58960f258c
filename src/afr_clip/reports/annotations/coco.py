"""COCO: one JSON file with images, annotations and categories, all numbered from 1."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import Region, run_lengths
from afr_clip.reports.annotations.shared import Labels, Photographs, as_json, growing_text


@contextmanager
def write_coco(folder: Path, photographs: Photographs) -> Iterator[Callable[[Inspected], None]]:
    """Write ``annotations/instances_default.json``, the name that Datumaro and CVAT look for.

    A region is a list of polygons, or run lengths if it has a hole, which COCO's polygons cannot tell.
    """
    labels, image_ids, region_ids = Labels(1), itertools.count(1), itertools.count(1)
    with (
        growing_text(folder / "annotations" / "instances_default.json") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8") as regions,
    ):

        def add(one: Inspected) -> None:
            image_id = next(image_ids)
            image = {"id": image_id, "width": one.width, "height": one.height, "file_name": one.image}
            file.write(("," if image_id > 1 else "") + "\n" + as_json(image | {"score": one.image_score}))
            for region in one.regions:
                region_id = next(region_ids)
                annotation = {
                    "id": region_id,
                    "image_id": image_id,
                    "category_id": labels.number(region),
                    "bbox": region.box,
                    "area": region.area_px,
                    "iscrowd": 0,
                    "score": region.peak,
                    "segmentation": _segmentation(region, one.width, one.height),
                }
                regions.write(("," if region_id > 1 else "") + "\n" + as_json(annotation))

        info = {"description": photographs.model_version}
        file.write(f'{{"info":{as_json(info)},\n"images":[')
        yield add
        file.write('\n],\n"annotations":[')
        regions.seek(0)
        shutil.copyfileobj(regions, file)
        categories = [{"id": number, "name": label, "supercategory": ""} for label, number in labels.items()]
        file.write(f'\n],\n"categories":{as_json(categories)}}}\n')


def _segmentation(region: Region, width: int, height: int) -> object:
    x, y, box_width, box_height = region.box
    # The area of a hole is negative.
    if min(cv2.contourArea(np.array(ring, dtype=np.float32), oriented=True) for ring in region.polygons) > 0:
        return [[number for corner in ring for number in corner] for ring in region.polygons]
    # Run lengths go down the columns of the whole image.
    runs = run_lengths(np.pad(region.mask, ((y, height - y - box_height), (0, 0))))
    runs[0] += x * height
    after = (width - x - box_width) * height
    if len(runs) % 2 == 1:
        runs[-1] += after
    elif after:
        runs.append(after)
    return {"size": [height, width], "counts": runs}
