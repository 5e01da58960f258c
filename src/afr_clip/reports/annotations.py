"""What was found on photographs, for annotation tools: one pass over any number of photographs writes all formats."""

import base64
import io
import itertools
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import cv2
import numpy as np

from afr_clip.files import in_one_line, shown, written_whole
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import Polygon, Region, run_lengths
from afr_clip.reports.pictures.maps import with_suffix
from afr_clip.settings import AnnotationFormat

logger = logging.getLogger(__name__)

Add = Callable[[Inspected], None]
"""Adds a photograph to what is written."""

ANOMALY = "anomaly"
"""The label of regions without a hint."""

FEW_CORNERS = 24
"""Up to this many corners, an outline is easy to edit by hand."""


@dataclass(frozen=True)
class Photographs:
    """The photographs that annotations belong to.

    Attributes:
        root: The folder that their names start from.
        places: Where the files about each photograph lie below a folder, without suffix, by its name.
        model_version: The detector in a few words.
    """

    root: Path
    places: Mapping[str, Path]
    model_version: str

    def seen_from(self, folder: Path, image: str) -> str:
        """Return the path of a photograph relative to a folder, in characters that a file can hold."""
        return in_one_line(Path(os.path.relpath(self.root / image, folder)).as_posix())


class Labels(dict[str, int]):
    """The labels so far and their numbers, which begin with `ANOMALY`."""

    def __init__(self, first: int) -> None:
        super().__init__({ANOMALY: first})
        self._first = first

    def number(self, region: Region) -> int:
        """Return the number of a region's label."""
        return self.setdefault(label_of(region), self._first + len(self))


def label_of(region: Region) -> str:
    """Return the word that a region's hint names, or `ANOMALY`."""
    return ANOMALY if region.hint is None else shown(region.hint.word)


def one_ring(polygons: tuple[Polygon, ...]) -> list[list[float]]:
    """Join the rings of a region by bridges of no width, for tools that know neither holes nor parts.

    Filled by the even-odd rule, the ring covers the same pixels.

    Example:
        >>> one_ring((((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)), ((1.0, 1.0), (2.0, 2.0), (1.0, 2.0))))
        [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 2.0], [1.0, 2.0], [1.0, 1.0]]
    """
    ring = np.array(polygons[0])
    for polygon in polygons[1:]:
        other = np.array(polygon)
        # From the upper corner of the next ring to the nearest one so far, and back.
        nearest = int(((ring - other[0]) ** 2).sum(axis=1).argmin())
        there_and_back = [other, other[:1], ring[nearest : nearest + 1]]
        if (ring[nearest] == other[0]).all():
            there_and_back = [other[1:], other[:1]]
        ring = np.concatenate([ring[: nearest + 1], *there_and_back, ring[nearest + 1 :]])
    return ring.tolist()


def drawn_outline(region: Region) -> list[list[float]]:
    """Return a region as one ring with few corners, about a pixel off at most, that a person can correct.

    Rings that already have few corners, or whose area would change by more than 5 %, are kept.
    """
    return one_ring(tuple(map(_smoothed, region.polygons)))


def _smoothed(ring: Polygon) -> Polygon:
    if len(ring) <= FEW_CORNERS:
        return ring
    exact = np.array(ring, dtype=np.float32)
    smooth = cv2.approxPolyDP(exact, 1.0, closed=True)
    area = cv2.contourArea(exact)
    is_close = abs(cv2.contourArea(smooth) - area) <= 0.05 * area
    return tuple((x, y) for x, y in smooth[:, 0].tolist()) if is_close else ring


def as_json(content: object) -> str:
    """Return one line of JSON, with letters of all languages as they are."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class _Items:
    """The items of a JSON array, each on a line of its own."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.num = 0

    def add(self, item: object) -> None:
        self._file.write(f"{',' if self.num else ''}\n{as_json(item)}")
        self.num += 1


