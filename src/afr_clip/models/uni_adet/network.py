"""UniADet as one network: image in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.settings import checked_tap_layers
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.references import ReferenceBank, require_shots
from afr_clip.models.scoring import (
    abnormal_margin,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.models.uni_adet.settings import taps_of_the_second_half

INITIAL_STD = 0.02
"""Standard deviation of the weights before training; as they are compared by cosine, it decides only their pace."""


class UniADet(nn.Module):
    r"""Compare frozen tokens with learned weights instead of texts (Gao and Wang, arXiv:2601.05552).

    What a text encoder gives other methods is a normal and an abnormal direction. Here they are learned without one:
    a pair for the class token and another for the patches, and both apart for every tap.

    .. math::
        M = \frac{1}{L} \sum_l \mathrm{softmax}\bigl(\mathrm{Bilin}(\cos(F_l, w^{seg}_l) / \tau)\bigr)_a, \quad
        s = \frac{1}{2} \Bigl(\frac{1}{L} \sum_l \mathrm{softmax}(\cos(c_l, w^{cls}_l) / \tau)_a + \max M \Bigr)

    With five taps 4 * 5 * D parameters are trained: 15,360 with CLIP's ViT-L/14, whose tokens pass its final layer norm
    and projection, and 20,480 with a ViT-L without text.

    With ``shots``, every patch is also compared with those of that many normal images, tap by tap. The map is then the
    mean of both, and the image score is made of it.

    Note:
        The equation of the image score and the equal weights of learned and remembered map are not from the paper's
        text, which was not at hand, but from independent re-implementations.

    Args:
        tap_layers: Blocks read out; ``None`` spreads five over the second half of the tower. The backbone's own
            ``tap_layers`` are not read.
        shots: Normal images of each category; 0 for none.

    Raises:
        ValueError: If the taps exceed the depth of the tower.
    """

    def __init__(self, towers: Towers, tap_layers: Sequence[int] | None, shots: int, scoring: ScoringSettings) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        depth = self.backbone.depth
        self._layers = checked_tap_layers(tuple(tap_layers), depth) if tap_layers else taps_of_the_second_half(depth)
        self.shots = shots
        self._references = ReferenceBank()
        self._scoring = scoring
        # normal before abnormal, as everywhere
        self.class_weights = nn.Parameter(torch.empty(len(self._layers), 2, self.backbone.embed_dim))
        self.patch_weights = nn.Parameter(torch.empty(len(self._layers), 2, self.backbone.embed_dim))
        for weights in (self.class_weights, self.patch_weights):
            nn.init.normal_(weights, std=INITIAL_STD)

    def observe(self, image: Float[Tensor, "shots 3 height width"], category: str) -> None:
        """Remember normal images of a category, under the name that ``forward`` gets, replacing earlier ones.

        Raises:
            ValueError: If there are more or fewer images than ``shots``.
        """
        require_shots(image, category, self.shots)
        self._references.remember(category, tuple(tokens[:, 1:].float() for tokens in self.tapped(image)))

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size.

        The category's name is not read, except to find its references.

        Raises:
            ValueError: If there is not one category per image, or one has no references where there must be some.
        """
        require_one_name_each(image, category)
        return self.score(self.tapped(image), category)

    def tapped(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch tokens dim"], ...]:
        """Read out the frozen image tower: image embedding and patches after each tap, in the shared space."""
        return tuple(
            torch.cat([self.backbone.embed_image(tap)[:, None], self.backbone.project(tap[:, 1:])], dim=1)
            for tap in self.backbone.tap(image, layers=self._layers)
        )

    def score(
        self, tapped: tuple[Float[Tensor, "batch tokens dim"], ...], category: Sequence[str]
    ) -> AnomalyPrediction:
        """Score what ``tapped`` returned; map and class score of each tap are trained on their own."""
        grid_size, size = self.backbone.grid_size, (self.backbone.image_size, self.backbone.image_size)
        with torch.autocast(tapped[0].device.type, enabled=False):
            tokens = [tap.float() for tap in tapped]
            class_margin = self._margins([tap[:, :1] for tap in tokens], self.class_weights)[..., 0]  # (B, L)
            margin = self._margins([tap[:, 1:] for tap in tokens], self.patch_weights).unflatten(-1, grid_size)
            trained_maps, class_scores = upsample_map(margin, size).sigmoid(), class_margin.sigmoid()
            anomaly_map = trained_maps.mean(dim=1)
            if self.shots and not self.training:
                distances = self._references.association(tuple(tap[:, 1:] for tap in tokens), category)
                distance = torch.stack(distances).mean(dim=0).unflatten(-1, grid_size)
                anomaly_map = (anomaly_map + upsample_map(distance, size)) / 2
            anomaly_map = smooth_map(anomaly_map, self._scoring.smoothing_sigma)
            image_score = combine_image_score(class_scores.mean(dim=1), anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(anomaly_map, image_score, margin.sigmoid(), trained_maps, class_scores)

    def _margins(
        self, tokens: Sequence[Float[Tensor, "batch places dim"]], weights: Float[Tensor, "layers 2 dim"]
    ) -> Float[Tensor, "batch layers places"]:
        """Compare the tokens of each tap with the weights of that tap."""
        similarities = [
            text_on_text_similarity(places, pair.expand(places.shape[0], -1, -1))
            for places, pair in zip(tokens, weights, strict=True)
        ]
        return abnormal_margin(torch.stack(similarities, dim=1), self._scoring.temperature)

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out."""
        return f"projected tokens after blocks {list(self._layers)}"

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the weights, never the towers."""
        return {"class_weights", "patch_weights"}
