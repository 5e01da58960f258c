"""What is typed after a command."""

from collections.abc import Sequence


def last_of_each(overrides: Sequence[str]) -> list[str]:
    """Drop what a later override sets again, which a command refuses: tests add to common lists."""
    last = {one.partition("=")[0]: i for i, one in enumerate(overrides) if "=" in one}
    return [one for i, one in enumerate(overrides) if last.get(one.partition("=")[0], i) == i]