@contextmanager
def growing_text(path: Path) -> Iterator[TextIO]:
    """Open a file that replaces the one before once everything is written."""
    with written_whole(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def write_coco(folder: Path, photographs: Photographs) -> Iterator[Add]:
    """Write COCO's ``annotations/instances_default.json``, the name that Datumaro and CVAT look for.

    Everything in it is numbered from 1. A region is a list of polygons, or run lengths if it has a hole, which COCO's
    polygons cannot tell.
    """
    labels = Labels(1)
    with (
        growing_text(folder / "annotations" / "instances_default.json") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8") as later,
    ):
        images, regions = _Items(file), _Items(later)

        def add(one: Inspected) -> None:
            image_id = images.num + 1
            image = {"id": image_id, "width": one.width, "height": one.height, "file_name": one.image}
            images.add(image | {"score": one.image_score})
            for region in one.regions:
                regions.add(
                    {
                        "id": regions.num + 1,
                        "image_id": image_id,
                        "category_id": labels.number(region),
                        "bbox": region.box,
                        "area": region.area_px,
                        "iscrowd": 0,
                        "score": region.peak,
                        "segmentation": _segmentation(region, one.width, one.height),
                    }
                )

        info = {"description": photographs.model_version}
        file.write(f'{{"info":{as_json(info)},\n"images":[')
        yield add
        file.write('\n],\n"annotations":[')
        later.seek(0)
        shutil.copyfileobj(later, file)
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


@contextmanager
def write_label_studio(folder: Path, photographs: Photographs) -> Iterator[Add]:
    """Write Label Studio's ``tasks.json``, in percent of the photograph, and the ``labels.xml`` that a project needs.

    The photographs are addressed as files of Label Studio's local storage, below the folder that holds ``root``.
    """
    labels = Labels(0)
    above = in_one_line(photographs.root.absolute().name)
    with growing_text(folder / "tasks.json") as file, growing_text(folder / "labels.xml") as interface:
        tasks = _Items(file)

        def add(one: Inspected) -> None:
            scale = (100 / one.width, 100 / one.height)
            results = []
            for number, region in enumerate(one.regions):
                labels.number(region)
                points = [[round(x * scale[0], 6), round(y * scale[1], 6)] for x, y in drawn_outline(region)]
                results.append(
                    {
                        "id": f"region{number}",
                        "from_name": "regions",
                        "to_name": "image",
                        "type": "polygonlabels",
                        "original_width": one.width,
                        "original_height": one.height,
                        "image_rotation": 0,
                        "score": region.peak,
                        "value": {"points": points, "closed": True, "polygonlabels": [label_of(region)]},
                    }
                )
            # Not the calibrated score, which rounds to 1 for all that are far above the threshold.
            prediction = {"model_version": photographs.model_version, "score": one.image_score, "result": results}
            address = f"/data/local-files/?d={quote(f'{above}/{one.image}')}"
            tasks.add({"data": {"image": address}, "predictions": [prediction]})

        file.write("[")
        yield add
        file.write("\n]\n" if tasks.num else "]\n")
        values = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in labels)
        interface.write(
            '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
            f'  <PolygonLabels name="regions" toName="image">\n{values}  </PolygonLabels>\n</View>\n'
        )


