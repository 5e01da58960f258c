"""Pre-train pocket's towers: contrast drawn pictures with their captions, over the maps of a frozen CNN.

python experiments/pocket_clip/pretrain.py --out outputs/pocket_clip
"""

import argparse
import csv
import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from jaxtyping import Float, Int
from measure import measure
from pairs import Pairs, Source, prepare
from safetensors.torch import save_file
from torch import Tensor, nn

from afr_clip.clip.load import check_architecture
from afr_clip.clip.settings import BackboneSettings
from afr_clip.clip.stem import PatchProjection
from afr_clip.config.assemble import build
from afr_clip.config.command import config_dir
from afr_clip.config.schema import register
from afr_clip.data.procedural.pairs.captions import FLAWED_PHRASES, TEMPLATES, WHOLE_PHRASES
from afr_clip.files import written_whole

logger = logging.getLogger("pocket_clip")

LARGEST_LOGIT_SCALE = math.log(100.0)
"""As in CLIP (Radford et al., arXiv:2103.00020, section 2.5)."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights.

    Attributes:
        num_pairs: Pairs to train on.
        num_held_out: Pairs with held-out combinations of colour and subject, for measuring.
        seed: Of pictures, captions, initial weights and order.
        coarse_epochs: Epochs in which neighbouring patches are averaged two by two: a quarter of the tokens.
        fine_epochs: Epochs with every patch, at the end; each costs four times as much.
        batch_size: Pairs contrasted with each other.
        lr: Largest learning rate; it rises over the first twentieth of the steps and falls along a cosine to zero.
        weight_decay: Of matrices; embeddings, norms and biases have none.
    """

    num_pairs: int = 12_288
    num_held_out: int = 1_024
    seed: int = 0
    coarse_epochs: int = 8
    fine_epochs: int = 0
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.1

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
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        settings: BackboneSettings = build(compose(overrides=["+backbone=pocket"]).backbone)
    check_architecture(settings)
    return settings


def new_towers(settings: BackboneSettings, pairs: Pairs, seed: int) -> nn.Module:
    """Build the towers with initial weights; the stem is normalised by the statistics of the pairs.

    Args:
        settings: The backbone.
        pairs: What it will see.
        seed: Of the initial weights.

    Returns:
        An open_clip model whose image tower takes aligned maps in place of images.
    """
    torch.manual_seed(seed)
    clip = open_clip.create_model(settings.architecture, force_image_size=settings.image_size)
    sample = pairs.batch(np.linspace(0, len(pairs) - 1, min(2048, len(pairs))).astype(int))
    stem = PatchProjection(sample.shape[1], clip.visual.conv1.out_channels)
    stem.mean.copy_(sample.mean(dim=(0, 2, 3)))
    stem.std.copy_(sample.std(dim=(0, 2, 3)).clamp_min(1e-3))
    clip.visual.conv1 = stem
    return clip


def embed_maps(clip: nn.Module, maps: Float[Tensor, "batch channels h w"], pool: int) -> Float[Tensor, "batch dim"]:
    """Embed pictures through the image tower, neighbouring patches averaged ``pool`` by ``pool``.

    Args:
        clip: Towers of ``new_towers``.
        maps: Aligned maps.
        pool: 1 for every patch.

    Returns:
        Unit vectors.
    """
    visual = clip.visual
    if pool == 1:
        return F.normalize(clip.encode_image(maps), dim=-1)
    patches = visual.conv1(F.avg_pool2d(maps, pool)).flatten(2).transpose(1, 2)  # (B, N / pool², D_v)
    place = visual.positional_embedding
    grid = place[1:].T.reshape(1, -1, *visual.grid_size)
    places = F.avg_pool2d(grid, pool).flatten(2).transpose(1, 2)
    first = (visual.class_embedding + place[0]).expand(len(maps), 1, -1)
    tokens = visual.ln_pre(torch.cat([first, patches + places], dim=1))
    pooled, _ = visual._pool(visual.transformer(tokens))
    return F.normalize(pooled @ visual.proj, dim=-1)


