"""What AnomalyCLIP does to CLIP's towers as loops over single tokens, in float64; slow on purpose."""

import copy
import math

import torch
from torch import Tensor

from afr_clip.clip.backbone import CLIPBackbone


def naive_attention(attention: torch.nn.Module, tokens: Tensor, *, by_value: bool) -> Tensor:
    """One token looks at one other at a time, head by head; by value, values are their own queries and keys."""
    dim, num_heads = tokens.shape[-1], attention.num_heads
    size = dim // num_heads
    out = torch.zeros_like(tokens)
    for b in range(tokens.shape[0]):
        projected = tokens[b] @ attention.in_proj_weight.T + attention.in_proj_bias  # (T, 3 D)
        query, key, value = projected[:, :dim], projected[:, dim : 2 * dim], projected[:, 2 * dim :]
        if by_value:
            query = key = value
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(tokens.shape[1]):
                likeness = [float(query[i, part] @ key[j, part]) / math.sqrt(size) for j in range(tokens.shape[1])]
                total = sum(math.exp(value) for value in likeness)
                for j, alike in enumerate(likeness):
                    out[b, i, part] += math.exp(alike) / total * value[j, part]
    return out @ attention.out_proj.weight.T + attention.out_proj.bias


def naive_two_streams(
    backbone: CLIPBackbone, image: Tensor, from_block: int, *, mlp_on_local: bool = False, values_of: str = "original"
) -> tuple[Tensor, list[Tensor]]:
    """The original stream after the last block, and the local stream after each block from ``from_block`` on.

    ``mlp_on_local=True`` and ``values_of="local"`` are two readings that AnomalyCLIP's is not.
    """
    visual = copy.deepcopy(backbone.clip.visual).double()
    h = visual._embeds(image.double())
    d, after = None, []
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        seen = block.ln_1(h)
        if number >= from_block:
            d = h if d is None else d
            source = seen if values_of == "original" else block.ln_1(d)
            d = d + naive_attention(block.attn, source, by_value=True)
            if mlp_on_local:
                d = d + block.mlp(block.ln_2(d))
            after.append(d)
        h = h + naive_attention(block.attn, seen, by_value=False)
        h = h + block.mlp(block.ln_2(h))
    return h, after


def naive_learned_sentence(backbone: CLIPBackbone, ending: str, context: Tensor, deep: Tensor) -> Tensor:
    """Embed one sentence: all 77 positions, learned words and then deep tokens written over positions one at a time."""
    clip = copy.deepcopy(backbone.clip).double()
    ids = backbone.tokenize([" ".join(["X"] * len(context)) + " " + ending])[0]
    tokens = clip.token_embedding(ids)
    for i, word in enumerate(context.double()):
        tokens[1 + i] = word
    tokens = tokens + clip.positional_embedding
    for number, block in enumerate(clip.transformer.resblocks, start=1):
        if 2 <= number < 2 + len(deep):
            tokens = tokens.clone()
            for i, token in enumerate(deep[number - 2].double()):
                tokens[1 + i] = token
        tokens = block(tokens[None], attn_mask=clip.attn_mask)[0]
    return clip.ln_final(tokens[int(ids.argmax())]) @ clip.text_projection
