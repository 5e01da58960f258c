"""Pre-train pocket's towers: contrast drawn pictures and their patches with captions, over the maps of a frozen CNN.

python experiments/pocket_clip/pretrain.py --out outputs/pocket_clip
"""

import argparse
import csv
import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float
from learner import Learner, contrast
from measure import measure
from pairs import Pairs, Source, prepare
from safetensors.torch import save_file
from torch import Tensor, nn

from afr_clip.clip.load import check_architecture
from afr_clip.clip.settings import BackboneSettings
from afr_clip.clip.stem import PatchEmbedding
from afr_clip.config.plan import composed_training
from afr_clip.files import written_whole
from drawn_anomalies.pairs.captions import condition_caption

logger = logging.getLogger("pocket_clip")

LARGEST_LOGIT_SCALE = math.log(100.0)
"""As in CLIP (Radford et al., arXiv:2103.00020, section 2.5)."""


LOG_EVERY = 20
"""Steps whose mean losses are logged together."""


class Losses(NamedTuple):
    """The loss terms, before weighting.

    Attributes:
        contrast: Of pictures with a name against captions.
        condition: Of pictures, flawed against whole.
        patch: Of patches, damaged against whole.
    """

    contrast: Float[Tensor, ""]
    condition: Float[Tensor, ""]
    patch: Float[Tensor, ""]


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights.

    Attributes:
        num_pairs: Pairs to train on.
        num_held_out: Pairs with held-out combinations of colour and subject, for measuring.
        seed: Of pictures, captions, initial weights and order.
        coarse_epochs: Epochs in which the tower's blocks see neighbouring patches averaged two by two.
        fine_epochs: Epochs in which they see every patch, at the end; the blocks then cost four times as much.
        batch_size: Pairs per step; those with a name are contrasted with each other.
        lr: Largest learning rate; it rises over the first twentieth of the steps and falls along a cosine to zero.
        weight_decay: Of matrices; embeddings, norms and biases have none.
        condition_weight: Of the loss that tells flawed from whole pictures by their class token.
        patch_weight: Of the loss that tells damaged patches from whole ones.
    """

    num_pairs: int = 36_864
    num_held_out: int = 1_024
    seed: int = 0
    coarse_epochs: int = 5
    fine_epochs: int = 0
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.1
    condition_weight: float = 0.5
    patch_weight: float = 10.0

    @property
    def epochs(self) -> int:
        """All epochs."""
        return self.coarse_epochs + self.fine_epochs


def main() -> None:
    """Draw, train, measure, write the weights."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(**{key: value for key, value in vars(arguments).items() if key in Recipe.__dataclass_fields__})
    settings = _settings()
    size = settings.image_size
    pairs = prepare(
        Source(arguments.out / "pairs", recipe.num_pairs, size, recipe.seed, held_out=False),
        settings,
        arguments.workers,
    )
    held_out = prepare(
        Source(arguments.out / "held_out", recipe.num_held_out, size, recipe.seed, held_out=True),
        settings,
        arguments.workers,
    )
    train(recipe, settings, pairs, held_out, arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for pairs, checkpoint and weights")
    parser.add_argument("--threads", type=int, default=2, help="threads of the training")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=type(default), default=default)
    return parser.parse_args()


def _settings() -> BackboneSettings:
    settings = composed_training("backbone=pocket").backbone
    check_architecture(settings)
    return settings


def new_towers(settings: BackboneSettings, pairs: Pairs, seed: int) -> nn.Module:
    """Build the towers with initial weights; the stem is normalised by the statistics of the pairs.

    Args:
        settings: The backbone.
        pairs: What it will see.
        seed: Of the initial weights.

    Returns:
        An open_clip model whose image tower takes what is seen of patches in place of images.
    """
    torch.manual_seed(seed)
    clip = open_clip.create_model(settings.architecture, force_image_size=settings.image_size)
    sample = pairs.batch(np.linspace(0, len(pairs) - 1, min(2048, len(pairs))).astype(int))
    embedding = PatchEmbedding(sample.shape[1], clip.visual.conv1.out_channels)
    embedding.mean.copy_(sample.mean(dim=(0, 2, 3)))
    embedding.std.copy_(sample.std(dim=(0, 2, 3)).clamp_min(1e-3))
    clip.visual.conv1 = embedding
    return clip


