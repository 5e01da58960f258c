"""The settings of DenseCLIP; importing this module does not import torch."""

from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.coop.settings import ContextSettings


@dataclass
class DecoderSettings:
    """The transformer in which texts attend to the image.

    Attributes:
        width: Width of the decoder's tokens.
        num_heads: Must divide the width.
        num_layers: Each attends among the texts, then to the image, and has an MLP of four times the width.
        dropout: Dropout rate in training.

    Raises:
        ValueError: If a number is out of range.
    """

    width: int
    num_heads: int
    num_layers: int
    dropout: float

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.width < 1 or self.width % self.num_heads:
            msg = f"decoder.num_heads must divide decoder.width={self.width}, got {self.num_heads}. DenseCLIP uses 4."
            raise ValueError(msg)
        if self.num_layers < 1:
            msg = f"decoder.num_layers must be positive, got {self.num_layers}. DenseCLIP uses 3."
            raise ValueError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"decoder.dropout must lie in [0, 1), got {self.dropout}. DenseCLIP uses 0.1."
            raise ValueError(msg)


@dataclass
class NetworkSettings(ContextSettings):
    """The settings of DenseCLIP; see the network's arguments."""

    network_class: ClassVar[str] = "DenseCLIP"

    decoder: DecoderSettings
