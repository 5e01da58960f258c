"""CoCoOp as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextTower
from afr_clip.models.coop.network import STATES
from afr_clip.models.last_block import READ_FROM, compare_last_block, read_last_block
from afr_clip.models.learned_context import ContextSentences, embed_by_name, learned_words
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring_settings import ScoringSettings


class CoCoOp(nn.Module):
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
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        tower, dim = TextTower(self.backbone), self.backbone.embed_dim
        self._sentences = ContextSentences(tower, STATES, num_context_tokens)
        self.context = learned_words(num_context_tokens, tower.width)
        hidden = max(1, dim // reduction)
        self.meta_net = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, tower.width))
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
        stateful = self.text(category, tokens[:, 0])
        return compare_last_block(tokens, stateful, self.backbone, self._scoring)

    def text(
        self, category: Sequence[str], image_embedding: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch 2 dim"]:
        """Embed the two sentences of each image's category behind the words of that image."""
        with torch.autocast(image_embedding.device.type, enabled=False):
            moved = self.meta_net(F.normalize(image_embedding.float(), dim=-1))
            return embed_by_name(category, self.context + moved[:, None], self._sentences.embed)

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out."""
        return READ_FROM

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the learned words and the small network."""
        return {name for name, _ in self.named_parameters() if name == "context" or name.startswith("meta_net.")}