def train(recipe: Recipe, settings: BackboneSettings, pairs: Pairs, held_out: Pairs, out: Path) -> None:
    """Train from the last finished epoch, and write weights and record after every epoch.

    Args:
        recipe: What determines the weights.
        settings: The backbone.
        pairs: To train on.
        held_out: To measure on.
        out: Gets ``resume.pt``, ``clip.safetensors`` (half precision), ``loss.csv``, ``record.json``.
    """
    learner = Learner(new_towers(settings, pairs, recipe.seed), open_clip.get_tokenizer(settings.architecture))
    optimizer = torch.optim.AdamW(_groups(learner, recipe.weight_decay), lr=recipe.lr, betas=(0.9, 0.98))
    steps = recipe.epochs * (len(pairs) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    first, seconds = _resume(out / "resume.pt", recipe, learner, optimizer, schedule)
    for epoch in range(first, recipe.epochs):
        started = time.monotonic()
        pool = 2 if epoch < recipe.coarse_epochs else 1
        losses = []
        for number, indices in enumerate(_order(recipe, len(pairs), epoch)):
            parts = _losses(learner, pairs, indices, pool, np.random.default_rng((recipe.seed, epoch, number)))
            loss = parts.contrast + recipe.condition_weight * parts.condition + recipe.patch_weight * parts.patch
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            learner.clip.logit_scale.data.clamp_(max=LARGEST_LOGIT_SCALE)
            losses.append([part.item() for part in parts])
            if (number + 1) % LOG_EVERY == 0:
                recent = np.round(np.mean(losses[-LOG_EVERY:], axis=0), 4)
                logger.info("Epoch %d, step %d: %s", epoch + 1, number + 1, recent)
        seconds += time.monotonic() - started
        learner.eval()
        figures = measure(learner, pool, held_out)
        learner.train()
        means = zip(Losses._fields, np.mean(losses, axis=0).tolist(), strict=True)
        row = {
            "epoch": epoch + 1,
            "pool": pool,
            **{f"{name}_loss": mean for name, mean in means},
            "seconds": seconds,
            **figures,
        }
        logger.info("%s", {key: round(value, 4) for key, value in row.items()})
        _write(out, recipe, learner, optimizer, schedule, row)


def _losses(learner: Learner, pairs: Pairs, indices: np.ndarray, pool: int, rng: np.random.Generator) -> Losses:
    """Contrast named pictures with the captions; tell flawed from sound pictures and patches, named or not.

    The tower's blocks cost most: half of the pictures go through them, first of all those with a name.
    """
    told = [pairs.told[i] for i in indices]
    named = [place for place, row in enumerate(told) if row["colour"] is not None]
    invented = [place for place, row in enumerate(told) if row["colour"] is None]
    through = named + invented[: max(0, len(told) // 2 - len(named))]
    flip = rng.random() < 0.5
    seen, masks = (part.flip(-1) if flip else part for part in (pairs.batch(indices), pairs.masks_of(indices)))
    captions = [str(told[place]["caption"]) for place in named]
    captions += [_said(rng, told[place], flawed=told[place]["defect"] is None) for place in named]
    both = [_said(rng, row, flawed=flawed) for flawed in (True, False) for row in told]
    texts = learner.texts(captions + both)
    images, patches = learner(seen, pool, through)
    scale = learner.clip.logit_scale.exp()
    contrasted = contrast(images[: len(named)], texts[: len(captions)], _same(captions, len(named)), scale)
    towards = texts[len(captions) :][: len(told)] - texts[len(captions) + len(told) :]
    flawed = torch.tensor([float(told[place]["defect"] is not None) for place in through])
    condition = F.binary_cross_entropy_with_logits(scale * (images * towards[through]).sum(dim=-1), flawed)
    patch = F.binary_cross_entropy_with_logits(learner.locate(patches, towards), masks)
    return Losses(contrasted, condition, patch)


def _said(rng: np.random.Generator, told: Mapping[str, str | None], *, flawed: bool) -> str:
    coloured = told["colour"] is not None and rng.random() < 0.5
    words = f"{told['colour']} {told['subject']}" if coloured else str(told["subject"])
    return condition_caption(rng, words, flawed=flawed)


def _same(captions: Sequence[str], batch: int) -> Float[Tensor, "batch captions"]:
    return torch.tensor([[float(one == other) for other in captions] for one in captions[:batch]])


def _groups(learner: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    def decays(name: str, parameter: Tensor) -> bool:
        return parameter.ndim > 1 and "embedding" not in name

    named = list(learner.named_parameters())
    return [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _order(recipe: Recipe, num_pairs: int, epoch: int) -> list[np.ndarray]:
    order = np.random.default_rng((recipe.seed, epoch)).permutation(num_pairs)
    return list(order[: num_pairs // recipe.batch_size * recipe.batch_size].reshape(-1, recipe.batch_size))


def _resume(
    path: Path,
    recipe: Recipe,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    if state["recipe"] != asdict(recipe):
        msg = f"{path} must be of the same recipe, got {state['recipe']}. Choose another --out."
        raise SystemExit(msg)
    learner.load_state_dict(state["learner"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return int(state["epoch"]), float(state["seconds"])


def _write(
    out: Path,
    recipe: Recipe,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    row: dict[str, float],
) -> None:
    towers = learner.clip.state_dict()
    halves = {name: value.half().contiguous() for name, value in towers.items() if name != "attn_mask"}
    with written_whole(out / "clip.safetensors") as path:
        save_file(halves, path)
    table = out / "loss.csv"
    lines = _lines(table) if table.is_file() else []
    lines = [line for line in lines if int(line["epoch"]) < row["epoch"]] + [row]
    with written_whole(table) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        writer.writeheader()
        writer.writerows(lines)
    with written_whole(out / "record.json") as path:
        path.write_text(json.dumps({"recipe": asdict(recipe), "torch": torch.__version__, "last": row}, indent=2))
    state = {
        "recipe": asdict(recipe),
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": row["epoch"],
        "seconds": row["seconds"],
    }
    with written_whole(out / "resume.pt") as path:
        torch.save(state, path)


def _lines(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
