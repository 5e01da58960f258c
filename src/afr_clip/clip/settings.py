"""The settings of the frozen towers, checked before any of them is built."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

TIMM = "timm:"
"""Prefix of an architecture of timm: an image tower without text."""

ON_HUB = "hf:"
"""Prefix of a checkpoint on the Hugging Face Hub: ``hf:OWNER/NAME``, or ``hf:OWNER/NAME@REVISION``."""


def require_one_source(owner: str, *, pretrained: object, weights: object, random_weights: bool) -> None:
    """Check that exactly one source of weights is named.

    A local file (``weights``) wins over the registry's ``pretrained``; random weights must be asked for by name.

    Args:
        owner: The config node, for the message.
        pretrained: Tag or flag of the registry's weights; falsy for none.
        weights: Path of a local file; ``None`` for none.
        random_weights: Whether random weights were asked for.

    Raises:
        ValueError: If random weights are asked for together with a file, or if there is no source at all.
    """
    if random_weights and weights is not None:
        msg = f"{owner}.weights and {owner}.random_weights=true exclude each other, got both. Leave one of them out."
        raise ValueError(msg)
    if not (random_weights or weights is not None or pretrained):
        msg = (
            f"{owner} must have weights, got none. Pass {owner}.weights=PATH, or {owner}.random_weights=true where "
            f"the numbers do not matter."
        )
        raise ValueError(msg)


@dataclass
class CNNSettings:
    """The frozen CNN whose feature self prompting turns into tokens.

    Attributes:
        architecture: Any timm model that offers ``features_only``, for example ``"resnet50"``. With one of its tags,
            ``"resnet50.tv_in1k"``, it names published weights; without, timm chooses them.
        pretrained: Whether to take timm's published weights (downloaded once).
        weights: A local weight file (safetensors or a plain state dict), or ``package:NAME/PATH`` for one that an
            installed package carries; wins over ``pretrained``.
        random_weights: Fixed random weights, for tests of shapes and speed.
        stages: Which stages are pooled and concatenated; ``-1`` is the last.

    Raises:
        ValueError: If no or contradictory weight sources are named, or ``stages`` is empty.
    """

    architecture: str
    pretrained: bool
    weights: str | None
    random_weights: bool
    stages: list[int]

    def __post_init__(self) -> None:
        require_one_source(
            "backbone.cnn", pretrained=self.pretrained, weights=self.weights, random_weights=self.random_weights
        )
        if not self.stages:
            msg = "backbone.cnn.stages must name at least one stage, got none. Use [-1] for the last stage."
            raise ValueError(msg)

    @property
    def downloads(self) -> bool:
        """Whether timm's published weights are used, because no others are named."""
        return self.pretrained and self.weights is None and not self.random_weights


class PositionEmbeddings(Enum):
    """How position embeddings are interpolated if the input size is not the one the weights were trained for."""

    bicubic_antialias = "bicubic_antialias"
    bicubic = "bicubic"
    bilinear = "bilinear"


@dataclass
class BackboneSettings:
    """Which towers to load and from where, their input size, and the tap layers.

    Attributes:
        name: The config's own name; kept in manifests and compared when a checkpoint is loaded.
        architecture: open_clip's model name, or ``timm:`` and a ViT of timm, which has no text. ``-quickgelu`` names
            matter: OpenAI's weights were trained with QuickGELU.
        pretrained: open_clip's or timm's tag of published weights (downloaded once), which also says how images are
            normalised if the weights come from a file; ``None`` for none.
        weights: A local weight file, or ``package:NAME/PATH``; wins over ``pretrained``.
        random_weights: Fixed random weights, for tests of shapes and speed.
        quick_gelu: The activation that the weights were trained with; compared with the architecture, never guessed.
        other_activation: Whether the towers run with the other activation on purpose, overriding the architecture. The
            published weights of APRIL-GAN and AdaCLIP were trained on such towers.
        image_size: Side of the square input in pixels.
        position_embeddings: How position embeddings are interpolated for ``image_size``: ``bicubic_antialias`` as in
            open_clip and APRIL-GAN, ``bicubic`` as in AdaCLIP, ``bilinear`` as in AnomalyCLIP.
        tap_layers: Blocks read out, counted from 1; ``None`` spreads four over the depth (6, 12, 18, 24 of 24).
        cnn_stem: Whether a stem over the CNN's maps takes the place of the image tower's patch embedding.
        cnn: The CNN of self prompting, and of the stem if there is one.

    Raises:
        ValueError: If the weight sources contradict each other, ``image_size`` is not positive, or ``tap_layers`` does
            not ascend from 1.
    """

    name: str
    architecture: str
    pretrained: str | None
    weights: str | None
    random_weights: bool
    quick_gelu: bool
    other_activation: bool
    image_size: int
    position_embeddings: PositionEmbeddings
    tap_layers: list[int] | None
    cnn_stem: bool
    cnn: CNNSettings

    def __post_init__(self) -> None:
        require_one_source(
            "backbone", pretrained=self.pretrained, weights=self.weights, random_weights=self.random_weights
        )
        self.position_embeddings = PositionEmbeddings(self.position_embeddings)
        if self.image_size < 1:
            msg = f"backbone.image_size must be a positive number of pixels, got {self.image_size}. The paper uses 518."
            raise ValueError(msg)
        if self.tap_layers is not None:
            checked_tap_layers(self.tap_layers)

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower."""
        return not self.architecture.startswith(TIMM)


def checked_tap_layers(tap_layers: Sequence[int], depth: int | None = None) -> tuple[int, ...]:
    """Check the tap layers.

    Args:
        tap_layers: Blocks counted from 1.
        depth: Number of blocks of the tower, where it is known.

    Returns:
        The layers as a tuple.

    Raises:
        ValueError: If they are none, do not ascend, start below 1 or exceed the depth.
    """
    layers = tuple(tap_layers)
    ascending = all(a < b for a, b in pairwise(layers))
    if not layers or layers[0] < 1 or not ascending or (depth is not None and layers[-1] > depth):
        reach = "1 upwards" if depth is None else f"1..{depth}"
        msg = f"tap_layers must ascend within {reach}, got {list(layers)}. Layers are counted from 1, as in the paper."
        raise ValueError(msg)
    return layers


def default_tap_layers(depth: int, num_taps: int = 4) -> tuple[int, ...]:
    """Spread the paper's tap layers over a tower of another depth.

    Args:
        depth: Number of blocks of the tower.
        num_taps: How many blocks are read out.

    Returns:
        Blocks counted from 1; the last is always the last block.

    Raises:
        ValueError: If the tower has fewer blocks than taps.

    Example:
        >>> default_tap_layers(24), default_tap_layers(12)
        ((6, 12, 18, 24), (3, 6, 9, 12))
    """
    if depth < num_taps:
        msg = (
            f"A tower must have at least {num_taps} blocks for {num_taps} taps, got {depth}. "
            f"Set backbone.tap_layers by hand."
        )
        raise ValueError(msg)
    return tuple(round(depth * (i + 1) / num_taps) for i in range(num_taps))
