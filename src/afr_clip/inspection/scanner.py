"""A trained network that scores photographs of any size; the one forward pass of the API, predict and calibrate."""

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from afr_clip.clip.load import Choose, Towers, load_towers
from afr_clip.clip.precision import FULL, HALF
from afr_clip.clip.settings import BackboneSettings
from afr_clip.clip.stem import Stem
from afr_clip.data.disk.pixels import resize_image
from afr_clip.data.feed.dataset import normalise
from afr_clip.inspection.engine import (
    NEEDED,
    CompiledNetwork,
    EngineError,
    Forward,
    faster_engine,
    is_installed,
    probe_pictures,
    require_installed,
)
from afr_clip.inspection.hints import embed_words, nearest_word, see_regions
from afr_clip.inspection.regions import Region
from afr_clip.inspection.scan import (
    PIECE,
    WHOLE,
    InspectionError,
    Looked,
    PhotographScanner,
    Scanning,
    batched,
    pieces,
)
from afr_clip.models.checkpoint import Checkpoint, load_adapters
from afr_clip.models.interface import FewShotNetwork, TappedNetwork, learned_tensors
from afr_clip.models.method_settings import ModuleSettings
from afr_clip.models.prediction import AnomalyPrediction, Scores, require_finite_scores
from afr_clip.models.references import ReferenceBank
from afr_clip.models.scoring import upsample_map
from afr_clip.settings import ScoringEngine

HALVES = {HALF: torch.bfloat16, "16-mixed": torch.float16}

MOST_COMPILED = 2
"""Categories whose converted networks are kept."""

MOST_REFERENCE_PATCHES = 500_000
"""Patches of references that are kept; each takes a few kB, and every patch of a photograph is compared with all."""


