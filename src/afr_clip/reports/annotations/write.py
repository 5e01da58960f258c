"""Write what was found on photographs for other tools, in one pass over any number of photographs."""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from importlib.util import find_spec
from pathlib import Path

from afr_clip.inspection.record import Inspected
from afr_clip.reports.annotations.coco import write_coco
from afr_clip.reports.annotations.cvat import write_cvat
from afr_clip.reports.annotations.fiftyone import write_fiftyone
from afr_clip.reports.annotations.label_studio import write_label_studio
from afr_clip.reports.annotations.labelme import write_labelme
from afr_clip.reports.annotations.shared import Photographs
from afr_clip.reports.annotations.xlsx import write_xlsx
from afr_clip.reports.annotations.yolo import write_yolo
from afr_clip.settings import ExportFormat

_WRITERS: Mapping[ExportFormat, Callable[[Path, Photographs], AbstractContextManager[Callable[[Inspected], None]]]] = {
    ExportFormat.coco: write_coco,
    ExportFormat.label_studio: write_label_studio,
    ExportFormat.cvat: write_cvat,
    ExportFormat.labelme: write_labelme,
    ExportFormat.yolo: write_yolo,
    ExportFormat.fiftyone: write_fiftyone,
    ExportFormat.xlsx: write_xlsx,
}


class MissingPackageError(ValueError):
    """A format needs a package that is not installed."""


def check_formats(formats: Collection[ExportFormat]) -> None:
    """Check that formats can be written, before anything is scored.

    Raises:
        MissingPackageError: If a package is missing.
    """
    if ExportFormat.xlsx in formats and find_spec("xlsxwriter") is None:
        msg = (
            "The format xlsx needs the package xlsxwriter, which is not installed. Run pip install 'afr-clip[xlsx]', "
            "or leave xlsx out of formats."
        )
        raise MissingPackageError(msg)


def write_annotations(
    folder: Path, formats: Collection[ExportFormat], inspected: Iterable[Inspected], photographs: Photographs
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
