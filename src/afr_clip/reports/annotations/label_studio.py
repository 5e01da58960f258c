"""Label Studio: tasks with predictions in percent of the photograph, and the labels that a project needs for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from afr_clip.files import in_one_line
from afr_clip.inspection.record import Inspected
from afr_clip.reports.annotations.shared import Labels, Photographs, as_json, drawn_outline, growing_text, label_of


@contextmanager
def write_label_studio(folder: Path, photographs: Photographs) -> Iterator[Callable[[Inspected], None]]:
    """Write ``tasks.json`` and ``labels.xml``.

    The photographs are addressed as files of Label Studio's local storage, below the folder that holds ``root``.
    """
    labels = Labels(0)
    above = in_one_line(photographs.root.absolute().name)
    with growing_text(folder / "tasks.json") as file, growing_text(folder / "labels.xml") as interface:
        separator = "["

        def add(one: Inspected) -> None:
            nonlocal separator
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
            task = {
                "data": {"image": f"/data/local-files/?d={quote(f'{above}/{one.image}')}"},
                "predictions": [prediction],
            }
            file.write(f"{separator}\n{as_json(task)}")
            separator = ","

        yield add
        file.write("[]\n" if separator == "[" else "\n]\n")
        values = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in labels)
        interface.write(
            '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
            f'  <PolygonLabels name="regions" toName="image">\n{values}  </PolygonLabels>\n</View>\n'
        )
