"""From templates and states to the sentences of one category."""

from dataclasses import dataclass
from enum import Enum
from itertools import product

from afr_clip.prompts import words

AGNOSTIC_NAME = "object"
"""The word that stands for every category in an object-agnostic prompt."""


class PromptStyle(Enum):
    """Which templates and states a prompt is made of."""

    single = "single"
    winclip = "winclip"
    winclip_21 = "winclip_21"
    april_gan = "april_gan"
    ada_clip = "ada_clip"
    aa_clip = "aa_clip"
    clip_ad = "clip_ad"


@dataclass
class PromptSettings:
    """Which sentences a method uses for a category.

    Attributes:
        style: Which templates and states; ``single`` is the paper's one sentence each.
        object_agnostic: Whether "object" stands for every category, in all sentences.
    """

    style: PromptStyle
    object_agnostic: bool

    def __post_init__(self) -> None:
        self.style = PromptStyle(self.style)

    def names(self, category: str) -> tuple[str, str]:
        """Return what stands for the category in the stateless sentences and in the stateful ones."""
        name = AGNOSTIC_NAME if self.object_agnostic else category
        return name, name


@dataclass(frozen=True)
class Sentences:
    """The sentences of one category, by condition; the stateless ones leave it open."""

    stateless: tuple[str, ...]
    normal: tuple[str, ...]
    abnormal: tuple[str, ...]


_TEMPLATES_AND_STATES = {
    PromptStyle.single: (words.SINGLE_TEMPLATES, words.SINGLE_NORMAL, words.SINGLE_ABNORMAL),
    PromptStyle.winclip: (words.WINCLIP_TEMPLATES, words.ENSEMBLE_NORMAL, words.WINCLIP_ABNORMAL),
    PromptStyle.winclip_21: (words.WINCLIP_21_TEMPLATES, words.ENSEMBLE_NORMAL, words.WINCLIP_ABNORMAL),
    PromptStyle.april_gan: (words.APRIL_GAN_TEMPLATES, words.ENSEMBLE_NORMAL, words.APRIL_GAN_ABNORMAL),
    PromptStyle.ada_clip: (words.ADA_CLIP_TEMPLATES, words.ENSEMBLE_NORMAL, words.APRIL_GAN_ABNORMAL),
    PromptStyle.aa_clip: (words.AA_CLIP_TEMPLATES, words.AA_CLIP_NORMAL, words.AA_CLIP_ABNORMAL),
    PromptStyle.clip_ad: (words.CLIP_AD_TEMPLATES, words.CLIP_AD_NORMAL, words.CLIP_AD_ABNORMAL),
}


def expand(settings: PromptSettings, category: str) -> Sentences:
    """Write the stateless, normal and abnormal sentences of a category.

    Every template is filled with every state of its kind, templates outermost. ``category`` is in words, for example
    ``"metal nut"``.

    Raises:
        ValueError: If ``category`` is blank.

    Example:
        >>> expand(PromptSettings(PromptStyle.single, object_agnostic=False), "screw").abnormal
        ('a photo of a defective screw',)
        >>> len(expand(PromptSettings(PromptStyle.april_gan, object_agnostic=False), "screw").normal)
        245
    """
    if not category.strip():
        msg = f"category must name what the image shows, got {category!r}. Use words, for example 'metal nut'."
        raise ValueError(msg)
    stateless, stateful = settings.names(category.strip())
    templates, normal, abnormal = _TEMPLATES_AND_STATES[settings.style]
    return Sentences(
        stateless=tuple(template.format(stateless) for template in templates),
        normal=tuple(template.format(state.format(stateful)) for template, state in product(templates, normal)),
        abnormal=tuple(template.format(state.format(stateful)) for template, state in product(templates, abnormal)),
    )
