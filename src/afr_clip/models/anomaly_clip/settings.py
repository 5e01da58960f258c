"""The settings of AnomalyCLIP; importing this module does not import torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.method_settings import ReleasableSettings
from afr_clip.models.scoring_settings import ScoringSettings

FIRST_DEEP_BLOCK = 2
"""The text block in front of which the first deep tokens stand; the block before sees the context tokens themselves."""

LOCAL_SHARE = 4
"""The published local stream starts at block 6 and is read out after block 24: at a quarter of the last tap layer."""


@dataclass
class PromptLearnerSettings:
    """The words that are learned.

    Attributes:
        num_context_tokens: Learned words in front of ``object.`` and of ``damaged object.``, for each its own.
        num_deep_tokens: Learned tokens that overwrite the first context tokens in front of later text blocks, the same
            for both sentences.
        num_deep_blocks: How many text blocks, from the second on, have such tokens of their own; a shallower tower has
            fewer. 0 switches them off.

    Raises:
        ValueError: If there are no context tokens, the deep tokens do not fit among them, or ``num_deep_blocks`` is
            negative.
    """

    num_context_tokens: int
    num_deep_tokens: int
    num_deep_blocks: int

    def __post_init__(self) -> None:
        if self.num_context_tokens < 1:
            msg = f"prompts.num_context_tokens must be positive, got {self.num_context_tokens}. AnomalyCLIP uses 12."
            raise ValueError(msg)
        if not 1 <= self.num_deep_tokens <= self.num_context_tokens:
            msg = (
                f"prompts.num_deep_tokens must lie in 1..{self.num_context_tokens}, the context tokens it overwrites, "
                f"got {self.num_deep_tokens}. AnomalyCLIP uses 4."
            )
            raise ValueError(msg)
        if self.num_deep_blocks < 0:
            msg = f"prompts.num_deep_blocks must not be negative, got {self.num_deep_blocks}. AnomalyCLIP uses 8."
            raise ValueError(msg)

    def deep_blocks(self, depth: int) -> range:
        """Name the text blocks whose input is overwritten.

        Args:
            depth: Number of blocks of the text tower.

        Returns:
            Block numbers, counted from 1.

        Example:
            >>> settings = PromptLearnerSettings(num_context_tokens=12, num_deep_tokens=4, num_deep_blocks=8)
            >>> settings.deep_blocks(depth=12), settings.deep_blocks(depth=2)
            (range(2, 10), range(2, 3))
        """
        return range(FIRST_DEEP_BLOCK, min(FIRST_DEEP_BLOCK + self.num_deep_blocks - 1, depth) + 1)


@dataclass
class ReadoutSettings:
    """Where the local stream leaves the image tower's own, and where it is read out.

    Attributes:
        local_from_block: First image block with value attention, counted from 1; ``None`` keeps the published share,
            6 of 24 blocks.
        all_taps: Whether the local stream is read out after every tap layer of the backbone instead of the last alone.

    Raises:
        ValueError: If ``local_from_block`` is below 1.
    """

    local_from_block: int | None
    all_taps: bool

    def __post_init__(self) -> None:
        if self.local_from_block is not None and self.local_from_block < 1:
            msg = (
                f"readout.local_from_block must be positive, got {self.local_from_block}. "
                f"AnomalyCLIP uses 6; blocks are counted from 1."
            )
            raise ValueError(msg)

    def layers(self, tap_layers: Sequence[int]) -> tuple[int, ...]:
        """Name the blocks after which the local stream is read out.

        Args:
            tap_layers: The backbone's tap layers.

        Returns:
            Block numbers, counted from 1.
        """
        return tuple(tap_layers) if self.all_taps else (tap_layers[-1],)

    def first_local_block(self, tap_layers: Sequence[int], key: str = "readout.local_from_block") -> int:
        """Name the first block with value attention.

        Args:
            tap_layers: The backbone's tap layers.
            key: What the method calls it.

        Returns:
            Its number, counted from 1.

        Raises:
            ValueError: If the local stream would start behind a block after which it is read out.

        Example:
            >>> settings = ReadoutSettings(local_from_block=None, all_taps=False)
            >>> [settings.first_local_block([depth]) for depth in (24, 12, 4)]
            [6, 3, 1]
        """
        usual = max(1, tap_layers[-1] // LOCAL_SHARE)
        first, read_out = self.local_from_block or usual, self.layers(tap_layers)[0]
        if first > read_out:
            msg = (
                f"{key} must lie in 1..{read_out}, because the local stream is read out after block "
                f"{read_out}, got {first}. Start it earlier, or choose later backbone.tap_layers."
            )
            raise ValueError(msg)
        return first


@dataclass
class NetworkSettings(ReleasableSettings):
    """The settings of AnomalyCLIP; see the network's arguments."""

    network_class: ClassVar[str] = "AnomalyCLIP"

    prompts: PromptLearnerSettings
    readout: ReadoutSettings
    scoring: ScoringSettings

    @property
    def has_frozen_taps(self) -> bool:
        """Whether no trainable weight changes the image tower's output: only words are trained."""
        return True

    def check_taps(self, tap_layers: Sequence[int]) -> None:
        """Check that the local stream has started where it is read out.

        Args:
            tap_layers: Blocks counted from 1.

        Raises:
            ValueError: If it has not.
        """
        self.readout.first_local_block(tap_layers)
