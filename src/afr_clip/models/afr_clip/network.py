"""AFR-CLIP as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.cnn import FrozenCNN
from afr_clip.clip.load import Towers
from afr_clip.clip.text import CategoryEmbeddings, TextEmbeddings, ensemble_mean
from afr_clip.models.afr_clip.adapters import SplitAdapter, leaky_layer, standardised
from afr_clip.models.afr_clip.cmfr import CrossModalFeatureRectification, without_text_half
from afr_clip.models.afr_clip.mpfa import MultiPatchFeatureAggregation
from afr_clip.models.afr_clip.self_prompting import SelfPrompting, place_prompt
from afr_clip.models.afr_clip.settings import (
    AdapterKind,
    AdapterSettings,
    CMFRSettings,
    LearnableScoringSettings,
    Placement,
    SelfPromptingSettings,
    StatelessPromptSettings,
    TrainedMaps,
)
from afr_clip.models.afr_clip.stages import prompted_blocks
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring import (
    abnormal_margin,
    anomaly_probability,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)


class AFRCLIP(nn.Module):
    r"""Detect anomalies in unseen categories, by comparing rectified text with stateful text.

    .. math::
        F_v = \mathrm{Linear}(\mathrm{Encoder}_v(I)), \quad
        F_t^{\{n,a,s\}} = \mathrm{Linear}(\mathrm{Encoder}_t(T^{\{n,a,s\}})) \qquad \text{Eqs. (1)-(2), AFR-CLIP}

    Args:
        adapters: The layers of Eqs. (1)-(2), and what goes into and comes out of them.
        cmfr: Rectification; without it the adapted tokens themselves are compared with the text.
        self_prompting: Prompt tokens in the image tower.
        mpfa_window: Side of the aggregation window in patches; 1 switches MPFA off.
        tap_ln_post: Whether tapped tokens pass CLIP's final layer norm before their adapter.

    Raises:
        ValueError: If the settings contradict the towers, for example self prompting in a stage that does not exist.
    """

    TRAINABLE = ("visual_adapters", "text_adapter", "stateless_adapter", "cmfr", "self_prompting", "log_temperature")
    """The parts that learn; all others are frozen."""

    def __init__(  # noqa: PLR0913 - one argument for each node of the config
        self,
        towers: Towers,
        prompts: StatelessPromptSettings,
        adapters: AdapterSettings,
        cmfr: CMFRSettings,
        self_prompting: SelfPromptingSettings,
        scoring: LearnableScoringSettings,
        *,
        mpfa_window: int = 3,
        tap_ln_post: bool = False,
    ) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        self.cnn: FrozenCNN | None = towers.cnn if self_prompting.needs_cnn else None
        dim, num_stages = self.backbone.embed_dim, len(self.backbone.tap_layers)
        combine = ensemble_mean if prompts.normalised else partial(torch.mean, dim=-2)
        self.text = TextEmbeddings(self.backbone.encode_text, prompts, combine=combine)
        adapter = nn.Linear if adapters.kind is AdapterKind.linear else SplitAdapter
        self.visual_adapters = nn.ModuleList(adapter(self.backbone.tap_dim, dim) for _ in range(num_stages))
        self.text_adapter = adapter(dim, dim)
        # A linear text adapter also takes the stateless embedding.
        self.stateless_adapter = None if adapters.kind is AdapterKind.linear else leaky_layer(dim, dim)
        self.mpfa = MultiPatchFeatureAggregation(mpfa_window)
        self.cmfr = nn.ModuleList(
            CrossModalFeatureRectification(dim, cmfr.inner_dim, cmfr.kernel_size, symmetric=cmfr.symmetric)
            for _ in range((1 if cmfr.shared else num_stages) if cmfr.enabled else 0)
        )
        self.self_prompting: SelfPrompting | None = None
        if self_prompting.is_active:
            self.self_prompting = SelfPrompting(
                cnn_dim=self.cnn.feature_dim if self.cnn is not None else 0,
                token_dim=self.backbone.token_dim,
                num_prompts=self_prompting.num_prompts,
                image_prompt=self_prompting.image_prompt,
                shared_prompt=self_prompting.shared_prompt,
            )
        self._prompted_blocks = prompted_blocks(self_prompting.stages, self.backbone.tap_layers)
        self._placement = self_prompting.placement
        self._adapters = adapters
        self._scoring = scoring
        self._tap_ln_post = tap_ln_post
        log_temperature = torch.tensor(scoring.temperature).log()
        self.log_temperature = nn.Parameter(log_temperature) if scoring.learnable_temperature else None

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size, each with its category in words.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        return self.score(self.tapped(image), category)

    def tapped(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch tokens tap_dim"], ...]:
        """Run the prompted image tower; per stage returns the class token and the patch tokens."""
        embedded = self.backbone.embed(image)
        num_tokens, prompt = embedded.tokens.shape[1], None
        if self.self_prompting is not None:
            feature = image.new_empty(image.shape[0], 0)
            if self.cnn is not None:
                # If the stem is built on the CNN, it has run already.
                maps = self.cnn.maps(image) if embedded.seen is None else embedded.seen.maps
                feature = self.cnn.pool(maps)
            prompt = self.self_prompting(feature)  # (B, K, D_v), Eqs. (15)-(16)

        def before_block(number: int, tokens: Tensor) -> Tensor:
            if prompt is not None and number in self._prompted_blocks:
                return place_prompt(tokens, prompt, num_tokens, self._placement)  # Eqs. (17)-(18)
            keeps = self._placement is Placement.append_and_keep
            return tokens if keeps else tokens[:, :num_tokens]  # drops the prompt after its stage

        return self.backbone.carry(self.backbone.tap(embedded, before_block), embedded)

    def score(
        self, tapped: tuple[Float[Tensor, "batch tokens tap_dim"], ...], category: Sequence[str]
    ) -> AnomalyPrediction:
        """Score what ``tapped`` returned."""
        grid_size, size = self.backbone.grid_size, (self.backbone.image_size, self.backbone.image_size)
        text = self.adapted_text(category, tapped[0].device)
        stages = []
        for stage, tokens in enumerate(tapped):
            rectified = self.rectified(stage, tokens, text)
            with torch.autocast(tokens.device.type, enabled=False):
                stages.append(text_on_text_similarity(rectified.float(), text.stateful.float()))
        similarity = torch.stack(stages, dim=1)  # (B, L, 1 + N, 2)
        probability = anomaly_probability(similarity, self.temperature)  # (B, L, 1 + N)
        layer_maps = probability[:, :, 1:].unflatten(-1, grid_size)
        upsample = partial(upsample_map, size=size, align_corners=self._scoring.align_corners)
        if self._scoring.softmax_after_upsampling:
            margin = abnormal_margin(similarity[:, :, 1:], self.temperature)
            maps = upsample(margin.unflatten(-1, grid_size)).sigmoid()
        elif self._scoring.trained_maps is TrainedMaps.stages:
            maps = upsample(layer_maps)
        else:  # upsampling is linear, so the mean may come first
            maps = upsample(layer_maps.mean(dim=1, keepdim=True))
        # The final result is the mean over the stages, as the paper says below its Eq. (18).
        mean_map = maps.mean(dim=1)
        anomaly_map = smooth_map(mean_map, self._scoring.smoothing_sigma)
        class_token_score = probability[:, :, 0].mean(dim=1)
        if self._scoring.mean_class_logits:
            class_token_score = anomaly_probability(similarity[:, :, 0].mean(dim=1), self.temperature)
        image_score = combine_image_score(class_token_score, anomaly_map, self._scoring.image_score)
        trained_maps = mean_map[:, None] if self._scoring.trained_maps is TrainedMaps.mean else maps
        return AnomalyPrediction(anomaly_map, image_score, layer_maps, trained_maps)

    def adapted_text(self, category: Sequence[str], device: torch.device) -> CategoryEmbeddings:
        """Embed the category of each image and adapt the embeddings, Eq. (2)."""
        text = self.text(category, device)
        stateless_adapter = self.text_adapter if self.stateless_adapter is None else self.stateless_adapter
        return CategoryEmbeddings(stateless_adapter(text.stateless), self.text_adapter(text.stateful))

    def rectified(
        self, stage: int, tokens: Float[Tensor, "batch tokens tap_dim"], text: CategoryEmbeddings
    ) -> Float[Tensor, "batch tokens dim"]:
        """Rectify the stateless embedding with each token of a tap, or return the adapted tokens if there is no CMFR.

        Args:
            stage: Which tap, counted from 0.
            text: What ``adapted_text`` returned.
        """
        grid_size = self.backbone.grid_size
        adapted = self.adapted(stage, tokens)
        class_token, patch_tokens = adapted[:, :1], self.mpfa(adapted[:, 1:], grid_size)
        if self._adapters.unit_tokens:
            class_token, patch_tokens = F.normalize(class_token, dim=-1), F.normalize(patch_tokens, dim=-1)
        if self.cmfr:
            cmfr = self.cmfr[stage % len(self.cmfr)]
            class_token = cmfr(class_token, text.stateless, (1, 1))
            patch_tokens = cmfr(patch_tokens, text.stateless, grid_size)
        return torch.cat([class_token, patch_tokens], dim=1)

    def adapted(self, stage: int, tokens: Float[Tensor, "batch tokens tap_dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Adapt the tokens of a tap, Eq. (1)."""
        normed = self.backbone.ln_post(tokens) if self._tap_ln_post else tokens
        if self._adapters.standardised_patches:
            normed = torch.cat([normed[:, :1], standardised(normed[:, 1:])], dim=1)
        adapted: Tensor = self.visual_adapters[stage](normed)
        return adapted

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out; used only without self prompting, whose prompts are trained."""
        return f"taps after blocks {list(self.backbone.tap_layers)}"

    @property
    def temperature(self) -> float | Tensor:
        """The number that the cosines are divided by."""
        return self._scoring.temperature if self.log_temperature is None else self.log_temperature.exp()

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the adapters, never the towers."""
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in self.TRAINABLE}

    def upgraded(self, name: str, value: Tensor) -> Tensor:
        """Give a weight of an old checkpoint, or a moment of its optimiser, the shape that the weight has here."""
        own = self.get_parameter(name)
        has_both_halves = ".mix." in name and value.ndim > 0 and len(value) == 2 * len(own)
        return without_text_half(value) if has_both_halves else value
