"""`predict runs_on=ray`: photographs in shards, scored by actors of a Ray cluster as by a single process."""

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from afr_clip.data.disk.folders import IMAGE_SUFFIXES
from afr_clip.data.disk.loaded import PHOTOGRAPHS, UNKNOWN, find_photographs
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.feed.photographs import photograph_batches
from afr_clip.data.progress import progress_bar
from afr_clip.data.records import AnomalySample
from afr_clip.files import counted, first_few, for_shell, in_one_line, shown, shown_below, written_whole
from afr_clip.inspection.calibration import Calibration, Decision
from afr_clip.inspection.detector import Detector
from afr_clip.inspection.exported import Exported, needs_checkpoint
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.scan import InspectionError, Scanning
from afr_clip.inspection.scanner import Scanner, build_scanner
from afr_clip.models.checkpoint import Checkpoint
from afr_clip.processes.place import Place
from afr_clip.processes.signals import stoppable
from afr_clip.run.job import PredictionJob, Spread
from afr_clip.run.model import build_detector, calibration_of, check_model, provenance
from afr_clip.run.predict import category_of, judge_file, raise_outcome, refuse_changed
from afr_clip.run.run import finish_run, start_run
from afr_clip.settings import ScoringEngine

logger = logging.getLogger(__name__)

SHARDS = "shards"
"""The folder of the Parquet files, one for each shard: ``00000.parquet``."""

NAME_COLUMNS = ("path", "image", "url")
"""Columns of a Parquet file that may hold the paths of photographs; a file with one column may call it anything."""

VERSION_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "Last-Modified", "updated")
"""What file systems call the hash or the time of a file's content, the most exact first."""

CHECKERS = 16
"""Threads that ask file systems whether photographs have changed; they wait most of the time."""

Row = dict[str, Any]


@dataclass(frozen=True)
class ScoringParts:
    """What an actor builds a detector from; it was checked and chosen once, by the process that began the run."""

    job: PredictionJob
    checkpoint: Checkpoint | None
    scanning: Scanning
    engine: ScoringEngine
    calibration: Calibration | None
    identity: dict[str, Any]


@dataclass(frozen=True)
class Named:
    """A photograph: its name in the results, and the path or URL that it is read from."""

    name: str
    place: str


@dataclass(frozen=True)
class Fetched:
    """A photograph on this machine, as `version_of` names its content; why it could not be fetched, if so."""

    path: Path
    version: str
    fault: str | None = None


def predict_on_ray(job: PredictionJob, checkpoint: Checkpoint | Exported | None) -> None:
    """Run ``afr-clip predict runs_on=ray``.

    Raises:
        InspectionError: If what is asked for needs a single process.
        IncompletePredictionError: If a photograph could not be read; all others are scored by then.
        AnomalousError: If ``fail_on`` asks for it.
    """
    with stoppable("The scores of all finished shards are saved."):
        spread = job.spread
        assert spread is not None, "otherwise it runs on this machine"
        if isinstance(checkpoint, Exported):
            raise InspectionError(needs_checkpoint("runs_on=ray"))
        if missing := [name for name in ("ray", "pyarrow", "fsspec") if find_spec(name) is None]:
            msg = f"runs_on=ray needs {missing[0]}, which is not installed. Run pip install 'afr-clip[ray]'."
            raise InspectionError(msg)
        check_model(job)
        calibration = calibration_of(job, checkpoint)
        job = replace(job, category=category_of(job, checkpoint, calibration))
        photographs, faults, notes = list_places(spread.images)
        size = spread.shard_size - spread.shard_size % job.data.eval_batch_size or job.data.eval_batch_size
        shards = [photographs[start : start + size] for start in range(0, len(photographs), size)]
        run = start_run(job)
        for sentence in (*faults, *notes):
            logger.warning("%s", sentence)
        detector = build_detector(job, run, checkpoint)
        listed = hashlib.sha256("\n".join([str(size), *(one.name for one in photographs)]).encode(errors="replace"))
        run.note_unchanged("photographs", "sha256", {"sha256": listed.hexdigest(), "number": len(photographs)})
        run.note(checkpoint=provenance(checkpoint), shards={"number": len(shards), "size": size})
        scanner = detector.scanner
        assert isinstance(scanner, Scanner), "it was built from a checkpoint"
        identity = detector.identity(job.category)
        parts = ScoringParts(job, checkpoint, scanner.scanning, scanner.engine, calibration, identity)
        places = [run.folder / SHARDS / f"{number:05d}.parquet" for number in range(len(shards))]
        done = [number for number, place in enumerate(places) if _is_done(place)]
        refuse_changed(
            _changed([one for number in done for one in shards[number]], [places[number] for number in done])
        )
        if done:
            logger.info("Scored already: %d of %d shards.", len(done), len(shards))
        # What Ray tells of lost workers is for the log output, not for who reads the results.
        with redirect_stdout(sys.stderr), progress_bar("Scoring shards", len(shards)) as reached:
            waiting = sorted({*range(len(shards))} - {*done})
            scored = _scored(parts, {number: shards[number] for number in waiting}, spread)
            for num_done, (number, content) in enumerate(scored, start=len(done) + 1):
                with written_whole(places[number]) as unfinished:
                    unfinished.write_bytes(content)
                reached(num_done)
        run.finish()
        sys.stdout.write(f"scores: {run.folder / SHARDS}\n")
        finish_run(run.folder)
        _report(job, places, len(photographs), faults, run.folder)


