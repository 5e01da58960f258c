"""Text embeddings of categories: computed once per backbone, prompts and category."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from afr_clip.prompts.ensemble import PromptSettings, expand

EncodeText = Callable[[Sequence[str]], Tensor]


class CategoryEmbeddings(NamedTuple):
    """Text embeddings of the categories of a batch.

    Attributes:
        stateless: One per image; names the category and says nothing of its condition.
        stateful: The normal (index 0) and abnormal (index 1) pair of each image.
    """

    stateless: Float[Tensor, "batch dim"]
    stateful: Float[Tensor, "batch 2 dim"]


def encode_ensemble(
    encode_text: EncodeText, sentences: Sequence[str], *, normalise_first: bool = True
) -> Float[Tensor, " dim"]:
    """Embed a prompt ensemble as one unit vector.

    Args:
        encode_text: Embeds sentences.
        sentences: The ensemble; one sentence is an ensemble too.
        normalise_first: Without it the embeddings enter the mean as long as they are.

    Returns:
        Each embedding normalised, their mean, normalised again.

    Example:
        >>> pair = lambda sentences: torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> encode_ensemble(pair, ["a photo of a screw", "a screw"])
        tensor([0.7071, 0.7071])
    """
    return ensemble_mean(encode_text(sentences), normalise_first=normalise_first)


def ensemble_mean(
    embeddings: Float[Tensor, "*rows sentences dim"], *, normalise_first: bool = True
) -> Float[Tensor, "*rows dim"]:
    """Take the mean of an ensemble's embeddings, each normalised before unless told otherwise, and normalise it."""
    return F.normalize((F.normalize(embeddings, dim=-1) if normalise_first else embeddings).mean(dim=-2), dim=-1)


class TextEmbeddings:
    """The stateless and stateful embeddings of categories, each computed once and kept.

    They depend on the backbone, the prompts and the category only. They are neither parameters nor buffers: a process
    keeps those of the categories it meets, which need not be those of another process.

    Args:
        encode_text: The text tower.
        prompts: Which sentences.
        normalise_first: Whether each sentence's embedding is normalised before the mean.
    """

    def __init__(self, encode_text: EncodeText, prompts: PromptSettings, *, normalise_first: bool = True) -> None:
        self._encode_text = encode_text
        self._prompts = prompts
        self._normalise_first = normalise_first
        self._known: dict[str, Tensor] = {}

    def __call__(self, categories: Sequence[str], device: torch.device) -> CategoryEmbeddings:
        """Look up the embeddings of each image's category, computing the ones not seen before.

        Args:
            categories: One category in words per image.
            device: Where they are needed.

        Returns:
            The embeddings, one row per image.

        Raises:
            ValueError: If a category is blank.
        """
        for category in dict.fromkeys(categories):
            known = self._known.get(category)
            if known is None or known.device != device:
                self._known[category] = (self._embed(category) if known is None else known).to(device)
        rows = torch.stack([self._known[category] for category in categories])
        return CategoryEmbeddings(stateless=rows[:, 0], stateful=rows[:, 1:])

    def _embed(self, category: str) -> Float[Tensor, "3 dim"]:
        said = expand(self._prompts, category)
        # A normal tensor also where scoring runs in inference mode, so that training may use it later.
        with torch.inference_mode(mode=False), torch.no_grad():
            kinds = (said.stateless, said.normal, said.abnormal)
            return torch.stack(
                [encode_ensemble(self._encode_text, kind, normalise_first=self._normalise_first) for kind in kinds]
            )
