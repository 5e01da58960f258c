"""Compare the metrics of pocket on photographs between engines and precisions.

python benchmarks/engines.py --data-dir ../shared/data
"""

import argparse
from pathlib import Path

import torch

import afr_clip
from afr_clip.clip.load import load_towers
from afr_clip.clip.precision import FULL, HALF
from afr_clip.config.plan import composed_training
from afr_clip.data.disk.loaded import load_dataset
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.inspection.engine import PRECISIONS, is_installed
from afr_clip.metrics.average import macro_average
from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.run.build import data_settings, dataset_spec

SHOWN = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_aupro")


def main() -> None:
    """Score MVTec AD's test photographs with each engine, and print metrics and the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    typed = parser.parse_args()
    overrides = ("backbone=pocket", "dataset=mvtec_ad", f"data_dir={typed.data_dir}", "data.eval_batch_size=1")
    job = composed_training(*overrides, "data.num_workers=0")
    loaded = load_dataset(dataset_spec(job.auxiliary, job))
    towers = load_towers(job.backbone, needs_cnn=True)
    data = AnomalyDataModule(None, [loaded], data_settings(job, towers))
    truth = [sample.category for sample in loaded.samples], [sample.is_anomalous for sample in loaded.samples]
    first: list[tuple[torch.Tensor, torch.Tensor]] = []
    print(f"| | {' | '.join(SHOWN)} | largest difference of an image score, of a map |")
    print("|---" * (2 + len(SHOWN)) + "|")
    engines = {"torch": (FULL, HALF)} | {one.value: own for one, own in PRECISIONS.items() if is_installed(one)}
    for engine, precision in [(engine, precision) for engine, own in engines.items() for precision in own]:
        metrics, found, detectors = DatasetMetrics(*truth), [], {}
        for batch in data.target_dataloader(loaded.spec.name):
            name = batch.samples[0].prompt_name
            if name not in detectors:
                options = {"engine": engine, "precision": precision, "batch_size": 1}
                detectors[name] = afr_clip.load("pocket", category=name, **options)
            maps, scores = detectors[name].scanner.score(batch.pictures, name, [batch.samples[0].name])
            metrics.update(maps, scores, batch.mask, batch.has_mask, batch.index)
            found.append((scores, maps))
        mean = macro_average(metrics.compute()).values
        first = first or found
        differences = [max(float((a[i] - b[i]).abs().max()) for a, b in zip(found, first, strict=True)) for i in (0, 1)]
        cells = [f"{100 * mean[name]:.2f}" for name in SHOWN] + [", ".join(f"{one:.1e}" for one in differences)]
        print(f"| {engine}, {precision} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
