"""A map-style dataset of decoded, resized and normalised images, and how they become a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float32
from torch import Tensor
from torch.utils.data import Dataset

from afr_clip.data.disk.pixels import Pixels, SampleReader
from afr_clip.data.feed.augment import Augmentation
from afr_clip.data.feed.cache import PixelCache
from afr_clip.data.feed.feature_cache import FeatureCache
from afr_clip.data.feed.mosaic import Mosaic, collage
from afr_clip.data.feed.sampler import Draw
from afr_clip.data.feed.transforms import normalise
from afr_clip.data.records import AnomalyBatch, AnomalySample, Share


@dataclass(frozen=True)
class AnomalyItem:
    """One image of a batch.

    Attributes:
        image: Normalised RGB; ``None`` where ``tapped`` stands in for it.
        mask: Pixel truth.
        has_mask: Whether pixel truth is known.
        index: Position in the dataset.
        sample: The record it was read from.
        tapped: What a frozen image tower gave for it.
        share: What the process has of the batch that it is drawn for; ``None`` where nothing is shared.
    """

    image: Float32[Tensor, "3 height width"] | None
    mask: Bool[Tensor, "height width"]
    has_mask: bool
    index: int
    sample: AnomalySample
    tapped: tuple[Tensor, ...] = ()
    share: Share | None = None


class AnomalyDataset(Dataset[AnomalyItem]):
    """Samples as the model sees them.

    Args:
        samples: What to read.
        reader: Decodes and resizes.
        mean: Per-channel mean that images are normalised with.
        std: Per-channel standard deviation, likewise.
        cache: Resized pixels of the same samples; ``None`` decodes the files each time.
        augmentation: Applied to each draw; then items are asked for by ``(index, draw_seed)``.
        mosaic: Puts a collage in the place of some draws, likewise.
        features: What a frozen image tower gave for the same samples; then no image is decoded.

    Attributes:
        samples: As given.
        on_read: Called with the index of each image before it is read.

    Raises:
        ValueError: If ``features`` stand in for images that change with each draw.
    """

    def __init__(  # noqa: PLR0913 - two caches and two augmentations, each of which may be absent
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
    ) -> None:
        if features is not None and (augmentation is not None or mosaic is not None):
            msg = "Features must be of images that stay as they are, got an augmentation. Leave one of them out."
            raise ValueError(msg)
        self.samples = tuple(samples)
        self.on_read: Callable[[int], None] = _unheard
        self._reader = reader
        self._mean, self._std = tuple(mean), tuple(std)
        self._cache = cache
        self._augmentation = augmentation
        self._mosaic = mosaic
        self._features = features
        has_truth = any(sample.mask_path is not None for sample in self.samples)
        self._is_normal_truth_known = has_truth or not any(sample.is_anomalous for sample in self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> AnomalyItem:
        """Read one image.

        Args:
            key: The index, ``(index, draw_seed)`` as ``EpochSampler`` gives it, or what a batch of several processes
                asks for.

        Returns:
            The image with its truth.

        Raises:
            DataError: If a file cannot be decoded, or image and mask differ in size.
            TypeError: If the dataset augments and no draw seed is given.
        """
        index, draw_seed, *shared = key if isinstance(key, tuple) else (key, None)
        share = shared[0] if shared else None
        if self._features is not None:
            kept, sample = self._features.read(index), self.samples[index]
            return AnomalyItem(None, kept.mask, self._is_truth_known(sample), index, sample, kept.tapped, share)
        shown: tuple[int, ...] = (index,)
        if draw_seed is None:
            if self._augmentation is not None or self._mosaic is not None:
                msg = f"An augmenting dataset must be asked for (index, draw_seed), got {key!r}. Use EpochSampler."
                raise TypeError(msg)
        elif self._mosaic is not None:
            shown = self._mosaic.draw(index, draw_seed)
        pixels = self._read(shown[0]) if len(shown) == 1 else collage([self._read(position) for position in shown])
        if self._augmentation is not None and draw_seed is not None:
            pixels = self._augmentation(pixels, draw_seed)
        samples = [self.samples[position] for position in shown]
        return AnomalyItem(
            image=normalise(pixels.image, self._mean, self._std),
            mask=pixels.mask,
            has_mask=all(self._is_truth_known(sample) for sample in samples),
            index=index,
            sample=replace(self.samples[index], is_anomalous=any(sample.is_anomalous for sample in samples)),
            share=share,
        )

    def _read(self, index: int) -> Pixels:
        self.on_read(index)
        return self._reader.read(self.samples[index]) if self._cache is None else self._cache.read(index)

    def _is_truth_known(self, sample: AnomalySample) -> bool:
        return sample.mask_path is not None or (not sample.is_anomalous and self._is_normal_truth_known)


def _unheard(index: int) -> None:
    """Do nothing; a lambda could not be sent to another process."""


def collate(items: Sequence[AnomalyItem]) -> AnomalyBatch:
    """Stack items into a batch.

    Args:
        items: At least one, all of one size.

    Returns:
        The batch, in the order of the items.
    """
    images = [item.image for item in items if item.image is not None]
    return AnomalyBatch(
        image=torch.stack(images) if images else None,  # (B, 3, H, W)
        mask=torch.stack([item.mask for item in items]),  # (B, H, W)
        has_mask=torch.tensor([item.has_mask for item in items]),
        is_anomalous=torch.tensor([item.sample.is_anomalous for item in items]),
        index=torch.tensor([item.index for item in items]),
        samples=tuple(item.sample for item in items),
        tapped=tuple(torch.stack(tensors) for tensors in zip(*(item.tapped for item in items), strict=True)),
        share=items[0].share,
    )
