"""Settings that all methods share, and what a method declares before it is built; importing this needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pkgutil import resolve_name
from typing import Any, ClassVar


class CategoryNames(Enum):
    """How a method's sentences name a category."""

    words = "words"
    raw = "raw"


@dataclass
class MethodSettings:
    """The settings of a method: the keys of ``module.network``.

    The class ``NetworkSettings`` in a method's ``settings.py`` derives from this one. Its fields are the config keys
    and, in addition to the towers, the arguments of the network; its ``__post_init__`` checks them.

    Attributes:
        network_class: The network's class in the ``network.py`` next to the settings.
        trains: Whether the method has anything to train.
        needs_text: Whether the method reads sentences, so that it runs only on towers that have text.
        needs_reference: Whether it trains each image next to another normal image of its category, which ``forward``
            then gets as its third argument, as does ``score``.
        needs_whole_batch: Whether it trains on a batch as a whole, which several processes therefore cannot share.
    """

    network_class: ClassVar[str]
    trains: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    needs_whole_batch: ClassVar[bool] = False

    def build(self, towers: Any) -> Any:  # noqa: ANN401 - typed in modules that import torch
        """Build the network on frozen towers.

        Args:
            towers: What ``clip.load.load_towers`` gives.

        Returns:
            An ``nn.Module`` that maps images and category names to an ``AnomalyPrediction``.

        Raises:
            ValueError: If the towers lack what the method needs.
        """
        self.check_text(has_text=towers.backbone.has_text)
        package = type(self).__module__.rpartition(".")[0]
        network = resolve_name(f"{package}.network:{self.network_class}")
        return network(towers=towers, **vars(self))

    @property
    def needs_cnn(self) -> bool:
        """Whether the method reads the CNN in addition to CLIP; its weights are loaded only then."""
        return False

    @property
    def needs_checkpoint(self) -> bool:
        """Whether scoring needs trained weights from a run."""
        return self.trains

    @property
    def reads_category(self) -> bool:
        """Whether scores depend on the category's name: whether sentences are made of it."""
        return not getattr(getattr(self, "prompts", None), "object_agnostic", True)

    @property
    def fewest_epochs(self) -> int:
        """How many epochs a training needs to reach every part; above 1, an epoch trains some parts and not others."""
        return 1

    @property
    def has_frozen_taps(self) -> bool:
        """Whether no trainable weight changes the image tower's output, so that it can be kept between epochs.

        The network then says with ``tapped`` what it reads out, and with ``score`` what it makes of that.
        """
        return False

    def check_text(self, *, has_text: bool) -> None:
        """Check the method against a backbone.

        Raises:
            ValueError: If the method reads text and the backbone has no text tower.
        """
        if self.needs_text and not has_text:
            msg = (
                f"{self.network_class} compares images with sentences, and this backbone has no text tower. Choose one "
                f"that has, for example backbone=vit_l_14_336 or siglip2_l_16_384, or module=uni_adet, which reads "
                f"no text."
            )
            raise ValueError(msg)

    def check_taps(self, tap_layers: Sequence[int]) -> None:
        """Check the choices against the blocks that are read out.

        Args:
            tap_layers: Blocks counted from 1.

        Raises:
            ValueError: If the choices do not fit them.
        """


@dataclass
class ReleasableSettings(MethodSettings):
    """The settings of a method whose authors released weights.

    Attributes:
        released_weights: Their file; ``None`` for none.
    """

    released_weights: str | None

    @property
    def needs_checkpoint(self) -> bool:
        """Whether scoring needs trained weights from a run; released weights take their place."""
        return super().needs_checkpoint and self.released_weights is None


@dataclass
class ModuleSettings:
    """``module``: which method, and how its sentences name a category."""

    name: str
    category_names: CategoryNames
    network: MethodSettings
