"""How figures draw names that come from data."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import rc_context


@contextmanager
def drawing_names() -> Iterator[None]:
    """Draw names as they are: a dollar sign starts no formula, and letters that the font lacks become boxes."""
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield
