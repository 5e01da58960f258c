"""Which of the given words for defects fits a region best: a hint, never the truth."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.text import ensemble_mean
from afr_clip.data.disk.pixels import resize_image
from afr_clip.data.feed.dataset import normalise
from afr_clip.inspection.regions import Hint, Region

SENTENCES = ("a photo of a {category} with {word}", "a close-up photo of {word} on a {category}", "a photo of {word}")
"""What a word is compared as; the mean of their embeddings counts."""

CONTEXT = 2.0
"""Side of the square that is looked at, in longer sides of the region's box."""

BATCH = 16
"""Regions in one forward pass."""


def nearest_word(feature: Float[Tensor, " dim"], embeddings: Float[Tensor, "words dim"], words: Sequence[str]) -> Hint:
    """Compare a region with two words or more by the cosine of their embeddings.

    Example:
        >>> nearest_word(torch.tensor([3.0, 4.0]), torch.eye(2), ["scratch", "dent"]).word
        'dent'
    """
    (best, second), (nearest, _) = functional.cosine_similarity(feature[None], embeddings).topk(2)
    return Hint(words[int(nearest)], float(best - second))


def embed_words(backbone: CLIPBackbone, category: str, words: Sequence[str]) -> Float[Tensor, "words dim"]:
    """Return one embedding for each word."""
    sentences = [sentence.format(category=category, word=word) for word in words for sentence in SENTENCES]
    return ensemble_mean(backbone.encode_text(sentences).unflatten(0, (len(words), len(SENTENCES))))


def see_regions(
    photograph: UInt8[Tensor, "3 height width"], regions: Sequence[Region], backbone: CLIPBackbone
) -> Float[Tensor, "regions dim"]:
    """Return CLIP's embedding of what is around each region."""
    features = []
    for start in range(0, len(regions), BATCH):
        views = [_view(photograph, region, backbone) for region in regions[start : start + BATCH]]
        (last,) = backbone.tap(torch.stack(views).to(backbone.device), layers=[backbone.depth])
        features.append(backbone.embed_image(last).float())
    return torch.cat(features)


def _view(
    photograph: UInt8[Tensor, "3 height width"], region: Region, backbone: CLIPBackbone
) -> Float[Tensor, "3 rows columns"]:
    """Cut out a square around a region, moved inside the photograph, as the tower sees it."""
    x, y, width, height = region.box
    rows, columns = photograph.shape[1:]
    side = max(round(CONTEXT * max(width, height)), backbone.image_size // 4)
    left = max(0, min(x + (width - side) // 2, columns - side))
    top = max(0, min(y + (height - side) // 2, rows - side))
    view = photograph[:, top : top + side, left : left + side]
    return normalise(resize_image(view, (backbone.image_size,) * 2), backbone.mean, backbone.std)
