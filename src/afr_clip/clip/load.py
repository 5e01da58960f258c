"""Build the towers from their settings: architecture, weights, activation, input size."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.cnn import FrozenCNN, load_cnn
from afr_clip.clip.fused import pack
from afr_clip.clip.packed import MARGIN, NARROWEST, is_usable, speedup
from afr_clip.clip.precision import FULL, HALF
from afr_clip.clip.settings import BackboneSettings, PositionEmbeddings, checked_tap_layers, default_tap_layers
from afr_clip.clip.stem import PatchEmbedding, PatchView, Stem
from afr_clip.clip.weights import (
    HUB,
    fingerprint,
    from_cache_or_hub,
    load_clip_weights,
    resize_input,
    weight_path,
)

logger = logging.getLogger(__name__)

DEFAULT, ONEDNN = "default", "onednn"
"""Libraries that multiply matrices on a CPU."""

Choose = Callable[[Callable[[], str]], str]


@dataclass(frozen=True)
class Towers:
    """The frozen networks that a method builds on.

    Attributes:
        cnn: The CNN of self prompting; ``None`` if no method asks for it.
        multiplication: The library of the image tower's linear layers on a CPU: ``default`` or ``onednn``.
    """

    settings: BackboneSettings
    backbone: CLIPBackbone
    cnn: FrozenCNN | None
    multiplication: str = DEFAULT

    @property
    def published_cnn(self) -> str | None:
        """The full name of the CNN's published weights, ``resnet50.a1_in1k`` where the settings have ``resnet50``.

        ``None`` if there is no CNN, or if it has other weights.
        """
        return None if self.cnn is None or not self.settings.cnn.downloads else self.cnn.name

    def fingerprint(self) -> str:
        """Return the SHA-256 of all frozen weights; a checkpoint fits no others."""
        frozen = {"clip": self.backbone.clip} | ({} if self.cnn is None else {"cnn": self.cnn.network})
        return fingerprint(nn.ModuleDict(frozen))


def load_towers(
    settings: BackboneSettings,
    *,
    needs_cnn: bool,
    precision: str = FULL,
    choose: Choose = lambda measured: measured(),
) -> Towers:
    """Build the frozen towers with the weights that the settings name.

    Args:
        settings: Architecture, weights, activation and input size.
        needs_cnn: Whether the method reads the CNN. Without it, only a stem loads the CNN's weights.
        precision: In which the image tower will run.
        choose: Chooses the library of the image tower's linear layers, given a function that measures which is faster;
            a run keeps the choice of its first process.

    Raises:
        FileNotFoundError: If there is no weight file and the weights cannot be downloaded.
        ValueError: If open_clip does not know the architecture, the activation contradicts it, the file belongs to
            another architecture, or the input size is no multiple of the patch size.
    """
    check_architecture(settings)
    way = settings.position_embeddings
    clip, tokenizer = _load_clip(settings)
    cnn = view = stem = None
    if settings.cnn_stem or needs_cnn:
        preprocessing = clip.visual.preprocess_cfg
        with _naming_fixed_cnn(settings):
            cnn = load_cnn(settings.cnn, preprocessing["mean"], preprocessing["std"])
    if cnn is not None and settings.cnn_stem:
        view = PatchView(cnn, clip.visual.patch_size[0])
        # The seed fixes random weights; loaded weights overwrite them.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clip.visual.conv1 = PatchEmbedding(view.channels, clip.visual.conv1.out_channels)
    if settings.weights is not None:
        with _naming_fixed_cnn(settings):
            load_clip_weights(clip, weight_path(settings.weights), way)
    if settings.random_weights:
        logger.warning("backbone=%s has RANDOM weights: its numbers say nothing about the method.", settings.name)
    if view is not None:  # only now: weight files hold the embedding and not the CNN
        stem = clip.visual.conv1 = Stem(view, clip.visual.conv1)
    backbone = CLIPBackbone(clip, tokenizer, settings.tap_layers, stem)
    return Towers(
        settings,
        backbone,
        cnn,
        _multiply_fast(backbone, torch.bfloat16 if precision == HALF else torch.float32, choose),
    )


def _multiply_fast(backbone: CLIPBackbone, dtype: torch.dtype, choose: Choose) -> str:
    """Let oneDNN multiply in the image tower where it is chosen; name the library."""

    def measured() -> str:
        if backbone.token_dim < NARROWEST or torch.cuda.is_available() or not torch.backends.mkldnn.is_available():
            return DEFAULT
        num_patches = backbone.grid_size[0] * backbone.grid_size[1]
        times = speedup(1 + num_patches, backbone.token_dim, dtype)
        if times < MARGIN[dtype]:
            return DEFAULT
        logger.info(
            "The image tower multiplies with packed weights (oneDNN), %.1f times as fast here as the default.", times
        )
        return ONEDNN

    if choose(measured) != ONEDNN or not is_usable(dtype):
        return DEFAULT
    pack(backbone.clip.visual.transformer)
    return ONEDNN


def _load_clip(settings: BackboneSettings) -> tuple[Any, Callable[[Sequence[str]], Tensor]]:
    """Build open_clip's model, with published weights if they are asked for, and its tokenizer."""
    download, way = _tag_to_download(settings), settings.position_embeddings
    # open_clip interpolates while it loads published weights, and only with antialiasing.
    resized_later = download is not None and way is not PositionEmbeddings.bicubic_antialias
    size = None if resized_later else settings.image_size

    def build() -> tuple[Any, Callable[[Sequence[str]], Tensor]]:
        # Random weights are fixed by their own seed, so that `tiny` is the same model in every run.
        with torch.random.fork_rng(devices=[]) if settings.random_weights else nullcontext():
            if settings.random_weights:
                torch.manual_seed(0)
            clip = open_clip.create_model(
                settings.architecture,
                pretrained=download,
                force_image_size=size,
                pretrained_text=False,
                quick_gelu=settings.quick_gelu != settings.other_activation,
            )
            return clip, open_clip.get_tokenizer(settings.architecture)

    try:
        clip, tokenizer = from_cache_or_hub(build)
    except (OSError, RuntimeError) as error:
        if download is None:
            raise
        published = open_clip.get_pretrained_cfg(settings.architecture, download)
        source = published.get("url") or f"{HUB}/{published.get('hf_hub', '')}"
        msg = (
            f"The weights {download!r} of {settings.architecture} could not be downloaded ({type(error).__name__}). "
            f"Fetch {source} on a machine with a network, copy it here, and pass backbone.weights=PATH."
        )
        raise FileNotFoundError(msg) from error
    if resized_later:
        resize_input(clip, settings.image_size, way)
    return clip, tokenizer


