"""DenseCLIP as one network: image and category in, anomaly map and image score out."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.load import Towers
from afr_clip.models.dense_clip.settings import DecoderSettings
from afr_clip.models.last_block import compare_last_block
from afr_clip.models.learned_context import ContextNetwork
from afr_clip.models.prediction import AnomalyPrediction
from afr_clip.models.scoring_settings import ScoringSettings

DECODER_STD = 0.02
"""Standard deviation of the decoder's initial weights, as in the public code."""

INITIAL_SHARE = 1e-4
"""How much of what a text has seen is added to it before training, as in the public code: nearly nothing."""

MLP_RATIO = 4


class ContextDecoder(nn.Module):
    """Let the two texts attend to each other and to the image.

    Args:
        dim: Width ``D`` of the shared embedding space.
    """

    def __init__(self, dim: int, settings: DecoderSettings) -> None:
        super().__init__()
        width = settings.width
        self.image = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width), nn.LayerNorm(width))
        self.text = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width,
                settings.num_heads,
                dim_feedforward=MLP_RATIO * width,
                dropout=settings.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(settings.num_layers)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0  # attention weights are not dropped, as in the public code
                nn.init.trunc_normal_(module.in_proj_weight, std=DECODER_STD)
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=DECODER_STD)
                nn.init.zeros_(module.bias)

    def forward(
        self, text: Float[Tensor, "batch 2 dim"], tokens: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch 2 dim"]:
        """Return what each text has seen in the image and its patches."""
        seen, found = self.image(tokens), self.text(text)
        for layer in self.layers:
            found = layer(found, seen)
        return self.out(found)


class DenseCLIP(ContextNetwork):
    r"""Refine the texts by the image, then compare its pixels with them (Rao et al., CVPR 2022, arXiv:2112.01518).

    The texts have a learned context as in CoOp. Context-aware prompting after the model lets them attend to the image
    embedding and all patches :math:`z`, and adds what they saw:

    .. math::
        t' = t + \gamma \odot \mathrm{Decoder}(t, z), \quad
        P_i = \mathrm{softmax}(\cos(z_i, t'_{\{n,a\}}) / \tau)_a, \quad \tau = 0.07

    The pixel-text score map is the anomaly map. The image embedding is compared with the same texts. 3,762,432
    parameters are trained at ViT-L/14.

    Note:
        DenseCLIP also trains the image tower at a tenth of the rate and decodes its features, with the score map among
        them, by a segmentation head for 150 fixed classes. Neither is here: towers are frozen in this protocol, and
        classes are never the same twice. What remains is what it adds to CLIP.

    Args:
        num_context_tokens: Learned words, shared by all categories and both sentences.
        decoder: The transformer in which texts attend to the image.

    Raises:
        ValueError: If the text tower has no room for the learned words.
    """

    def __init__(
        self, towers: Towers, num_context_tokens: int, decoder: DecoderSettings, scoring: ScoringSettings
    ) -> None:
        super().__init__(towers, num_context_tokens, scoring)
        dim = self.backbone.embed_dim
        self.decoder = ContextDecoder(dim, decoder)
        self.gamma = nn.Parameter(torch.full((dim,), INITIAL_SHARE))

    def score(self, tapped: tuple[Float[Tensor, "batch tokens dim"]], category: Sequence[str]) -> AnomalyPrediction:
        """Score what ``tapped`` returned."""
        (tokens,) = tapped
        stateful = self.text(category, tokens.device)
        with torch.autocast(tokens.device.type, enabled=False):
            text = stateful.expand(tokens.shape[0], -1, -1)
            refined = text + self.gamma * self.decoder(text, tokens.float())
        return compare_last_block(tokens, refined, self.backbone, self._scoring)

    def text(self, category: Sequence[str], device: torch.device) -> Float[Tensor, "batch 2 dim"]:
        """Embed the two sentences of each image's category, before they have seen the image."""
        return self._sentences.embed_each(category, self.context, device)

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: learned words, decoder and the share of what it adds."""
        own = ("context", "gamma", "decoder")
        return {name for name, _ in self.named_parameters() if name.split(".")[0] in own}
