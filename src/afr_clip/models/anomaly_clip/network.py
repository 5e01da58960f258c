"""AnomalyCLIP as one network: image in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text_tower import TextTower
from afr_clip.clip.weights import weight_path
from afr_clip.models.anomaly_clip.local_stream import run_two_streams
from afr_clip.models.anomaly_clip.prompt_learner import PromptLearner
from afr_clip.models.anomaly_clip.released import ENTRY, UNUSED, released_tensors
from afr_clip.models.anomaly_clip.settings import PromptLearnerSettings, ReadoutSettings
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.released import fill_from_release
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

    What learns is text alone: 43,008 parameters at ViT-L/14. The patches come from a local stream beside the frozen
    image tower, the image score from the tower's own class token; both are compared with the two sentences.

    .. math::
        P_i = \mathrm{softmax}\bigl(\cos(v_i, g_n) / \tau, \cos(v_i, g_a) / \tau\bigr)_a, \quad \tau = 0.07

    Note:
        The defaults are the setting of the published numbers. Of it these differ from the paper: the local stream is
        read out after the last block alone, deep tokens overwrite words, the class token passes no ``ln_post``. Against
        the published code: deep tokens are not rounded to half precision, position embeddings are resized as
        open_clip does (bicubic with antialiasing instead of bilinear), the final Gaussian reflects at the border
        without repeating the outermost pixel. A sum over taps is a mean, which ranks alike and stays a probability.
        The categories' names are not read: the sentences say ``object`` for all of them.

    Args:
        towers: The frozen networks.
        prompts: How many words are learned.
        readout: Where the local stream starts and is read out.
        scoring: Temperature, image score, smoothing of the final map; the maps that are trained are not smoothed.
        released_weights: A checkpoint published by the authors; ``None`` starts from random words.

    Raises:
        FileNotFoundError: If there is no file at ``released_weights``.
        ValueError: If the settings contradict the towers, or the file holds other tensors than a published one.
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
            ours = released_tensors(self.prompts.context, self.prompts.deep)
            fill_from_release(ours, weight_path(released_weights), entry=ENTRY, unused=UNUSED)

    def trainable_parameter_names(self) -> set[str]:
        """Name the parameters that learn: the words, never the towers."""
        return {name for name, _ in self.named_parameters() if name.startswith("prompts.")}

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score images of anything.

        Args:
            image: Normalised images of the backbone's input size.
            category: One name per image, as every method takes them; they are not read.

        Returns:
            The anomaly map at input size, the image score and the maps of the local stream.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        return self.score(self.tapped(image), category)

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out, for whoever keeps it."""
        return f"image, local stream from block {self._first_local_block} after blocks {list(self._layers)}"

    def tapped(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch _ dim"], ...]:
        """Read out both streams of the image tower, which nothing that learns changes.

        Args:
            image: Normalised images of the backbone's input size.

        Returns:
            The image's own embedding, then the patches of the local stream, one tensor per layer read out.
        """
        streams = run_two_streams(self.backbone, image, self._first_local_block, self._layers)
        return (streams.image[:, None], *streams.patches)

    def score(self, tapped: tuple[Float[Tensor, "batch _ dim"], ...], category: Sequence[str]) -> AnomalyPrediction:
        """Score what was read out of the image tower.

        Args:
            tapped: As ``tapped`` returns it.
            category: One name per image; not read.

        Returns:
            As ``forward``.
        """
        embedding, *of_layers = tapped
        size = (self.backbone.image_size, self.backbone.image_size)
        with torch.autocast(embedding.device.type, enabled=False):
            stateful = self.prompts().expand(embedding.shape[0], -1, -1)  # the same two sentences for every image
            class_token_score = self._score(embedding, stateful)[:, 0]
            layers = [self._score(patches, stateful) for patches in of_layers]
            layer_maps = torch.stack(layers, dim=1).unflatten(-1, self.backbone.grid_size)  # (B, L, h, w)
            trained_maps = upsample_map(layer_maps, size)
            anomaly_map = smooth_map(trained_maps.mean(dim=1), self._scoring.smoothing_sigma)
            image_score = combine_image_score(class_token_score, anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(anomaly_map, image_score, layer_maps, trained_maps)

    def _score(
        self, embeddings: Float[Tensor, "batch patches dim"], stateful: Float[Tensor, "batch 2 dim"]
    ) -> Float[Tensor, "batch patches"]:
        return anomaly_probability(text_on_text_similarity(embeddings.float(), stateful), self._scoring.temperature)