class Scanner(PhotographScanner):
    """Scores photographs with a network that is ready; several threads may use it.

    Args:
        network: Any method's, with its trained weights.
        towers: The frozen ones it is built on.
        facts: What identifies the weights, for `identity`.
        frozen: Fingerprint of the towers.

    Attributes:
        engine: What computes the forward pass: PyTorch, until `use` says otherwise.

    Raises:
        InspectionError: If the device is not there.
    """

    def __init__(
        self,
        network: Any,  # noqa: ANN401 - an AnomalyNetwork that is an nn.Module
        towers: Towers,
        scanning: Scanning,
        facts: Mapping[str, Any],
        frozen: str = "",
    ) -> None:
        self.towers = towers
        self.frozen = frozen
        self.scanning = scanning
        self.normalisation = (towers.backbone.mean, towers.backbone.std)
        self._device = choose_device(scanning.accelerator)
        if scanning.precision == "16-mixed" and self._device.type == "cpu":
            msg = "The precision 16-mixed needs a GPU, got cpu. Use bf16-mixed, or 32-true."
            raise InspectionError(msg)
        self._network = network.to(self._device).eval()
        self._facts = dict(facts)
        self._bank = ReferenceBank()
        self._references: tuple[str, ...] = ()
        self._learned = ""
        self._words: dict[tuple[str, tuple[str, ...]], Tensor] = {}
        self.engine = ScoringEngine.torch
        self._compiled: dict[tuple[ScoringEngine, str], CompiledNetwork] = {}
        self._lock = threading.Lock()  # the text embeddings of a new category are computed once

    @property
    def network(self) -> nn.Module:
        """The network, in eval mode on its device."""
        return self._network

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return (self.towers.backbone.image_size, self.towers.backbone.image_size)

    def identity(self, category: str) -> dict[str, Any]:
        """Return everything that affects a photograph's scores. A calibration is valid for this combination only."""
        tile = self.scanning.tile
        identity = self._facts | {
            "category": category,
            "image_size": self.input_size[0],
            "precision": self.scanning.precision,
            "tile": tile,
            "overlap": None if tile is None else self.scanning.overlap,
            "references": list(self._references),
        }
        if self.engine is not ScoringEngine.torch:  # identities without the key are older, and PyTorch's
            identity["engine"] = self.engine.value
        if self.scanning.precision == HALF and any(isinstance(module, Stem) for module in self._network.modules()):
            identity["stem"] = FULL  # identities in bfloat16 without the key are older, and their CNN's maps others
        return identity

    def choose_engine(self, asked: ScoringEngine, category: str) -> dict[str, Any]:
        """Choose what computes the forward pass; `use` then takes it.

        Args:
            category: Whose photographs time it, if anything has to be timed.

        Returns:
            For the manifest: what was ``asked`` and ``chosen``, and the seconds that were measured.

        Raises:
            EngineError: If an engine is asked for that cannot be used.
        """
        is_on_cpu = self._device.type == "cpu"
        if asked in NEEDED and not is_on_cpu:
            msg = (
                f"engine={asked.value} computes on the CPU, got the device {self._device}. Use engine=torch, or choose "
                f"the CPU."
            )
            raise EngineError(msg)
        require_installed(asked)
        seconds: dict[ScoringEngine, float] = {}
        chosen: ScoringEngine = ScoringEngine.torch if asked is ScoringEngine.auto else asked
        # Only the first: converting takes seconds, and for the forward pass of pocket OpenVINO was 1.1 to 1.2 times as
        # fast.
        others = [engine for engine in NEEDED if is_installed(engine)][:1]
        if asked is ScoringEngine.auto and is_on_cpu and others:
            pictures = probe_pictures(self.input_size).repeat(self.scanning.batch_size, 1, 1, 1)
            ways: dict[ScoringEngine, Forward] = {ScoringEngine.torch: partial(self._predictions, names=(category,))}
            ways |= {engine: self._compile(category, engine) for engine in others}
            with self._lock, torch.inference_mode(), self._cast():
                chosen, seconds = faster_engine(ways, pictures)
        measured = {"seconds": {engine.value: value for engine, value in seconds.items()}} if seconds else {}
        return {"asked": asked.value, "chosen": chosen.value} | measured

    def use(self, engine: ScoringEngine) -> None:
        """Let an engine compute the forward pass from now on."""
        self.engine = engine
        self._compiled = {key: network for key, network in self._compiled.items() if key[0] is engine}

    def _compile(self, category: str, engine: ScoringEngine) -> CompiledNetwork:
        """Return the converted network of a category; only the last few are kept, since each has its own weights."""
        found = self._compiled.pop((engine, category), None)
        if found is None:
            for oldest in [key for key in self._compiled if key[0] is engine][: 1 - MOST_COMPILED]:
                del self._compiled[oldest]
            precision, batch_size = self.scanning.precision, self.scanning.batch_size
            found = CompiledNetwork(self._network, category, self.input_size, precision, batch_size, engine)
        self._compiled[engine, category] = found
        return found

    def prepared(self, photograph: UInt8[Tensor, "3 height width"]) -> Float32[Tensor, "3 rows columns"]:
        """Resize and normalise one view for the network."""
        backbone = self.towers.backbone
        return normalise(resize_image(photograph, self.input_size), backbone.mean, backbone.std)

    def look(
        self, names: Sequence[str], views: Sequence[UInt8[np.ndarray, "3 _ _"]], images: Sequence[str], view: str
    ) -> Looked:
        """Score views of any size, at least one, under a category and other names; ``images`` names them in errors."""
        pictures = torch.stack([self.prepared(torch.from_numpy(pixels)) for pixels in views])
        maps, scores, by_name = self.score_under(names, pictures, images, view)
        return Looked(maps.numpy(), scores.numpy(), by_name)

    def learn(self, photographs: Iterable[UInt8[np.ndarray, "3 _ _"]], category: str) -> None:
        """Keep the patches of good parts; photographs of the category are compared with them from now on.

        The features are those of the frozen towers, for every method. Their distance is joined with the zero-shot
        scores as few-shot WinCLIP does it, see `ReferenceBank`. This is few-shot, and is to be reported as such.

        Raises:
            InspectionError: If there are none, or too many to keep.
        """
        kept: dict[str, list[Tensor]] = {WHOLE: [], PIECE: []}
        hashes = []
        for photograph in photographs:
            hashes.append(hashlib.sha256(photograph.tobytes()).hexdigest())
            kept[WHOLE].append(self._features([photograph])[0])
            tiling = self.tiling((photograph.shape[1], photograph.shape[2]))
            for batch in batched([] if tiling is None else pieces(photograph, tiling), self.scanning.batch_size):
                kept[PIECE] += list(self._features([piece for _, piece in batch]))
            patches = sum(len(features) for views in kept.values() for features in views)
            if patches > MOST_REFERENCE_PATCHES:
                msg = (
                    f"References may have at most {MOST_REFERENCE_PATCHES} patches, got {patches} from {len(hashes)} "
                    f"photographs. Use fewer references, or larger tiles."
                )
                raise InspectionError(msg)
        if not hashes:
            msg = "references needs at least one photograph of a good part, got none. Name a folder that holds some."
            raise InspectionError(msg)
        for view, features in kept.items():  # tiles are compared with whole references if none of them is tiled
            self._bank.remember(view, (torch.stack(features or kept[WHOLE]),))
        self._references, self._learned = tuple(sorted(hashes)), category

    def score(
        self, pictures: Float[Tensor, "batch 3 height width"], category: str, images: Sequence[str], view: str = WHOLE
    ) -> tuple[Float32[Tensor, "batch height width"], Float32[Tensor, " batch"]]:
        """Score prepared views of one category: the forward pass.

        Args:
            images: Names for errors.

        Returns:
            Anomaly maps at input size and image scores, on the CPU.

        Raises:
            InspectionError: If the references show another category.
            ScoreError: If a score is NaN or infinite.
        """
        maps, scores, _ = self.score_under((category,), pictures, images, view)
        return maps, scores

    def score_under(
        self,
        names: Sequence[str],
        pictures: Float[Tensor, "batch 3 height width"],
        images: Sequence[str],
        view: str = WHOLE,
    ) -> tuple[Float32[Tensor, "batch height width"], Float32[Tensor, " batch"], dict[str, list[float]]]:
        """Score prepared views under several names; the image tower runs once if the network has two halves.

        Args:
            names: The category, then other names for it.

        Returns:
            Maps and image scores under the category, as `score` gives them, and the image scores under each other name.

        Raises:
            InspectionError: If the references show another category.
            ScoreError: If a score is NaN or infinite.
        """
        category = names[0]
        if self._references and category != self._learned:
            msg = (
                f"The references show {self._learned!r}, so {category!r} cannot be scored with them. Load a detector "
                f"for each category."
            )
            raise InspectionError(msg)
        pictures = pictures.to(self._device)
        with self._lock, torch.inference_mode():
            with self._cast():
                first, *others = self._predictions(pictures, names)
            for prediction in (first, *others):
                require_finite_scores(prediction, images)
            maps, scores = first.anomaly_map, first.image_score
            by_name = {name: other.image_score for name, other in zip(names[1:], others, strict=True)}
            if self._references:
                with self._cast():
                    features = self._tapped(pictures)
                with torch.autocast(self._device.type, enabled=False):
                    (distance,) = self._bank.association((features.float(),), (view,) * len(pictures))
                grid = distance.unflatten(1, self.towers.backbone.grid_size)
                maps = (maps + upsample_map(grid, (maps.shape[-2], maps.shape[-1]))) / 2
                scores = (scores + distance.amax(dim=1)) / 2
                by_name = {name: (other + distance.amax(dim=1)) / 2 for name, other in by_name.items()}
            others_scores = {name: other.float().tolist() for name, other in by_name.items()}
            return maps.float().cpu(), scores.float().cpu(), others_scores

    def _predictions(
        self, pictures: Float[Tensor, "batch 3 height width"], names: Sequence[str]
    ) -> Sequence[AnomalyPrediction | Scores]:
        if self.engine is not ScoringEngine.torch:
            return [self._compile(name, self.engine)(pictures) for name in names]
        if len(names) > 1 and isinstance(self._network, TappedNetwork):
            tapped = self._network.tapped(pictures)
            return [self._network.score(tapped, (name,) * len(pictures)) for name in names]
        return [self._network(pictures, (name,) * len(pictures)) for name in names]

    def hinted(
        self,
        photograph: UInt8[np.ndarray, "3 height width"],
        regions: Sequence[Region],
        category: str,
        words: tuple[str, ...],
    ) -> tuple[Region, ...]:
        """Give each region of a photograph the word that fits it best."""
        if not regions:
            return ()
        with self._lock, torch.inference_mode(), self._cast():
            if (category, words) not in self._words:
                self._words = {(category, words): embed_words(self.towers.backbone, category, words).float()}
            embeddings = self._words[category, words]
            features = see_regions(torch.from_numpy(photograph), regions, self.towers.backbone)
        hints = (nearest_word(feature, embeddings, words) for feature in features)
        return tuple(replace(region, hint=hint) for region, hint in zip(regions, hints, strict=True))

    def _features(self, views: Sequence[UInt8[np.ndarray, "3 _ _"]]) -> Float32[Tensor, "batch patches dim"]:
        pictures = torch.stack([self.prepared(torch.from_numpy(pixels)) for pixels in views])
        with self._lock, torch.inference_mode(), self._cast():
            return self._tapped(pictures.to(self._device)).float()

    def _tapped(self, pictures: Float[Tensor, "batch 3 rows columns"]) -> Float[Tensor, "batch patches dim"]:
        """Read the patches of the frozen tower at every tap, and of the stem; all weighted equally."""
        backbone = self.towers.backbone
        embedded = backbone.embed(pictures)
        seen = () if embedded.seen is None else (embedded.seen.tokens(),)
        parts = (*backbone.tap(embedded), *seen)
        return torch.cat([F.normalize(part[:, 1:].float(), dim=-1) for part in parts], dim=-1)

    def _cast(self) -> AbstractContextManager[Any]:
        dtype = HALVES.get(self.scanning.precision)
        return nullcontext() if dtype is None else torch.autocast(self._device.type, dtype=dtype)


