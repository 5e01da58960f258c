"""The compared methods as loops over single numbers, in float64; slow on purpose."""

import math

import torch
from torch import Tensor


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
