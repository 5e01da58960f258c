"""From embeddings to scores and maps, for methods that compare with a normal and an abnormal text.

Everything runs in float32, whatever the precision of the towers: half-precision probabilities tie, and ties change
ranks.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from afr_clip.models.scoring_settings import ImageScore

NORMAL, ABNORMAL = 0, 1
"""Indices of the two states in stateful embeddings and similarities."""

GAUSSIAN_REACH = 4.0
"""A Gaussian kernel is cut off at this many standard deviations, as SciPy does by default."""

TOP_SHARE = 0.01
"""Share of a map whose mean may be its image score. Chosen on categories held out of the demo: experiments/demo."""


def text_on_text_similarity(
    rectified: Float[Tensor, "batch patches dim"], stateful: Float[Tensor, "batch 2 dim"]
) -> Float[Tensor, "batch patches 2"]:
    r"""Compare every rectified embedding with the normal and the abnormal prototype.

    .. math::
        S_{n,i} = \cos(F^s_{t,i}, F^n_t), \quad S_{a,i} = \cos(F^s_{t,i}, F^a_t)
        \qquad \text{Eqs. (7)-(8), (11)-(12), AFR-CLIP}

    Normal comes first. Given image embeddings instead of rectified ones, it is the classical image-text similarity.

    Example:
        >>> text_on_text_similarity(torch.tensor([[[2.0, 0.0]]]), torch.eye(2)[None])
        tensor([[[1., 0.]]])
    """
    return F.normalize(rectified, dim=-1) @ F.normalize(stateful, dim=-1).transpose(1, 2)


def anomaly_probability(
    similarity: Float[Tensor, "*places 2"], temperature: float | Float[Tensor, ""] = 1.0
) -> Float[Tensor, "*places"]:
    r"""Turn the two similarities into the probability of the abnormal state.

    .. math::
        P_{a,i} = \frac{\exp(S_{a,i} / \tau)}{\exp(S_{a,i} / \tau) + \exp(S_{n,i} / \tau)}
        \qquad \text{Eqs. (9), (13), AFR-CLIP}

    Note:
        The paper's equations have no temperature; ``tau = 1`` keeps the result within [0.119, 0.881].

    Example:
        >>> anomaly_probability(torch.zeros(1, 1, 2))
        tensor([[0.5000]])
    """
    return (similarity / temperature).softmax(dim=-1)[..., ABNORMAL]


def abnormal_margin(
    similarity: Float[Tensor, "*places 2"], temperature: float | Float[Tensor, ""]
) -> Float[Tensor, "*places"]:
    r"""Return the logit of the abnormal state's probability, for methods that enlarge logits before the softmax.

    .. math::
        \mathrm{softmax}(S / \tau)_a = \mathrm{sigmoid}\bigl((S_a - S_n) / \tau\bigr)

    One value per place stands for the two logits, and keeps ranks where the probability saturates.

    Example:
        >>> similarity = torch.tensor([[0.1, 0.4]])
        >>> abnormal_margin(similarity, 0.5).sigmoid().allclose(anomaly_probability(similarity, 0.5))
        True
    """
    return (similarity[..., ABNORMAL] - similarity[..., NORMAL]) / temperature


def upsample_map(
    grid_map: Float[Tensor, "*maps grid_height grid_width"], size: tuple[int, int], *, align_corners: bool = False
) -> Float[Tensor, "*maps height width"]:
    r"""Bring maps from the patch grid to input size.

    .. math:: \mathrm{HeatMap} = \mathrm{Bilin}(\mathrm{Reshape}(\{P_{a,i}\})) \qquad \text{Eq. (14), AFR-CLIP}

    Args:
        grid_map: One value per patch.
        size: Target ``(height, width)`` in pixels.
        align_corners: Whether the outermost patches are stretched to the edge of the map. Otherwise values are
            interpolated between patch centres, half a patch inside the edge.
    """
    *maps, grid_height, grid_width = grid_map.shape
    flat = grid_map.reshape(-1, 1, grid_height, grid_width)
    return F.interpolate(flat, size=size, mode="bilinear", align_corners=align_corners).reshape(*maps, *size)


def smooth_map(
    anomaly_map: Float[Tensor, "batch height width"],
    sigma: float,
    *,
    cut_at: float = GAUSSIAN_REACH,
    repeat: bool = True,
) -> Float[Tensor, "batch height width"]:
    """Blur maps with a Gaussian of ``sigma`` pixels; 0 returns them unchanged.

    By default equal to ``scipy.ndimage.gaussian_filter``, which most public codes call. A constant map stays constant.

    Args:
        cut_at: Where the kernel ends, in standard deviations.
        repeat: Whether the mirror image, as which a map continues beyond its border, repeats the outermost pixel.
    """
    if sigma == 0:
        return anomaly_map
    reach = int(cut_at * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=anomaly_map.dtype, device=anomaly_map.device)
    kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    # A Gaussian is the product of one along each axis: two passes of n values instead of one of n * n.
    with torch.autocast(anomaly_map.device.type, enabled=False):  # it would convolve in half precision
        for _ in range(2):
            length = anomaly_map.shape[-1]
            period = 2 * length if repeat else max(1, 2 * length - 2)
            places = torch.arange(-reach, length + reach, device=anomaly_map.device) % period
            mirrored = torch.minimum(places, period - repeat - places)  # repeatedly, if the map is narrower than reach
            anomaly_map = F.conv2d(anomaly_map[:, None, :, mirrored], kernel)[:, 0].transpose(1, 2)
    return anomaly_map


def harmonic_mean(scores: Float[Tensor, "batch scales ..."]) -> Float[Tensor, "batch ..."]:
    """Combine scores in [0, 1] of all scales; 0 where one of them is 0.

    Example:
        >>> harmonic_mean(torch.tensor([[0.5, 0.5, 0.25]]))
        tensor([0.3750])
    """
    return scores.shape[1] / (1 / scores).sum(dim=1)


def _mean_of_two(of_image: Tensor, of_map: Tensor) -> Tensor:
    return (of_image + of_map) / 2


def combine_image_score(
    class_token_score: Float[Tensor, " batch"],
    anomaly_map: Float[Tensor, "batch height width"],
    kind: ImageScore,
    combine: Callable[[Tensor, Tensor], Tensor] = _mean_of_two,
) -> Float[Tensor, " batch"]:
    """Combine the class token's probability, Eq. (9), and the final map.

    Args:
        combine: How to join the two where ``kind`` asks for both; their mean by default.
    """
    if kind is ImageScore.class_token:
        return class_token_score
    pixels = anomaly_map.flatten(1)
    if kind in (ImageScore.map_top, ImageScore.class_token_and_map_top):
        # The maximum saturates: on a large picture some pixel nearly always reaches it, on a sound part too.
        num_pixels = int(anomaly_map.shape[-2]) * int(anomaly_map.shape[-1])  # tensors, while a graph is traced
        of_map = pixels.topk(max(1, round(TOP_SHARE * num_pixels)), dim=1).values.mean(dim=1)
    else:
        of_map = pixels.amax(dim=1)
    return of_map if kind in (ImageScore.map_max, ImageScore.map_top) else combine(class_token_score, of_map)
