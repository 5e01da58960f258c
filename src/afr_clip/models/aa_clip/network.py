"""AA-CLIP as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import KnownWords, TextTower, ensemble_mean
from afr_clip.models.aa_clip.settings import AdapterSettings, ValueAttention
from afr_clip.models.anomaly_clip.settings import ReadoutSettings
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring import (
    ABNORMAL,
    abnormal_margin,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings

CUT_AT = 2.8
"""Where the Gaussian over the map ends, in standard deviations: as published, 7 patches a side at 1 and 9 at 1.5."""


class ResidualAdapter(nn.Module):
    r"""Mix tokens with what a learned layer makes of them, brought to their length.

    .. math:: x' = \lambda \, \frac{\lVert x \rVert}{\lVert a \rVert} \, a + (1 - \lambda) \, x, \quad
        a = \mathrm{LeakyReLU}(W x) \qquad \text{AA-CLIP, arXiv:2503.06661}

    Args:
        dim: Width of the tokens.
        weight: The share ``lambda`` of the adapted tokens.
    """

    def __init__(self, dim: int, weight: float) -> None:
        super().__init__()
        self.layer = _linear(dim, dim)
        self._weight = weight

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Adapt each token alone."""
        adapted = F.leaky_relu(self.layer(tokens))
        adapted = adapted * tokens.norm(dim=-1, keepdim=True) / adapted.norm(dim=-1, keepdim=True)
        return self._weight * adapted + (1 - self._weight) * tokens


