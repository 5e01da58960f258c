"""k-means that answers the same for the same image, whatever came before it or with it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

MOST_ROUNDS = 300
"""Lloyd's rounds after which an assignment that still changes is taken as it is, as scikit-learn does by default."""

SAME_COST = 1e-4
"""Seeds whose costs differ by less than this share are equals, and the first is taken. Two points that are each other's
nearest cost the same to the last bits, which rounding must not decide."""


def cluster(points: Float[Tensor, "points dim"], num_clusters: int) -> Int[Tensor, " points"]:
    """Assign points to clusters by Lloyd's algorithm, starting from seeds that follow from the points alone.

    Args:
        points: What is clustered.
        num_clusters: How many clusters at most. Where points coincide there may be fewer.

    Returns:
        The cluster of each point, counted from 0.

    Example:
        >>> cluster(torch.tensor([[0.0], [5.0], [0.1]]), num_clusters=2).tolist()
        [0, 1, 0]
    """
    centres = points[seeds(points, num_clusters)]
    labels = _nearest(points, centres)
    for _ in range(MOST_ROUNDS):
        centres = _centres(points, labels, centres)
        before, labels = labels, _nearest(points, centres)
        if torch.equal(before, labels):
            break
    return labels


def seeds(points: Float[Tensor, "points dim"], num_seeds: int) -> Int[Tensor, " seeds"]:
    r"""Choose points to start from.

    The greedy form of k-means++ draws a few candidates for each seed and keeps the best of them. Here every point is a
    candidate, so that nothing is drawn:

    .. math:: s_j = \arg\min_c \sum_n \min(d_n, \lVert x_n - x_c \rVert^2), \quad
        d_n = \min_{i < j} \lVert x_n - x_{s_i} \rVert^2

    Args:
        points: The candidates.
        num_seeds: How many are chosen.

    Returns:
        The chosen points; among equals the first.

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


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return _squared_distance(points, centres).argmin(dim=1)


def _centres(points: Tensor, labels: Tensor, before: Tensor) -> Tensor:
    """Average the members of each cluster; one without members stays where it was."""
    sums = torch.zeros_like(before).index_add_(0, labels, points)
    sizes = labels.bincount(minlength=len(before))[:, None]
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), before)