@contextmanager
def write_cvat(folder: Path, photographs: Photographs) -> Iterator[Add]:
    """Write ``annotations.xml``, "CVAT for images 1.1", with the images last: their labels come before them."""
    labels, ids = Labels(0), itertools.count()
    with growing_text(folder / "annotations.xml") as file, tempfile.TemporaryFile("w+", encoding="utf-8") as images:

        def add(one: Inspected) -> None:
            images.write(
                f'  <image id="{next(ids)}" name={quoteattr(one.image)} width="{one.width}" height="{one.height}">\n'
            )
            for region in one.regions:
                labels.number(region)
                points = ";".join(f"{x:.1f},{y:.1f}" for x, y in drawn_outline(region))
                images.write(
                    f'    <polygon label={quoteattr(label_of(region))} source="auto" occluded="0" points="{points}" '
                    f'z_order="0">\n      <attribute name="score">{region.peak!r}</attribute>\n    </polygon>\n'
                )
            images.write("  </image>\n")

        yield add
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        file.write(f"  <meta><task><name>{escape(photographs.model_version)}</name><labels>\n")
        for label in labels:
            file.write(
                f"    <label><name>{escape(label)}</name><attributes><attribute><name>score</name>"
                "<mutable>False</mutable><input_type>text</input_type><default_value></default_value><values></values>"
                "</attribute></attributes></label>\n"
            )
        file.write("  </labels></task></meta>\n")
        images.seek(0)
        shutil.copyfileobj(images, file)
        file.write("</annotations>\n")


@contextmanager
def write_labelme(folder: Path, photographs: Photographs) -> Iterator[Add]:
    """Write a JSON file of LabelMe for each photograph, which leads to the photograph by a relative path."""

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


@contextmanager
def write_yolo(folder: Path, photographs: Photographs) -> Iterator[Add]:
    """Write YOLO's ``data.yaml``, ``labels/``, and ``images/`` with links, by whose paths label files are found."""
    labels, can_link = Labels(0), True

    def add(one: Inspected) -> None:
        nonlocal can_link
        place = photographs.places[one.image]
        with growing_text(folder / "labels" / with_suffix(place, ".txt")) as file:
            for region in one.regions:
                corners = (f"{x / one.width:.7f} {y / one.height:.7f}" for x, y in drawn_outline(region))
                file.write(f"{labels.number(region)} {' '.join(corners)}\n")
        link = folder / "images" / with_suffix(place, Path(one.image).suffix)
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            link.unlink()
        photograph = (photographs.root / one.image).absolute()
        # Escaped names have no file of that name. A copy that someone put there is kept.
        if can_link and photograph.exists() and not link.exists():
            try:
                link.symlink_to(photograph)
            except OSError as error:  # exFAT has no links
                can_link = False
                logger.warning(
                    "%s cannot hold links to the photographs: %s. Copy each photograph there, under the name of its "
                    "label file.",
                    *(shown(folder / "images"), error.strerror),
                )

    yield add
    with growing_text(folder / "data.yaml") as file:
        names = "".join(f"  {number}: {as_json(label)}\n" for label, number in labels.items())
        file.write(f"train: images\nval: images\nnames:\n{names}")


@contextmanager
def write_fiftyone(folder: Path, photographs: Photographs) -> Iterator[Add]:
    """Write ``samples.json`` and ``metadata.json``; each region is a detection with its mask.

    FiftyOne takes a folder without ``version`` in ``metadata.json`` for this form of its format, which has no fields of
    its database.
    """
    with growing_text(folder / "samples.json") as file, growing_text(folder / "metadata.json") as metadata:
        samples = _Items(file)

        def add(one: Inspected) -> None:
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
            samples.add(sample)

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


_WRITERS: Mapping[AnnotationFormat, Callable[[Path, Photographs], AbstractContextManager[Add]]] = {
    AnnotationFormat.coco: write_coco,
    AnnotationFormat.label_studio: write_label_studio,
    AnnotationFormat.cvat: write_cvat,
    AnnotationFormat.labelme: write_labelme,
    AnnotationFormat.yolo: write_yolo,
    AnnotationFormat.fiftyone: write_fiftyone,
}


def write_annotations(
    folder: Path, formats: Collection[AnnotationFormat], inspected: Iterable[Inspected], photographs: Photographs
) -> None:
    """Write a folder for each format. The same photographs give the same bytes.

    Args:
        inspected: In the order in which the files shall list them; a stream is enough.
    """
    with ExitStack() as stack:
        adders = [stack.enter_context(_WRITERS[name](folder / name.value, photographs)) for name in formats]
        for one in inspected:
            for add in adders:
                add(one)
