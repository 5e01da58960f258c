"""One HTML page per run to read and to pass on, made from the files of the run folder alone."""

import base64
import io
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from afr_clip.reports.run_folder import RunFolderError, write_text

PAGE = "report.html"

COLUMNS = {
    "image_auroc": ("I-AUROC", "Image level: area under the ROC curve; 50 is chance"),
    "image_ap": ("I-AP", "Image level: average precision"),
    "image_f1_max": ("I-F1max", "Image level: F1 at the best threshold"),
    "pixel_auroc": ("P-AUROC", "Pixel level: area under the ROC curve; 50 is chance"),
    "pixel_ap": ("P-AP", "Pixel level: average precision"),
    "pixel_f1_max": ("P-F1max", "Pixel level: F1 at the best threshold"),
    "pixel_aupro": ("PRO", "Pixel level: per-region overlap up to a false positive rate of 0.3"),
}
"""Heading and explanation of each metric, in the order of the table."""

PAPER_ARCHITECTURE = "ViT-L-14-336-quickgelu"

SHEETS = {
    "highest": "The images with the highest scores of all",
    "lowest": "The images with the lowest scores of all",
    "worst_ranked": "The worst-ranked images: normal ones that scored highest, then anomalous ones that scored lowest",
}
"""What each sheet of a dataset shows, by the name of its file."""

LARGEST_SIZE = (1400, 16383)
"""Pictures are embedded no wider and no taller than this; a WebP cannot be taller."""

QUALITY = 80
MOST_TRAINING_SHEETS = 4


@dataclass(frozen=True)
class TableRow:
    """One category, or the mean over all.

    Attributes:
        category: Its name.
        num_normal: Normal images scored.
        num_anomalous: Anomalous images scored.
        values: Fractions by metric; ``None`` where undefined.
    """

    category: str
    num_normal: int
    num_anomalous: int
    values: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A picture as it is embedded.

    Attributes:
        caption: What it shows.
        alt: The same for who cannot see it.
        source: A data URI.
        size: Width and height in pixels.
    """

    caption: str
    alt: str
    source: str
    size: tuple[int, int]


PictureGroup = tuple[str, list[Picture]]
"""Pictures under a common heading."""


def write_page(run_folder: Path) -> Path:
    """Write ``report.html`` from ``results.json`` and ``figures/``; may be repeated at any time.

    Args:
        run_folder: A run that scored at least one dataset.

    Returns:
        The page.

    Raises:
        RunFolderError: If nothing was scored in this folder.
    """
    results = run_folder / "results.json"
    content = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    if not content.get("results"):
        msg = (
            f"A page must have at least one scored dataset, got none in {run_folder}. "
            f"Name the folder of a train run with targets, or of an evaluate run."
        )
        raise RunFolderError(msg)
    groups = collect_pictures(run_folder / "figures", list(read_tables(content["results"])))
    write_text(run_folder / PAGE, render_page(content, groups))
    return run_folder / PAGE


def read_tables(results: Iterable[Mapping[str, Any]]) -> dict[str, list[TableRow]]:
    """Turn the rows of ``results.json``, one per value, into one row per category.

    Args:
        results: In the order they were written.

    Returns:
        The rows by dataset; the last of each is the mean, whatever the categories are called.
    """
    tables: dict[str, list[TableRow]] = {}
    for result in results:
        rows = tables.setdefault(result["dataset"], [])
        # A metric that comes again begins the next row, for a category may be called "mean" too.
        if not rows or rows[-1].category != result["category"] or result["metric"] in rows[-1].values:
            rows.append(TableRow(result["category"], result["num_normal"], result["num_anomalous"]))
        rows[-1].values[result["metric"]] = result["value"]
    return tables


def collect_pictures(figures: Path, datasets: Sequence[str]) -> list[PictureGroup]:
    """Read the sheets of each dataset, then those of the training.

    Args:
        figures: The folder of figures; it need not exist.
        datasets: Names of the datasets that were scored.

    Returns:
        One group per dataset that has pictures, and one for the training if it has.
    """
    found = [(name, {figures / name / f"{sheet}.png": said for sheet, said in SHEETS.items()}) for name in datasets]
    training = {figures / "curves.png": "Losses and learning rate over the epochs, which count from 0"}
    for path in spread(sorted((figures / "training").glob("epoch_*.png")), MOST_TRAINING_SHEETS):
        training[path] = f"First training batch of epoch {int(path.stem.removeprefix('epoch_'))}"
    groups = [
        (
            heading,
            [read_picture(path, caption, f"{heading}: {caption}") for path, caption in said.items() if path.exists()],
        )
        for heading, said in [*found, ("Training", training)]
    ]
    return [(heading, pictures) for heading, pictures in groups if pictures]


def spread(paths: Sequence[Path], num: int) -> list[Path]:
    """Choose at most ``num`` (2 or more) of a sequence evenly, its first and its last among them."""
    if len(paths) <= num:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (num - 1))] for i in range(num)]


def read_picture(path: Path, caption: str, alt: str) -> Picture:
    """Read a picture and make it small enough to embed: as WebP, no larger than `LARGEST_SIZE`."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail(LARGEST_SIZE)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=QUALITY)
    source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(caption, alt, source, picture.size)


