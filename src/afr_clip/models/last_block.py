"""The plainest way to read CLIP: the tokens of its last block in the shared space, compared with two texts."""

import torch
from jaxtyping import Float
from torch import Tensor

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.models.prediction import AnomalyPrediction
from afr_clip.models.scoring import (
    anomaly_probability,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ScoringSettings

READ_FROM = "image and patches of the last block in the shared space"


def read_last_block(
    backbone: CLIPBackbone, image: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch tokens dim"]:
    """Embed the image, and its patches after the last block; none is normalised.

    ``ln_post`` and the projection make the class token CLIP's own image embedding; the patches pass the same, although
    CLIP never trained them for it.
    """
    (tokens,) = backbone.tap(image, layers=(backbone.depth,))
    return torch.cat([backbone.embed_image(tokens)[:, None], backbone.project(tokens[:, 1:])], dim=1)


def compare_last_block(
    tokens: Float[Tensor, "batch tokens dim"],
    stateful: Float[Tensor, "batch 2 dim"],
    backbone: CLIPBackbone,
    scoring: ScoringSettings,
) -> AnomalyPrediction:
    r"""Compare what `read_last_block` gave with the normal and the abnormal text of each image.

    .. math:: P_i = \mathrm{softmax}(\cos(v_i, F_t^{\{n,a\}}) / \tau)_a

    The loss sees the map before smoothing, and the image score.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        similarity = text_on_text_similarity(tokens.float(), stateful.float())
        probability = anomaly_probability(similarity, scoring.temperature)  # (B, 1 + N)
        layer_maps = probability[:, None, 1:].unflatten(-1, backbone.grid_size)
        trained_maps = upsample_map(layer_maps, (backbone.image_size, backbone.image_size))
        anomaly_map = smooth_map(trained_maps[:, 0], scoring.smoothing_sigma)
        image_score = combine_image_score(probability[:, 0], anomaly_map, scoring.image_score)
    return AnomalyPrediction(anomaly_map, image_score, layer_maps, trained_maps)
