"""One text for many sentences: the centre of their largest cluster."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from afr_clip.models.clip_ad.settings import RepresentativeSettings


def representative_text(
    embeddings: Float[Tensor, "sentences dim"], settings: RepresentativeSettings
) -> Float[Tensor, " dim"]:
    """Return the normalised mean of the unit embeddings in the largest cluster (representative vector selection).

    Sentences far from the others are left out of the mean. Without any cluster, all are in it.
    """
    unit = F.normalize(embeddings, dim=-1)
    clusters = density_clusters(unit, settings.radius, settings.min_neighbours)
    sizes = (clusters[:, None] == torch.arange(max(1, int(clusters.max()) + 1), device=unit.device)).sum(dim=0)
    chosen = clusters == sizes.argmax() if sizes.max() > 0 else torch.ones_like(clusters, dtype=torch.bool)
    return F.normalize(unit[chosen].mean(dim=0), dim=-1)


def density_clusters(points: Float[Tensor, "points dim"], radius: float, min_neighbours: int) -> Int[Tensor, " points"]:
    """Cluster points by density (DBSCAN, Ester et al., KDD 1996).

    A point with enough neighbours is inside a cluster; such points that are neighbours share one. Other neighbours of
    the inside form its border, and belong to the first cluster that reaches them.

    Returns:
        The cluster of each point, counted from 0, or -1 for none.

    Example:
        >>> density_clusters(torch.tensor([[0.0], [0.1], [0.2], [5.0]]), radius=0.15, min_neighbours=2)
        tensor([ 0,  0,  0, -1])
    """
    near = (points[:, None] - points[None]).norm(dim=-1) <= radius
    is_inside = near.sum(dim=1) >= min_neighbours
    clusters = torch.full((len(points),), -1, device=points.device)
    for seed in range(len(points)):
        if not is_inside[seed] or clusters[seed] >= 0:
            continue
        number = int(clusters.max()) + 1
        reached = torch.zeros_like(is_inside)
        reached[seed] = True
        while reached.any():
            clusters[reached] = number
            reached = near[reached & is_inside].any(dim=0) & (clusters < 0)
    return clusters
