"""Check a dataset before it is used: is it complete, does it fit together, is it read correctly?"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from afr_clip.data.disk.decode import Picture, decode_picture
from afr_clip.data.disk.folders import IMAGE_SUFFIXES, walk
from afr_clip.data.disk.layouts import dataset_row
from afr_clip.data.disk.listing import Entry, Listing
from afr_clip.data.disk.loaded import FEW_BITS
from afr_clip.data.disk.picture_files import MAX_PIXELS
from afr_clip.data.disk.pixels import NEARLY_FULL, MaskSizeError, SampleReader, count_vanished, is_nearly_full
from afr_clip.data.disk.reading import DatasetSpec, find_root, layout_at, list_entries, read_samples
from afr_clip.data.disk.rows.row import Count, DatasetRow
from afr_clip.data.disk.saturation import read_saturations
from afr_clip.data.errors import DataError
from afr_clip.data.progress import progress_bar
from afr_clip.files import counted, first_few, shown

INPUT_SIZE = 518
"""Side in pixels of the paper's input; defects that have no pixel left at this size are counted."""

AT_ONCE = 256
"""Images that are given to the threads together."""

NUM_NAMED = 3
"""Most reasons that a finding gives."""

OTHER_NUMBERS = "Not the published numbers"
"""Start of the finding about an incomplete dataset."""

ALL = "The dataset"
"""Used as the category where only the total is published."""


@dataclass(frozen=True)
class Finding:
    """One sentence about a dataset; a fault makes results wrong, or not those of the published dataset."""

    text: str
    is_fault: bool


@dataclass(frozen=True)
class DatasetCheck:
    """What was found in a dataset.

    Attributes:
        published: The published numbers by category; empty where they are not known.
    """

    root: Path
    counts: Mapping[str, Count]
    published: Mapping[str, Count]
    findings: tuple[Finding, ...]

    @property
    def num_faults(self) -> int:
        """Number of faults among the findings."""
        return sum(finding.is_fault for finding in self.findings)


