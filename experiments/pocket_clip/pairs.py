"""Draw image-caption pairs once and keep what the frozen CNN sees in them."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from afr_clip.clip.cnn import load_cnn
from afr_clip.clip.settings import BackboneSettings
from afr_clip.clip.stem import AlignedMaps
from afr_clip.data.procedural.pairs.captions import draw_pair
from afr_clip.files import written_whole

logger = logging.getLogger(__name__)

CHUNK = 512
"""Pairs per file; a chunk is drawn whole or not at all, so that an interrupted run goes on where it stopped."""

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
        held_out: Whether colours and subjects are combined as training never sees them.
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
        maps: Per chunk ``(CHUNK, C, h, w)`` in half precision, mapped from disk.
        told: What is known of each pair: caption, subject, colour, defect.
    """

    maps: list[np.ndarray]
    told: list[dict[str, str | None]]

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.told)

    def batch(self, indices: np.ndarray) -> Float[Tensor, "batch channels h w"]:
        """Read the maps of some pairs, in single precision."""
        rows = [self.maps[i // CHUNK][i % CHUNK] for i in indices]
        return torch.from_numpy(np.stack(rows)).float()


def prepare(source: Source, settings: BackboneSettings, num_workers: int) -> Pairs:
    """Draw what is not drawn yet, and open all of it.

    Args:
        source: Which pairs.
        settings: The backbone; its CNN looks at the pictures.
        num_workers: Processes that draw.

    Returns:
        The pairs.
    """
    source.folder.mkdir(parents=True, exist_ok=True)
    missing = [chunk for chunk in range(source.num_chunks) if not _told_path(source, chunk).is_file()]
    if missing:
        logger.info("Drawing %d chunks of %d pairs into %s.", len(missing), CHUNK, source.folder)
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(draw_chunk, source, settings, chunk) for chunk in missing]
            for done, job in enumerate(jobs, start=1):
                job.result()
                logger.info("%d of %d chunks drawn.", done, len(jobs))
    maps = [np.load(_maps_path(source, chunk), mmap_mode="r") for chunk in range(source.num_chunks)]
    told = [row for chunk in range(source.num_chunks) for row in json.loads(_told_path(source, chunk).read_text())]
    return Pairs(maps, told)


def draw_chunk(source: Source, settings: BackboneSettings, chunk: int) -> None:
    """Draw one chunk and write its two files, the words last."""
    torch.set_num_threads(1)
    look = AlignedMaps(load_cnn(settings.cnn, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), patch_size=8)
    told: list[dict[str, str | None]] = []
    seen: list[np.ndarray] = []
    for pictures in _batches(source, chunk, told):
        image = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        seen.append(look((image - 0.5) / 0.5).half().numpy())
    with written_whole(_maps_path(source, chunk)) as path, path.open("wb") as file:
        np.save(file, np.concatenate(seen))
    with written_whole(_told_path(source, chunk)) as path:
        path.write_text(json.dumps(told))


def _batches(source: Source, chunk: int, told: list[dict[str, str | None]]) -> Iterator[list[np.ndarray]]:
    pictures: list[np.ndarray] = []
    for index in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        rng = np.random.default_rng((source.seed, int(source.held_out), index))
        pair = draw_pair(rng, (source.size, source.size), held_out=source.held_out)
        told.append({key: value for key, value in asdict(pair).items() if key != "picture"})
        pictures.append(pair.picture)
        if len(pictures) == BATCH:
            yield pictures
            pictures = []


def _maps_path(source: Source, chunk: int) -> Path:
    return source.folder / f"{chunk:04d}.npy"


def _told_path(source: Source, chunk: int) -> Path:
    return source.folder / f"{chunk:04d}.json"
