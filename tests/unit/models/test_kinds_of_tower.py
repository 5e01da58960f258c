"""Every method on every kind of tower that it accepts: forward, one training step, scoring a dataset."""

import os
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch.testing import assert_close

from afr_clip.clip.load import Towers
from afr_clip.config.nodes import method_names
from afr_clip.inspection import engine
from afr_clip.losses.total import AnomalyLoss
from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.run.validation import score_for_training
from afr_clip.settings import ScoringEngine
from helpers.kinds_of_tower import KINDS, WITH_TEXT, WITHOUT_TEXT, towers_of
from helpers.methods import FOR_FOUR_BLOCKS, build_method, composed_module, stages
from helpers.tiny import assert_probabilities, random_batch

NAMES = ("metal nut", "screw", "metal nut", "bottle")
ACCEPTED = [
    (method, kind)
    for method in method_names()
    for kind in (WITH_TEXT if composed_module(method).network.needs_text else KINDS)
]


@cache
def towers_with_cnn(kind: str) -> Towers:
    return towers_of(kind, needs_cnn=True)


def build(method: str, kind: str, *overrides: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_method(method, towers_with_cnn(kind), *FOR_FOUR_BLOCKS.get(method, ()), *overrides)


@pytest.mark.parametrize(("method", "kind"), ACCEPTED)
def test_a_method_scores_learns_and_is_measured(method, kind):
    network, batch = build(method, kind), random_batch()
    frozen = towers_with_cnn(kind).fingerprint()
    before = network.eval()(batch.image, NAMES)
    assert_probabilities(before)
    assert before.anomaly_map.shape == (4, 64, 64)
    assert before.anomaly_map.std(dim=0).max() > 0  # images differ
    with torch.no_grad():
        alone = network(batch.image[1:2], NAMES[1:2])
    assert_close(alone.anomaly_map[0], before.anomaly_map[1], atol=2e-5, rtol=1e-5)
    assert_close(alone.image_score[0], before.image_score[1], atol=2e-5, rtol=1e-5)

    names = network.trainable_parameter_names()
    if names:
        optimizer = torch.optim.Adam([p for n, p in network.named_parameters() if n in names], lr=0.05)
        reached: set[str] = set()
        for _ in stages(network.train()):
            optimizer.zero_grad()
            prediction = score_for_training(network, composed_module(method), batch.image, NAMES)
            seen = prediction.trained_maps, prediction.trained_scores
            AnomalyLoss()(*seen, batch.mask, batch.is_anomalous).total.backward()
            reached |= {name for name, p in network.named_parameters() if p.grad is not None and (p.grad != 0).any()}
            optimizer.step()
        assert reached == names

    with torch.inference_mode():
        after = network.eval()(batch.image, NAMES)
    assert torch.equal(after.anomaly_map, before.anomaly_map) == (not names)
    metrics = DatasetMetrics([s.category for s in batch.samples], [s.is_anomalous for s in batch.samples])
    metrics.update(after.anomaly_map, after.image_score, batch.mask, batch.has_mask, batch.index)
    (result,) = metrics.compute()
    assert all(0 <= value <= 1 for value in result.values.values())
    assert towers_with_cnn(kind).fingerprint() == frozen


@pytest.mark.parametrize("kind", WITH_TEXT)
@pytest.mark.parametrize("overrides", [("replace", "[1]"), ("append", "[1,2]"), ("append_and_keep", "[2]")])
def test_prompts_of_afr_clip_may_stand_anywhere(kind, overrides):
    placement, stages = overrides
    keys = (f"placement={placement}", f"stages={stages}")
    network = build("afr_clip", kind, *(f"module.network.self_prompting.{key}" for key in keys))
    prediction = network(random_batch().image, NAMES)
    (gradient,) = torch.autograd.grad(prediction.anomaly_map.std(), network.self_prompting.shared_prompt)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("kind", WITH_TEXT)
def test_winclip_compares_with_references(kind):
    network, image = build("winclip", kind, "module.network.shots=2"), random_batch().image
    network.observe(image[:2], "screw")
    maps = network(image, ["screw"] * 4).layer_maps
    assert maps[:2, -3].max() < 1e-4  # a reference's own patches are at no distance
    assert maps[2:, -3].min() > 1e-3


CONVERSION = """
import torch
from afr_clip.inspection.engine import CompiledNetwork
from helpers.kinds_of_tower import WITH_TEXT, towers_of
from helpers.methods import build_method

for kind in WITH_TEXT:
    network = build_method("clip_similarity", towers_of(kind)).eval()
    pictures = torch.randn(2, 3, 64, 64)
    scores, own = CompiledNetwork(network, "screw", (64, 64), "32-true", 2)(pictures), network(pictures, ["screw"] * 2)
    assert torch.allclose(scores.anomaly_map, own.anomaly_map, atol=1e-3), kind
    assert torch.allclose(scores.image_score, own.image_score, atol=1e-3), kind
"""


@pytest.mark.skipif(not engine.is_installed(ScoringEngine.openvino), reason="openvino is not installed")
def test_openvino_computes_the_same_scores():
    # In a process of its own, where shapes are not checked: they are tensors while a graph is traced.
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CONVERSION], capture_output=True, text=True, check=False, env=paths)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", WITHOUT_TEXT)
def test_methods_that_read_text_say_so_on_a_tower_without_it(kind):
    for method in method_names():
        if composed_module(method).network.needs_text:
            with pytest.raises(ValueError, match="no text tower"):
                build(method, kind)(random_batch().image, NAMES)
