"""What is typed after a command."""

from collections.abc import Sequence


def last_of_each(overrides: Sequence[str]) -> list[str]:
    """Drop what a later override sets again, which a command refuses: tests add to common lists."""
    keys = [one.lstrip("+").partition("=")[0] if "=" in one else None for one in overrides]
    last = {key: i for i, key in enumerate(keys)}
    return [one for i, (one, key) in enumerate(zip(overrides, keys, strict=True)) if key is None or last[key] == i]
