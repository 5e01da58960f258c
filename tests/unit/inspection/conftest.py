"""A detector whose scores are known: how bright a pixel is."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from afr_clip.inspection.scan import Scanning
from afr_clip.inspection.scanner import Scanner
from afr_clip.models.prediction import AnomalyPrediction
from helpers.tiny import tiny_towers


class Brightness(nn.Module):
    """Scores every pixel by its brightness, and the picture by the mean: whole pictures hide what is small."""

    def __init__(self, towers) -> None:
        super().__init__()
        self.backbone = towers.backbone
        self.seen: list[tuple[str, ...]] = []

    def forward(self, image, category):
        self.seen.append(tuple(category))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.backbone.mean, self.backbone.std))
        brightness = (image * std + mean).mean(dim=1).clamp(0, 1)
        return AnomalyPrediction(brightness, brightness.mean(dim=(1, 2)), brightness[:, None], brightness[:, None])


@pytest.fixture(scope="session")
def towers():
    return tiny_towers()


@pytest.fixture
def scanner(towers) -> Callable[..., Scanner]:
    """Build such a scanner of 64 px."""

    def build(tile=None, overlap: float = 0.25, batch_size: int = 4, precision: str = "32-true") -> Scanner:
        scanning = Scanning("cpu", precision, tile, overlap, batch_size)
        return Scanner(Brightness(towers), towers, scanning, {"method": "brightness", "weights": "w"})

    return build
