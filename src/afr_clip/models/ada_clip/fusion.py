"""Hybrid semantic fusion (HSF): what the most anomalous patches show enters the image score."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from afr_clip.models.ada_clip.settings import FusionReading, FusionSettings

MOST_ROUNDS = 300
"""Most of Lloyd's rounds, as in scikit-learn; an assignment that still changes then is taken as it is."""

SAME_COST = 1e-4
"""Seeds whose costs differ by less than this share count as equal, and the first is taken. Two points that are each
other's nearest cost the same up to the last bits, and rounding must not choose between them."""


def fuse_semantics(
    class_token: Float[Tensor, "batch dim"],
    patch_tokens: Float[Tensor, "batch layers patches dim"],
    abnormality: Float[Tensor, "batch patches"],
    settings: FusionSettings,
) -> Float[Tensor, "batch dim"]:
    r"""Mix the class token with the centres of clusters of patches.

    An anomaly covers few patches and the class token may miss it; a cluster gathers the patches that show it.

    .. math:: F = w \frac{c}{\lVert c \rVert} + (1 - w) F_{cls}, \quad
        c = \frac{1}{C} \sum_{k=1}^{C} \mathrm{mean}_{n \in k}\, \mathrm{mean}_l\, v_{l,n}

    Note:
        This is the released code's form, which clusters the most anomalous patches and averages all centres; the
        paper's, with the one most anomalous cluster, is ``most_anomalous_cluster``. The released code seeds its k-means
        by one random state for the whole run, so that the score of an image depends on the images before it; here it
        depends only on the image (``seeds``).

    Args:
        class_token: Projected class token of each image, of length 1.
        patch_tokens: Projected patch tokens after each tap layer, of length 1.
        abnormality: How anomalous each patch is; any number that ascends with the probability.
        settings: Which reading, how many patches and clusters, and the weight ``w``.

    Returns:
        The fused feature, not normalised. A gradient reaches the tokens, not the choice of patches.
    """
    if settings.weight == 0:
        return class_token
    shares = torch.stack(
        [_shares(tokens, scores, settings) for tokens, scores in zip(patch_tokens.detach(), abnormality, strict=True)]
    )
    centre = (shares[:, None] @ patch_tokens.mean(dim=1))[:, 0]  # (B, D)
    return settings.weight * F.normalize(centre, dim=-1) + (1 - settings.weight) * class_token


def _shares(
    tokens: Float[Tensor, "layers patches dim"], scores: Float[Tensor, " patches"], settings: FusionSettings
) -> Float[Tensor, " patches"]:
    """Weigh each patch in the mean of the cluster centres."""
    if settings.reading is FusionReading.most_anomalous_cluster:
        labels = cluster(tokens.mean(dim=0), min(settings.num_clusters, len(scores)))
        sizes = labels.bincount()
        means = torch.zeros_like(scores[: len(sizes)]).index_add(0, labels, scores) / sizes  # 0 / 0 where it is empty
        is_member = labels == means.nan_to_num(nan=-torch.inf).argmax()
        return is_member.to(scores.dtype) / is_member.sum()
    # A stable sort, so that equals are taken in the order of the patches.
    chosen = scores.sort(descending=True, stable=True).indices[: settings.num_patches]
    points = tokens[:, chosen].transpose(0, 1).flatten(1)  # (chosen, L * D)
    labels = cluster(points, min(settings.num_clusters, len(chosen)))
    sizes = labels.bincount()
    # Clusters with members count the same, and so do the members of a cluster.
    share = 1 / (sizes[labels] * (sizes > 0).sum())
    return torch.zeros_like(scores).index_put((chosen,), share.to(scores.dtype))


def cluster(points: Float[Tensor, "points dim"], num_clusters: int) -> Int[Tensor, " points"]:
    """Assign points to clusters by Lloyd's algorithm, starting from seeds that depend only on the points.

    Args:
        num_clusters: How many clusters at most. Where points coincide there may be fewer.

    Returns:
        The cluster of each point, counted from 0.

    Example:
        >>> cluster(torch.tensor([[0.0], [5.0], [0.1]]), num_clusters=2).tolist()
        [0, 1, 0]
    """
    centres = points[seeds(points, num_clusters)]
    labels = _squared_distance(points, centres).argmin(dim=1)
    for _ in range(MOST_ROUNDS):
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        sizes = labels.bincount(minlength=len(centres))[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)  # one without members stays where it was
        before, labels = labels, _squared_distance(points, centres).argmin(dim=1)
        if torch.equal(before, labels):
            break
    return labels


def seeds(points: Float[Tensor, "points dim"], num_seeds: int) -> Int[Tensor, " seeds"]:
    r"""Choose points to start from; ties go to the first.

    The greedy form of k-means++ draws a few candidates for each seed and keeps the best of them. Here every point is a
    candidate, so that nothing is drawn:

    .. math:: s_j = \arg\min_c \sum_n \min(d_n, \lVert x_n - x_c \rVert^2), \quad
        d_n = \min_{i < j} \lVert x_n - x_{s_i} \rVert^2

    Example:
        >>> seeds(torch.tensor([[0.0], [1.0], [9.0]]), num_seeds=2).tolist()  # the middle one, then the far one
        [1, 2]
    """
    distance = _squared_distance(points, points)
    nearest = torch.full_like(distance[0], torch.inf)
    chosen: list[Tensor] = []
    for _ in range(num_seeds):
        cost = torch.minimum(distance, nearest).sum(dim=1)
        chosen.append((cost <= cost.min() * (1 + SAME_COST)).int().argmax())
        nearest = torch.minimum(nearest, distance[chosen[-1]])
    return torch.stack(chosen)


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    # The difference itself, not |a|^2 + |b|^2 - 2ab, which rounds small distances away.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
