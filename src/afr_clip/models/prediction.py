"""What every method returns, and what it expects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from afr_clip.clip.packed import becomes_a_graph


@dataclass(frozen=True)
class AnomalyPrediction:
    """The result of one forward pass; all values are probabilities in [0, 1], float32.

    Attributes:
        anomaly_map: Per-pixel anomaly score in [0, 1] at input size; not a calibrated probability.
        image_score: Image-level anomaly score in [0, 1].
        layer_maps: The maps on the patch grid that the final one is made of: one per tap layer, or per scale.
        trained_maps: What the loss sees, at input size or on the patch grid. Each map is compared with the mask on its
            own: the final map before it is smoothed, or one map per tap layer before fusion.
        class_scores: Scores of the whole image that are trained in place of the image score, such as one per tap layer;
            ``None`` if the image score itself is trained, and no column if none is.
        patch_tokens: Tokens of streams of patches that the alignment loss pulls together or apart; ``None`` for none.
        prototypes: The normal and the abnormal direction that the separation loss moves apart; ``None`` for none.
    """

    anomaly_map: Float[Tensor, "batch height width"]
    image_score: Float[Tensor, " batch"]
    layer_maps: Float[Tensor, "batch layers grid_height grid_width"]
    trained_maps: Float[Tensor, "batch maps trained_height trained_width"]
    class_scores: Float[Tensor, "batch scores"] | None = None
    patch_tokens: Float[Tensor, "batch streams patches dim"] | None = None
    prototypes: Float[Tensor, "batch 2 dim"] | None = None

    @property
    def trained_scores(self) -> Float[Tensor, "batch scores"]:
        """What the loss compares with the image's label, each score on its own."""
        return self.image_score[:, None] if self.class_scores is None else self.class_scores


class Scores(NamedTuple):
    """Map and image score, without what training and figures need."""

    anomaly_map: Float[Tensor, "batch height width"]
    image_score: Float[Tensor, " batch"]


def on_cpu(prediction: AnomalyPrediction) -> AnomalyPrediction:
    """Copy map and image score to the CPU, in one tensor: every copy from a GPU waits for it."""
    anomaly_map, image_score = prediction.anomaly_map, prediction.image_score
    if anomaly_map.device.type == "cpu":
        return prediction
    copied = torch.cat([anomaly_map.flatten(1), image_score[:, None].to(anomaly_map.dtype)], dim=1).cpu()
    whole = copied[:, :-1].unflatten(1, anomaly_map.shape[1:])
    return replace(prediction, anomaly_map=whole, image_score=copied[:, -1])


def require_one_name_each(image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> None:
    """Raise a ``ValueError`` if there is not one category per image; an exported graph takes batches of any size."""
    if not becomes_a_graph() and len(category) != image.shape[0]:
        msg = f"category must name each of {image.shape[0]} images, got {len(category)} names. Repeat the name."
        raise ValueError(msg)


class ScoreError(ValueError):
    """A score or map is NaN or infinite."""


def require_finite_scores(prediction: AnomalyPrediction | Scores, images: Sequence[str]) -> None:
    """Raise a `ScoreError` that names the first image whose score or map is NaN or infinite."""
    finite = prediction.anomaly_map.isfinite().all(dim=(1, 2)) & prediction.image_score.isfinite()
    for image, is_finite in zip(images, finite.tolist(), strict=True):
        if not is_finite:
            msg = (
                f"{image} got a score of NaN or infinity, so the weights cannot be used as they are. Train again with "
                f"a lower optimizer.lr, or try a larger module.network.scoring.temperature or "
                f"trainer.precision=32-true."
            )
            raise ScoreError(msg)
