"""What a GPU computes is what the CPU computes. `make test-gpu` runs this on a machine that has one."""

import copy
import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import afr_clip
from afr_clip.config.nodes import method_names
from afr_clip.losses.total import AnomalyLoss
from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.training.module import AnomalyDetectionModule
from helpers.methods import build_on_four_blocks
from helpers.tiny import random_batch, tiny_network, tiny_towers
from helpers.trees import write_mvtec_tree

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("method", method_names())
def test_every_method_scores_alike(method):
    image, names = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)), ("bolt", "nut", "bolt")
    network = build_on_four_blocks(method, tiny_towers()).eval()
    with torch.inference_mode():
        own = network(image, names)
        other = copy.deepcopy(network).cuda()(image.cuda(), names)
    torch.testing.assert_close(other.anomaly_map.cpu(), own.anomaly_map, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.image_score.cpu(), own.image_score, rtol=1e-4, atol=1e-4)


def test_a_training_step_has_the_same_gradients():
    batch, gradients = random_batch(4), []
    for device in ("cpu", "cuda"):
        network, moved = tiny_network(tiny_towers(), seed=1).to(device), batch.to(torch.device(device))
        prediction = network(moved.pictures, moved.prompt_name)
        loss = AnomalyLoss()(prediction.trained_maps, prediction.image_score, moved.mask, moved.is_anomalous)
        trained = [p for name, p in network.named_parameters() if name in network.trainable_parameter_names()]
        gradients.append([gradient.cpu() for gradient in torch.autograd.grad(loss.total, trained)])
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, own, rtol=1e-3, atol=1e-5)


def test_scoring_a_batch_waits_once():
    batch = random_batch(4)
    module = AnomalyDetectionModule(tiny_network(tiny_towers(), seed=1)).cuda().eval()
    moved = replace(batch, truth_stays=True).to(torch.device("cuda"))
    module.score_next("noise", DatasetMetrics(list(batch.category), batch.is_anomalous.tolist()))
    with torch.inference_mode():
        module(moved)  # text is embedded once
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                module.test_step(moved, 0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(one.message) for one in caught if "synchroniz" in str(one.message)]
    assert len(waits) <= 1, waits


def test_an_evaluation_has_the_same_results(tmp_path):
    tree, values = write_mvtec_tree(tmp_path / "tree", ("bolt", "tile")), []
    for accelerator in ("cpu", "gpu"):
        folder = tmp_path / accelerator
        words = [
            *("module=clip_similarity", "backbone=tiny", "backbone.image_size=64", "dataset=folder"),
            *(f"dataset.root={tree}", f"run_dir={folder}", f"trainer.accelerator={accelerator}", "data.num_workers=0"),
        ]
        subprocess.run([sys.executable, "-m", "afr_clip", "evaluate", *words], check=True, cwd=tmp_path)
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]
        values.append([result["value"] for result in results])
    np.testing.assert_allclose(values[1], values[0], atol=1e-3)


def test_a_photograph_is_inspected_alike():
    photograph = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    own, other = (afr_clip.load("pocket", device=name).inspect(photograph, "sheet") for name in ("cpu", "cuda"))
    assert other.image_score == pytest.approx(own.image_score, abs=1e-3)
    np.testing.assert_allclose(other.anomaly_map, own.anomaly_map, atol=1e-3)
