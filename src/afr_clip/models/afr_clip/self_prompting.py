"""Self prompting (SP): visual prompt tokens from a CNN feature and a shared prompt."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.models.afr_clip.settings import Placement

SHARED_PROMPT_STD = 0.02
"""Standard deviation that the shared prompt starts from, as the learnable prompts of AnomalyCLIP and AdaCLIP."""


class SelfPrompting(nn.Module):
    r"""Make an image's visual prompt from its own CNN feature and a prompt shared by all images (SP).

    A CNN sees fine texture that the ViT's first stage does not. ``num_prompts`` linear layers each turn the CNN
    feature into one token, and a learnable token is added to each. ``place_prompt`` puts the tokens into the tower
    (Eqs. 17-18).

    .. math::
        P_v = \mathrm{Concat}([\mathrm{Linear}_i(F_{cnn})]_{i=1}^K), \quad \tilde{P}_v = P_v + P_l
        \qquad \text{Eqs. (15)-(16), AFR-CLIP}

    Note:
        The ``K`` linear layers are held as one layer of ``K`` times the width, which is the same function.

    Args:
        cnn_dim: Width of the pooled CNN feature.
        token_dim: Width ``D_v`` of the ViT's tokens (1024 for ViT-L/14, before projection).
        num_prompts: ``K``, prompt tokens per image. The paper uses 5.
        image_prompt: Whether to use ``P_v``.
        shared_prompt: Whether to use ``P_l``.

    Raises:
        ValueError: If neither prompt is used.

    Example:
        >>> SelfPrompting(cnn_dim=8, token_dim=4, num_prompts=5)(torch.randn(2, 8)).shape
        torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        cnn_dim: int,
        token_dim: int,
        num_prompts: int = 5,
        *,
        image_prompt: bool = True,
        shared_prompt: bool = True,
    ) -> None:
        super().__init__()
        if not (image_prompt or shared_prompt):
            msg = "image_prompt or shared_prompt must be True, got neither. To use no prompt, leave the module out."
            raise ValueError(msg)
        self.shape = (num_prompts, token_dim)
        self.image_prompt = nn.Linear(cnn_dim, num_prompts * token_dim) if image_prompt else None
        self.shared_prompt = nn.Parameter(torch.randn(self.shape) * SHARED_PROMPT_STD) if shared_prompt else None

    def forward(self, cnn_feature: Float[Tensor, "batch cnn_dim"]) -> Float[Tensor, "batch prompts token_dim"]:
        """Make the prompt tokens of each image; without ``P_v``, only the feature's batch size matters."""
        prompt = cnn_feature.new_zeros(cnn_feature.shape[0], *self.shape)
        if self.image_prompt is not None:
            prompt = prompt + self.image_prompt(cnn_feature).reshape(prompt.shape)
        if self.shared_prompt is not None:
            prompt = prompt + self.shared_prompt
        return prompt


def place_prompt(
    tokens: Float[Tensor, "batch tokens token_dim"],
    prompt: Float[Tensor, "batch prompts token_dim"],
    num_tokens: int,
    placement: Placement,
) -> Float[Tensor, "batch prompted_tokens token_dim"]:
    r"""Put the prompt among the tokens that a block is about to see.

    .. math:: L_{v_i} = TF_i(\mathrm{Concat}(L_{v_{i-1}}^{1:N-K}, \tilde{P}_v)) \qquad \text{Eq. (18), AFR-CLIP}

    Args:
        tokens: Output of the block before: the image's own tokens, and behind them an earlier appended prompt.
        num_tokens: How many of the tokens are the image's own (class token and patches).
        placement: ``replace`` overwrites the last ``K`` of the image's own tokens, as the equation says. The others
            keep them all and put the prompt behind them, in place of an earlier one.

    Raises:
        ValueError: If ``replace`` would leave no patch.
    """
    kept = num_tokens - prompt.shape[1] if placement is Placement.replace else num_tokens
    if kept < 2:  # the class token and at least one patch
        msg = (
            f"self_prompting.num_prompts must not replace all {num_tokens - 1} patches, got "
            f"{prompt.shape[1]}. Use fewer prompts, or self_prompting.placement=append."
        )
        raise ValueError(msg)
    return torch.cat([tokens[:, :kept], prompt.to(tokens.dtype)], dim=1)
