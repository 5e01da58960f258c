"""Score plain photographs with a trained checkpoint.

A photograph is done when its score, map and overlay, which are written in this order, are on disk.
"""

import csv
import itertools
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from rich.table import Table
from rich.text import Text
from torch import Tensor

from afr_clip.data.disk.decode import decode_image
from afr_clip.data.disk.loaded import LoadedDataset, list_photographs
from afr_clip.data.errors import DataError
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.data.records import AnomalyBatch
from afr_clip.files import counted, first_few, for_shell, from_cell, natural_order, shown, shown_below
from afr_clip.models.checkpoint import Checkpoint
from afr_clip.processes.signals import stoppable
from afr_clip.processes.stopping import StopWhenAsked
from afr_clip.reports.layout.text import terminal, told_apart
from afr_clip.reports.pictures.maps import output_places, save_map, with_suffix
from afr_clip.reports.pictures.overlays import draw_overlay
from afr_clip.reports.record.results import SCORES, GrowingScores, ImageRow, read_scores, write_scores
from afr_clip.reports.record.run_folder import RunFolderError, require_held, write_csv
from afr_clip.run.build import build_engine, check_model, data_settings
from afr_clip.run.evaluate import build_scoring, provenance
from afr_clip.run.job import PredictionJob
from afr_clip.run.run import Run, finish_run, start_run
from afr_clip.settings import MapFormat

logger = logging.getLogger(__name__)

WRITERS = 2
"""Threads that write; encoding a picture takes as long as scoring it."""

NUM_PRINTED = 10
"""Photographs that are named on the terminal."""

NUM_NAMED = 3
"""Photographs that are named in an error; all of them are in ``failed.csv``."""

LISTED, LISTED_HEADER = "photographs.csv", ("image", "output", "sha256")
"""What was to be scored: each photograph, where its map and overlay lie, and its content."""

FAILED, FAILED_HEADER = "failed.csv", ("image", "reason")
"""Photographs that could not be scored."""


class IncompletePredictionError(ValueError):
    """Some photographs could not be scored."""


def predict(job: PredictionJob, checkpoint: Checkpoint | None) -> None:
    """Run ``afr-clip predict``.

    Args:
        job: Has the model that the checkpoint was trained with.
        checkpoint: The trained weights; ``None`` for a method that needs none.

    Raises:
        IncompletePredictionError: If a photograph or a folder could not be read; all others are scored by then.
    """
    with stoppable("The scores of all photographs that have a map are saved."):
        check_model(job)
        listed = list_photographs(job.images, job.category)
        run = start_run(job)
        for sentence in (*listed.left_out.faults, *listed.left_out.notes):
            logger.warning("%s", sentence)
        plan = plan_scoring(run, job.map_format, listed.dataset)
        run.note(
            checkpoint=provenance(checkpoint),
            photographs={"root": str(listed.dataset.root), "number": len(plan.photographs.samples)},
        )
        writer = PhotographWriter(run, plan, job.map_format, job.data.max_pixels)
        with closing(writer):
            _score(job, run, checkpoint, writer)
        rows = sorted(writer.rows, key=lambda row: natural_order(Path(row.image)))
        write_scores(run.folder, rows)
        above = f"{shown(listed.dataset.root)}/"
        failed = {image: reason.replace(f"{above}{image}", image) for image, reason in sorted(writer.failed.items())}
        write_csv(run.folder / FAILED, FAILED_HEADER, failed.items())
        if not failed:
            (run.folder / FAILED).unlink()
        run.finish()
        _print_highest(rows)
        finish_run(run.folder)
        faults = [*_describe(failed, len(plan.images)), *listed.left_out.faults]
        if faults:
            again = (
                f"The same command with {for_shell(f'run_dir={run.folder}')} resume=true scores only what is missing."
            )
            msg = f"{' '.join(faults)} {again}"
            raise IncompletePredictionError(msg)


