"""Multi-patch feature aggregation (MPFA)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.models.afr_clip.settings import check_odd


class MultiPatchFeatureAggregation(nn.Module):
    r"""Average every patch token with its neighbours (MPFA).

    A small defect reaches the patches around it, and the map loses its block edges. At the border only the patches
    that the window covers count, so a constant image stays constant. There are no parameters, and the class token stays
    out.

    .. math::
        \tilde{v}_n = \tfrac{1}{|\mathcal{N}_m(n)|} \sum_{j \in \mathcal{N}_m(n)} v_j
        \qquad \text{Eqs. (19)-(21), AFR-CLIP}

    Args:
        window: Side length ``m`` in patches; odd, positive. ``1`` is the identity. The paper uses 3.

    Raises:
        ValueError: If ``window`` is even or below 1.

    Example:
        >>> import torch
        >>> mpfa = MultiPatchFeatureAggregation(window=3)
        >>> impulse = torch.zeros(1, 25, 1); impulse[0, 12] = 9.0
        >>> mpfa(impulse, grid_size=(5, 5)).reshape(5, 5)[1:4, 1:4].unique()  # 9 spread evenly over a 3 x 3 window
        tensor([1.])
    """

    def __init__(self, window: int = 3) -> None:
        super().__init__()
        check_odd("mpfa_window", window)
        self.window = window

    def forward(
        self, patch_tokens: Float[Tensor, "batch patches dim"], grid_size: tuple[int, int]
    ) -> Float[Tensor, "batch patches dim"]:
        """Average adapted patch tokens over the window around each patch.

        Raises:
            ValueError: If ``grid_size`` does not hold as many patches as ``patch_tokens``.
        """
        if self.window == 1:
            return patch_tokens
        grid = tokens_to_grid(patch_tokens, grid_size)
        pooled = F.avg_pool2d(grid, self.window, stride=1, padding=self.window // 2, count_include_pad=False)
        return grid_to_tokens(pooled)


def tokens_to_grid(
    tokens: Float[Tensor, "batch patches dim"], grid_size: tuple[int, int]
) -> Float[Tensor, "batch dim height width"]:
    """Lay tokens out on their patch grid ``(h, w)``, row by row, Eq. (19).

    Raises:
        ValueError: If the grid does not hold as many patches as there are tokens.
    """
    height, width = grid_size
    if height * width != tokens.shape[1]:
        msg = f"grid_size must hold {tokens.shape[1]} patch tokens, got {height} x {width}. Leave the class token out."
        raise ValueError(msg)
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


def grid_to_tokens(grid: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch patches dim"]:
    """Bring a feature map back to one token per patch, Eq. (21)."""
    return grid.flatten(2).transpose(1, 2)
