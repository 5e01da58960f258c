"""Lightning's view of the data: one auxiliary dataset to train on, any number of targets to score."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from afr_clip.data.disk.layouts import dataset_row
from afr_clip.data.disk.loaded import LoadedDataset, choose_references
from afr_clip.data.disk.picture_files import MAX_PIXELS
from afr_clip.data.disk.pixels import DefectCount, SampleReader, count_vanished_defects
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.data.errors import DataError
from afr_clip.data.feed.augment import MOSAICS, build_augmentation
from afr_clip.data.feed.cache import FeatureCache, open_cache
from afr_clip.data.feed.dataset import AnomalyDataset, AnomalyItem, NormalReferences, build_loader, collate
from afr_clip.data.feed.sampler import EpochSampler, TargetBatches, TrainingBatches
from afr_clip.data.feed.workers import LoadingProcesses, naming_lost_images
from afr_clip.data.progress import tracked
from afr_clip.data.records import AnomalyBatch
from afr_clip.files import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSettings:
    """How images are prepared and loaded.

    Attributes:
        image_size: Height and width of the model's input in pixels.
        mean: Mean of each channel that the backbone expects.
        batch_size: Images per training step of all processes together.
        num_workers: Loading processes; 0 loads in the main process.
        seed: The run's seed; decides the order of training and the augmentation.
        mosaic: Share of training images that become a collage of images of their category.
        mosaic_kind: ``by_type`` or ``class_aware``, see `Mosaic` and `ClassAwareMosaic`.
        mosaic_label: ``any`` or ``replaced``, see `Mosaic`.
        references: Whether another normal image of its category comes with each training image.
        cache: Whether resized pixels are kept on disk, in ``cache_dir``.
        eval_batch_size: Images per evaluation step of one process; ``None`` takes ``batch_size``.
        process: Index of this process, from 0.
        num_processes: Number of processes that share the data.
        max_pixels: Most pixels of an image or mask.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_size: int
    num_workers: int = 0
    seed: int = 0
    augment: bool = False
    mosaic: float = 0.0
    mosaic_kind: str = "by_type"
    mosaic_label: str = "any"
    references: bool = False
    cache: bool = False
    cache_dir: Path | None = None
    eval_batch_size: int | None = None
    process: int = 0
    num_processes: int = 1
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name in ("image_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.cache_dir is not None:
            object.__setattr__(self, "cache_dir", Path(self.cache_dir))
        self._require(len(self.image_size) == 2 and min(self.image_size) > 0, "image_size", "two positive numbers")
        self._require(len(self.mean) == 3, "mean", "three numbers, one per channel")
        self._require(len(self.std) == 3 and min(self.std) > 0, "std", "three positive numbers, one per channel")
        self._require(self.batch_size > 0, "batch_size", "positive")
        self._require(self.eval_batch_size is None or self.eval_batch_size > 0, "eval_batch_size", "positive or null")
        self._require(self.num_workers >= 0, "num_workers", "0 or more")
        self._require(self.seed >= 0, "seed", "0 or more")
        self._require(0 <= self.process < self.num_processes, "process", "from 0 to num_processes - 1")
        self._require(0 <= self.mosaic <= 1, "mosaic", "from 0 to 1")
        self._require(not self.cache or self.cache_dir is not None, "cache_dir", "a folder if data.cache=true")

    def _require(self, holds: bool, name: str, what: str) -> None:
        if not holds:
            msg = f"data.{name} must be {what}, got {getattr(self, name)!r}. Correct data.{name}."
            raise ValueError(msg)


class AnomalyDataModule(LightningDataModule):
    """The auxiliary dataset and the targets of one run, kept apart.

    Args:
        auxiliary: The dataset to train on, if any.
        settings: How images are prepared and loaded.

    Attributes:
        targets: The datasets to score, by name.
        features: What the frozen image tower gives for the auxiliary dataset; if set before training, it is read
            instead of the images.

    Raises:
        DataError: If two targets share a name, the auxiliary dataset lacks masks or references, or a target may share
            images with it (``refuse_overlap``).
    """

    def __init__(
        self, auxiliary: LoadedDataset | None, targets: Sequence[LoadedDataset], settings: DataSettings
    ) -> None:
        super().__init__()
        names = [target.spec.name for target in targets]
        if len(set(names)) < len(names):
            msg = f"Targets must have different names, because results are reported by name, got {names}. Rename one."
            raise DataError(msg)
        self._references: NormalReferences | None = None
        if auxiliary is not None:
            _require_masks(auxiliary)
            if settings.references:
                self._references = NormalReferences(auxiliary.samples)
            for target in targets:
                refuse_overlap(TrainedOn.of(auxiliary), target)
        self.auxiliary = auxiliary
        self.targets = dict(zip(names, targets, strict=True))
        self.features: FeatureCache | None = None
        self.settings = settings
        self._loading: list[LoadingProcesses] = []

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel for normalising."""
        return self.settings.mean, self.settings.std

    def train_dataloader(self) -> DataLoader[AnomalyItem]:
        """Load this process's part of each batch of the auxiliary dataset, in a new order each epoch."""
        if self.auxiliary is None:
            msg = "Training needs an auxiliary dataset. Choose one, for example dataset=visa."
            raise DataError(msg)
        dataset = self._dataset(self.auxiliary, training=True)
        sampler = EpochSampler(len(dataset), self.settings.seed)
        settings = self.settings
        if self.trainer is not None:
            # Lightning starts loading the first epoch before it calls set_epoch, also when training is resumed.
            loop = self.trainer.fit_loop
            progress = loop.epoch_progress.current.state_dict()
            sampler.set_epoch(progress["processed"])
            if progress["ready"] > progress["processed"]:  # interrupted in the middle of that epoch
                num_batches = loop.epoch_loop.batch_progress.current.completed
                sampler.skip(progress["processed"], num_batches * settings.batch_size)
        batches = TrainingBatches(sampler, settings.batch_size, settings.process, settings.num_processes)
        # Training starts its workers once. A target is read only once, and its workers must not outlive it.
        return self._loader(dataset, batch_sampler=batches, persistent_workers=settings.num_workers > 0)

    def auxiliary_in_order(self, start: int = 0) -> DataLoader[AnomalyItem]:
        """Load the auxiliary dataset in the order of its samples from ``start`` on, without augmentation."""
        assert self.auxiliary is not None, "only training asks for it"
        dataset = self._dataset(self.auxiliary, training=False)
        return self._loader(
            dataset,
            batch_size=self.settings.eval_batch_size or self.settings.batch_size,
            sampler=range(start, len(dataset)),
        )

    def pictured(self, batch: AnomalyBatch) -> AnomalyBatch:
        """Add the images to a training batch that was read from the feature cache."""
        if batch.image is not None:
            return batch
        assert self.auxiliary is not None, "the batch came from it"
        dataset = self._dataset(self.auxiliary, training=False)
        images = collate([dataset[index] for index in batch.index.tolist()]).pictures
        return replace(batch, image=images.to(batch.mask.device))

    def target_dataloader(self, name: str) -> DataLoader[AnomalyItem]:
        """Load this process's batches of one target, in the order of its samples."""
        dataset, settings = self._dataset(self._target(name), training=False), self.settings
        batch_size = settings.eval_batch_size or settings.batch_size
        if settings.num_processes == 1:
            return self._loader(dataset, truth_stays=True, batch_size=batch_size)
        batches = TargetBatches(len(dataset), batch_size, settings.process, settings.num_processes)
        return self._loader(dataset, truth_stays=True, batch_sampler=batches)

    def test_dataloader(self) -> list[DataLoader[AnomalyItem]]:
        """Load every target, in the order of ``targets``."""
        return [self.target_dataloader(name) for name in self.targets]

    def reference_batches(self, name: str, shots: int) -> list[AnomalyBatch]:
        """Read a few normal images of each category of a target: one batch per category that is scored.

        Args:
            shots: Images of each category; the run's seed decides the choice.
        """
        target, settings = self._target(name), self.settings
        reader, chosen = self.reader(target), choose_references(target, shots, settings.seed)
        datasets = [AnomalyDataset(samples, reader, settings.mean, settings.std) for samples in chosen.values()]
        return [collate([dataset[index] for index in range(shots)]) for dataset in datasets]

    def vanished_defects(self, dataset: LoadedDataset) -> dict[str, int]:
        """Count the 8-connected defects per category that have no pixel left at the model's input size; warn of any."""
        masked = [sample for sample in dataset.samples if sample.mask_path is not None]
        counts = count_vanished_defects(tracked(masked, "Counting defects"), self.reader(dataset))
        return self._warned(dataset.spec.name, counts)

    @contextmanager
    def counting_vanished_defects(
        self, dataset: LoadedDataset
    ) -> Iterator[tuple[Callable[..., None], Callable[[], dict[str, int]]]]:
        """Count `vanished_defects` on a thread while images are scored.

        Yields:
            A function that starts counting, to be called after the loading processes have been forked, and one that
            waits and returns the counts. Counting stops if the block fails.
        """
        is_over, begun = Event(), list[Future[dict[str, DefectCount]]]()
        samples = (sample for sample in dataset.samples if not is_over.is_set())
        with ThreadPoolExecutor(1) as pool:

            def begin(*_: object) -> None:
                if not begun:
                    begun.append(pool.submit(count_vanished_defects, samples, self.reader(dataset)))

            def counts() -> dict[str, int]:
                begin()
                if not begun[0].done():
                    logger.info("%s: counting the defects that vanish at input size.", dataset.spec.name)
                return self._warned(dataset.spec.name, begun[0].result())

            try:
                yield begin, counts
            finally:
                is_over.set()

    def _warned(self, name: str, counts: Mapping[str, DefectCount]) -> dict[str, int]:
        for category, count in counts.items():
            if count.num_empty:
                empty = counted(count.num_empty, "mask marks", "masks mark")
                logger.warning("%s/%s: %s no pixel of an anomalous image.", name, category, empty)
            elif count.num_full == count.num_masks:
                logger.warning(
                    "%s/%s: every mask (%d) marks nearly all of its image. Are they inverted?",
                    name,
                    category,
                    count.num_masks,
                )
        vanished = {category: count.num_vanished for category, count in counts.items()}
        if total := sum(vanished.values()):
            categories = ", ".join(category for category, number in vanished.items() if number)
            message = "%s: small defects without a pixel at input size: %d (%s); the manifest lists them by category."
            logger.warning(message, name, total, categories)
        return vanished

    def naming_lost_images(self) -> AbstractContextManager[None]:
        """Name the image that was being read if a loading process is lost inside the block."""
        return naming_lost_images(self._loading)

    def _target(self, name: str) -> LoadedDataset:
        if name not in self.targets:
            msg = f"The target must be one of {sorted(self.targets)}, got {name!r}. Add it to the targets of the run."
            raise DataError(msg)
        return self.targets[name]

    def reader(self, loaded: LoadedDataset) -> SampleReader:
        """Return what decodes and resizes a dataset's images and masks."""
        threshold = dataset_row(loaded.spec.layout).mask_threshold
        return SampleReader(self.settings.image_size, threshold, self.settings.max_pixels)

    def _dataset(self, loaded: LoadedDataset, *, training: bool) -> AnomalyDataset:
        settings, reader = self.settings, self.reader(loaded)
        cache = None
        features = self.features if training else None
        if settings.cache and features is None:
            assert settings.cache_dir is not None, "DataSettings refuses a cache without a folder"
            cache = open_cache(loaded.samples, reader, loaded.digest, settings.cache_dir)
        augmentation = build_augmentation(settings.image_size) if training and settings.augment else None
        mosaic = None
        if training and settings.mosaic:
            mosaic = MOSAICS[settings.mosaic_kind](loaded.samples, settings.mosaic, settings.mosaic_label)
        parts = (loaded.samples, reader, settings.mean, settings.std, cache, augmentation, mosaic)
        return AnomalyDataset(*parts, features=features, references=self._references if training else None)

    def _loader(
        self,
        dataset: AnomalyDataset,
        *,
        truth_stays: bool = False,
        **batching: Any,  # noqa: ANN401
    ) -> DataLoader[AnomalyItem]:
        settings = self.settings
        largest = max(settings.batch_size // settings.num_processes, settings.eval_batch_size or 0, 1)
        sizes = (settings.num_workers, largest, settings.seed)
        loader, loading = build_loader(dataset, *sizes, truth_stays=truth_stays, **batching)
        self._loading.append(loading)
        return loader


def _require_masks(auxiliary: LoadedDataset) -> None:
    bare = [sample for sample in auxiliary.samples if sample.is_anomalous and sample.mask_path is None]
    if bare or not auxiliary.digest.num_masks:
        msg = (
            f"An auxiliary dataset needs anomalous images with a mask each, but {auxiliary.root} has "
            f"{counted(auxiliary.digest.num_masks, 'mask')} for "
            f"{counted(auxiliary.digest.num_anomalous, 'anomalous image')}"
            f"{f'; {bare[0].image_path} has none' if bare else ''}. Train on another dataset or split."
        )
        raise DataError(msg)
