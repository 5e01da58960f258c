"""Score plain photographs with a trained checkpoint, find regions, and decide where there is a calibration.

A photograph is done once its map, overlay and record line are on disk; they are written in that order.
"""

import csv
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from rich.table import Table
from rich.text import Text

from afr_clip.data.disk.loaded import LoadedDataset, list_photographs
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.errors import DataError
from afr_clip.data.feed.photographs import photograph_batches
from afr_clip.data.progress import progress_bar
from afr_clip.data.records import AnomalySample
from afr_clip.files import counted, first_few, for_shell, from_cell, natural_order, shown, shown_below
from afr_clip.inspection.calibration import Calibration, Decision
from afr_clip.inspection.detector import Detector, as_rgb
from afr_clip.inspection.exported import Exported
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.scan import InspectionError, Scan
from afr_clip.models.checkpoint import Checkpoint
from afr_clip.processes.place import is_first, place
from afr_clip.processes.signals import EXIT_ANOMALOUS, EXIT_SKIPPED, stoppable
from afr_clip.processes.together import from_first, gathered, require_same
from afr_clip.reports.annotations import Photographs, write_annotations
from afr_clip.reports.inspection_page import write_inspection_page, write_thumbnail
from afr_clip.reports.layout.text import terminal, told_apart
from afr_clip.reports.pictures.maps import output_places, save_map, with_suffix
from afr_clip.reports.pictures.overlays import draw_overlay
from afr_clip.reports.record.inspections import GrowingInspections, Inspections
from afr_clip.reports.record.results import SCORES, GrowingScores, ImageRow, Verdict, write_scores
from afr_clip.reports.record.run_folder import SKIPPED, RunFolderError, require_held, write_csv
from afr_clip.reports.spreadsheet import require_spreadsheets, write_spreadsheet
from afr_clip.run.job import PredictionJob
from afr_clip.run.model import build_detector, calibration_of, check_model, provenance
from afr_clip.run.run import Run, finish_run, start_run
from afr_clip.settings import AnnotationFormat, MapFormat

logger = logging.getLogger(__name__)

WRITERS = 2
"""Threads that decode, find regions and write; encoding a picture takes as long as scoring it."""

NUM_PRINTED = 10
"""Photographs that are named on the terminal."""

NUM_NAMED = 3
"""Photographs that are named in an error; all of them are in ``skipped.csv``."""

ANNOTATIONS, SPREADSHEET = "annotations", "scores.xlsx"

LISTED, LISTED_HEADER = "photographs.csv", ("image", "output", "sha256")
"""What was to be scored: each photograph, where its map and overlay lie, and its content."""

SKIPPED_HEADER = ("image", "reason")


class IncompletePredictionError(ValueError):
    """Some photographs could not be scored."""

    exit_code = EXIT_SKIPPED


class AnomalousError(ValueError):
    """Some photographs are anomalous and ``fail_on`` is set."""

    exit_code = EXIT_ANOMALOUS


def predict(job: PredictionJob, checkpoint: Checkpoint | Exported | None) -> None:
    """Run ``afr-clip predict``.

    Args:
        job: Has the model that the checkpoint was trained with.
        checkpoint: The trained weights; ``None`` for a method that needs none.

    Raises:
        IncompletePredictionError: If a photograph or a folder could not be read; all others are scored by then.
        AnomalousError: If ``fail_on`` asks for it.
    """
    with stoppable("The scores of all photographs that have a map are saved."):
        if not isinstance(checkpoint, Exported):
            check_model(job)
        if job.xlsx or (job.resume and (job.folder / SPREADSHEET).exists()):
            require_spreadsheets()
        calibration = calibration_of(job, checkpoint)  # refused before there is a folder
        if job.fail_on is not None and calibration is None:
            msg = "fail_on needs a decision, and the exported model has no calibration. Add calibration=FILE."
            raise InspectionError(msg)
        job = replace(job, category=category_of(job, checkpoint, calibration))
        listed = list_photographs(job.images, job.category)
        run = start_run(job)
        require_same({"photographs": listed.dataset.digest.sha256})
        if is_first():
            for sentence in (*listed.left_out.faults, *listed.left_out.notes):
                logger.warning("%s", sentence)
        plan = from_first(lambda: plan_scoring(run, job.map_format, listed.dataset))
        detector = build_detector(job, run, checkpoint)
        run.note(
            checkpoint=provenance(checkpoint),
            photographs={"root": str(listed.dataset.root), "number": len(plan.photographs.samples)},
        )
        writer = PhotographWriter(run, plan, detector, job)
        with closing(writer):
            _score(job, plan, detector, writer)
        failed = {name: reason for part in gathered(writer.failed) for name, reason in part.items()}
        if is_first():
            _complete(job, run, plan, detector, failed, listed.left_out.faults)


