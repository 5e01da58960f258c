"""From scores of windows to maps: harmonic means over windows and over scales."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def aggregate_windows(
    scores: Float[Tensor, "batch windows"], grid_size: tuple[int, int], size: int
) -> Float[Tensor, "batch grid_height grid_width"]:
    r"""Give every patch the harmonic mean of the scores of all windows that show it.

    A patch is anomalous where no window that shows it looks normal: one low score pulls a harmonic mean down.

    .. math:: \bar{M}_{ij} = \Big( \tfrac{1}{|W_{ij}|} \sum_{w \in W_{ij}} M_w^{-1} \Big)^{-1}
        \qquad \text{harmonic aggregation of windows, WinCLIP}

    Args:
        scores: One score in [0, 1] for each window, row by row; 0 makes 0 of every patch that the window shows.
        grid_size: Patches ``(h, w)`` of an image.
        size: Side of a window in patches.

    Returns:
        The map on the patch grid.

    Example:
        >>> aggregate_windows(torch.tensor([[0.5, 0.25]]), grid_size=(2, 3), size=2)[0, 0]
        tensor([0.5000, 0.3333, 0.2500])
    """
    inverse = 1 / scores.unflatten(1, (grid_size[0] - size + 1, grid_size[1] - size + 1))
    # A patch is shown by the windows that start at it or up to size - 1 patches above and left of it.
    inverse_sum, num_windows = (
        F.avg_pool2d(F.pad(maps, [size - 1] * 4), size, stride=1, divisor_override=1)
        for maps in (inverse, torch.ones_like(inverse[:1]))
    )
    return num_windows / inverse_sum


def harmonic_mean(
    maps: Float[Tensor, "batch scales grid_height grid_width"],
) -> Float[Tensor, "batch grid_height grid_width"]:
    """Put the maps of all scales into one.

    Args:
        maps: Scores in [0, 1].

    Returns:
        The harmonic mean over the scales; 0 where one of them is 0.

    Example:
        >>> harmonic_mean(torch.tensor([0.5, 0.5, 0.25]).view(1, 3, 1, 1))
        tensor([[[0.3750]]])
    """
    return maps.shape[1] / (1 / maps).sum(dim=1)
