"""Measure what the pre-trained towers know about unseen combinations, asked in words."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from pairs import Pairs
from scipy.stats import rankdata
from torch import Tensor

from drawn_anomalies.pairs.captions import SUBJECTS, condition_captions, plain_caption
from drawn_anomalies.pairs.palette import PALETTE

BATCH = 128
"""Pictures per forward pass."""


class Embedder(Protocol):
    """What is measured: towers that embed pictures, patches and captions as unit vectors."""

    def __call__(self, seen: Tensor, pool: int) -> tuple[Tensor, Tensor]:
        """Embed pictures and their patches."""

    def texts(self, sentences: Sequence[str]) -> Tensor:
        """Embed captions."""

    def locate(self, patches: Tensor, towards: Tensor) -> Tensor:
        """Return the logit of damage in every cell."""


def measure(towers: Embedder, pool: int, pairs: Pairs) -> dict[str, float]:
    """Ask for subject, colour, condition and damage in combinations of colour and subject that are held out.

    Args:
        towers: In eval mode.
        pool: As they were trained.
        pairs: The pictures.

    Returns:
        Accuracy of the most similar subject (of all) and colour (of all, the subject given), the AUROC of "defective"
        over "normal" as a detector of flawed pictures, and its average precision as a detector of damaged cells, all
        pictures together.
    """
    ask, told = towers.texts, pairs.told
    subjects, colours = [subject.words for subject in SUBJECTS], list(PALETTE)
    with torch.no_grad():
        by_subject = {s: ask([plain_caption(s, c) for c in colours]) for s in subjects}
        state = {s: ask(condition_captions(s)).diff(dim=0)[0] for s in subjects}
        towards = torch.stack([state[str(row["subject"])] for row in told])
        images, located = [], []
        for part in _parts(len(pairs)):
            embedded, patches = towers(pairs.batch(part), pool)
            images.append(embedded)
            located.append(towers.locate(patches, towards[part]))
        image = torch.cat(images)
        right_subject = _share(image @ ask([f"a photo of a {s}" for s in subjects]).T, subjects, pairs, "subject")
        similarity = torch.stack([by_subject[str(row["subject"])] @ one for row, one in zip(told, image, strict=True)])
        right_colour = _share(similarity, colours, pairs, "colour")
        scores = (image * towards).sum(dim=1).tolist()
    masks = pairs.masks_of(np.arange(len(pairs))) > 0.5
    return {
        "subject_accuracy": right_subject,
        "colour_accuracy": right_colour,
        "condition_auroc": auroc(scores, [row["defect"] is not None for row in told]),
        "cell_ap": average_precision(torch.cat(located).flatten().numpy(), masks.flatten().numpy()),
    }


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean precision at every positive; cells with equal scores keep their order."""
    hits = truth[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def auroc(scores: Sequence[float], is_anomalous: Sequence[bool]) -> float:
    """Return the area under the ROC curve from the ranks of the scores."""
    truth = np.asarray(is_anomalous)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    ranks = rankdata(np.asarray(scores))
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _share(similarity: Tensor, names: Sequence[str], pairs: Pairs, key: str) -> float:
    chosen = similarity.argmax(dim=1).tolist()
    return float(np.mean([names[i] == row[key] for i, row in zip(chosen, pairs.told, strict=True)]))


def _parts(length: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + BATCH, length)) for start in range(0, length, BATCH)]
