"""WinCLIP as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextEmbeddings, ensemble_mean
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.references import Features, ReferenceBank, require_shots
from afr_clip.models.scoring import (
    anomaly_probability,
    combine_image_score,
    harmonic_mean,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.models.winclip.settings import ReferenceTokens, check_window_sizes
from afr_clip.models.winclip.windows import aggregate_windows, embed_windows, window_positions
from afr_clip.prompts.ensemble import PromptSettings


class WinCLIP(nn.Module):
    r"""Compare an image and all its small windows with prompt ensembles (Jeong et al., CVPR 2023, arXiv:2303.14814).

    CLIP's class token describes an image as a whole. Shown one window at a time, it describes each window, and thus
    where the anomaly is. A patch gets the harmonic mean over all windows that show it, and the map is the harmonic
    mean over the window sizes and the image score. Nothing is trained: there are 0 trainable parameters.

    With ``shots`` (WinCLIP+) the network first observes normal images of the category. The distance of patches and
    windows to the nearest of them makes a second map; map and image score are the means of both:

    .. math::
        M = \tfrac{1}{2} (M_{text} + M_{ref}), \qquad
        s = \tfrac{1}{2} (s_{text} + \max_{ij} M_{ref,ij})

    Note:
        There is no official code. Where the paper leaves a choice open, the default is that of the public
        re-implementation that comes closest to its numbers (zqhang/Accurate-WinCLIP-pytorch): 21 templates with a full
        stop, one of them twice (``PromptStyle.winclip`` has 22 without, none twice); sentences are averaged before they
        are normalised (``normalise_first=False``); cosines are divided by 0.07; nothing is smoothed; patches are
        compared with the references before ``ln_post``. Only the few-shot map differs: it is the mean of its
        two parts instead of their sum, which gives the same ranks.

    Args:
        window_sizes: Sides of the windows in patches.
        normalise_first: Whether each sentence's embedding is normalised before the mean.
        shots: Reference images of each category; 0 is zero-shot.
        reference_tokens: Whether patch tokens of the last block are compared with the references before ``ln_post``
            (``raw``) or after it, as in anomalib.

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
        reference_tokens: ReferenceTokens = ReferenceTokens.raw,
    ) -> None:
        super().__init__()
        check_window_sizes(window_sizes)
        self.backbone: CLIPBackbone = towers.backbone
        combine = partial(ensemble_mean, normalise_first=normalise_first)
        self.text = TextEmbeddings(self.backbone.encode_text, prompts, combine=combine)
        self.shots = shots
        self._reference_tokens = reference_tokens
        self._references = ReferenceBank()
        self._windows = {size: window_positions(self.backbone.grid_size, size) for size in window_sizes}
        self._scoring = scoring

    def observe(self, image: Float[Tensor, "shots 3 height width"], category: str) -> None:
        """Remember normal images of a category, under the name that ``forward`` gets, replacing earlier ones.

        Raises:
            ValueError: If there are more or fewer images than ``shots``.
        """
        require_shots(image, category, self.shots)
        _, features = self._encode(image)
        self._references.remember(category, features)

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size, each with its category in words.

        The layer maps are those of the scales: one per window size, the image score as a map, and with ``shots`` those
        of patches and windows against the references.

        Raises:
            ValueError: If there is not one category per image, or one has no references where there must be some.
        """
        require_one_name_each(image, category)
        grid_size = self.backbone.grid_size
        class_embedding, features = self._encode(image)

        def window_maps(scores: Sequence[Tensor]) -> list[Tensor]:
            return [aggregate_windows(s, grid_size, size) for s, size in zip(scores, self._windows, strict=True)]

        with torch.autocast(image.device.type, enabled=False):
            stateful = self.text(category, image.device).stateful.float()
            whole, *by_window = (
                anomaly_probability(text_on_text_similarity(embeddings, stateful), self._scoring.temperature)
                for embeddings in (class_embedding, *features[1:])
            )
            scale_maps = torch.stack([*window_maps(by_window), whole[..., None].expand(-1, *grid_size)], dim=1)
            grid_map, image_score = harmonic_mean(scale_maps), whole[:, 0]
            if self.shots:
                by_patch, *by_window = self._references.association(features, category)
                by_reference = torch.stack([by_patch.unflatten(1, grid_size), *window_maps(by_window)], dim=1)
                reference_map = by_reference.mean(dim=1)
                scale_maps = torch.cat([scale_maps, by_reference], dim=1)
                grid_map = (grid_map + reference_map) / 2
                image_score = (image_score + reference_map.amax(dim=(1, 2))) / 2
            anomaly_map = upsample_map(grid_map, (image.shape[-2], image.shape[-1]))
            anomaly_map = smooth_map(anomaly_map, self._scoring.smoothing_sigma)
            image_score = combine_image_score(image_score, anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(anomaly_map, image_score, scale_maps, trained_maps=anomaly_map[:, None])

    def _encode(self, image: Tensor) -> tuple[Float[Tensor, "batch 1 dim"], Features]:
        """Encode images once, in float32: the class embedding, then the features of patches and of each window size."""
        embedded = self.backbone.embed(image)
        (tokens,) = self.backbone.tap(embedded, layers=(self.backbone.depth,))
        windows = [
            embed_windows(self.backbone, embedded.tokens, positions.to(image.device))
            for positions in self._windows.values()
        ]
        patches = tokens[:, 1:]
        if self._reference_tokens is ReferenceTokens.ln_post:
            patches = self.backbone.ln_post(patches)
        features = tuple(scale.float() for scale in (patches, *windows))
        return self.backbone.embed_image(tokens)[:, None].float(), features

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: none."""
        return set()
