"""AdaptCLIP as one network: image in, anomaly map and image score out."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextEmbeddings, TextTower, ensemble_mean
from afr_clip.models.adapt_clip.adapters import PromptQueryAdapter, ResidualMLP
from afr_clip.models.adapt_clip.settings import ComparisonSettings
from afr_clip.models.anomaly_clip.local_stream import run_local_stream
from afr_clip.models.anomaly_clip.settings import ReadoutSettings
from afr_clip.models.learned_context import learned_words, look_up_behind
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.references import Features, ReferenceBank, nearest_reference, require_shots
from afr_clip.models.scoring import (
    anomaly_probability,
    combine_image_score,
    harmonic_mean,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import AGNOSTIC_NAME, PromptSettings, PromptStyle

SENTENCES = (".", ".")
"""What follows the learned words, normal first: nothing but the full stop."""

STATIC = PromptSettings(PromptStyle.winclip_21, object_agnostic=True)
"""The sentences that the visual adapter is trained with."""

Tapped = tuple[Float[Tensor, "batch _ dim"], ...]
"""The image's embedding as one token, then class token and patches of the local stream after each tap."""


class AdaptCLIP(nn.Module):
    r"""Adapt CLIP's output to its text, its text to its output, and compare with a normal image (arXiv:2505.09926).

    Three adapters learn in the same step and share nothing. The visual adapter changes image and patch tokens, which
    are compared with fixed sentences. The textual adapter learns two sentences, which are compared with unchanged
    tokens. The third reads the difference from a normal image of the category. Their tokens are those of AnomalyCLIP's
    local stream. Without ``shots`` the first two are averaged:

    .. math::
        M = \tfrac{1}{2} (M_v + M_t), \quad s = \tfrac{1}{3} (s_v + s_t + \max M)

    With ``shots`` the third joins them, and the distance to the nearest patch of the references, ``H`` being the
    harmonic mean:

    .. math::
        M = H\Bigl(\tfrac{1}{3} (M_v + M_t + \bar{M}_{pq}),\ H_l(1 - \cos(q_l, p_l))\Bigr), \quad
        s = H\Bigl(\tfrac{1}{3} (s_v + s_t + \bar{s}_{pq}),\ \max M\Bigr)

    With ViT-L/14, 1,763,266 parameters are trained: 609,024 of the first two adapters, which is the published number
    without shots, and 1,154,242 of the third. A checkpoint always holds all three, and the statistics of their batch
    norms.

    Args:
        num_context_tokens: Learned words of each of the two sentences.
        reduction: How many times narrower than CLIP's shared space the visual adapters are.
        local_from_block: First block with value attention, counted from 1; ``None`` keeps AnomalyCLIP's share of the
            depth.
        shots: Normal images of each category; 0 for none.
        scoring: Temperature, image score, smoothing of the final map.

    Raises:
        ValueError: If the local stream starts behind the first tap, or the text tower has no room for the words.
    """

    TRAINABLE = ("image_adapter", "patch_adapter", "context", "comparison")

    def __init__(
        self,
        towers: Towers,
        num_context_tokens: int,
        reduction: int,
        comparison: ComparisonSettings,
        local_from_block: int | None,
        shots: int,
        scoring: ScoringSettings,
    ) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        dim, self._layers = self.backbone.embed_dim, self.backbone.tap_layers
        readout = ReadoutSettings(local_from_block, all_taps=True)
        self._first_local_block = readout.first_local_block(self._layers, "local_from_block")
        self.image_adapter, self.patch_adapter = ResidualMLP(dim, reduction), ResidualMLP(dim, reduction)
        self._tower = TextTower(self.backbone)
        words = look_up_behind(self._tower, SENTENCES, num_context_tokens)
        self.words: Tensor
        self.ends: Tensor
        self.register_buffer("words", words.embeddings, persistent=False)
        self.register_buffer("ends", words.ends, persistent=False)
        self._words = words
        self.context = nn.Parameter(
            torch.stack([learned_words(num_context_tokens, self._tower.width) for _ in SENTENCES])
        )
        combine = partial(ensemble_mean, normalise_first=False)
        self._static = TextEmbeddings(self.backbone.encode_text, STATIC, combine=combine)
        self.comparison = PromptQueryAdapter(dim, comparison, num_taps=len(self._layers))
        self.shots = shots
        self._references = ReferenceBank()
        self._scoring = scoring

    def observe(self, image: Float[Tensor, "shots 3 height width"], category: str) -> None:
        """Remember normal images of a category, under the name that ``forward`` gets, replacing earlier ones.

        Raises:
            ValueError: If there are more or fewer images than ``shots``.
        """
        require_shots(image, category, self.shots)
        self._references.remember(category, _patches(self.tapped(image)))

    def forward(
        self,
        image: Float[Tensor, "batch 3 height width"],
        category: Sequence[str],
        reference: Float[Tensor, "batch 3 height width"] | None = None,
    ) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size.

        The category's name is not read, except to find its references.

        Args:
            reference: In training, another normal image of each image's category.

        Raises:
            ValueError: If there is not one category per image, or an image has no reference where it must have one.
        """
        require_one_name_each(image, category)
        return self.score(self.tapped(image), category, None if reference is None else self.tapped(reference))

    def tapped(self, image: Float[Tensor, "batch 3 height width"]) -> Tapped:
        """Run the frozen image tower and the local stream next to it."""
        read_out = self.backbone.tower.read_out
        whole, local = run_local_stream(self.backbone, image, self._first_local_block, self._layers, read_out)
        return (whole[:, None], *local)

    def score(self, tapped: Tapped, category: Sequence[str], reference: Tapped | None = None) -> AnomalyPrediction:
        """Score what ``tapped`` returned; each adapter's maps and scores are trained on their own."""
        grid_size, size = self.backbone.grid_size, (self.backbone.image_size, self.backbone.image_size)
        with torch.autocast(tapped[0].device.type, enabled=False):
            whole, last, patches = tapped[0].float(), tapped[-1].float(), _patches(tapped)
            static = self._static([AGNOSTIC_NAME], whole.device).stateful.expand(whole.shape[0], -1, -1)
            adapted = torch.cat([self.image_adapter(whole), self.patch_adapter(last)[:, 1:]], dim=1)
            own = torch.cat([whole, last[:, 1:]], dim=1)
            pairs = ((adapted, static), (own, self.text(category, whole.device)))
            probability = torch.stack(
                [anomaly_probability(text_on_text_similarity(*pair), self._scoring.temperature) for pair in pairs],
                dim=1,
            )  # (B, 2, 1 + N)
            class_scores, layer_maps = probability[..., 0], probability[..., 1:].unflatten(-1, grid_size)
            trained_maps = upsample_map(layer_maps, size)
            anomaly_map, class_score = trained_maps.mean(dim=1), class_scores.mean(dim=1)
            nearest = self._nearest(patches, category, reference)
            if nearest is not None:
                patches = tuple(F.normalize(tap, dim=-1) for tap in patches)
                compared = self.comparison(patches, nearest, grid_size)
                of_pairs = upsample_map(compared.maps, size)
                trained_maps = torch.cat([trained_maps, of_pairs], dim=1)
                class_scores = torch.cat([class_scores, compared.scores], dim=1)
            if nearest is not None and self.shots and not self.training:
                cosine = torch.stack([(a * b).sum(dim=-1) for a, b in zip(patches, nearest, strict=True)], dim=1)
                distance = (1 - cosine).clamp(0, 1).unflatten(-1, grid_size)
                layer_maps = torch.cat([layer_maps, distance], dim=1)
                anomaly_map = (2 * anomaly_map + of_pairs.mean(dim=1)) / 3
                anomaly_map = _harmonic(anomaly_map, harmonic_mean(upsample_map(distance, size)))
                class_score = (2 * class_score + compared.scores.mean(dim=1)) / 3
            anomaly_map = smooth_map(anomaly_map, self._scoring.smoothing_sigma)
            combine = _harmonic if self.shots and not self.training else _mean_of_three
            image_score = combine_image_score(class_score, anomaly_map, self._scoring.image_score, combine)
        return AnomalyPrediction(anomaly_map, image_score, layer_maps, trained_maps, class_scores)

    def _nearest(self, patches: Features, category: Sequence[str], reference: Tapped | None) -> Features | None:
        """Return the unit patches of references that are most like each patch; ``None`` if there is no reference."""
        if not self.training:
            return self._references.nearest(patches, category) if self.shots else None
        if reference is None:
            msg = (
                "AdaptCLIP trains each image next to another normal image of its category, got none. Give forward() or "
                "score() a third argument, as AnomalyBatch.reference has it."
            )
            raise ValueError(msg)
        pairs = zip(patches, _patches(reference), strict=True)
        return tuple(nearest_reference(seen, F.normalize(prompt, dim=-1)) for seen, prompt in pairs)

    def text(self, category: Sequence[str], device: torch.device) -> Float[Tensor, "batch 2 dim"]:
        """Embed the two learned sentences, which are the same for every image."""
        start = self._tower.start
        behind = self.words[:, start + self.context.shape[1] :]
        embeddings = torch.cat([self.words[:, :start], self.context, behind], dim=1)
        words = replace(self._words, embeddings=embeddings, ends=self.ends)
        return self._tower.encode(words).to(device).expand(len(category), -1, -1)

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out."""
        return f"image, all of the local stream from block {self._first_local_block} after blocks {list(self._layers)}"

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the three adapters, never the towers."""
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in self.TRAINABLE}

    def statistics_names(self) -> set[str]:
        """Return the names of what the adapters' batch norms have seen."""
        adapters = ("image_adapter", "patch_adapter", "comparison")
        return {name for name, _ in self.named_buffers() if name.split(".")[0] in adapters}


def _patches(tapped: Tapped) -> Features:
    """Return the patches of the local stream after each tap."""
    return tuple(tap[:, 1:].float() for tap in tapped[1:])


def _harmonic(one: Tensor, other: Tensor) -> Tensor:
    return harmonic_mean(torch.stack([one, other], dim=1))


def _mean_of_three(of_image: Tensor, of_map: Tensor) -> Tensor:
    """Mean of both image scores, given as their mean, and the map's."""
    return (2 * of_image + of_map) / 3
