"""How often scoring waits for a GPU, counted without one: on tensors that pretend to lie there."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from afr_clip.config.nodes import method_names
from afr_clip.data.records import AnomalyBatch
from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.models.prediction import AnomalyPrediction, on_cpu
from afr_clip.training.module import AnomalyDetectionModule
from helpers.methods import build_on_four_blocks
from helpers.tiny import random_batch, tiny_towers

WAITING = ("item", "tolist", "numpy", "cpu", "nonzero", "unique", "__bool__", "__int__", "__float__")
"""What a tensor on a GPU cannot answer before all work in front of it is done."""

OPERATORS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::unique_dim")
"""The same as PyTorch's own operators: boolean indexing calls `nonzero`, and `item` the first."""


class Recorder(TorchDispatchMode):
    """Records the operators for which a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.name().partition(".")[0] in OPERATORS:
            self.waits.append(function.name())
        return function(*args, **(kwargs or {}))


class Remote(torch.Tensor):
    """A tensor that says that it lies on a GPU, and counts how often it is waited for."""

    waits: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if function == torch.Tensor.device.__get__:
            return torch.device("cuda")
        if name in WAITING:
            cls.waits.append(name)
            plain = [arg.as_subclass(torch.Tensor) if isinstance(arg, Remote) else arg for arg in args]
            return function(*plain, **(kwargs or {}))
        return super().__torch_function__(function, types, args, kwargs or {})


class Answering(nn.Module):
    """A network on a GPU that gives the same answer to every batch."""

    def __init__(self, anomaly_map: torch.Tensor, image_score: torch.Tensor) -> None:
        super().__init__()
        self.answer = tuple(part.as_subclass(Remote) for part in (anomaly_map, image_score))

    def trainable_parameter_names(self) -> set[str]:
        return set()

    def forward(self, image: torch.Tensor, category: Any) -> AnomalyPrediction:
        anomaly_map, image_score = self.answer
        return AnomalyPrediction(anomaly_map, image_score, anomaly_map[:, None], anomaly_map[:, None])


@pytest.fixture
def batch() -> AnomalyBatch:
    return random_batch(4, seed=0)


def test_scoring_a_batch_waits_once(batch):
    maps, scores = torch.rand(batch.mask.shape), torch.rand(4)
    module = AnomalyDetectionModule(Answering(maps, scores)).eval()
    categories, truth = list(batch.category), batch.is_anomalous.tolist()
    module.score_next("noise", DatasetMetrics(categories, truth))
    Remote.waits.clear()
    scored = module.test_step(batch, 0)
    module._finish_counting()
    assert Remote.waits == ["cpu"]
    assert type(scored.anomaly_map) is torch.Tensor
    assert torch.equal(scored.anomaly_map, maps)
    assert torch.equal(module.metrics.image_scores().float(), scores)


def test_what_lies_on_the_cpu_is_not_copied(batch):
    maps = torch.rand(batch.mask.shape)
    prediction = AnomalyPrediction(maps, torch.rand(4), maps[:, None], maps[:, None])
    assert on_cpu(prediction) is prediction


@pytest.mark.parametrize(("truth_stays", "place_of_truth"), [(False, "meta"), (True, "cpu")])
def test_only_the_images_of_a_batch_that_is_scored_move(batch, truth_stays, place_of_truth):
    moved = replace(batch, tapped=(torch.rand(2),), truth_stays=truth_stays).to(torch.device("meta"))
    assert moved.pictures.device.type == moved.tapped[0].device.type == "meta"
    truth = (moved.mask, moved.has_mask, moved.is_anomalous, moved.index)
    assert {part.device.type for part in truth} == {place_of_truth}


def test_an_error_while_counting_is_raised(batch):
    maps = torch.full(batch.mask.shape, 2.0)  # no probability
    module = AnomalyDetectionModule(Answering(maps, torch.rand(4))).eval()
    module.score_next("noise", DatasetMetrics(list(batch.category), batch.is_anomalous.tolist()))
    module.test_step(batch, 0)
    with pytest.raises(ValueError, match="anomaly_map"):
        module.test_step(batch, 1)
    module.score_next("again", DatasetMetrics(list(batch.category), batch.is_anomalous.tolist()))
    module._finish_counting()  # nothing is left of the scoring that failed


@pytest.mark.parametrize("method", method_names())
@torch.inference_mode()
def test_a_forward_pass_does_not_wait(method):
    network = build_on_four_blocks(method, tiny_towers()).eval()
    image, names = torch.randn(2, 3, 64, 64), ("bolt", "nut")
    network(image, names)  # text is embedded once
    with Recorder() as recorder:
        network(image, names)
    assert recorder.waits == []
