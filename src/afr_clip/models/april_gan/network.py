"""APRIL-GAN as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextEmbeddings
from afr_clip.clip.weights import fill_from_release, weight_path
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring import (
    abnormal_margin,
    anomaly_probability,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings

ENTRY = "trainable_linearlayer"
"""Where a released file (ByChelsea/VAND-APRIL-GAN, ``exps/pretrained/*.pth``) keeps its tensors."""


class AprilGAN(nn.Module):
    r"""Compare linearly adapted patch tokens of several taps with a prompt ensemble (Chen et al., arXiv:2305.17382).

    A trained linear layer per tap takes the place of CLIP's final layer norm and projection. The similarities are
    brought to input size before the softmax, not after it.

    .. math::
        M = \frac{1}{L} \sum_{l=1}^{L} \mathrm{softmax}(\mathrm{Bilin}(100 \cos(W_l F_l + b_l, F_t^{\{n,a\}})))_a

    The image score compares CLIP's own image embedding, so training does not change it. With ViT-L/14 3,148,800
    parameters are trained: four layers from 1024 to 768.

    Note:
        The published map is the sum over the taps. Here it is their mean, a quarter of it: ranks and every metric but
        a threshold are the same, and the map stays a probability. Unlike the published code, this
        runs in float32 and has no few-shot mode.

    Args:
        towers: The frozen networks. The published weights need plain GELU, ``backbone=vit_l_14_336_gelu``.
        scoring: Temperature (0.01 is the factor 100), image score, smoothing.
        released_weights: A file with the authors' weights, to start from; ``None`` starts from random ones.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the released weights do not fit.
    """

    def __init__(
        self, towers: Towers, prompts: PromptSettings, scoring: ScoringSettings, released_weights: str | None = None
    ) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        self.text = TextEmbeddings(self.backbone.encode_text, prompts)
        self.adapters = nn.ModuleList(
            nn.Linear(self.backbone.tap_dim, self.backbone.embed_dim) for _ in self.backbone.tap_layers
        )
        self._scoring = scoring
        if released_weights is not None:
            ours = {f"fc.{name}": tensor.detach() for name, tensor in self.adapters.named_parameters()}
            fill_from_release(ours, weight_path(released_weights), entry=ENTRY)

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size, each with its category in words.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        return self.score(self.tapped(image), category)

    def tapped(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """Read out the frozen image tower: the tokens of every tap, then the image's own embedding."""
        embedded = self.backbone.embed(image)
        layers = sorted({*self.backbone.tap_layers, self.backbone.depth})
        tokens = dict(zip(layers, self.backbone.tap(embedded, layers=layers), strict=True))
        taps = self.backbone.carry([tokens[layer] for layer in self.backbone.tap_layers], embedded)
        return (*taps, self.backbone.embed_image(tokens[self.backbone.depth])[:, None])

    def score(self, tapped: tuple[Float[Tensor, "batch _ _"], ...], category: Sequence[str]) -> AnomalyPrediction:
        """Score what ``tapped`` returned; each tap's map is trained on its own."""
        *taps, embedding = tapped
        grid_size, size = self.backbone.grid_size, (self.backbone.image_size, self.backbone.image_size)
        stateful = self.text(category, embedding.device).stateful
        adapted = [adapter(tap[:, 1:]) for adapter, tap in zip(self.adapters, taps, strict=True)]
        with torch.autocast(embedding.device.type, enabled=False):
            similarities = [text_on_text_similarity(patches.float(), stateful) for patches in adapted]
            margin = abnormal_margin(torch.stack(similarities, dim=1), self._scoring.temperature)  # (B, L, N)
            margin = margin.unflatten(-1, grid_size)
            trained_maps = upsample_map(margin, size, align_corners=True).sigmoid()
            similarity = text_on_text_similarity(embedding.float(), stateful)
            class_token_score = anomaly_probability(similarity, self._scoring.temperature)[:, 0]
        anomaly_map = smooth_map(trained_maps.mean(dim=1), self._scoring.smoothing_sigma)
        image_score = combine_image_score(class_token_score, anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(anomaly_map, image_score, margin.sigmoid(), trained_maps)

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out."""
        return f"taps after blocks {list(self.backbone.tap_layers)}, image embedding"

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the linear layers."""
        return {name for name, _ in self.named_parameters() if name.startswith("adapters.")}
