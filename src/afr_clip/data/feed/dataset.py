"""A map-style dataset of decoded, resized and normalised images, and how they become a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from afr_clip.data.disk.pixels import Pixels, SampleReader
from afr_clip.data.errors import DataError
from afr_clip.data.feed.augment import Augmentation, Mosaic, collage
from afr_clip.data.feed.cache import FeatureCache, PixelCache
from afr_clip.data.feed.sampler import Draw
from afr_clip.data.feed.workers import LoadingProcesses, copies_batches
from afr_clip.data.records import AnomalyBatch, AnomalySample, Share
from afr_clip.files import counted

REFERENCE_STREAM = 2
"""Separates the random numbers of an image's reference from those of its augmentation and its mosaic."""


@dataclass(frozen=True)
class AnomalyItem:
    """One image of a batch; the attributes are those of ``AnomalyBatch``, without the batch axis."""

    image: Float32[Tensor, "3 height width"] | None
    mask: Bool[Tensor, "height width"]
    has_mask: bool
    index: int
    sample: AnomalySample
    tapped: tuple[Tensor, ...] = ()
    reference: "AnomalyItem | None" = None
    share: Share | None = None
    fault: str | None = None


class NormalReferences:
    """Choose for each image another normal image of its category as its reference.

    Raises:
        DataError: If a category has fewer than two normal images.
    """

    def __init__(self, samples: Sequence[AnomalySample]) -> None:
        self._categories = [sample.category for sample in samples]
        self._normal: dict[str, list[int]] = {category: [] for category in self._categories}
        for index, sample in enumerate(samples):
            if not sample.is_anomalous:
                self._normal[sample.category].append(index)
        for category, normal in self._normal.items():
            if len(normal) < 2:
                msg = (
                    f"This method trains each image next to another normal image of its category, but {category!r} of "
                    f"{samples[0].dataset!r} has {counted(len(normal), 'normal image')}. Choose other "
                    f"dataset.categories, or another dataset."
                )
                raise DataError(msg)

    def draw(self, index: int, draw_seed: int) -> int:
        """Return the index of an image's reference."""
        others = [other for other in self._normal[self._categories[index]] if other != index]
        return int(np.random.default_rng((draw_seed, REFERENCE_STREAM)).choice(others))


