"""Scored batches for the tests of this room."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from afr_clip.data.records import AnomalyBatch
from helpers.tiny import random_batch

Scored = tuple[AnomalyBatch, torch.Tensor, torch.Tensor]


@pytest.fixture
def scored() -> Callable[..., Scored]:
    """Make a batch of small images, its maps and given image scores; the i-th image is named after `first` + i."""

    def make(scores: list[float], anomalous: list[bool], first: int = 0, size: int = 8) -> Scored:
        generator = torch.Generator().manual_seed(first)
        batch = random_batch(len(scores), size=size, seed=first)
        samples = tuple(
            replace(sample, image_path=sample.image_path.with_name(f"{first + i}.png"), is_anomalous=truth)
            for i, (sample, truth) in enumerate(zip(batch.samples, anomalous, strict=True))
        )
        batch = replace(batch, samples=samples, is_anomalous=torch.tensor(anomalous))
        return batch, torch.rand(len(scores), size, size, generator=generator), torch.tensor(scores)

    return make
