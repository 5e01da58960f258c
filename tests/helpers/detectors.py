"""A detector whose scores are known, how bright a photograph is, and which needs no torch."""

import threading

import numpy as np

from afr_clip.inspection.detector import Detector
from afr_clip.inspection.scan import Looked, PhotographScanner, Scanning
from afr_clip.inspection.service import Model
from afr_clip.inspection.settings import InspectionSettings
from afr_clip.settings import ScoringEngine

SETTINGS = InspectionSettings(None, 0.25, None, None, None, None, None, None, None, None)


class Brightness(PhotographScanner):
    """Scores a photograph by its mean; notes the batches, and waits at a gate if that is shut.

    A black photograph cannot be scored.
    """

    normalisation = (0.0,) * 3, (1.0,) * 3
    engine = ScoringEngine.torch

    def __init__(self, batch_size: int) -> None:
        self.scanning = Scanning("cpu", "32-true", None, 0.25, batch_size)
        self.batches: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def input_size(self) -> tuple[int, int]:
        return (8, 8)

    def identity(self, category: str) -> dict[str, object]:
        return {"method": "brightness", "weights": "w", "category": category}

    def look(self, names, views, images, view) -> Looked:
        self.gate.wait(20)
        self.batches.append((names[0], len(views)))
        scores = np.float32([pixels.mean() / 255 for pixels in views])
        if not scores.all():
            msg = f"{images[int(scores.argmin())]} is black."
            raise ValueError(msg)
        return Looked(np.repeat(scores, 64).reshape(-1, 8, 8), scores)

    def score_under(self, names, pictures, images):
        raise NotImplementedError

    def hinted(self, photograph, regions, category, words):
        raise NotImplementedError


def bright_model(*categories: str, name: str = "bright", batch_size: int = 4, **settings: float) -> Model:
    """Make such a model."""
    inspection = InspectionSettings(**{**vars(SETTINGS), **settings})
    return Model(name, Detector(Brightness(batch_size), inspection, max_pixels=10_000), categories)
