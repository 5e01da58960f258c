"""Draw image-caption pairs once, and store the frozen CNN's features and the defect masks."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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
from drawn_anomalies.pairs.pair import Pair, draw_named, draw_pair

logger = logging.getLogger(__name__)

SEEN, MASKS, TOLD = "seen.npy", "masks.npy", "told.json"
"""A chunk's files; the captions are written last."""

CHUNK = 512
"""Pairs per file; a chunk is drawn whole or not at all, so that an interrupted run can resume."""

PATCH_SIZE = 8
"""Side of a patch in pixels, as in pocket's architecture."""

MASK_SCALE = 4
"""Pixels per side of a cell of the masks that are kept: four cells per patch."""

BATCH = 32
"""Pictures per forward pass of the CNN."""


@dataclass(frozen=True)
class Source:
    """Which pairs are drawn.

    Attributes:
        folder: Where they are kept.
        num_pairs: How many; rounded up to whole chunks.
        size: Side of a picture in pixels.
        seed: Another seed gives other pairs throughout.
        held_out: Whether only named subjects are shown, in colours in which training never sees them.
    """

    folder: Path
    num_pairs: int
    size: int
    seed: int
    held_out: bool

    @property
    def num_chunks(self) -> int:
        """Files that hold the pairs."""
        return -(-self.num_pairs // CHUNK)


@dataclass(frozen=True)
class Pairs:
    """Pairs as the training reads them.

    Attributes:
        seen: Per chunk what is seen of each patch, ``(CHUNK, C, h, w)`` in half precision, mapped from disk.
        masks: Per chunk the share of each cell that a defect covers, ``(CHUNK, 2 h, 2 w)``, 255 for all of it.
        told: What is known of each pair: caption, subject, colour, defect.
    """

    seen: list[np.ndarray]
    masks: list[np.ndarray]
    told: list[dict[str, str | None]]

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.told)

    def batch(self, indices: np.ndarray) -> Float[Tensor, "batch channels h w"]:
        """Read the features of some pairs, in single precision."""
        return torch.from_numpy(_rows(self.seen, indices)).float()

    def masks_of(self, indices: np.ndarray) -> Float[Tensor, "batch rows columns"]:
        """Read the masks of some pairs: shares in [0, 1]."""
        return torch.from_numpy(_rows(self.masks, indices)).float() / 255


def _rows(chunks: list[np.ndarray], indices: np.ndarray) -> np.ndarray:
    return np.stack([chunks[i // CHUNK][i % CHUNK] for i in indices])


def prepare(source: Source, settings: BackboneSettings, num_workers: int) -> Pairs:
    """Draw what is missing, and open everything.

    Args:
        source: Which pairs.
        settings: The backbone; its CNN looks at the pictures.
        num_workers: Processes that draw.

    Returns:
        The pairs.
    """
    source.folder.mkdir(parents=True, exist_ok=True)
    missing = [chunk for chunk in range(source.num_chunks) if not _path(source, chunk, TOLD).is_file()]
    if missing:
        logger.info("Drawing %d chunks of %d pairs into %s.", len(missing), CHUNK, source.folder)
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(draw_chunk, source, settings, chunk) for chunk in missing]
            for done, job in enumerate(jobs, start=1):
                job.result()
                logger.info("%d of %d chunks drawn.", done, len(jobs))
    seen = [np.load(_path(source, chunk, SEEN), mmap_mode="r") for chunk in range(source.num_chunks)]
    masks = [np.load(_path(source, chunk, MASKS)) for chunk in range(source.num_chunks)]
    told = [row for chunk in range(source.num_chunks) for row in json.loads(_path(source, chunk, TOLD).read_text())]
    return Pairs(seen, masks, told)


def draw_chunk(source: Source, settings: BackboneSettings, chunk: int) -> None:
    """Draw one chunk and write its files, the words last."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    look = PatchView(load_cnn(settings.cnn, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), PATCH_SIZE)
    told: list[dict[str, str | None]] = []
    seen: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    for pairs in _batches(source, chunk):
        image = torch.from_numpy(np.stack([pair.picture for pair in pairs])).permute(0, 3, 1, 2).float() / 255
        seen.append(look((image - 0.5) / 0.5).half().numpy())
        masks += [_reduced(pair.mask) for pair in pairs]
        told += [{key: getattr(pair, key) for key in ("caption", "subject", "colour", "defect")} for pair in pairs]
    for name, array in ((SEEN, np.concatenate(seen)), (MASKS, np.stack(masks))):
        with written_whole(_path(source, chunk, name)) as path, path.open("wb") as file:
            np.save(file, array)
    with written_whole(_path(source, chunk, TOLD)) as path:
        path.write_text(json.dumps(told))


def _batches(source: Source, chunk: int) -> Iterator[list[Pair]]:
    pairs: list[Pair] = []
    for index in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        rng, size = np.random.default_rng((source.seed, int(source.held_out), index)), (source.size, source.size)
        pairs.append(draw_named(rng, size, held_out=True) if source.held_out else draw_pair(rng, size))
        if len(pairs) == BATCH:
            yield pairs
            pairs = []


def _reduced(mask: np.ndarray) -> np.ndarray:
    cells = mask.reshape(mask.shape[0] // MASK_SCALE, MASK_SCALE, mask.shape[1] // MASK_SCALE, MASK_SCALE)
    return np.round(cells.mean(axis=(1, 3)) * 255).astype(np.uint8)


def _path(source: Source, chunk: int, name: str) -> Path:
    return source.folder / f"{chunk:04d}.{name}"
