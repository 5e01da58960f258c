"""The image tower with a second, local stream beside its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from afr_clip.clip.backbone import CLIPBackbone


@dataclass(frozen=True)
class TwoStreams:
    """What both streams say about an image, in the shared space and not normalised.

    Attributes:
        image: The class token of the original stream after the last block, projected **without** ``ln_post``.
        patches: Per layer read out the patches of the local stream, after ``ln_post`` and the projection.
    """

    image: Float[Tensor, "batch embed_dim"]
    patches: tuple[Float[Tensor, "batch patches embed_dim"], ...]


def run_two_streams(
    backbone: CLIPBackbone, image: Float[Tensor, "batch 3 height width"], from_block: int, layers: Sequence[int]
) -> TwoStreams:
    r"""Run the image tower as it is, and beside it a stream that attends by value.

    CLIP's own attention gathers the whole image in few tokens, and patches lose their place. Value attention keeps a
    patch with its likes. The original stream ``h`` runs through the blocks as ever; the local stream ``d`` leaves it in
    front of ``from_block`` and gathers what value attention makes of ``h``. It passes no MLP, and it is never
    attended to.

    .. math::
        d_b = d_{b-1} + \mathrm{Out}_b\bigl(\mathrm{softmax}(V_b V_b^T / \sqrt{d})\, V_b\bigr), \quad
        V_b = \mathrm{Value}_b(\mathrm{LN}_b(h_{b-1})) \qquad \text{AnomalyCLIP, arXiv:2310.18961}

    Args:
        backbone: The frozen towers.
        image: Normalised images of the backbone's input size.
        from_block: First block with value attention, counted from 1.
        layers: Blocks after which the local stream is read out, ascending, none before ``from_block``.

    Returns:
        Both streams, read out.
    """
    local: Tensor = image.new_empty(0)
    taps = []

    def attend_by_value(number: int, tokens: Tensor) -> Tensor:
        nonlocal local
        if number >= from_block:
            block = backbone.clip.visual.transformer.resblocks[number - 1]
            # A new tensor every time: the taps before it must keep what they were.
            start = tokens if number == from_block else local
            local = start + block.ls_1(block.attn.by_value(block.ln_1(tokens)))
            if number in layers:
                taps.append(local)
        return tokens

    (original,) = backbone.tap(image, attend_by_value, layers=(backbone.depth,))
    projection = backbone.clip.visual.proj
    return TwoStreams(original[:, 0] @ projection, tuple(backbone.project(tap[:, 1:]) for tap in taps))
