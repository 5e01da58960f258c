"""Write what was found on photographs for annotation tools, in one pass over any number of photographs."""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from afr_clip.inspection.record import Inspected
from afr_clip.reports.annotations.coco import write_coco
from afr_clip.reports.annotations.cvat import write_cvat
from afr_clip.reports.annotations.fiftyone import write_fiftyone
from afr_clip.reports.annotations.label_studio import write_label_studio
from afr_clip.reports.annotations.labelme import write_labelme
from afr_clip.reports.annotations.shared import Photographs
from afr_clip.reports.annotations.yolo import write_yolo
from afr_clip.settings import AnnotationFormat

_WRITERS: Mapping[
    AnnotationFormat, Callable[[Path, Photographs], AbstractContextManager[Callable[[Inspected], None]]]
] = {
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