def render_page(content: Mapping[str, Any], groups: Sequence[PictureGroup]) -> str:
    """Lay out the whole page.

    Args:
        content: What ``results.json`` holds.
        groups: The pictures.

    Returns:
        HTML that needs nothing from outside.
    """
    manifest, trained = content["manifest"], _training(content["manifest"])
    tables = read_tables(content["results"])
    sections = []
    for i, (name, rows) in enumerate(tables.items()):
        notes = _notes(content["categories_in_mean"][name], len(rows) - 1, content["vanished_defects"][name])
        said = "".join(f'<p class="quiet">{escape(note)}</p>\n' for note in notes)
        sections.append(f'<h3 id="results-{i}">{escape(name)}</h3>\n{render_table(name, rows)}\n{said}')
    shell = Template(files("afr_clip.reports").joinpath("page.html").read_text(encoding="utf-8"))
    started = str(manifest["started"])[:10]
    return shell.substitute(
        title=escape(f"AFR-CLIP {manifest['command']}: {', '.join(tables)}"),
        subtitle=escape(f"Trained on {trained['auxiliary']['name']} with seed {trained['seed']}; started {started}"),
        notices=render_notices(manifest["backbone"]),
        contents=_contents(tables, groups),
        results="".join(sections),
        pictures=render_pictures(groups),
        provenance=render_facts(list_facts(manifest)),
    )


def render_notices(backbone: Mapping[str, Any]) -> str:
    """Say what must be known before a number is read.

    Args:
        backbone: The manifest's entry.

    Returns:
        HTML; empty for the paper's backbone with its weights.
    """
    notices = []
    if backbone["random_weights"]:
        notices.append(
            '<p class="notice" role="note"><strong>Random weights.</strong> The backbone of this run was never '
            "trained. The numbers and pictures show that the machinery works and say nothing about the method.</p>"
        )
    if backbone["architecture"] != PAPER_ARCHITECTURE:
        named = escape(f"{backbone['name']} ({backbone['architecture']})")
        notices.append(
            f'<p class="quiet">The backbone {named} produced these numbers. It is not the paper\'s model, which is '
            f"<code>{PAPER_ARCHITECTURE}</code>.</p>"
        )
    return "\n".join(notices)


def render_table(dataset: str, rows: Sequence[TableRow]) -> str:
    """Lay out the results of a dataset.

    Args:
        dataset: Its name.
        rows: Its categories, then the mean.

    Returns:
        A table in percent with the mean in its foot, where no sorting reaches it.
    """
    labels = [("Category", ""), *COLUMNS.values(), ("Normal", "Normal images"), ("Anomalous", "Anomalous images")]
    header = "".join(
        f'<th scope="col"><button type="button" title="{escape(said)}">{escape(label)}</button></th>'
        for label, said in labels
    )
    body = "\n".join(_table_row(row) for row in rows[:-1])
    region = f'role="region" tabindex="0" aria-label="Results of {escape(dataset)}"'  # scrolls by keyboard too
    return (
        f'<div class="scroll" {region}>\n<table>\n<thead><tr>{header}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n<tfoot>\n{_table_row(rows[-1])}\n</tfoot>\n</table>\n</div>"
    )


def render_pictures(groups: Sequence[PictureGroup]) -> str:
    """Lay out the pictures under their headings, each with its caption."""
    if not groups:
        return '<p class="quiet">This run drew no pictures.</p>'
    parts = []
    for i, (heading, pictures) in enumerate(groups):
        parts.append(f'<h3 id="pictures-{i}">{escape(heading)}</h3>')
        for picture in pictures:
            width, height = picture.size
            parts.append(
                f"<figure>\n<figcaption>{escape(picture.caption)}.</figcaption>\n"
                f'<img src="{picture.source}" width="{width}" height="{height}" alt="{escape(picture.alt)}">\n</figure>'
            )
    return "\n".join(parts)


