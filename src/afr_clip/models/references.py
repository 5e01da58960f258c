"""Normal images that a few-shot method remembers, and how unlike them another image is."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Features = tuple[Tensor, ...]
"""Features of images at every scale, each ``(B, positions, dim)``: patch tokens, then windows of each size."""


def require_shots(image: Float[Tensor, "shots 3 height width"], category: str, shots: int) -> None:
    """Raise a ``ValueError`` if there are more or fewer images of a category than ``shots``."""
    if image.shape[0] != shots:
        msg = (
            f"{category!r} needs exactly shots={shots} reference images, got {image.shape[0]} images. "
            f"Set module.network.shots to their number."
        )
        raise ValueError(msg)


class ReferenceBank:
    """Features of normal images by category.

    They are neither parameters nor buffers, because they belong to the dataset and not to the network.
    """

    def __init__(self) -> None:
        self._known: dict[str, Features] = {}

    def remember(self, category: str, features: Features) -> None:
        """Keep the features of all reference images of a category, replacing earlier ones."""
        self._known[category] = tuple(F.normalize(scale.flatten(0, 1), dim=-1) for scale in features)

    def association(self, features: Features, categories: Sequence[str]) -> Features:
        """Measure how unlike each position of an image is to the references of the image's category.

        Returns:
            At every scale ``(B, positions)``, in [0, 1]; 0 where a reference shows the same.

        Raises:
            ValueError: If a category has no references.
        """
        return self._compared(association_score, features, categories)

    def nearest(self, features: Features, categories: Sequence[str]) -> Features:
        """Return the `nearest_reference` of each position of an image, at every scale.

        Raises:
            ValueError: If a category has no references.
        """
        return self._compared(nearest_reference, features, categories)

    def _compared(
        self, compare: Callable[[Tensor, Tensor], Tensor], features: Features, categories: Sequence[str]
    ) -> Features:
        unknown = sorted(set(categories) - self._known.keys())
        if unknown:
            known = ", ".join(sorted(self._known)) or "none"
            msg = (
                f"A category must have reference images before it is scored with shots above 0, got {unknown[0]!r} "
                f"(references exist for {known}). Score a dataset with normal images in its train split, or set "
                f"module.network.shots=0."
            )
            raise ValueError(msg)
        banks = [self._known[category] for category in categories]
        return tuple(
            torch.stack([compare(seen, bank[scale]) for seen, bank in zip(of_all, banks, strict=True)])
            for scale, of_all in enumerate(features)
        )


def association_score(
    seen: Float[Tensor, "positions dim"], references: Float[Tensor, "references dim"]
) -> Float[Tensor, " positions"]:
    r"""Measure the distance of each position of an image to the nearest reference.

    .. math:: M_w = \tfrac{1}{2} \big( 1 - \max_{r \in R} \cos(F_w, r) \big)
        \qquad \text{reference association, WinCLIP}

    Args:
        seen: Features of one image at one scale.
        references: Unit features of the reference images at that scale.

    Example:
        >>> association_score(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    nearest = (F.normalize(seen, dim=-1) @ references.to(seen.device).T).amax(dim=1)
    return ((1 - nearest) / 2).clamp(0, 1)  # rounding leaves cosines of equal vectors a little above 1


def nearest_reference(
    seen: Float[Tensor, "*batch positions dim"], references: Float[Tensor, "*batch references dim"]
) -> Float[Tensor, "*batch positions dim"]:
    """Return, as a unit vector, the feature of the references that is most like each position of an image.

    Args:
        references: Unit features of the reference images.

    Example:
        >>> nearest_reference(torch.tensor([[2.0, 1.0], [-1.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([[1., 0.],
                [0., 1.]])
    """
    references = references.to(seen.device)
    which = (F.normalize(seen, dim=-1) @ references.transpose(-1, -2)).argmax(dim=-1, keepdim=True)
    return references.gather(-2, which.expand(*which.shape[:-1], references.shape[-1]))
