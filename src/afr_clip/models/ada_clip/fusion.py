"""Hybrid semantic fusion (HSF): what the most anomalous patches say enters the image score."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from afr_clip.models.ada_clip.clustering import cluster
from afr_clip.models.ada_clip.settings import FusionReading, FusionSettings


def fuse_semantics(
    class_token: Float[Tensor, "batch dim"],
    patch_tokens: Float[Tensor, "batch layers patches dim"],
    abnormality: Float[Tensor, "batch patches"],
    settings: FusionSettings,
) -> Float[Tensor, "batch dim"]:
    r"""Mix the class token with the centres of clusters of patches.

    An anomaly covers few patches and the class token may look past it; a cluster gathers the patches that show it.

    .. math:: F = w \frac{c}{\lVert c \rVert} + (1 - w) F_{cls}, \quad
        c = \frac{1}{C} \sum_{k=1}^{C} \mathrm{mean}_{n \in k}\, \mathrm{mean}_l\, v_{l,n}

    Note:
        This is the released code's form, which clusters the most anomalous patches and averages all centres; the
        paper's, with the one most anomalous cluster, is ``most_anomalous_cluster``. The released code seeds its k-means
        by one random state for the whole run, so that the score of an image depends on the images before it; here it
        depends on the image alone (``clustering.seeds``).

    Args:
        class_token: Projected class token of each image, of length 1.
        patch_tokens: Projected patch tokens after each tap layer, of length 1.
        abnormality: How anomalous each patch is; any number that ascends with the probability.
        settings: Which reading, how many patches and clusters, and the weight ``w``.

    Returns:
        The fused feature, not normalised. A gradient reaches tokens, not the choice of patches.
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
    """Say how much each patch counts in the mean of the cluster centres."""
    if settings.reading is FusionReading.most_anomalous_cluster:
        return _of_most_anomalous_cluster(tokens.mean(dim=0), scores, settings.num_clusters)
    # A stable sort, so that equals are taken in the order of the patches.
    chosen = scores.sort(descending=True, stable=True).indices[: settings.num_patches]
    points = tokens[:, chosen].transpose(0, 1).flatten(1)  # (chosen, L * D)
    labels = cluster(points, min(settings.num_clusters, len(chosen)))
    sizes = labels.bincount()
    # Each cluster that has members counts the same, and in it each member.
    share = 1 / (sizes[labels] * (sizes > 0).sum())
    return torch.zeros_like(scores).index_put((chosen,), share.to(scores.dtype))


def _of_most_anomalous_cluster(
    tokens: Float[Tensor, "patches dim"], scores: Float[Tensor, " patches"], num_clusters: int
) -> Float[Tensor, " patches"]:
    labels = cluster(tokens, min(num_clusters, len(tokens)))
    sizes = labels.bincount()
    means = torch.zeros_like(scores[: len(sizes)]).index_add(0, labels, scores) / sizes  # 0 / 0 where it is empty
    is_member = labels == means.nan_to_num(nan=-torch.inf).argmax()
    return is_member.to(scores.dtype) / is_member.sum()
