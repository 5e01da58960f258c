"""AFR-CLIP as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import BeforeBlock, CLIPBackbone
from afr_clip.clip.cnn import FrozenCNN
from afr_clip.clip.load import Towers
from afr_clip.clip.text import CategoryEmbeddings, TextEmbeddings
from afr_clip.models.afr_clip.cmfr import CrossModalFeatureRectification
from afr_clip.models.afr_clip.mpfa import MultiPatchFeatureAggregation
from afr_clip.models.afr_clip.self_prompting import SelfPrompting, place_prompt
from afr_clip.models.afr_clip.settings import CMFRSettings, LearnableScoringSettings, SelfPromptingSettings
from afr_clip.models.afr_clip.stages import prompted_blocks
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring import (
    anomaly_probability,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.prompts.ensemble import PromptSettings


class AFRCLIP(nn.Module):
    r"""Detect anomalies of categories never seen, by comparing rectified text with stateful text.

    One image goes one way: taps of the frozen ViT (with self prompting in front of chosen blocks), a linear adapter
    per stage (Eq. 1), MPFA on the patches, CMFR, text-on-text similarity, mean over the stages. The text embeddings
    pass one linear adapter (Eq. 2).

    .. math::
        F_v = \mathrm{Linear}(\mathrm{Encoder}_v(I)), \quad
        F_t^{\{n,a,s\}} = \mathrm{Linear}(\mathrm{Encoder}_t(T^{\{n,a,s\}})) \qquad \text{Eqs. (1)-(2), AFR-CLIP}

    Args:
        towers: The frozen networks.
        prompts: Which sentences.
        cmfr: Rectification; without it the adapted tokens themselves are compared with the text.
        self_prompting: Prompt tokens in the image tower.
        scoring: Temperature, image score, smoothing.
        mpfa_window: Side of the aggregation window in patches; 1 switches MPFA off.
        tap_ln_post: Whether tapped tokens pass CLIP's final layer norm before their adapter.

    Raises:
        ValueError: If the settings contradict the towers, for example self prompting in a stage that does not exist.
    """

    TRAINABLE = ("visual_adapters", "text_adapter", "cmfr", "self_prompting", "log_temperature")
    """The parts that learn; everything else is frozen."""

    def __init__(
        self,
        towers: Towers,
        prompts: PromptSettings,
        cmfr: CMFRSettings,
        self_prompting: SelfPromptingSettings,
        scoring: LearnableScoringSettings,
        mpfa_window: int = 3,
        *,
        tap_ln_post: bool = False,
    ) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        self.cnn: FrozenCNN | None = towers.cnn if self_prompting.needs_cnn else None
        dim, num_stages = self.backbone.embed_dim, len(self.backbone.tap_layers)
        self.text = TextEmbeddings(self.backbone.encode_text, prompts)
        self.visual_adapters = nn.ModuleList(nn.Linear(self.backbone.tap_dim, dim) for _ in range(num_stages))
        self.text_adapter = nn.Linear(dim, dim)
        self.mpfa = MultiPatchFeatureAggregation(mpfa_window)
        self.cmfr = nn.ModuleList(
            CrossModalFeatureRectification(dim, cmfr.inner_dim, cmfr.kernel_size, symmetric=cmfr.symmetric)
            for _ in range((1 if cmfr.shared else num_stages) if cmfr.enabled else 0)
        )
        self.self_prompting = self._build_self_prompting(self_prompting) if self_prompting.is_active else None
        self._prompted_blocks = prompted_blocks(self_prompting.stages, self.backbone.tap_layers)
        self._placement = self_prompting.placement
        self._scoring = scoring
        self._tap_ln_post = tap_ln_post
        log_temperature = torch.tensor(scoring.temperature).log()
        self.log_temperature = nn.Parameter(log_temperature) if scoring.learnable_temperature else None

    def _build_self_prompting(self, settings: SelfPromptingSettings) -> SelfPrompting:
        return SelfPrompting(
            cnn_dim=self.cnn.feature_dim if self.cnn is not None else 0,
            token_dim=self.backbone.token_dim,
            num_prompts=settings.num_prompts,
            image_prompt=settings.image_prompt,
            shared_prompt=settings.shared_prompt,
        )

    def trainable_parameter_names(self) -> set[str]:
        """Name the parameters that learn: the adapters, never the towers."""
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in self.TRAINABLE}

    @property
    def temperature(self) -> float | Tensor:
        """What the cosines are divided by."""
        return self._scoring.temperature if self.log_temperature is None else self.log_temperature.exp()

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score images of named categories.

        Args:
            image: Normalised images of the backbone's input size.
            category: What each image shows, in words, for example ``"metal nut"``.

        Returns:
            The anomaly map at input size, the image score and the maps of the stages.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        return self.score(self.tapped(image), category)

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out, for whoever keeps it."""
        return f"taps after blocks {list(self.backbone.tap_layers)}"

    def tapped(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch tokens tap_dim"], ...]:
        """Read out the image tower; without self prompting it makes no graph, and gives the same in every epoch.

        Args:
            image: Normalised images of the backbone's input size.

        Returns:
            Per stage the class token and the patch tokens, with what the stem saw behind their channels.
        """
        return self.backbone.carry(self.backbone.tap(image, self._prompt_seam(image)), image)

    def score(
        self, tapped: tuple[Float[Tensor, "batch tokens tap_dim"], ...], category: Sequence[str]
    ) -> AnomalyPrediction:
        """Score what was read out of the image tower.

        Args:
            tapped: As ``tapped`` returns it.
            category: What each image shows, in words.

        Returns:
            As ``forward``.
        """
        text = self._adapt_text(self.text(category, tapped[0].device))
        stages = [self._score_stage(stage, tokens, text) for stage, tokens in enumerate(tapped)]
        probability = torch.stack(stages, dim=1)  # (B, L, 1 + N)
        layer_maps = probability[:, :, 1:].reshape(*probability.shape[:2], *self.backbone.grid_size)
        # The final result is the mean over the stages, as the paper says below its Eq. (18).
        class_token_score = probability[:, :, 0].mean(dim=1)
        anomaly_map = upsample_map(layer_maps.mean(dim=1), (self.backbone.image_size, self.backbone.image_size))
        anomaly_map = smooth_map(anomaly_map, self._scoring.smoothing_sigma)
        image_score = combine_image_score(class_token_score, anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(anomaly_map, image_score, layer_maps, trained_maps=anomaly_map[:, None])

    def _adapt_text(self, text: CategoryEmbeddings) -> CategoryEmbeddings:
        return CategoryEmbeddings(self.text_adapter(text.stateless), self.text_adapter(text.stateful))

    def _prompt_seam(self, image: Tensor) -> BeforeBlock | None:
        """Make the function that puts this batch's prompt in front of the prompted blocks (Eqs. 15-18)."""
        if self.self_prompting is None:
            return None
        feature = self.cnn(image) if self.cnn is not None else image.new_empty(image.shape[0], 0)
        prompt = self.self_prompting(feature)
        num_tokens = 1 + self.backbone.grid_size[0] * self.backbone.grid_size[1]

        def before_block(number: int, tokens: Tensor) -> Tensor:
            if number in self._prompted_blocks:
                return place_prompt(tokens, prompt, num_tokens, self._placement)
            return tokens[:, :num_tokens]  # an appended prompt ends with its stage

        return before_block

    def _score_stage(
        self, stage: int, tokens: Float[Tensor, "batch tokens tap_dim"], text: CategoryEmbeddings
    ) -> Float[Tensor, "batch tokens"]:
        """Turn the tokens of one tap layer into probabilities, the class token's first."""
        if self._tap_ln_post:
            tokens = self.backbone.ln_post(tokens)
        adapted = self.visual_adapters[stage](tokens)  # (B, 1 + N, D), Eq. (1)
        class_token, patch_tokens = adapted[:, :1], adapted[:, 1:]
        patch_tokens = self.mpfa(patch_tokens, self.backbone.grid_size)
        if self.cmfr:
            cmfr = self.cmfr[stage % len(self.cmfr)]
            class_token = cmfr(class_token, text.stateless, (1, 1))
            patch_tokens = cmfr(patch_tokens, text.stateless, self.backbone.grid_size)
        with torch.autocast(tokens.device.type, enabled=False):
            rectified = torch.cat([class_token, patch_tokens], dim=1).float()
            similarity = text_on_text_similarity(rectified, text.stateful.float())
            return anomaly_probability(similarity, self.temperature)
