import logging
import socket

import pytest

from afr_clip.clip import hub


@pytest.mark.parametrize(
    ("has_address", "proxies", "offline"), [(True, {}, False), (False, {}, True), (False, {"https": "http://p"}, False)]
)
def test_goes_offline_only_where_nobody_answers(monkeypatch, has_address, proxies, offline):
    def look_up(*_: object) -> None:
        if not has_address:
            raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(hub, "getproxies", lambda: proxies)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    with hub.hub_or_cache():
        assert offline == hub.constants.HF_HUB_OFFLINE
        assert logging.root.manager.disable == logging.ERROR
    assert hub.constants.HF_HUB_OFFLINE is False
    assert logging.root.manager.disable == logging.NOTSET


def test_a_wish_to_stay_offline_is_kept(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: None)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with hub.hub_or_cache():
        assert hub.constants.HF_HUB_OFFLINE is True
