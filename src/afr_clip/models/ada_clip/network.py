"""AdaCLIP as one network: image and category in, anomaly map and image score out."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.weights import fill_from_release, weight_path
from afr_clip.models.ada_clip.fusion import fuse_semantics
from afr_clip.models.ada_clip.hybrid_prompts import HybridPrompts, behind_patches
from afr_clip.models.ada_clip.prompted_text import PromptedText
from afr_clip.models.ada_clip.settings import FusionSettings, HybridPromptSettings
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


class AdaCLIP(nn.Module):
    """Detect anomalies with a CLIP whose two towers are prompted by static tokens and by tokens of the image itself.

    10,665,472 parameters learn at ViT-L/14.

    Source: Cao et al., *AdaCLIP: Adapting CLIP with Hybrid Learnable Prompts for Zero-Shot Anomaly Detection*, ECCV
    2024, and the behaviour of its released code, which the published numbers come from.

    Note:
        The map is one softmax of the taps' mean similarity; the loss sees the softmax of every tap. Differences from
        the released code: all scores are float32 and prompts are not rounded to half precision; batches of any size
        give each image the scores that it has alone; k-means is seeded by the image's own content
        (``fuse_semantics``); mosaics are drawn as in APRIL-GAN and their quarters resized twice; training reads one
        auxiliary dataset and keeps its last epoch, where the published weights come from an industrial and a medical
        dataset together and from an epoch chosen by a target's masks.

    Args:
        hybrid_prompts: How many prompt tokens, in front of how many blocks.
        fusion: How patches enter the image score.
        released_weights: A file with the authors' weights, to start from; ``None`` starts from random ones.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the released weights do not fit, or the text tower is not CLIP's own.
    """

    TRAINABLE = ("visual_prompts", "text_prompts", "patch_projections", "class_projection")
    """The parts that learn; all others are frozen."""

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

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size, each with its category in words.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        backbone, temperature = self.backbone, self._scoring.temperature

        # A first pass of the frozen image tower gives the embedding that both towers' dynamic prompts are made of.
        embedded = backbone.embed(image)
        with torch.no_grad():
            (last,) = backbone.tap(embedded, layers=[backbone.depth])
            image_embedding = backbone.embed_image(last)

        # The second, prompted pass. The class token is read after the last block, wherever the last tap is.
        prompts = behind_patches(self.visual_prompts(image_embedding), num_tokens=embedded.tokens.shape[1])
        *taps, last = backbone.tap(embedded, prompts, layers=sorted({*backbone.tap_layers, backbone.depth}))
        carried = backbone.carry([*taps, last][: len(backbone.tap_layers)], embedded)
        projected = [project(tap[:, 1:]) for project, tap in zip(self.patch_projections, carried, strict=True)]
        class_token = self.class_projection(backbone.embed_image(last))
        stateful = self.text(category, self.text_prompts(image_embedding))

        with torch.autocast(image.device.type, enabled=False):
            class_token = F.normalize(class_token.float(), dim=-1)
            patch_tokens = F.normalize(torch.stack(projected, dim=1).float(), dim=-1)  # (B, L, N, D)
            stateful = stateful.float()
            similarity = text_on_text_similarity(patch_tokens.flatten(1, 2), stateful)
            margin = abnormal_margin(similarity, temperature).unflatten(1, patch_tokens.shape[1:3])  # (B, L, N)
            on_grid = margin.unflatten(2, backbone.grid_size)
            at_size = upsample_map(on_grid, (backbone.image_size, backbone.image_size), align_corners=True)
            anomaly_map = smooth_map(at_size.mean(dim=1).sigmoid(), self._scoring.smoothing_sigma)

            fused = fuse_semantics(class_token, patch_tokens, margin.detach().mean(dim=1), self._fusion)
            class_score = anomaly_probability(text_on_text_similarity(fused[:, None], stateful), temperature)[:, 0]
            image_score = combine_image_score(class_score, anomaly_map, self._scoring.image_score)
            return AnomalyPrediction(anomaly_map, image_score, on_grid.sigmoid(), trained_maps=at_size.sigmoid())

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: prompts and projections, never the towers."""
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in self.TRAINABLE}


def released_tensors(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Find the place of each tensor of a released file (caoyunkang/AdaCLIP, ``pretrained_*.pth``).

    Args:
        ours: The network's parameters by name; those of the towers are ignored.

    Returns:
        Parameters, or views of parts of them, by the released names: 38 at depth 4, length 5 and four taps.
    """
    found: dict[str, Tensor] = {}
    for tower in ("visual", "text"):
        static = ours[f"{tower}_prompts.static"]
        found |= {f"{tower}_prompter.static_prompts.{block}": prompt for block, prompt in enumerate(static)}
        for kind in ("weight", "bias"):
            # One layer of K times the width here, a layer for each of K tokens there.
            heads = ours[f"{tower}_prompts.dynamic.{kind}"].unflatten(0, static.shape[1:])
            found |= {f"dynamic_{tower}_prompt_generator.head.{token}.{kind}": head for token, head in enumerate(heads)}
    taps = {name.split(".")[1] for name in ours if name.startswith("patch_projections.")}
    for kind in ("weight", "bias"):
        found |= {f"patch_token_layer.head.{tap}.{kind}": ours[f"patch_projections.{tap}.{kind}"] for tap in taps}
        found[f"cls_token_layer.head.0.{kind}"] = ours[f"class_projection.{kind}"]
    # The authors' trainer holds the model under this name.
    return {f"clip_model.{name}": tensor.detach() for name, tensor in found.items()}
