"""Datasets that were found, listed and hashed: published ones, reference images and plain photographs."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from afr_clip.data.disk.folders import IMAGE_SUFFIXES, is_hidden, walk
from afr_clip.data.disk.layouts import dataset_row
from afr_clip.data.disk.listing import image_of_mask
from afr_clip.data.disk.picture_files import has_16_bits, mask_files, read_picture
from afr_clip.data.disk.reading import DatasetSpec, find_root, read_samples
from afr_clip.data.disk.saturation import Entries, read_saturations
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.progress import tracked
from afr_clip.data.records import AnomalySample
from afr_clip.files import first_few, natural_order, shown

logger = logging.getLogger(__name__)

PHOTOGRAPHS = "photographs"
UNKNOWN = "unknown"
"""The defect type of photographs, whose condition is not known."""

FEW_BITS = 12
"""Cameras of so many bits store them in 16."""

NUM_SHOWN = 5
"""Files of one kind that a sentence names at most."""

MOST_REFERENCES = 16

REFERENCE_SPLIT = "train"
"""The split that holds only normal images in every public dataset that has one."""


@dataclass(frozen=True)
class DatasetDigest:
    """SHA-256 of a dataset's files.

    Attributes:
        sha256: One hash over all files with their categories, types and names, but not their folders.
        images: One hash per image, in the order of the samples.
        masks: One hash per mask, in the same order; ``None`` if there is no mask.
    """

    sha256: str
    images: tuple[str, ...]
    masks: tuple[str | None, ...]
    num_anomalous: int

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def num_masks(self) -> int:
        """Number of mask files."""
        return sum(mask is not None for mask in self.masks)


@dataclass(frozen=True)
class LoadedDataset:
    """A dataset whose files were listed and hashed; nothing is decoded yet.

    Attributes:
        saturations: How much of each region has to be found, by category; empty where the dataset does not state it.
    """

    spec: DatasetSpec
    root: Path
    samples: tuple[AnomalySample, ...]
    digest: DatasetDigest
    saturations: Mapping[str, Entries] = field(default_factory=dict)


def load_dataset(spec: DatasetSpec) -> LoadedDataset:
    """List a dataset's samples and hash their files."""
    samples, root = tuple(read_samples(spec)), find_root(spec)
    _warn_of_few_bits(samples)
    saturations: Mapping[str, Entries] = {}
    try:
        saturations = read_saturations(dataset_row(spec.layout), root, samples)
    except MissingDataError as error:
        logger.warning("sPRO, the metric of the benchmark %s, cannot be computed: %s", spec.name, error)
    return LoadedDataset(spec, root, samples, content_digest(samples), saturations)


def _warn_of_few_bits(samples: Sequence[AnomalySample]) -> None:
    """Warn once if the first 16-bit image uses so few bits that such images are read dark."""
    for sample in samples:
        if has_16_bits(sample.image_path):
            try:
                picture = read_picture(sample.image_path)
            except DataError:
                return  # reported when the image is read
            if picture.is_deep and picture.num_bits <= FEW_BITS:
                logger.warning(
                    "%s has 16 bits per pixel and uses %d of them, so it is read dark. Scale such images to 16 bits.",
                    *(shown(sample.image_path), picture.num_bits),
                )
            return


def content_digest(samples: Sequence[AnomalySample], *, whole: bool = True) -> DatasetDigest:
    """Hash the content of every image and mask.

    Args:
        whole: Whether every file must be readable; otherwise the hash of one that is not is empty.

    Example:
        >>> content_digest([]).num_images
        0
    """
    images, masks = [], []
    total = hashlib.sha256()
    for sample in tracked(samples, "Hashing files"):
        images.append(_sha256(sample.image_path, whole=whole))
        masks.append(_mask_sha256(sample.mask_path) if sample.mask_path else None)
        name = f"{sample.category}/{sample.defect_type}/{sample.image_path.name}"
        total.update(f"{name} {images[-1]} {masks[-1]}\n".encode(errors="surrogateescape"))
    num_anomalous = sum(sample.is_anomalous for sample in samples)
    return DatasetDigest(total.hexdigest(), tuple(images), tuple(masks), num_anomalous)


def _mask_sha256(path: Path) -> str:
    """Hash a mask; that of a folder covers the names and the content of its files."""
    files = mask_files(path)
    if files == [path]:
        return _sha256(path)
    return hashlib.sha256(
        "".join(f"{file.name} {_sha256(file)}\n" for file in files).encode(errors="surrogateescape")
    ).hexdigest()


def _sha256(path: Path, *, whole: bool = True) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        if not whole:
            return ""
        msg = f"Cannot read {shown(path)}: {error.strerror}. Check that the file exists and is not being changed."
        raise MissingDataError(msg) from error


