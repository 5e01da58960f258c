"""The frozen CNN of self prompting: pooled features of any timm model."""

from collections.abc import Sequence
from typing import Any, cast

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.efficientnet import fold_batch_norms, from_published_names, trim
from afr_clip.clip.settings import CNNSettings
from afr_clip.clip.weights import HUB, from_cache_or_hub, load_exactly, read_state_dict, weight_path

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Normalisation assumed for networks that do not state their own."""


class FrozenCNN(nn.Module):
    """Chosen stages of a frozen CNN, as maps or as their global average.

    Takes images normalised for the CLIP towers and renormalises them, so that a batch carries one image, not two.

    Args:
        network: A timm model made with ``features_only=True``.
        mean: Per-channel mean that the images were normalised with.

    Attributes:
        feature_dim: Width of the pooled feature: their sum.
        name: timm's full name of the network, with the tag of its published weights: that in the settings, or timm's
            default.
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
        self.name = f"{published.get('architecture')}.{published.get('tag')}"
        own_mean, own_std = (torch.tensor(published.get(key, default)) for key, default in IMAGENET.items())
        self.register_buffer("scale", (clip_std / own_std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((clip_mean - own_mean) / own_std).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenCNN":
        """Stay in eval mode: the CNN is frozen, batch statistics included."""
        return super().train(mode=False)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature_dim"]:
        """Pool the chosen stages of each image into one vector, without a graph."""
        return self.pool(self.maps(image))

    def maps(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, ...]:
        """Compute the maps of the chosen stages, without a graph: per stage ``(B, C, h, w)``, each of its own size."""
        with torch.no_grad():
            # The CPU's convolutions are fastest with channels last, and no value changes.
            own = (image * self.scale + self.shift).contiguous(memory_format=torch.channels_last)
            return tuple(self.network(own))

    def pool(self, maps: Sequence[Tensor]) -> Float[Tensor, "batch feature_dim"]:
        """Average each stage over its positions and concatenate the averages.

        Raises:
            ValueError: If the network's features are not channels first.
        """
        pooled = torch.cat([stage.mean(dim=(2, 3)) for stage in maps], dim=1)
        if pooled.shape[1] != self.feature_dim:
            msg = (
                f"The CNN must return feature maps with {self.feature_dim} channels before height and width, got "
                f"{pooled.shape[1]}. Choose a convolutional backbone.cnn.architecture, for example resnet50."
            )
            raise ValueError(msg)
        return pooled


def load_cnn(settings: CNNSettings, mean: Sequence[float], std: Sequence[float]) -> FrozenCNN:
    """Build the CNN with the weights that the settings name.

    Args:
        mean: Per-channel mean that the images are normalised with.

    Raises:
        FileNotFoundError: If there is no weight file and the weights cannot be downloaded.
        ValueError: If timm does not know the architecture or the tag, or the file belongs to another architecture.
    """
    architecture, _, tag = settings.architecture.partition(".")
    if architecture not in timm.list_models():
        msg = (
            f"backbone.cnn.architecture must be a timm model, got {settings.architecture!r}. "
            f"timm.list_models() names them; the default is resnet50."
        )
        raise ValueError(msg)
    tags = [name.partition(".")[2] for name in timm.list_pretrained(architecture)]
    if tag and tag not in tags:
        msg = (
            f"backbone.cnn.architecture must name published weights of {architecture} ({', '.join(tags)}), got "
            f"{settings.architecture!r}. Choose one of them, or write {architecture} alone."
        )
        raise ValueError(msg)

    def build() -> nn.Module:
        # The seed fixes random weights; loaded weights overwrite them.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network: nn.Module = timm.create_model(
                settings.architecture, features_only=True, out_indices=settings.stages, pretrained=settings.downloads
            )
            return network

    try:
        network = from_cache_or_hub(build)
    except (AssertionError, IndexError, TypeError) as error:  # what timm does about stages that it does not have
        msg = (
            f"backbone.cnn.stages must count stages of {settings.architecture}, got {settings.stages}. "
            f"Use [-1] for the last."
        )
        raise ValueError(msg) from error
    except (OSError, RuntimeError) as error:
        if not settings.downloads:
            raise
        published = timm.get_pretrained_cfg(settings.architecture)
        msg = (
            f"The weights of the CNN {settings.architecture} could not be downloaded ({type(error).__name__}). Fetch "
            f"model.safetensors from {HUB}/{published.hf_hub_id} on a machine with a network, copy it here, and pass "
            f"backbone.cnn.weights=PATH. Or switch the image prompt off with "
            f"module.network.self_prompting.image_prompt=false."
        )
        raise FileNotFoundError(msg) from error
    trim(network)
    if settings.weights is not None:
        path = weight_path(settings.weights)
        state, own = from_published_names(read_state_dict(path)), network.state_dict()
        if own.keys() <= state.keys():
            # A published file also holds the classifier and the later stages, which features_only drops.
            state = {name: state[name] for name in own}
        load_exactly(network, state, path)
    network.eval()
    fold_batch_norms(network)
    return FrozenCNN(network, mean, std)