def list_places(images: Sequence[str]) -> tuple[list[Named], tuple[str, ...], tuple[str, ...]]:
    """List what ``images`` names: files, folders, patterns, URLs that fsspec reads, and Parquet files of paths.

    Returns:
        The photographs, and what `LeftOut` names as faults and as notes.

    Raises:
        MissingDataError: If one of them names nothing or cannot be read, or a table names its paths in another column.
    """
    found, faults, notes = list[Named](), tuple[str, ...](), tuple[str, ...]()
    local = [name for name in images if "://" not in name and not name.endswith(".parquet")]
    if local:
        root, paths, left_out = find_photographs([Path(name) for name in local], "images")
        found += [Named(shown_below(root, path), str(path)) for path in paths]
        faults, notes = left_out.faults, left_out.notes
    for name in images:
        if name.endswith(".parquet"):
            places = _paths_in_table(name)
        elif "://" in name:
            places = _urls_at(name)
        else:
            continue
        if not places:
            msg = f"images must name photographs, but {shown(name)} names none. Check the place."
            raise MissingDataError(msg)
        found += [Named(shown(one), one) for one in places]
    return found, faults, notes


@contextmanager
def _reaching(place: str, what: str) -> Iterator[None]:
    """Turn what a file system raises into a sentence.

    Args:
        what: What was wanted: ``"listed"``.

    Raises:
        MissingDataError: In place of any other error.
    """
    try:
        yield
    except MissingDataError:
        raise
    except Exception as error:  # of a file system of any kind
        cause = error.__cause__ or error  # fsspec's own error may name nothing but the address
        text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        reason = in_one_line(" ".join(text.split())).rstrip(".") or type(cause).__name__
        advice = (
            "Check the address and the login, and install its package (s3fs for s3://)."
            if "://" in place
            else "Check the path and its permissions."
        )
        msg = f"{shown(place)} cannot be {what}: {reason}. {advice}"
        raise MissingDataError(msg) from error


def _urls_at(name: str) -> list[str]:
    with _reaching(name, "listed"):
        system, path = import_module("fsspec.core").url_to_fs(name)
        inside = system.glob(path) if "*" in path else system.find(path)
        if not inside and "*" not in path:
            system.info(path)  # walking leaves out what fails, and this gives the reason
        return [system.unstrip_protocol(one) for one in sorted(inside) if Path(one).suffix.lower() in IMAGE_SUFFIXES]


def _paths_in_table(name: str) -> list[str]:
    with _reaching(name, "read"), import_module("fsspec").open(name, "rb") as file:
        try:
            table = import_module("pyarrow.parquet").read_table(file)
        except (OSError, ValueError) as error:
            msg = f"{shown(name)} could not be read as Parquet: {error}. Pass a table of paths, or photographs."
            raise MissingDataError(msg) from error
    columns = table.column_names
    column = next((one for one in NAME_COLUMNS if one in columns), columns[0] if len(columns) == 1 else None)
    if column is None:
        msg = f"{shown(name)} must have a column path with the photographs, got {', '.join(columns)}. Rename it."
        raise MissingDataError(msg)
    return [str(one) for one in table.column(column).to_pylist() if one is not None]