@dataclass(frozen=True)
class Plan:
    """What is to be scored, and what an earlier run in the folder has done.

    Attributes:
        photographs: In the order of scoring, which a resumed run keeps.
        images: Their names in ``scores.csv``.
        places: Where their maps and overlays lie, without suffix.
        done: The rows of those that are done, by index.
    """

    photographs: LoadedDataset
    images: Sequence[str]
    places: Sequence[Path]
    done: Mapping[int, ImageRow]


def plan_scoring(run: Run, map_format: MapFormat, photographs: LoadedDataset) -> Plan:
    """Decide what is scored, and record it in the run folder.

    Raises:
        RunFolderError: If photographs that are done have changed or gone, or maps had another format.
    """
    before = _read_listed(run.folder) if run.earlier is not None else {}
    if before and run.earlier is not None:
        recorded = {
            "map_format": run.earlier["config"].get("map_format"),
            "root": (run.earlier.get("photographs") or {}).get("root"),
        }
        for key, value in {"map_format": map_format.value, "root": str(photographs.root)}.items():
            if recorded[key] != value:
                msg = (
                    f"A resumed run must keep its {key}, but it was {recorded[key]} and is {value}. Run the same "
                    f"command, or choose another run_dir."
                )
                raise RunFolderError(msg)
    names = {shown_below(photographs.root, sample.image_path): i for i, sample in enumerate(photographs.samples)}
    new = [name for name in names if name not in before]
    paths = [photographs.samples[names[name]].image_path.relative_to(photographs.root) for name in new]
    taken = [place for place, _ in before.values()]
    places = output_places([path.with_suffix("") for path in paths], paths, taken)
    place_of = {name: place for name, (place, _) in before.items()} | dict(zip(new, places, strict=True))
    ordered = [name for name in before if name in names] + new
    hashes = {name: photographs.digest.images[names[name]] for name in ordered}

    def is_done(name: str) -> bool:
        files = (
            run.folder / "maps" / with_suffix(place_of[name], f".{map_format.value}"),
            run.folder / "overlays" / with_suffix(place_of[name], ".jpg"),
        )
        return name in before and all(file.is_file() for file in files)

    rows = {row.image: row for row in read_scores(run.folder) if is_done(row.image)} if before else {}
    changed = [name for name in rows if hashes.get(name) not in (before[name][1], "")]
    if changed:
        msg = (
            f"Changed or removed since scored: {counted(len(changed), 'photograph')}, {first_few(changed)}. Restore "
            f"what is missing, or choose another run_dir."
        )
        raise RunFolderError(msg)
    write_csv(run.folder / LISTED, LISTED_HEADER, ((name, place_of[name].as_posix(), hashes[name]) for name in ordered))
    samples = tuple(photographs.samples[names[name]] for name in ordered)
    done = {i: rows[name] for i, name in enumerate(ordered) if name in rows}
    if done:
        logger.info("Scored already: %d of %d photographs.", len(done), len(ordered))
    return Plan(replace(photographs, samples=samples), ordered, [place_of[name] for name in ordered], done)


def _read_listed(folder: Path) -> dict[str, tuple[Path, str]]:
    """Read where the files of each photograph lie, and what its content was."""
    path = folder / LISTED
    if not path.exists():
        if (folder / SCORES).exists():
            msg = (
                f"{folder} holds scores of a version that cannot resume: there is no {LISTED}. Choose another run_dir."
            )
            raise RunFolderError(msg)
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        _, *table = csv.reader(file)
    return {from_cell(image): (Path(from_cell(output)), sha256) for image, output, sha256 in table}


def _score(job: PredictionJob, run: Run, checkpoint: Checkpoint | None, writer: "PhotographWriter") -> None:
    module, towers = build_scoring(job, run, checkpoint)
    photographs, done = writer.plan.photographs, writer.plan.done
    data = AnomalyDataModule(None, [photographs], data_settings(job, towers))
    engine = build_engine(job, run, callbacks=[StopWhenAsked()])
    engine.predictions.sinks = (writer,)
    if len(done) == len(photographs.samples):
        return
    loader = data.photograph_dataloader(photographs.spec.name, done)
    with data.naming_lost_images():
        engine.trainer.predict(module, dataloaders=loader, return_predictions=False)


