"""What the paper's figures 1, 3 and 4 show, measured on runs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from afr_clip.data.disk.loaded import LoadedDataset, load_dataset
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.data.records import AnomalyBatch, AnomalySample
from afr_clip.inspection.scanner import choose_device
from afr_clip.metrics.pixel import PixelMetrics
from afr_clip.models.afr_clip.mpfa import MultiPatchFeatureAggregation
from afr_clip.models.afr_clip.network import AFRCLIP
from afr_clip.models.checkpoint import read_checkpoint
from afr_clip.models.scoring import ABNORMAL, NORMAL, text_on_text_similarity
from afr_clip.reports.pictures.figures import Panel, panels_of
from afr_clip.reports.pictures.paper_figures import Aggregated, Overlap
from afr_clip.reports.record.manifest import build_manifest
from afr_clip.run.build import data_settings, dataset_spec
from afr_clip.run.evaluate import build_scoring
from afr_clip.run.job import DiagnosisJob
from afr_clip.run.model import check_model
from afr_clip.run.run import Run, prepare
from afr_clip.settings import ImageRule
from afr_clip.training.module import AnomalyDetectionModule

IMAGE_TEXT, TEXT_ON_TEXT = "image against text", "text on text"

WINDOWS = (1, 3, 5)
"""Windows ``m`` of MPFA in figure 3, in patches; 1 is without it."""

ANOMALOUS_SHARE = 0.25
"""A patch counts as anomalous if this share of its pixels is; a patch with fewer, but any, counts as neither."""


class FigureError(ValueError):
    """A run cannot be drawn as asked."""


@dataclass(frozen=True)
class Scored:
    """A run that is ready to score images.

    Attributes:
        label: Names the run in a figure.
        data: Of the one dataset that is drawn.
        device: Where the network is.
    """

    label: str
    module: AnomalyDetectionModule
    data: AnomalyDataModule
    device: torch.device

    @property
    def target(self) -> LoadedDataset:
        """The dataset."""
        return next(iter(self.data.targets.values()))

    def batches(self, samples: Sequence[AnomalySample] | None = None) -> Iterator[AnomalyBatch]:
        """Load images in the order of the dataset, or those that are named."""
        chosen = self.target if samples is None else replace(self.target, samples=tuple(samples))
        data = AnomalyDataModule(None, [chosen], self.data.settings)
        for batch in data.target_dataloader(chosen.spec.name):
            yield batch.to(self.device)


def load_run(job: DiagnosisJob, label: str) -> Scored:
    """Load the network of a run, and the one dataset of the job.

    Raises:
        FigureError: If there is no one dataset, it has no masks, or the method needs references.
    """
    check_model(job)
    prepare(job)
    if len(job.targets) != 1:
        names = ", ".join(target.name for target in job.targets)
        msg = f"A figure shows one dataset, but {job.folder} scored {names}. Add --dataset NAME."
        raise FigureError(msg)
    target = load_dataset(dataset_spec(job.targets[0], job))
    if not any(sample.mask_path for sample in target.samples):
        msg = f"A figure needs masks, but {target.spec.name} has none. Choose another with --dataset NAME."
        raise FigureError(msg)
    record = job.record
    run = Run(job.folder, build_manifest(record.command, record.overrides, record.config), is_written=False)
    checkpoint = None if job.checkpoint is None else read_checkpoint(job.checkpoint)
    if checkpoint is not None:
        refuse_overlap(TrainedOn.from_plain(checkpoint.manifest["trained_on"]), target)
    module, towers = build_scoring(job, run, checkpoint)
    if module.shots:
        msg = f"module={job.module.name} with shots={module.shots} needs references. Draw a zero-shot run."
        raise FigureError(msg)
    device = choose_device(job.trainer.accelerator)
    data = AnomalyDataModule(None, [target], data_settings(job, towers))
    return Scored(label, module.to(device).eval(), data, device)


def compare_similarity(run: Scored) -> list[Overlap]:
    """Measure figure 1: how far apart the normal and the abnormal similarity are, with and without rectification.

    For each category and both comparisons two pairs of distributions: over anomalous patches, the similarity to the
    normal and to the abnormal text; and the difference of the two, over normal and over anomalous patches. Similarities
    are means over the stages. "Image against text" compares the adapted patch tokens themselves with the text.

    Raises:
        FigureError: If the run has no rectification.
    """
    network = run.module.network
    if not isinstance(network, AFRCLIP) or not network.cmfr:
        msg = f"Figure 1 compares with and without rectification, but {run.label} has none. Pass a run of AFR-CLIP."
        raise FigureError(msg)
    found: dict[tuple[str, str], Overlap] = {}
    with torch.inference_mode():
        for batch in run.batches():
            share = _anomalous_share(batch, network.backbone.grid_size)
            tapped, names = network.tapped(batch.pictures), run.module.names_of(batch)
            for comparison in (IMAGE_TEXT, TEXT_ON_TEXT):
                similarity = _similarity(network, tapped, names, comparison).cpu()
                for row, sample in enumerate(batch.samples):
                    own = found.setdefault((sample.category, comparison), Overlap(sample.category, comparison))
                    own.add(*_values(similarity[row], share[row]))
    complete = [one for one in found.values() if one.is_complete]
    if not complete:
        msg = f"Figure 1 needs anomalous patches, but no defect of {run.target.spec.name} fills a quarter of one."
        raise FigureError(msg)
    return complete


def _similarity(
    network: AFRCLIP, tapped: tuple[Tensor, ...], names: Sequence[str], comparison: str
) -> Float[Tensor, "batch patches 2"]:
    text, stages = network.adapted_text(names, tapped[0].device), []
    for stage, tokens in enumerate(tapped):
        if comparison == TEXT_ON_TEXT:
            compared = network.rectified(stage, tokens, text)[:, 1:]
        else:
            compared = network.mpfa(network.adapted(stage, tokens)[:, 1:], network.backbone.grid_size)
        stages.append(text_on_text_similarity(compared.float(), text.stateful.float()))
    return torch.stack(stages).mean(dim=0)


def _anomalous_share(batch: AnomalyBatch, grid_size: tuple[int, int]) -> Float[Tensor, "batch patches"]:
    """Return the share of anomalous pixels of each patch; NaN where the truth is unknown."""
    share = F.adaptive_avg_pool2d(batch.mask.float().cpu()[:, None], grid_size).flatten(1)
    return share.masked_fill(~batch.has_mask.cpu()[:, None], torch.nan)


def _values(
    similarity: Float[Tensor, "patches 2"], share: Float[Tensor, " patches"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    anomalous, normal = share >= ANOMALOUS_SHARE, share == 0
    margin = similarity[:, ABNORMAL] - similarity[:, NORMAL]
    return similarity[anomalous, NORMAL], similarity[anomalous, ABNORMAL], margin[normal], margin[anomalous]


def aggregate_features(run: Scored, samples: Sequence[AnomalySample]) -> list[Aggregated]:
    """Measure figure 3: the last stage's adapted patch tokens, before and after MPFA, as colours.

    The three principal components are those of an image's tokens before MPFA, and all its pictures share them.

    Raises:
        FigureError: If the run is not one of AFR-CLIP.
    """
    network = run.module.network
    if not isinstance(network, AFRCLIP):
        msg = f"Figure 3 shows AFR-CLIP's aggregated features, but {run.label} is another method. Pass another run."
        raise FigureError(msg)
    rows = []
    with torch.inference_mode():
        for batch in run.batches(samples):
            tapped = network.tapped(batch.pictures)
            adapted = network.adapted(len(tapped) - 1, tapped[-1])
            grid_size = network.backbone.grid_size
            panels = panels_of(batch, batch.mask.float(), torch.zeros(len(batch.samples)), run.data.normalisation)
            for panel, own in zip(panels, adapted[:, 1:].float(), strict=True):
                windows = [MultiPatchFeatureAggregation(m)(own[None], grid_size)[0].cpu() for m in WINDOWS]
                colours = principal_colours(windows)
                pictures = [one.unflatten(0, grid_size).numpy() for one in colours]
                rows.append(Aggregated(panel, dict(zip(WINDOWS, pictures, strict=True))))
    return rows


def principal_colours(features: Sequence[Float[Tensor, "patches dim"]]) -> list[Float[Tensor, "patches 3"]]:
    """Show features as colours: the first three principal components of the first, by which all are drawn.

    Colours run from the 2nd to the 98th percentile of the first. The sign of a component is that which makes its
    largest weight positive, so that the same features always have the same colours.

    Example:
        >>> first = torch.eye(4) * torch.tensor([4.0, 3.0, 2.0, 1.0])
        >>> [tuple(one.shape) for one in principal_colours([first, first / 2])]
        [(4, 3), (4, 3)]
    """
    first = features[0]
    centre = first.mean(dim=0)
    _, _, axes = torch.linalg.svd(first - centre, full_matrices=False)
    axes = axes[:3]
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    projected = [(one - centre) @ axes.T for one in features]
    low, high = (projected[0].quantile(q, dim=0) for q in (0.02, 0.98))
    return [((one - low) / (high - low).clamp_min(1e-12)).clamp(0, 1) for one in projected]


def draw_maps(runs: Iterable[Scored], samples: Sequence[AnomalySample]) -> dict[str, list[Panel]]:
    """Measure figure 4: the anomaly maps of some images by each run; one network is in memory at a time.

    Raises:
        FigureError: If the runs do not show the same images.
    """
    columns: dict[str, list[Panel]] = {}
    digest = ""
    for run in runs:
        own = run.target.digest.sha256
        if digest not in ("", own):
            msg = f"Figure 4 needs the same images in all runs, but {run.label} scored others. Add --dataset NAME."
            raise FigureError(msg)
        digest = own
        panels = columns.setdefault(run.label, [])
        with torch.inference_mode():
            for batch in run.batches(samples):
                scored = run.module(batch)
                panels += panels_of(batch, scored.anomaly_map, scored.image_score, run.data.normalisation)
    return columns


def choose_samples(run: Scored, num: int, rule: ImageRule, seed: int) -> list[AnomalySample]:
    """Choose anomalous images with a mask, by a fixed rule.

    Seeded images are drawn in turn from each category. The others are ranked by the average precision of their own
    pixels under ``run``: the highest, those around the median, or the lowest.

    Raises:
        FigureError: If there are none.
    """
    samples = [sample for sample in run.target.samples if sample.is_anomalous and sample.mask_path]
    if not samples:
        msg = f"{run.target.spec.name} has no anomalous image with a mask. Choose another with --dataset NAME."
        raise FigureError(msg)
    if rule is ImageRule.seeded:
        order = np.random.default_rng(seed).permutation(len(samples))
        by_category: dict[str, list[AnomalySample]] = {}
        for index in order:
            by_category.setdefault(samples[index].category, []).append(samples[index])
        turns = [(turn, category) for category, own in sorted(by_category.items()) for turn in range(len(own))]
        return [by_category[category][turn] for turn, category in sorted(turns)][:num]
    ranked = [sample for _, sample in sorted(_precision_of(run, samples), key=lambda pair: -pair[0])]
    if not ranked:
        msg = f"No defect of {run.target.spec.name} has a pixel at the network's input size. Choose --rule seeded."
        raise FigureError(msg)
    rest = max(0, len(ranked) - num)
    start = {ImageRule.best: 0, ImageRule.median: rest // 2, ImageRule.worst: rest}[rule]
    return ranked[start : start + num]


def _precision_of(run: Scored, samples: Sequence[AnomalySample]) -> Iterator[tuple[float, AnomalySample]]:
    for batch in run.batches(samples):
        with torch.inference_mode():
            maps = run.module(batch).anomaly_map.float().cpu()
        for row, sample in enumerate(batch.samples):
            mask: Bool[Tensor, "1 height width"] = batch.mask[row : row + 1].cpu()
            if mask.any():  # a defect may vanish at the network's input size
                metrics = PixelMetrics()
                metrics.update(maps[row : row + 1], mask)
                yield float(metrics.compute()["pixel_ap"]), sample


def describe_figure(
    labels: Sequence[str], target: LoadedDataset, samples: Sequence[AnomalySample], rule: str
) -> dict[str, Any]:
    """Return what a figure was made of, for its JSON file."""
    root: Path = target.root
    return {
        "runs": list(labels),
        "dataset": target.spec.name,
        "precision": "float32",
        "rule": rule,
        "images": [str(sample.image_path.relative_to(root)) for sample in samples],
    }