def list_facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say where the numbers of a run come from.

    Args:
        manifest: Of the run.

    Returns:
        Terms and what they stand for, as plain text.
    """
    backbone, machine, checkpoint = manifest["backbone"], manifest["machine"], manifest.get("checkpoint")
    weights = " with random weights" if backbone["random_weights"] else ""
    facts = [
        ("Command", shlex.join(["python", "-m", f"afr_clip.{manifest['command']}", *manifest["overrides"]])),
        ("Started", str(manifest["started"])),
        ("Commit", _commit(manifest["commit"])),
        ("Seed", str(manifest["seed"])),
        (
            "Backbone",
            f"{backbone['name']} ({backbone['architecture']}){weights}, SHA-256 {backbone['fingerprint'][:12]}",
        ),
        ("Trained on", _dataset(_training(manifest)["auxiliary"])),
    ]
    if checkpoint is not None:
        trained = f"seed {checkpoint['seed']}, epochs {checkpoint['epochs']}, commit {_commit(checkpoint['commit'])}"
        facts.append(("Checkpoint", f"{checkpoint['path']}: {trained}"))
    facts += [("Scored", _dataset(target)) for target in manifest["targets"].values()]
    versions = {"afr_clip": manifest["afr_clip"], "python": manifest["python"], **manifest["packages"]}
    hardware = ", ".join([machine["processor"], f"{machine['threads']} threads", *(machine["gpus"] or ["no GPU"])])
    return [
        *facts,
        ("Machine", f"{hardware}; {machine['system']}"),
        ("Versions", ", ".join(f"{name} {version or 'unknown'}" for name, version in versions.items())),
    ]


def render_facts(facts: Iterable[tuple[str, str]]) -> str:
    """Lay out terms and what they stand for."""
    return "<dl>\n" + "".join(f"<dt>{escape(term)}</dt><dd>{escape(fact)}</dd>\n" for term, fact in facts) + "</dl>"


def _contents(tables: Mapping[str, Any], groups: Sequence[PictureGroup]) -> str:
    if len(tables) == 1:
        return ""
    links = [(f"results-{i}", name) for i, name in enumerate(tables)]
    links += [(f"pictures-{i}", f"{heading}: pictures") for i, (heading, _) in enumerate(groups)]
    items = "".join(f'<li><a href="#{place}">{escape(name)}</a></li>' for place, name in links)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _table_row(row: TableRow) -> str:
    values = [row.values[metric] for metric in COLUMNS]
    cells = [("", "-") if value is None else (repr(value), f"{100 * value:.1f}") for value in values]
    cells += [(str(count), str(count)) for count in (row.num_normal, row.num_anomalous)]
    inside = "".join(f'<td data-value="{exact}">{shown}</td>' for exact, shown in cells)
    return f'<tr><th scope="row">{escape(row.category)}</th>{inside}</tr>'


def _notes(num_defined: Mapping[str, int], num_categories: int, vanished: Mapping[str, int]) -> list[str]:
    partly = ", ".join(f"{COLUMNS[metric][0]} {n}" for metric, n in num_defined.items() if n < num_categories)
    lost = ", ".join(f"{category} {n}" for category, n in vanished.items() if n)
    notes = {
        f'"-" is undefined and left out of the mean. Categories in the mean, of {num_categories}: {partly}.': partly,
        f"Defect regions that lost their last pixel when masks were resized: {lost}.": lost,
    }
    return [note for note, said in notes.items() if said]


def _training(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    # An evaluate run did not train; its checkpoint did.
    training: Mapping[str, Any] = manifest if "auxiliary" in manifest else manifest["checkpoint"]
    return training


def _dataset(facts: Mapping[str, Any]) -> str:
    counts = f"{facts['num_normal']} normal and {facts['num_anomalous']} anomalous images"
    return f"{facts['name']} ({', '.join(facts['categories'])}): {counts}, SHA-256 {facts['sha256'][:12]}"


def _commit(commit: Mapping[str, Any] | None) -> str:
    if commit is None:
        return "unknown, not run from a checkout"
    return f"{commit['hash']}{', with uncommitted changes' if commit['dirty'] else ''}"
