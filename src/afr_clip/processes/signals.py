"""Signals that ask a run to stop, and how it ends then."""

import signal

EXIT_STOPPED = 75
"""Stopped by a signal with everything saved: the same command with ``resume=true`` goes on (EX_TEMPFAIL)."""

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has one
)
"""What schedulers send before they take a machine away. Ctrl-C is a person's, and ends a run at once."""


class Stopped(SystemExit):
    """A run that was asked to stop, and has.

    Args:
        signum: The signal that asked.
        saved: A sentence that says up to where everything is saved.

    Attributes:
        signum: As given.
    """

    def __init__(self, signum: int, saved: str) -> None:
        super().__init__(EXIT_STOPPED)
        self.signum = signal.Signals(signum)
        self._saved = saved

    def __str__(self) -> str:
        """Say what asked, what is saved, and how to go on."""
        how = "The same command goes on from there, with resume=true where it is a single training."
        return f"Stopped by {self.signum.name}. {self._saved} {how}"
