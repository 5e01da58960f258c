"""The settings of CoOp, and of what else learns a context; importing this module does not import torch."""

from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.method_settings import MethodSettings
from afr_clip.models.scoring_settings import ScoringSettings


@dataclass
class ContextSettings(MethodSettings):
    """The settings of a method that learns the words in front of a category's name.

    Attributes:
        num_context_tokens: Learned words, the same for every category and for both sentences.

    Raises:
        ValueError: If ``num_context_tokens`` is not positive.
    """

    num_context_tokens: int
    scoring: ScoringSettings

    def __post_init__(self) -> None:
        if self.num_context_tokens < 1:
            uses = "CoOp uses 16, CoCoOp 4, DenseCLIP 8."
            msg = f"num_context_tokens must be positive, got {self.num_context_tokens}. {uses}"
            raise ValueError(msg)

    @property
    def reads_category(self) -> bool:
        """Whether scores depend on the category's name: it follows the learned words."""
        return True

    @property
    def has_frozen_taps(self) -> bool:
        """Whether no trainable weight changes the image tower's output: only text is learned."""
        return True


@dataclass
class NetworkSettings(ContextSettings):
    """The settings of CoOp; see the network's arguments."""

    network_class: ClassVar[str] = "CoOp"
