"""What the pre-trained towers know about pictures of combinations they never saw, asked in words."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pairs import Pairs
from scipy.stats import rankdata
from torch import Tensor, nn

from afr_clip.data.procedural.pairs.captions import SUBJECTS
from afr_clip.data.procedural.pairs.palette import PALETTE

BATCH = 128
"""Pictures per forward pass."""


def measure(
    embed: Callable[[Tensor], Tensor], clip: nn.Module, tokenizer: Callable[[list[str]], Tensor], pairs: Pairs
) -> dict[str, float]:
    """Ask for subject, colour and condition of pictures with held-out combinations of colour and subject.

    Args:
        embed: Embeds aligned maps as unit vectors.
        clip: The towers, in eval mode.
        tokenizer: Turns sentences into token ids.
        pairs: The pictures.

    Returns:
        Accuracy of the most similar subject (of all) and colour (of all, the subject given), and the AUROC of
        "defective" over "normal" as a detector of flawed pictures.
    """
    with torch.no_grad():
        images = torch.cat([embed(pairs.batch(part)) for part in _parts(len(pairs))])

        def ask(sentences: Sequence[str]) -> Tensor:
            return F.normalize(clip.encode_text(tokenizer(list(sentences))), dim=-1)

        subjects = [subject.words for subject in SUBJECTS]
        right_subject = _share(images @ ask([f"a photo of a {s}" for s in subjects]).T, subjects, pairs, "subject")
        colours = list(PALETTE)
        by_subject = {s: ask([f"a photo of a {c} {s}" for c in colours]) for s in subjects}
        shown = [(str(row["subject"]), image) for row, image in zip(pairs.told, images, strict=True)]
        similarity = torch.stack([by_subject[subject] @ image for subject, image in shown])
        right_colour = _share(similarity, colours, pairs, "colour")
        state = {s: ask([f"a photo of a normal {s}", f"a photo of a defective {s}"]) for s in subjects}
        scores = [float((state[subject] @ image).diff()) for subject, image in shown]
    return {
        "subject_accuracy": right_subject,
        "colour_accuracy": right_colour,
        "condition_auroc": auroc(scores, [row["defect"] is not None for row in pairs.told]),
    }


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
