"""Published weights: from the local cache, or from the model hub where it can be reached."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlparse
from urllib.request import getproxies

from huggingface_hub import constants


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Let open_clip and timm fetch weights, without a minute of retries where there is no network.

    The hub's name is looked up once. Without an answer only the local cache is searched. The libraries' own error logs
    are held back: the caller says in one sentence what is missing.
    """
    was_offline = constants.HF_HUB_OFFLINE
    # Behind a proxy it is the proxy that knows names.
    reachable = bool(getproxies()) or _has_address(urlparse(constants.ENDPOINT).hostname or "")
    constants.HF_HUB_OFFLINE = was_offline or not reachable
    was_disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(was_disabled)
        constants.HF_HUB_OFFLINE = was_offline


def _has_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
