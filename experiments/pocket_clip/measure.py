"""Measure what the pre-trained towers know about unseen colours and names, asked in words."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from learner import Embedded
from pairs import Pairs
from scipy.stats import rankdata
from torch import Tensor

from drawn_anomalies.features import FEATURES
from drawn_anomalies.pairs.captions import SUBJECTS, condition_captions, plain_caption
from drawn_anomalies.pairs.pair import Shown
from drawn_anomalies.pairs.palette import PALETTE

BATCH = 64
"""Pictures per forward pass."""


class Embedder(Protocol):
    """What is measured: towers that embed pictures, patches and captions as unit vectors."""

    def __call__(self, seen: Tensor, pool: int) -> Embedded:
        """Embed pictures and their patches."""

    def texts(self, sentences: Sequence[str]) -> Tensor:
        """Embed captions."""

    def locate(self, patches: Tensor, towards: Tensor) -> Tensor:
        """Return the logit of damage in every cell under every name."""


def measure(towers: Embedder, held_out: Mapping[str, Pairs]) -> dict[str, float]:
    """Ask for subject, colour, condition and damage in combinations that are held out.

    Args:
        towers: In eval mode.
        held_out: Pictures of subjects in unseen colours under ``unseen_colours_160``; pictures of plain things with two
            features, whose names were never seen together, under ``unseen_names_...``.

    Returns:
        Of the first the accuracy of the most similar subject (of all) and colour (of all, the subject given), the AUROC
        of "defective" over "normal" as a detector of flawed pictures, and its average precision as a detector of
        damaged cells, all pictures together. Of the others the average precision of what is flawed under the name with
        the first feature, asked with that name (``right``), with the second feature's (``wrong``) and with
        "object"; and the share of the two features that are among the two most similar adjectives.
    """
    figures: dict[str, float] = {}
    with torch.no_grad():
        for name, pairs in held_out.items():
            found = _names(towers, pairs) if name.startswith("unseen_names") else _colours(towers, pairs)
            figures |= {f"{name}_{key}": value for key, value in found.items()}
    return figures


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


def _colours(towers: Embedder, pairs: Pairs) -> dict[str, float]:
    ask, shown = towers.texts, pairs.shown
    subjects, colours = [subject.words for subject in SUBJECTS], list(PALETTE)
    by_subject = {s: ask([plain_caption(s, c) for c in colours]) for s in subjects}
    image, located, towards = _seen(towers, pairs, [[str(one.subject)] for one in shown])
    right_subject = _share(image @ ask([f"a photo of a {s}" for s in subjects]).T, subjects, pairs, "subject")
    similarity = torch.stack([by_subject[str(one.subject)] @ e for one, e in zip(shown, image, strict=True)])
    right_colour = _share(similarity, colours, pairs, "colour")
    scores = (image * towards[:, 0]).sum(dim=1).tolist()
    masks = pairs.masks_of(np.arange(len(pairs)))[:, 0] > 0.5
    return {
        "subject_accuracy": right_subject,
        "colour_accuracy": right_colour,
        "condition_auroc": auroc(scores, [one.defect is not None for one in shown]),
        "cell_ap": average_precision(located.flatten().numpy(), masks.flatten().numpy()),
    }


def _names(towers: Embedder, pairs: Pairs) -> dict[str, float]:
    names = [[f"{adjective} {one.subject}" for adjective, _ in one.features] + ["object"] for one in pairs.shown]
    image, located, _ = _seen(towers, pairs, names)
    masks = pairs.masks_of(np.arange(len(pairs)))
    # Under the first feature's name, the defect and the second feature are flawed.
    flawed = masks[:, [0, 2]].amax(dim=1) > 0.5
    found = [average_precision(located[:, n].flatten().numpy(), flawed.flatten().numpy()) for n in range(3)]
    adjectives = list(FEATURES)
    asked = towers.texts([f"a photo of a {adjective} object" for adjective in adjectives])
    best = (image @ asked.T).argsort(dim=1, descending=True)[:, :2].tolist()
    shown = [{adjective for adjective, _ in one.features} for one in pairs.shown]
    hits = [len({adjectives[i] for i in two} & own) / 2 for two, own in zip(best, shown, strict=True)]
    return {**dict(zip(("right", "wrong", "object"), found, strict=True)), "feature_accuracy": float(np.mean(hits))}


def _seen(towers: Embedder, pairs: Pairs, names: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor, Tensor]:
    """Embed all pictures, and locate damage under their names."""
    known = {name: towers.texts(condition_captions(name)).diff(dim=0)[0] for two in names for name in two}
    towards = torch.stack([torch.stack([known[name] for name in two]) for two in names])
    images, located = [], []
    for part in (np.arange(start, min(start + BATCH, len(pairs))) for start in range(0, len(pairs), BATCH)):
        embedded = towers(pairs.batch(part), pairs.grid // 10)
        images.append(embedded.images)
        located.append(towers.locate(embedded.patches, towards[part]))
    return torch.cat(images), torch.cat(located), towards


def _share(similarity: Tensor, names: Sequence[str], pairs: Pairs, key: str) -> float:
    chosen = similarity.argmax(dim=1).tolist()
    return float(np.mean([names[i] == _of(one, key) for i, one in zip(chosen, pairs.shown, strict=True)]))


def _of(shown: Shown, key: str) -> str:
    return str(getattr(shown, key))
