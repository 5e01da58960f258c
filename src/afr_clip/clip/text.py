"""Text embeddings of categories: computed once per backbone, prompts and category."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

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


def encode_ensemble(encode_text: EncodeText, sentences: Sequence[str]) -> Float[Tensor, " dim"]:
    """Embed a prompt ensemble as one unit vector.

    Args:
        encode_text: Embeds sentences.
        sentences: The ensemble; one sentence is an ensemble too.

    Returns:
        Each embedding normalised, their mean, normalised again.

    Example:
        >>> pair = lambda sentences: torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> encode_ensemble(pair, ["a photo of a screw", "a screw"])
        tensor([0.7071, 0.7071])
    """
    return F.normalize(F.normalize(encode_text(sentences), dim=-1).mean(dim=0), dim=-1)


class TextEmbeddings(nn.Module):
    """The stateless and stateful embeddings of categories, each computed once and kept.

    They depend on the backbone, the prompts and the category only, so they live in a buffer that moves with ``.to()``
    and is left out of checkpoints.

    Args:
        encode_text: The text tower.
        dim: Width ``D`` of the shared embedding space.
        prompts: Which sentences.
    """

    def __init__(self, encode_text: EncodeText, dim: int, prompts: PromptSettings) -> None:
        super().__init__()
        self._encode_text = encode_text
        self._prompts = prompts
        self._row: dict[str, int] = {}
        self.bank: Tensor
        self.register_buffer("bank", torch.empty(0, 3, dim), persistent=False)

    def forward(self, categories: Sequence[str]) -> CategoryEmbeddings:
        """Look up the embeddings of each image's category, computing the ones not seen before.

        Args:
            categories: One category in words per image.

        Returns:
            The embeddings, one row per image.
        """
        self._learn(dict.fromkeys(categories))
        rows = self.bank[[self._row[category] for category in categories]]
        return CategoryEmbeddings(stateless=rows[:, 0], stateful=rows[:, 1:])

    def _learn(self, categories: Iterable[str]) -> None:
        new = [category for category in categories if category not in self._row]
        if not new:
            return
        with torch.inference_mode(mode=False):
            self.bank = torch.cat([self.bank, torch.stack([self._embed(category) for category in new]).to(self.bank)])
        self._row |= {category: len(self._row) + i for i, category in enumerate(new)}

    def _embed(self, category: str) -> Float[Tensor, "3 dim"]:
        said = expand(self._prompts, category)
        kinds = (said.stateless, said.normal, said.abnormal)
        return torch.stack([encode_ensemble(self._encode_text, sentences) for sentences in kinds])
