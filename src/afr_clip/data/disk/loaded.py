"""A dataset that was found, listed and hashed."""

from dataclasses import dataclass
from pathlib import Path

from afr_clip.data.disk.digest import DatasetDigest, content_digest
from afr_clip.data.disk.reading import DatasetSpec, find_root, read_samples
from afr_clip.data.records import AnomalySample


@dataclass(frozen=True)
class LoadedDataset:
    """A dataset whose files were listed and hashed.

    Attributes:
        spec: What was asked for.
        root: Where it was found.
        samples: What is there.
        digest: Content of the files.
    """

    spec: DatasetSpec
    root: Path
    samples: tuple[AnomalySample, ...]
    digest: DatasetDigest


def load_dataset(spec: DatasetSpec) -> LoadedDataset:
    """List a dataset's samples and hash their files.

    Args:
        spec: Which images are wanted.

    Returns:
        The dataset; nothing is decoded yet.

    Raises:
        DataError: If the dataset cannot be listed as it must be.
    """
    samples = tuple(read_samples(spec))
    return LoadedDataset(spec, find_root(spec), samples, content_digest(samples))
