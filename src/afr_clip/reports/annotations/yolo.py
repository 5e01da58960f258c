"""YOLO segmentation: a text file per photograph, ``data.yaml``, and links to the photographs next to them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from afr_clip.files import shown
from afr_clip.inspection.record import Inspected
from afr_clip.reports.annotations.shared import Labels, Photographs, as_json, drawn_outline, growing_text
from afr_clip.reports.pictures.maps import with_suffix

logger = logging.getLogger(__name__)


@contextmanager
def write_yolo(folder: Path, photographs: Photographs) -> Iterator[Callable[[Inspected], None]]:
    """Write ``labels/``, and ``images/`` with links, since a label file is found by the path of its image."""
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
