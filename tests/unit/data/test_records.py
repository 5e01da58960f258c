from dataclasses import replace
from pathlib import Path

import torch

from afr_clip.data.records import AnomalyBatch, AnomalySample


def make_batch() -> AnomalyBatch:
    sample = AnomalySample("toy", "bolt", "good", Path("a.png"), None, is_anomalous=False, prompt_name="bolt")
    flags = torch.zeros(1, dtype=torch.bool)
    image, mask = torch.zeros(1, 3, 4, 6), torch.zeros(1, 4, 6, dtype=torch.bool)
    return AnomalyBatch(image, mask, flags, flags, torch.tensor([0]), (sample,))


def test_every_tensor_moves_and_the_samples_stay():
    batch = make_batch()
    moved = batch.to(torch.device("meta"))
    tensors = (moved.image, moved.mask, moved.has_mask, moved.is_anomalous, moved.index)
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.samples is batch.samples
    assert moved.category == ("bolt",)


def test_pinning_touches_every_tensor(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    make_batch().pin_memory()
    assert len(pinned) == 5


def test_a_reference_goes_where_its_batch_goes(monkeypatch):
    batch = replace(make_batch(), reference=make_batch())
    assert batch.to(torch.device("meta")).reference.image.is_meta
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch.pin_memory()
    assert len(pinned) == 10
