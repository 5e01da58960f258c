"""The loop: what arrived is inspected in batches, recorded, and carried to the sinks."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from afr_clip.data.errors import DataError
from afr_clip.files import counted
from afr_clip.inspection.detector import Decoded, Inspection
from afr_clip.inspection.service import Model, inspect_each, record_of
from afr_clip.settings import not_negative, positive, refuse
from afr_clip.watching.arrivals import Arrivals, Arrived
from afr_clip.watching.delivery import Delivery
from afr_clip.watching.journal import Journal
from afr_clip.watching.sinks import Sink

logger = logging.getLogger(__name__)

FOLDER_SHARE = 5
"""The pause between two looks at the folder is at least this many times as long as a look."""


@dataclass(frozen=True)
class WatchingSettings:
    """How a folder is watched.

    Attributes:
        poll: Seconds between two looks at the folder; looking works on every file system, also over a network.
        settle: Seconds without change after which a file counts as complete.
        give_up: Seconds without change after which a file that cannot be read is recorded as such.
        is_once: Whether to end once everything that is there is inspected and delivered.
        grace: Seconds for sinks to take what is left when the command is stopped.
    """

    poll: float = 0.5
    settle: float = 1.0
    give_up: float = 60.0
    is_once: bool = False
    grace: float = 5.0
    max_pixels: int = 200_000_000

    def __post_init__(self) -> None:
        refuse(
            positive("--poll", self.poll),
            not_negative("--settle", self.settle),
            positive("--give-up", self.give_up),
            not_negative("--grace", self.grace),
            positive("--max-pixels", self.max_pixels),
            None
            if self.give_up >= self.settle
            else f"--give-up must be at least --settle, got {self.give_up} and {self.settle}. Try 60 and 1.",
        )


def watch(
    folder: Path,
    model: Model,
    journal: Journal,
    sinks: Sequence[Sink],
    settings: WatchingSettings,
    stopped: threading.Event,
) -> int:
    """Inspect what arrives in a folder until ``stopped`` is set.

    Returns:
        How many photographs were recorded.

    Raises:
        JournalError: If the journal cannot be written; what it holds is complete.
        DataError: If everything is to be done once and the folder cannot be listed.
    """
    deliveries = [Delivery(journal, sink) for sink in sinks]
    for delivery in deliveries:
        delivery.start()
    arrivals = Arrivals(
        folder,
        settle=settings.settle,
        give_up=settings.give_up,
        max_pixels=settings.max_pixels,
        known=journal.files(),
    )
    number, is_reported = 0, False
    try:
        while not stopped.is_set():
            _raise_faults(deliveries)
            try:
                number += _inspect_arrived(model, journal, arrivals, stopped)
                is_reported = False
            except DataError as error:  # a network folder may come back
                if settings.is_once:
                    raise
                if not is_reported:
                    logger.warning("%s It is tried again.", error)
                is_reported = True
            if settings.is_once and not arrivals.num_waiting and not any(journal.num_pending().values()):
                break
            stopped.wait(max(settings.poll, FOLDER_SHARE * arrivals.seconds))
    finally:
        _stop(deliveries, settings.grace)
        for name, left in journal.num_pending().items():
            if left:
                logger.warning(
                    "%s still has %s to receive; the next start delivers them.", name, counted(left, "record")
                )
    _raise_faults(deliveries)
    return number


def _stop(deliveries: Sequence[Delivery], grace: float) -> None:
    until = time.monotonic() + grace  # for all of them
    for delivery in deliveries:
        delivery.ask_to_stop(until)
    for delivery in deliveries:
        delivery.join()


def _raise_faults(deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        if delivery.fault is not None:
            raise delivery.fault


def _inspect_arrived(model: Model, journal: Journal, arrivals: Arrivals, stopped: threading.Event) -> int:
    """Look at the folder once; return how many photographs were recorded."""
    number = 0
    for batch in _batches(arrivals.ready(), model.detector.scanner.scanning.batch_size):
        number += _record(model, journal, batch)
        arrivals.note(batch)
        if stopped.is_set():
            break
    journal.forget(arrivals.gone())
    return number


def _batches(arrived: Iterator[Arrived], size: int) -> Iterator[list[Arrived]]:
    while batch := list(islice(arrived, size)):
        yield batch


def _record(model: Model, journal: Journal, batch: Sequence[Arrived]) -> int:
    """Inspect photographs and record them; what is known by its content is not inspected again."""
    new = [one for one in batch if not journal.has(one.key)]
    photographs = [one.photograph for one in new if isinstance(one.photograph, Decoded)]
    category = model.category(None)
    results = iter(inspect_each(model.detector, photographs, category) if photographs else [])
    found: dict[str, dict[str, Any]] = {}
    for one in new:
        result = next(results) if isinstance(one.photograph, Decoded) else one.photograph
        if isinstance(result, Inspection):
            content = {**result.to_dict(), "error": None}
        else:
            content = _failed(category, str(result) or type(result).__name__)
            logger.warning("%s", content["error"])
        found[one.key] = record_of(content, key=one.key, model=model.name, file=one.name)
    journal.record([(one.path, one.stat, found.get(one.key)) for one in batch])
    return len(new)


def _failed(category: str, sentence: str) -> dict[str, Any]:
    """Return the record of a photograph that cannot be inspected; it has the keys of the others."""
    unknown = dict.fromkeys(("width", "height", "image_score", "threshold", "decision", "calibrated"))
    return {**unknown, "category": category, "regions": [], "error": sentence}
