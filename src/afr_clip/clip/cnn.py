"""The frozen CNN of self prompting: pooled features of any timm model."""

from collections.abc import Sequence
from typing import Any, cast

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.efficientnet import fold_batch_norms, from_published_names, trim
from afr_clip.clip.hub import hub_or_cache
from afr_clip.clip.settings import CNNSettings
from afr_clip.clip.weights import load_exactly, read_state_dict, weight_path

OWN_NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""ImageNet's, for networks that do not say what they were trained with."""


class FrozenCNN(nn.Module):
    """Global average of chosen stages of a frozen CNN.

    Takes the images that the CLIP towers take and renormalises them, so that a batch carries one image, not two. The
    maps of the last images are remembered: where the CNN is the patch embedding of the image tower too, it runs once.

    Args:
        network: A timm model made with ``features_only=True``.
        mean: Per-channel mean the images were normalised with.
        std: Per-channel standard deviation, likewise.

    Attributes:
        stage_dims: Channels of each chosen stage.
        feature_dim: Width of the pooled feature: their sum.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.stage_dims: tuple[int, ...] = tuple(cast("Any", network).feature_info.channels())
        self.feature_dim: int = sum(self.stage_dims)
        self.scale: Tensor
        self.shift: Tensor
        clip_mean, clip_std = torch.tensor(mean), torch.tensor(std)
        published = getattr(network, "pretrained_cfg", {})
        own_mean, own_std = (torch.tensor(published.get(key, default)) for key, default in OWN_NORMALISATION.items())
        self.register_buffer("scale", (clip_std / own_std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((clip_mean - own_mean) / own_std).view(1, 3, 1, 1), persistent=False)
        self._last: tuple[Tensor, torch.dtype | None, tuple[Tensor, ...]] | None = None
        self.eval()

    def train(self, mode: bool = True) -> "FrozenCNN":
        """Stay in eval mode: the CNN is frozen, batch statistics included."""
        return super().train(mode=False)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature_dim"]:
        """Pool the chosen stages of each image into one vector, without a graph.

        Args:
            image: Normalised as the CLIP towers take it.

        Returns:
            The stages' averages, one behind the other.

        Raises:
            ValueError: If the network lays its features out in another way than channels first.
        """
        pooled = torch.cat([stage.mean(dim=(2, 3)) for stage in self.maps(image)], dim=1)
        if pooled.shape[1] != self.feature_dim:
            msg = (
                f"The CNN must give feature maps of {self.feature_dim} channels in front of height and width, got "
                f"{pooled.shape[1]}. Choose a convolutional backbone.cnn.architecture, for example resnet50."
            )
            raise ValueError(msg)
        return pooled

    def maps(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, ...]:
        """Compute the maps of the chosen stages, without a graph.

        Args:
            image: Normalised as the CLIP towers take it.

        Returns:
            Per stage ``(B, C, h, w)``, each with a size of its own.
        """
        kind = image.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        if self._last is not None and self._last[1] == precision and _same(self._last[0], image):
            return self._last[2]
        with torch.no_grad():
            # Channels last is what the CPU's convolutions are fastest with, and changes no value.
            own = (image * self.scale + self.shift).contiguous(memory_format=torch.channels_last)
            stages = tuple(self.network(own))
            # A copy: the caller may change the image in place, and inference tensors keep no count of changes.
            self._last = (image.detach().clone(), precision, stages)
        return stages


def _same(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.dtype == other.dtype and torch.equal(one, other)


def load_cnn(settings: CNNSettings, mean: Sequence[float], std: Sequence[float]) -> FrozenCNN:
    """Build the CNN with the weights the settings name.

    Args:
        settings: Architecture, weights and stages.
        mean: Per-channel mean the images are normalised with.
        std: Per-channel standard deviation, likewise.

    Returns:
        The frozen CNN.

    Raises:
        FileNotFoundError: If the weights are neither in a file nor to be downloaded.
        ValueError: If timm does not know the architecture, or the file belongs to another.
    """
    if settings.architecture not in timm.list_models():
        msg = (
            f"backbone.cnn.architecture must be a timm model, got {settings.architecture!r}. "
            f"timm.list_models() names them; the default is resnet50."
        )
        raise ValueError(msg)
    download = settings.pretrained and settings.weights is None and not settings.random_weights
    try:
        # The seed fixes random weights, and is without effect where weights are loaded.
        with torch.random.fork_rng(devices=[]), hub_or_cache():
            torch.manual_seed(0)
            network = timm.create_model(
                settings.architecture, features_only=True, out_indices=settings.stages, pretrained=download
            )
            trim(network)
    except (OSError, RuntimeError) as error:
        msg = (
            f"The weights of the CNN {settings.architecture} must be downloaded once, and could not be "
            f"({type(error).__name__}). Download them where there is a network and pass backbone.cnn.weights=PATH, or "
            f"switch the image prompt off with module.network.self_prompting.image_prompt=false."
        )
        raise FileNotFoundError(msg) from error
    if settings.weights is not None:
        path = weight_path(settings.weights)
        load_exactly(network, _of_stages(network, from_published_names(read_state_dict(path))), path)
    network.eval()
    fold_batch_norms(network)
    return FrozenCNN(network, mean, std)


def _of_stages(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    # features_only drops the classifier and the stages behind the last one asked for; a published file still has them.
    own = network.state_dict()
    if own.keys() <= state.keys():
        return {name: state[name] for name in own}
    return state
