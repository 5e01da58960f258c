"""The process that listens: slow clients end, and a stop finishes what is in hand."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from afr_clip.inspection.service import Model
from afr_clip.processes.signals import STOP_SIGNALS, listening
from afr_clip.serving.app import build_app
from afr_clip.serving.log import log_as_json
from afr_clip.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

HEADER_SECONDS = 10.0
"""For the headers of a request to arrive; uvicorn itself waits forever."""

IDLE_SECONDS = 30
"""For which a connection is kept between two requests."""

LONGEST_HEADERS = 16 * 2**10


class ServingError(ValueError):
    """The server cannot listen where it was told to."""


class PunctualProtocol(H11Protocol):
    """HTTP that hangs up on clients whose headers do not arrive."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's own
        """Begin to wait for the first headers."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Stop waiting once the headers are complete."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._deadline is None and not self.transport.is_closing():
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._forget()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """A server that ends without error when it is asked to stop.

    Args:
        models: Under different names.
    """

    def __init__(self, models: Sequence[Model], settings: ServingSettings) -> None:
        super().__init__(
            uvicorn.Config(
                build_app(models, settings), http=PunctualProtocol, loop="asyncio", ws="none", access_log=False,
                log_config=None, server_header=False, proxy_headers=False, timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=round(settings.grace), limit_concurrency=2 * settings.max_queue + 256,
                h11_max_incomplete_event_size=LONGEST_HEADERS,
            )
        )  # fmt: skip

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to all signals that ask to stop; uvicorn's own would raise them again at the end."""
        with listening(self.handle_exit, (signal.SIGINT, *STOP_SIGNALS)):
            yield


def listen_at(settings: ServingSettings) -> socket.socket:
    """Open the socket of a server.

    Raises:
        ServingError: If the address is taken or not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno) if isinstance(error.errno, int) and error.errno > 0 else str(error.strerror)
        msg = f"The server cannot listen at {settings.host}:{settings.port}: {reason}. Choose another --port or --host."
        raise ServingError(msg) from error


def serve(models: Sequence[Model], settings: ServingSettings, listener: socket.socket) -> None:
    """Serve until a signal asks to stop; then finish what is in hand."""
    log_as_json()
    host, port = listener.getsockname()[:2]
    place = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"serving: http://{place}:{port}/docs\n")
    sys.stdout.flush()
    Server(models, settings).run(sockets=[listener])
