"""Hybrid semantic fusion (HSF): what the most anomalous patches show enters the image score."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from afr_clip.clip.packed import becomes_a_graph
from afr_clip.models.ada_clip.settings import FusionReading, FusionSettings

MOST_ROUNDS = 300
"""Most of Lloyd's rounds, as in scikit-learn; an assignment that still changes then is taken as it is."""

ROUNDS_IN_A_GRAPH = 50
"""Rounds in an exported graph, which cannot stop early. Rounds after the last change have no effect."""

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
    chosen, shares = _shares(patch_tokens.detach(), abnormality, settings)
    tokens = _taken(patch_tokens.mean(dim=1), chosen)  # (B, chosen, D)
    centre = (shares[:, None] @ tokens)[:, 0]  # (B, D)
    return settings.weight * F.normalize(centre, dim=-1) + (1 - settings.weight) * class_token


def _shares(
    tokens: Float[Tensor, "batch layers patches dim"],
    scores: Float[Tensor, "batch patches"],
    settings: FusionSettings,
) -> tuple[Int[Tensor, "batch chosen"], Float[Tensor, "batch chosen"]]:
    """Choose patches, and weigh each in the mean of the cluster centres."""
    is_paper = settings.reading is FusionReading.most_anomalous_cluster
    num_patches = int(scores.shape[1])
    if is_paper:
        chosen = torch.arange(num_patches, device=scores.device).expand_as(scores)
    elif becomes_a_graph():  # which has no stable sort; the runtimes take equals in the order of the patches too
        chosen = scores.topk(min(settings.num_patches, num_patches), dim=1).indices
    else:
        # A stable sort, so that equals are taken in the order of the patches.
        chosen = scores.sort(dim=1, descending=True, stable=True).indices[:, : settings.num_patches]
    # As released, the tokens of all layers side by side: (B, chosen, L * D)
    points = tokens.mean(dim=1) if is_paper else _taken(tokens.transpose(1, 2).flatten(2), chosen)
    num_clusters = min(settings.num_clusters, int(points.shape[1]))
    members = _members(cluster(points, num_clusters), num_clusters, scores.dtype)  # (B, clusters, chosen)
    sizes = members.sum(dim=-1)
    if is_paper:
        means = (members @ scores[..., None])[..., 0] / sizes.clamp(min=1)
        best = torch.where(sizes > 0, means, -torch.inf).argmax(dim=1)
        is_member = _taken(members, best[:, None])[:, 0]
        return chosen, is_member / is_member.sum(dim=1, keepdim=True)
    # Clusters with members count the same, and so do the members of a cluster.
    weights = 1 / (sizes.clamp(min=1) * (sizes > 0).sum(dim=1, keepdim=True))
    return chosen, (weights[:, None] @ members)[:, 0]


def cluster(points: Float[Tensor, "*images points dim"], num_clusters: int) -> Int[Tensor, "*images points"]:
    r"""Assign points to clusters by Lloyd's algorithm, starting from seeds that depend only on the points.

    A centre is a weighted mean of points, so its distance from a point follows from those between the points:

    .. math:: \lVert x_n - \textstyle\sum_m w_m x_m \rVert^2
        = \sum_m w_m d_{mn} - \tfrac{1}{2} \sum_{l,m} w_l w_m d_{lm}, \quad d_{mn} = \lVert x_m - x_n \rVert^2

    Args:
        num_clusters: How many clusters at most. Where points coincide there may be fewer.

    Returns:
        The cluster of each point, counted from 0.

    Example:
        >>> cluster(torch.tensor([[0.0], [5.0], [0.1]]), num_clusters=2).tolist()
        [0, 1, 0]
    """
    distance = squared_distances(points)
    is_graph = becomes_a_graph()
    places = torch.arange(points.shape[-2], device=points.device)
    weights = (seeds(distance, num_clusters)[..., None] == places).to(points.dtype)  # (*, clusters, points)
    labels = _nearest(distance, weights)
    for _ in range(ROUNDS_IN_A_GRAPH if is_graph else MOST_ROUNDS):
        members = _members(labels, num_clusters, points.dtype)
        sizes = members.sum(dim=-1, keepdim=True)
        # A cluster without members stays where it was.
        weights = torch.where(sizes > 0, members / sizes.clamp(min=1), weights)
        before, labels = labels, _nearest(distance, weights)
        if not is_graph and torch.equal(before, labels):
            break
    return labels


def _taken(rows: Float[Tensor, "*images rows dim"], index: Int[Tensor, "*images chosen"]) -> Tensor:
    """Take rows of each image: (*images, chosen, dim)."""
    return rows.gather(-2, index[..., None].expand(*index.shape, rows.shape[-1]))


def _members(
    labels: Int[Tensor, "*images points"], num_clusters: int, dtype: torch.dtype
) -> Float[Tensor, "*images clusters points"]:
    """Say which points belong to which cluster: 1 or 0."""
    return (labels[..., None, :] == torch.arange(num_clusters, device=labels.device)[:, None]).to(dtype)


def _nearest(
    distance: Float[Tensor, "*images points points"], weights: Float[Tensor, "*images clusters points"]
) -> Int[Tensor, "*images points"]:
    """Find the nearest weighted mean of points for each point."""
    mean = weights @ distance
    return (mean - (mean * weights).sum(dim=-1, keepdim=True) / 2).argmin(dim=-2)


def seeds(distance: Float[Tensor, "*images points points"], num_seeds: int) -> Int[Tensor, "*images seeds"]:
    r"""Choose points to start from, by their squared distances; ties go to the first.

    The greedy form of k-means++ draws a few candidates for each seed and keeps the best of them. Here every point is a
    candidate, so that nothing is drawn:

    .. math:: s_j = \arg\min_c \sum_n \min(d_n, \lVert x_n - x_c \rVert^2), \quad
        d_n = \min_{i < j} \lVert x_n - x_{s_i} \rVert^2

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [9.0]])
        >>> seeds(squared_distances(points), num_seeds=2).tolist()  # the middle one, then the far one
        [1, 2]
    """
    nearest = torch.full_like(distance[..., :1, :], torch.inf)
    chosen: list[Tensor] = []
    for _ in range(num_seeds):
        cost = torch.minimum(distance, nearest).sum(dim=-1)
        is_best = cost <= cost.amin(dim=-1, keepdim=True) * (1 + SAME_COST)
        chosen.append(is_best.int().argmax(dim=-1))
        nearest = torch.minimum(nearest, _taken(distance, chosen[-1][..., None]))
    return torch.stack(chosen, dim=-1)


def squared_distances(points: Float[Tensor, "*images points dim"]) -> Float[Tensor, "*images points points"]:
    """Compute the squared distance of each pair of points."""
    if becomes_a_graph():  # a graph has no rule for the difference itself
        centred = (points - points.mean(dim=-2, keepdim=True)).double()
        squares = centred.square().sum(dim=-1)
        product = centred @ centred.transpose(-1, -2)
        return (squares[..., None] + squares[..., None, :] - 2 * product).clamp(min=0).to(points.dtype)
    # The difference itself, not |a|^2 + |b|^2 - 2ab, which rounds small distances away.
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()
