"""Datasets that were found, listed and hashed: published ones, reference images and plain photographs."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from afr_clip.data.disk.listing import is_image
from afr_clip.data.disk.reading import DatasetSpec, find_root, read_samples
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.progress import tracked
from afr_clip.data.records import AnomalySample

PHOTOGRAPHS = "photographs"
UNKNOWN = "unknown"
"""The defect type of photographs, whose condition is not known."""

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
    """A dataset whose files were listed and hashed; nothing is decoded yet."""

    spec: DatasetSpec
    root: Path
    samples: tuple[AnomalySample, ...]
    digest: DatasetDigest


def load_dataset(spec: DatasetSpec) -> LoadedDataset:
    """List a dataset's samples and hash their files."""
    samples = tuple(read_samples(spec))
    return LoadedDataset(spec, find_root(spec), samples, content_digest(samples))


def content_digest(samples: Sequence[AnomalySample]) -> DatasetDigest:
    """Hash the content of every image and mask.

    Example:
        >>> content_digest([]).num_images
        0
    """
    images, masks = [], []
    total = hashlib.sha256()
    for sample in tracked(samples, "Hashing files"):
        images.append(_sha256(sample.image_path))
        masks.append(_sha256(sample.mask_path) if sample.mask_path else None)
        name = f"{sample.category}/{sample.defect_type}/{sample.image_path.name}"
        total.update(f"{name} {images[-1]} {masks[-1]}\n".encode())
    num_anomalous = sum(sample.is_anomalous for sample in samples)
    return DatasetDigest(total.hexdigest(), tuple(images), tuple(masks), num_anomalous)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        msg = f"Cannot read {path}: {error}. Check that the file exists and is not being changed."
        raise MissingDataError(msg) from error


def list_photographs(images: Path, category: str) -> LoadedDataset:
    """List photographs without ground truth, for prediction.

    Args:
        images: One file, or a folder that is searched with all its subfolders.
        category: What the photographs show, in words.

    Returns:
        The photographs, sorted by path; their image-level truth means nothing.

    Raises:
        MissingDataError: If the path does not exist or holds no image.
    """
    found = [images] if images.is_file() else (path for path in images.rglob("*") if is_image(path, images))
    paths = sorted(found)
    if not paths:
        state = "contains no image" if images.is_dir() else "does not exist"
        msg = f"images must be an image file or a folder of images (png, jpg, bmp, tif, webp), but {images} {state}."
        raise MissingDataError(msg)
    samples = tuple(AnomalySample(PHOTOGRAPHS, category, UNKNOWN, path, None, False, category) for path in paths)
    return LoadedDataset(DatasetSpec(PHOTOGRAPHS, "folder"), images, samples, content_digest(samples))


def choose_references(target: LoadedDataset, shots: int, seed: int) -> dict[str, tuple[AnomalySample, ...]]:
    """Choose a few normal images of each category of a target, from the split that is not scored.

    Args:
        seed: Decides the choice; the images of fewer shots are among those of more.

    Raises:
        DataError: If there is no train split, it has too few normal images of a category, or a chosen image is also
            among those that are scored.
    """
    normal: dict[str, list[AnomalySample]] = {sample.category: [] for sample in target.samples}
    for sample in read_samples(replace(target.spec, root=target.root, split=REFERENCE_SPLIT, categories=tuple(normal))):
        if not sample.is_anomalous:
            normal[sample.category].append(sample)
    chosen = {}
    for category, samples in normal.items():
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
