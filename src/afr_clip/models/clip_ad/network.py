"""CLIP-AD as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextEmbeddings
from afr_clip.clip.weights import fill_from_release, weight_path
from afr_clip.models.clip_ad.representative import representative_text
from afr_clip.models.clip_ad.settings import RepresentativeSettings
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring import (
    ABNORMAL,
    NORMAL,
    abnormal_margin,
    anomaly_probability,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings

ENTRY = "linear_layers"
"""Where a released file (ByChelsea/CLIP-AD, ``pretrained_models/*.pth``) keeps its tensors."""


class ClipAD(nn.Module):
    r"""Add what a staged local path sees to linearly adapted taps (CLIP-AD, arXiv:2311.00453, its SDP+).

    Next to the image tower runs a second path of value attention (architecture surgery). It has no MLP, never flows
    back, and starts again after each tap, so that a stage :math:`l` holds only what its own blocks add:

    .. math:: d_l = \sum_{b \in \text{stage } l} \mathrm{Out}_b(\mathrm{softmax}(V_b V_b^T / \sqrt{d})\, V_b)

    Its patches, in the shared space, are compared with both texts. What they have in common is taken out (feature
    surgery), weighted by the similarity of the stage's image embedding to each text :math:`w_{n,a}`, whose mean is 1:

    .. math:: A_l = \tfrac{1}{2} (w_a \cos(d_l, t_a) - w_n \cos(d_l, t_n))

    One linear layer per tap learns a second map :math:`P_l` as in APRIL-GAN. The map is an average that keeps ranks and
    lies in [0, 1]:

    .. math:: M = \frac{1}{3 L} \sum_l (P_l + A_l + 1)

    The image score compares CLIP's own image embedding. With ViT-B/16+ at 240 px 2,296,320 parameters are trained, with
    ViT-L/14 3,148,800.

    Note:
        The public map is the sum of :math:`P_l` and :math:`A_l`: the same ranks. SDP alone, without linear layers, is
        not offered.

    Args:
        representative: Which sentences represent a state.
        released_weights: A file with the authors' weights, to start from; ``None`` starts from random ones.

    Raises:
        ValueError: If the released weights do not fit.
        FileNotFoundError: If there is no such file.
    """

    def __init__(
        self,
        towers: Towers,
        prompts: PromptSettings,
        representative: RepresentativeSettings,
        scoring: ScoringSettings,
        released_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        combine = partial(representative_text, settings=representative)
        self.text = TextEmbeddings(self.backbone.encode_text, prompts, combine=combine)
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
        """Run the frozen image tower, and next to it the staged local path.

        Returns:
            The tokens of every tap; then, for every tap, the image embedding and the patches of the local path in the
            shared space; then the image's own embedding.
        """
        backbone, tower = self.backbone, self.backbone.tower
        layers = sorted({*backbone.tap_layers, backbone.depth})
        local: Tensor = image.new_empty(0)
        stages = []

        def attend_by_value(number: int, tokens: Tensor) -> Tensor:
            nonlocal local
            added = tower.by_value(number, tokens)
            starts = number == 1 or number - 1 in backbone.tap_layers
            local = added if starts else local + added
            if number in backbone.tap_layers:
                stages.append(backbone.project(tower.patches(local)))
            return tokens

        embedded = backbone.embed(image)
        tokens = dict(zip(layers, backbone.tap(embedded, attend_by_value, layers=layers), strict=True))
        taps = [tokens[layer] for layer in backbone.tap_layers]
        seen = [
            torch.cat([backbone.embed_image(tap)[:, None], stage], 1) for tap, stage in zip(taps, stages, strict=True)
        ]
        own = backbone.embed_image(tokens[backbone.depth])[:, None]
        return (*backbone.carry(taps, embedded), *seen, own)

    def score(self, tapped: tuple[Float[Tensor, "batch _ _"], ...], category: Sequence[str]) -> AnomalyPrediction:
        """Score what ``tapped`` returned; the map of each linear layer is trained on its own."""
        num_taps, grid_size = len(self.adapters), self.backbone.grid_size
        taps, stages, embedding = tapped[:num_taps], tapped[num_taps:-1], tapped[-1]
        size, temperature = (self.backbone.image_size, self.backbone.image_size), self._scoring.temperature
        stateful = self.text(category, embedding.device).stateful
        adapted = [adapter(tap[:, 1:]) for adapter, tap in zip(self.adapters, taps, strict=True)]
        with torch.autocast(embedding.device.type, enabled=False):
            similarities = [text_on_text_similarity(patches.float(), stateful) for patches in adapted]
            margin = abnormal_margin(torch.stack(similarities, dim=1), temperature).unflatten(-1, grid_size)
            trained_maps = upsample_map(margin, size, align_corners=True).sigmoid()
            surgery = torch.stack([feature_surgery(stage.float(), stateful) for stage in stages], dim=1)
            surgery = surgery.unflatten(-1, grid_size)  # (B, L, h, w)
            anomaly_map = (trained_maps.mean(dim=1) + upsample_map(surgery.mean(dim=1), size) + 1) / 3
            anomaly_map = smooth_map(anomaly_map, self._scoring.smoothing_sigma)
            similarity = text_on_text_similarity(embedding.float(), stateful)
            class_token_score = anomaly_probability(similarity, temperature)[:, 0]
            image_score = combine_image_score(class_token_score, anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(anomaly_map, image_score, (margin.sigmoid() + surgery + 1) / 3, trained_maps)

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out."""
        return f"taps and staged local path after blocks {list(self.backbone.tap_layers)}, image embedding"

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the linear layers."""
        return {name for name, _ in self.named_parameters() if name.startswith("adapters.")}


def feature_surgery(
    tokens: Float[Tensor, "batch tokens dim"], stateful: Float[Tensor, "batch 2 dim"]
) -> Float[Tensor, "batch patches"]:
    r"""Return what speaks for the abnormal text alone, in [-1, 1], for each patch behind the image embedding.

    .. math:: A = \tfrac{1}{2} (w_a s_a - w_n s_n), \quad w = 2\, \mathrm{softmax}(s^{\text{image}})
    """
    similarity = text_on_text_similarity(tokens, stateful)
    weighted = similarity[:, 1:] * 2 * similarity[:, :1].softmax(dim=-1)
    return (weighted[..., ABNORMAL] - weighted[..., NORMAL]) / 2
