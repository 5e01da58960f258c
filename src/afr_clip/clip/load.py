"""Build the towers from their settings: architecture, weights, activation, input size."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from importlib.util import find_spec
from typing import Any

import open_clip
import timm
import torch
from torch import Tensor, nn

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.cnn import FrozenCNN, load_cnn
from afr_clip.clip.fused import pack
from afr_clip.clip.image_towers import ImageOnly, TimmTower, image_tower
from afr_clip.clip.packed import MARGIN, NARROWEST, is_usable, speedup
from afr_clip.clip.precision import FULL, HALF
from afr_clip.clip.settings import TIMM, BackboneSettings, PositionEmbeddings, checked_tap_layers, default_tap_layers
from afr_clip.clip.stem import PatchEmbedding, PatchView, Stem
from afr_clip.clip.weights import (
    HUB,
    fingerprint,
    from_cache_or_hub,
    load_clip_weights,
    load_timm_weights,
    resize_input,
    weight_path,
)

logger = logging.getLogger(__name__)

CLIP_VOCABULARY = 49408
"""Words of CLIP's own tokenizer."""

DEFAULT, ONEDNN = "default", "onednn"
"""Libraries that multiply matrices on a CPU."""

Choose = Callable[[Callable[[], str]], str]

Tokenizer = Callable[[Sequence[str]], Tensor]


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
    clip: Any
    clip, tokenizer = _load_clip(settings) if settings.has_text else (_load_image_only(settings), None)
    images = image_tower(clip)
    cnn = view = stem = None
    if settings.cnn_stem or needs_cnn:
        with _naming_fixed_cnn(settings):
            cnn = load_cnn(settings.cnn, images.mean, images.std)
    if cnn is not None and settings.cnn_stem:
        view = PatchView(cnn, clip.visual.patch_size[0])
        # The seed fixes random weights; loaded weights overwrite them.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clip.visual.conv1 = PatchEmbedding(view.channels, clip.visual.conv1.out_channels)
    if settings.weights is not None:
        with _naming_fixed_cnn(settings):
            if settings.has_text:
                load_clip_weights(clip, weight_path(settings.weights), way)
            else:
                load_timm_weights(clip.trunk, weight_path(settings.weights))
    if isinstance(images, TimmTower):
        # Only now: published files have the native size. Learned positions are interpolated, rotary ones computed.
        images.trunk.set_input_size(settings.image_size)
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
        num_tokens = backbone.tower.num_prefix + backbone.tower.num_patches
        times = speedup(num_tokens, backbone.token_dim, dtype)
        if times < MARGIN[dtype]:
            return DEFAULT
        logger.info(
            "The image tower multiplies with packed weights (oneDNN), %.1f times as fast here as the default.", times
        )
        return ONEDNN

    if choose(measured) != ONEDNN or not is_usable(dtype):
        return DEFAULT
    pack(backbone.tower.blocks)
    return ONEDNN


def _load_clip(settings: BackboneSettings) -> tuple[Any, Tokenizer]:
    """Build open_clip's model, with published weights if they are asked for, and its tokenizer."""
    tokenizer = _load_tokenizer(settings)
    download, way = _tag_to_download(settings), settings.position_embeddings
    # open_clip interpolates while it loads published weights, and only with antialiasing.
    resized_later = download is not None and way is not PositionEmbeddings.bicubic_antialias
    size = None if resized_later or _timm_name(settings) else settings.image_size

    def build() -> Any:  # noqa: ANN401 - open_clip's models have no common type
        with _seeded(settings):
            return open_clip.create_model(
                settings.architecture,
                pretrained=download,
                force_image_size=size,
                force_preprocess_cfg=_normalisation(settings),
                pretrained_text=False,
                quick_gelu=settings.quick_gelu != settings.other_activation,
            )

    try:
        clip = from_cache_or_hub(build)
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


def _load_tokenizer(settings: BackboneSettings) -> Tokenizer:
    """Load the tokenizer of an open_clip model.

    SigLIP's comes from a hub. Random weights know no words, so that CLIP's own, which needs no download, will do.
    """
    text = open_clip.get_model_config(settings.architecture)["text_cfg"]
    name = text.get("hf_tokenizer_name")
    if name and settings.random_weights and text["vocab_size"] >= CLIP_VOCABULARY:
        return open_clip.SimpleTokenizer(context_length=text["context_length"])
    try:
        return from_cache_or_hub(lambda: open_clip.get_tokenizer(settings.architecture))
    except OSError as error:
        msg = (
            f"The tokenizer {name} of {settings.architecture} could not be downloaded ({type(error).__name__}). Run "
            f"hf download {name} on a machine with a network, and copy ~/.cache/huggingface from there."
        )
        raise FileNotFoundError(msg) from error


def _load_image_only(settings: BackboneSettings) -> ImageOnly:
    """Build a timm ViT, with published weights if they are asked for."""
    download = _tag_to_download(settings)
    try:
        return from_cache_or_hub(lambda: ImageOnly(make_trunk(settings, pretrained=download is not None)))
    except (OSError, RuntimeError) as error:
        if download is None:
            raise
        published = timm.get_pretrained_cfg(_timm_name_and_tag(settings))
        msg = (
            f"The weights {download!r} of {settings.architecture} could not be downloaded ({type(error).__name__}). "
            f"Fetch model.safetensors from {HUB}/{published.hf_hub_id} on a machine with a network, copy it here, and "
            f"pass backbone.weights=PATH. Their licence is {published.license}; if the page asks you to accept it, do "
            f"so and log in with: hf auth login"
        )
        raise FileNotFoundError(msg) from error


