"""The compared methods as loops over single numbers, in float64; slow on purpose."""

import math

import torch
from torch import Tensor

from helpers.naive_anomaly_clip import naive_attention as value_attention


def naive_april_gan_map(taps: list[Tensor], adapters: torch.nn.ModuleList, text: Tensor, size: int) -> Tensor:
    """One image's map: every patch adapted, normalised, compared, times 100; every pixel interpolated, then softmax."""
    side = math.isqrt(len(taps[0]))
    total = torch.zeros(size, size, dtype=torch.float64)
    for tokens, adapter in zip(taps, adapters, strict=True):
        logits = [[100 * _cosine(adapter.weight @ token + adapter.bias, t) for t in text] for token in tokens]
        for y in range(size):
            for x in range(size):
                normal, abnormal = (_between(logits, side, y, x, size, state) for state in range(2))
                total[y, x] += math.exp(abnormal) / (math.exp(normal) + math.exp(abnormal))
    return total


def naive_window_embeddings(visual: torch.nn.Module, image: Tensor, size: int) -> Tensor:
    """One image's windows, one at a time, token by token, through the modules of open_clip's image tower."""
    patches = visual.conv1(image[None])[0]  # (D_v, h, w)
    _, height, width = patches.shape
    embeddings = []
    for top in range(height - size + 1):
        for left in range(width - size + 1):
            tokens = [visual.class_embedding + visual.positional_embedding[0]]
            for y in range(top, top + size):
                for x in range(left, left + size):
                    tokens.append(patches[:, y, x] + visual.positional_embedding[1 + y * width + x])
            seen = visual.transformer(visual.ln_pre(torch.stack(tokens)[None]))
            embeddings.append(visual.ln_post(seen[0, 0]) @ visual.proj)
    return torch.stack(embeddings)


