"""Stages of the image tower: from one tap layer to the next; importing it needs no torch."""

from collections.abc import Sequence

FIRST_PROMPTED_BLOCK = 2
"""Eq. (17): the first block of the tower sees the image alone."""


def prompted_blocks(stages: Sequence[int], tap_layers: Sequence[int]) -> frozenset[int]:
    """Name the blocks that see the prompt.

    A stage runs from the block after one tap layer to the next tap layer; stage 1 starts at the first block, which
    stays untouched (Eq. 17). In a tower so shallow that stage 1 is that block alone, the next block stands in for it.

    Args:
        stages: Stages counted from 1.
        tap_layers: Last block of each stage, counted from 1.

    Returns:
        Block numbers, counted from 1.

    Raises:
        ValueError: If a stage does not exist.

    Example:
        >>> sorted(prompted_blocks([1], (6, 12, 18, 24)))
        [2, 3, 4, 5, 6]
    """
    if max(stages) > len(tap_layers):
        msg = (
            f"self_prompting.stages must lie in 1..{len(tap_layers)} for tap_layers={list(tap_layers)}, "
            f"got {list(stages)}. A stage ends at each tap layer."
        )
        raise ValueError(msg)
    starts = (1, *(tap + 1 for tap in tap_layers))
    blocks: set[int] = set()
    for stage in stages:
        first, last = (max(block, FIRST_PROMPTED_BLOCK) for block in (starts[stage - 1], tap_layers[stage - 1]))
        blocks |= set(range(first, last + 1))
    return frozenset(blocks)
