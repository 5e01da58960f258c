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
from collections.abc import Iterator, Sequence
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
from pairs import Pairs, Shows, Source, prepare
from safetensors.torch import save_file
from torch import Tensor, nn

from afr_clip.clip.load import check_architecture
from afr_clip.clip.settings import BackboneSettings
from afr_clip.clip.stem import COLOURS, PatchEmbedding
from afr_clip.config.plan import composed_training
from afr_clip.files import written_whole
from drawn_anomalies.features import BASES, FEATURES
from drawn_anomalies.pairs.captions import (
    NEUTRAL_NOUNS,
    condition_caption,
    condition_captions,
    draw_frame,
    plain_caption,
)
from drawn_anomalies.pairs.naming import Naming, draw_naming, false_name, true_name
from drawn_anomalies.pairs.pair import MOST_FEATURES, Shown
from drawn_anomalies.pairs.palette import PALETTE

logger = logging.getLogger("pocket_clip")

LARGEST_LOGIT_SCALE = math.log(100.0)
"""As in CLIP (Radford et al., arXiv:2103.00020, section 2.5)."""

LOG_EVERY = 20
"""Steps whose mean losses are logged together."""

PATCHES_PER_STEP = 25_600
"""Patches of a batch: 64 pictures of 160 px, or 16 of 320 px."""

COLOUR_GAIN = 8.0
"""Of the first weights of the patches' colours."""

NAMES_PER_PICTURE = 2
"""Names under which each picture is judged in a step."""

FEATURE_GAIN = 4.0
"""Weight of the mean over the features in the dense loss; each of them is seldom there."""

PLAIN = {base.words for base in BASES}
"""Subjects whose every feature is known."""

FALSE_NAMES = 2
"""Captions of each named picture that are wrong in one word."""


class Losses(NamedTuple):
    """The loss terms, before weighting.

    Attributes:
        contrast: Of pictures with a name against captions.
        word: Of pictures with a name against single words for their colour and their features.
        condition: Of pictures, flawed against whole under a name.
        patch: Of patches, likewise.
        dense: Of patches, damage and features without words.
        colour: Of pictures with a name, their colour without words.
    """

    contrast: Float[Tensor, ""]
    word: Float[Tensor, ""]
    condition: Float[Tensor, ""]
    patch: Float[Tensor, ""]
    dense: Float[Tensor, ""]
    colour: Float[Tensor, ""]


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights.

    Attributes:
        num_small: Pictures of 160 px to train on.
        num_medium: Pictures of 224 px.
        num_large: Pictures of 320 px.
        num_held_out: Pictures of each measured kind at 160 px; half as many at 320 px.
        seed: Of pictures, captions, initial weights and order.
        epochs: How often each picture is seen, under other names every time.
        coarse_share: Share of the steps in which the tower's blocks see a hundred to two hundred averaged patches;
            in the others they see four times as many.
        lr: Largest learning rate.
        weight_decay: Of matrices; embeddings, norms and biases have none.
        word_weight: Of the loss that names colour and features one by one.
        condition_weight: Of the loss that tells flawed from whole pictures by their class token.
        patch_weight: Of the loss that tells damaged patches from whole ones under a name.
        dense_weight: Of the loss that tells damage and features without words; it needs no text tower that knows
            something yet.
        colour_weight: Of the loss that tells colours without words.
        colour_epochs: How many of the last epochs have it. Colours learned first hide the features.
    """

    num_small: int = 36_864
    num_medium: int = 1_024
    num_large: int = 3_072
    num_held_out: int = 512
    seed: int = 0
    epochs: int = 3
    coarse_share: float = 0.8
    lr: float = 2e-3
    weight_decay: float = 0.1
    word_weight: float = 0.5
    condition_weight: float = 0.5
    patch_weight: float = 10.0
    dense_weight: float = 10.0
    colour_weight: float = 0.5
    colour_epochs: int = 1


class Drawn(NamedTuple):
    """The pictures by size, and those that are measured, by what they show and size."""

    training: list[Pairs]
    held_out: dict[str, Pairs]


def main() -> None:
    """Draw, train, measure, write the weights."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(**{key: value for key, value in vars(arguments).items() if key in Recipe.__dataclass_fields__})
    settings = composed_training("backbone=pocket").backbone
    train(recipe, settings, drawn(recipe, settings, arguments.out, arguments.workers), arguments.out)


