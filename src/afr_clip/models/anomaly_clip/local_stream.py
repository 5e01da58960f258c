"""The local stream next to the image tower's own, which keeps patches at their place."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from afr_clip.clip.backbone import CLIPBackbone


def run_local_stream(
    backbone: CLIPBackbone,
    image: Float[Tensor, "batch 3 height width"],
    first_block: int,
    layers: Sequence[int],
    read: Callable[[Tensor], Tensor],
) -> tuple[Float[Tensor, "batch dim"], list[Float[Tensor, "batch _ dim"]]]:
    r"""Run the frozen image tower, and next to it a local stream that attends by value.

    CLIP's own attention gathers the whole image in few tokens, and patches lose their place. Value attention keeps a
    patch with similar ones. The original stream ``h`` runs as always; the local stream ``d`` leaves it in front of the
    first local block and adds what value attention makes of ``h``. It passes no MLP, and ``h`` never attends to it.

    .. math::
        d_b = d_{b-1} + \mathrm{Out}_b\bigl(\mathrm{softmax}(V_b V_b^T / \sqrt{d})\, V_b\bigr), \quad
        V_b = \mathrm{Value}_b(\mathrm{LN}_b(h_{b-1})) \qquad \text{AnomalyCLIP, arXiv:2310.18961}

    Args:
        first_block: The first block with value attention, counted from 1.
        layers: Blocks after which the local stream is read out.
        read: Chooses among its tokens.

    Returns:
        The image's own embedding, without ``ln_post`` where it is a class token; then what was read of the local stream
        after each layer, with ``ln_post`` and projection. None is normalised.
    """
    local: Tensor = image.new_empty(0)
    read_out = []

    def attend_by_value(number: int, tokens: Tensor) -> Tensor:
        nonlocal local
        if number >= first_block:
            # A new tensor every time: what was read out before must not change.
            local = (tokens if number == first_block else local) + backbone.tower.by_value(number, tokens)
            if number in layers:
                read_out.append(backbone.project(read(local)))
        return tokens

    (original,) = backbone.tap(image, attend_by_value, layers=(backbone.depth,))
    return backbone.embed_image(original, norm=False), read_out
