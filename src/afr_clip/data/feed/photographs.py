"""Photographs without truth: one that cannot be read is no error, and batches are shared out over processes."""

from collections.abc import Collection, Iterator, Sequence

import torch

from afr_clip.data.disk.pixels import Pixels, SampleReader
from afr_clip.data.errors import DataError
from afr_clip.data.feed.dataset import AnomalyDataset, AnomalyItem, build_loader, normalise
from afr_clip.data.feed.sampler import Draw
from afr_clip.data.feed.workers import naming_lost_images
from afr_clip.data.records import AnomalyBatch, AnomalySample
from afr_clip.processes.place import Place


class PhotographDataset(AnomalyDataset):
    """Photographs, of which one that cannot be read, or need not be, is a black picture.

    So it keeps its place, and all others are scored in batches of the same shape, to the last bit.

    Args:
        unread: Indices that are not read.
    """

    def __init__(
        self,
        samples: Sequence[AnomalySample],
        reader: SampleReader,
        mean: Sequence[float],
        std: Sequence[float],
        unread: Collection[int],
    ) -> None:
        super().__init__(samples, reader, mean, std)
        image, mask = torch.zeros(3, *reader.size, dtype=torch.uint8), torch.zeros(reader.size, dtype=torch.bool)
        self._black = Pixels(image, mask)
        self._unread = frozenset(unread)

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> AnomalyItem:
        """Read one photograph; the item says why it could not be read."""
        assert isinstance(key, int), "photographs are not augmented"
        try:
            return super().__getitem__(key)
        except (DataError, OSError, MemoryError) as error:
            fault = str(error) or type(error).__name__
        image = normalise(self._black.image, self._mean, self._std)
        return AnomalyItem(image, self._black.mask, False, key, self.samples[key], fault=fault)

    def _read(self, index: int) -> Pixels:
        return self._black if index in self._unread else super()._read(index)


def photograph_batches(
    photographs: Sequence[AnomalySample],
    reader: SampleReader,
    normalisation: tuple[Sequence[float], Sequence[float]],
    *,
    batch_size: int,
    num_workers: int,
    done: Collection[int],
    here: Place,
) -> Iterator[AnomalyBatch]:
    """Load this process's batches that hold a photograph to be scored.

    The batches are the same for any number of processes and after any interruption, because the last bits of a score
    may depend on which photographs share a batch.

    Args:
        done: Indices of photographs that need not be read.
        here: The process; the batches are shared out in turn.

    Raises:
        LostWorkerError: If a loading process is lost; the error names the photograph it was reading.
    """
    dataset = PhotographDataset(photographs, reader, *normalisation, done)
    starts = range(0, len(dataset), batch_size)[here.rank :: here.world_size]
    batches = (range(start, min(start + batch_size, len(dataset))) for start in starts)
    wanted = [list(batch) for batch in batches if not set(batch) <= set(done)]
    if not wanted:
        return
    if len(wanted) == 1:
        num_workers = 0  # there is nothing to load meanwhile
    loader, loading = build_loader(dataset, num_workers, batch_size, 0, batch_sampler=wanted)
    with naming_lost_images([loading]):
        yield from loader
