"""AdaCLIP as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.weights import weight_path
from afr_clip.models.ada_clip.fusion import fuse_semantics
from afr_clip.models.ada_clip.hybrid_prompts import HybridPrompts, behind_patches
from afr_clip.models.ada_clip.prompted_text import PromptedText
from afr_clip.models.ada_clip.released import released_tensors
from afr_clip.models.ada_clip.settings import FusionSettings, HybridPromptSettings
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.released import fill_from_release
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


class AdaCLIP(nn.Module):
    """Detect anomalies with a CLIP whose two towers are prompted by static tokens and by tokens of the image itself.

    One image goes one way: a first pass of the frozen image tower gives its embedding, of which both towers' dynamic
    prompts are made; a second, prompted pass is tapped and projected by one linear layer per tap, and the prompted text
    tower reads the sentences about the category. Patches and text give the map, the class token fused with clusters of
    anomalous patches the image score. 10,665,472 parameters learn at ViT-L/14.

    Source: Cao et al., *AdaCLIP: Adapting CLIP with Hybrid Learnable Prompts for Zero-Shot Anomaly Detection*, ECCV
    2024, and the behaviour of its released code, which the published numbers come from.

    Note:
        The map is one softmax of the taps' mean similarity; the loss sees the softmax of every tap. Deviations from the
        released code: everything that is scored is float32 and prompts are not rounded to half precision; batches of
        any size give each image the scores it has alone; k-means is seeded by the image's own content
        (``fuse_semantics``); position embeddings are resized with antialiasing; training reads one auxiliary dataset,
        where the published weights were trained on an industrial and a medical one together, and keeps its last epoch,
        where theirs was chosen by a target's masks.

    Args:
        towers: The frozen networks.
        prompts: Which sentences.
        hybrid_prompts: How many prompt tokens, in front of how many blocks.
        fusion: What the patches say about the whole image.
        scoring: Temperature, image score, smoothing.
        released_weights: A file with the authors' weights, to start from; ``None`` starts anew.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the released weights do not fit, or the text tower is not CLIP's own.
    """

    TRAINABLE = ("visual_prompts", "text_prompts", "patch_projections", "class_projection")
    """The parts that learn; everything else is frozen."""

    def __init__(
        self,
        towers: Towers,
        prompts: PromptSettings,
        hybrid_prompts: HybridPromptSettings,
        fusion: FusionSettings,
        scoring: ScoringSettings,
        released_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        self.text = PromptedText(self.backbone, prompts)
        dim, token_dim = self.backbone.embed_dim, self.backbone.token_dim
        length, depth = hybrid_prompts.length, hybrid_prompts.depth
        self.visual_prompts = HybridPrompts(dim, token_dim, length, min(depth, self.backbone.depth))
        self.text_prompts = HybridPrompts(dim, self.text.tower.width, length, min(depth, self.text.tower.depth))
        self.patch_projections = nn.ModuleList(nn.Linear(self.backbone.tap_dim, dim) for _ in self.backbone.tap_layers)
        self.class_projection = nn.Linear(dim, dim)
        self._fusion = fusion
        self._scoring = scoring
        if released_weights is not None:
            fill_from_release(released_tensors(dict(self.named_parameters())), weight_path(released_weights))

    def trainable_parameter_names(self) -> set[str]:
        """Name the parameters that learn: prompts and projections, never the towers."""
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in self.TRAINABLE}

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score images.

        Args:
            image: Normalised images of the backbone's input size.
            category: What each image shows, in words.

        Returns:
            Map, image score, one map per tap on the patch grid, and the same at input size for the loss.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        with torch.no_grad():
            image_embedding = self._class_embedding(self.backbone.tap(image, layers=[self.backbone.depth])[0])
        class_token, patch_tokens = self._prompted_features(image, image_embedding)
        stateful = self.text(category, self.text_prompts(image_embedding))
        with torch.autocast(image.device.type, enabled=False):
            return self._score(class_token.float(), patch_tokens.float(), stateful.float())

    def _class_embedding(self, tokens: Float[Tensor, "batch tokens token_dim"]) -> Float[Tensor, "batch dim"]:
        return self.backbone.project(tokens[:, 0])

    def _prompted_features(
        self, image: Tensor, image_embedding: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch layers patches dim"]]:
        """Run the prompted image tower and project what is read out of it."""
        backbone = self.backbone
        num_tokens = 1 + backbone.grid_size[0] * backbone.grid_size[1]
        seam = behind_patches(self.visual_prompts(image_embedding), num_tokens)
        # The class token is read after the last block, wherever the last tap is.
        *taps, last = backbone.tap(image, seam, layers=sorted({*backbone.tap_layers, backbone.depth}))
        read_out = backbone.carry([*taps, last][: len(backbone.tap_layers)], image)
        patch_tokens = [project(tap[:, 1:]) for project, tap in zip(self.patch_projections, read_out, strict=True)]
        return self.class_projection(self._class_embedding(last)), torch.stack(patch_tokens, dim=1)

    def _score(
        self,
        class_token: Float[Tensor, "batch dim"],
        patch_tokens: Float[Tensor, "batch layers patches dim"],
        stateful: Float[Tensor, "batch 2 dim"],
    ) -> AnomalyPrediction:
        temperature = self._scoring.temperature
        class_token, patch_tokens = F.normalize(class_token, dim=-1), F.normalize(patch_tokens, dim=-1)
        similarity = text_on_text_similarity(patch_tokens.flatten(1, 2), stateful)
        margin = abnormal_margin(similarity, temperature).unflatten(1, patch_tokens.shape[1:3])  # (B, L, N)
        on_grid = margin.unflatten(2, self.backbone.grid_size)
        at_size = upsample_map(on_grid, (self.backbone.image_size, self.backbone.image_size), align_corners=True)
        anomaly_map = smooth_map(at_size.mean(dim=1).sigmoid(), self._scoring.smoothing_sigma)

        fused = fuse_semantics(class_token, patch_tokens, margin.detach().mean(dim=1), self._fusion)
        class_score = anomaly_probability(text_on_text_similarity(fused[:, None], stateful), temperature)[:, 0]
        return AnomalyPrediction(
            anomaly_map=anomaly_map,
            image_score=combine_image_score(class_score, anomaly_map, self._scoring.image_score),
            layer_maps=on_grid.sigmoid(),
            trained_maps=at_size.sigmoid(),
        )
