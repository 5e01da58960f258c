"""CoCoOp as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.load import Towers
from afr_clip.models.last_block import compare_last_block
from afr_clip.models.learned_context import ContextNetwork, embed_by_name
from afr_clip.models.prediction import AnomalyPrediction
from afr_clip.models.scoring_settings import ScoringSettings


class CoCoOp(ContextNetwork):
    r"""Let the image move the learned words of CoOp (Zhou et al., CVPR 2022, arXiv:2203.05557).

    A small network turns CLIP's embedding :math:`x` of the image into one vector, which is added to every learned word:

    .. math:: V_m(x) = V_m + \pi(x), \quad \pi(x) = W_2\, \mathrm{ReLU}(W_1 x + b_1) + b_2

    Each image then has sentences of its own. They are compared with the image and its patches as in CoOp. 77,616
    parameters are trained at ViT-L/14.

    Args:
        num_context_tokens: Learned words, shared by all categories and both sentences.
        reduction: How many times narrower than an image embedding the hidden layer of the small network is.

    Raises:
        ValueError: If the text tower has no room for the learned words.
    """

    def __init__(self, towers: Towers, num_context_tokens: int, reduction: int, scoring: ScoringSettings) -> None:
        super().__init__(towers, num_context_tokens, scoring)
        dim, width = self.backbone.embed_dim, self.context.shape[1]
        hidden = max(1, dim // reduction)
        self.meta_net = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def score(self, tapped: tuple[Float[Tensor, "batch tokens dim"]], category: Sequence[str]) -> AnomalyPrediction:
        """Score what ``tapped`` returned."""
        (tokens,) = tapped
        stateful = self.text(category, tokens[:, 0])
        return compare_last_block(tokens, stateful, self.backbone, self._scoring)

    def text(
        self, category: Sequence[str], image_embedding: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch 2 dim"]:
        """Embed the two sentences of each image's category behind the words of that image."""
        with torch.autocast(image_embedding.device.type, enabled=False):
            moved = self.meta_net(F.normalize(image_embedding.float(), dim=-1))
            return embed_by_name(category, self.context + moved[:, None], self._sentences.embed)

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the learned words and the small network."""
        return {name for name, _ in self.named_parameters() if name == "context" or name.startswith("meta_net.")}