@contextmanager
def _naming_fixed_cnn(settings: BackboneSettings) -> Iterator[None]:
    """Name the likely reason if weights do not fit a tower that is built over a CNN."""
    try:
        yield
    except ValueError as error:
        if not settings.cnn_stem:
            raise
        msg = f"{error} backbone={settings.name} is built over its own CNN, so backbone.cnn must stay as it is there."
        raise ValueError(msg) from error


def check_architecture(settings: BackboneSettings) -> tuple[int, ...]:
    """Check settings against what open_clip knows, before anything is built.

    Returns:
        The blocks that will be read out, counted from 1.

    Raises:
        ValueError: If open_clip does not know architecture or tag, the activation contradicts them, or the input size
            is no multiple of the patch size.
    """
    with as_file(files("afr_clip.clip") / "architectures") as folder:
        open_clip.add_model_config(folder)
    # Only names of its list: `hf-hub:...` would be looked up at once, and is a name that a checkpoint could hold.
    if settings.architecture not in open_clip.list_models():
        msg = (
            f"backbone.architecture must be a model of open_clip, got {settings.architecture!r}. "
            f"open_clip.list_models() names them; the paper's is ViT-L-14-336-quickgelu."
        )
        raise ValueError(msg)
    config = open_clip.get_model_config(settings.architecture)
    has_quick_gelu = bool(config.get("quick_gelu", False))
    trained_with = settings.quick_gelu
    if _tag_to_download(settings):
        tag = open_clip.get_pretrained_cfg(settings.architecture, settings.pretrained)
        if not tag:
            known = ", ".join(open_clip.list_pretrained_tags_by_model(settings.architecture))
            msg = (
                f"backbone.pretrained must name published weights of {settings.architecture} ({known}), "
                f"got {settings.pretrained!r}. Choose one of them, or pass backbone.weights=PATH."
            )
            raise ValueError(msg)
        trained_with = bool(tag.get("quick_gelu", False))
    # With other_activation, the architecture's own activation does not matter: create_model overrides it.
    if trained_with != settings.quick_gelu or (has_quick_gelu != settings.quick_gelu and not settings.other_activation):
        msg = (
            f"The activation must be the one the weights were trained with: {settings.architecture} has "
            f"quick_gelu={has_quick_gelu}, the weights have quick_gelu={trained_with}, backbone.quick_gelu is "
            f"{settings.quick_gelu}. OpenAI's weights need an architecture that ends in -quickgelu. Set "
            f"backbone.other_activation=true to run weights with another activation on purpose."
        )
        raise ValueError(msg)
    patch = config["vision_cfg"].get("patch_size")
    if isinstance(patch, int) and settings.image_size % patch:
        msg = (
            f"backbone.image_size must be a multiple of the patch size {patch} of {settings.architecture}, "
            f"got {settings.image_size}. The nearest is {round(settings.image_size / patch) * patch}."
        )
        raise ValueError(msg)
    depth = config["vision_cfg"]["layers"]
    return checked_tap_layers(settings.tap_layers, depth) if settings.tap_layers else default_tap_layers(depth)


def _tag_to_download(settings: BackboneSettings) -> str | None:
    return settings.pretrained if settings.weights is None and not settings.random_weights else None