def build_scanner(
    backbone: BackboneSettings,
    method: ModuleSettings,
    checkpoint: Checkpoint | None,
    scanning: Scanning,
    choose: Choose = lambda measured: measured(),
) -> Scanner:
    """Build the network that a checkpoint was trained with, load its weights, and make it ready.

    Args:
        checkpoint: ``None`` for a method that needs none.
        choose: See `load_towers`.

    Raises:
        CheckpointError: If the weights do not fit.
        InspectionError: If the method needs references of its own, or the device is not there.
    """
    towers = load_towers(backbone, needs_cnn=method.network.needs_cnn, precision=scanning.precision, choose=choose)
    network = method.network.build(towers)
    if isinstance(network, FewShotNetwork) and network.shots:
        msg = (
            f"module={method.name} with shots={network.shots} scores datasets that have a train split. For photographs "
            f"set module.network.shots=0 and name good parts with references=DIR."
        )
        raise InspectionError(msg)
    frozen = towers.fingerprint()
    if checkpoint is not None:
        load_adapters(network, checkpoint, frozen)
    weights = hashlib.sha256(f"{frozen} {tensor_hash(learned_tensors(network))}".encode()).hexdigest()
    same_weights_other_scores = {
        "quick_gelu": backbone.quick_gelu != backbone.other_activation,
        "position_embeddings": backbone.position_embeddings.value,
        **_flat(asdict(method.network)),
    }
    return Scanner(
        network, towers, scanning, {"method": method.name, "weights": weights} | same_weights_other_scores, frozen
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by dotted keys as plain values, without files, whose content the weights tell."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif not key.endswith("weights"):
            flat[f"{prefix}{key}"] = value.value if isinstance(value, Enum) else value
    return flat


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors, whatever file they came from."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}\n".encode())
        total.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def choose_device(accelerator: str) -> torch.device:
    """Return the device to score on.

    Raises:
        InspectionError: If PyTorch cannot use it.
    """
    if accelerator in ("auto", "gpu"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        if accelerator == "auto":
            return torch.device("cpu")
    try:
        device = torch.device(accelerator)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        msg = f"The device must be one that PyTorch can use here, got {accelerator}. Write cpu, or check the GPU."
        raise InspectionError(msg) from error
    return device