def category_of(job: PredictionJob, checkpoint: Checkpoint | Exported | None, calibration: Calibration | None) -> str:
    """Return what the photographs are called: as was typed, or as in the calibration or the exported model."""
    named = job.category
    if calibration is not None and not job.is_named:
        named = str(calibration.identity.get("category", job.category))
    elif isinstance(checkpoint, Exported) and not job.is_named and len(checkpoint.categories) == 1:
        named = checkpoint.categories[0]
    if is_first():
        _log_category(job, named)
    return named


def _log_category(job: PredictionJob, named: str) -> None:
    """Log what the photographs are called where that was not typed, or what was typed is not read."""
    if not job.module.network.reads_category:
        logger.info("module=%s does not read the category here: no name changes the scores.", job.module.name)
    elif named != job.category:
        logger.info("The photographs are called %r, as in the calibration or the exported model.", named)
    elif not job.is_named:
        logger.info(
            "No category was given, so the photographs are called %r. A name of what they show, category='metal nut', "
            "changes the sentences that they are compared with, and so the scores.",
            job.category,
        )


def _score(job: PredictionJob, plan: "Plan", detector: Detector, writer: "PhotographWriter") -> None:
    batches = photograph_batches(
        plan.photographs.samples,
        SampleReader(detector.scanner.input_size, max_pixels=job.data.max_pixels),
        detector.scanner.normalisation,
        batch_size=job.data.eval_batch_size,
        num_workers=job.data.num_workers,
        done=plan.done,
        here=place(),
    )
    with progress_bar("Scoring photographs", len(plan.images)) as reached:
        for batch in batches:
            indices = batch.index.tolist()
            names = [plan.images[index] for index in indices]
            writer.failed |= {plan.images[index]: reason for index, reason in batch.faults.items()}
            called = (job.category, *detector.other_names(job.category))
            maps, scores, by_name = detector.scanner.score_under(called, batch.pictures, names)
            for i, index in enumerate(indices):
                if index not in batch.faults and index not in plan.done:
                    others = {name: values[i] for name, values in by_name.items()}
                    writer.begin(index, np.asarray(maps[i]), float(scores[i]), others)
            writer.take()
            reached(indices[-1] + 1)


def _complete(
    job: PredictionJob,
    run: Run,
    plan: "Plan",
    detector: Detector,
    failed: Mapping[str, str],
    faults: Sequence[str],
) -> None:
    """Write what is made of all photographs together, report, and raise what the exit code depends on."""
    order = sorted(plan.images, key=lambda image: natural_order(Path(image)))
    Inspections(run.folder, [name for name in order if name not in failed]).write(run.folder)
    found = Inspections(run.folder)
    rows, with_verdict = (_row(plan, inspected) for inspected in found), detector.calibration is not None
    write_scores(run.folder, rows, with_verdict=with_verdict, names=detector.other_names(job.category))
    above = f"{shown(plan.photographs.root)}/"
    reasons = {image: reason.replace(f"{above}{image}", image) for image, reason in sorted(failed.items())}
    if reasons:
        write_csv(run.folder / SKIPPED, SKIPPED_HEADER, reasons.items())
    else:
        (run.folder / SKIPPED).unlink(missing_ok=True)
    places = dict(zip(plan.images, plan.places, strict=True))
    # A resumed run also rewrites the formats that it wrote before, so that all of them show the same photographs.
    is_resumed = run.earlier is not None
    formats = [
        one
        for one in AnnotationFormat
        if one in job.formats or (is_resumed and (run.folder / ANNOTATIONS / one.value).exists())
    ]
    if formats:
        facts = run.manifest["detector"]
        photographs = Photographs(plan.photographs.root, places, f"{facts['method']} {facts['weights'][:12]}")
        write_annotations(run.folder / ANNOTATIONS, formats, found, photographs)
    if job.xlsx or (is_resumed and (run.folder / SPREADSHEET).exists()):
        write_spreadsheet(run.folder / SPREADSHEET, found)
    overlays = {name: Path("overlays", with_suffix(output, ".jpg")) for name, output in places.items()}
    page = write_inspection_page(run.folder, found, detector.calibration, overlays)
    run.finish()
    if len(found):
        _print_highest(found)
    finish_run(run.folder, page)
    sentences = [*_describe(reasons, len(plan.images)), *faults]
    if sentences:
        again = f"The same command with {for_shell(f'run_dir={run.folder}')} resume=true scores only what is missing."
        sentences.append(again)
    decided = ((one.image_score, one.image, one.decision) for one in found)
    raise_outcome(job.fail_on, decided, sentences, SCORES)


