"""The feature cache of a training: what it depends on, and how it is filled."""

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator
from importlib.metadata import version
from operator import attrgetter

import lightning.pytorch as pl
import torch

from afr_clip.data.feed.cache import FeatureRequest, TappedSample, open_features
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.data.progress import progress_bar
from afr_clip.models.interface import TappedNetwork
from afr_clip.processes.together import in_turn
from afr_clip.run.job import TrainingJob
from afr_clip.run.run import Run
from afr_clip.training.module import AnomalyDetectionModule

logger = logging.getLogger(__name__)

FORMAT_VERSION = 3  # 3: a stem's CNN stays in float32, deviations without cancellation; 2: EXIF orientation
"""Raised whenever the same weights and images would give other records."""

_DECIDING = (
    "architecture",
    "quick_gelu",
    "other_activation",
    "image_size",
    "position_embeddings.value",
    "cnn_stem",
    "cnn.architecture",
    "cnn.stages",
)
"""Of the backbone's keys, those that decide what its frozen weights, which are known by content, make of an image."""

_PACKAGES = ("torch", "torchvision", "pillow", "open_clip_torch", "timm")
"""Who decodes, resizes and computes."""


class FeatureCaching(pl.Callback):
    """Open the feature cache before the first epoch, once the network lies where it will train; fill it if need be.

    Args:
        run: Knows the fingerprint of the frozen weights; gets the cache's key.
        data: Gets the cache, and gives the images it is filled from.
    """

    def __init__(self, job: TrainingJob, run: Run, data: AnomalyDataModule) -> None:
        self._job = job
        self._run = run
        self._data = data

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the cache, or fill it first."""
        assert isinstance(pl_module, AnomalyDetectionModule)
        assert isinstance(pl_module.network, TappedNetwork), "validate() refuses any other"
        request = self._request(pl_module.network)
        started = time.monotonic()
        # Processes share it, and only one is to fill it.
        with in_turn(), trainer.precision_plugin.train_step_context():  # as training would read the tower out
            self._data.features = open_features(request, lambda start: self._compute(pl_module, start))
        logger.info("The feature cache %s is ready after %.1f s.", request.folder, time.monotonic() - started)
        self._run.note(feature_cache={"key": request.key, "dtype": request.dtype})

    def _request(self, network: TappedNetwork) -> FeatureRequest:
        auxiliary, settings = self._data.auxiliary, self._data.settings
        assert auxiliary is not None, "training has an auxiliary dataset"
        assert settings.cache_dir is not None, "every command has one"
        reader, dtype = self._data.reader(auxiliary), self._job.data.feature_dtype
        parts = {
            "format": FORMAT_VERSION,
            "fingerprint": self._run.manifest["backbone"]["fingerprint"],
            "backbone": {key: attrgetter(key)(self._job.backbone) for key in _DECIDING},
            "network": [type(network).__qualname__, network.tapped_from],
            "pixels": [reader.size, reader.mask_threshold, settings.mean, settings.std],
            "images": auxiliary.digest.images,
            "masks": auxiliary.digest.masks,
            "precision": self._run.manifest["precision"]["chosen"],
            "dtype": dtype,
            "packages": {name: version(name) for name in _PACKAGES},
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        dataset = re.sub(r"[^\w.-]", "_", auxiliary.spec.name)
        folder = settings.cache_dir / f"{dataset}-features-{self._job.backbone.name}-{key[:16]}"
        return FeatureRequest(folder, key, len(auxiliary.samples), dtype)

    def _compute(self, module: AnomalyDetectionModule, start: int) -> Iterator[TappedSample]:
        assert self._data.auxiliary is not None, "training has an auxiliary dataset"
        with progress_bar("Reading out the image tower", len(self._data.auxiliary.samples)) as reached:
            for batch in self._data.auxiliary_in_order(start):
                with torch.no_grad():
                    tapped = module.network.tapped(batch.pictures.to(module.device))
                for row, position in enumerate(batch.index.tolist()):
                    yield TappedSample(batch.mask[row], tuple(tensor[row] for tensor in tapped))
                    reached(position + 1)
