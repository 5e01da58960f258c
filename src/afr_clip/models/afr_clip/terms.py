"""How much each of the two terms of rectification weighs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from afr_clip.models.afr_clip.cmfr import CrossModalFeatureRectification
from afr_clip.models.afr_clip.network import AFRCLIP


class Terms(NamedTuple):
    r"""The two terms of the rectified embeddings of one stage, for the class token or for the patches.

    .. math::
        F_{t,i}^s = \underbrace{F_t^s}_{\text{text}} + \underbrace{F_{v,i} \odot M_{v,i}}_{\text{image}}
        \qquad \text{Eq. (6), AFR-CLIP}

    Where CMFR is symmetric, the text's term is ``F_t^s (1 + M_{t,i}) / 2`` and the image's is
    ``F_{v,i} (1 + M_{v,i}) / 2``.
    """

    text: Float[Tensor, "batch tokens dim"]
    image: Float[Tensor, "batch tokens dim"]

    def measures(self) -> dict[str, Float[Tensor, " batch"]]:
        r"""Compare the terms of every token, and take the median over the tokens of an image.

        .. math::
            \mathrm{share}_i = \frac{|\mathrm{text}_i|}{|\mathrm{text}_i| + |\mathrm{image}_i|}, \qquad
            \mathrm{turn}_i = \angle(\mathrm{text}_i + \mathrm{image}_i, \mathrm{image}_i)

        Eqs. (7)-(8) compare directions, so the turn, in degrees, is all that the text's term can change.
        """
        text, image = self.text.float(), self.image.float()
        text_norm, image_norm = text.norm(dim=-1), image.norm(dim=-1)
        # An angle near zero cannot be read from its cosine in float32; the chord keeps its digits.
        chord = (F.normalize(text + image, dim=-1) - F.normalize(image, dim=-1)).norm(dim=-1)
        values = {
            "text_norm": text_norm,
            "image_norm": image_norm,
            "share": text_norm / (text_norm + image_norm),
            "turn": 2 * (chord / 2).clamp(max=1).asin().rad2deg(),
        }
        return {name: of_tokens.median(dim=1).values for name, of_tokens in values.items()}


def _terms(module: CrossModalFeatureRectification, given: tuple[Any, ...], rectified: Tensor) -> Terms:
    """Split what CMFR returned into its two terms."""
    text = given[1][:, None].expand_as(rectified)
    if module.symmetric:
        _, text_weight = module.weights(*given)
        assert text_weight is not None, "a symmetric module has it"
        text = (text + text * text_weight) / 2
    return Terms(text, rectified - text)


@contextmanager
def recorded_terms(network: AFRCLIP) -> Iterator[list[tuple[Terms, Terms]]]:
    """Record the terms of every stage that a network computes inside the block.

    Yields:
        A list that grows by one entry per stage: the terms of the class token and of the patches.
    """
    found: list[tuple[Terms, Terms]] = []
    waiting: list[Terms] = []

    def record(module: CrossModalFeatureRectification, given: tuple[Any, ...], rectified: Tensor) -> None:
        waiting.append(_terms(module, given, rectified))
        if len(waiting) == 2:  # a stage rectifies its class token first, then its patches
            found.append((waiting.pop(0), waiting.pop(0)))

    with _hooked(network, record):
        yield found


@contextmanager
def without_text_term(network: AFRCLIP) -> Iterator[None]:
    """Drop the text's term of Eq. (6) inside the block; the image's weights ``M_v`` still depend on the text."""
    with _hooked(network, lambda module, given, rectified: _terms(module, given, rectified).image):
        yield


@contextmanager
def _hooked(network: AFRCLIP, hook: Callable[..., Tensor | None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in network.cmfr]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
