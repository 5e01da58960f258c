"""The limits of a server; no web framework is needed to check them."""

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from afr_clip.settings import positive, refuse

TOKEN = "AFR_CLIP_TOKEN"
"""Environment variable with the token that clients must send; a command line would show it to other users."""

SHORTEST_TOKEN = 16

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""What clients of this machine call a server without token; a page in a browser that uses another name is refused."""


@dataclass(frozen=True)
class ServingSettings:
    """How a server listens and what it takes.

    Attributes:
        port: 0 takes a free one.
        token: What clients must send; ``None`` for none.
        is_open: Whether other machines may connect without a token.
        folder: Below it a request may name files; ``None`` for no files.
        max_bytes: Of one encoded photograph.
        max_pixels: Of one photograph; checked before it is decoded.
        max_queue: Requests in hand, from their first byte to their answer; further ones are refused with 429.
        wait: Seconds that a photograph waits at most for others to be scored with it.
        body_timeout: Seconds for a request to arrive completely.
        timeout: Seconds for a photograph to be scored.
        grace: Seconds that a stop waits for requests in hand.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    is_open: bool = False
    folder: Path | None = None
    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_queue: int = 128
    wait: float = 0.01
    body_timeout: float = 10.0
    timeout: float = 30.0
    grace: float = 60.0

    def __post_init__(self) -> None:
        names = ("max_bytes", "max_pixels", "max_queue", "body_timeout", "timeout", "grace")
        refuse(
            *(positive(option_of(name), getattr(self, name)) for name in names),
            *(
                f"{option_of(name)} must be finite, got {value}. Name seconds."
                for name in ("wait", "body_timeout", "timeout", "grace")
                if not math.isfinite(value := getattr(self, name))
            ),
            None if 0 <= self.wait <= 10 else f"--wait must be from 0 to 10 seconds, got {self.wait}. Try 0.01.",
            None if 0 <= self.port < 2**16 else f"--port must be from 0 to 65535, got {self.port}. Try 8000.",
            None
            if self.token is None or (len(self.token) >= SHORTEST_TOKEN and self.token.isascii())
            else f"{TOKEN} must have at least {SHORTEST_TOKEN} ASCII characters, got {len(self.token)}. Make one with "
            f"python -c 'import secrets; print(secrets.token_urlsafe())'.",
            None
            if is_loopback(self.host) or self.token is not None or self.is_open
            else f"A server at {self.host} can be reached from other machines and needs a token, got none. Set "
            f"{TOKEN}, listen at 127.0.0.1, or write --open if everyone who reaches it may use it.",
            None
            if self.folder is None or os.path.isdir(self.folder)  # noqa: PTH112 - Path.is_dir may raise
            else f"--folder must be a directory, got {self.folder}. Name the one whose files requests may name.",
        )


def option_of(name: str) -> str:
    """Return the option that sets an attribute of the settings."""
    return f"--{name.replace('_', '-')}"


def token_from(environment: Mapping[str, str]) -> str | None:
    """Return the token of the environment; an empty one is none."""
    return environment.get(TOKEN) or None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
