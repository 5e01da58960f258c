"""Draw pictures once, and store the frozen CNN's features, the masks of defect and features, and what is known."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from enum import Enum
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from afr_clip.clip.cnn import load_cnn
from afr_clip.clip.settings import BackboneSettings
from afr_clip.clip.stem import PatchView
from afr_clip.files import written_whole
from drawn_anomalies.pairs.pair import MOST_FEATURES, Pair, Shown, draw_featured, draw_named, draw_pair

logger = logging.getLogger(__name__)

SEEN, MASKS, SHOWN = "seen.npy", "masks.npy", "shown.json"
"""A chunk's files; what is known is written last."""

CHUNK = 256
"""Pictures per file; a chunk is drawn whole or not at all, so that an interrupted run can resume."""

PATCH_SIZE = 8
"""Side of a patch in pixels, as in pocket's architecture."""

MASK_SCALE = 4
"""Pixels per side of a cell of the masks that are kept: four cells per patch."""

BATCH = 16
"""Pictures per forward pass of the CNN."""


class Shows(Enum):
    """What the pictures of a source show."""

    everything = "everything"
    unseen_colours = "unseen_colours"
    unseen_names = "unseen_names"


@dataclass(frozen=True)
class Source:
    """Which pictures are drawn.

    Attributes:
        folder: Where they are kept.
        num_pairs: How many; rounded up to whole chunks.
        size: Side of a picture in pixels.
        seed: Another seed gives other pictures throughout.
        shows: Training shows everything but the combinations of colour and subject, and of feature and thing, that
            are held out; the others show only these.
    """

    folder: Path
    num_pairs: int
    size: int
    seed: int
    shows: Shows = Shows.everything

    @property
    def num_chunks(self) -> int:
        """Files that hold the pictures."""
        return -(-self.num_pairs // CHUNK)


@dataclass(frozen=True)
class Pairs:
    """Pictures of one size, as the training reads them.

    Attributes:
        seen: Per chunk what is seen of each patch, ``(CHUNK, C, h, w)`` in half precision, mapped from disk.
        masks: Per chunk the share of each cell that the defect covers, then each feature, ``(CHUNK, 1 + F, 2 h, 2 w)``;
            255 for all of it.
        shown: What is known of each picture.
    """

    seen: list[np.ndarray]
    masks: list[np.ndarray]
    shown: list[Shown]

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.shown)

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.seen[0].shape[-1]

    def batch(self, indices: np.ndarray) -> Float[Tensor, "batch channels h w"]:
        """Read what is seen of some pictures, in single precision."""
        return torch.from_numpy(_rows(self.seen, indices)).float()

    def masks_of(self, indices: np.ndarray) -> Float[Tensor, "batch layers rows columns"]:
        """Read the masks of some pictures: shares in [0, 1]."""
        return torch.from_numpy(_rows(self.masks, indices)).float() / 255


def _rows(chunks: list[np.ndarray], indices: np.ndarray) -> np.ndarray:
    return np.stack([chunks[i // CHUNK][i % CHUNK] for i in indices])


def prepare(source: Source, settings: BackboneSettings, num_workers: int) -> Pairs:
    """Draw what is missing, and open everything.

    Args:
        settings: The backbone; its CNN looks at the pictures.
        num_workers: Processes that draw.
    """
    source.folder.mkdir(parents=True, exist_ok=True)
    missing = [chunk for chunk in range(source.num_chunks) if not _path(source, chunk, SHOWN).is_file()]
    if missing:
        logger.info("Drawing %d chunks of %d pictures into %s.", len(missing), CHUNK, source.folder)
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(draw_chunk, source, settings, chunk) for chunk in missing]
            for done, job in enumerate(jobs, start=1):
                job.result()
                logger.info("%d of %d chunks drawn.", done, len(jobs))
    chunks = range(source.num_chunks)
    seen = [np.load(_path(source, chunk, SEEN), mmap_mode="r") for chunk in chunks]
    masks = [np.load(_path(source, chunk, MASKS), mmap_mode="r") for chunk in chunks]
    rows = [row for chunk in chunks for row in json.loads(_path(source, chunk, SHOWN).read_text())]
    shown = [Shown(r["subject"], r["colour"], tuple((a, c) for a, c in r["features"]), r["defect"]) for r in rows]
    return Pairs(seen, masks, shown)


def draw_chunk(source: Source, settings: BackboneSettings, chunk: int) -> None:
    """Draw one chunk and write its files, what is known of the pictures last."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    look = PatchView(load_cnn(settings.cnn, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), PATCH_SIZE)
    shown: list[dict[str, object]] = []
    seen: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    for pairs in _batches(source, chunk):
        image = torch.from_numpy(np.stack([pair.picture for pair in pairs])).permute(0, 3, 1, 2).float() / 255
        seen.append(look((image - 0.5) / 0.5).half().numpy())
        masks += [_reduced(pair) for pair in pairs]
        shown += [asdict(pair.shown) for pair in pairs]
    for name, array in ((SEEN, np.concatenate(seen)), (MASKS, np.stack(masks))):
        with written_whole(_path(source, chunk, name)) as path, path.open("wb") as file:
            np.save(file, array)
    with written_whole(_path(source, chunk, SHOWN)) as path:
        path.write_text(json.dumps(shown))


def draw(source: Source, index: int) -> Pair:
    """Draw one picture of a source."""
    number = list(Shows).index(source.shows)
    rng, size = np.random.default_rng((source.seed, number, source.size, index)), (source.size, source.size)
    if source.shows is Shows.unseen_colours:
        return draw_named(rng, size, held_out=True)
    if source.shows is Shows.unseen_names:
        pair = draw_featured(rng, size, held_out=True)
        while len(pair.shown.features) < 2:  # there was no room, or a crop lost one
            pair = draw_featured(rng, size, held_out=True)
        return pair
    return draw_pair(rng, size)


def _batches(source: Source, chunk: int) -> Iterator[list[Pair]]:
    pairs: list[Pair] = []
    for index in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        pairs.append(draw(source, index))
        if len(pairs) == BATCH:
            yield pairs
            pairs = []


def _reduced(pair: Pair) -> np.ndarray:
    side = pair.picture.shape[0] // MASK_SCALE
    layers = np.zeros((1 + MOST_FEATURES, side, side), np.uint8)
    for number, mask in enumerate(pair.masks):
        layers[number] = np.round(mask.reshape(side, MASK_SCALE, side, MASK_SCALE).mean(axis=(1, 3)) * 255)
    return layers


def _path(source: Source, chunk: int, name: str) -> Path:
    return source.folder / f"{chunk:04d}.{name}"