def drawn(recipe: Recipe, settings: BackboneSettings, out: Path, num_workers: int) -> Drawn:
    """Draw all pictures below ``out`` that are not there yet."""

    def prepared(name: str, count: int, size: int, shows: Shows = Shows.everything) -> Pairs:
        return prepare(Source(out / f"{name}_{size}", count, size, recipe.seed, shows), settings, num_workers)

    counts = {160: recipe.num_small, 224: recipe.num_medium, 320: recipe.num_large}
    training = [prepared("pairs", count, size) for size, count in counts.items() if count]
    held_out = {
        f"{shows.value}_{size}": prepared(shows.value, recipe.num_held_out * 160 // size, size, shows)
        for shows, size in ((Shows.unseen_colours, 160), (Shows.unseen_names, 160), (Shows.unseen_names, 320))
    }
    return Drawn(training, held_out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures, checkpoint and weights")
    parser.add_argument("--threads", type=int, default=2, help="threads of the training")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    for name, default in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=type(default), default=default)
    return parser.parse_args()


def new_towers(settings: BackboneSettings, training: Sequence[Pairs], seed: int) -> nn.Module:
    """Build the towers with initial weights; the stem is normalised by the statistics of the pictures.

    Args:
        training: What it will see.
        seed: Of the initial weights.

    Returns:
        An open_clip model whose image tower takes what is seen of patches in place of images.
    """
    check_architecture(settings)
    torch.manual_seed(seed)
    clip = open_clip.create_model(settings.architecture, force_image_size=settings.image_size)
    samples = [pairs.batch(np.linspace(0, len(pairs) - 1, min(512, len(pairs))).astype(int)) for pairs in training]
    patches = torch.cat([sample.transpose(0, 1).flatten(1) for sample in samples], dim=1)
    embedding = PatchEmbedding(len(patches), clip.visual.conv1.out_channels)
    embedding.mean.copy_(patches.mean(dim=1))
    embedding.std.copy_(patches.std(dim=1).clamp_min(1e-3))
    with torch.no_grad():  # at equal weights a few channels of colour are lost among hundreds of texture
        embedding.project.weight[:, :COLOURS] *= COLOUR_GAIN
    clip.visual.conv1 = embedding
    return clip


def train(recipe: Recipe, settings: BackboneSettings, pictures: Drawn, out: Path) -> None:
    """Train from the last finished epoch, and write weights and record after every epoch.

    Args:
        recipe: What determines the weights.
        settings: The backbone.
        pictures: To train and to measure on.
        out: Gets ``resume.pt``, ``clip.safetensors`` (half precision), ``loss.csv``, ``record.json``.
    """
    training = pictures.training
    learner = Learner(new_towers(settings, training, recipe.seed), open_clip.get_tokenizer(settings.architecture))
    optimizer = torch.optim.AdamW(_groups(learner, recipe.weight_decay), lr=recipe.lr, betas=(0.9, 0.98), fused=True)
    steps = recipe.epochs * len(list(_order(recipe, training, 0)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    first, seconds = _resume(out / "resume.pt", recipe, learner, optimizer, schedule)
    for epoch in range(first, recipe.epochs):
        started = time.monotonic()
        losses = []
        for number, (pairs, indices) in enumerate(_order(recipe, training, epoch)):
            rng = np.random.default_rng((recipe.seed, epoch, number))
            with torch.autocast("cpu", torch.bfloat16):
                parts = _losses(learner, pairs, indices, _pool(pairs, recipe, rng), rng)
            loss = (
                parts.contrast
                + recipe.word_weight * parts.word
                + recipe.condition_weight * parts.condition
                + recipe.patch_weight * parts.patch
                + recipe.dense_weight * parts.dense
            )
            if epoch >= recipe.epochs - recipe.colour_epochs:
                loss = loss + recipe.colour_weight * parts.colour
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
        figures = measure(learner, pictures.held_out)
        learner.train()
        means = zip(Losses._fields, np.mean(losses, axis=0).tolist(), strict=True)
        row = {"epoch": epoch + 1, **{f"{name}_loss": mean for name, mean in means}, "seconds": seconds, **figures}
        logger.info("%s", {key: round(value, 4) for key, value in row.items()})
        _write(out, recipe, learner, (optimizer, schedule), pictures, row)


def _pool(pairs: Pairs, recipe: Recipe, rng: np.random.Generator) -> int:
    coarse = pairs.grid // 10
    return coarse if rng.random() < recipe.coarse_share else coarse // 2


def _losses(learner: Learner, pairs: Pairs, indices: np.ndarray, pool: int, rng: np.random.Generator) -> Losses:
    """Contrast named pictures with captions; tell flawed from whole pictures and patches, under names that differ.

    The tower's blocks cost most: half of the pictures go through them, first of all those with a name.
    """
    shown = [pairs.shown[i] for i in indices]
    named = [place for place, one in enumerate(shown) if one.subject is not None]
    invented = [place for place, one in enumerate(shown) if one.subject is None]
    through = (named + invented)[: max(len(named), len(shown) // 2)]
    names = [[draw_naming(rng, one) for _ in range(NAMES_PER_PICTURE)] for one in shown]
    right, wrong = _captions(rng, [shown[place] for place in named])
    states = [
        condition_caption(rng, name.words, flawed=flawed) for flawed in (True, False) for two in names for name in two
    ]
    words = word_captions(str(rng.choice(NEUTRAL_NOUNS)))
    texts = learner.texts(right + wrong + states + words)
    seen, masks = pairs.batch(indices), pairs.masks_of(indices)
    if rng.random() < 0.5:
        seen, masks = seen.flip(-1), masks.flip(-1)
    images, patches, dense, colours = learner(seen, pool, through)
    with torch.autocast("cpu", enabled=False):
        scale = learner.clip.logit_scale.exp()
        captions = right + wrong
        contrasted = word = colour = images.new_zeros(())
        if named:  # nearly always: a batch holds few pictures of 320 px
            contrasted = contrast(images[: len(named)], texts[: len(captions)], _same(captions, len(named)), scale)
            of_words = scale * images[: len(named)] @ texts[-len(words) :].T
            word = told_by_words(of_words, [shown[place] for place in named])
            own = torch.tensor([list(PALETTE).index(str(shown[row].colour)) for row in named])
            colour = F.cross_entropy(colours[named], own, reduction="sum") / len(shown)
        flawed, whole = texts[len(captions) : -len(words)].unflatten(0, (2, len(shown), NAMES_PER_PICTURE))
        towards = flawed - whole
        truth, told = judged(masks, names)
        patch = F.binary_cross_entropy_with_logits(learner.locate(patches, towards), truth, weight=told)
        is_flawed, is_told = _conditions(shown, names)
        logits = scale * torch.einsum("bd,bnd->bn", images, towards[through])
        condition = F.binary_cross_entropy_with_logits(logits, is_flawed[through], weight=is_told[through])
        found = dense_loss(dense, masks, shown)
    return Losses(contrasted, word, condition, patch, found, colour)


def told_by_words(logits: Float[Tensor, "batch words"], shown: Sequence[Shown]) -> Float[Tensor, ""]:
    """Return the cross-entropies of the colour and, where a picture has some, of its features, which share the weight.

    Contrast with whole names alone leaves colours unlearned for many epochs: two pictures of a batch seldom show one
    subject in two colours.

    Args:
        logits: Of the captions of ``word_captions``.
    """
    colours, features = list(PALETTE), list(FEATURES)
    of_colours, of_features = logits.split([len(colours), len(features)], dim=1)
    own = torch.tensor([colours.index(str(one.colour)) for one in shown])
    has = torch.zeros_like(of_features)
    for row, one in enumerate(shown):
        has[row, [features.index(adjective) for adjective, _ in one.features]] = 1
    some = has.any(dim=1)
    share = has[some] / has[some].sum(dim=1, keepdim=True)
    found = -(share * of_features[some].log_softmax(dim=1)).sum(dim=1)
    return F.cross_entropy(of_colours, own) + found.sum() / len(shown)


def dense_loss(
    logits: Float[Tensor, "batch kinds h w"], masks: Float[Tensor, "batch layers rows columns"], shown: Sequence[Shown]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of damage in each patch, and the mean over the features of theirs.

    Patches under a feature leave damage open unless they have some. Features are known of plain things alone.
    """
    damage, features = logits.split([1, len(FEATURES)], dim=1)
    inside = F.adaptive_avg_pool2d(masks, logits.shape[-2:])
    defect, covered = inside[:, :1], inside[:, 1:].amax(dim=1, keepdim=True)
    loss = F.binary_cross_entropy_with_logits(damage, defect, weight=torch.maximum(1 - covered, defect))
    plain = [row for row, one in enumerate(shown) if one.subject in PLAIN]
    if not plain:
        return loss
    numbers = {adjective: number for number, adjective in enumerate(FEATURES)}
    truth = torch.zeros_like(features[plain])
    for place, row in enumerate(plain):
        for layer, (adjective, _) in enumerate(shown[row].features, start=1):
            truth[place, numbers[adjective]] = inside[row, layer]
    of_features = F.binary_cross_entropy_with_logits(features[plain], truth)
    return loss + FEATURE_GAIN * of_features * len(plain) / len(shown)


def judged(
    masks: Float[Tensor, "batch layers rows columns"], names: Sequence[Sequence[Naming]]
) -> tuple[Float[Tensor, "batch names rows columns"], Float[Tensor, "batch names rows columns"]]:
    """Judge every cell under every name.

    Returns:
        The share of it that is flawed, and its weight: 0 where the name leaves open what is there.
    """
    flawed, left_open = (
        torch.tensor([[_padded(name, state) for name in two] for two in names]) for state in (False, None)
    )
    defect, features = masks[:, None, 0], masks[:, None, 1:]
    truth = torch.maximum(defect, (features * flawed[..., None, None]).amax(dim=2))
    unknown = (features * left_open[..., None, None]).amax(dim=2)
    return truth, torch.maximum(1 - unknown, defect)


def _padded(name: Naming, state: bool | None) -> list[float]:
    found = [float(belongs is state) for belongs in name.belongs]
    return found + [0.0] * (MOST_FEATURES - len(found))


def _conditions(
    shown: Sequence[Shown], names: Sequence[Sequence[Naming]]
) -> tuple[Float[Tensor, "batch names"], Float[Tensor, "batch names"]]:
    """Return whether each picture is flawed under each name, and 0 where that is open."""
    flawed = [
        [one.defect is not None or False in name.belongs for name in two] for one, two in zip(shown, names, strict=True)
    ]
    told = [
        [bad or None not in name.belongs for bad, name in zip(bads, two, strict=True)]
        for bads, two in zip(flawed, names, strict=True)
    ]
    return torch.tensor(flawed).float(), torch.tensor(told).float()


def _captions(rng: np.random.Generator, shown: Sequence[Shown]) -> tuple[list[str], list[str]]:
    """Return a right caption of every picture, and captions that are wrong in one word, the condition among them."""
    right, wrong = [], []
    for one in shown:
        frame, opposite = draw_frame(rng, one.defect)
        name = true_name(rng, one)
        right.append(frame.format(name))
        wrong += [frame.format(false_name(rng, one)) for _ in range(FALSE_NAMES)]
        wrong += [] if opposite is None else [opposite.format(name)]
    return right, wrong


def word_captions(noun: str) -> list[str]:
    """Return a caption for each colour, then for each feature, of something without a name of its own."""
    return [plain_caption(noun, word) for word in (*PALETTE, *FEATURES)]


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
    """Rise over a fifteenth, fall to a half until two thirds, then to zero."""
    warm = max(1, steps // 15)
    if step < warm:
        return (step + 1) / warm
    slow = (step - warm) / max(1, 4 * steps // 3 - warm)
    half = 0.5 * (1 + math.cos(math.pi * min(0.5, slow)))
    return half * 0.5 * (1 + math.cos(math.pi * max(0.0, 3 * step / steps - 2)))


def _order(recipe: Recipe, training: Sequence[Pairs], epoch: int) -> Iterator[tuple[Pairs, np.ndarray]]:
    """Return the batches of an epoch, each of pictures of one size."""
    rng = np.random.default_rng((recipe.seed, epoch))
    batches = []
    for pairs in training:
        size = max(1, PATCHES_PER_STEP // pairs.grid**2)
        size = min(size, len(pairs))
        order = rng.permutation(len(pairs))
        batches += [(pairs, part) for part in order[: len(pairs) // size * size].reshape(-1, size)]
    return iter([batches[i] for i in rng.permutation(len(batches))])


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
    driving: tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR],
    pictures: Drawn,
    row: dict[str, float],
) -> None:
    towers = learner.clip.state_dict()
    with torch.no_grad():
        captions = [caption for one in pictures.training[0].shown[:256] for caption in condition_captions(_said(one))]
        of_patches, of_texts = learner.lengths(pictures.training[0].batch(np.arange(16)), captions)
    # Cosines ignore it, but AFR-CLIP multiplies and adds both, so neither may dominate.
    towers["text_projection"] = towers["text_projection"] * (of_patches / of_texts)
    row = {**row, "token_length": of_patches, "text_length": of_texts}
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
        "optimizer": driving[0].state_dict(),
        "schedule": driving[1].state_dict(),
        "epoch": row["epoch"],
        "seconds": row["seconds"],
    }
    with written_whole(out / "resume.pt") as path:
        torch.save(state, path)


def _said(shown: Shown) -> str:
    return shown.subject or "object"


def _lines(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