def raise_outcome(
    fail_on: str | None,
    decided: Iterable[tuple[float, str, Decision | None]],
    sentences: Sequence[str],
    listed_in: str,
) -> None:
    """Raise what the exit code depends on.

    Args:
        decided: Image score, name and decision of each photograph that was scored; read only if ``fail_on`` is set.
        sentences: About what could not be scored.
        listed_in: What names all decisions, for the error.

    Raises:
        AnomalousError: If ``fail_on`` asks for it.
        IncompletePredictionError: If there are sentences.
    """
    if fail_on is not None:
        is_strict = fail_on == "undecided"
        bad = {Decision.anomalous, Decision.undecided} if is_strict else {Decision.anomalous}
        number, flagged = 0, list[tuple[float, str]]()
        for score, image, decision in decided:
            number += 1
            flagged += [(-score, image)] if decision in bad else []
        if flagged:
            kinds = "anomalous or undecided" if is_strict else "anomalous"
            worst = first_few([image for _, image in sorted(flagged)], NUM_NAMED)
            head = f"{len(flagged)} of {counted(number, 'photograph')} found {kinds}: {worst}. {listed_in} lists all."
            raise AnomalousError(" ".join([head, *sentences]))
    if sentences:
        raise IncompletePredictionError(" ".join(sentences))


def _row(plan: "Plan", inspected: Inspected) -> ImageRow:
    dataset = plan.photographs.spec.name
    verdict, by_name = Verdict.of(inspected), inspected.by_name
    return ImageRow(dataset, inspected.category, inspected.image, None, inspected.image_score, verdict, by_name)


@dataclass(frozen=True)
class Plan:
    """What is to be scored, and what an earlier run in the folder has done.

    Attributes:
        photographs: In the order of scoring, which a resumed run keeps.
        images: Their names in ``scores.csv``.
        places: Where their maps and overlays lie, without suffix.
        done: The indices of those that are done.
    """

    photographs: LoadedDataset
    images: Sequence[str]
    places: Sequence[Path]
    done: frozenset[int]


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

    kept = {name for name in Inspections(run.folder).images if is_done(name)} if before else set()
    changed = [name for name in sorted(kept) if hashes.get(name) not in (before[name][1], "")]
    refuse_changed(changed)
    # A photograph that cannot be read just now keeps the hash of what was scored.
    known = {name: hashes[name] or before.get(name, (Path(), ""))[1] for name in ordered}
    write_csv(run.folder / LISTED, LISTED_HEADER, ((name, place_of[name].as_posix(), known[name]) for name in ordered))
    if kept:  # in one file, whatever the number of processes was and will be
        Inspections(run.folder, sorted(kept)).write(run.folder)
    samples = tuple(photographs.samples[names[name]] for name in ordered)
    done = frozenset(i for i, name in enumerate(ordered) if name in kept)
    if done:
        logger.info("Scored already: %d of %d photographs.", len(done), len(ordered))
    return Plan(replace(photographs, samples=samples), ordered, [place_of[name] for name in ordered], done)


def refuse_changed(changed: Sequence[str]) -> None:
    """Refuse to resume a run if photographs that it scored have changed.

    Raises:
        RunFolderError: If there are any.
    """
    if changed:
        msg = (
            f"Changed or removed since scored: {counted(len(changed), 'photograph')}, {first_few(changed)}. Restore "
            f"what is missing, or choose another run_dir."
        )
        raise RunFolderError(msg)


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


def _describe(failed: Mapping[str, str], number: int) -> list[str]:
    if not failed:
        return []
    # Every reason names its photograph; what to do about it is in the file.
    shortened = (reason if ". " in image else reason.split(". ")[0].rstrip(".") for image, reason in failed.items())
    named = "; ".join(itertools.islice(shortened, NUM_NAMED))
    others = number - len(failed)
    rest = {0: "None is", 1: "The other one is"}.get(others, f"The {others} others are")
    return [
        f"{len(failed)} of {counted(number, 'photograph')} could not be scored: {named}. {SKIPPED} lists all. "
        f"{rest} in {SCORES}."
    ]


def _print_highest(found: Inspections) -> None:
    """Print the photographs with the highest scores; all of them are in ``scores.csv``."""
    scored = sorted(((one.image_score, one.image, one.decision) for one in found), key=lambda one: -one[0])
    highest = scored[:NUM_PRINTED]
    decided = any(decision is not None for _, _, decision in highest)
    table = Table(title=f"Highest of {len(scored)} image scores; pictures are in overlays/")
    table.add_column("photograph", overflow="fold")
    table.add_column("image score", justify="right")
    if decided:
        table.add_column("decision")
    digits = told_apart([score for score, _, _ in highest])
    for (_, image, decision), score in zip(highest, digits, strict=True):
        table.add_row(Text(image), score, *([] if decision is None else [decision.value]))
    terminal().print(table)


