"""VisualAD as one network: image in, anomaly map and image score out."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.weights import fill_from_release, weight_path
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.scoring import (
    abnormal_margin,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ImageScore, ScoringSettings

INITIAL_SHARE = 0.1
"""Initial scale of the two tokens, relative to CLIP's class token, as in the public code."""

INITIAL_STD = 0.02
"""Standard deviation that anchors and positions start from, as in the public code."""

NUM_POSITIONS = 1536
"""Learned positions of patches, row by row, as in the public code; an image with fewer patches uses the first ones."""

INITIAL_GAIN = 0.01
"""What a token gains of the attention's output at first, as in the public code."""

SLOW = 0.1
"""Share of the learning rate for all parts but the two tokens, as in the public code."""


class SpatialCrossAttention(nn.Module):
    r"""Let a few anchors look at the patches of a tap, and add to each token what it lets through (SCA).

    .. math::
        u_k = \mathrm{softmax}\bigl(q_k \, K(F + p)^T / \sqrt{D}\bigr) V(F), \quad
        t' = t + \gamma \, W \sum_k \sigma(g(t))_k \, u_k \qquad \text{VisualAD, arXiv:2603.07952}

    Args:
        dim: Width of tokens and patches.
        num_patches: Patches of an image, each of which has a learned position; there are never fewer than 1,536.
        num_anchors: Learned queries ``q``.
        dropout: Share of attention weights and outputs that training drops.
    """

    def __init__(self, dim: int, num_patches: int, num_anchors: int, dropout: float) -> None:
        super().__init__()
        self.anchors = nn.Parameter(INITIAL_STD * torch.randn(num_anchors, dim))
        self.positions = nn.Parameter(INITIAL_STD * torch.randn(max(NUM_POSITIONS, num_patches), dim))
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.query_norm, self.key_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, num_anchors)
        self.out = nn.Linear(dim, dim)
        self.gain = nn.Parameter(torch.full((1,), INITIAL_GAIN))
        self._dropout = nn.Dropout(dropout)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, tokens: Float[Tensor, "batch 2 dim"], patches: Float[Tensor, "batch patches dim"]
    ) -> Float[Tensor, "batch 2 dim"]:
        """Write what the patches show into both tokens."""
        placed = patches + self.positions[: patches.shape[1]]
        query, key = self.query_norm(self.query(self.anchors)), self.key_norm(self.key(placed))
        attention = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(dim=-1)  # (B, anchors, N)
        attention = self._dropout(attention[:, None].expand(-1, tokens.shape[1], -1, -1))  # apart for each token
        seen = attention @ self.value(patches)[:, None]  # (B, 2, anchors, D)
        let_through = (self.gate(tokens).sigmoid()[..., None] * seen).sum(dim=2)
        return tokens + self.gain * self._dropout(self.out(let_through))


