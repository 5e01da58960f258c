"""WinCLIP as one network: image and category in, anomaly map and image score out."""

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
from afr_clip.models.winclip.aggregation import aggregate_windows, harmonic_mean
from afr_clip.models.winclip.references import Features, ReferenceBank
from afr_clip.models.winclip.settings import check_window_sizes
from afr_clip.models.winclip.windows import encode_windows, window_positions
from afr_clip.prompts.ensemble import PromptSettings


class WinCLIP(nn.Module):
    r"""Compare an image and all its small windows with prompt ensembles (Jeong et al., CVPR 2023, arXiv:2303.14814).

    CLIP's class token says what an image shows as a whole. Shown one window at a time, CLIP says it of each window, and
    so where the anomaly is. A patch gets the harmonic mean over all windows that show it, and the map is the harmonic
    mean over the window sizes and the image score. Nothing is trained: there are 0 trainable parameters.

    With ``shots`` (WinCLIP+) normal images of the category are looked at first; how unlike the nearest of them the
    patches and windows are makes a second map. Map and image score are the means of both:

    .. math::
        M = \tfrac{1}{2} (M_{text} + M_{ref}), \qquad
        s = \tfrac{1}{2} (s_{text} + \max_{ij} M_{ref,ij})

    Note:
        There is no official code. Where the paper leaves a choice open, the default is that of the public
        re-implementation that comes closest to its numbers: sentences are averaged before they are normalised
        (``normalise_first=False``), cosines are divided by 0.07, nothing is smoothed. Its list of templates has 21
        lines and says one of them twice; the default here is the list of 22, ``PromptStyle.winclip_21`` is the other.

    Args:
        towers: The frozen networks.
        prompts: Which sentences.
        scoring: Temperature, image score, smoothing.
        window_sizes: Sides of the windows in patches.
        normalise_first: Whether each sentence's embedding is normalised before the mean.
        shots: Reference images of each category; 0 is zero-shot.

    Raises:
        ValueError: If a window size is repeated or does not fit the patch grid.
    """

    def __init__(
        self,
        towers: Towers,
        prompts: PromptSettings,
        scoring: ScoringSettings,
        window_sizes: Sequence[int] = (2, 3),
        *,
        normalise_first: bool = False,
        shots: int = 0,
    ) -> None:
        super().__init__()
        check_window_sizes(window_sizes)
        for size in window_sizes:
            window_positions(towers.backbone.grid_size, size)
        self.backbone: CLIPBackbone = towers.backbone
        self.text = TextEmbeddings(self.backbone.encode_text, prompts, normalise_first=normalise_first)
        self.shots = shots
        self._references = ReferenceBank()
        self._window_sizes = tuple(window_sizes)
        self._scoring = scoring

    def trainable_parameter_names(self) -> set[str]:
        """Name the parameters that learn: none."""
        return set()

    def observe(self, image: Float[Tensor, "shots 3 height width"], category: str) -> None:
        """Look at the reference images of a category, in place of any that were there.

        Args:
            image: Normal images of the backbone's input size.
            category: As ``forward`` will name it.

        Raises:
            ValueError: If there are more or fewer images than ``shots``.
        """
        if image.shape[0] != self.shots:
            msg = (
                f"References of {category!r} must be as many as shots={self.shots}, got {image.shape[0]} images. "
                f"Set module.network.shots to their number."
            )
            raise ValueError(msg)
        _, features = self._look(image)
        self._references.remember(category, features)

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score images of named categories.

        Args:
            image: Normalised images of the backbone's input size.
            category: What each image shows.

        Returns:
            The anomaly map at input size, the image score, and the maps of the scales: one per window size, the image
            score as a map, and with ``shots`` those of patches and windows against the references.

        Raises:
            ValueError: If there is not one category per image, or one has no references where there must be some.
        """
        require_one_name_each(image, category)
        class_embedding, features = self._look(image)
        with torch.autocast(image.device.type, enabled=False):
            by_text = self._against_text(class_embedding, features, category)
            scale_maps, grid_map, image_score = by_text, harmonic_mean(by_text), by_text[:, -1, 0, 0]
            if self.shots:
                by_reference = self._against_references(features, category)
                reference_map = by_reference.mean(dim=1)
                scale_maps = torch.cat([by_text, by_reference], dim=1)
                grid_map = (grid_map + reference_map) / 2
                image_score = (image_score + reference_map.amax(dim=(1, 2))) / 2
            anomaly_map = upsample_map(grid_map, (image.shape[-2], image.shape[-1]))
            anomaly_map = smooth_map(anomaly_map, self._scoring.smoothing_sigma)
            image_score = combine_image_score(image_score, anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(anomaly_map, image_score, scale_maps, trained_maps=anomaly_map[:, None])

    def _look(self, image: Tensor) -> tuple[Float[Tensor, "batch 1 dim"], Features]:
        """Encode images once: the class embedding, and the features of every scale, in float32."""
        tokens, windows = encode_windows(self.backbone, image, self._window_sizes)
        patch_tokens = self.backbone.ln_post(tokens[:, 1:])
        features = tuple(scale.float() for scale in (patch_tokens, *windows))
        return self.backbone.project(tokens[:, :1]).float(), features

    def _against_text(
        self, class_embedding: Tensor, features: Features, category: Sequence[str]
    ) -> Float[Tensor, "batch scales h w"]:
        """Score every window size, and the image as a whole in the last map."""
        stateful = self.text(category, class_embedding.device).stateful.float()
        image_score, *of_windows = (
            anomaly_probability(text_on_text_similarity(seen, stateful), self._scoring.temperature)
            for seen in (class_embedding, *features[1:])
        )
        whole = image_score[..., None].expand(-1, *self.backbone.grid_size)
        return torch.stack([*self._window_maps(of_windows), whole], dim=1)

    def _against_references(self, features: Features, category: Sequence[str]) -> Float[Tensor, "batch scales h w"]:
        """Score the patches, and every window size, by how unlike the references they are."""
        of_patches, *of_windows = self._references.association(features, category)
        return torch.stack([of_patches.unflatten(1, self.backbone.grid_size), *self._window_maps(of_windows)], dim=1)

    def _window_maps(self, scores: Sequence[Tensor]) -> list[Tensor]:
        return [
            aggregate_windows(of_windows, self.backbone.grid_size, size)
            for of_windows, size in zip(scores, self._window_sizes, strict=True)
        ]
