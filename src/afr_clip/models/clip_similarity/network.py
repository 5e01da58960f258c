"""The simplest reference as a network: CLIP's own embeddings compared with its own text."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextEmbeddings
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring import (
    anomaly_probability,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings


class CLIPSimilarity(nn.Module):
    r"""Compare every token of the last block with a normal and an abnormal sentence; nothing is trained.

    ``ln_post`` and the projection make the class token CLIP's own image embedding; the patch tokens pass the same,
    although CLIP never trained them for it.

    .. math:: P_i = \mathrm{softmax}(\cos(\mathrm{Proj}(\mathrm{LN}(v_i)), F_t^{\{n,a\}}) / \tau)_a
    """

    def __init__(self, towers: Towers, prompts: PromptSettings, scoring: ScoringSettings) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        self.text = TextEmbeddings(self.backbone.encode_text, prompts)
        self._scoring = scoring

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size, each with its category in words.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        stateful = self.text(category, image.device).stateful
        (tokens,) = self.backbone.tap(image, layers=(self.backbone.depth,))
        patches = self.backbone.project(tokens[:, 1:])
        embedded = torch.cat([self.backbone.embed_image(tokens)[:, None], patches], dim=1)
        with torch.autocast(image.device.type, enabled=False):
            similarity = text_on_text_similarity(embedded.float(), stateful)
            probability = anomaly_probability(similarity, self._scoring.temperature)  # (B, 1 + N)
        layer_maps = probability[:, None, 1:].unflatten(-1, self.backbone.grid_size)
        anomaly_map = upsample_map(layer_maps[:, 0], (image.shape[-2], image.shape[-1]))
        anomaly_map = smooth_map(anomaly_map, self._scoring.smoothing_sigma)
        image_score = combine_image_score(probability[:, 0], anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(anomaly_map, image_score, layer_maps, trained_maps=anomaly_map[:, None])

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: none."""
        return set()