def make_trunk(settings: BackboneSettings, *, pretrained: bool) -> nn.Module:
    """Build the timm ViT of a backbone without text, without a head."""
    with _seeded(settings):
        trunk: Any = timm.create_model(_timm_name_and_tag(settings), pretrained=pretrained, num_classes=0)
    if trunk.cls_token is not None and trunk.global_pool == "avg":
        trunk.reset_classifier(0, global_pool="token")  # as in DINOv3 itself; timm averages patches
    return trunk


def _timm_name_and_tag(settings: BackboneSettings) -> str:
    """Name a ViT with its tag, which also says how images are normalised if its weights come from a file."""
    return ".".join(filter(None, (_timm_name(settings), settings.pretrained)))


@contextmanager
def _seeded(settings: BackboneSettings) -> Iterator[None]:
    """Fix random weights by a seed of their own, so that `tiny` is the same model in every run."""
    with torch.random.fork_rng(devices=[]) if settings.random_weights else nullcontext():
        if settings.random_weights:
            torch.manual_seed(0)
        yield


def _normalisation(settings: BackboneSettings) -> dict[str, Any]:
    """Look up how images are normalised: as the tag says, or, without one, as timm says of its ViT."""
    if settings.pretrained:
        found = open_clip.get_pretrained_cfg(settings.architecture, settings.pretrained)
    elif name := _timm_name(settings):
        found = timm.get_pretrained_cfg(name).to_dict()
    else:
        found = {}
    return {key: found[key] for key in ("mean", "std") if key in found}


def _timm_name(settings: BackboneSettings) -> str | None:
    """Return timm's name of the image tower; ``None`` for open_clip's own."""
    if not settings.has_text:
        return settings.architecture.removeprefix(TIMM)
    name: str | None = open_clip.get_model_config(settings.architecture)["vision_cfg"].get("timm_model_name")
    return name


@cache
def _timm_shape(name: str) -> tuple[int, int]:
    """Return depth and patch size of a timm ViT, which is built without memory for its weights.

    Raises:
        ValueError: If it is no ViT that can be tapped.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        tower = TimmTower(timm.create_model(name), nn.Identity(), (), ())
    return len(tower.blocks), tower.image_size // tower.grid_size[0]


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
    """Check settings against what open_clip and timm know, before anything is built.

    Returns:
        The blocks that will be read out, counted from 1.

    Raises:
        ValueError: If they do not know architecture or tag, the activation contradicts them, the input size is no
            multiple of the patch size, the image tower cannot be tapped, or the tokenizer needs another package.
    """
    if settings.has_text:
        _check_clip(settings)
        vision = open_clip.get_model_config(settings.architecture)["vision_cfg"]
        depth, patch = vision.get("layers"), vision.get("patch_size")
    else:
        _check_image_only(settings)
    if name := _timm_name(settings):
        if settings.cnn_stem or settings.position_embeddings is not PositionEmbeddings.bicubic_antialias:
            msg = (
                f"{settings.architecture} has an image tower of timm, which takes no CNN stem and interpolates "
                f"position embeddings only as bicubic_antialias, got backbone.cnn_stem={settings.cnn_stem} and "
                f"backbone.position_embeddings={settings.position_embeddings.value}. Leave both keys out."
            )
            raise ValueError(msg)
        depth, patch = _timm_shape(name)
    if isinstance(patch, int) and settings.image_size % patch:
        msg = (
            f"backbone.image_size must be a multiple of the patch size {patch} of {settings.architecture}, "
            f"got {settings.image_size}. The nearest is {round(settings.image_size / patch) * patch}."
        )
        raise ValueError(msg)
    return checked_tap_layers(settings.tap_layers, depth) if settings.tap_layers else default_tap_layers(depth)


def _check_image_only(settings: BackboneSettings) -> None:
    name = settings.architecture.removeprefix(TIMM)
    if name not in timm.list_models():
        msg = (
            f"backbone.architecture={TIMM}NAME must name a ViT of timm, got {name!r}. timm.list_models() names them, "
            f"for example vit_large_patch14_reg4_dinov2; its tag is backbone.pretrained."
        )
        raise ValueError(msg)
    if settings.quick_gelu or settings.other_activation:
        msg = (
            f"{settings.architecture} has the activation that timm gives it, got backbone.quick_gelu="
            f"{settings.quick_gelu} and backbone.other_activation={settings.other_activation}. Set both to false."
        )
        raise ValueError(msg)
    tags = [known.partition(".")[2] for known in timm.list_pretrained(name)]
    if settings.pretrained and settings.pretrained not in tags:
        msg = (
            f"backbone.pretrained must name published weights of {settings.architecture} ({', '.join(tags)}), "
            f"got {settings.pretrained!r}. Choose one of them, or pass backbone.weights=PATH."
        )
        raise ValueError(msg)


def _check_clip(settings: BackboneSettings) -> None:
    with as_file(files("afr_clip.clip") / "architectures") as folder:
        open_clip.add_model_config(folder)
    # Only names of its list: `hf-hub:...` would be looked up at once, and is a name that a checkpoint could hold.
    if settings.architecture not in open_clip.list_models():
        msg = (
            f"backbone.architecture must be a model of open_clip, got {settings.architecture!r}. "
            f"open_clip.list_models() names them; the paper's is ViT-L-14-336-quickgelu. {TIMM}NAME is a ViT of timm."
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
    needs_package = bool(config["text_cfg"].get("hf_tokenizer_name")) and not settings.random_weights
    if needs_package and find_spec("transformers") is None:
        msg = (
            f"{settings.architecture} reads text with a tokenizer of the package transformers, which is not installed. "
            f"Run pip install transformers sentencepiece."
        )
        raise ValueError(msg)


def _tag_to_download(settings: BackboneSettings) -> str | None:
    return settings.pretrained if settings.weights is None and not settings.random_weights else None