class Fault(Enum):
    """What can be wrong with an image or its mask: what follows a one, what follows another number, and the rest."""

    MISSING = ("listed image is", "listed images are", "not on disk; unpack the archive again")
    UNREADABLE = ("file", "files", "cannot be decoded")
    BARE = ("anomalous image has", "anomalous images have", "no mask; add the masks or remove the images")
    OTHER_SIZE = ("mask differs", "masks differ", "in size from the image; correct the pairing")
    EMPTY = ("mask marks", "masks mark", "no pixel of an anomalous image; check the values or remove the images")
    MARKED = ("mask marks", "masks mark", "pixels of a normal image; one of the two is wrong")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the check of one image and its mask showed; small, because there is one for every image.

    Attributes:
        sha256: Hash of the image file; empty if it could not be read.
        fault: What is wrong, and with which file.
        reason: Why a file could not be decoded.
        picture: The decoded image without its pixels, if it is turned or has 16 bits.
        is_full: Whether the mask marks nearly all of the image.
        num_vanished: Defects without a pixel at ``INPUT_SIZE``.
    """

    entry: Entry
    sha256: bytes = b""
    fault: tuple[Fault, Path] | None = None
    reason: str = ""
    picture: Picture | None = None
    is_full: bool = False
    num_vanished: int = 0


def check_dataset(spec: DatasetSpec, *, is_part: bool = False, max_pixels: int = MAX_PIXELS) -> DatasetCheck:
    """Decode every image and mask of a dataset, and compare it with what is published.

    What `read_samples`, `SampleReader` and `read_saturations` refuse, which read a dataset for scoring, is a fault.

    Args:
        is_part: Whether it is all right to have fewer images than published.
        max_pixels: Most pixels of a file.

    Raises:
        MissingDataError: If the dataset is not found.
        DataError: If its files cannot be listed.
    """
    root, row = find_root(spec), dataset_row(spec.layout)
    listing, entries = list_entries(spec, root)
    reader = SampleReader((INPUT_SIZE, INPUT_SIZE), row.mask_threshold, max_pixels)
    inspections: list[Inspection] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar("Checking files", len(entries)) as reached:
        for start in range(0, len(entries), AT_ONCE):  # a pool keeps what it was given until all of it is done
            block = entries[start : start + AT_ONCE]
            for inspection in pool.map(lambda entry: _inspect(entry, reader, has_masks=listing.has_masks), block):
                inspections.append(inspection)
                reached(len(inspections))
    counts = count_entries(entries)
    published = {c: n for c, n in row.counts.items() if spec.categories is None or c in spec.categories}
    findings = [
        *_file_findings(inspections, root),
        *_picture_findings(inspections, root),
        *_count_findings(counts, published, is_part=is_part),
        *_truth_findings(entries, row, has_masks=listing.has_masks),
        *_repeated_findings(inspections, root),
        *_vanished_findings(inspections),
        *_stray_findings(spec, root, row, listing),
    ]
    if not row.counts and row.total is not None and spec.categories is None:
        findings += _count_findings({ALL: sum_counts(counts)}, {ALL: row.total}, is_part=is_part)
    if not any(finding.is_fault for finding in findings):
        try:
            read_saturations(row, root, read_samples(spec))
        except DataError as error:
            findings.append(Finding(str(error), is_fault=True))
    return DatasetCheck(root, counts, published, tuple(sorted(findings, key=lambda finding: not finding.is_fault)))


def count_entries(entries: Sequence[Entry]) -> dict[str, Count]:
    """Count the images of each category."""
    numbers = Counter((entry.category, entry.is_anomalous) for entry in entries)
    return {c: Count(numbers[c, False], numbers[c, True]) for c in sorted({entry.category for entry in entries})}


def sum_counts(counts: Mapping[str, Count]) -> Count:
    """Add up the counts of all categories."""
    return Count(sum(c.normal for c in counts.values()), sum(c.anomalous for c in counts.values()))


def _inspect(entry: Entry, reader: SampleReader, *, has_masks: bool) -> Inspection:
    if not os.path.isfile(entry.image):  # noqa: PTH113 - Path.is_file may raise
        return Inspection(entry, fault=(Fault.MISSING, entry.image))
    try:
        picture = decode_picture(entry.image, max_pixels=reader.max_pixels)
        sha256 = hashlib.sha256(entry.image.read_bytes()).digest()
    except (DataError, OSError) as error:
        return Inspection(entry, fault=(Fault.UNREADABLE, entry.image), reason=str(error))
    is_plain = picture.orientation == 1 and not picture.is_deep
    facts = Inspection(entry, sha256, picture=None if is_plain else replace(picture, rgb=picture.rgb[:, :0].clone()))
    if entry.mask is None:
        is_bare = entry.is_anomalous and has_masks
        return replace(facts, fault=(Fault.BARE, entry.image)) if is_bare else facts
    try:
        mask = reader.decode_truth(entry.image, picture, entry.mask)
    except MaskSizeError:
        return replace(facts, fault=(Fault.OTHER_SIZE, entry.mask))
    except DataError as error:
        return replace(facts, fault=(Fault.UNREADABLE, entry.mask), reason=str(error))
    has_defect = bool(mask.any())
    wrong = Fault.MARKED if has_defect else Fault.EMPTY
    return replace(
        facts,
        fault=None if has_defect == entry.is_anomalous else (wrong, entry.mask),
        is_full=is_nearly_full(mask),
        num_vanished=count_vanished(mask, reader.size),
    )


def _file_findings(inspections: Sequence[Inspection], root: Path) -> Iterator[Finding]:
    for fault in Fault:
        paths = [one.fault[1] for one in inspections if one.fault is not None and one.fault[0] is fault]
        if paths:
            reasons = [i.reason for i in inspections if i.reason][:NUM_NAMED] if fault is Fault.UNREADABLE else []
            one, several, rest = fault.value
            said = f"{counted(len(paths), one, several)} {rest}: {_named(paths, root)}."
            yield Finding(" ".join((said, *reasons)), is_fault=True)
    full: dict[str, list[bool]] = defaultdict(list)
    for inspection in inspections:
        if inspection.entry.is_anomalous and inspection.entry.mask is not None:
            full[inspection.entry.category].append(inspection.is_full)
    for category, are_full in full.items():
        if all(are_full):
            text = (
                f"Every mask of {shown(category)} ({len(are_full)}) marks more than {NEARLY_FULL:.0%} of its image. "
                f"Are they inverted, or drawn in an alpha channel?"
            )
            yield Finding(text, is_fault=True)


def _picture_findings(inspections: Sequence[Inspection], root: Path) -> Iterator[Finding]:
    """Report how images are read where that may not be what was meant."""
    pictures = [(i.entry.image, i.picture) for i in inspections if i.picture is not None]
    turned = [path for path, picture in pictures if picture.orientation != 1]
    if turned:
        carry = counted(len(turned), "image carries", "images carry")
        text = (
            f"{carry} an EXIF orientation, which turns the view upright: {_named(turned, root)}. Masks are taken to be "
            f"drawn on the upright view, unless only the stored pixels fit their size."
        )
        yield Finding(text, is_fault=False)
    for num_bits in range(8, FEW_BITS + 1):
        dark = [path for path, picture in pictures if picture.is_deep and max(picture.num_bits, 8) == num_bits]
        if dark:
            at_most = "at most " if num_bits == 8 else ""
            text = f"{counted(len(dark), 'image')} of 16 bits with only {at_most}{num_bits} bits in use: "
            yield Finding(f"{text}{_named(dark, root)}.", is_fault=False)


def _count_findings(counts: Mapping[str, Count], published: Mapping[str, Count], *, is_part: bool) -> Iterator[Finding]:
    found = {category: counts.get(category, Count(0, 0)) for category in published}
    differing = [
        f"{shown(category)} {f.normal} + {f.anomalous} instead of {n.normal} + {n.anomalous}"
        for (category, n), f in zip(published.items(), found.values(), strict=True)
        if f != n
    ]
    if differing:
        has_more = any(
            f.normal > n.normal or f.anomalous > n.anomalous
            for f, n in zip(found.values(), published.values(), strict=True)
        )
        text = f"{OTHER_NUMBERS} of normal + anomalous images: {first_few(differing)}."
        yield Finding(text, is_fault=has_more or not is_part)
    unknown = [shown(name) for name in sorted(counts.keys() - published.keys())] if published else []
    if unknown:
        yield Finding(
            f"Categories that the published dataset does not have: {first_few(unknown)}.",
            is_fault=True,
        )


def _truth_findings(entries: Sequence[Entry], row: DatasetRow, *, has_masks: bool) -> Iterator[Finding]:
    if not has_masks and "pixel" in row.levels:
        yield Finding("The published dataset has masks, but none were found; add them.", is_fault=True)
    elif not has_masks:
        yield Finding("There are no masks: only the image level can be scored.", is_fault=False)
    if all(entry.is_anomalous for entry in entries):
        yield Finding("There are no normal images: only the pixel level can be scored.", is_fault=False)


def _repeated_findings(inspections: Sequence[Inspection], root: Path) -> Iterator[Finding]:
    times = Counter((one.entry.category, one.sha256) for one in inspections if one.sha256)
    same: dict[tuple[str, bytes], list[Entry]] = defaultdict(list)
    for one in inspections:
        if times[one.entry.category, one.sha256] > 1:
            same[one.entry.category, one.sha256].append(one.entry)
    for is_fault, end in (
        (True, "are the same picture, labelled both normal and anomalous; remove one"),
        (False, "are the same picture within a category; each is scored"),
    ):
        groups = [
            [entry.image for entry in group]
            for group in same.values()
            if (len({entry.is_anomalous for entry in group}) > 1) == is_fault
        ]
        if groups:
            named = first_few([" = ".join(shown(path.relative_to(root)) for path in group) for group in groups])
            yield Finding(f"{sum(map(len, groups))} images {end}: {named}.", is_fault)


def _vanished_findings(inspections: Sequence[Inspection]) -> Iterator[Finding]:
    vanished: Counter[str] = Counter()
    for inspection in inspections:
        vanished[inspection.entry.category] += inspection.num_vanished
    lost = ", ".join(f"{shown(category)} {number}" for category, number in vanished.items() if number)
    if lost:
        yield Finding(f"Defects without a pixel at {INPUT_SIZE} x {INPUT_SIZE}: {lost}.", is_fault=False)


def _stray_findings(spec: DatasetSpec, root: Path, row: DatasetRow, listing: Listing) -> Iterator[Finding]:
    """Report masks without an image, and folders whose images are not read."""
    masks = sorted(listing.masks - {entry.mask for entry in listing.entries})
    if masks:
        yield Finding(
            f"{counted(len(masks), 'mask belongs', 'masks belong')} to no image: {_named(masks, root)}.", is_fault=False
        )
    layout = layout_at(root, row)
    assert layout is not None, "the dataset was found by its layout"
    train = layout.listing(root, "train").entries if spec.split != "train" else ()
    read = {path for entry in (*listing.entries, *train) for path in (entry.image, entry.mask)} | listing.masks
    found = walk([root])
    if found.unreadable:
        text = f"{counted(len(found.unreadable), 'folder')} cannot be listed: {_named(found.unreadable, root)}."
        yield Finding(text, is_fault=False)
    unread = Counter(_left_out(root, found.files, read))
    if unread:
        names = {folder: "the top folder" if folder == root else shown(folder.relative_to(root)) for folder in unread}
        folders = [f"{names[folder]} ({number})" for folder, number in unread.most_common()]
        yield Finding(f"Images that are not part of the dataset are skipped: {first_few(folders)}.", is_fault=False)


def _left_out(root: Path, files: Sequence[Path], read: Collection[Path | None]) -> Iterator[Path]:
    """For each image that is not read, yield the outermost folder from which nothing is read, or its own folder."""
    in_use = {folder for path in read if path is not None for folder in path.parents}
    for path in sorted(files):
        # A mask may be a folder of files.
        if path not in read and path.parent not in read and path.suffix.lower() in IMAGE_SUFFIXES:
            folders = [folder for folder in reversed(path.parents) if folder.is_relative_to(root)]
            yield next((folder for folder in folders if folder not in in_use), path.parent)


def _named(paths: Sequence[Path], root: Path) -> str:
    return first_few([shown(path.relative_to(root)) for path in paths])
