"""Text embeddings that depend on the image: every image reads the sentences under its own prompts."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.packed import becomes_a_graph
from afr_clip.clip.text import KnownWords, TextTower, ensemble_mean
from afr_clip.models.ada_clip.hybrid_prompts import over_first_words
from afr_clip.models.learned_context import embed_by_name
from afr_clip.prompts.ensemble import PromptSettings

ROWS_PER_PASS = 192
"""Most rows (images times sentences) per forward pass of the text tower, at least one image; bounds memory."""


class PromptedText:
    """The normal and abnormal embedding of each image's category, under the prompts of that image.

    The words of each category are looked up once and kept. It has no weights of its own.

    Args:
        backbone: The backbone whose text tower reads.
    """

    def __init__(self, backbone: CLIPBackbone, prompts: PromptSettings) -> None:
        self.tower = TextTower(backbone)
        self._words = KnownWords(self.tower, prompts)

    def __call__(
        self, category: Sequence[str], prompts: Float[Tensor, "batch depth length width"]
    ) -> Float[Tensor, "batch 2 dim"]:
        """Embed the sentences of each image's category under the prompts of the image, normal first.

        One category alone stands for all images.

        Raises:
            ValueError: If a category is blank, or the prompts would overwrite the end of a sentence.
        """
        return embed_by_name(category, prompts, self._embed)

    def _embed(self, name: str, prompts: Tensor) -> Float[Tensor, "images 2 dim"]:
        words, num_normal = self._words(
            name.replace("-", " "), prompts.device
        )  # as released; callers replace underscores
        num_sentences = len(words.ends)
        most = words.first_end - self.tower.start
        if prompts.shape[2] > most:
            msg = (
                f"hybrid_prompts.length must be below {most + 1}, got {prompts.shape[2]}. A longer prompt "
                f"overwrites the end of a sentence about {name!r}; AdaCLIP uses 5."
            )
            raise ValueError(msg)
        parts = []
        # An exported graph takes batches of any size, so it cannot split them.
        for images in [prompts] if becomes_a_graph() else prompts.split(max(1, ROWS_PER_PASS // num_sentences)):
            rows = images.repeat_interleave(num_sentences, dim=0)
            embeddings = self.tower.encode(words.repeated(images.shape[0]), over_first_words(rows, self.tower.start))
            parts.append(embeddings.unflatten(0, (-1, num_sentences)))
        embedded = torch.cat(parts)  # (images, sentences, D)
        return torch.stack([ensemble_mean(embedded[:, :num_normal]), ensemble_mean(embedded[:, num_normal:])], dim=1)
