"""AnomalyCLIP as one network: image in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextTower
from afr_clip.clip.weights import fill_from_release, weight_path
from afr_clip.models.anomaly_clip.local_stream import run_local_stream
from afr_clip.models.anomaly_clip.prompt_learner import ENTRY, UNUSED, PromptLearner
from afr_clip.models.anomaly_clip.settings import PromptLearnerSettings, ReadoutSettings
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring import (
    anomaly_probability,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ScoringSettings


class AnomalyCLIP(nn.Module):
    r"""Detect anomalies with two learned sentences that fit any object (Zhou et al., ICLR 2024, arXiv:2310.18961).

    Only words are learned: 43,008 parameters at ViT-L/14. The two sentences are compared with the image tower's own
    class token for the image score, and with patches from a second, local stream for the map:

    .. math::
        P_i = \mathrm{softmax}\bigl(\cos(v_i, g_n) / \tau, \cos(v_i, g_a) / \tau\bigr)_a, \quad \tau = 0.07

    Note:
        The defaults are the setting of the published numbers. It differs from the paper: the local stream is read out
        only after the last block, deep tokens overwrite words, the class token passes no ``ln_post``. Differences from
        the published code: deep tokens are not rounded to half precision, and the map is the mean over the taps
        instead of their sum, which gives the same ranks and stays a probability. Category names are not read: all
        sentences say ``object``.

    Args:
        readout: Where the local stream starts and is read out.
        scoring: Temperature, image score, smoothing of the final map; the maps that are trained are not smoothed.
        released_weights: A checkpoint published by the authors; ``None`` starts from random words.

    Raises:
        FileNotFoundError: If there is no file at ``released_weights``.
        ValueError: If the settings contradict the towers, or the file does not hold the tensors of a published one.
    """

    def __init__(
        self,
        towers: Towers,
        prompts: PromptLearnerSettings,
        readout: ReadoutSettings,
        scoring: ScoringSettings,
        released_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        self.prompts = PromptLearner(TextTower(self.backbone), prompts)
        self._first_local_block = readout.first_local_block(self.backbone.tap_layers)
        self._layers = readout.layers(self.backbone.tap_layers)
        self._scoring = scoring
        if released_weights is not None:
            ours = self.prompts.released_tensors()
            fill_from_release(ours, weight_path(released_weights), entry=ENTRY, unused=UNUSED)

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size; the categories' names are not read.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        return self.score(self.tapped(image), category)

    def tapped(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch _ dim"], ...]:
        """Run the frozen image tower, and next to it the local stream.

        Returns:
            The image's own embedding, projected without ``ln_post`` where it is a class token; then the patches of the
            local stream after each layer read out, with ``ln_post`` and projection. None is normalised.
        """
        patches = self.backbone.tower.patches
        whole, local = run_local_stream(self.backbone, image, self._first_local_block, self._layers, patches)
        return (whole[:, None], *local)

    def score(self, tapped: tuple[Float[Tensor, "batch _ dim"], ...], category: Sequence[str]) -> AnomalyPrediction:
        """Score what ``tapped`` returned; the categories' names are not read."""
        size, temperature = (self.backbone.image_size, self.backbone.image_size), self._scoring.temperature
        with torch.autocast(tapped[0].device.type, enabled=False):
            stateful = self.text(category, tapped[0].device)
            class_token_score, *layers = (
                anomaly_probability(text_on_text_similarity(tokens.float(), stateful), temperature) for tokens in tapped
            )
            layer_maps = torch.stack(layers, dim=1).unflatten(-1, self.backbone.grid_size)  # (B, L, h, w)
            trained_maps = upsample_map(layer_maps, size)
            anomaly_map = smooth_map(trained_maps.mean(dim=1), self._scoring.smoothing_sigma)
            image_score = combine_image_score(class_token_score[:, 0], anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(anomaly_map, image_score, layer_maps, trained_maps)

    def text(self, category: Sequence[str], device: torch.device) -> Float[Tensor, "batch 2 dim"]:
        """Embed the two sentences, which are the same for every image."""
        return self.prompts().to(device).expand(len(category), -1, -1)

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out."""
        return f"image, local stream from block {self._first_local_block} after blocks {list(self._layers)}"

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the words, never the towers."""
        return {name for name, _ in self.named_parameters() if name.startswith("prompts.")}
