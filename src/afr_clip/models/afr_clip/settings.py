"""The settings of AFR-CLIP; importing this module does not import torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from afr_clip.models.afr_clip.stages import prompted_blocks
from afr_clip.models.method_settings import MethodSettings
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import AGNOSTIC_NAME, PromptSettings


class Placement(Enum):
    """Where self prompting puts its tokens."""

    replace = "replace"
    append = "append"
    append_and_keep = "append_and_keep"


class AdapterKind(Enum):
    """Which layers bring tokens and text embeddings into the shared space."""

    linear = "linear"
    leaky_relu = "leaky_relu"


class TrainedMaps(Enum):
    """Which maps the loss compares with the mask."""

    mean = "mean"
    stages = "stages"


@dataclass
class StatelessPromptSettings(PromptSettings):
    """Which sentences AFR-CLIP uses, and whether their embeddings are normalised.

    Attributes:
        universal_prototypes: Whether "object" replaces the category in the two prototypes but not in the stateless
            sentence. ``object_agnostic`` replaces it in all three.
        normalised: Whether each sentence's embedding, and their mean, has unit length before Eq. (2). Otherwise the
            mean of CLIP's raw embeddings is adapted.

    Raises:
        ValueError: If both ``object_agnostic`` and ``universal_prototypes`` are set.
    """

    universal_prototypes: bool
    normalised: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.object_agnostic and self.universal_prototypes:
            msg = (
                "prompts.object_agnostic and prompts.universal_prototypes exclude each other, got true for both. The "
                "first also takes the category out of the stateless sentence; choose one."
            )
            raise ValueError(msg)

    def names(self, category: str) -> tuple[str, str]:
        """Return what stands for the category in the stateless sentences and in the stateful ones."""
        return (category, AGNOSTIC_NAME) if self.universal_prototypes else super().names(category)


@dataclass
class AdapterSettings:
    """The layers of Eqs. (1)-(2), and what goes into and comes out of them.

    Attributes:
        kind: ``linear`` is one layer for all tokens of a tap and one for all text embeddings, as in the equations.
            ``leaky_relu`` has layers without bias in front of a LeakyReLU: one each for the class token and the patches
            of a tap, and for the stateless, normal and abnormal embedding. The first author's later public code
            (AD-DINOv3) does this, except for the stateless embedding, which it does not have.
        standardised_patches: Whether, before the adapter, each channel of a tap's patch tokens is standardised to a
            mean of 0 and a standard deviation of 1 over the image, as in that code.
        unit_tokens: Whether adapted tokens have unit length when they enter CMFR.
    """

    kind: AdapterKind
    standardised_patches: bool
    unit_tokens: bool

    def __post_init__(self) -> None:
        self.kind = AdapterKind(self.kind)


@dataclass
class CMFRSettings:
    """Cross-modal feature rectification.

    Attributes:
        enabled: Without it the score is the image-text one.
        inner_dim: Channels between the two convolutions; ``None`` is the shared width ``D``, as in CMX.
        kernel_size: Side of the convolutions over the patch grid; odd. 1 treats every patch alone.
        shared: One module for all stages instead of one each.
        symmetric: Whether the text also writes into the image (through ``M_t``) and both rectified embeddings are
            averaged.

    Raises:
        ValueError: If ``kernel_size`` is even or below 1, or ``inner_dim`` is below 1.
    """

    enabled: bool
    inner_dim: int | None
    kernel_size: int
    shared: bool
    symmetric: bool

    def __post_init__(self) -> None:
        check_odd("cmfr.kernel_size", self.kernel_size)
        if self.inner_dim is not None and self.inner_dim < 1:
            msg = f"cmfr.inner_dim must be positive, got {self.inner_dim}. Use null for the shared width."
            raise ValueError(msg)


@dataclass
class SelfPromptingSettings:
    """Self prompting.

    Attributes:
        enabled: Without it the image tower runs as CLIP's own.
        image_prompt: Whether ``P_v``, made from the image's CNN feature, is part of the prompt (Eq. 15).
        shared_prompt: Whether ``P_l``, learned for all images, is part of the prompt (Eq. 16).
        num_prompts: ``K``, prompt tokens per image.
        stages: Stages whose blocks see the prompt, counted from 1; a stage ends at a tap layer.
        placement: ``replace`` overwrites the last ``K`` patches, as the paper writes. ``append`` adds ``K`` tokens
            behind them, which are dropped after their stage. ``append_and_keep`` keeps them to the last block, as
            AdaCLIP does.

    Raises:
        ValueError: If ``num_prompts`` is below 1, or ``stages`` is empty, repeated or below 1.
    """

    enabled: bool
    image_prompt: bool
    shared_prompt: bool
    num_prompts: int
    stages: list[int]
    placement: Placement

    def __post_init__(self) -> None:
        self.placement = Placement(self.placement)
        if self.num_prompts < 1:
            msg = f"self_prompting.num_prompts must be positive, got {self.num_prompts}. The paper uses 5."
            raise ValueError(msg)
        if not self.stages or min(self.stages) < 1 or len(set(self.stages)) < len(self.stages):
            msg = (
                f"self_prompting.stages must name different stages from 1, got {list(self.stages)}. "
                f"The paper uses [1]; self_prompting.enabled=false switches self prompting off."
            )
            raise ValueError(msg)

    @property
    def is_active(self) -> bool:
        """Whether any prompt token reaches the tower."""
        return self.enabled and (self.image_prompt or self.shared_prompt)

    @property
    def needs_cnn(self) -> bool:
        """Whether the CNN's feature is read."""
        return self.enabled and self.image_prompt