def contrast(
    images: Float[Tensor, "batch dim"],
    texts: Float[Tensor, "captions dim"],
    same: Float[Tensor, "batch captions"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Contrast every picture with all captions, and every caption that is right for some picture with all pictures.

    Args:
        images: Unit vectors.
        texts: Unit vectors; behind the pictures' own captions come captions of the opposite condition.
        same: 1 where a caption is a picture's own or reads the same.
        scale: Inverse temperature.

    Returns:
        The mean of both cross-entropies; captions that read the same share their weight.
    """
    logits = scale * images @ texts.T
    by_image = -(same / same.sum(dim=1, keepdim=True) * logits.log_softmax(dim=1)).sum(dim=1).mean()
    right = same.sum(dim=0) > 0
    by_text = -(same / same.sum(dim=0).clamp_min(1) * logits.log_softmax(dim=0)).sum(dim=0)[right].mean()
    return (by_image + by_text) / 2


def train(recipe: Recipe, settings: BackboneSettings, pairs: Pairs, held_out: Pairs, out: Path) -> None:
    """Train from the last finished epoch on, and write weights and record after every epoch.

    Args:
        recipe: What determines the weights.
        settings: The backbone.
        pairs: To train on.
        held_out: To measure on.
        out: Gets ``resume.pt``, ``clip.safetensors`` (half precision), ``loss.csv``, ``record.json``.
    """
    clip = new_towers(settings, pairs, recipe.seed)
    optimizer = torch.optim.AdamW(_groups(clip, recipe.weight_decay), lr=recipe.lr, betas=(0.9, 0.98))
    steps = recipe.epochs * (len(pairs) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    first, seconds = _resume(out / "resume.pt", recipe, clip, optimizer, schedule)
    tokenizer = open_clip.get_tokenizer(settings.architecture)
    for epoch in range(first, recipe.epochs):
        started = time.monotonic()
        pool = 2 if epoch < recipe.coarse_epochs else 1
        losses = []
        for number, indices in enumerate(_order(recipe, len(pairs), epoch)):
            loss = _step(clip, pairs, indices, pool, tokenizer, (recipe.seed, epoch, number))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            clip.logit_scale.data.clamp_(max=LARGEST_LOGIT_SCALE)
            losses.append(loss.item())
        seconds += time.monotonic() - started
        clip.eval()
        figures = measure(lambda maps, pool=pool: embed_maps(clip, maps, pool), clip, tokenizer, held_out)
        clip.train()
        row = {"epoch": epoch + 1, "pool": pool, "loss": float(np.mean(losses)), "seconds": seconds, **figures}
        logger.info("%s", {key: round(value, 4) for key, value in row.items()})
        _write(out, recipe, clip, optimizer, schedule, row)


def _step(
    clip: nn.Module, pairs: Pairs, indices: np.ndarray, pool: int, tokenizer: object, seed: tuple[int, ...]
) -> Float[Tensor, ""]:
    rng = np.random.default_rng(seed)
    told = [pairs.told[i] for i in indices]
    captions = [str(row["caption"]) for row in told]
    captions += [opposite_caption(rng, row) for row in told]
    numbers: dict[str, int] = {}
    known = torch.tensor([numbers.setdefault(caption, len(numbers)) for caption in captions])
    maps = pairs.batch(indices)
    if rng.random() < 0.5:
        maps = maps.flip(-1)
    images = embed_maps(clip, maps, pool)
    texts = F.normalize(clip.encode_text(tokenizer(list(numbers))), dim=-1)[known]
    return contrast(images, texts, _same(known, len(indices)), clip.logit_scale.exp())


def opposite_caption(rng: np.random.Generator, told: Mapping[str, str | None]) -> str:
    """Say of a picture what is wrong about its condition, and right otherwise.

    Args:
        rng: Chooses the words.
        told: What is known of the picture.
    """
    phrases = FLAWED_PHRASES if told["defect"] is None else WHOLE_PHRASES
    words = f"{told['colour']} {told['subject']}" if rng.random() < 0.5 else str(told["subject"])
    return str(rng.choice(TEMPLATES)).format(str(rng.choice(phrases)).format(words))


def _same(known: Int[Tensor, " captions"], batch: int) -> Float[Tensor, "batch captions"]:
    return (known[:batch, None] == known[None]).float()


def _groups(clip: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    def decays(name: str, parameter: Tensor) -> bool:
        return parameter.ndim > 1 and "embedding" not in name

    named = list(clip.named_parameters())
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
    clip: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    if state["recipe"] != asdict(recipe):
        msg = f"{path} must be of the same recipe, got {state['recipe']}. Choose another --out."
        raise SystemExit(msg)
    clip.load_state_dict(state["clip"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return int(state["epoch"]), float(state["seconds"])


def _write(
    out: Path,
    recipe: Recipe,
    clip: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    row: dict[str, float],
) -> None:
    halves = {name: value.half().contiguous() for name, value in clip.state_dict().items() if name != "attn_mask"}
    with written_whole(out / "clip.safetensors") as path:
        save_file(halves, path)
    table = out / "loss.csv"
    lines = list(csv.DictReader(table.open())) if table.is_file() else []
    lines = [line for line in lines if int(line["epoch"]) < row["epoch"]] + [row]
    with written_whole(table) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        writer.writeheader()
        writer.writerows(lines)
    with written_whole(out / "record.json") as path:
        path.write_text(json.dumps({"recipe": asdict(recipe), "torch": torch.__version__, "last": row}, indent=2))
    state = {
        "recipe": asdict(recipe),
        "clip": clip.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": row["epoch"],
        "seconds": row["seconds"],
    }
    with written_whole(out / "resume.pt") as path:
        torch.save(state, path)


if __name__ == "__main__":
    main()