@dataclass(frozen=True)
class LeftOut:
    """What was found next to photographs and is not scored.

    Attributes:
        kinds: Files of kinds that are not read, by kind.
        unreadable: Folders that cannot be listed.
        broken: Links that lead nowhere.
        outputs: Folders and pictures that an earlier run wrote.
        masks: Pictures that look like masks of photographs next to them.
    """

    root: Path
    kinds: Mapping[str, tuple[Path, ...]]
    unreadable: tuple[Path, ...]
    broken: tuple[Path, ...]
    outputs: tuple[Path, ...]
    masks: tuple[Path, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """Sentences about photographs that may be missing."""
        return tuple(
            f"{len(paths)} {one if len(paths) == 1 else several}: {self._named(paths)}. {cure}"
            for paths, one, several, cure in (
                (
                    self.unreadable,
                    "folder could not be listed",
                    "folders could not be listed",
                    "Check the permissions.",
                ),
                (self.broken, "link leads nowhere", "links lead nowhere", "Restore or remove what is broken."),
            )
            if paths
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what is left out on purpose."""
        notes = []
        if self.kinds:
            kinds = "; ".join(f"{len(paths)} {kind} ({self._named(paths)})" for kind, paths in self.kinds.items())
            notes.append(
                f"Only PNG, JPEG, BMP, TIFF and WebP files are read, not {kinds}. Convert what is to be scored."
            )
        if self.outputs:
            notes.append(f"Pictures that an earlier run wrote are not scored: {self._named(self.outputs)}.")
        if self.masks:
            what = "picture looks like a mask" if len(self.masks) == 1 else "pictures look like masks"
            text = f"{len(self.masks)} {what} of photographs in the same folder, and will not be scored"
            notes.append(f"{text}: {self._named(self.masks)}. Name one itself in images= if it is a photograph.")
        return tuple(notes)

    def _named(self, paths: Sequence[Path]) -> str:
        return first_few(
            [shown(path.relative_to(self.root) if path != self.root else path) for path in paths], NUM_SHOWN
        )


@dataclass(frozen=True)
class Photographs:
    """Photographs without truth; the root of the dataset is the folder that holds them all."""

    dataset: LoadedDataset
    left_out: LeftOut


def list_photographs(images: Sequence[Path], category: str, key: str = "images") -> Photographs:
    """List photographs without ground truth, for prediction.

    Links are followed. A photograph is listed only once, however many links lead to it; pictures that an earlier run
    wrote are left out.

    Args:
        images: Files, and folders that are searched with all their subfolders.
        category: What the photographs show, in words.
        key: What names them, for errors.

    Returns:
        The photographs in natural order of their paths, which are absolute; their image-level truth means nothing. The
        hash of one that cannot be read is empty.

    Raises:
        MissingDataError: If a path does not exist, or there is no photograph at all.
    """
    root, paths, left_out = find_photographs(images, key)
    samples = tuple(AnomalySample(PHOTOGRAPHS, category, UNKNOWN, path, None, False, category) for path in paths)
    _warn_of_few_bits(samples)
    digest = content_digest(samples, whole=False)
    return Photographs(LoadedDataset(DatasetSpec(PHOTOGRAPHS, "folder"), root, samples, digest), left_out)


def find_photographs(images: Sequence[Path], key: str) -> tuple[Path, list[Path], LeftOut]:
    """Find what `list_photographs` lists, without reading it.

    Returns:
        The folder that names start from, the files, and what was left out.

    Raises:
        MissingDataError: As `list_photographs`.
    """
    if not images:
        msg = f"{key} must name photographs or folders of them, got none. Name at least one."
        raise MissingDataError(msg)
    # A path with ".." depends on where links lead, so it is resolved; others stay as they were typed.
    places = [path.resolve() if ".." in path.parts else path.absolute() for path in images]
    for place, path in zip(places, images, strict=True):
        if not os.path.lexists(place):
            msg = (
                f"{key} must name photographs or folders of them, but {shown(path)} does not exist, or the "
                f"folder around it may not be entered. Check the path."
            )
            raise MissingDataError(msg)
    found = walk(places)
    given = {place for place in places if not is_hidden(place.name)}
    paths, kinds = list[Path](), defaultdict[str, list[Path]](list)
    for path in sorted(found.files, key=natural_order):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES or (path in given and suffix not in OTHER_KINDS and _is_picture(path)):
            paths.append(path)
        elif suffix in OTHER_KINDS:
            kinds[OTHER_KINDS[suffix]].append(path)
        elif path in given or _is_picture(path):
            kinds[suffix or "files without a suffix"].append(path)
    root = Path(os.path.commonpath([place if place.is_dir() else place.parent for place in places]))
    # Masks next to their images are left out, unless they were named themselves.
    names = {path.with_suffix("") for path in paths}
    masks = tuple(path for path in paths if path not in given and image_of_mask(path) in names)
    paths = [path for path in paths if path not in masks]
    left_out = LeftOut(
        root,
        {kind: tuple(kinds[kind]) for kind in sorted(kinds)},
        unreadable=tuple(sorted(found.unreadable, key=natural_order)),
        broken=tuple(sorted(found.broken, key=natural_order)),
        outputs=tuple(sorted(found.outputs, key=natural_order)),
        masks=masks,
    )
    if not paths:
        where = first_few(list(map(shown, images)), NUM_SHOWN)
        msg = (
            f"{key} must name photographs or folders of them (png, jpg, bmp, tif, webp), but {where} contains none. "
            f"{' '.join((*left_out.faults, *left_out.notes)) or 'Check the path.'}"
        )
        raise MissingDataError(msg)
    return root, paths, left_out


def list_references(places: Sequence[Path], category: str) -> tuple[AnomalySample, ...]:
    """List the good parts that ``references`` names.

    Raises:
        DataError: If there are none, or more than `MOST_REFERENCES`.
    """
    good = list_photographs(places, category, "references").dataset.samples
    if len(good) > MOST_REFERENCES:
        msg = (
            f"references must name 1 to {MOST_REFERENCES} photographs of good parts, but "
            f"{first_few(list(map(shown, places)))} {'holds' if len(places) == 1 else 'hold'} {len(good)}. More cost "
            f"time and hardly help; choose some."
        )
        raise DataError(msg)
    return good


OTHER_KINDS: Mapping[str, str] = {
    suffix: kind
    for kind, suffixes in {
        "AVIF": ".avif",
        "DICOM": ".dcm .dicom",
        "DNG": ".dng",
        "EXR": ".exr",
        "GIF": ".gif",
        "HEIC": ".heic .heif .hif",
        "JPEG 2000": ".jp2 .j2k .jpx .jpf",
        "JPEG XL": ".jxl",
        "PDF": ".pdf",
        "PNM": ".pnm .ppm .pgm .pbm",
        "PSD": ".psd .psb",
        "PostScript": ".eps .ps .ai",
        "RAW": ".raw .arw .cr2 .cr3 .crw .nef .nrw .orf .pef .raf .rw2 .srw",
        "SVG": ".svg .svgz",
        "TGA": ".tga",
        "XCF": ".xcf",
        "animated PNG": ".apng",
        "archive": ".zip .tar .gz .tgz .7z .rar",
        "icon": ".ico .icns",
        "video": ".mp4 .mov .avi .mkv .m4v .webm .mpg .mpeg .wmv",
    }.items()
    for suffix in suffixes.split()
}
"""Kinds of files that may hold photographs but are not read, by suffix."""


def _is_picture(path: Path) -> bool:
    """Tell from its first bytes whether a file is of a kind that is read."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    is_bitmap = start.startswith(b"BM") and start[6:10] == bytes(4)
    is_webp = start.startswith(b"RIFF") and start.endswith(b"WEBP")
    return is_bitmap or is_webp or start.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*"))


def list_normal(target: LoadedDataset) -> dict[str, list[AnomalySample]]:
    """List the normal images of each category of a target, from the split that is not scored.

    Raises:
        DataError: If there is no such split.
    """
    normal: dict[str, list[AnomalySample]] = {sample.category: [] for sample in target.samples}
    for sample in read_samples(replace(target.spec, root=target.root, split=REFERENCE_SPLIT, categories=tuple(normal))):
        if not sample.is_anomalous:
            normal[sample.category].append(sample)
    return normal


def choose_references(target: LoadedDataset, shots: int, seed: int) -> dict[str, tuple[AnomalySample, ...]]:
    """Choose a few normal images of each category of a target, from the split that is not scored.

    Args:
        seed: Decides the choice; the images of fewer shots are among those of more.

    Raises:
        DataError: If there is no train split, it has too few normal images of a category, or a chosen image is also
            among those that are scored.
    """
    chosen = {}
    for category, samples in list_normal(target).items():
        if len(samples) < shots:
            msg = (
                f"{shots} shots need {shots} normal images of each category in the {REFERENCE_SPLIT} split of "
                f"{target.spec.name!r}, but {category} has {len(samples)} below {target.root}. Ask for fewer shots."
            )
            raise DataError(msg)
        # One generator per category: the choice does not depend on which other categories are scored.
        Random(f"{seed} {category}").shuffle(samples)
        chosen[category] = tuple(samples[:shots])
    every, scored = [sample for few in chosen.values() for sample in few], set(target.digest.images)
    for sample, sha256 in zip(every, content_digest(every).images, strict=True):
        if sha256 in scored:
            msg = (
                f"Reference images must not be scored, but {sample.image_path} is also among the scored images of "
                f"{target.spec.name!r}. Remove it from one of the splits."
            )
            raise DataError(msg)
    return chosen