@dataclass
class LearnableScoringSettings(ScoringSettings):
    """How similarities become scores, with a temperature that may be trained.

    Attributes:
        learnable_temperature: Whether the temperature is trained, starting from ``temperature``.
        align_corners: Whether the outermost patches are stretched to the edge of the map.
        softmax_after_upsampling: Whether the softmax of each stage comes after upsampling instead of before.
        mean_class_logits: Whether the mean over the stages of the class token's similarities is taken before the
            softmax instead of after.
        trained_maps: Whether the loss compares the mask with the mean map or with the map of every stage.
    """

    learnable_temperature: bool
    align_corners: bool
    softmax_after_upsampling: bool
    mean_class_logits: bool
    trained_maps: TrainedMaps

    def __post_init__(self) -> None:
        super().__post_init__()
        self.trained_maps = TrainedMaps(self.trained_maps)


@dataclass
class NetworkSettings(MethodSettings):
    """The settings of AFR-CLIP; see the network's arguments.

    Raises:
        ValueError: If ``mpfa_window`` is even or below 1.
    """

    network_class: ClassVar[str] = "AFRCLIP"

    prompts: StatelessPromptSettings
    adapters: AdapterSettings
    cmfr: CMFRSettings
    self_prompting: SelfPromptingSettings
    scoring: LearnableScoringSettings
    mpfa_window: int
    tap_ln_post: bool

    def __post_init__(self) -> None:
        check_odd("mpfa_window", self.mpfa_window)

    @property
    def needs_cnn(self) -> bool:
        """Whether self prompting reads the CNN."""
        return self.self_prompting.needs_cnn

    @property
    def reads_category(self) -> bool:
        """Whether any sentence that is compared or rectified names the category."""
        return super().reads_category and (self.cmfr.enabled or not self.prompts.universal_prototypes)

    @property
    def has_frozen_taps(self) -> bool:
        """Whether the image tower runs without prompts, which learn."""
        return not self.self_prompting.is_active

    def check_taps(self, tap_layers: Sequence[int]) -> None:
        """Check that the prompted stages exist.

        Args:
            tap_layers: Blocks counted from 1.

        Raises:
            ValueError: If one does not.
        """
        prompted_blocks(self.self_prompting.stages, tap_layers)


def check_odd(name: str, value: int) -> None:
    """Check that a window has a centre.

    Args:
        name: What the value is called, for the message.
        value: The side length.

    Raises:
        ValueError: If ``value`` is even or below 1.
    """
    if value < 1 or value % 2 == 0:
        msg = f"{name} must be odd and positive, got {value}. Use 1, 3, 5, ...; 1 looks at single patches."
        raise ValueError(msg)