def _describe(failed: Mapping[str, str], number: int) -> list[str]:
    if not failed:
        return []
    # Every reason names its photograph; what to do about it is in the file.
    shortened = (reason if ". " in image else reason.split(". ")[0].rstrip(".") for image, reason in failed.items())
    named = "; ".join(itertools.islice(shortened, NUM_NAMED))
    others = number - len(failed)
    rest = {0: "None is", 1: "The other one is"}.get(others, f"The {others} others are")
    return [
        f"{len(failed)} of {counted(number, 'photograph')} could not be scored: {named}. {FAILED} lists all. "
        f"{rest} in scores.csv."
    ]


def _print_highest(rows: Sequence[ImageRow]) -> None:
    """Print the photographs with the highest scores; all of them are in ``scores.csv``."""
    table = Table(title=f"Highest of {len(rows)} image scores; pictures are in overlays/")
    table.add_column("photograph", overflow="fold")
    table.add_column("image score", justify="right")
    highest = sorted(rows, key=lambda row: -row.image_score)[:NUM_PRINTED]
    for row, score in zip(highest, told_apart([row.image_score for row in highest]), strict=True):
        table.add_row(Text(row.image), score)
    terminal().print(table)


class PhotographWriter:
    """A sink that writes score, map and overlay of every photograph; to be closed at the end.

    Args:
        run: Where they go: ``scores.csv``, ``maps/`` and ``overlays/``.

    Attributes:
        rows: What was scored, now or before.
        failed: Why other photographs were not, by name.
    """

    def __init__(self, run: Run, plan: Plan, map_format: MapFormat, max_pixels: int) -> None:
        self.plan = plan
        self.failed: dict[str, str] = {}
        self._folder = run.folder
        self._format = map_format
        self._max_pixels = max_pixels
        self._rows = dict(plan.done)
        self._scores = GrowingScores(run.folder, plan.done.values())
        self._pool = ThreadPoolExecutor(WRITERS)
        self._pending: list[Future[None]] = []

    @property
    def rows(self) -> list[ImageRow]:
        """The rows of all photographs that were scored, in the order of scoring."""
        return [self._rows[index] for index in sorted(self._rows) if self.plan.images[index] not in self.failed]

    def __call__(
        self,
        batch: AnomalyBatch,
        anomaly_map: Float[Tensor, "batch height width"],
        image_score: Float[Tensor, " batch"],
    ) -> None:
        """Begin to write one batch, while the next is scored, once the one before is written."""
        self._wait()
        require_held(self._folder)
        self.failed |= {self.plan.images[index]: reason for index, reason in batch.faults.items()}
        positions = {
            index: position
            for position, index in enumerate(batch.index.tolist())
            if index not in batch.faults and index not in self.plan.done
        }
        scores, maps = image_score.tolist(), anomaly_map.cpu()
        new = {
            index: ImageRow(sample.dataset, sample.category, self.plan.images[index], None, scores[position])
            for index, position in positions.items()
            for sample in (batch.samples[position],)
        }
        self._scores.append(new.values())
        self._rows |= new
        for index, position in positions.items():
            path = batch.samples[position].image_path
            self._pending.append(self._pool.submit(self._write, index, path, maps[position], scores[position]))

    def close(self) -> None:
        """Wait for what is still being written."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()
            self._scores.close()

    def _wait(self) -> None:
        pending, self._pending = self._pending, []
        for written in pending:
            written.result()

    def _write(self, index: int, photograph: Path, anomaly_map: Float[Tensor, "height width"], score: float) -> None:
        name, place = self.plan.images[index], self.plan.places[index]
        save_map(self._folder / "maps" / place, anomaly_map, self._format)
        try:
            pixels = decode_image(photograph, max_pixels=self._max_pixels)
        except DataError as error:  # it was whole when it was scored
            self.failed[name] = str(error)
            return
        draw_overlay(self._folder / "overlays" / with_suffix(place, ".jpg"), name, pixels, anomaly_map, score)