class VisualAD(nn.Module):
    r"""Learn a normal and an abnormal token inside the image tower, without any text (VisualAD, arXiv:2603.07952).

    The two tokens pass all blocks next to the image's own, see them and are seen by them. For each tap, cross-attention
    to its patches turns them into the pair that its patches, after a small MLP (SAF), are compared with:

    .. math::
        M = \mathrm{sigmoid}\Bigl(G * \sum_l \mathrm{Bilin}\bigl(\cos(f_l(F_l), t_{l,a}) - \cos(f_l(F_l), t_{l,n})
        \bigr)\Bigr), \quad s = \mathrm{sigmoid}(\text{mean of the highest hundredth})

    With CLIP's ViT-L/14 31,522,836 parameters are trained. It runs on towers without text.

    Note:
        The defaults follow the public code, which trains CLIP's final norm and saves it, but scores with the one that
        CLIP came with. Unlike there, map and score pass a sigmoid, which keeps their ranks.

    Args:
        num_anchors: Learned queries of each tap's cross-attention.
        dropout: What training drops, in cross-attention and MLP.
        keeps_norm: Whether scoring uses the final norm that was trained.
        released_weights: A file with the authors' weights, to start from; ``None`` starts from random ones.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the released weights do not fit.
    """

    TRAINABLE = ("tokens", "final_norm", "attentions", "transforms")
    """The parts that learn; all others are frozen."""

    def __init__(
        self,
        towers: Towers,
        num_anchors: int,
        dropout: float,
        keeps_norm: bool,
        scoring: ScoringSettings,
        released_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        dim, tap_dim, tower = self.backbone.token_dim, self.backbone.tap_dim, self.backbone.tower
        self.tokens = nn.Parameter(INITIAL_SHARE * dim**-0.5 * torch.randn(2, dim))  # normal first, as everywhere
        self.final_norm = tower.copied_norm()
        self.attentions = nn.ModuleList(
            SpatialCrossAttention(dim, tower.num_patches, num_anchors, dropout) for _ in self.backbone.tap_layers
        )
        self.transforms = nn.ModuleList(_transform(tap_dim, dim, dropout) for _ in self.backbone.tap_layers)
        self._keeps_norm = keeps_norm
        self._scoring = scoring
        if released_weights is not None:
            ours = released_tensors(dict(self.named_parameters()), self.backbone.tap_layers)
            fill_from_release(ours, weight_path(released_weights), is_nested=True)

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size; the category's name is not read.

        Raises:
            ValueError: If there is not one category per image.
        """
        require_one_name_each(image, category)
        backbone, embedded = self.backbone, self.backbone.embed(image)
        added = backbone.tower.embed_class_token(self.tokens).expand(image.shape[0], -1, -1)

        def add(number: int, tokens: Tensor) -> Tensor:
            return torch.cat([tokens, added.to(tokens.dtype)], dim=1) if number == 1 else tokens

        layers = sorted({*backbone.tap_layers, backbone.depth})
        seen = dict(zip(layers, backbone.tap(embedded, add, layers=layers, whole=True), strict=True))
        norm = self.final_norm if self.training or self._keeps_norm else backbone.tower.norm
        own = norm(seen[backbone.depth][:, -2:])
        taps = [norm(backbone.tower.read_out(seen[layer])) for layer in backbone.tap_layers]
        pairs = [attend(own, tap[:, 1:]) for attend, tap in zip(self.attentions, taps, strict=True)]
        carried = backbone.carry(taps, embedded)
        compared = [transform(tap[:, 1:]) for transform, tap in zip(self.transforms, carried, strict=True)]
        grid_size, size = backbone.grid_size, (backbone.image_size, backbone.image_size)
        with torch.autocast(image.device.type, enabled=False):
            similarities = [
                text_on_text_similarity(tap.float(), pair.float()) for tap, pair in zip(compared, pairs, strict=True)
            ]
            margin = abnormal_margin(torch.stack(similarities, dim=1), self._scoring.temperature)
            margin = margin.unflatten(-1, grid_size)  # (B, L, h, w)
            at_size = upsample_map(margin, size)
            whole = at_size.sum(dim=1)
            smoothed = smooth_map(whole, self._scoring.smoothing_sigma)
            unread = smoothed.new_zeros(smoothed.shape[0])  # the class token, which no choice of the image score reads
            image_score = combine_image_score(unread, smoothed, self._scoring.image_score).sigmoid()
            trained_score = combine_image_score(unread, whole, ImageScore.map_top).sigmoid()
        return AnomalyPrediction(
            smoothed.sigmoid(),
            image_score,
            margin.sigmoid(),
            trained_maps=at_size.sigmoid(),
            class_scores=trained_score[:, None],
            prototypes=pairs[-1].float(),
        )

    def share_of_rate(self, name: str) -> float:
        """Return the share of the learning rate that a parameter learns at: all of it for the tokens alone."""
        return 1.0 if name == "tokens" else SLOW

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters, never the towers'."""
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in self.TRAINABLE}


def _transform(tap_dim: int, dim: int, dropout: float) -> nn.Sequential:
    """Make the MLP that patches pass before they are compared."""
    first, second = nn.Linear(tap_dim, dim), nn.Linear(dim, dim)
    for layer in (first, second):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.GELU(), nn.Dropout(dropout), second, nn.Dropout(dropout))


def released_tensors(ours: Mapping[str, Tensor], tap_layers: Sequence[int]) -> dict[str, Tensor]:
    """Find the place of each tensor of a released file (7HHHHH/VisualAD, ``weight/train_on_*/CLIP.pth``).

    Args:
        ours: The network's parameters by name; those of the towers are ignored.

    Returns:
        Parameters, or views of parts of them, by the released names.
    """
    found = {"normal_token": ours["tokens"][0], "anomaly_token": ours["tokens"][1]}
    found |= {f"ln_post_{name.rpartition('.')[2]}": ours[name] for name in ours if name.startswith("final_norm.")}
    parts = {
        "anchors": "anchor_queries",
        "gain": "res_scale",
        "query": "q_proj",
        "key": "k_proj",
        "value": "v_proj",
        "query_norm": "q_norm",
        "key_norm": "k_norm",
        "gate": "gate.0",
        "out": "out_proj",
    }
    for index, layer in enumerate(tap_layers):
        for name, value in ours.items():
            part, _, rest = name.removeprefix(f"attentions.{index}.").partition(".")
            if name.startswith(f"attentions.{index}.") and part in parts:
                place = f"cross_attn.layer_attentions.layer_{layer}.{parts[part]}"
                found[f"{place}.{rest}" if rest else place] = value
            elif name.startswith(f"transforms.{index}."):
                found[f"layer_transforms.layer_{layer}.mlp.{name.removeprefix(f'transforms.{index}.')}"] = value
        positions = ours[f"attentions.{index}.positions"]
        found[f"cross_attn.layer_attentions.layer_{layer}.pos_encoding"] = positions[None]
    return {name: tensor.detach() for name, tensor in found.items()}
