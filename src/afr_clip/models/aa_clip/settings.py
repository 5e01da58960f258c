"""The settings of AA-CLIP; importing this module does not import torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from afr_clip.models.anomaly_clip.settings import ReadoutSettings
from afr_clip.models.method_settings import MethodSettings
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings


class ValueAttention(Enum):
    """What tokens attend to in the view that text is adapted to."""

    across_batch = "across_batch"
    within_image = "within_image"


@dataclass
class AdapterSettings:
    """Layers behind blocks of the frozen towers.

    Attributes:
        text_blocks: Text blocks with one, counted from the first; in a shallower tower, all but the last.
        image_blocks: Image blocks with one, counted from the first; in a shallower tower, all of them.
        text_weight: Share of the adapted tokens in the text tower.
        image_weight: The same in the image tower.

    Raises:
        ValueError: If a number of blocks is below 1, or a weight lies outside [0, 1].
    """

    text_blocks: int
    image_blocks: int
    text_weight: float
    image_weight: float

    def __post_init__(self) -> None:
        for name, published in (("text_blocks", 3), ("image_blocks", 6)):
            if getattr(self, name) < 1:
                msg = f"adapters.{name} must be positive, got {getattr(self, name)}. AA-CLIP uses {published}."
                raise ValueError(msg)
        for name in ("text_weight", "image_weight"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"adapters.{name} must lie in [0, 1], got {getattr(self, name)}. AA-CLIP uses 0.1."
                raise ValueError(msg)


@dataclass
class NetworkSettings(MethodSettings):
    """The settings of AA-CLIP; see the network's arguments.

    Raises:
        ValueError: If ``text_epochs`` is below 1.
    """

    network_class: ClassVar[str] = "AACLIP"

    text_epochs: int
    prompts: PromptSettings
    adapters: AdapterSettings
    readout: ReadoutSettings
    value_attention: ValueAttention
    scoring: ScoringSettings

    def __post_init__(self) -> None:
        self.value_attention = ValueAttention(self.value_attention)
        if self.text_epochs < 1:
            msg = f"text_epochs must be positive, got {self.text_epochs}. AA-CLIP uses 5."
            raise ValueError(msg)

    @property
    def fewest_epochs(self) -> int:
        """How many epochs a training needs: those of the text, and one of the image tower."""
        return self.text_epochs + 1

    def check_taps(self, tap_layers: Sequence[int]) -> None:
        """Check that value attention has started where its patches are read out.

        Args:
            tap_layers: Blocks counted from 1.

        Raises:
            ValueError: If it has not.
        """
        self.readout.first_local_block(tap_layers)
