"""The order of training, and how several processes share a dataset.

Order and augmentation depend on the run's seed alone, not on the number of processes or loading workers.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from afr_clip.data.records import Share


class Draw(NamedTuple):
    """One image of a batch: its position in the dataset, the seed of its augmentation, and the process's share."""

    position: int
    seed: int | None
    share: Share


class EpochSampler(Sampler[tuple[int, int]]):
    """Yield every index once per epoch, each with the seed of its augmentation.

    Order and seeds depend on (seed, epoch) and (seed, epoch, index) alone, not on a generator's state. They are
    therefore the same for any number of workers, and in a resumed run.

    Example:
        >>> sampler = EpochSampler(num_samples=3, seed=0)
        >>> first = list(sampler)
        >>> sorted(index for index, draw_seed in first)
        [0, 1, 2]
        >>> sampler.set_epoch(1)
        >>> list(sampler) == first
        False
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        super().__init__()
        self._num_samples = num_samples
        self._seed = seed
        self._epoch = 0
        self._seen: tuple[int, int] = (0, 0)

    def skip(self, epoch: int, num_samples: int) -> None:
        """Skip the first ``num_samples`` indices of one epoch (counted from 0), in which training was interrupted."""
        self._seen = (epoch, num_samples)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0; Lightning calls this before each one."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._num_samples)
        epoch, seen = self._seen
        for index in order[seen if epoch == self._epoch else 0 :].tolist():
            yield index, draw_seed(self._seed, self._epoch, index)


class TrainingBatches(Sampler[list[Draw]]):
    """Split each batch of an epoch into one part per process, as equal as possible.

    The batches are those of a single process, so all processes together make the same optimiser step. If the last batch
    has fewer images than processes, some get none. They draw its first image as a stand-in that does not count, because
    every process must take part in the step.

    Args:
        order: The order of the whole dataset.

    Attributes:
        sampler: The order; Lightning looks for it under this name to set its epoch.

    Example:
        >>> order = EpochSampler(num_samples=5, seed=0)
        >>> [[draw.share for draw in batch] for batch in TrainingBatches(order, 4, process=1, num_processes=2)]
        [[Share(own=2, whole=4), Share(own=2, whole=4)], [Share(own=0, whole=1)]]
    """

    def __init__(self, order: EpochSampler, batch_size: int, process: int = 0, num_processes: int = 1) -> None:
        super().__init__()
        self.sampler = order
        self._batch_size = batch_size
        self._process, self._num_processes = process, num_processes

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self._batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = list(self.sampler)
        for start in range(0, len(draws), self._batch_size):
            whole = draws[start : start + self._batch_size]
            part = part_of(len(whole), self._process, self._num_processes)
            own = whole[part.start : part.stop]
            share = Share(len(own), len(whole))
            yield [Draw(index, seed, share) for index, seed in own or whole[:1]]


class TargetBatches(Sampler[list[Draw]]):
    """Distribute the batches of a target over the processes, in turn.

    The batches are those of a single process, because the last bits of a score may depend on which images share a
    batch. A process without a batch draws the first image as a stand-in that does not count.

    Example:
        >>> [[draw.position for draw in batch] for batch in TargetBatches(7, 2, process=1, num_processes=2)]
        [[2, 3], [6]]
    """

    def __init__(self, num_samples: int, batch_size: int, process: int, num_processes: int) -> None:
        super().__init__()
        starts = range(0, num_samples, batch_size)[process::num_processes]
        self._batches = [range(start, min(start + batch_size, num_samples)) for start in starts]

    def __len__(self) -> int:
        return max(1, len(self._batches))

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self._batches:
            yield [Draw(index, None, Share(len(batch), len(batch))) for index in batch]
        if not self._batches:
            yield [Draw(0, None, Share(0, 1))]


def part_of(num_images: int, process: int, num_processes: int) -> range:
    """Return the positions in a batch that a process works on; the parts differ by one image at most.

    Example:
        >>> [list(part_of(5, process, num_processes=3)) for process in range(3)]
        [[0, 1], [2, 3], [4]]
    """
    each, more = divmod(num_images, num_processes)
    start = process * each + min(process, more)
    return range(start, start + each + (process < more))


def draw_seed(seed: int, epoch: int, index: int) -> int:
    """Derive the 32-bit seed of one image's augmentation in one epoch."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0])
