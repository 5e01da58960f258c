"""Builders for the unit tests; the towers are built once, because they never change."""

import pytest

from afr_clip.clip.load import Towers
from helpers.configs import changed, composed, default_config
from helpers.tiny import tiny_towers

__all__ = ["changed", "composed", "default_config", "towers"]


@pytest.fixture(scope="session")
def towers() -> Towers:
    return tiny_towers()