class AnomalyDataset(Dataset[AnomalyItem]):
    """Samples as the model sees them.

    Args:
        mean: Mean of each channel for normalising.
        cache: Resized pixels of the same samples; ``None`` decodes the files each time.
        augmentation: Applied to each image; items are then asked for by ``(index, draw_seed)``.
        mosaic: Replaces some images by a collage, likewise.
        features: What the frozen image tower gives for the same samples; no image is decoded then.
        references: Gives each image a reference, unchanged by augmentation; items are then asked for likewise.

    Attributes:
        on_read: Called with the index of each image before it is read.
    """

    def __init__(  # noqa: PLR0913 - two caches, two augmentations and references, all optional
        self,
        samples: Sequence[AnomalySample],
        reader: SampleReader,
        mean: Sequence[float],
        std: Sequence[float],
        cache: PixelCache | None = None,
        augmentation: Augmentation | None = None,
        mosaic: Mosaic | None = None,
        *,
        features: FeatureCache | None = None,
        references: NormalReferences | None = None,
    ) -> None:
        if features is not None and (augmentation is not None or mosaic is not None):
            msg = "Cached features need images that do not change, got an augmentation. Leave one of them out."
            raise ValueError(msg)
        self.samples = tuple(samples)
        self.on_read: Callable[[int], None] = _ignore
        self._reader = reader
        self._mean, self._std = tuple(mean), tuple(std)
        self._cache = cache
        self._augmentation = augmentation
        self._mosaic = mosaic
        self._features = features
        self._references = references
        has_truth = any(sample.mask_path is not None for sample in self.samples)
        self._is_normal_truth_known = has_truth or not any(sample.is_anomalous for sample in self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> AnomalyItem:
        """Read one image.

        Args:
            key: The index, ``(index, draw_seed)`` from ``EpochSampler``, or a ``Draw`` where processes share a batch.

        Raises:
            DataError: If a file cannot be decoded, or image and mask differ in size.
            TypeError: If the dataset augments and no draw seed is given.
        """
        index, draw_seed, *shared = key if isinstance(key, tuple) else (key, None)
        share = shared[0] if shared else None
        if draw_seed is None:
            if any(part is not None for part in (self._augmentation, self._mosaic, self._references)):
                msg = (
                    f"A dataset that augments or draws references must be asked for (index, draw_seed), got {key!r}. "
                    f"Use EpochSampler."
                )
                raise TypeError(msg)
            return replace(self._plain(index), share=share)
        reference = None if self._references is None else self._plain(self._references.draw(index, draw_seed))
        return replace(self._drawn(index, draw_seed), share=share, reference=reference)

    def _plain(self, index: int) -> AnomalyItem:
        """Return an image as it is."""
        sample = self.samples[index]
        if self._features is not None:
            kept = self._features.read(index)
            return AnomalyItem(None, kept.mask, self._is_truth_known(sample), index, sample, kept.tapped)
        pixels = self._read(index)
        image = normalise(pixels.image, self._mean, self._std)
        return AnomalyItem(image, pixels.mask, self._is_truth_known(sample), index, sample)

    def _drawn(self, index: int, draw_seed: int) -> AnomalyItem:
        """Return an image with the augmentation and the mosaic drawn for it."""
        if self._augmentation is None and self._mosaic is None:
            return self._plain(index)
        shown = (index,) if self._mosaic is None else self._mosaic.draw(index, draw_seed)
        pixels = self._read(shown[0]) if len(shown) == 1 else collage([self._read(position) for position in shown])
        if self._mosaic is not None:
            pixels = self._mosaic.cropped(pixels, index, draw_seed)
        if self._augmentation is not None:
            pixels = self._augmentation(pixels, draw_seed)
        sample = self.samples[index]
        if self._mosaic is not None:
            sample = replace(sample, is_anomalous=self._mosaic.is_anomalous(index, shown))
        return AnomalyItem(
            image=normalise(pixels.image, self._mean, self._std),
            mask=pixels.mask,
            has_mask=all(self._is_truth_known(self.samples[position]) for position in shown),
            index=index,
            sample=sample,
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of one item's tensors."""
        height, width = self._reader.size
        of_image = self._features.num_bytes if self._features is not None else height * width * (3 * 4 + 1)
        return of_image if self._references is None else 2 * of_image

    def _read(self, index: int) -> Pixels:
        self.on_read(index)
        return self._reader.read(self.samples[index]) if self._cache is None else self._cache.read(index)

    def _is_truth_known(self, sample: AnomalySample) -> bool:
        return sample.mask_path is not None or (not sample.is_anomalous and self._is_normal_truth_known)


def _ignore(index: int) -> None:
    """Do nothing; a lambda could not be pickled for another process."""


def normalise(
    image: UInt8[Tensor, "3 height width"], mean: Sequence[float], std: Sequence[float]
) -> Float32[Tensor, "3 height width"]:
    """Return ``(image / 255 - mean) / std`` per channel.

    Example:
        >>> normalise(torch.full((3, 1, 1), 255, dtype=torch.uint8), [0.5] * 3, [0.25] * 3).flatten()
        tensor([2., 2., 2.])
    """
    per_channel = (3, 1, 1)
    scaled = image.to(torch.float32).div_(255)
    return scaled.sub_(torch.tensor(mean).view(per_channel)).div_(torch.tensor(std).view(per_channel))


def collate(items: Sequence[AnomalyItem], *, truth_stays: bool = False) -> AnomalyBatch:
    """Stack items of one size into a batch, in order."""
    images = [item.image for item in items if item.image is not None]
    references = [item.reference for item in items if item.reference is not None]
    return AnomalyBatch(
        image=torch.stack(images) if images else None,  # (B, 3, H, W)
        mask=torch.stack([item.mask for item in items]),  # (B, H, W)
        has_mask=torch.tensor([item.has_mask for item in items]),
        is_anomalous=torch.tensor([item.sample.is_anomalous for item in items]),
        index=torch.tensor([item.index for item in items]),
        samples=tuple(item.sample for item in items),
        tapped=tuple(torch.stack(tensors) for tensors in zip(*(item.tapped for item in items), strict=True)),
        reference=collate(references) if references else None,
        share=items[0].share,
        faults={item.index: item.fault for item in items if item.fault is not None},
        truth_stays=truth_stays,
    )


def build_loader(
    dataset: AnomalyDataset,
    num_workers: int,
    largest: int,
    seed: int,
    *,
    truth_stays: bool = False,
    **batching: Any,  # noqa: ANN401 - arguments of PyTorch's loader
) -> tuple[DataLoader[AnomalyItem], LoadingProcesses]:
    """Build a loader of batches whose processes can be asked what they read.

    Args:
        largest: Most images of a batch.
        truth_stays: See `AnomalyBatch`.
    """
    is_copying = copies_batches(num_workers, largest * dataset.num_bytes)
    loading = LoadingProcesses(num_workers, dataset.samples, is_copying=is_copying)
    loader: DataLoader[AnomalyItem] = DataLoader(
        dataset,
        num_workers=num_workers,
        collate_fn=partial(collate, truth_stays=truth_stays),
        worker_init_fn=loading,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),
        **batching,
    )
    return loader, loading
