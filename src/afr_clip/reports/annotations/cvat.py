"""CVAT: one XML file, "CVAT for images 1.1"."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from afr_clip.inspection.record import Inspected
from afr_clip.reports.annotations.shared import Labels, Photographs, drawn_outline, growing_text, label_of


@contextmanager
def write_cvat(folder: Path, photographs: Photographs) -> Iterator[Callable[[Inspected], None]]:
    """Write ``annotations.xml``. The images come last, because their labels have to be listed before them."""
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
