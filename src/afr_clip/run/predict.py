"""Score plain photographs with a trained checkpoint."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from afr_clip.data.disk.decode import decode_image
from afr_clip.data.disk.loaded import list_photographs
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.data.records import AnomalyBatch
from afr_clip.processes.signals import interruptible
from afr_clip.reports.pictures.maps import save_map
from afr_clip.reports.pictures.overlays import draw_overlay
from afr_clip.reports.record.results import ImageRow, write_scores
from afr_clip.run.build import build_engine, check_model, data_settings
from afr_clip.run.evaluate import build_scoring, provenance
from afr_clip.run.job import PredictionJob
from afr_clip.run.run import Run, finish_run, start_run
from afr_clip.settings import MapFormat
from afr_clip.training.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

WRITERS = 2
"""Threads that write; encoding a picture takes as long as scoring it."""

NUM_PRINTED = 10
"""Photographs that are named on the terminal."""


def predict(job: PredictionJob, checkpoint: Checkpoint | None) -> None:
    """Run ``afr-clip predict``.

    Args:
        job: Has the model that the checkpoint was trained with.
        checkpoint: The trained weights; ``None`` for a method that needs none.
    """
    with interruptible():
        check_model(job)
        listed = list_photographs(job.images, job.category)
        for sentence in (*listed.left_out.faults, *listed.left_out.notes):
            logger.warning("%s", sentence)
        photographs = listed.dataset
        run = start_run(job)
        run.note(checkpoint=provenance(checkpoint))
        module, towers = build_scoring(job, run, checkpoint)
        data = AnomalyDataModule(None, [photographs], data_settings(job, towers))
        paths = [sample.image_path for sample in photographs.samples]
        writer = PhotographWriter(run, photographs.root, paths, job.map_format, job.data.max_pixels)
        engine = build_engine(job, run)
        engine.predictions.sinks = (writer,)
        loader = data.target_dataloader(photographs.spec.name)
        try:
            with closing(writer), data.naming_lost_images():
                engine.trainer.predict(module, dataloaders=loader, return_predictions=False)
        finally:
            write_scores(run.folder, writer.rows)  # also those before a photograph that could not be read
        _print_highest(writer.rows)
        finish_run(run.folder)


def _print_highest(rows: Sequence[ImageRow]) -> None:
    """Print the photographs with the highest scores; all of them are in ``scores.csv``."""
    table = Table(title=f"Highest of {len(rows)} image scores; pictures are in overlays/")
    table.add_column("photograph", overflow="fold")
    table.add_column("image score", justify="right")
    for row in sorted(rows, key=lambda row: -row.image_score)[:NUM_PRINTED]:
        table.add_row(Path(row.image).name, f"{row.image_score:.3f}")
    Console(width=None if Console().is_terminal else 160).print(table)


class PhotographWriter:
    """A sink that writes map and overlay of every photograph and keeps its score; to be closed at the end.

    Args:
        run: Where they go: ``maps/`` and ``overlays/``, under the photographs' own names.
        root: The folder that holds all photographs.
    """

    def __init__(
        self, run: Run, root: Path, photographs: Iterable[Path], map_format: MapFormat, max_pixels: int
    ) -> None:
        self._max_pixels = max_pixels
        self._folder = run.folder
        self._format = map_format
        self._root = root
        self._stems = Counter(photograph.with_suffix("") for photograph in photographs)
        self._pool = ThreadPoolExecutor(WRITERS)
        self._pending: list[Future[None]] = []
        self.rows: list[ImageRow] = []

    def __call__(
        self,
        batch: AnomalyBatch,
        anomaly_map: Float[Tensor, "batch height width"],
        image_score: Float[Tensor, " batch"],
    ) -> None:
        """Begin to write one batch, while the next is scored, once the one before is written."""
        self._wait()
        for sample, shown, score in zip(batch.samples, anomaly_map.cpu(), image_score.tolist(), strict=True):
            self._pending.append(self._pool.submit(self._write, sample.image_path, shown, score))
            self.rows.append(ImageRow(sample.dataset, sample.category, str(sample.image_path), None, score))

    def close(self) -> None:
        """Wait for what is still being written."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()

    def _wait(self) -> None:
        pending, self._pending = self._pending, []
        for written in pending:
            written.result()

    def _write(self, photograph: Path, anomaly_map: Float[Tensor, "height width"], image_score: float) -> None:
        place = self._place(photograph)
        save_map(self._folder / "maps" / place, anomaly_map, self._format)
        overlay = self._folder / "overlays" / place.with_name(f"{place.name}.jpg")
        draw_overlay(
            overlay, photograph.name, decode_image(photograph, max_pixels=self._max_pixels), anomaly_map, image_score
        )

    def _place(self, photograph: Path) -> Path:
        # a.jpg and a.png in one folder keep their suffixes, so that neither overwrites the other.
        place = photograph.relative_to(self._root)
        is_shared = self._stems[photograph.with_suffix("")] > 1
        return place if is_shared else place.with_suffix("")
