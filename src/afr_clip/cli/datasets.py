"""The commands of `python -m afr_clip.datasets`: list, show, check, convert and unpack datasets."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from afr_clip.data.disk.layouts import DATASETS, dataset_row
from afr_clip.data.disk.reading import DatasetSpec, find_root, layout_at, list_entries
from afr_clip.data.disk.rows.row import Count, Domain
from afr_clip.data.errors import DataError
from afr_clip.data.tools.archives import unpack_archives
from afr_clip.data.tools.check import OTHER_NUMBERS, DatasetCheck, check_dataset, count_entries, sum_counts
from afr_clip.data.tools.convert import write_meta_json
from afr_clip.files import counted, for_shell, shown
from afr_clip.reports.layout.text import terminal


def list_datasets(data_dir: Path | None) -> None:
    """Print every public dataset with its published numbers, and what is found below ``data_dir``."""
    table = Table(
        title=f"Datasets below {data_dir}"
        if data_dir
        else "Datasets (set --data-dir or AFR_CLIP_DATA_DIR to find them)"
    )
    for heading in ("dataset=", "title", "domain", "scored"):
        table.add_column(heading)
    table.add_column("published", justify="right")
    table.add_column("on disk", justify="right")
    table.add_column("where", overflow="fold")
    for row in DATASETS.values():
        if row.domain is not Domain.OWN:
            found, where = on_disk(DatasetSpec(row.name, row.name, data_dir=data_dir))
            table.add_row(
                row.name, row.title, row.domain.value, " + ".join(row.levels), _count(row.total), found, where
            )
    table.caption = "Numbers are normal + anomalous test images."
    terminal().print(table)


def show_dataset(name: str) -> None:
    """Print a dataset's layout, numbers, source, licence and citation, and how to get it."""
    row = dataset_row(name)
    lines = [f"{row.title or row.name}  (dataset={row.name})", ""]
    lines += [f"folder      {' or '.join(row.folders) or 'any: set dataset.root=DIR'}"]
    lines += [f"layout      {layout.where}" for layout in row.layouts]
    if row.total is not None:
        lines += [f"test images {_count(row.total)}, normal + anomalous; scored: {' and '.join(row.levels)} level"]
    lines += [f"            {category} {_count(count)}" for category, count in row.counts.items()]
    lines += [f"prompts     {category}: {words!r}" for category, words in row.prompt_names.items()]
    if row.provenance is not None:
        lines += [f"source      {row.provenance.source}", f"licence     {row.provenance.licence}"]
        lines += [f"citation    {row.provenance.citation}"]
        lines += [f"SHA-256     {sha256}  {file}" for file, sha256 in row.provenance.archives.items()]
        lines += [f"note        {note}" for note in row.provenance.notes]
        lines += ["", "How to get it:"]
        lines += [f"  {number}. {step}" for number, step in enumerate(row.provenance.steps, start=1)]
        lines += [f"  {len(row.provenance.steps) + 1}. python -m afr_clip.datasets check {row.name}"]
    sys.stdout.write("\n".join(lines) + "\n")


def check(spec: DatasetSpec, *, is_part: bool, max_pixels: int) -> bool:
    """Check a dataset and print what was found; return whether there is no fault.

    Args:
        is_part: Whether it is all right to have fewer images than published.
        max_pixels: Most pixels of a file.
    """
    found = check_dataset(spec, is_part=is_part, max_pixels=max_pixels)
    table = Table(title=escape(f"{spec.name} in {shown(found.root)}"))
    table.add_column("category")
    for heading in ("normal", "anomalous", "published"):
        table.add_column(heading, justify="right")
    for category in sorted(found.counts.keys() | found.published.keys()):
        count = found.counts.get(category, Count(0, 0))
        table.add_row(
            escape(shown(category)), str(count.normal), str(count.anomalous), _count(found.published.get(category))
        )
    total = sum_counts(found.counts)
    table.add_section()
    published = dataset_row(spec.layout).total
    if spec.categories is not None:
        published = sum_counts(found.published) if found.published else None
    table.add_row("all", str(total.normal), str(total.anomalous), _count(published))
    terminal().print(table)
    for finding in found.findings:
        sys.stdout.write(f"{'fault' if finding.is_fault else 'note '}  {finding.text}\n")
    has_numbers = spec.categories is None and dataset_row(spec.layout).total is not None
    sys.stdout.write(f"{_verdict(found, is_part=is_part, has_numbers=has_numbers)}\n")
    return not found.num_faults


def convert(spec: DatasetSpec, target: Path) -> None:
    """Convert a dataset to the ``meta.json`` format in a new folder, and print how to read it."""
    write_meta_json(spec, target)
    if dataset_row(spec.layout).prompt_names:
        sys.stdout.write(
            "note: meta.json cannot store the words for prompts; they will be the names of the categories.\n"
        )
    sys.stdout.write(f"converted: {target}  (dataset=meta_json {for_shell(f'dataset.root={target}')})\n")


def unpack(name: str, archives: Sequence[Path], data_dir: Path) -> None:
    """Unpack the downloaded archives of a dataset into its folder below ``data_dir``.

    Raises:
        DataError: If ``name`` is not a public dataset, or the archives cannot be unpacked safely.
    """
    row = dataset_row(name)
    if not row.folders:
        msg = f"unpack needs the name of a public dataset, got {name!r}. Unpack your own data by hand."
        raise DataError(msg)
    known = {} if row.provenance is None else row.provenance.archives
    root = unpack_archives(
        archives,
        data_dir / row.folders[0],
        is_dataset=lambda folder: layout_at(folder, row) is not None,
        sha256=known,
        expected=" or ".join(layout.where for layout in row.layouts),
    )
    sys.stdout.write(f"unpacked: {root}  (next: python -m afr_clip.datasets check {name} --data-dir {data_dir})\n")


def on_disk(spec: DatasetSpec) -> tuple[str, str]:
    """Return how much of a dataset is on disk, and where."""
    try:
        root = find_root(spec)
    except DataError:
        return "-", "absent"
    try:
        _, entries = list_entries(spec, root)
    except DataError:
        return "?", f"{root} (cannot be listed; run check)"
    there = [entry for entry in entries if os.path.isfile(entry.image)]  # noqa: PTH113 - Path.is_file may raise
    missing = f" ({counted(len(entries) - len(there), 'image')} missing)" if len(there) < len(entries) else ""
    return _count(sum_counts(count_entries(there))), f"{root}{missing}"


def _verdict(found: DatasetCheck, *, is_part: bool, has_numbers: bool) -> str:
    if found.num_faults:
        is_short = any(finding.is_fault and finding.text.startswith(OTHER_NUMBERS) for finding in found.findings)
        hint = " If you only have a part of the dataset, use --part." if is_short and not is_part else ""
        return f"verdict: {counted(found.num_faults, 'fault')}.{hint}"
    if is_part:
        return "verdict: sound, for a part of the dataset."
    return f"verdict: {'complete and sound' if has_numbers else 'sound'}."


def _count(count: Count | None) -> str:
    return "-" if count is None else f"{count.normal} + {count.anomalous}"
