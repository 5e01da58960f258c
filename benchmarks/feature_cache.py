"""Compare an epoch from the feature cache with one from images: time, losses and weights.

    python benchmarks/feature_cache.py --data-dir ../shared/data

Each variant trains its own network from the same start in the same order, and the variants take turns epoch by epoch,
so that ratios do not depend on what else the machine is doing. Self prompting is off, because its prompts are
trained.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from afr_clip.clip.load import Towers, load_towers
from afr_clip.config.plan import composed_training
from afr_clip.data.disk.loaded import LoadedDataset, load_dataset
from afr_clip.data.feed.cache import FeatureRequest, TappedSample, open_features
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.data.records import AnomalyBatch
from afr_clip.losses.total import AnomalyLoss
from afr_clip.reports.record.manifest import build_manifest
from afr_clip.run.build import build_module, data_settings, dataset_spec
from afr_clip.run.job import TrainingJob
from afr_clip.training.module import AnomalyDetectionModule
from afr_clip.training.schedule import optimizer_factory

IMAGES, FEATURES, ALONE = "images", "features, float32", "features, batches in memory"


@dataclass
class Way:
    """One way to train, and its measurements so far.

    Attributes:
        data: Loads the batches.
        module: Its own network.
        optimizer: Its own, too.
        held: Batches that are kept in memory; empty where they are loaded.
        seconds: Of each epoch.
        losses: Of each step.
    """

    data: AnomalyDataModule
    module: AnomalyDetectionModule
    optimizer: torch.optim.Optimizer
    held: list[AnomalyBatch] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def train(self, epoch: int, loss: Callable[..., object]) -> None:
        """Train for one epoch."""
        loader = self.data.train_dataloader()
        loader.batch_sampler.sampler.set_epoch(epoch)
        started = time.perf_counter()
        for batch in self.held or loader:
            scored = self.module(batch)
            total = loss(scored.trained_maps, scored.image_score, batch.mask, batch.is_anomalous).total
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
            self.losses.append(total.item())
        self.seconds.append(time.perf_counter() - started)

    def weights(self) -> Tensor:
        """Return all trained weights as one vector."""
        return torch.cat([parameter.detach().flatten() for parameter in self.module.trainable_parameters()])


def fill(data: AnomalyDataModule, module: AnomalyDetectionModule, folder: Path, dtype: str) -> None:
    """Attach the features of its images to a data module."""

    def compute(start: int) -> Iterator[TappedSample]:
        for batch in data.auxiliary_in_order(start):
            with torch.no_grad():
                tapped = module.network.tapped(batch.pictures)
            for row in range(len(batch.samples)):
                yield TappedSample(batch.mask[row], tuple(tensor[row] for tensor in tapped))

    request = FeatureRequest(folder / dtype, "benchmark", len(data.auxiliary.samples), dtype)
    started = time.perf_counter()
    data.features = open_features(request, compute)
    size = sum(path.stat().st_size for path in request.folder.iterdir())
    print(
        f"{dtype}: filled in {time.perf_counter() - started:.1f} s, {size / 1e6 / request.num_samples:.2f} MB an image"
    )


def make_way(job: TrainingJob, towers: Towers, loaded: LoadedDataset, cache_dir: Path | None) -> Way:
    """Make a network from the seed and its data module; with ``cache_dir`` from the pixel cache."""
    torch.manual_seed(job.seed)
    module = build_module(job, towers).train()
    settings = replace(data_settings(job, towers), num_workers=0, cache=cache_dir is not None, cache_dir=cache_dir)
    optimizer = optimizer_factory(job.optimizer)(module.trainable_parameters())
    return Way(AnomalyDataModule(loaded, [], settings), module, optimizer)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"), help="folder that holds the dataset")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="for example module=april_gan data.mosaic=0")
    return parser.parse_args()


def main() -> None:
    """Train all variants in turn, and print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    overrides = ["backbone=pocket", "ablation=no_sp", "dataset=mvtec_ad", f"data_dir={arguments.data_dir}"]
    overrides += arguments.overrides
    job = composed_training(*overrides)
    loaded = load_dataset(dataset_spec(job.auxiliary, job))
    manifest, loss = build_manifest("feature_cache", overrides, {"seed": 0}), AnomalyLoss(**vars(job.loss))
    print(f"commit {manifest['commit']['hash'][:7]}, torch {torch.__version__}, {manifest['machine']['processor']}")
    print(f"{len(loaded.samples)} images of {job.auxiliary.name}, {job.backbone.name}, {arguments.threads} thread(s)")
    with tempfile.TemporaryDirectory() as folder:
        towers = load_towers(job.backbone, needs_cnn=job.module.network.needs_cnn)
        ways = {IMAGES: make_way(job, towers, loaded, None)}
        ways["images, data.cache=true"] = make_way(job, towers, loaded, Path(folder))
        for dtype in ("float32", "float16"):
            way = ways[f"features, {dtype}"] = make_way(job, towers, loaded, None)
            fill(way.data, way.module, Path(folder), dtype)
        ways[ALONE] = make_way(job, towers, loaded, None)
        ways[ALONE].held = list(ways[FEATURES].data.train_dataloader())
        for way in ways.values():
            way.train(0, loss)  # encodes the sentences, builds and fills what is cached
        for epoch in range(1, arguments.rounds + 1):
            for way in ways.values():
                way.train(epoch, loss)
    report(ways, arguments.rounds)


def report(ways: dict[str, Way], rounds: int) -> None:
    """Print times, ratios and differences; the first epoch of each variant is not timed."""
    base, epochs = ways[IMAGES], rounds + 1
    pairs = zip(ways[FEATURES].seconds[1:], ways[ALONE].seconds[1:], strict=True)
    print(f"an epoch from the cache takes {statistics.median(a / b for a, b in pairs):.2f} times its arithmetic alone")
    print(f"{'':26}{'s an epoch':>11}{'times':>8}  smallest and largest  loss, weights differ by ({epochs} epochs)")
    for name, way in ways.items():
        ratios = [one / own for one, own in zip(base.seconds[1:], way.seconds[1:], strict=True)]
        of_loss = max(abs(one - own) for one, own in zip(base.losses, way.losses, strict=True))
        of_weights = (base.weights() - way.weights()).abs().max().item()
        print(
            f"{name:26}{statistics.median(way.seconds[1:]):>11.2f}{statistics.median(ratios):>8.2f}"
            f"  {min(ratios):.2f} {max(ratios):.2f}  {of_loss:.2e}  {of_weights:.2e}"
        )


if __name__ == "__main__":
    main()
