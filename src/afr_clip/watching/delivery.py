"""Carries records from the journal to one sink, on a thread of its own, for as long as it takes."""

import logging
import random
import threading
import time

from afr_clip.watching.journal import Journal
from afr_clip.watching.sinks import Sink

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds between two attempts: they double, and each is shortened by chance, so that many do not come at once."""

LOOK_EVERY = 0.2
"""Seconds between two looks for records."""


OVERDUE = 30.0
"""Seconds after the time to stop at which a thread is left behind."""


class Delivery:
    """Delivers to one sink until it is stopped; a sink that fails stops no other.

    Args:
        first_pause: Seconds after the first failure.

    Attributes:
        fault: What ended the thread, if it was not asked to end.
    """

    def __init__(self, journal: Journal, sink: Sink, first_pause: float = FIRST_PAUSE) -> None:
        self.sink = sink
        self.fault: Exception | None = None
        self._journal, self._first_pause = journal, first_pause
        self._stopped = threading.Event()
        self._until = float("inf")
        journal.join(sink.name, sink.start())
        self._thread = threading.Thread(target=self._run, name=sink.name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask_to_stop(self, until: float) -> None:
        """Let it end once everything is delivered, at a time of `time.monotonic`; the rest is delivered next time."""
        self._until = until
        self._stopped.set()

    def join(self) -> None:
        """Wait until it has ended, or is overdue: an attempt has time limits of its own."""
        self._thread.join(max(0.0, self._until + OVERDUE - time.monotonic()))

    def _run(self) -> None:
        pause = self._first_pause
        try:
            while time.monotonic() < self._until:
                number, records, state = self._journal.pending(self.sink.name, self.sink.most)
                if not records:
                    if self._stopped.is_set():
                        return
                    self._stopped.wait(LOOK_EVERY)
                    continue
                try:
                    state = self.sink.deliver(records, state)
                except OSError as error:
                    logger.warning("%s Next attempt to %s in %.1f s or less.", error, self.sink.name, pause)
                    self._wait(pause * random.uniform(0.5, 1))
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                self._journal.delivered(self.sink.name, number, state)
                pause = self._first_pause
        except Exception as error:  # the main thread raises it
            self.fault = error
        finally:
            self.sink.close()

    def _wait(self, seconds: float) -> None:
        if self._stopped.is_set():  # a last attempt now and then, until the grace is over
            time.sleep(min(seconds, max(0.0, self._until - time.monotonic())))
        else:
            self._stopped.wait(seconds)