def judge_file(
    detector: Detector,
    name: str,
    photograph: AnomalySample,
    whole: Float32[np.ndarray, "rows columns"],
    image_score: float,
    *,
    by_name: Mapping[str, float] | None = None,
    root: Path | None = None,
) -> tuple[UInt8[np.ndarray, "3 height width"], Scan, Inspected]:
    """Complete and judge a photograph that was scored as a whole.

    Args:
        root: The folder that masks in a folder mirror.

    Returns:
        Its pixels, and what was found.

    Raises:
        DataError: If it can no longer be read, has no mask, or needs more memory than there is.
    """
    path, category = photograph.image_path, photograph.category
    try:
        pixels = as_rgb(path, detector.max_pixels)
        scan = detector.scanner.complete(name, pixels, whole, image_score, category, by_name)
        area = detector.area(path, scan.size, root)
        return (pixels, *detector.judge(name, scan, category, area, pixels))
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):  # PyTorch's word for no memory
            raise
        raise DataError(str(error) or type(error).__name__) from error


class PhotographWriter:
    """Finds the regions of scored photographs and writes map, overlay and record; to be closed at the end.

    Attributes:
        failed: Why photographs were not scored, by name.
    """

    def __init__(self, run: Run, plan: Plan, detector: Detector, job: PredictionJob) -> None:
        self.failed: dict[str, str] = {}
        self._plan = plan
        self._detector = detector
        self._job = job
        self._folder = run.folder
        # Scores of the others reach scores.csv at the end; until then they are in the record of each process.
        kept = Inspections(run.folder, [plan.images[index] for index in sorted(plan.done)])
        rows, decided = (_row(plan, one) for one in kept), detector.calibration is not None
        names = detector.other_names(job.category)
        self._scores = GrowingScores(run.folder, rows, with_verdict=decided, names=names) if is_first() else None
        self._record = GrowingInspections(run.folder, place().rank)
        self._pool = ThreadPoolExecutor(WRITERS)
        self._pending: list[Future[Inspected | None]] = []
        self._before: list[Future[Inspected | None]] = []

    def begin(
        self, index: int, whole: Float32[np.ndarray, "rows columns"], image_score: float, by_name: Mapping[str, float]
    ) -> None:
        """Begin to complete and write a photograph, while the next batch is scored."""
        self._pending.append(self._pool.submit(self._write, index, whole, image_score, by_name))

    def take(self) -> None:
        """Record the photographs of the batch before the last, which are written by now.

        Raises:
            RunFolderError: If the run folder was removed.
        """
        require_held(self._folder)
        self._record_all(self._before)
        self._before, self._pending = self._pending, []

    def close(self) -> None:
        """Wait for what is still being written, and record all that could be."""
        failures: list[Exception] = []
        waiting = [*self._before, *self._pending]
        while waiting:
            try:
                self._record_all(waiting)
            except Exception as error:
                failures.append(error)
                waiting.pop(0)
        self._pool.shutdown()
        self._record.close()
        if self._scores is not None:
            self._scores.close()
        if failures:
            raise failures[0]

    def _record_all(self, written: list[Future[Inspected | None]]) -> None:
        """Record photographs and take them off the list, so that none is recorded twice if a later one fails."""
        while written:
            inspected = written[0].result()
            if inspected is not None:
                self._record.append(inspected)
                if self._scores is not None:
                    self._scores.append([_row(self._plan, inspected)])
            written.pop(0)

    def _write(
        self, index: int, whole: Float32[np.ndarray, "rows columns"], image_score: float, by_name: Mapping[str, float]
    ) -> Inspected | None:
        name, output = self._plan.images[index], self._plan.places[index]
        photographs = self._plan.photographs
        try:
            pixels, scan, inspected = judge_file(
                *(self._detector, name, photographs.samples[index], whole, image_score),
                by_name=by_name,
                root=photographs.root,
            )
        except DataError as error:
            self.failed[name] = str(error)
            return None
        save_map(self._folder / "maps" / output, torch.from_numpy(scan.anomaly_map), self._job.map_format)
        write_thumbnail(self._folder, name, pixels.transpose(1, 2, 0))
        overlay = self._folder / "overlays" / with_suffix(output, ".jpg")
        draw_overlay(overlay, name, torch.from_numpy(pixels), scan.anomaly_map, inspected, self._detector.calibration)
        return inspected
