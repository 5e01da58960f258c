"""Photographs of many requests scored together: each waits for others for a bounded time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from afr_clip.inspection.detector import Decoded, Inspection
from afr_clip.inspection.service import Model, inspect_each


@dataclass(eq=False)
class _QueuedPhotograph:
    """A photograph that waits to be scored, and where its inspection goes."""

    photograph: Decoded
    category: str
    since: float
    answer: "asyncio.Future[Inspection]" = field(repr=False)


class Batcher:
    """Scores the photographs of one model in batches of one category, those that waited longest first.

    A batch begins when it is full, when its first photograph has waited for ``wait``, or when as many wait as are in
    hand now and were when the last batch began. So the photograph of a lone client is scored at once, and several that
    were answered together are scored together again. While a batch is scored, the next one collects.

    Args:
        thread: Scores; of one thread, which all models share.
        wait: Seconds.
        expected: Returns how many requests are in hand.
        scored: Is called with the size of each batch.
    """

    def __init__(
        self,
        model: Model,
        thread: Executor,
        wait: float,
        expected: Callable[[], int],
        scored: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.model = model
        self._thread, self._wait, self._expected, self._scored = thread, wait, expected, scored
        self._size = model.detector.scanner.scanning.batch_size
        self._waiting: list[_QueuedPhotograph] = []
        self._changed = asyncio.Event()
        self._before = 0

    async def inspect(self, photograph: Decoded, category: str) -> Inspection:
        """Wait for the inspection of a photograph.

        Raises:
            ValueError: If it cannot be inspected.
        """
        loop = asyncio.get_running_loop()
        own = _QueuedPhotograph(photograph, category, loop.time(), loop.create_future())
        self._waiting.append(own)
        self._changed.set()
        return await own.answer

    async def run(self) -> None:
        """Score batches until this is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            if not batch:
                continue
            photographs = [one.photograph for one in batch]
            try:
                found = await loop.run_in_executor(
                    self._thread, inspect_each, self.model.detector, photographs, batch[0].category
                )
            except Exception as error:  # each request reports it; the next batch may do better
                found = [error] * len(batch)  # type: ignore[list-item]
            self._scored(len(batch))
            for one, result in zip(batch, found, strict=True):
                if one.answer.done():  # its client was told that it took too long
                    continue
                if isinstance(result, Inspection):
                    one.answer.set_result(result)
                else:
                    one.answer.set_exception(result)

    async def _next_batch(self) -> list[_QueuedPhotograph]:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            self._waiting = [one for one in self._waiting if not one.answer.done()]
            if self._waiting:
                first = self._waiting[0]
                batch = [one for one in self._waiting if one.category == first.category][: self._size]
                left = first.since + self._wait - loop.time()
                is_all = max(self._before, self._expected()) <= len(self._waiting)
                if len(batch) == self._size or left <= 0 or is_all:
                    self._before = self._expected()
                    self._waiting = [one for one in self._waiting if one not in batch]
                    return batch
            else:
                left = None
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except asyncio.TimeoutError:
                continue