def naive_window_aggregation(scores: list[float], grid_size: tuple[int, int], size: int) -> Tensor:
    """One image's map: for every patch all windows are asked whether they show it."""
    height, width = grid_size
    corners = [(top, left) for top in range(height - size + 1) for left in range(width - size + 1)]
    out = torch.zeros(height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            inverse = [
                1 / score
                for (top, left), score in zip(corners, scores, strict=True)
                if top <= y < top + size and left <= x < left + size
            ]
            out[y, x] = len(inverse) / sum(inverse)
    return out


def naive_association(seen: Tensor, references: Tensor) -> Tensor:
    """Half of one minus the largest cosine, one pair at a time."""
    return torch.tensor([(1 - max(_cosine(row, reference) for reference in references)) / 2 for row in seen])


def naive_text_behind(clip: torch.nn.Module, ids: Tensor, learned: Tensor) -> Tensor:
    """One sentence whose first words are learned, through the modules of open_clip's text tower over all positions."""
    rows = [clip.token_embedding(token) for token in ids]
    rows[1 : 1 + len(learned)] = list(learned)
    tokens = torch.stack([row + clip.positional_embedding[place] for place, row in enumerate(rows)])[None]
    for block in clip.transformer.resblocks:
        tokens = block(tokens, attn_mask=clip.attn_mask)
    return clip.ln_final(tokens)[0, int(ids.argmax())] @ clip.text_projection


def naive_meta_net(image: Tensor, layers: torch.nn.Sequential) -> Tensor:
    """CoCoOp's small network on one image embedding, one unit at a time."""
    length = math.sqrt((image @ image).item())
    first, _, second = layers
    hidden = [
        max(0.0, sum((weight[d] * image[d] / length).item() for d in range(len(image))) + bias.item())
        for weight, bias in zip(first.weight, first.bias, strict=True)
    ]
    return torch.tensor(
        [sum(w.item() * h for w, h in zip(weight, hidden, strict=True)) + bias.item()
         for weight, bias in zip(second.weight, second.bias, strict=True)]
    )  # fmt: skip


def naive_cross_attention(attention: torch.nn.MultiheadAttention, asking: Tensor, asked: Tensor) -> Tensor:
    """Every head of every token that asks, one at a time."""
    width, num_heads = attention.embed_dim, attention.num_heads
    size = width // num_heads
    weights, biases = attention.in_proj_weight.split(width), attention.in_proj_bias.split(width)
    query, key, value = (
        rows @ weight.T + bias for rows, weight, bias in zip((asking, asked, asked), weights, biases, strict=True)
    )
    out = torch.zeros(len(asking), width)
    for row in range(len(asking)):
        for head in range(num_heads):
            own = slice(head * size, (head + 1) * size)
            share = torch.stack([query[row, own] @ other[own] / math.sqrt(size) for other in key]).softmax(dim=0)
            out[row, own] = sum(part * other[own] for part, other in zip(share, value, strict=True))
    return out @ attention.out_proj.weight.T + attention.out_proj.bias


def naive_context_decoder(decoder: torch.nn.Module, text: Tensor, tokens: Tensor) -> Tensor:
    """What two texts see in one image, layer by layer."""
    seen, found = decoder.image(tokens), decoder.text(text)
    for layer in decoder.layers:
        normed = layer.norm1(found)
        found = found + naive_cross_attention(layer.self_attn, normed, normed)
        found = found + naive_cross_attention(layer.multihead_attn, layer.norm2(found), seen)
        found = found + layer.linear2(torch.nn.functional.gelu(layer.linear1(layer.norm3(found))))
    return decoder.out(found)


def naive_staged_path(visual: torch.nn.Module, image: Tensor, taps: list[int]) -> list[Tensor]:
    """CLIP-AD's local path after each tap: what value attention adds from one tap to the next, block by block."""
    tokens, stage, after = visual._embeds(image), [], []
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        seen = block.ln_1(tokens)
        stage.append(value_attention(block.attn, seen, by_value=True))
        tokens = tokens + value_attention(block.attn, seen, by_value=False)
        tokens = tokens + block.mlp(block.ln_2(tokens))
        if number in taps:
            after.append(sum(stage))
            stage = []
    return after


def naive_feature_surgery(tokens: Tensor, text: Tensor) -> Tensor:
    """What speaks for the abnormal text in each patch of one image: products channel by channel, less their mean."""
    first, *patches = [token / math.sqrt((token @ token).item()) for token in tokens]
    states = [state / math.sqrt((state @ state).item()) for state in text]
    shares = torch.stack([first @ state for state in states]).softmax(dim=0)
    weights = shares / shares.mean()
    found = []
    for patch in patches:
        products = torch.stack([weight * patch * state for weight, state in zip(weights, states, strict=True)])
        found.append((products - products.mean(dim=0))[1].sum())
    return torch.stack(found)


def naive_probabilities(tokens: Tensor, text: Tensor, temperature: float) -> Tensor:
    """One image's tokens against a normal and an abnormal text, one at a time."""
    found = []
    for token in tokens:
        normal, abnormal = (math.exp(_cosine(token, state) / temperature) for state in text)
        found.append(abnormal / (normal + abnormal))
    return torch.tensor(found)


def _cosine(a: Tensor, b: Tensor) -> float:
    return sum((a[d] * b[d]).item() for d in range(len(a))) / math.sqrt((a @ a).item() * (b @ b).item())


def _between(logits: list[list[float]], side: int, y: int, x: int, size: int, state: int) -> float:
    """Bilinear with aligned corners: the first and the last pixel are the first and the last patch."""
    v, u = y * (side - 1) / (size - 1), x * (side - 1) / (size - 1)
    top, left = min(int(v), side - 2), min(int(u), side - 2)
    a, b = v - top, u - left
    value = 0.0
    for dy, share_y in ((0, 1 - a), (1, a)):
        for dx, share_x in ((0, 1 - b), (1, b)):
            value += share_y * share_x * logits[(top + dy) * side + left + dx][state]
    return value
