"""The order of training: a permutation per epoch and a seed per draw, both from the run's seed alone."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yield every index once per epoch, each with the seed of its augmentation.

    Order and seeds depend on (seed, epoch) and (seed, epoch, index), not on any generator's past. So they are the same
    for any number of workers, and a run resumed at an epoch continues as if it had never stopped.

    Args:
        num_samples: Length of the dataset.
        seed: The run's seed, not negative.

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
        """Leave out what a training had seen of an epoch when it was stopped there.

        Args:
            epoch: Counted from 0; the others are whole.
            num_samples: How many of its indices, from the first.
        """
        self._seen = (epoch, num_samples)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one.

        Args:
            epoch: Counted from 0.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._num_samples)
        epoch, seen = self._seen
        for index in order[seen if epoch == self._epoch else 0 :].tolist():
            yield index, draw_seed(self._seed, self._epoch, index)


def draw_seed(seed: int, epoch: int, index: int) -> int:
    """Derive the seed of one augmentation.

    Args:
        seed: The run's seed.
        epoch: Counted from 0.
        index: Position of the image in its dataset.

    Returns:
        A number of 32 bits that differs between epochs, indices and runs.
    """
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0])
