"""AF-CLIP as one network: image in, anomaly map and image score out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.load import Towers
from afr_clip.clip.text import TextTower
from afr_clip.clip.weights import fill_from_release, weight_path
from afr_clip.files import shown
from afr_clip.models.prediction import AnomalyPrediction, require_one_name_each
from afr_clip.models.references import ReferenceBank, require_shots
from afr_clip.models.scoring import (
    anomaly_probability,
    combine_image_score,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ScoringSettings

SENTENCES = ("without defect.", "with defect.")
"""What follows the learned words, normal first: the same for every image."""

SENTENCE_TOKENS = 5
"""Of the longer sentence: start, two words, full stop and end."""

INITIAL_STD = 0.01
"""Standard deviation of the learned words before training, as in the public code."""

WINDOW_SIGMA = 4.0
"""Standard deviation in patches of the Gaussian that windows weigh their patches by, as in the public code."""

NUM_HEADS, HEAD_DIM = 8, 64


RELEASED = {"norm": "norm", "query": "attn.to_q", "key": "attn.to_k", "value": "attn.to_v", "out": "attn.to_out.0"}
"""What the adapter's parts are called in a released file, below ``attention``."""


class FocusAdapter(nn.Module):
    """Attend from every token to all tokens of the image, in place of the token itself: there is no residual path.

    Args:
        dim: Width of the tokens read.
        out_dim: Width of the tokens made.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        inner = NUM_HEADS * HEAD_DIM
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, inner, bias=False)
        self.key = nn.Linear(dim, inner, bias=False)
        self.value = nn.Linear(dim, inner, bias=False)
        self.out = nn.Linear(inner, out_dim)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens out_dim"]:
        """Adapt the class token and the patches of a stream."""
        normed = self.norm(tokens)
        heads = (
            part(normed).unflatten(-1, (NUM_HEADS, HEAD_DIM)).transpose(1, 2)  # (B, heads, T, 64)
            for part in (self.query, self.key, self.value)
        )
        return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class AFCLIP(nn.Module):
    r"""Read taps at three scales through one attention adapter (AF-CLIP, arXiv:2507.19949).

    Each tap gives a stream of tokens for every window: patches averaged over 1, 3 and 5 patches a side. One adapter
    turns all of them, and CLIP's final layer norm and projection follow. Their cosines with two sentences, whose first
    words are learned, are added up over the streams before the softmax:

    .. math::
        P_i = \mathrm{softmax}\Bigl(\sum_{l, r} \cos(v_{l, r, i}, g) / \tau\Bigr)_a, \quad \tau = 0.07

    With ViT-L/14 2,109,440 parameters are trained.

    Note:
        As in the public code, windows are cut off at the border without a new weighting, the learned words stand in
        front of the start of the sentence, and training compares maps on the patch grid. Unlike there, a map with
        ``shots`` is divided by the sum of its weights, so that it stays in [0, 1].

    Args:
        num_context_tokens: Learned words in front of each sentence, the same for both.
        windows: Sides of the windows in patches, odd.
        shots: Normal images of each category; 0 for none.
        zero_shot_weight: With ``shots``, the weight of the map without them, beside 1 for the distance to the images.
        released_weights: The authors' file of the adapter, to start from; the file of the words is read from the same
            folder. ``None`` starts from random ones.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If the text tower has no room for the learned words, or the released weights do not fit.
    """

    def __init__(
        self,
        towers: Towers,
        num_context_tokens: int,
        windows: Sequence[int],
        shots: int,
        zero_shot_weight: float,
        scoring: ScoringSettings,
        released_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone: CLIPBackbone = towers.backbone
        self._tower = TextTower(self.backbone)
        words = self._tower.look_up(SENTENCES)
        positions = words.embeddings.shape[1]
        reads_last = words.first_end == positions - 1  # SigLIP's last position, whatever stands there
        most = positions - (SENTENCE_TOKENS if reads_last else 1 + words.last_end)
        if num_context_tokens > most:
            msg = (
                f"num_context_tokens must be at most {most} for this text tower, got {num_context_tokens}. "
                f"AF-CLIP uses 12."
            )
            raise ValueError(msg)
        self.words: Tensor
        self.register_buffer("words", words.embeddings[:, : positions - num_context_tokens], False)
        shift = 0 if reads_last else num_context_tokens
        self.ends: Tensor
        self.register_buffer("ends", words.ends + shift, False)
        self._sentences = replace(words, first_end=words.first_end + shift, last_end=words.last_end + shift)
        self.context = nn.Parameter(torch.empty(num_context_tokens, self._tower.width))
        nn.init.normal_(self.context, std=INITIAL_STD)
        self.adapter = FocusAdapter(self.backbone.tap_dim, self.backbone.token_dim)
        self._windows = tuple(windows)
        self.shots = shots
        self._zero_shot_weight = zero_shot_weight
        self._references = ReferenceBank()
        self._scoring = scoring
        if released_weights is not None:
            self._start_from(weight_path(released_weights))

    def _start_from(self, adapter: Path) -> None:
        """Copy what was released (Faustinaqq/AF-CLIP, ``weight/*_adaptor.pt`` and ``weight/*_prompt.pt``)."""
        words = adapter.with_name(adapter.name.replace("adaptor", "prompt"))
        if words == adapter:
            msg = (
                f"module.network.released_weights must name the authors' adaptor, next to their prompt, got "
                f"{shown(adapter)}. Write released_weights=weight/visa_adaptor.pt."
            )
            raise ValueError(msg)
        ours = {
            f"attention.{RELEASED[part]}.{name}": tensor.detach()
            for part, module in self.adapter.named_children()
            for name, tensor in module.named_parameters()
        }
        fill_from_release(ours, adapter)
        fill_from_release({"": self.context.detach()[None]}, words)

    def observe(self, image: Float[Tensor, "shots 3 height width"], category: str) -> None:
        """Remember normal images of a category, under the name that ``forward`` gets, replacing earlier ones.

        Raises:
            ValueError: If there are more or fewer images than ``shots``.
        """
        require_shots(image, category, self.shots)
        self._references.remember(
            category, tuple(stream[:, 1:].float() for stream in self._streams(self.tapped(image)))
        )

    def forward(self, image: Float[Tensor, "batch 3 height width"], category: Sequence[str]) -> AnomalyPrediction:
        """Score normalised images of the backbone's input size.

        The category's name is not read, except to find its references.

        Raises:
            ValueError: If there is not one category per image, or one has no references where there must be some.
        """
        require_one_name_each(image, category)
        return self.score(self.tapped(image), category)

    def tapped(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch tokens dim"], ...]:
        """Read out the frozen image tower: class token and patches after each tap."""
        embedded = self.backbone.embed(image)
        return self.backbone.carry(self.backbone.tap(embedded), embedded)

    def score(
        self, tapped: tuple[Float[Tensor, "batch tokens dim"], ...], category: Sequence[str]
    ) -> AnomalyPrediction:
        """Score what ``tapped`` returned."""
        grid_size, size = self.backbone.grid_size, (self.backbone.image_size, self.backbone.image_size)
        streams = self._streams(tapped)
        tokens = torch.stack([self.backbone.project(self.adapter(stream)) for stream in streams], dim=1)  # (B, S, T, D)
        with torch.autocast(tokens.device.type, enabled=False):
            sentences, tokens = self.text(category, tokens.device), tokens.float()
            similarity = torch.stack([text_on_text_similarity(one, sentences) for one in tokens.unbind(1)]).sum(dim=0)
            probability = anomaly_probability(similarity, self._scoring.temperature)  # (B, T), the class token's first
            layer_maps = probability[:, None, 1:].unflatten(-1, grid_size)
            grid_map, class_score = layer_maps[:, 0], probability[:, 0]
            if self.shots and not self.training:
                distances = self._references.association(tuple(one[:, 1:].float() for one in streams), category)
                distance, weight = torch.stack(distances).mean(dim=0), self._zero_shot_weight
                grid_map = (distance.unflatten(-1, grid_size) + weight * grid_map) / (1 + weight)
                class_score = (distance.amax(dim=1) + weight * class_score) / (1 + weight)
            anomaly_map = smooth_map(upsample_map(grid_map, size), self._scoring.smoothing_sigma)
            image_score = combine_image_score(class_score, anomaly_map, self._scoring.image_score)
        return AnomalyPrediction(
            anomaly_map, image_score, layer_maps, trained_maps=layer_maps, patch_tokens=tokens[:, :, 1:]
        )

    def text(self, category: Sequence[str], device: torch.device) -> Float[Tensor, "batch 2 dim"]:
        """Embed the two sentences, which are the same for every image."""
        learned = self.context.expand(len(SENTENCES), -1, -1)
        words = replace(self._sentences, embeddings=torch.cat([learned, self.words], dim=1), ends=self.ends)
        return self._tower.encode(words).to(device).expand(len(category), -1, -1)

    def _streams(self, tapped: Sequence[Float[Tensor, "batch tokens dim"]]) -> list[Float[Tensor, "batch tokens dim"]]:
        """Average the patches of every tap over every window; the class token stays as it is."""
        return [self._averaged(tap, window) for tap in tapped for window in self._windows]

    def _averaged(self, tap: Float[Tensor, "batch tokens dim"], window: int) -> Float[Tensor, "batch tokens dim"]:
        if window == 1:
            return tap
        offsets = torch.arange(window, dtype=tap.dtype, device=tap.device) - window // 2
        kernel = torch.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
        kernel = (kernel / kernel.sum()).expand(tap.shape[-1], 1, 1, -1)
        grid = tap[:, 1:].transpose(1, 2).unflatten(-1, self.backbone.grid_size)  # (B, D, h, w)
        # A Gaussian is the product of one along each axis.
        grid = F.conv2d(grid, kernel, padding=(0, window // 2), groups=tap.shape[-1])
        grid = F.conv2d(grid, kernel.transpose(2, 3), padding=(window // 2, 0), groups=tap.shape[-1])
        return torch.cat([tap[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    @property
    def tapped_from(self) -> str:
        """What ``tapped`` reads out."""
        return f"taps after blocks {list(self.backbone.tap_layers)}"

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters: the learned words and the adapter, never the towers."""
        return {name for name, _ in self.named_parameters() if name == "context" or name.startswith("adapter.")}
