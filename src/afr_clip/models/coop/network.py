"""CoOp as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from afr_clip.clip.load import Towers
from afr_clip.models.last_block import compare_last_block
from afr_clip.models.learned_context import ContextNetwork
from afr_clip.models.prediction import AnomalyPrediction
from afr_clip.models.scoring_settings import ScoringSettings


class CoOp(ContextNetwork):
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
        super().__init__(towers, num_context_tokens, scoring)

    def score(self, tapped: tuple[Float[Tensor, "batch tokens dim"]], category: Sequence[str]) -> AnomalyPrediction:
        """Score what ``tapped`` returned."""
        (tokens,) = tapped
        stateful = self.text(category, tokens.device)
        return compare_last_block(tokens, stateful, self.backbone, self._scoring)

    def text(self, category: Sequence[str], device: torch.device) -> Float[Tensor, "batch 2 dim"]:
        """Embed the two sentences of each image's category."""
        return self._sentences.embed_each(category, self.context, device)

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the learned words."""
        return {"context"}