class AACLIP(nn.Module):
    r"""Adapt the text tower to anomalies first, and then the image tower to the text (AA-CLIP, arXiv:2503.06661).

    In the first ``text_epochs`` of a training, adapters in the text tower learn normal and abnormal embeddings of each
    category that tell patches of the frozen image tower apart, and are pushed to a right angle. Then they stay, and
    adapters in the image tower learn, with a layer for each tap and one for the image:

    .. math::
        M = \mathrm{sigmoid}\Bigl(\mathrm{Bilin}\bigl(\tfrac{1}{L} \sum_l G * (\cos(v_l, t_a) - \cos(v_l, t_n))\bigr)
        / \tau\Bigr), \quad s = \tfrac{1}{2} \Bigl(\tfrac{1 + \langle \bar{v}, t_a \rangle}{2} + \max M\Bigr), \quad
        \tau = 0.01

    With ViT-L/14 12,582,912 parameters are trained: 2,359,296 in the text tower, 10,223,616 in the image tower.

    Note:
        The defaults follow the public code where it differs from the paper: the text is trained on the patches of the
        last tap alone, and the value attention in front of them looks at one place in all images of the batch instead
        of all places in one image. Unlike there, the map passes a sigmoid, which keeps its ranks, and the image score
        is the mean of two fixed scales instead of two that are stretched to the extremes of a whole test set.

    Args:
        text_epochs: Epochs that train the text tower's adapters; all later ones train the image tower's.
        readout: Where value attention starts in the frozen view that text is adapted to, and which taps are read.
        value_attention: What it attends to.
        scoring: ``smoothing_sigma`` counts patches, because the map is smoothed on the grid.

    Raises:
        ValueError: If the text tower is not CLIP's own, or value attention would start behind a block that is read.
    """

    TEXT, IMAGE = ("text_adapters", "text_projection"), ("image_adapters", "patch_projections", "image_projection")
    """The parts that each stage trains."""

    def __init__(
        self,
        towers: Towers,
        text_epochs: int,
        prompts: PromptSettings,
        adapters: AdapterSettings,
        readout: ReadoutSettings,
        value_attention: ValueAttention,
        scoring: ScoringSettings,
    ) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        self._tower = TextTower(self.backbone)
        self._words = KnownWords(self._tower, prompts)
        dim, width, tap_layers = self.backbone.embed_dim, self._tower.width, self.backbone.tap_layers
        self.text_adapters = nn.ModuleList(
            ResidualAdapter(width, adapters.text_weight)
            for _ in range(min(adapters.text_blocks, self._tower.depth - 1))
        )
        self.text_projection = _linear(width, dim)
        self.image_adapters = nn.ModuleList(
            ResidualAdapter(self.backbone.token_dim, adapters.image_weight)
            for _ in range(min(adapters.image_blocks, tap_layers[-1]))
        )
        self.patch_projections = nn.ModuleList(_linear(self.backbone.tap_dim, dim) for _ in tap_layers)
        self.image_projection = _linear(self.backbone.tap_dim, dim)
        self._layers, self._first_local_block = readout.layers(tap_layers), readout.first_local_block(tap_layers)
        self._across_batch = value_attention is ValueAttention.across_batch
        self._scoring = scoring
        self._text_epochs = text_epochs
        self._trains_text = True

    def begin_epoch(self, epoch: int) -> None:
        """Train the text tower's adapters in the first epochs, and the image tower's in all others."""
        self._trains_text = epoch < self._text_epochs

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size, each with its category in words.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        if self.training and self._trains_text:
            return self._with_frozen_image_tower(image, category)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):  # the text is trained before
            stateful = self.text(category, image.device)
        taps = [self.backbone.ln_post(tap[:, 1:]) for tap in self._adapted_taps(image)]
        patches = [project(tap) for project, tap in zip(self.patch_projections, taps, strict=True)]
        whole = F.normalize(self.image_projection(taps[-1]), dim=-1).mean(dim=1)
        grid_size, size = self.backbone.grid_size, (self.backbone.image_size, self.backbone.image_size)
        with torch.autocast(image.device.type, enabled=False):
            similarities = [text_on_text_similarity(tokens.float(), stateful) for tokens in patches]
            margin = abnormal_margin(torch.stack(similarities, dim=1), self._scoring.temperature)
            margin = margin.unflatten(-1, grid_size)  # (B, L, h, w)
            smooth = smooth_map(margin.mean(dim=1), self._scoring.smoothing_sigma, cut_at=CUT_AT, repeat=False)
            anomaly_map = upsample_map(smooth, size, align_corners=True).sigmoid()
            normal, abnormal = (stateful @ whole.float()[..., None])[..., 0].unbind(dim=1)
            image_score = combine_image_score((1 + abnormal) / 2, anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(
            anomaly_map,
            image_score,
            margin.sigmoid(),
            trained_maps=upsample_map(margin, size, align_corners=True).sigmoid(),
            class_scores=(abnormal - normal).sigmoid()[:, None],
        )

    def _with_frozen_image_tower(
        self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]
    ) -> AnomalyPrediction:
        """Compare CLIP's own patches, each with the image's embedding added, with the text that is being adapted."""
        stateful = self.text(category, image.device)
        whole, *patches = self._frozen_view(image)
        grid_size, size = self.backbone.grid_size, (self.backbone.image_size, self.backbone.image_size)
        with torch.autocast(image.device.type, enabled=False):
            of_image = text_on_text_similarity(whole.float(), stateful)
            similarities = [text_on_text_similarity(tokens.float(), stateful) + of_image for tokens in patches]
            margin = abnormal_margin(torch.stack(similarities, dim=1), self._scoring.temperature)
            margin = margin.unflatten(-1, grid_size)
            trained_maps = upsample_map(margin, size, align_corners=True).sigmoid()
            anomaly_map = trained_maps.mean(dim=1)
            untrained = (1 + of_image[:, 0, ABNORMAL]) / 2
        return AnomalyPrediction(
            anomaly_map,
            untrained,
            margin.sigmoid(),
            trained_maps,
            class_scores=untrained.new_zeros(len(untrained), 0),
            prototypes=stateful,
        )

    @torch.no_grad()
    def _frozen_view(self, image: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch _ dim"]]:
        """Return CLIP's own embedding of each image, and patches whose last blocks attend by value."""
        tower, start = self.backbone.tower, image.new_empty(0)

        def remember(number: int, tokens: Tensor) -> Tensor:
            nonlocal start
            start = tokens if number == self._first_local_block else start
            return tokens

        (last,) = self.backbone.tap(image, remember, layers=(self.backbone.depth,))
        view, tokens = [self.backbone.embed_image(last)[:, None]], start
        for number in range(self._first_local_block, self._layers[-1] + 1):
            # The public code hands tokens over with the images second, and its attention takes the places for images.
            seen = tokens.transpose(0, 1) if self._across_batch else tokens
            attended = tower.by_value(number, seen)
            tokens = tower.feed_forward(number, tokens + (attended.transpose(0, 1) if self._across_batch else attended))
            if number in self._layers:
                view.append(self.backbone.project(tower.patches(tokens)))
        return view

    def _adapted_taps(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch tokens dim"], ...]:
        """Run the image tower with an adapter behind each of the first blocks."""
        embedded = self.backbone.embed(image)
        taps = self.backbone.tap(embedded, lambda number, tokens: self._behind(number - 1, tokens))
        # A tap is taken in front of the adapter of its block.
        adapted = [self._behind(layer, tap) for layer, tap in zip(self.backbone.tap_layers, taps, strict=True)]
        return self.backbone.carry(adapted, embedded)

    def _behind(self, block: int, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        return self.image_adapters[block - 1](tokens) if 1 <= block <= len(self.image_adapters) else tokens

    def text(self, category: Sequence[str], device: torch.device) -> Float[Tensor, "batch 2 dim"]:
        """Embed the sentences of each image's category with the adapted text tower, normal first."""
        known = {name: self._embedded(name, device) for name in dict.fromkeys(category)}
        return torch.stack([known[name] for name in category])

    def _embedded(self, name: str, device: torch.device) -> Float[Tensor, "2 dim"]:
        words, num_normal = self._words(name, device)

        def adapt(number: int, tokens: Tensor) -> Tensor:
            return self.text_adapters[number - 2](tokens) if 2 <= number < 2 + len(self.text_adapters) else tokens

        embeddings = self._tower.encode(words, adapt, lambda tokens: F.leaky_relu(self.text_projection(tokens)))
        return torch.stack([ensemble_mean(embeddings[:num_normal]), ensemble_mean(embeddings[num_normal:])])

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters of both stages, never the towers'."""
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in (*self.TEXT, *self.IMAGE)}


def _linear(dim: int, out_dim: int) -> nn.Linear:
    layer = nn.Linear(dim, out_dim, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer
