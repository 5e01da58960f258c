"""AdaCLIP's own parts as loops over blocks, sentences, patches and clusters; slow on purpose."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from afr_clip.clip.backbone import CLIPBackbone


def naive_seeds(points: Tensor, num_seeds: int) -> list[int]:
    """Greedy seeding: try every point as the next seed, keep the first that leaves the least squared distance."""
    rows = points.tolist()
    chosen: list[int] = []
    for _ in range(num_seeds):
        costs = []
        for candidate in range(len(rows)):
            cost = 0.0
            for row in rows:
                cost += min(math.dist(row, rows[seed]) ** 2 for seed in [*chosen, candidate])
            costs.append(cost)
        chosen.append(next(n for n, cost in enumerate(costs) if cost <= min(costs) * 1.0001))
    return chosen


def naive_clusters(points: Tensor, num_clusters: int) -> list[int]:
    """Lloyd's algorithm from those seeds, point by point, until no label changes."""
    rows = points.tolist()
    centres = [rows[seed] for seed in naive_seeds(points, num_clusters)]
    labels: list[int] = []
    while True:
        distances = [[math.dist(row, centre) for centre in centres] for row in rows]
        moved = [row.index(min(row)) for row in distances]
        if moved == labels:
            return labels
        labels = moved
        for k in range(num_clusters):
            members = [row for row, label in zip(rows, labels, strict=True) if label == k]
            if members:
                centres[k] = [sum(column) / len(members) for column in zip(*members, strict=True)]


def naive_fusion(
    class_token: Tensor,
    patch_tokens: Tensor,
    abnormality: Tensor,
    *,
    num_clusters: int,
    num_patches: int,
    weight: float,
) -> Tensor:
    """Fuse one image as the released code does: pool every cluster over its members and all layers, then average."""
    num_layers, total, dim = patch_tokens.shape
    ranked = sorted(range(total), key=lambda n: -abnormality[n].item())[:num_patches]
    points = torch.stack([torch.cat([patch_tokens[layer, n] for layer in range(num_layers)]) for n in ranked])
    labels = naive_clusters(points, min(num_clusters, len(ranked)))
    centres = []
    for k in sorted(set(labels)):
        members = [n for n, label in zip(ranked, labels, strict=True) if label == k]
        seen = [patch_tokens[layer, n] for layer in range(num_layers) for n in members]
        centres.append(sum(seen, torch.zeros(dim, dtype=patch_tokens.dtype)) / len(seen))
    centre = sum(centres, torch.zeros(dim, dtype=patch_tokens.dtype)) / len(centres)
    return weight * centre / centre.norm() + (1 - weight) * class_token


def naive_fusion_of_one_cluster(
    class_token: Tensor, patch_tokens: Tensor, abnormality: Tensor, *, num_clusters: int, weight: float
) -> Tensor:
    """Fuse one image as the paper says: the centre of the cluster whose patches are the most anomalous on average."""
    average = sum(patch_tokens) / len(patch_tokens)
    labels = naive_clusters(average, num_clusters)
    members = {k: [n for n, label in enumerate(labels) if label == k] for k in sorted(set(labels))}
    anomalous = {k: sum(abnormality[n].item() for n in patches) / len(patches) for k, patches in members.items()}
    chosen = members[max(anomalous, key=anomalous.__getitem__)]
    centre = sum(average[n] for n in chosen) / len(chosen)
    return weight * centre / centre.norm() + (1 - weight) * class_token


def naive_prompted_image(backbone: CLIPBackbone, image: Tensor, prompts: Tensor) -> list[Tensor]:
    """Run every block of the image tower on one image; ``prompts`` has one row of tokens per prompted block."""
    depth, length, _ = prompts.shape
    tokens = backbone.clip.visual._embeds(image[None])[0]
    outputs = []
    for i, block in enumerate(backbone.clip.visual.transformer.resblocks):
        if i == 0:
            for k in range(length):
                tokens = torch.cat([tokens, prompts[0, k][None]])
        elif i < depth:
            tokens = tokens.clone()
            for k in range(length):
                tokens[len(tokens) - length + k] = prompts[i, k]
        tokens = block(tokens[None])[0]
        outputs.append(tokens[: len(tokens) - length])
    return outputs


def naive_prompted_sentences(backbone: CLIPBackbone, sentences: Sequence[str], prompts: Tensor) -> Tensor:
    """Embed sentences one by one at their full padded length; words 1 to ``K`` are overwritten from block 2 on."""
    clip = backbone.clip
    depth, length, _ = prompts.shape
    embedded = []
    for ids in backbone.tokenize(sentences):
        tokens = clip.token_embedding(ids) + clip.positional_embedding
        for i, block in enumerate(clip.transformer.resblocks):
            if 0 < i < depth:
                tokens = tokens.clone()
                for k in range(length):
                    tokens[1 + k] = prompts[i, k]
            tokens = block(tokens[None], attn_mask=clip.attn_mask)[0]
        embedded.append(clip.ln_final(tokens)[ids.argmax()] @ clip.text_projection)
    return torch.stack(embedded)
