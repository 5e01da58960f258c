"""The model card of shared weights: the README that the Hugging Face Hub shows, with results of ``results.json``."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from afr_clip.files import counted, for_shell, in_one_line, shown
from afr_clip.metrics.average import PUBLISHED_PRO
from afr_clip.reports.layout.text import escape_markdown, to_markdown
from afr_clip.reports.record.provenance import backbone_notices, method_of
from afr_clip.reports.record.results import RESULTS, read_results
from afr_clip.reports.record.run_folder import RunFolderError

if TYPE_CHECKING:
    import pandas as pd

INTENDED_USE = """\
- Rank photographs of one kind of thing by how likely each shows a defect, and point at it, without training on them.
- With a calibration on photographs of good parts (`afr-clip calibrate`), decide with a bound on false alarms.
- Research on zero-shot anomaly detection, with the same data splits and metrics as the results above.
"""

LIMITS = """\
- A score ranks photographs of one kind of thing. It is no probability, and does not compare different things.
- Only the datasets under Results were measured. On other things, cameras and lighting, measure before you rely on it.
- Small, faint and logical defects (a missing or misplaced part) may be missed. A person should see what matters.
- It is not for diagnosis of patients, nor the only guard where a missed defect can hurt somebody.
"""


@dataclass(frozen=True)
class SharedModel:
    """What a model card tells.

    Attributes:
        place: ``OWNER/NAME`` on the hub.
        licence: Of the trained weights, as the hub abbreviates it: ``apache-2.0``.
        manifest: Of the training, without names of folders.
        image_size: Side in pixels at which photographs are scored.
        data: Title, source and licence of the dataset that was trained on, as far as they are known.
    """

    place: str
    licence: str
    manifest: Mapping[str, Any]
    image_size: int
    data: Mapping[str, str]


def results_of(checkpoint: Path, runs: Sequence[Path]) -> "Iterator[tuple[dict[str, Any], pd.DataFrame]]":
    """Read the results of runs, which must be those of a checkpoint's weights.

    Raises:
        RunFolderError: If they are not, or if there are none.
    """
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    for run in runs:
        if not (run / RESULTS).is_file():
            msg = f"{shown(run)} holds no {RESULTS}. Name the folder of an evaluate run: --results RUN."
            raise RunFolderError(msg)
        content, values = read_results(run / RESULTS, for_display=True)
        if (content["manifest"].get("scored_with") or {}).get("checkpoint_sha256") != sha256:
            msg = (
                f"{shown(run)} was scored with other weights than {shown(checkpoint)}, or with an early version. "
                f"Score them again: afr-clip evaluate {for_shell(f'checkpoint={checkpoint}')}."
            )
            raise RunFolderError(msg)
        yield content, values


def model_card(model: SharedModel, results: "Sequence[tuple[Mapping[str, Any], pd.DataFrame]]") -> str:
    """Write the card.

    Args:
        results: Content and values of each ``results.json``, as `read_results` gives them for display.
    """
    manifest, name = model.manifest, model.place.partition("/")[2]
    backbone = {**manifest["config"]["backbone"], **manifest["backbone"]}
    head = {
        "license": model.licence,
        "library_name": "afr-clip",
        "tags": ["anomaly-detection", "anomaly-segmentation", "zero-shot", "visual-inspection", "clip"],
    }
    method = str(manifest["config"]["module"]["name"])
    notices = [text for _, text in backbone_notices(backbone, method)]
    named = escape_markdown(in_one_line(str(backbone["name"])))
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {escape_markdown(name)}\n",
        f"Trained weights of {escape_markdown(method_of(manifest))} for zero-shot visual anomaly detection: a score "
        f"for each photograph, and a heat map over its pixels. They need the frozen backbone {named}, which is not "
        f"part of this repository.\n",
        *(f"> {escape_markdown(note)}\n" for note in notices),
        f"## Use\n\n{_usage(model.place)}",
        f"## Training\n\n{_training(model)}",
        f"## Results\n\n{_results(results)}",
        f"## Intended use\n\n{INTENDED_USE}",
        f"## Limits\n\n{LIMITS}",
        f"## Licence\n\n{_licence(model)}",
    ]
    return "\n".join(parts)


def _usage(place: str) -> str:
    return (
        "```python\nimport afr_clip\n\n"
        f'detector = afr_clip.load("hf:{place}")\n'
        'inspection = detector.inspect("part.png", category="metal nut")\n```\n\n'
        "```sh\n"
        f"afr-clip predict checkpoint=hf:{place} images=FOLDER category='metal nut'\n```\n\n"
        "`model.safetensors` holds the trained weights; `config.json` holds method, settings and where they come from. "
        "Nothing in them is code.\n"
    )


def _training(model: SharedModel) -> str:
    manifest, image_size = model.manifest, model.image_size
    backbone, data, commit = manifest["backbone"], manifest.get("auxiliary"), manifest.get("commit")
    weights = {**manifest["config"]["backbone"], **backbone}
    facts = {
        "Backbone": f"{weights['architecture']}, SHA-256 of its weights {backbone['fingerprint'][:12]}",
        "Photographs seen at": f"{image_size} x {image_size} pixels",
        "Trained on": str(manifest["trained_on"]["name"]),
        "Epochs": str(manifest["epochs"]),
        "Seed": str(manifest.get("seed", "not recorded")),
        "Commit": "unknown" if commit is None else f"{commit['hash']}{', with changes' if commit['dirty'] else ''}",
    }
    if data is not None:
        images = f"{data['num_normal']} normal and {data['num_anomalous']} anomalous images"
        facts["Trained on"] = (
            f"{data['name']}: {images} of {counted(len(data['categories']), 'category', 'categories')}"
        )
    rows = "".join(f"| {term} | {escape_markdown(in_one_line(fact))} |\n" for term, fact in facts.items())
    return f"| | |\n|---|---|\n{rows}"


def _results(results: "Sequence[tuple[Mapping[str, Any], pd.DataFrame]]") -> str:
    from afr_clip.reports.page import results_grid  # noqa: PLC0415 - pandas takes half a second

    parts = []
    for content, values in results:
        for dataset, of_dataset in values[values.metric != PUBLISHED_PRO].groupby("dataset", sort=False):
            facts = content["manifest"]["targets"][dataset]
            counts = f"{facts['num_normal']} normal and {facts['num_anomalous']} anomalous images"
            parts.append(
                f"{escape_markdown(str(dataset))}, {counts}, no image of which was trained on:\n\n"
                f"{to_markdown([results_grid(str(dataset), of_dataset)])}"
            )
    if not parts:
        return "Nothing was measured for this card. Measure it on your own data: `afr-clip evaluate`.\n"
    parts.append('In percent; I- is by image, P- by pixel. "-" is undefined and left out of the mean.\n')
    return "\n".join(parts)


def _licence(model: SharedModel) -> str:
    lines = [f"The weights in this repository: {escape_markdown(model.licence)}."]
    if model.data:
        title, source, licence = (escape_markdown(model.data[key]) for key in ("title", "source", "licence"))
        lines.append(f"They were trained on {title} ({source}), whose licence is: {licence}. It may limit their use.")
    lines.append("The backbone comes from its own publisher, under that publisher's licence.")
    return "\n".join(f"- {line}" for line in lines) + "\n"
