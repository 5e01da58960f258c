"""The equations of the paper as loops over single numbers, in float64; slow on purpose."""

import math

import torch
from torch import Tensor


def naive_similarity(rectified: Tensor, stateful: Tensor) -> Tensor:
    """Eqs. (7)-(8), (11)-(12): one cosine at a time."""
    batch, patches, dim = rectified.shape
    out = torch.zeros(batch, patches, 2, dtype=torch.float64)
    for b in range(batch):
        for n in range(patches):
            for s in range(2):
                u, v = rectified[b, n].tolist(), stateful[b, s].tolist()
                dot = sum(u[d] * v[d] for d in range(dim))
                out[b, n, s] = dot / (math.sqrt(sum(x * x for x in u)) * math.sqrt(sum(x * x for x in v)))
    return out


def naive_probability(similarity: Tensor, temperature: float) -> Tensor:
    """Eqs. (9), (13)."""
    out = torch.zeros(similarity.shape[:2], dtype=torch.float64)
    for b in range(similarity.shape[0]):
        for n in range(similarity.shape[1]):
            normal, abnormal = (math.exp(value / temperature) for value in similarity[b, n].tolist())
            out[b, n] = abnormal / (abnormal + normal)
    return out


def naive_rectification(cmfr: torch.nn.Module, patch_tokens: Tensor, stateless: Tensor) -> Tensor:
    """Eqs. (3)-(6) for 1 x 1 convolutions, patch by patch, with the whole concatenation."""
    reduce_weight, expand_weight = cmfr.reduce.weight[:, :, 0, 0], cmfr.expand.weight[:, :, 0, 0]
    out = torch.zeros_like(patch_tokens)
    for b in range(patch_tokens.shape[0]):
        for n in range(patch_tokens.shape[1]):
            pair = torch.cat([patch_tokens[b, n], stateless[b]])
            hidden = (reduce_weight @ pair + cmfr.reduce.bias).clamp(min=0)
            gates = 1 / (1 + torch.exp(-(expand_weight @ hidden + cmfr.expand.bias)))
            mixed = cmfr.mix.weight @ gates + cmfr.mix.bias
            image_weight = mixed[: cmfr.dim]
            out[b, n] = stateless[b] + patch_tokens[b, n] * image_weight
    return out


def naive_aggregation(patch_tokens: Tensor, grid_size: tuple[int, int], window: int) -> Tensor:
    """Eqs. (19)-(21): the mean over the patches of a window that exist."""
    height, width = grid_size
    reach = window // 2
    out = torch.zeros_like(patch_tokens)
    for b in range(patch_tokens.shape[0]):
        for y in range(height):
            for x in range(width):
                covered = [
                    patch_tokens[b, yy * width + xx]
                    for yy in range(max(0, y - reach), min(height, y + reach + 1))
                    for xx in range(max(0, x - reach), min(width, x + reach + 1))
                ]
                out[b, y * width + x] = torch.stack(covered).mean(dim=0)
    return out


def naive_upsampling(grid_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Eq. (14): bilinear between patch centres, constant beyond the outermost."""
    height, width = grid_map.shape
    out = torch.zeros(size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * height / size[0] - 0.5, 0), height - 1)
            u = min(max((x + 0.5) * width / size[1] - 0.5, 0), width - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = v - top, u - left
            above = (1 - b) * grid_map[top, left] + b * grid_map[top, right]
            below = (1 - b) * grid_map[bottom, left] + b * grid_map[bottom, right]
            out[y, x] = (1 - a) * above + a * below
    return out
