"""CoOp as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextTower
from afr_clip.models.last_block import READ_FROM, compare_last_block, read_last_block
from afr_clip.models.learned_context import ContextSentences, learned_words
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring_settings import ScoringSettings

STATES = ("normal {}.", "anomalous {}.")
"""What follows the learned words; with a category they are CoOp's two classes."""


class CoOp(nn.Module):
    r"""Learn the words in front of a normal and an anomalous category (Zhou et al., IJCV 2022, arXiv:2109.01134).

    CoOp learns a context :math:`V_1 \dots V_M` for classifying images, here into two classes for each category:

    .. math::
        g_n = T(V_1, \dots, V_M, \text{normal}, \text{category}), \quad
        g_a = T(V_1, \dots, V_M, \text{anomalous}, \text{category})

    The image score compares CLIP's image embedding with both, the map the patches of the last block. 12,288 parameters
    are trained at ViT-L/14.

    Args:
        num_context_tokens: ``M``, learned words, shared by all categories and both sentences (CoOp's unified context).

    Raises:
        ValueError: If the text tower has no room for them.
    """

    def __init__(self, towers: Towers, num_context_tokens: int, scoring: ScoringSettings) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        tower = TextTower(self.backbone)
        self._sentences = ContextSentences(tower, STATES, num_context_tokens)
        self.context = learned_words(num_context_tokens, tower.width)
        self._scoring = scoring

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size, each with its category in words.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        return self.score(self.tapped(image), category)

    def tapped(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch tokens dim"]]:
        """Read out the frozen image tower."""
        return (read_last_block(self.backbone, image),)

    def score(self, tapped: tuple[Float[Tensor, "batch tokens dim"]], category: Sequence[str]) -> AnomalyPrediction:
        """Score what ``tapped`` returned."""
        (tokens,) = tapped
        stateful = self.text(category, tokens.device)
        return compare_last_block(tokens, stateful, self.backbone, self._scoring)

    def text(self, category: Sequence[str], device: torch.device) -> Float[Tensor, "batch 2 dim"]:
        """Embed the two sentences of each image's category."""
        return self._sentences.embed_each(category, self.context, device)

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out."""
        return READ_FROM

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the learned words."""
        return {"context"}