def _scored(parts: ScoringParts, shards: dict[int, list[Named]], spread: Spread) -> Iterator[tuple[int, bytes]]:
    """Let actors score shards; yields each as the content of a Parquet file, in any order.

    A shard whose actor is lost is scored again by another.
    """
    if not shards:
        return
    ray = import_module("ray")
    data = import_module("ray.data")
    if not ray.is_initialized():
        own = {"num_cpus": spread.workers, "include_dashboard": False} if spread.address is None else {}
        ray.init(address=spread.address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    try:
        on_gpu = takes_gpu(parts.scanning.accelerator, ray.cluster_resources())
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        held = ray.put(parts)  # for as long as an actor may be restarted
        rows = [
            {"shard": number, "names": [o.name for o in one], "places": [o.place for o in one]}
            for number, one in shards.items()
        ]
        scored = data.from_items(rows, override_num_blocks=len(rows)).map(
            ShardScorer, fn_constructor_args=([held],), num_cpus=1, num_gpus=1 if on_gpu else 0,
            compute=data.ActorPoolStrategy(size=min(spread.workers, len(rows))),
        )  # fmt: skip
        for row in scored.iter_rows():
            yield int(row["shard"]), row["content"]
    finally:
        ray.shutdown()


def takes_gpu(accelerator: str, resources: Mapping[str, float]) -> bool:
    """Whether each actor gets a GPU: what the cluster has decides, and not what this machine has."""
    return accelerator.startswith("cuda") or (accelerator in ("auto", "gpu") and resources.get("GPU", 0) >= 1)


class ShardScorer:
    """An actor: holds the model, and scores one shard after another.

    The batches are those of a single process, because the last bits of a score may depend on which photographs share
    a batch.
    """

    def __init__(self, held: Sequence[Any]) -> None:
        self._parts: ScoringParts = import_module("ray").get(held[0])
        self._job = self._parts.job
        if self._job.num_threads is not None:
            torch.set_num_threads(self._job.num_threads)
        scanner = build_scanner(self._job.backbone, self._job.module, self._parts.checkpoint, self._parts.scanning)
        scanner.use(self._parts.engine)
        self._detector = Detector(
            scanner, self._job.inspection, self._job.category, self._parts.calibration, self._job.data.max_pixels
        )
        if self._detector.identity(self._job.category) != self._parts.identity:
            msg = "A machine of the cluster has another model than the one that began. Install the same versions there."
            raise InspectionError(msg)

    def __call__(self, row: Row) -> Row:
        """Score a shard."""
        named = [Named(name, place) for name, place in zip(row["names"], row["places"], strict=True)]
        with TemporaryDirectory() as scratch:
            fetched = [_fetched(one.place, Path(scratch), number) for number, one in enumerate(named)]
            records = self._records(named, fetched)
        return {"shard": row["shard"], "content": _as_parquet(records)}

    def _records(self, named: Sequence[Named], fetched: Sequence[Fetched]) -> list[Row]:
        category, scanner = self._job.category, self._detector.scanner
        samples = [AnomalySample(PHOTOGRAPHS, category, UNKNOWN, one.path, None, False, category) for one in fetched]
        batches = photograph_batches(
            samples,
            SampleReader(scanner.input_size, max_pixels=self._job.data.max_pixels),
            scanner.normalisation,
            batch_size=self._job.data.eval_batch_size,
            num_workers=0,
            done=(),
            here=Place(),
        )
        records: dict[int, Row] = {}
        for batch in batches:
            indices = batch.index.tolist()
            names = [named[index].name for index in indices]
            maps, scores, _ = scanner.score_under((category,), batch.pictures, names)
            for i, index in enumerate(indices):
                name = named[index].name
                file = fetched[index]
                fault = file.fault or batch.faults.get(index)
                found, highest = None, None
                if fault is None:
                    try:
                        whole, score = np.asarray(maps[i]), float(scores[i])
                        _, scan, found = judge_file(self._detector, name, samples[index], whole, score)
                        highest = scan.highest
                    except DataError as error:
                        fault = str(error)
                if fault is not None:
                    fault = fault.replace(str(file.path), shown(named[index].place))
                records[index] = _record(name, found, highest, fault, file.version)
        return [records[index] for index in sorted(records)]


def _fetched(place: str, scratch: Path, number: int) -> Fetched:
    """Bring a photograph onto this machine; one that cannot be fetched has a fault, and no file."""
    version = version_of(place)  # first, so that a photograph replaced meanwhile counts as changed
    if "://" not in place:
        return Fetched(Path(place), version)
    path = scratch / f"{number}{Path(place).suffix}"
    try:
        with (
            _reaching(place, "fetched"),
            import_module("fsspec").open(place, "rb") as source,
            path.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
    except MissingDataError as error:
        path.unlink(missing_ok=True)
        return Fetched(path, version, str(error))
    return Fetched(path, version)


def version_of(place: str) -> str:
    """Return what a replaced photograph changes: its size, and the time or a hash; empty if that cannot be told."""
    try:
        if "://" not in place:
            found = Path(place).stat()
            return f"{found.st_size} {found.st_mtime_ns}"
        system, path = import_module("fsspec.core").url_to_fs(place)
        facts = system.info(path)
    except Exception:  # of a file system of any kind; what it is gets known when the photograph is read
        return ""
    mark = str(next((facts[key] for key in VERSION_KEYS if facts.get(key)), ""))
    unquoted = mark.strip('"')  # listings of a store may lack the quotes that its answers have
    return f"{facts.get('size')} {unquoted}"


def _changed(photographs: Sequence[Named], places: Sequence[Path]) -> list[str]:
    """Name the photographs of finished shards that are not as they were when they were scored."""
    before = [version for place in places for version in _column(place, "version")]
    with ThreadPoolExecutor(CHECKERS) as pool:
        now = pool.map(version_of, [one.place for one in photographs])
    versions = zip(photographs, before, now, strict=True)
    return [one.name for one, was, is_now in versions if was != is_now and "" not in (was, is_now)]


def _record(name: str, found: Inspected | None, highest: float | None, fault: str | None, version: str) -> Row:
    return {
        "image": name,
        "category": None if found is None else found.category,
        "width": None if found is None else found.width,
        "height": None if found is None else found.height,
        "image_score": None if found is None else found.image_score,
        "map_maximum": highest,
        "decision": None if found is None or found.decision is None else found.decision.value,
        "threshold": None if found is None else found.threshold,
        "num_regions": None if found is None else len(found.regions),
        "regions": None if found is None else json.dumps([region.to_dict() for region in found.regions]),
        "fault": fault,
        "version": version,
    }


def _as_parquet(records: list[Row]) -> bytes:
    arrow = import_module("pyarrow")
    text, number, count = arrow.string(), arrow.float64(), arrow.int64()
    kinds = {"image_score": number, "map_maximum": number, "threshold": number}
    kinds |= {"width": count, "height": count, "num_regions": count}
    schema = arrow.schema([(name, kinds.get(name, text)) for name in records[0]])
    sink = arrow.BufferOutputStream()
    import_module("pyarrow.parquet").write_table(arrow.Table.from_pylist(records, schema), sink)
    return bytes(sink.getvalue().to_pybytes())


def _is_done(place: Path) -> bool:
    """Whether a shard is scored without a fault."""
    return place.is_file() and not _column(place, "fault")


def _column(place: Path, name: str) -> list[Any]:
    """Return the values of a column that there are."""
    column = import_module("pyarrow.parquet").read_table(place, columns=[name]).column(name)
    return [one for one in column.to_pylist() if one is not None]


def _report(job: PredictionJob, places: Sequence[Path], number: int, faults: Sequence[str], folder: Path) -> None:
    """Raise what the exit code depends on.

    Args:
        faults: Sentences about photographs that may be missing.
    """
    failed = [fault for place in places for fault in _column(place, "fault")]
    sentences = list(faults)
    if failed:
        again = for_shell(f"run_dir={folder}")
        sentences.insert(
            0,
            f"{len(failed)} of {counted(number, 'photograph')} could not be scored: "
            f"{first_few([one.rstrip('.') for one in failed])}. The column fault names all. The same command with "
            f"{again} resume=true scores their shards again.",
        )
    raise_outcome(job.fail_on, _decided(places), sentences, "The column decision")


def _decided(places: Sequence[Path]) -> Iterator[tuple[float, str, Decision | None]]:
    columns = ["image_score", "image", "decision"]
    for place in places:
        for row in import_module("pyarrow.parquet").read_table(place, columns=columns).to_pylist():
            if row["image_score"] is not None:
                yield row["image_score"], row["image"], row["decision"] and Decision(row["decision"])
