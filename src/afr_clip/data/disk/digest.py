"""What a dataset holds, byte for byte and defect by defect: for manifests, leakage checks and caches."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afr_clip.data.disk.decode import decode_mask
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.errors import MissingDataError
from afr_clip.data.feed.transforms import count_vanished, resize_mask
from afr_clip.data.progress import tracked
from afr_clip.data.records import AnomalySample


@dataclass(frozen=True)
class DatasetDigest:
    """SHA-256 of a dataset's files.

    Attributes:
        sha256: One hash over all files with their categories, types and names; where they lie does not matter.
        images: One hash per image, in the order of the samples.
        masks: One hash per mask, in the same order; ``None`` where there is none.
        num_anomalous: How many images are anomalous.
    """

    sha256: str
    images: tuple[str, ...]
    masks: tuple[str | None, ...]
    num_anomalous: int

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return len(self.images)

    @property
    def num_masks(self) -> int:
        """How many of them have a mask file."""
        return sum(mask is not None for mask in self.masks)


@dataclass(frozen=True)
class DefectCount:
    """What resizing does to the masks of one category.

    Attributes:
        num_masks: Mask files.
        num_empty: Masks without a single anomalous pixel as stored; their threshold is worth a look.
        num_vanished: 8-connected defects that have no pixel left after resizing.
    """

    num_masks: int
    num_empty: int
    num_vanished: int


def content_digest(samples: Sequence[AnomalySample]) -> DatasetDigest:
    """Hash the content of every image and mask.

    Args:
        samples: The dataset, in its order.

    Returns:
        Hashes and counts.

    Raises:
        MissingDataError: If a file cannot be read.

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
    return DatasetDigest(
        sha256=total.hexdigest(),
        images=tuple(images),
        masks=tuple(masks),
        num_anomalous=sum(sample.is_anomalous for sample in samples),
    )


def count_vanished_defects(samples: Sequence[AnomalySample], reader: SampleReader) -> dict[str, DefectCount]:
    """Count per category the defects that the model's input size cannot show.

    Args:
        samples: The dataset; samples without a mask are passed over.
        reader: Gives the size and the mask threshold.

    Returns:
        One count per category that has masks.

    Raises:
        DataError: If a mask cannot be decoded.
    """
    counts: dict[str, DefectCount] = {}
    masked = [sample for sample in samples if sample.mask_path is not None]
    for sample in tracked(masked, "Counting defects"):
        assert sample.mask_path is not None, "samples without a mask are passed over"
        mask = decode_mask(sample.mask_path, reader.mask_threshold)
        so_far = counts.get(sample.category, DefectCount(0, 0, 0))
        counts[sample.category] = DefectCount(
            num_masks=so_far.num_masks + 1,
            num_empty=so_far.num_empty + int(not mask.any()),
            num_vanished=so_far.num_vanished + count_vanished(mask, resize_mask(mask, reader.size)),
        )
    return counts


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        msg = f"{path} must be readable, but reading it failed: {error}. Check that it is there and not being changed."
        raise MissingDataError(msg) from error
